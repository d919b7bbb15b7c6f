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
from nmsat.sim.results.provenance import MEANING, Source, planned_text, told

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


def test_a_product_with_memory_is_the_models_and_names_the_machines_command(call: Call) -> None:
    """This product: 31,045 cycles of the model, 64,475 of the machine."""
    values, text = both(call, "gemm 784 1152 128 --pattern 2:8 --config vcu1525 --memory")
    assert (values["cycles"], values["source"]) == (31045, "schedule model")
    assert values["planned"] == [CHANNELS]
    command = "nmsat program 784 1152 128 --pattern 2:8 --config vcu1525"
    assert values["machine_command"] == command
    assert "cycles                     31045  schedule model\n" in text
    assert told(Source.MODEL) in text
    assert f"planned, not built: {CHANNELS}\n" in text
    assert f"the machine's cycles: {command}" in text


@pytest.mark.parametrize(
    ("line", "command", "without"),
    [
        ("40 70 40 --pattern 2:8", "40 70 40 --pattern 2:8 --config tiny", []),
        (
            "40 70 40 --pattern 2:8 --dataflow ws --memory",
            "40 70 40 --pattern 2:8 --config tiny --dataflow ws",
            ["--memory"],
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
    source = Source.MODEL if "--memory" in line else Source.ARRAY
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
    assert machine["cycles"] > values["cycles"]


def test_a_product_too_large_for_the_machine_says_so(call: Call) -> None:
    values, text = both(call, "gemm 4096 4096 4096 --config vcu1525")
    assert values["machine_command"] is None
    assert "nmsat program takes smaller products" in text


def test_networks(call: Call, tmp_path: Path) -> None:
    files = f"--timeline {tmp_path / 't.json'} --listing {tmp_path / 'p.txt'} --program {tmp_path / 'p.json'}"
    values, text = both(call, f"model resnet9 --batch 2 {files}")
    assert (values["source"], values["planned"]) == (Source.MODEL, [CHANNELS])
    assert told(Source.MODEL) in text
    assert planned_text([CHANNELS]) in text
    assert json.loads((tmp_path / "t.json").read_text())["otherData"]["source"] == Source.MODEL
    assert json.loads((tmp_path / "p.json").read_text())["source"] == Source.MODEL
    assert (tmp_path / "p.txt").read_text().startswith(f"# program of the {told(Source.MODEL)}\n000000  ")
    small, text = both(call, "model resnet9 --batch 2 --config small")
    assert (small["source"], small["planned"]) == (Source.MODEL, [])
    assert "planned" not in text


@pytest.mark.parametrize(
    ("line", "source"),
    [
        ("gemm 8 16 8", Source.ARRAY),
        ("gemm 8 16 8 --memory", Source.MODEL),
        ("model resnet9 --batch 1 --config small", Source.MODEL),
    ],
)
def test_every_line_of_tiles_says_its_source(call: Call, tmp_path: Path, line: str, source: Source) -> None:
    path = tmp_path / "t.csv"
    assert call(f"{line} --tiles {path}").code == 0
    with path.open(newline="") as file:
        assert {row["source"] for row in csv.DictReader(file)} == {str(source)}


def test_a_register_trace_says_its_source(call: Call, tmp_path: Path) -> None:
    path = tmp_path / "t.vcd"
    assert call(f"gemm 8 16 8 --memory --vcd {path}").code == 0
    assert told(Source.ARRAY) in path.read_text()


def test_a_number_too_large_for_the_words_of_a_program_is_one_line(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: object) -> None:
        raise ValueError("field 'bytes' of operand word is 1; it must be from 0 to 0")

    monkeypatch.setattr("nmsat.dataflow.schedule.program.Program.record", refuse)
    outcome = call(f"model resnet9 --batch 2 --program {tmp_path / 'p.json'}")
    assert (outcome.code, outcome.err.count("\n")) == (2, 1)


def test_workloads(call: Call) -> None:
    assert WORKLOAD_RUN.summary
    values, text = both(call, "workload run sparsifiner --scale paper")
    assert values["source"] == values["cycles_source"] == Source.ARRAY
    assert values["with_memory"]["source"] == Source.MODEL
    assert values["paper"] in text
    assert values["with_memory"]["planned"] == [CHANNELS]
    assert f"{values['cycles']} on SAT (array alone)" in text
    assert f"speed-up {values['with_memory']['speedup']:.2f} (schedule model)" in text
    assert told(Source.ARRAY) in text
    assert told(Source.MODEL) in text
    page = INTRODUCTION.format(array=told(Source.ARRAY), model=told(Source.MODEL))
    assert "array alone" in page
    assert "schedule model" in page
    assert _planned(preset("vcu1525"), preset("tiny")) == f"vcu1525: planned, not built: {CHANNELS}."


def test_committed_pages_say_it() -> None:
    for name in ("workloads.md", "accuracy.md"):
        assert told(Source.MODEL) in " ".join((ROOT / "reports/tables" / name).read_text(encoding="utf-8").split())


def test_training(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    values, text = both(call, "train --network mlp --epochs 1 --steps 1 --config tiny")
    assert values["sat"]["source"] == Source.MODEL
    assert told(Source.MODEL) in text
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


def test_bench_and_engines_say_what_ran(call: Call) -> None:
    values, text = both(call, "bench --configs 1 --no-rtl")
    assert values["source"]["resnet50_step"] == values["source"]["scale_sim"] == Source.MODEL
    assert told(Source.MODEL) in text


def test_results_of_the_library_say_it_too() -> None:
    product = gemm(40, 80, 40, "2:8")
    odd = preset("tiny").replace(name="odd", rows=12, columns=20, wuve_lanes=8)
    for memory, source in ((False, Source.ARRAY), (True, Source.MODEL)):
        assert simulate(product, "tiny", memory=memory).source is source
        assert simulate(product, "tiny", memory=memory).planned == ()
        result = simulate(product, odd, memory=memory)
        assert result.record()["source"] == source
        assert len(result.planned) == 3
        assert simulate_product(best_tiling(odd, 40, 80, 40, None)).record()["planned"] == list(odd.planned)
        assert result.planned[0] == "rows is 12; the machine in RTL is built for 1, 2, 4, 8, 16 or 32"
