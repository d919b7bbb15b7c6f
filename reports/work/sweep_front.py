"""Fronts of a sweep: machines that no other of the same work beats in cycles, LUTs, DSPs and block RAM together.

A work is network, batch, method and pattern. The front of the estimate is not that of exact cycles: points that lie
closer together than the estimate errs can change places. So a point runs exactly, too, if it would be on the front
with the most favourable error that the points of its work have shown so far. Errors of points that did not run are
not known: a front is that of exact cycles as far as the errors that were seen reach.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from nmsat.sim.results.provenance import MEANING, Source

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

AREA: Final = ("lut", "dsp", "ram_kbit")
"""What a point of a front is not beaten in besides its cycles."""

MOST_NEAR: Final = 4
"""Most points near the front of a work that run exactly, in sizes of its front by the estimate."""

LEAST_SEEN: Final = 3
"""Points of a work that run if it has so many: errors of fewer tell little."""

Row = dict[str, Any]
Work = tuple[Any, ...]


def front_of(rows: Iterable[Row], cycles: Callable[[Row], float | None] = lambda row: row["cycles"]) -> list[int]:
    """Return the indices of the points that no other of the same work beats; of equal ones the first.

    cycles: those of a row, None for one that takes no part.
    """
    works: dict[Work, list[tuple[float, ...]]] = defaultdict(list)
    for row in rows:
        taken = cycles(row)
        if taken is not None:
            works[_work(row)].append((*(row[cost] for cost in AREA), taken, row["index"]))
    front = []
    for found in works.values():
        kept: list[tuple[float, ...]] = []
        for *costs, index in sorted(found):
            if not any(all(a <= b for a, b in zip(other, costs, strict=True)) for other in kept):
                kept.append(tuple(costs))
                front.append(int(index))
    return sorted(front)


def exact_cycles(row: Row) -> int | None:
    """Return the cycles of a point that ran."""
    return row.get("exact_cycles")


@dataclass(frozen=True)
class Near:
    """Points to run next. now: their indices; left: how many more there are that the bound leaves out."""

    now: list[int]
    left: int


def next_points(rows: Sequence[Row], ran: set[int]) -> Near:
    """Return the points that must still run for the front to be that of exact cycles, as far as errors are seen.

    ran: indices of what ran, also of points that could not. At first the front of the estimate, and the next best
    until `LEAST_SEEN` of a work ran; then points that would be on the front if the estimate were off as favourably as
    on the points of their work that ran. At most `MOST_NEAR` times the front of the estimate of each work besides that;
    those that promise most first.
    """
    first = set(front_of(rows))
    if first - ran:
        return Near(sorted(first - ran), 0)
    few = _few(rows, ran)
    if few:
        return Near(few, 0)
    seen = _least_ratios(rows)

    def hoped(row: Row) -> float | None:
        if row["index"] in ran or row["cycles"] is None:
            return exact_cycles(row)
        return row["cycles"] * seen(row)

    wanted = set(front_of(rows, hoped)) - ran
    now, left = [], 0
    for found in _works(rows).values():
        mine = {row["index"] for row in found}
        room = max(0, (1 + MOST_NEAR) * len(first & mine) - len(ran & mine))
        best = sorted(wanted & mine, key=lambda index: (_promise(found, index, hoped), index))
        now += best[:room]
        left += len(best[room:])
    return Near(sorted(now), left)


def _few(rows: Sequence[Row], ran: set[int]) -> list[int]:
    """Return the next best points, by the estimate, of works of which fewer than `LEAST_SEEN` ran."""
    found: list[int] = []
    for mine in _works(row for row in rows if row["cycles"] is not None).values():
        missing = max(0, LEAST_SEEN - sum(row["index"] in ran for row in mine))
        others = [row for row in mine if row["index"] not in ran]
        next_best = set(front_of(others)) if missing else set()
        best = sorted(others, key=lambda row, best=next_best: (row["index"] not in best, row["cycles"], row["index"]))
        found += [row["index"] for row in best[:missing]]
    return sorted(found)


def _least_ratios(rows: Sequence[Row]) -> Callable[[Row], float]:
    """Return what gives exact cycles over the estimate, the least that was seen, for a row's work."""
    ratios: dict[Work, float] = {}
    for row in rows:
        if exact_cycles(row):
            ratio = row["exact_cycles"] / row["cycles"]
            ratios[_work(row)] = min(ratio, ratios.get(_work(row), ratio))
    return lambda row: ratios.get(_work(row), 1.0)


def _promise(found: Sequence[Row], index: int, hoped: Callable[[Row], float | None]) -> float:
    """Return a point's hoped cycles over the fewest of those that ran and take no more: the less, the better."""
    mine = next(row for row in found if row["index"] == index)
    beaten = [
        row["exact_cycles"] for row in found if exact_cycles(row) and all(row[cost] <= mine[cost] for cost in AREA)
    ]
    return (hoped(mine) or 0) / min(beaten) if beaten else 0.0


def near_the_fronts(rows: Sequence[Row]) -> dict[str, int] | None:
    """Return how many points ran beside the fronts of the estimate, and how many the bound left out.

    None if none ran.
    """
    tried = [row for row in rows if row["cycles"] is not None and row["status"] in ("exact", "error")]
    ran = {row["index"] for row in tried}
    return {"ran": len(ran - set(front_of(rows))), "left": next_points(rows, ran).left} if ran else None


def estimate_off(rows: Iterable[Row]) -> dict[str, Any] | None:
    """Return how far the estimate was off on the points that ran; None if none did."""
    off = [row["cycles"] / row["exact_cycles"] - 1 for row in rows if exact_cycles(row)]
    return {"least": min(off), "most": max(off), "points": len(off)} if off else None


def told_here(off: Mapping[str, Any] | None) -> str:
    """Return what is to be known of the estimate in a sweep: its error there, and what is known from elsewhere."""
    known = MEANING[Source.ESTIMATE].replace("`", "")
    if off is None:
        return f"{Source.ESTIMATE}: {known}; none of this sweep ran, other machines can be off by more"
    here = f"off by {off['least']:+.1%} to {off['most']:+.1%} on the {off['points']} points of this sweep that ran"
    return f"{Source.ESTIMATE}: a closed form, nothing runs; {here}, unknown on the others"


def near_text(near: Mapping[str, int]) -> str:
    """Return in words what of a sweep ran besides the front of the estimate."""
    left = f"; {near['left']} more were left out (at most {MOST_NEAR} times a front run)" if near["left"] else ""
    return f"fronts are of exact cycles: {near['ran']} points near the fronts of the estimate ran, too{left}"


def _works(rows: Iterable[Row]) -> dict[Work, list[Row]]:
    works: dict[Work, list[Row]] = defaultdict(list)
    for row in rows:
        works[_work(row)].append(row)
    return works


def _work(row: Row) -> Work:
    return tuple(row[name] for name in ("network", "batch", "method", "pattern"))
