"""What stands in the buffers of the array, place by place: who wrote it, who reads it, and whether it means anything.

A place that nobody has written may be read; what is made of it must not be stored (docs/machine/programs.md).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from nmsat.dataflow.contract.codes import group_size, rectangle_rows
from nmsat.dataflow.contract.config import INTERLEAVE
from nmsat.dataflow.contract.isa import HALVES, LANES, ActMode, Compute, Opcode, Queue
from nmsat.dataflow.program.order import Fault, IllFormedError
from nmsat.dataflow.program.touches import operand

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from nmsat.dataflow.contract.config import SatConfig
    from nmsat.dataflow.contract.isa import Instruction
    from nmsat.dataflow.program.order import Order

NOTHING: Final = 0
"""Code of a weight place that nobody has written."""

HELD_PAIR: Final = 1
"""... that holds a pair of memory."""

HELD_FILLER: Final = 2
"""... that holds a filler, which contributes nothing."""

HELD_DENSE: Final = 3
"""... that holds an element of a dense operand loaded with M = 2; one more for each doubling of M."""


class Shared:
    """Places that two queues share: the last of each that wrote or read a place, -1 for none."""

    def __init__(self, depth: int) -> None:
        self._last: dict[tuple[Queue, bool], NDArray[np.int32]] = {}
        self._depth = depth

    def last(self, queue: Queue, *, write: bool) -> NDArray[np.int32]:
        """Return who was the last of a queue to write (read) each place, by its number in the queue."""
        if (queue, write) not in self._last:
            self._last[queue, write] = np.full(self._depth, -1, np.int32)
        return self._last[queue, write]

    def others(self, queue: Queue, *, write: bool) -> list[tuple[Queue, bool, NDArray[np.int32]]]:
        """Return what an access of a queue must come behind: writes of other queues, for a write their reads too."""
        return [
            (other, wrote, last)
            for (other, wrote), last in self._last.items()
            if other is not queue and (write or wrote)
        ]


class Watch:
    """The order that instructions must have where they share places."""

    def __init__(self, code: Sequence[Instruction], found: Order) -> None:
        self.code, self.order = code, found

    def fault(self, index: int, name: str, what: str, other: int | None = None) -> IllFormedError:
        """Return the fault of an instruction."""
        if other is not None:
            what = f"{what} instruction {other} ({self.code[other].opcode.name})"
        return IllFormedError(Fault(index, self.code[index].opcode.name, name, what, other))

    def access(
        self,
        index: int,
        name: str,
        shared: Shared,
        places: slice | NDArray[np.int64],
        what: Callable[[int], str],
        *,
        write: bool,
    ) -> None:
        """Note an access; IllFormedError if another queue may still be at one of the places. what: names a place."""
        queue, number = self.order.queue[index], self.order.number[index]
        for other, wrote, last in shared.others(queue, write=write):
            there = last[places]
            latest = int(there.max(initial=-1))
            if latest >= self.order.before[index][other]:
                first = np.arange(len(last))[places][int(there.argmax())]
                does, did = "overwrites" if write else "reads", "written" if wrote else "read"
                text = f"{does} {what(int(first))}, and nothing says that it has been {did} by"
                raise self.fault(index, name, text, self.order.members[other][latest])
        shared.last(queue, write=write)[places] = number


class Buffers:
    """The buffers of the loader, the array and the store engine; instructions are carried out in an order of turns."""

    def __init__(self, config: SatConfig, watch: Watch) -> None:
        c = config
        self._config, self._watch = config, watch
        # columns of the array that are always loaded together
        self._span = min(c.columns, LANES)
        kinds = c.columns // self._span
        self._act, self._act_held = (
            Shared(c.act_depth * c.act_lanes),
            np.zeros((c.rows, c.act_depth * c.act_lanes), bool),
        )
        self._wgt, self._wgt_held = Shared(c.weight_depth), np.zeros((kinds, c.weight_depth), np.uint8)
        self._capture, self._results = Shared(c.sum_depth), np.zeros((kinds, c.sum_depth), bool)
        self._staged = np.zeros(c.stage_depth, bool)
        self._brought = (0, np.zeros(0, np.int64))  # the last STAGE, and the places that it writes
        # sums that are kept: the command that kept them, which of them mean something
        self._kept: Compute | None = None
        self._sums = np.zeros((kinds, c.sum_depth), bool)
        self._cause: dict[int, tuple[int, str, str]] = {}  # COMPUTE -> why some of its results mean nothing

    def take(self, index: int) -> None:
        """Carry out an instruction; IllFormedError if it must not stand there."""
        f = self._watch.code[index]
        if f.opcode is Opcode.LOAD_ACT:
            self._load_act(index, f)
        elif f.opcode is Opcode.STAGE:
            places = (f["base"] + np.arange(f["outer"] * f["inner"])) % self._config.stage_depth
            self._staged[places] = True
            self._brought = (index, places)
        elif f.opcode is Opcode.LOAD_WGT:
            self._load_wgt(index, f)
        elif f.opcode is Opcode.COMPUTE:
            self._compute(index, Compute.of(f))
        elif f.opcode is Opcode.STORE:
            self._store(index, f)

    def _load_act(self, index: int, f: Instruction) -> None:
        c = self._config
        if f["staged"]:
            places = operand(f) % c.stage_depth
            if not self._staged[places].all():
                at = int(places[~self._staged[places]][0])
                raise self._watch.fault(
                    index, "at", f"reads place {at} of the staging buffer, which no STAGE has written"
                )
            last, brought = self._brought
            met = np.isin(brought, places)
            if f["beside"] and met.any():
                at = int(brought[met][0])
                raise self._watch.fault(index, "beside", f"reads place {at} of the staging buffer beside", last)
        m, a = group_size(f), rectangle_rows(f)
        base, groups = f["base"] * c.act_lanes, -(-f["k"] // m)
        if f["mode"] == ActMode.WS_ROWS:
            held, places = self._act_held[:groups], slice(base, base + f["rows"] * m)
            held[:, places] = True
        elif f["mode"] == ActMode.OS_ROWS:
            places = slice(base, base + groups * a * m)
            self._act_held[:, places] = True
        else:
            used = min(a * c.rows, -(-f["rows"] // HALVES) * HALVES)
            line = base + (np.arange(groups)[:, None] * (a * m) + np.arange(m)).ravel()
            for i in range(-(-used // c.rows)):
                self._act_held[: min(c.rows, used - i * c.rows), line + i * m] = True
            places = (line + np.arange(-(-used // c.rows))[:, None] * m).ravel()
        self._watch.access(index, "base", self._act, places, _activations, write=True)

    def _load_wgt(self, index: int, f: Instruction) -> None:
        c = self._config
        b = INTERLEAVE // rectangle_rows(f)
        wide, across = (HALVES, f["inner"]) if f["dense"] else (LANES, f["blocks"])
        rows = f["outer"] if f["dense"] else f["outer"] * f["inner"]
        code = HELD_DENSE + f["log2_m_less_1"] if f["dense"] else HELD_PAIR
        used = min(wide, b * c.columns)
        base = f["base"]
        for column in range(0, (across - 1) * wide + used, self._span):
            j, kind = column // c.columns, column % c.columns // self._span
            at, behind = base + j, base + (rows + f["pad"]) * b
            self._wgt_held[kind, at : base + rows * b : b] = code
            self._wgt_held[kind, at + rows * b : behind : b] = HELD_FILLER
        places = slice(base, base + (rows + f["pad"]) * b)
        self._watch.access(index, "base", self._wgt, places, _pairs, write=True)

    def _compute(self, index: int, f: Compute) -> None:
        c, watch = self._config, self._watch
        groups = c.rows if f.ws else f.windows
        first = f.act_base * c.act_lanes
        act = slice(first, first + f.windows * f.a * f.m)
        wgt = slice(f.wgt_base, f.wgt_base + groups * f.n * f.b)
        watch.access(index, "act_base", self._act, act, _activations, write=False)
        watch.access(index, "wgt_base", self._wgt, wgt, _pairs, write=False)
        pairs = self._wgt_held[:, wgt].reshape(-1, groups, f.n, f.b)
        bad, why = self._results_of(f, pairs, self._act_held[:, act].reshape(c.rows, f.windows, f.a, f.m))
        if f.seed:
            bad = self._continue(index, f, bad)
        if bad.any() and index not in self._cause:
            self._cause[index] = (index, *why)
        count = bad.shape[1]
        if f.keep:
            self._kept, self._sums[:, :count] = f, ~bad
            self._keeper = index
            return
        self._kept = None
        places = slice(f.capture, f.capture + count)
        self._results[:, places] = ~bad
        watch.access(index, "capture", self._capture, places, _results, write=True)

    def _results_of(
        self, f: Compute, pairs: NDArray[np.uint8], acts: NDArray[np.bool_]
    ) -> tuple[NDArray[np.bool_], tuple[str, str]]:
        """Return which results [kind of column, place] are made of what nobody wrote, and of which field.

        pairs: codes [kind, group, slot, j]; acts: [array row, window, i, element], whether they were written.
        """
        # a place beyond M of a larger group is not there either
        wide = (pairs >= HELD_DENSE) & (2 << (np.maximum(pairs, HELD_DENSE).astype(np.int64) - HELD_DENSE) > f.m)
        empty = ((pairs == NOTHING) | wide).any(axis=(1, 2))  # [kind, j]
        needs = ((pairs != NOTHING) & (pairs != HELD_FILLER)).any(axis=2)  # [kind, group, j]
        lacks = ~acts.all(axis=3)  # [array row, window, i]
        shape = (f.windows if f.ws else self._config.rows, f.b, f.a)
        bad = np.broadcast_to(empty[:, None, :, None], (len(pairs), *shape))
        if lacks.any():
            # WS: groups are array rows, blocks are windows; OS: groups are windows
            where = "rwi,krj->kwji" if f.ws else "rwi,kwj->krji"
            met = np.einsum(where, lacks.astype(np.float32), needs.astype(np.float32)) > 0
            bad = bad | met
        why = ("wgt_base", f"weights of groups of {f.m}") if empty.any() else ("act_base", "activations")
        return bad.reshape(len(pairs), -1), why

    def _continue(self, index: int, f: Compute, bad: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Return which results mean nothing, those of the command in front among them; it must have kept its sums."""
        if self._kept is None:
            raise self._watch.fault(index, "seed", "continues the sums of the command in front, which has kept none")
        same = self._kept.shape == f.shape and (not f.ws or self._kept.windows == f.windows)
        if not same:
            what = "continues sums of another shape, those of"
            raise self._watch.fault(index, "seed", what, self._keeper)
        if self._keeper in self._cause:
            self._cause[index] = self._cause[self._keeper]
        return bad | ~self._sums[:, : bad.shape[1]]

    def _store(self, index: int, f: Instruction) -> None:
        c, a = self._config, rectangle_rows(f)
        t = np.arange(f["rows"])
        first = (t // a) * INTERLEAVE + t % a if f["ws"] else (t % c.rows) * INTERLEAVE + t // c.rows
        for kind in range(len(self._results)):
            start = kind * self._span
            for j in range(-(-(f["columns"] - start) // c.columns)):
                self._read_results(index, kind, f["capture"] + first + j * a)

    def _read_results(self, index: int, kind: int, places: NDArray[np.int64]) -> None:
        """Note that a STORE reads these places of the capture buffers of a kind of columns."""
        watch, held = self._watch, self._results[kind, places]
        watch.access(index, "capture", self._capture, places, _results, write=False)
        if held.all():
            return
        at = int(places[~held][0])
        number = int(self._capture.last(Queue.COMPUTE, write=True)[at])
        if number < 0:
            raise watch.fault(
                index, "capture", f"stores place {at} of the capture buffers, which no COMPUTE has written"
            )
        maker = watch.order.members[Queue.COMPUTE][number]
        culprit, name, operands = self._cause[maker]
        what = f"multiplies {operands} that no load has written, and the result is stored by"
        raise watch.fault(culprit, name, what, index)


def _activations(place: int) -> str:
    return f"place {place} of the activation buffers"


def _pairs(place: int) -> str:
    return f"place {place} of the weight buffers"


def _results(place: int) -> str:
    return f"place {place} of the capture buffers"
