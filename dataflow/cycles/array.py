"""How long a product takes on the array when its operands are on chip: closed form, exact (docs/array.md)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from nmsat.dataflow.contract.config import INTERLEAVE
from nmsat.dataflow.contract.timing import (
    drain_cycles,
    last_column,
    last_result_os,
    last_result_ws,
    load_cycles,
    seed_cycles,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nmsat.dataflow.mapping.tiling import Tiling


@dataclass(frozen=True)
class Duration:
    """Cycles of one product, from the start of its first window to its last result, split without remainder.

    steps: cycles in which windows issue multiply-adds; link: rest of windows that wait for the row link's
    activations; fill: the loading window in front; drain, weight, dependency: waiting between windows, by cause;
    finish: from the end of the last window to the last result.
    """

    steps: int
    link: int
    fill: int
    drain: int
    weight: int
    dependency: int
    finish: int

    @property
    def total(self) -> int:
        """All cycles."""
        return self.steps + self.link + self.fill + self.drain + self.weight + self.dependency + self.finish

    @property
    def stalls(self) -> dict[str, int]:
        """Cycles without a multiply-add issued, by cause."""
        return {
            "fill": self.fill,
            "link": self.link,
            "drain": self.drain,
            "weight": self.weight,
            "dependency": self.dependency,
            "finish": self.finish,
        }


def product_duration(tiling: Tiling) -> Duration:
    """Return the duration of a product whose commands are all available when the head wants them."""
    return _ws_duration(tiling) if tiling.mapping.ws else _os_duration(tiling)


def _os_duration(tiling: Tiling) -> Duration:
    config, slots, window = tiling.config, tiling.mapping.slots, tiling.window
    windows = tiling.commands * tiling.windows
    short = max(0, drain_cycles(config) - tiling.windows * window)
    return Duration(
        steps=windows * INTERLEAVE * slots,
        link=windows * (window - INTERLEAVE * slots),
        fill=window,
        drain=(tiling.commands - 1) * short,
        weight=0,
        dependency=0,
        finish=last_result_os(config, slots) + 1 - window,
    )


def _ws_duration(tiling: Tiling) -> Duration:
    config, slots, window = tiling.config, tiling.mapping.slots, tiling.window
    windows = tiling.commands * tiling.windows
    weight, dependency = _ws_waits(tiling)
    return Duration(
        steps=windows * INTERLEAVE * slots,
        link=windows * (window - INTERLEAVE * slots),
        fill=window,
        drain=0,
        weight=weight,
        dependency=dependency,
        finish=last_result_ws(config, slots) + 1 - window,
    )


def result_cycles(tiling: Tiling) -> np.ndarray:
    """Return int[results]: when each result leaves column 0, counted from the start of the first window (cycle 0).

    Results stand in the order in which they leave (`dataflow.mapping.place.place_results`). Column c is later by c and
    its slices. The last result of the last column leaves at `product_duration(tiling).total - 1`.
    """
    config, slots = tiling.config, tiling.mapping.slots
    burst = np.arange(INTERLEAVE) - (INTERLEAVE - 1) - last_column(config)
    if not tiling.mapping.ws:
        period = max(drain_cycles(config), tiling.windows * tiling.window)
        last = tiling.windows * tiling.window + period * np.arange(tiling.commands)
        rows = INTERLEAVE * np.arange(1 - config.rows, 1)
        return (last[:, None, None] + last_result_os(config, slots) + rows[:, None] + burst).ravel()
    windows, pace = [], _pace(tiling)
    at, load_age = tiling.window, tiling.window
    chains = tiling.commands // tiling.depth_tiles
    for i in range(chains):
        chain = _walk_chain(tiling, pace, load_age, last=i == chains - 1)
        first, last = chain.last
        starts = at + first + tiling.window * np.arange(tiling.windows)
        starts[-1] = at + last
        windows.append(starts)
        at, load_age = at + chain.span, chain.load_age
    return (np.concatenate(windows)[:, None] + last_result_ws(config, slots) + burst).ravel()


class TileTime(NamedTuple):
    """One command of a product: number of the copy, place of the tile, first cycle, cycles by cause.

    A tile lasts from the cycle in which its first window may start (the first tile: its loading window) to that of the
    next tile.
    """

    copy: int
    column: int
    row: int
    depth: int
    start: int
    duration: Duration


def tile_times(tiling: Tiling) -> Iterator[TileTime]:
    """Yield the commands of a product in order; causes add up to those of `product_duration`. Time grows with them."""
    whole = product_duration(tiling)
    waits = _ws_command_waits(tiling) if tiling.mapping.ws else None
    drain = whole.drain // (tiling.commands - 1) if tiling.commands > 1 else 0
    steps, link = whole.steps // tiling.commands, whole.link // tiling.commands
    at = 0
    for i in range(tiling.commands):
        weight, dependency = next(waits) if waits else (0, 0)
        duration = Duration(
            steps=steps,
            link=link,
            fill=0 if i else whole.fill,
            drain=drain if i else 0,
            weight=weight,
            dependency=dependency,
            finish=whole.finish if i == tiling.commands - 1 else 0,
        )
        rest, depth = divmod(i, tiling.depth_tiles)
        rest, row = divmod(rest, tiling.row_tiles)
        copy, column = divmod(rest, tiling.column_tiles)
        yield TileTime(copy, column, row, depth, at, duration)
        at += duration.total


def _ws_command_waits(tiling: Tiling) -> Iterator[tuple[int, int]]:
    """Yield the cycles that each WS command waits for the weight links and for sums, one by one."""
    chains, depth, pace = tiling.commands // tiling.depth_tiles, tiling.depth_tiles, _pace(tiling)
    load_age = tiling.window
    for chain in range(chains):
        state = (0, -pace.seed, -pace.seed, -load_age)
        for at in range(depth):
            carries = chain < chains - 1 or at < depth - 1
            done = _walk_command(pace, state, seeded=at > 0, carries=carries)
            state = done.state
            yield done.weight, done.dependency
        load_age = state[0] - state[3]


def _ws_waits(tiling: Tiling) -> tuple[int, int]:
    """Return the cycles that WS windows wait for the weight links and for sums of the previous command.

    Commands differ only in whether they are seeded, with period `depth_tiles`. All that a chain hands to the next is
    how long ago its last load started; once that repeats, so do the waits.
    """
    chains = tiling.commands // tiling.depth_tiles
    pace = _pace(tiling)
    load_age = tiling.window  # cycles from the last load's start to the chain's first window
    weight = dependency = done = 0
    seen: dict[int, tuple[int, int, int]] = {}
    while done < chains:
        if load_age in seen and done < chains - 1:
            at, weight_then, dependency_then = seen.pop(load_age)
            times = (chains - 1 - done) // (done - at)  # the last chain is walked: no load follows it
            weight += times * (weight - weight_then)
            dependency += times * (dependency - dependency_then)
            done += times * (done - at)
            continue
        seen[load_age] = (done, weight, dependency)
        chain = _walk_chain(tiling, pace, load_age, last=done == chains - 1)
        load_age = chain.load_age
        weight += chain.weight
        dependency += chain.dependency
        done += 1
    return weight, dependency


@dataclass(frozen=True)
class _Chain:
    """The commands of one accumulation chain, times from its first window on.

    last: first and last window of the last command; span: start of the next chain; load_age: cycles from the last load
    to there; weight, dependency: waits.
    """

    last: tuple[int, int]
    span: int
    load_age: int
    weight: int
    dependency: int


def _walk_chain(tiling: Tiling, pace: _Pace, load_age: int, *, last: bool) -> _Chain:
    """Walk the commands of a chain; where they repeat themselves, all rounds but the last are stepped over."""
    depth = tiling.depth_tiles
    weight = dependency = at = 0
    start, loaded = 0, -load_age
    first = end = -pace.seed  # starts of the previous command's first and last windows
    seen: dict[tuple[int, int, int], tuple[int, int, int, int]] = {}
    while at < depth:
        state = (start - first, start - end, start - loaded)
        if at and state in seen:
            then, start_then, weight_then, dependency_then = seen.pop(state)
            times = max(0, (depth - 1 - at) // (at - then))  # the last command is walked: its load may be missing
            shift = times * (start - start_then)
            start, first, end, loaded = start + shift, first + shift, end + shift, loaded + shift
            weight += times * (weight - weight_then)
            dependency += times * (dependency - dependency_then)
            at += times * (at - then)
        elif at:
            seen[state] = (at, start, weight, dependency)
        carries = not (last and at == depth - 1)
        done = _walk_command(pace, (start, first, end, loaded), seeded=at > 0, carries=carries)
        start, first, end, loaded = done.state
        weight += done.weight
        dependency += done.dependency
        at += 1
    return _Chain((first, end), start, start - loaded, weight, dependency)


class _Command(NamedTuple):
    """A WS command that was walked: state behind it, its waits."""

    state: tuple[int, int, int, int]
    weight: int
    dependency: int


class _Pace(NamedTuple):
    """What all commands of a WS product share: cycles and number of windows, cycles until a seed, of a load."""

    window: int
    windows: int
    seed: int
    load: int


def _pace(tiling: Tiling) -> _Pace:
    config, slots = tiling.config, tiling.mapping.slots
    return _Pace(tiling.window, tiling.windows, seed_cycles(config, slots), load_cycles(config, slots))


def _walk_command(pace: _Pace, state: tuple[int, int, int, int], *, seeded: bool, carries: bool) -> _Command:
    """Walk one WS command; carries: another one follows, whose weights it loads.

    state: first cycle that it may start in; starts of the previous command's first and last windows; start of the last
    load of weights.
    """
    window, windows, seed, load = pace
    start, first, end, loaded = state
    begin = max(start, first + seed) if seeded else start
    planned = begin + (windows - 1) * window
    end = summed = max(planned, end + seed) if seeded else planned
    if carries:
        end, loaded = _carry_load(begin, summed, window, windows, loaded + load)
    first = end if windows == 1 else begin
    return _Command((end + window, first, end, loaded), end - summed, begin - start + summed - planned)


def _carry_load(start: int, end: int, window: int, windows: int, ready: int) -> tuple[int, int]:
    """Return the start of the last window, which may have to wait, and of the window that carries the next load.

    start, end: first and last window of the command; ready: cycle from which the weight links are free.
    """
    if windows > 1:
        carrier = start + -(-(max(start, ready) - start) // window) * window
        if carrier < start + (windows - 1) * window:
            return end, carrier
    end = max(end, ready)
    return end, end
