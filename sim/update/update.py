"""When the update engine moves (hw/update/update.py): requests, beats, start and end of instructions, cycle by cycle.

Values are those of `sim.update.values`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from nmsat.algorithms.core.tape import Pattern
from nmsat.dataflow.contract.codes import group_size, kept
from nmsat.sim.parts.state import Key, Registers
from nmsat.sim.update.pregen_timing import LANES, PregenTiming
from nmsat.sim.update.read import UpdateRead
from nmsat.sim.update.write import UpdateWrite

if TYPE_CHECKING:
    from nmsat.dataflow.contract.config import SatConfig
    from nmsat.dataflow.contract.isa import Instruction
    from nmsat.sim.memory.port import Burst


SETUP: Final = 3
"""Cycles between the one that takes an instruction and the first one of its pass."""


class _Pass(Registers):
    """One instruction: the streams and pre-generation between them."""

    REGISTERS = ("_row", "_block", "_place", "_fed", "_flush", "_pregen", "read", "write")

    def __init__(self, instruction: Instruction, parts: int) -> None:
        ff, bp = (Pattern(kept(instruction, copy), group_size(instruction, copy)) for copy in ("ff_", "bp_"))
        self._k, self._m = instruction["k"], ff.m
        self._blocks = -(-instruction["n"] // LANES)
        self._masked = instruction["use_mask"] == 1
        self._row = self._block = self._place = 0
        self._fed = self._flush = False
        self._pregen = PregenTiming(self._k, instruction["n"], ff, bp if instruction["use_bp"] else None, parts)
        self.read = UpdateRead(instruction, self._blocks, -(-self._k // ff.m))
        self.write = UpdateWrite(instruction, self._blocks)

    def tick(self, granted: bool, arrives: bool, write_granted: bool, pulled: bool, acknowledged: bool) -> bool:
        """End the cycle; return whether the instruction ends with it."""
        pregen, read, write = self._pregen, self.read, self.write
        drained = self._fed and pregen.idle
        ends = self._flush and write.empty
        valid = read.valid
        moves = valid and pregen.ready
        state, ff, bp = write.state_ready, write.ff_ready, write.bp_ready
        write.tick(write_granted, pulled, acknowledged, self._flush, pregen)
        pregen.tick(valid, state, ff, bp)
        read.tick(granted, arrives, moves, moves and self._number())
        self._flush = drained
        return ends

    def _number(self) -> bool:
        """Count the row that is taken; return whether its mask is needed no more."""
        last = self._row == self._k - 1
        group = last or self._place == self._m - 1
        self._place = 0 if group else self._place + 1
        self._row = 0 if last else self._row + 1
        self._block += last
        self._fed = self._block == self._blocks
        return group and self._masked


class Updater(Registers):
    """The update engine between two clock edges. done: an instruction has ended, for one cycle."""

    REGISTERS = ("done", "_starting", "_setup")

    def __init__(self, config: SatConfig) -> None:
        if config.sore_lanes != LANES:
            raise ValueError(f"sore_lanes is {config.sore_lanes!r}; the update engine works on beats of {LANES}")
        if config.wuve_lanes < 1 or LANES % config.wuve_lanes:
            raise ValueError(f"wuve_lanes is {config.wuve_lanes!r}; {LANES} lanes must be equal parts of so many")
        self._parts = LANES // config.wuve_lanes
        self.done = False
        self._starting: Instruction | None = None
        self._setup = 0
        self._pass: _Pass | None = None
        self._present: Instruction | None = None  # that of the pass

    def key(self) -> Key:
        """Return the state without regions; addresses of a pass are part of it."""
        return (*super().key(), self._present, () if self._pass is None else self._pass.key())

    def restore(self, key: Key) -> None:
        """Return to a state that `key` gave."""
        super().restore(key[:-2])
        self._present, inner = key[-2:]
        self._pass = None
        if self._present is not None:
            self._pass = _Pass(self._present, self._parts)
            self._pass.restore(inner)

    @property
    def ready(self) -> bool:
        """Whether an instruction can start in this cycle."""
        return self._pass is None and self._starting is None

    @property
    def busy(self) -> bool:
        """Whether an instruction is inside."""
        return not self.ready

    @property
    def active(self) -> bool:
        """Whether there is anything to do but to take an instruction."""
        return self.done or not self.ready

    @property
    def request(self) -> Burst | None:
        """Read request that stands in this cycle."""
        return None if self._pass is None else self._pass.read.request

    @property
    def write_request(self) -> Burst | None:
        """Write request that stands in this cycle."""
        return None if self._pass is None else self._pass.write.request

    def tick(
        self,
        start: Instruction | None,
        granted: bool,
        arrives: bool,
        write_granted: bool,
        pulled: bool,
        acknowledged: bool,
    ) -> None:
        """End the cycle.

        start: instruction taken in this cycle; granted, arrives: read request accepted, beat here; write_granted,
        pulled, acknowledged: write request accepted, beat taken, one more burst in memory.
        """
        self.done = False
        if self._pass is not None:
            if self._pass.tick(granted, arrives, write_granted, pulled, acknowledged):
                self._pass = self._present = None
                self.done = True
        elif self._starting is not None:
            self._setup += 1
            if self._setup == SETUP:
                self._pass, self._present = _Pass(self._starting, self._parts), self._starting
                self._starting, self._setup = None, 0
        elif start is not None:
            self._starting, self._setup = start, 0
