"""`nmsat workload list`, `workload run` and `verify workload` on the command line."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from nmsat.algorithms.workloads.engine.registry import workloads

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.conftest import Outcome

    Call = Callable[[str], Outcome]


def test_list_is_an_object_with_all_workloads(call: Call) -> None:
    outcome = call("workload list --json")
    values = json.loads(outcome.out)["workloads"]
    assert outcome.code == 0
    assert outcome.err == ""
    assert [item["name"] for item in values] == list(workloads())
    assert len({item["paper"] for item in values}) >= 9
    text = call("workload list").out
    for item in values:
        assert f"\n{item['name']} " in f"\n{text}"
        assert item["paper"] in text


@pytest.mark.parametrize("variant", ["faithful", "nm"])
def test_paper_scale_says_all_that_the_issue_asks_for(call: Call, variant: str) -> None:
    outcome = call(f"workload run sparse-ift-wide --scale paper --variant {variant} --json")
    values = json.loads(outcome.out)
    assert outcome.code == 0
    assert (values["name"], values["scale"], values["variant"]) == ("sparse-ift-wide", "paper", variant)
    assert values["config"] == "vcu1525"
    assert 0 < values["true_density"] <= values["cover_density"] <= 1
    assert 1 <= values["speedup"] <= values["speedup_ideal"] * 1.05
    assert values["speedup"] == values["cycles_dense"] / values["cycles"]
    assert values["sat_mac_share"] == 1
    assert 0 < values["host_share"] < 1
    assert values["study"] is None
    assert values["quoted"]


def test_small_scale_solves_its_problem_and_is_exact(call: Call) -> None:
    outcome = call("workload run milu --variant nm --json")
    values = json.loads(outcome.out)
    assert outcome.code == 0
    assert values["config"] == "tiny"
    assert values["match"] is True
    assert values["values"] is True
    assert values["mismatches"] == []
    assert values["study"]["holds"] is True
    # At most a line every ten seconds.
    assert len(outcome.err.splitlines()) <= values["seconds"] / 10
    assert all(line.startswith("nmsat: milu: ") for line in outcome.err.splitlines())


def test_configuration_can_be_chosen(call: Call) -> None:
    cycles = {}
    for config in ("small", "vcu1525"):
        values = json.loads(call(f"workload run sora --scale paper --config {config} --json").out)
        assert values["config"] == config
        cycles[config] = values["cycles"]
    assert cycles["small"] > 10 * cycles["vcu1525"]


def test_text_and_json_say_the_same(call: Call) -> None:
    values = json.loads(call("workload run sparsifiner --scale paper --json").out)
    text = call("workload run sparsifiner --scale paper").out
    assert f"{values['cycles_dense']} dense, {values['cycles']} on SAT" in text
    assert f"{values['speedup']:.2f} of {values['speedup_ideal']:.2f} ideal" in text
    assert values["quoted"] in text


@pytest.mark.parametrize("line", ["workload run", "verify workload"])
def test_a_value_that_differs_fails(call: Call, line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from nmsat.reports.work import workload as reports

    def wrong(*_: object, **__: object) -> dict[str, Any]:
        return {"match": False}

    monkeypatch.setattr("nmsat.tb.run.runner.check_tools", lambda: None)
    for name in ("workload_run", "workload_verify"):
        monkeypatch.setattr(reports, name, wrong)
    for name in ("workload_text", "verify_text"):
        monkeypatch.setattr(reports, name, lambda _: "text")
    assert call(f"{line} moa").code == 1


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("workload frob", "command is 'workload frob'; known commands: workload list, workload run"),
        ("workload run", "the following arguments are required: NAME"),
        ("workload run nothing", f"workload is 'nothing'; known workloads: {', '.join(workloads())}"),
        ("workload run moa --scale huge", "invalid choice: 'huge' (choose from 'small', 'paper')"),
        ("workload run moa --variant best", "invalid choice: 'best' (choose from 'faithful', 'nm')"),
        ("workload run moa --config huge", "config is 'huge'; known configurations: tiny, small, vcu1525"),
        ("workload list moa", "unrecognized arguments: moa"),
        ("verify workload nothing", f"workload is 'nothing'; known workloads: {', '.join(workloads())}"),
        ("verify workload moa --products 0", "the value is '0'; it must be a whole number from 1"),
    ],
)
def test_refusals_are_one_line(call: Call, line: str, words: str) -> None:
    outcome = call(line)
    assert outcome.code == 2
    assert outcome.out == ""
    assert words in outcome.err
    assert outcome.err.count("\n") == 1


@pytest.mark.rtl
def test_verify_runs_a_sample_on_the_rtl(call: Call) -> None:
    outcome = call("verify workload moa --variant nm --products 5 --json")
    values = json.loads(outcome.out)
    assert outcome.code == 0
    assert values["match"] is True
    assert values["products"] == len(values["checks"]) == 5
    assert len({(check["how"], check["pattern"], check["stage"]) for check in values["checks"]}) > 2
    assert values["cycles_rtl"] == values["cycles_sim"] > 0
    assert 0 < values["results_of_program"] <= values["results"]


@pytest.mark.rtl
def test_verify_fails_on_a_difference(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    from nmsat.tb.array import products as stce

    honest = stce.run_products

    def off_by_a_bit(*arguments: object) -> list[stce.RtlRun]:
        found = honest(*arguments)  # type: ignore[arg-type] # the arguments are passed on as they came
        found[1].y.view("uint32")[0, 0] ^= 1
        return found

    monkeypatch.setattr(stce, "run_products", off_by_a_bit)
    outcome = call("verify workload granet --products 2")
    assert outcome.code == 1
    assert "products compared (* in part): 1 DIFFERENT; equal: 0 whole, 1 in part" in outcome.out
    assert "values of the RTL differ from the simulator; first at row 0, column 0" in outcome.out
