"""One vocabulary: names of methods and networks mean the same in every command, and old names say what they became."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import pytest

from nmsat.algorithms.core.tape import Pattern, Stage
from nmsat.algorithms.core.vocabulary import (
    BACKENDS,
    METHODS,
    NETWORKS,
    PAPER_NETWORKS,
    SCHEDULED_NETWORKS,
    SMALL_NETWORKS,
    TRAINED_NETWORKS,
    MethodFacts,
)
from nmsat.algorithms.layers.networks import BUILDERS, make_network
from nmsat.algorithms.methods import make_method
from nmsat.algorithms.training.recipes import RECIPES, parse_name
from nmsat.dataflow.contract.config import preset
from nmsat.dataflow.network.models import MODELS, load_model
from nmsat.dataflow.network.step import training_products
from nmsat.reports.pages.study_page import study_page
from nmsat.reports.pages.study_plots import draw
from nmsat.reports.work.training import BACKENDS as RUNNERS
from nmsat.reports.work.training import sat_step
from nmsat.sim.api import simulate, training_step
from nmsat.sim.work.timed import Timer

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.conftest import Outcome

TABLES: Final = Path(__file__).resolve().parent.parent.parent / "reports" / "tables"
P28: Final = Pattern(2, 8)


def test_every_name_is_built_by_what_it_stands_for() -> None:
    assert set(MODELS) == set(SCHEDULED_NETWORKS)
    assert set(BUILDERS) == set(RECIPES) == set(TRAINED_NETWORKS)
    assert {NETWORKS[name].small_of for name in SMALL_NETWORKS} == set(PAPER_NETWORKS) < set(SCHEDULED_NETWORKS)
    assert all(recipe.network == name for name, recipe in RECIPES.items())
    assert tuple(RUNNERS) == BACKENDS


@pytest.mark.parametrize("name", METHODS)
def test_facts_are_what_the_method_does(name: str) -> None:
    facts, method = METHODS[name], make_method(name, P28)
    assert method.name == name
    assert method.decay == facts.decay
    assert {stage for stage in Stage if method.group(stage) > 1} == {
        stage
        for stage, pruned in (
            (Stage.FF, facts.ff_weights),
            (Stage.BP, facts.bp_weights or facts.bp_gradient),
            (Stage.WU, facts.wu_gradient),
        )
        if pruned
    }
    assert facts.prunes == (name != "dense")


@pytest.mark.parametrize("name", METHODS)
def test_model_takes_every_method(call: Callable[[str], Outcome], name: str) -> None:
    outcome = call(f"model resnet9 --batch 1 --method {name} --json")
    values = json.loads(outcome.out)
    products = sum((METHODS[name].ff_weights, METHODS[name].bp_weights or METHODS[name].bp_gradient))
    products += METHODS[name].wu_gradient
    assert values["method"] == name
    assert values["bound"] == pytest.approx(3 / (3 - 0.75 * products), rel=0.03)
    assert ("is for the host" in outcome.err) == (name not in ("dense", "ste", "sr-ste", "sdwp", "bdwp"))


def test_a_method_that_no_schedule_holds_is_refused_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METHODS, "both", MethodFacts(bp_weights=True, bp_gradient=True))
    with pytest.raises(ValueError, match="method 'both' cannot be scheduled: it prunes both operands of the backward"):
        training_products(load_model("resnet9", 1), "both", P28)


@pytest.mark.usefixtures("estimated")
@pytest.mark.parametrize("method", ["dense", "bdwp", "bi-mask"])
def test_a_small_network_is_the_same_step_for_model_and_train(call: Callable[[str], Outcome], method: str) -> None:
    found = json.loads(call(f"model resnet18-small --method {method} --config tiny --json").out)
    step = sat_step(RECIPES["resnet18-small"].replace(method=method, pattern="2:8"), preset("tiny"))
    assert (found["cycles"], found["dense_cycles"], found["bound"]) == (
        step["cycles"],
        step["dense_cycles"],
        step["bound"],
    )
    assert (found["method"], found["batch"]) == (method, RECIPES["resnet18-small"].batch)
    again = simulate(training_step("resnet18-small", method, "2:8"), "tiny", timer=Timer(preset("tiny")))
    assert again.cycles == found["cycles"]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("model resnet9 --method srste", "method is 'srste'; it is now called 'sr-ste'"),
        ("train --network mlp --method srste", "method is 'srste'; it is now called 'sr-ste'"),
        ("study --methods dense,srste", "method is 'srste'; it is now called 'sr-ste'"),
        ("train --network vgg", "network is 'vgg'; it is now called 'vgg19-small'"),
        ("study --networks mlp,vgg", "network is 'vgg'; it is now called 'vgg19-small'"),
        ("model vgg", "model is 'vgg'; it is now called 'vgg19-small'"),
        ("train --network resnet9", "of --data alone; its small version, which trains, is 'resnet9-small'"),
        ("study --networks resnet9", "of --data alone; its small version, which trains, is 'resnet9-small'"),
        ("train --network resnet18-7x7", "not trained here; resnet9-small, vit-small"),
        ("train --cell resnet9-bdwp-2of8-seed1", "write resnet9-small-bdwp-2of8-seed1"),
        ("train --cell vgg-dense-seed0,epochs=2", "write vgg19-small-dense-seed0,epochs=2"),
        ("train --cell mlp-srste-2of4-seed1", "write mlp-sr-ste-2of4-seed1"),
        ("model resnet9 --method best", "known methods: dense, ste, sr-ste, sdgp"),
        ("train --network lenet", "known networks: resnet9-small, vit-small"),
    ],
)
def test_names_that_are_not_known_say_what_is(call: Callable[[str], Outcome], line: str, words: str) -> None:
    outcome = call(line)
    assert (outcome.code, outcome.out) == (2, "")
    (message,) = outcome.err.splitlines()
    assert words in message


@pytest.mark.parametrize("line", ["model resnet9 --batch 1 --config tiny", "train --network mlp --steps 1"])
def test_a_pattern_that_is_not_used_is_told(call: Callable[[str], Outcome], line: str) -> None:
    outcome = call(f"{line} --method dense --pattern 2:4")
    assert outcome.code == 0
    assert outcome.err == "nmsat: note: method dense prunes nothing; pattern 2:4 is not used\n"


@pytest.mark.parametrize(
    ("ask", "words"),
    [
        (lambda: make_method("srste", P28), "it is now called 'sr-ste'"),
        (lambda: training_step("vit", "srste"), "it is now called 'sr-ste'"),
        (lambda: training_step("vgg"), "it is now called 'vgg19-small'"),
        (
            lambda: make_network("resnet9", np.random.default_rng(0)),
            "its small version, which trains, is 'resnet9-small'",
        ),
        (lambda: load_model("resnet9-small"), "it has a recorded step, not a list of layers"),
    ],
)
def test_libraries_refuse_old_names_alike(ask: Callable[[], object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        ask()


def test_train_says_what_is_left_to_the_host(call: Callable[[str], Outcome]) -> None:
    for method, said in (("bi-mask", True), ("mvue", True), ("sdgp", True), ("bdwp", False)):
        outcome = call(f"train --network mlp --method {method} --steps 1")
        assert ("is for the host and not in the cycles" in outcome.out) == said


def test_the_committed_table_speaks_this_vocabulary() -> None:
    data = json.loads((TABLES / "accuracy.json").read_text(encoding="utf-8"))
    assert (TABLES / "accuracy.md").read_text(encoding="utf-8") == study_page(data, draw(data))
    for run in data["runs"]:
        assert parse_name(run["name"]).network in TRAINED_NETWORKS
        assert run["command"] == f"nmsat train --cell {shlex.quote(run['name'])}"


def test_names_are_light_to_import() -> None:
    code = "import sys, algorithms.core.vocabulary; sys.exit('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
