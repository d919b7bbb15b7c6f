"""`nmsat bench`: medians of pairs in turns, an earlier run beside it, and files that are none."""

from __future__ import annotations

import copy
import json
from typing import TYPE_CHECKING, Any

import pytest

from nmsat.dataflow.contract.config import preset
from nmsat.reports.work import bench, rtl_speed
from nmsat.reports.work.bench import YARDSTICK, Rounds, slower

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.conftest import Outcome

    Call = Callable[[str], Outcome]


def test_works_take_turns_and_medians_are_told() -> None:
    samples = {YARDSTICK: iter((1.0, 2.0, 1.0)), "slow": iter((8.0, 20.0, 9.0)), "quick": iter((2.0, 4.0, 3.0))}
    order: list[str] = []
    rounds = Rounds()
    rounds.run({name: lambda given=given: next(given) for name, given in samples.items()}, 3, order.append)
    assert order == [YARDSTICK, "slow", "quick"] * 3
    assert rounds.ratio("slow", "quick") == {"times": 4.0, "spread": (5 - 3) / 4, "rounds": 3}
    rounds.facts["slow"] = {"cycles": 18}
    assert rounds.figure("slow") == {"seconds": 9.0, "relative": 9.0, "spread": (10 - 8) / 9, "rounds": 3, "cycles": 18}


def run_of(times: float, relative: float, spread: float | None = 0.1) -> dict[str, Any]:
    return {
        "ratios": {"pair": {"times": times, "spread": spread}},
        "works": {"work": {"relative": relative, "spread": spread}},
    }


@pytest.mark.parametrize(
    ("before", "now", "worse"),
    [
        (run_of(10, 2), run_of(10, 2), []),
        (run_of(10, 2), run_of(9.2, 2.15), []),  # 9 % and 7.5 %: within the spread
        (run_of(10, 2), run_of(8, 2), ["pair"]),
        (run_of(10, 2), run_of(10, 2.4), ["work"]),
        (run_of(10, 2), run_of(40, 1), []),  # better
        (run_of(10, 2, 0.6), run_of(8, 2.4), []),  # the spread of the earlier run counts, too
    ],
)
def test_what_got_slower_by_more_than_the_spread_is_told(
    before: dict[str, Any], now: dict[str, Any], worse: list[str]
) -> None:
    found, unjudged = slower(now, before)
    assert [change.name for change in found] == worse
    assert unjudged == []


def test_what_was_measured_once_or_in_one_run_is_not_judged() -> None:
    now, before = run_of(1, 9, None), run_of(10, 2)
    now["works"]["new"] = before["works"]["gone"] = {"relative": 1, "spread": 0.1}
    assert slower(now, before) == ([], ["gone", "new", "pair", "work"])


@pytest.mark.usefixtures("little_to_measure")
@pytest.mark.exact
def test_a_run_can_be_compared_with_an_earlier_one(call: Call, tmp_path: Path) -> None:
    outcome = call("bench --no-rtl --rounds 2 --json")
    values = json.loads(outcome.out)
    assert values["works"][YARDSTICK]["relative"] == 1
    for layer in bench.LAYERS:
        gears = [values["works"][f"{gear}, {layer}"] for gear in ("exact gear", "quick gear")]
        assert gears[0]["cycles"] == gears[1]["cycles"] > 0
        pair = values["ratios"][f"quick gear, times as fast as the exact gear, {layer}"]
        assert pair["times"] > 0
        assert pair["rounds"] == 2
    path = tmp_path / "before.json"
    quick = copy.deepcopy(values)
    for one in quick["works"].values():
        one |= {"relative": one["relative"] / 1e6, "spread": 0.0}
    path.write_text(json.dumps(quick), encoding="utf-8")
    worse = call(f"bench --no-rtl --rounds 2 --against {path}")
    assert worse.code == 1
    assert "SLOWER: quick gear, " in worse.out
    for one in (*quick["works"].values(), *quick["ratios"].values()):
        one["spread"] = 1e9
    path.write_text(json.dumps(quick), encoding="utf-8")
    same = call(f"bench --no-rtl --rounds 2 --against {path}")
    assert (same.code, same.out.splitlines()[-1]) == (0, "nothing got slower by more than the spread")


def earlier(**changes: Any) -> str:
    whole = {"form": 2, "version": "1", "engines": "Python", "rtl_config": "tiny", "ratios": {}, "works": {}}
    return json.dumps({**whole, **changes})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "cannot be read: No such file"),
        ("{", "it is no JSON"),
        ("[" * 100_000, "it is no JSON"),
        ("[]", "it is not what"),
        ('{"form": 2}', "it is not what"),
        (earlier(form=1), "it is not what"),
        (earlier(ratios={"a": 1}), "it is not what"),
        (earlier(ratios={"a": {"times": 0, "spread": 0}}), "it is not what"),
        (earlier(ratios={"a": {"times": 1, "spread": "0"}}), "it is not what"),
        (earlier(works={"a": {"relative": 1}}), "it is not what"),
        (earlier(rtl_config="small"), "of rtl_config 'small'; this run is of 'tiny'"),
        (earlier(engines="compiled"), "of engines 'compiled'; this run is of 'Python'"),
    ],
)
def test_a_file_that_is_no_earlier_run_is_one_line(call: Call, tmp_path: Path, text: str | None, words: str) -> None:
    path = tmp_path / "before.json"
    if text is not None:
        path.write_text(text, encoding="utf-8")
    outcome = call(f"bench --against {path}")
    assert (outcome.code, outcome.out, outcome.err.count("\n")) == (2, "", 1)
    assert words in outcome.err


@pytest.mark.long
@pytest.mark.rtl
def test_the_verilog_is_measured_on_the_same_work() -> None:
    rounds = Rounds()
    works = rtl_speed.rtl_works(rounds, preset("tiny"))
    rounds.run(works, 1)
    for pair in rtl_speed.rtl_ratios(rounds).values():
        assert pair["times"] > 1
    assert rounds.facts[rtl_speed.MACHINE_RTL]["cycles"] > 1000


@pytest.mark.long
@pytest.mark.rtl
def test_the_verilog_is_written_and_compiled_anew() -> None:
    config = preset("tiny").replace(rows=1, columns=1)
    for work in rtl_speed.build_works(config).values():
        assert work() > 1
