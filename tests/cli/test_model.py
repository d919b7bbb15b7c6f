"""`nmsat model` on the command line."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from nmsat.algorithms.core.vocabulary import NETWORKS
from nmsat.algorithms.training.config import TrainConfig
from nmsat.reports.commands.model_options import KNOWN
from nmsat.sim.results.causes import MACHINE_CAUSES
from nmsat.sim.results.provenance import MEANING, Source, told
from nmsat.sim.work.ablation import VARIANTS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.conftest import Outcome

    Call = Callable[[str], Outcome]


@pytest.mark.usefixtures("estimated")
def test_model_prints_its_figures_as_json(call: Call) -> None:
    outcome = call("model resnet9 --batch 64 --pattern 2:8 --config vcu1525 --ablation --json")
    values = json.loads(outcome.out)
    assert outcome.code == 0
    assert values["source"] == Source.MACHINE
    assert values["speedup"] > 1
    assert values["macs_ratio"] <= 2
    assert values["speedup"] <= values["bound"]  # that of the dense step here: it multiplies padding in the stand-in
    assert values["cycles"] == sum(row["cycles"] for row in values["layers"]) == sum(values["causes"].values())
    assert sum(sum(stages.values()) for stages in values["layer_stages"].values()) == values["cycles"]
    assert values["speedup"] == values["dense_cycles"] / values["cycles"]
    assert list(values["causes"]) == list(MACHINE_CAUSES)
    for name in ("macs", "macs_skipped", "programs"):
        assert sum(row.get(name, 0) for row in values["layers"]) == values[name]
    for way, size in values["bytes"].items():
        assert sum(row[f"bytes_{way}"] for row in values["layers"]) == size
    assert values["ablation"][0]["cycles"] == values["cycles"]
    assert [row["name"] for row in values["ablation"]] == list(VARIANTS)
    assert values["energy"]["kind"] == "modelled, not measured"
    kinds = values["host_kinds"]
    assert sum(kind["operations"] for kind in kinds.values()) == values["host_operations"]
    assert sum(kind["operators"] for kind in kinds.values()) == values["host_operators"] > 0


@pytest.mark.usefixtures("estimated")
def test_model_explains_itself_in_text(call: Call, tmp_path: Path) -> None:
    trace = tmp_path / "trace.json"
    outcome = call(f"model resnet9 --batch 8 --config small --ablation --timeline {trace}")
    assert outcome.code == 0
    for text in ("idle", "speed-up", "bound", "modelled, not measured", "Host operators", "OS only"):
        assert text in outcome.out
    assert outcome.out.splitlines()[1].startswith(told(Source.MACHINE))  # before the first figure
    line = next(line for line in outcome.out.splitlines() if line.startswith("step  "))
    assert f"cycles ({Source.MACHINE})" in line
    assert json.loads(trace.read_text())["traceEvents"]


@pytest.mark.exact
def test_a_layer_takes_what_nmsat_program_says(call: Call, tmp_path: Path) -> None:
    """One layer, dense: its forward product and its weight gradient are the programs of `nmsat program`."""
    path = tmp_path / "one.csv"
    path.write_text("Layer, M, N, K,\none,48,40,64,\n")
    values = json.loads(call(f"model {path} --method dense --config small --json").out)
    rows = {row["stage"]: row for row in values["layers"]}
    for stage, line in (("ff", "48 64 40"), ("wu", "64 48 40 --transposed")):
        program = json.loads(call(f"program {line} --config small --json").out)
        assert rows[stage]["cycles"] == program["cycles"]
        assert rows[stage]["bytes_read"] == 64 * program["counters"]["read_beats"]


@pytest.mark.exact
def test_an_estimate_says_so_and_by_how_much_it_errs(call: Call) -> None:
    exact, guess = (
        json.loads(call(f"model mlp --batch 8 --config small {flag} --json").out) for flag in ("", "--estimate")
    )
    assert (exact["source"], guess["source"]) == (Source.MACHINE, Source.ESTIMATE)
    assert guess["cycles"] == sum(row["cycles"] for row in guess["layers"]) != exact["cycles"]
    assert guess["cycles"] == pytest.approx(exact["cycles"], rel=0.1)
    assert not {"causes", "bytes", "counters"} & guess.keys()
    text = call("model mlp --batch 8 --config small --estimate").out
    assert told(Source.ESTIMATE) in text
    assert "%" in MEANING[Source.ESTIMATE]
    assert str(Source.MACHINE) not in text
    refused = call("model mlp --batch 8 --config small --estimate --timeline t.json")
    assert (refused.code, refused.err.count("\n")) == (2, 1)


@pytest.mark.exact
def test_kept_answers_are_fresh_ones(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    from nmsat.sim.work import timed

    line = "model mlp --batch 4 --config tiny --json"
    fresh = call(line).out
    monkeypatch.setattr(timed, "time_run", None)  # nothing is run again
    assert call(line).out == fresh


@pytest.mark.usefixtures("estimated")
def test_model_says_when_nothing_is_pruned(call: Call, tmp_path: Path) -> None:
    table = tmp_path / "one.csv"
    table.write_text("Layer, M, N, K,\none,64,64,64,\n")
    for flag, noted in (("", True), ("--first-last", False), ("--method dense", False)):
        outcome = call(f"model {table} {flag} --json")
        assert outcome.code == 0
        assert ("nothing is pruned" in outcome.err) is noted
        assert (json.loads(outcome.out)["bound"] > 1) is (flag == "--first-last")


@pytest.mark.usefixtures("estimated")
def test_first_last_prunes_more(call: Call) -> None:
    bounds = [json.loads(call(f"model vgg19 --batch 8 {flag} --json").out)["bound"] for flag in ("", "--first-last")]
    assert bounds[0] < bounds[1]


@pytest.mark.usefixtures("estimated")
def test_dense_against_itself_is_one(call: Call) -> None:
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
        ("bench --configs 3", "--configs"),
    ],
)
def test_refusals_are_one_line(call: Call, line: str, words: str) -> None:
    outcome = call(line)
    assert outcome.code == 2
    assert outcome.out == ""
    assert words in outcome.err
    assert outcome.err.count("\n") == 1


@pytest.mark.usefixtures("estimated")
def test_model_takes_masks(call: Call, tmp_path: Path) -> None:
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


def test_one_list_of_what_a_model_can_be(call: Call) -> None:
    told = call("model nonsense").err
    assert told == f"nmsat: error: model is 'nonsense'; it must be one of {KNOWN}\n"
    assert " ".join(KNOWN.split()) in " ".join(call("model --help").out.split())
    assert set(NETWORKS) <= set(KNOWN.split(", "))


@pytest.mark.parametrize("name", ["m.csv", "m.onnx", "m.tape", "shut/m.csv"])
def test_an_unreadable_model_is_named(
    call: Call, tmp_path: Path, unreadable: Callable[[Path], None], name: str
) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.touch()
    unreadable(path if path.parent == tmp_path else path.parent)
    assert call(f"model {path}").err == f"nmsat: error: model is {str(path)!r}; it cannot be read: Permission denied\n"


@pytest.mark.parametrize("option", ["--masks", "--layers"])
def test_an_unreadable_file_of_an_option_is_named(
    call: Call, tmp_path: Path, unreadable: Callable[[Path], None], option: str
) -> None:
    path = tmp_path / "x"
    path.touch()
    unreadable(path)
    told = f"nmsat: error: {option} is {str(path)!r}; it cannot be read: Permission denied\n"
    assert call(f"model resnet9 --batch 1 {option} {path}").err == told


def test_limits_are_exact() -> None:
    with pytest.raises(ValueError, match="warmup is -1; it must be from 0 to 16,777,216"):
        TrainConfig(warmup=-1)
