"""Every figure says where it comes from: in text and JSON, in the words of one module."""

from __future__ import annotations

import ast
import csv
import json
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from nmsat.dataflow.contract.config import preset
from nmsat.dataflow.mapping.choose import best_tiling
from nmsat.reports.commands.train import _text as train_text
from nmsat.reports.commands.workload_run import COMMAND as WORKLOAD_RUN
from nmsat.reports.pages.workload_page import INTRODUCTION, _planned
from nmsat.sim.api import gemm, simulate
from nmsat.sim.array.fast import simulate_product
from nmsat.sim.results.provenance import MEANING, Source, told

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.conftest import Outcome

    Call = Callable[[str], Outcome]

ROOT = Path(__file__).resolve().parent.parent.parent
CHANNELS = "memory.channels is 4; the machine in RTL is built for 1"


def both(call: Call, line: str) -> tuple[dict[str, Any], str]:
    """Return what a command says with and without --json."""
    values, text = call(f"{line} --json"), call(line)
    assert (values.code, text.code) == (0, 0)
    return json.loads(values.out), text.out


def test_every_source_has_its_words_once() -> None:
    assert set(MEANING) == set(Source)
    assert all(len(told(source)) <= 120 for source in Source)
    words = {str(source) for source in Source} | set(MEANING.values())
    for path in (*ROOT.glob("reports/**/*.py"), *ROOT.glob("sim/*.py"), ROOT / "nmsat.py"):
        if path.name == "provenance.py":
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        texts = {
            node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)
        }
        assert not words & texts, path


@pytest.mark.exact
def test_a_product_with_memory_is_the_machines_and_names_the_program(call: Call) -> None:
    values, text = both(call, "gemm 98 288 64 --pattern 2:8 --config small --memory")
    command = "nmsat program 98 288 64 --pattern 2:8 --config small"
    program = json.loads(call(f"{command.removeprefix('nmsat ')} --json").out)
    assert (values["cycles"], values["source"]) == (program["cycles"], Source.MACHINE)
    assert values["counters"] == program["counters"]
    assert (values["planned"], values["machine_command"], values["machine_command_without"]) == ([], command, [])
    assert f"{values['cycles']}  {Source.MACHINE}\n" in text
    assert told(Source.MACHINE) in text
    assert f"values and instructions: {command}" in text


@pytest.mark.exact
@pytest.mark.parametrize(
    ("line", "command", "without"),
    [
        ("40 70 40 --pattern 2:8", "40 70 40 --pattern 2:8 --config tiny", []),
        (
            "40 70 40 --pattern 2:8 --dataflow ws --memory",
            "40 70 40 --pattern 2:8 --config tiny --dataflow ws",
            [],
        ),
        ("40 70 40 --stage wu --config small", "40 70 40 --transposed --config small", []),
        (
            "40 64 24 --pattern 2:8 --stage wu --dataflow ws --seed 5 --config small",
            "40 64 24 --transposed --config small --seed 5",
            ["--pattern 2:8", "--dataflow ws"],
        ),
        (
            "40 70 40 --stage wu --dataflow ws",
            "40 70 40 --transposed --config tiny",
            ["--dataflow ws"],
        ),  # the machine has no such mapping
        ("9 9 9 --stage bp", "9 9 9 --config tiny", ["--stage bp"]),
        ("9 9 9 --seed 7 --dataflow os", "9 9 9 --config tiny --dataflow os --seed 7", []),
    ],
)
def test_the_named_command_gives_the_machines_figure(call: Call, line: str, command: str, without: list[str]) -> None:
    values, text = both(call, f"gemm {line}")
    source = Source.MACHINE if "--memory" in line else Source.ARRAY
    assert values["source"] == source
    assert told(source) in text
    assert "planned" not in text
    assert values["machine_command"] == f"nmsat program {command}"
    assert [words.partition(" (")[0] for words in values["machine_command_without"]] == without
    assert ("not in that command: " in text) == bool(without)
    machine, said = both(call, f"program {command}")
    assert machine["source"] == Source.MACHINE
    assert told(Source.MACHINE) in said
    assert "memory (one channel)" in said
    assert machine["cycles"] == values["cycles"] if "--memory" in line else machine["cycles"] > values["cycles"]


def test_a_machine_with_two_ports_names_both_channels(call: Call) -> None:
    values, text = both(call, "program 8 8 8 --config tiny-2")
    assert values["memory_channels"] == 2
    assert "memory (2 channels, one a port)" in text


def test_a_product_too_large_for_the_machine_says_so(call: Call) -> None:
    values, text = both(call, "gemm 4096 4096 4096 --config vcu1525")
    assert values["machine_command"] is None
    assert "nmsat program takes smaller products" in text


@pytest.mark.usefixtures("estimated")
def test_networks(call: Call, tmp_path: Path) -> None:
    values, text = both(call, f"model resnet9 --batch 2 --timeline {tmp_path / 't.json'}")
    assert (values["source"], values["planned"], values["memory_channels"]) == (Source.MACHINE, [], 1)
    assert told(Source.MACHINE) in text
    assert json.loads((tmp_path / "t.json").read_text())["otherData"]["source"] == Source.MACHINE


def test_every_line_of_tiles_says_its_source(call: Call, tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    assert call(f"gemm 8 16 8 --tiles {path}").code == 0
    with path.open(newline="") as file:
        assert {row["source"] for row in csv.DictReader(file)} == {str(Source.ARRAY)}


def test_a_register_trace_says_its_source(call: Call, tmp_path: Path) -> None:
    path = tmp_path / "t.vcd"
    assert call(f"gemm 8 16 8 --vcd {path}").code == 0
    assert told(Source.ARRAY) in path.read_text()


@pytest.mark.parametrize("option", ["--tiles", "--vcd"])
def test_what_shows_the_array_is_refused_of_the_machine(call: Call, tmp_path: Path, option: str) -> None:
    outcome = call(f"gemm 8 16 8 --memory {option} {tmp_path / 'x'}")
    assert (outcome.code, outcome.out, outcome.err.count("\n")) == (2, "", 1)
    assert option in outcome.err
    assert not (tmp_path / "x").exists()


@pytest.mark.usefixtures("estimated")
def test_workloads(call: Call) -> None:
    assert WORKLOAD_RUN.summary
    values, text = both(call, "workload run sparsifiner --scale paper")
    assert values["source"] == values["cycles_source"] == Source.ARRAY
    assert values["with_memory"]["source"] == Source.MACHINE
    assert values["paper"] in text
    assert f"{values['cycles']} on SAT (array alone)" in text
    assert f"speed-up {values['with_memory']['speedup']:.2f} ({Source.MACHINE})" in text
    assert told(Source.ARRAY) in text
    assert told(Source.MACHINE) in text
    sources = (Source.ARRAY, Source.MACHINE, Source.ESTIMATE)
    page = INTRODUCTION.format(array=told(sources[0]), machine=told(sources[1]), estimate=told(sources[2]))
    assert all(source in page for source in sources)


def test_a_workload_by_the_estimate_says_so(call: Call) -> None:
    values, text = both(call, "workload run sparsifiner --scale paper --estimate")
    memory = values["with_memory"]
    assert memory["source"] == Source.ESTIMATE
    assert not {"causes", "bytes"} & memory.keys()
    assert f"speed-up {memory['speedup']:.2f} ({Source.ESTIMATE})" in text
    assert told(Source.ESTIMATE) in text


def test_what_is_planned_stands_on_the_page() -> None:
    assert _planned(preset("vcu1525"), preset("tiny").replace(name="odd", rows=12)).startswith(
        "odd: planned, not built: "
    )


def test_committed_pages_say_it() -> None:
    for name in ("workloads.md", "accuracy.md"):
        text = " ".join((ROOT / "reports/tables" / name).read_text(encoding="utf-8").split())
        assert told(Source.MACHINE) in text
        assert "schedule model" not in text


def test_training(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    values, text = both(call, "train --network mlp --epochs 1 --steps 1 --config tiny")
    assert values["sat"]["source"] == Source.MACHINE
    assert told(Source.MACHINE) in text
    for backend, source in (("sim", Source.MACHINE), ("rtl", Source.RTL)):
        from nmsat.reports.work import training

        assert training.MEASURED[backend] is source
        measured = {**values, "backend": backend, "cycles_per_step": 35042, "cycles_per_step_source": source}
        assert f"35042 cycles per step, {told(source)}" in train_text(measured)


def test_a_backend_on_sat_says_what_it_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    from nmsat.algorithms.training.recipes import RECIPES
    from nmsat.algorithms.training.train import TrainResult
    from nmsat.reports.work import training

    result = SimpleNamespace(epochs=[], losses=[1.0], weights_sha256="w", losses_sha256="l", cycles=[5, 7, 9])
    assert {"cycles"} <= set(TrainResult.__dataclass_fields__)
    monkeypatch.setitem(training.BACKENDS, "sim", lambda job, progress: result)
    monkeypatch.setattr(training, "sat_step", lambda config, machine: {})
    found = training.train_run(training.Job(RECIPES["digits-sat"], preset("small")), "sim")
    assert (found["cycles_per_step"], found["cycles_per_step_source"]) == (7, Source.MACHINE)


@pytest.mark.usefixtures("little_to_measure")
def test_bench_and_engines_say_what_ran(call: Call) -> None:
    values, text = both(call, "bench --no-rtl")
    assert values["source"]["gears"] == Source.MACHINE
    assert told(Source.MACHINE) in text


def test_results_of_the_library_say_it_too() -> None:
    product = gemm(40, 80, 40, "2:8")
    odd = preset("tiny").replace(name="odd", rows=12, columns=20, wuve_lanes=8)
    for memory, source in ((False, Source.ARRAY), (True, Source.MACHINE)):
        assert simulate(product, "tiny", memory=memory).source is source
        assert simulate(product, "tiny", memory=memory).planned == ()
    result = simulate(product, odd)
    assert result.record()["source"] == Source.ARRAY
    assert len(result.planned) == 3
    assert simulate_product(best_tiling(odd, 40, 80, 40, None)).record()["planned"] == list(odd.planned)
    assert result.planned[0] == "rows is 12; the machine in RTL is built for 1, 2, 4, 8, 16 or 32"
