"""`nmsat paper`: the table, its goals, what it says of the figures of before."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from nmsat.reports.work import paper, timings
from nmsat.reports.work.timings import Wanted
from nmsat.sim.results.provenance import Source, told
from nmsat.sim.work.ablation import VARIANTS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from typing import Any

    from nmsat.dataflow.program.jobs import Job
    from tests.conftest import Outcome

    Call = Callable[[str], Outcome]


@pytest.mark.usefixtures("estimated")
def test_sums_are_totals(call: Call) -> None:
    outcome = call("paper --batch 2 --networks resnet9,vgg19 --ablation --json")
    values = json.loads(outcome.out)
    assert outcome.code == 0
    assert values["source"] == Source.MACHINE
    assert [row["model"] for row in values["rows"]] == ["resnet9", "vgg19"]
    for row in values["rows"]:
        assert sum(row["dense"]["causes"].values()) == sum(row["dense"]["stages"].values()) == row["dense_cycles"]
        for text in paper.SHARE:
            found = row[text]
            assert found["speedup"] == row["dense_cycles"] / found["cycles"]
            assert found["share"] == found["speedup"] / found["bound"]
            assert sum(found["causes"].values()) == found["cycles"]
    assert values["speedup"] == pytest.approx(sum(row["2:8"]["speedup"] for row in values["rows"]) / 2)
    assert set(values["goals"].values()) <= {True, False}
    assert len(values["goals"]) == 5
    assert list(values["ablation"]) == list(VARIANTS)
    assert values["ablation"]["as built"] == [row["2:8"]["speedup"] for row in values["rows"]]


@pytest.mark.usefixtures("estimated")
def test_the_figures_of_before_stand_beside_those_of_now_only_where_they_are_of_the_same(call: Call) -> None:
    text = call("paper --networks resnet9").out
    assert "schedule model" in text
    assert "1.993" in text  # resnet9 at 2:8 as it was said
    assert told(Source.MACHINE) in text
    assert f"the paper reports {paper.PAPER}" in text
    assert sum(line.startswith(("reached  ", "MISSED   ")) for line in text.splitlines()) == 5
    assert "schedule model" not in call("paper --networks resnet9 --batch 256").out


@pytest.mark.usefixtures("estimated")
def test_the_bar_counts_distinct_programs_to_the_end(call: Call, advances: list[tuple[int, int | None]]) -> None:
    assert call("paper --batch 2 --networks resnet9").code == 0
    assert advances[-1] == (len(advances), len(advances))
    assert "nmsat: paper: stem.conv ff" in call("paper --batch 2 --networks resnet9 --verbose").err.splitlines()


def test_goals_are_judged_each_by_its_own_figure() -> None:
    def row(share: float, use: float) -> dict[str, Any]:
        return {"dense_utilization": use, **{text: {"share": share} for text in paper.SHARE}}

    good = paper.goals({"rows": [row(0.99, 0.98)], "speedup": 1.91})
    assert all(good.values())
    assert sum(paper.goals({"rows": [row(0.99, 0.98), row(0.975, 0.98)], "speedup": 1.91}).values()) == 4  # 2:4
    assert sum(paper.goals({"rows": [row(0.99, 0.96)], "speedup": 1.91}).values()) == 4
    assert sum(paper.goals({"rows": [row(0.99, 0.98)], "speedup": 1.89}).values()) == 4


@pytest.mark.exact
def test_the_error_of_the_estimate_is_against_the_programs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from nmsat.algorithms.core.tape import Pattern
    from nmsat.dataflow.contract.config import preset
    from nmsat.dataflow.network.layers import LinearLayer
    from nmsat.dataflow.network.step import training_products
    from nmsat.dataflow.program.jobs import UpdateJob
    from nmsat.reports.work.estimate_error import error_text, estimate_error, product_jobs

    monkeypatch.setenv("NMSAT_BUILD_DIR", str(tmp_path))
    sizes = (("a", 32, 24), ("b", 24, 8))
    layers = [LinearLayer(name=name, rows=4, features_in=k, features_out=n) for name, k, n in sizes]
    wanted = {
        ("net", "dense"): Wanted(training_products(layers, "dense")),
        ("net", "2:8"): Wanted(training_products(layers, "bdwp", Pattern(2, 8))),
    }
    config = preset("tiny")
    jobs = product_jobs(config, wanted)
    found = estimate_error(config, jobs, lambda _: None)
    exact, guess = timings.timer(config), timings.timer(config, estimate=True)
    each = {
        exact.key(job): abs(guess.time(job).cycles / exact.time(job).cycles - 1)
        for one in wanted.values()
        for job in one.jobs
        if not isinstance(job, UpdateJob)
    }
    off = sorted(each.values())
    assert found["products"] == len(jobs) == len(off)
    assert found["largest"] == off[-1] == abs(found["worst"][0]["error"]) > 0
    assert found["median"] == pytest.approx((off[(len(off) - 1) // 2] + off[len(off) // 2]) / 2)
    assert sum(one["products"] for one in found["by_pattern"].values()) == len(off)
    assert f"{off[-1]:.2%}" in error_text(found)


def test_two_processes_find_what_one_finds(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from nmsat.algorithms.core.tape import Pattern
    from nmsat.dataflow.contract.config import preset
    from nmsat.dataflow.network.layers import LinearLayer
    from nmsat.dataflow.network.step import training_products

    layers = [LinearLayer(name=name, rows=32, features_in=64, features_out=64) for name in "abc"]
    steps = [Wanted(training_products(layers, "dense")), Wanted(training_products(layers, "bdwp", Pattern(2, 8)))]
    found = []
    for processes in (1, 2):
        monkeypatch.setenv("NMSAT_BUILD_DIR", str(tmp_path / str(processes)))
        heard: list[Job] = []
        results = timings.time_all(preset("small"), steps, heard.append, processes)
        assert len(heard) == len({job.facts for job in heard}) == timings.distinct(preset("small"), steps)
        found.append([result.record() for result in results])
    assert found[0] == found[1]
