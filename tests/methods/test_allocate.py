"""Patterns by layer within a budget: never above it, a larger one never worse, the best there is."""

from __future__ import annotations

import json
import re
from itertools import product
from typing import TYPE_CHECKING

import numpy as np
import pytest

from nmsat.algorithms.core.tape import Pattern
from nmsat.algorithms.methods import allocate
from nmsat.algorithms.methods.allocate import Option, frontier, lost
from nmsat.algorithms.methods.patterns import parse_patterns
from nmsat.dataflow.contract.config import preset
from nmsat.dataflow.network.readers.recorded import recorded_step
from nmsat.reports.work.timings import Wanted, time_all

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.conftest import Outcome


def problem(seed: int, layers: int = 4, options: int = 4) -> list[list[Option]]:
    rng = np.random.default_rng(seed)
    return [
        [Option(None, None, int(rng.integers(0, 60)), float(rng.integers(0, 9)) / 8) for _ in range(options)]
        for _ in range(rng.integers(1, layers + 1))
    ]


def total(layers: list[list[Option]], picks: tuple[int, ...]) -> tuple[int, float]:
    chosen = [options[pick] for options, pick in zip(layers, picks, strict=True)]
    return 5 + sum(option.cycles for option in chosen), sum(option.harm for option in chosen)


@pytest.mark.parametrize("seed", range(40))
def test_the_choice_is_that_of_all_combinations(seed: int) -> None:
    layers = problem(seed)
    found = frontier(layers, fixed=5)
    every = [total(layers, picks) for picks in product(*(range(len(options)) for options in layers))]
    before = np.inf
    for budget in range(5, 250, 7):
        fits = [harm for cycles, harm in every if cycles <= budget]
        if not fits:
            with pytest.raises(ValueError, match=f"the least that the options allow is {min(every)[0]}"):
                found.within(budget)
            continue
        cycles, harm = total(layers, found.within(budget))
        assert cycles <= budget
        assert harm == min(fits)  # eighths: sums are exact
        assert harm <= before
        before = harm
    assert found.exact


def test_many_layers_keep_to_the_budget_where_not_all_can_be_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    layers = [[Option(None, None, int(c), float(h)) for c, h in rng.random((6, 2)) * (1e6, 1)] for _ in range(12)]
    best = frontier(layers)
    monkeypatch.setattr(allocate, "EXACT", 30)
    found = frontier(layers)
    assert (best.exact, found.exact) == (True, False)
    assert (np.diff(found.harm) < 0).all()
    assert (np.diff(found.cycles) > 0).all()
    assert found.cycles[0] == best.cycles[0]
    for share in (0.2, 0.4, 0.6):
        budget = int(best.cycles[0] + share * (best.cycles[-1] - best.cycles[0]))
        picks = found.within(budget)
        chosen = [options[pick] for options, pick in zip(layers, picks, strict=True)]
        harm = sum(option.harm for option in chosen)
        assert sum(option.cycles for option in chosen) <= budget
        least = sum(o[p].harm for o, p in zip(layers, best.within(budget), strict=True))
        assert least <= harm < 1.5 * least


@pytest.mark.parametrize("axis", [0, 1])
def test_what_is_lost_by_hand(axis: int) -> None:
    w = np.random.default_rng(1).normal(size=(16, 24)).astype(np.float16)
    rows = w.astype(float) if axis == 1 else w.T.astype(float)
    gone = sum((np.sort(np.abs(row[i : i + 8]))[:6] ** 2).sum() for row in rows for i in range(0, len(row), 8))
    assert lost(w, Pattern(2, 8), axis) == pytest.approx(gone / (w.astype(float) ** 2).sum())
    assert lost(w, None, axis) == lost(np.zeros((8, 8)), Pattern(2, 8), axis) == 0


@pytest.mark.parametrize("value", [65520.0, -1e300, np.inf, np.nan])
def test_weights_that_binary16_does_not_hold_are_refused(value: float) -> None:
    w = np.ones((8, 8))
    w[3, 4] = 65504
    assert lost(w, Pattern(2, 8), 0) < 1
    w[3, 4] = value
    words = re.escape(f"largest weight is {abs(value)!r}; binary16 ends at 65504: scale the weights down")
    with pytest.raises(ValueError, match=words):
        lost(w, Pattern(2, 8), 0)


TABLE = """Layer name, IFMAP Height, IFMAP Width, Filter Height, Filter Width, Channels, Num Filter, Strides,
one,8,8,3,3,16,16,1,
two,8,8,3,3,16,16,1,
three,8,8,3,3,16,16,1,
"""


@pytest.mark.parametrize(
    ("weight", "choices", "words"),
    [
        (7e4, "dense,2:8", "layer 'two': largest weight is 70000.0; binary16 ends at 65504: scale the weights down"),
        (1.0, "1:16", ""),
        (1.0, "2:8", ""),
    ],
)
def test_weights_that_cannot_be_pruned_are_told_by_layer_before_anything_is_timed(
    weight: float,
    choices: str,
    words: str,
    call: Callable[[str], Outcome],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def never(*_: object, **__: object) -> None:
        raise ValueError("timing has begun")

    monkeypatch.setattr("nmsat.reports.work.patterns.time_all", never)
    (tmp_path / "net.csv").write_text(TABLE)
    ones, two = np.ones((16, 16, 3, 3), np.float32), np.full((16, 16, 3, 3), weight, np.float32)
    np.savez(tmp_path / "w.npz", one=ones, two=two, three=ones)
    line = f"patterns {tmp_path / 'net.csv'} --budget 0.9 --weights {tmp_path / 'w.npz'} --choices {choices}"
    outcome = call(line)
    assert (outcome.code, outcome.err.count("\n")) == (2, 1)
    assert (words or "timing has begun") in outcome.err


@pytest.mark.usefixtures("estimated")
def test_a_budget_of_a_pattern_is_what_it_takes_in_all_layers(call: Callable[[str], Outcome]) -> None:
    line = "patterns vgg19-small --epochs 0 --choices dense,2:4,2:8,2:16 --config tiny --json"
    found = json.loads(call(f"{line} --budget 2:8").out)
    (uniform,) = (row for row in found["uniform"] if row["patterns"] == "2:8")
    assert found["budget"] == "2:8"
    assert found["cycles"] <= uniform["cycles"]
    assert found["harm"] <= uniform["harm"]
    same = json.loads(call(f"{line} --budget {(uniform['cycles'] + 0.5) / found['dense_cycles']}").out)
    assert same["patterns"] == found["patterns"]


def test_a_budget_of_a_pattern_that_is_no_choice_is_refused_before_any_work(
    call: Callable[[str], Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object, **__: object) -> None:
        raise ValueError("work has begun")

    for work in ("Trainer", "time_all"):
        monkeypatch.setattr(f"nmsat.reports.work.patterns.{work}", never)
    for network in ("vgg19-small", "resnet9"):
        refused = call(f"patterns {network} --budget 2:16 --choices 2:4,2:8 --config tiny")
        assert (refused.code, refused.out, refused.err.count("\n")) == (2, "", 1)
        assert "budget is pattern 2:16; it must be among --choices" in refused.err


@pytest.mark.usefixtures("estimated")
def test_on_a_network_it_is_the_best_of_all(call: Callable[[str], Outcome], tmp_path: Path) -> None:
    """Cycles of single layers from steps in which one layer alone is pruned, not from those that the command times."""
    out = tmp_path / "patterns.txt"
    line = f"patterns vgg19-small --budget 0.7 --epochs 0 --same --choices dense,2:4,2:8 --config tiny --out {out}"
    found = json.loads(call(f"{line} --json").out)
    names = [layer["name"] for layer in found["layers"]]
    assert names == ["conv2", "conv3", "conv4", "conv5"]
    texts = ("dense", "2:4", "2:8")
    alone = {(name, text): f"{name}@{text}+rest@dense" for name in names for text in texts[1:]}
    asked = ("rest@dense", *alone.values())
    steps = [Wanted(recorded_step("vgg19-small", "bdwp", Pattern(2, 8), patterns=one)) for one in asked]
    dense, *pruned = (result.cycles for result in time_all(preset("tiny"), steps, lambda _: None))
    saved = {key: dense - cycles for key, cycles in zip(alone, pruned, strict=True)}
    harms = weights_lost(names)
    fits = []
    for picks in product(texts, repeat=4):
        chosen = list(zip(names, picks, strict=True))
        if dense - sum(saved.get(one, 0) for one in chosen) <= 0.7 * found["dense_cycles"]:
            fits.append(sum(harms.get(one, 0) for one in chosen))
    assert found["harm"] == pytest.approx(min(fits))
    assert found["cycles"] <= 0.7 * found["dense_cycles"]
    assert out.read_text().strip() == found["patterns"]
    assert parse_patterns(found["patterns"]).keys() == set(names)
    taken = json.loads(call(f"model vgg19-small --config tiny --layer-patterns {out} --json").out)
    assert taken["cycles"] == found["cycles"]
    train = "train --network vgg19-small --arithmetic fast --steps 1 --config tiny --json"
    run = json.loads(call(f"{train} --layer-patterns {found['patterns']}").out)
    assert (run["config"]["patterns"], run["sat"]["cycles"]) == (found["patterns"], found["cycles"])
    refused = call(line.replace("0.7", "0.01"))
    assert (refused.code, refused.err.count("\n")) == (2, 1)
    assert "these patterns need" in refused.err


def weights_lost(names: list[str]) -> dict[tuple[str, str], float]:
    """Return what both copies lose, of the weights that training begins with, by sorting."""
    from nmsat.algorithms.layers.parameter import Weight
    from nmsat.algorithms.training.recipes import recipe
    from nmsat.algorithms.training.train import Trainer

    model = Trainer(recipe("vgg19-small").replace(method="dense")).model
    found = {}
    for parameter in model.parameters():
        name = parameter.name.removesuffix(".weight")
        if not isinstance(parameter, Weight) or name not in names:
            continue
        square = parameter.master.astype(np.float64) ** 2
        for m in (4, 8):
            along_k = np.sort(square.T.reshape(-1, m), axis=1)[:, :-2].sum()
            along_n = np.sort(square.reshape(-1, m), axis=1)[:, :-2].sum()
            found[name, f"2:{m}"] = float(along_k + along_n) / float(square.sum())
    return found


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("patterns vgg19-small --budget 1.5", "it must be above 0 and at most 1"),
        ("patterns vgg19-small --budget 0.5 --method sdgp", "cannot have patterns of single layers"),
        ("patterns resnet9 --budget 0.5 --data colour", "--data is for networks that train here"),
        ("study --networks mlp --methods dense,sdgp --budget 2:8", "none of the methods can have patterns by layer"),
        ("patterns vgg19-small --budget 0.5 --weights w.npz", "--weights is for networks that are known by"),
        ("train --network mlp --layer-patterns fc2", "is no patterns (LAYER@N:M) and no file of them"),
        ("model resnet9 --layer-patterns stem.conv@2:4", "names layer 'stem.conv'"),
        ("model resnet9 --method sdgp --layer-patterns wide.conv@2:4", "cannot have patterns of single layers"),
        ("study --methods dense --networks mlp --layer-patterns fc2@2:4", "none of the methods can have them"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(call: Callable[[str], Outcome], line: str, words: str) -> None:
    outcome = call(line)
    assert (outcome.code, outcome.err.count("\n")) == (2, 1)
    assert words in outcome.err
