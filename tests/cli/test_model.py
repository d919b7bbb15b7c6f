"""`nmsat model` and `nmsat bench` on the command line."""

from __future__ import annotations

import csv
import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from nmsat.algorithms.core.vocabulary import NETWORKS
from nmsat.algorithms.training.config import TrainConfig
from nmsat.dataflow.contract.config import preset
from nmsat.dataflow.schedule.program import load_record
from nmsat.reports.commands.model_options import KNOWN
from nmsat.sim.api import simulate
from nmsat.sim.results.provenance import Source, told

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.conftest import Outcome


def test_model_prints_its_figures_as_json(call: Callable[[str], Outcome]) -> None:
    outcome = call("model resnet9 --batch 64 --pattern 2:8 --config vcu1525 --ablation --json")
    values = json.loads(outcome.out)
    assert outcome.code == 0
    assert 1.9 < values["speedup"] <= values["bound"] <= 2.01
    assert values["cycles"] == sum(row["cycles"] for row in values["layers"]) == sum(values["causes"].values())
    assert values["speedup"] == values["dense_cycles"] / values["cycles"]
    assert values["ablation"][0]["cycles"] == values["cycles"]
    assert values["energy"]["kind"] == "modelled, not measured"
    assert values["host_operators"] > 0


def test_model_explains_itself_in_text(call: Callable[[str], Outcome], tmp_path: Path) -> None:
    trace, listing = tmp_path / "trace.json", tmp_path / "program.txt"
    outcome = call(f"model resnet9 --batch 8 --config small --ablation --timeline {trace} --listing {listing}")
    assert outcome.code == 0
    for text in ("bandwidth", "speed-up", "bound", "modelled, not measured", "Host operators", "no interleave"):
        assert text in outcome.out
    assert outcome.out.splitlines()[1].startswith(told(Source.MODEL))  # before the first figure
    assert "cycles (schedule model)" in next(line for line in outcome.out.splitlines() if line.startswith("step  "))
    assert json.loads(trace.read_text())["traceEvents"]
    assert listing.read_text().splitlines()[-1].endswith("end")


def test_model_says_when_nothing_is_pruned(call: Callable[[str], Outcome], tmp_path: Path) -> None:
    table = tmp_path / "one.csv"
    table.write_text("Layer, M, N, K,\none,64,64,64,\n")
    for flag, noted in (("", True), ("--first-last", False), ("--method dense", False)):
        outcome = call(f"model {table} {flag} --json")
        assert outcome.code == 0
        assert ("nothing is pruned" in outcome.err) is noted
        assert (json.loads(outcome.out)["bound"] > 1) is (flag == "--first-last")


def test_first_last_prunes_more(call: Callable[[str], Outcome]) -> None:
    bounds = [json.loads(call(f"model vgg19 --batch 8 {flag} --json").out)["bound"] for flag in ("", "--first-last")]
    assert bounds[0] < bounds[1]


def test_dense_against_itself_is_one(call: Callable[[str], Outcome]) -> None:
    values = json.loads(call("model resnet9 --batch 8 --method dense --json").out)
    assert values["speedup"] == values["bound"] == 1


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("model resnet99", "resnet99"),
        ("model resnet9 --batch 0", "'0'"),
        ("model resnet9 --pattern 2:7", "2:7"),
        ("model resnet9 --method best", "best"),
        ("model resnet9 --batch 900000", "memory plan does not fit"),
        ("model resnet9 --batch 1 --timeline /", "it is a folder; name a file"),
        ("bench --configs 0", "'0'"),
    ],
)
def test_refusals_are_one_line(call: Callable[[str], Outcome], line: str, words: str) -> None:
    outcome = call(line)
    assert outcome.code == 2
    assert outcome.out == ""
    assert words in outcome.err
    assert outcome.err.count("\n") == 1


def test_bench_without_rtl(call: Callable[[str], Outcome]) -> None:
    values = json.loads(call("bench --configs 1 --no-rtl --json").out)
    assert values["resnet50_step_seconds"] > 0
    assert values["configs_1000_seconds"] > 0
    assert values["peak_memory_mib"] > 0
    assert values["values_vs_verilator"] is None


def test_model_opens_its_sums(call: Callable[[str], Outcome], tmp_path: Path) -> None:
    tiles, program = tmp_path / "tiles.csv", tmp_path / "program.json"
    outcome = call(f"model resnet9 --batch 2 --config small --tiles {tiles} --program {program} --json")
    values = json.loads(outcome.out)
    assert sum(sum(stages.values()) for stages in values["layer_stages"].values()) == values["cycles"]
    with tiles.open() as file:
        rows = list(csv.DictReader(file))
    for key, total in (
        ("cycles", values["cycles"]),
        ("macs", values["macs"]),
        ("macs_skipped", values["macs_skipped"]),
    ):
        assert sum(int(row[key]) for row in rows) == total
    for cause, total in values["causes"].items():
        assert sum(int(row[cause] or 0) for row in rows) == total
    again = simulate(load_record(preset("small"), json.loads(program.read_text())), "small")
    assert again.cycles == values["cycles"]
    kinds = values["host_kinds"]
    assert sum(kind["operations"] for kind in kinds.values()) == values["host_operations"]
    assert sum(kind["operators"] for kind in kinds.values()) == values["host_operators"]


def test_model_takes_masks(call: Callable[[str], Outcome], tmp_path: Path) -> None:
    path = tmp_path / "masks.npz"
    rng = np.random.default_rng(1)
    weights = rng.standard_normal((256, 256, 3, 3)).astype(np.float32)
    arrays: dict[str, Any] = {"res1.0.conv.weight": np.where(rng.random(weights.shape) < 0.1, weights, 0)}
    np.savez(path, **arrays)
    values = json.loads(call(f"model resnet9 --batch 2 --masks {path} --json").out)
    assert values["masks"]["res1.0.conv"]["density"] == pytest.approx(0.1, abs=0.01)
    plain = json.loads(call("model resnet9 --batch 2 --json").out)
    assert values["cycles"] != plain["cycles"]
    assert "density 0.1" in call(f"model resnet9 --batch 2 --masks {path}").out
    for line, words in (
        (f"--masks {path} --mask-layout kn", "needs (2304, 256) in layout 'kn'"),
        (f"--masks {path} --method sdgp", "prunes no weights"),
        (f"--masks {tmp_path / 'none.npz'}", "none.npz"),
    ):
        refused = call(f"model resnet9 --batch 2 {line}")
        assert refused.code == 2
        assert words in refused.err
        assert refused.err.count("\n") == 1


def test_one_list_of_what_a_model_can_be(call: Callable[[str], Outcome]) -> None:
    told = call("model nonsense").err
    assert told == f"nmsat: error: model is 'nonsense'; it must be one of {KNOWN}\n"
    assert " ".join(KNOWN.split()) in " ".join(call("model --help").out.split())
    assert set(NETWORKS) <= set(KNOWN.split(", "))


@pytest.mark.parametrize("name", ["m.csv", "m.onnx", "m.tape", "shut/m.csv"])
def test_an_unreadable_model_is_named(
    call: Callable[[str], Outcome], tmp_path: Path, unreadable: Callable[[Path], None], name: str
) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.touch()
    unreadable(path if path.parent == tmp_path else path.parent)
    assert call(f"model {path}").err == f"nmsat: error: model is {str(path)!r}; it cannot be read: Permission denied\n"


@pytest.mark.parametrize("option", ["--masks", "--layers"])
def test_an_unreadable_file_of_an_option_is_named(
    call: Callable[[str], Outcome], tmp_path: Path, unreadable: Callable[[Path], None], option: str
) -> None:
    path = tmp_path / "x"
    path.touch()
    unreadable(path)
    told = f"nmsat: error: {option} is {str(path)!r}; it cannot be read: Permission denied\n"
    assert call(f"model resnet9 --batch 1 {option} {path}").err == told


def test_limits_are_exact() -> None:
    with pytest.raises(ValueError, match="warmup is -1; it must be from 0 to 16,777,216"):
        TrainConfig(warmup=-1)
