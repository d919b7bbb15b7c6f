"""Fronts of sweeps: which points run exactly, in rounds, and that the front is that of exact cycles."""

from __future__ import annotations

import random
from typing import Any

from nmsat.reports.work.sweep_front import (
    MOST_NEAR,
    estimate_off,
    exact_cycles,
    front_of,
    near_text,
    near_the_fronts,
    next_points,
    told_here,
)
from tests.cli.sweeps import rough


def run_all(rows: list[dict[str, Any]]) -> list[int]:
    """Run in rounds what may be on the front; return what ran, in its order."""
    order: list[int] = []
    while now := next_points(rows, set(order)).now:
        for index in now:
            rows[index] |= {"exact_cycles": rows[index]["would"], "status": "exact"}
        order += now
    return order


def test_points_within_the_error_of_the_estimate_run_and_the_front_is_of_exact_cycles() -> None:
    rows = [
        rough(0, 10, 1000, 1050),
        rough(1, 20, 1010, 1020),  # off the front of the estimate, and better in truth
        rough(2, 30, 1100, 1101),  # not in reach: even the most favourable error leaves it behind
        rough(3, 40, 1030, 1018),  # in reach only with the error that point 5 shows
        rough(4, 5, 2000, 2020),
        rough(5, 50, 999, 980),
    ]
    assert front_of(rows) == [0, 4, 5]
    assert run_all(rows) == [0, 4, 5, 1, 3]
    assert front_of(rows, exact_cycles) == [0, 1, 3, 4, 5]
    assert near_the_fronts(rows) == {"ran": 2, "left": 0}
    off = estimate_off(rows)
    assert off == {"least": 1000 / 1050 - 1, "most": 999 / 980 - 1, "points": 5}
    assert "off by -4.8% to +1.9% on the 5 points of this sweep that ran" in told_here(off)
    assert "vcu1525" not in told_here(off)
    assert "vcu1525" in told_here(None)


def test_a_front_of_one_point_shows_errors_of_others_too() -> None:
    rows = [rough(i, 10 + i, 1000 + i, 1000 - 20 * i) for i in range(3)] + [rough(3, 1, 5000, 5000)]
    assert run_all(rows) == [0, 3, 1]
    assert front_of(rows, exact_cycles) == [0, 1, 3]


def test_what_runs_beside_a_front_is_bounded_and_what_is_left_is_told() -> None:
    rows = [rough(0, 10, 1000, 1100), *(rough(i, 10 + i, 1041 - i, 1030 - i) for i in range(1, 40))]
    assert front_of(rows) == [0]
    assert len(run_all(rows)) == 1 + MOST_NEAR
    assert near_the_fronts(rows) == {"ran": MOST_NEAR, "left": 39 - MOST_NEAR}
    assert "4 points near the fronts of the estimate ran, too; 1 more" in near_text({"ran": 4, "left": 1})


def test_fronts_found_in_rounds_are_those_of_an_exhaustive_run() -> None:
    draw = random.Random(3)
    for _ in range(30):
        rows = [rough(i, draw.randrange(50), 0, draw.randrange(1000, 1400)) for i in range(60)]
        for row in rows:
            row["cycles"] = round(row["would"] * draw.choice((0.97, 0.98, 1.0)))
        ran = run_all(rows)
        mine = front_of(rows, exact_cycles)
        seen = min(row["would"] / row["cycles"] for row in rows if row["index"] in ran)
        if next_points(rows, set(ran)).left:
            continue
        for row in rows:  # by hand: no point that did not run can be as good with any error that was seen
            beaten = [r for r in rows if r["index"] in ran and r["lut"] <= row["lut"]]
            assert row["index"] in ran or min(r["would"] for r in beaten) <= row["cycles"] * seen
        by_hand = [i for i in ran if not any(_beats(rows[j], rows[i]) for j in ran if j != i)]
        assert mine == sorted(by_hand)


def _beats(one: dict[str, Any], other: dict[str, Any]) -> bool:
    costs = [(row["lut"], row["would"]) for row in (one, other)]
    return all(a <= b for a, b in zip(*costs, strict=True)) and (costs[0] != costs[1] or one["index"] < other["index"])
