"""Fetch and check of instructions, cycle by cycle (hw/control/fetch.py)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nmsat.dataflow.contract.isa import OFFSET_MASK, ErrorCode, Instruction, Opcode
from nmsat.dataflow.contract.legal import error_code
from nmsat.dataflow.contract.limits import CHECK_CYCLES, FETCH_BEATS, FETCH_BURST
from nmsat.sim.memory.port import Burst

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nmsat.dataflow.contract.config import SatConfig
    from nmsat.dataflow.contract.registers import Launch


class Fetch:
    """Registers of `hw.control.fetch.Fetch`.

    words: the program as it stands in memory; missing ones are never reached, since the port refuses to read them.
    request: burst asked for; index: of the instruction handed out; received: instructions that have arrived.
    """

    def __init__(self, config: SatConfig, launch: Launch, words: Sequence[int]) -> None:
        self._config = config
        self._launch = launch
        self._words = words
        self._known: dict[int, tuple[ErrorCode, Instruction | None]] = {}
        self._asked = self._held = self._loaded = self._phase = 0
        self.received = 0
        self.index = 0
        self.request: Burst | None = None
        self.code = ErrorCode.NONE
        self.instruction: Instruction | None = None

    @property
    def valid(self) -> bool:
        """Whether an instruction is handed out."""
        return self._phase == CHECK_CYCLES

    @property
    def settled(self) -> bool:
        """Whether nothing changes without a beat, a grant or a take."""
        return (
            self._phase in (0, CHECK_CYCLES)
            and (self.request is not None or not self._asks())
            and (self._phase == CHECK_CYCLES or self._loaded == self.received)
        )

    def tick(self, run: bool, granted: bool, arrives: bool, take: bool) -> None:
        """End the cycle. take: the instruction handed out has left."""
        phase = self._phase
        loads = self.received > self._loaded and (phase == 0 or (phase == CHECK_CYCLES and take))
        if granted:
            self.request = None
        elif run and self.request is None:
            self._held += self._ask()
        if loads:
            self._load()
        elif phase == CHECK_CYCLES:
            self._phase = 0 if take else CHECK_CYCLES
        elif phase:
            self._phase += 1
        if arrives:
            self.received += 1

    def _beats(self) -> int:
        at = self._launch.program_at + self._asked
        return min(FETCH_BURST - at % FETCH_BURST, self._launch.program_count - self._asked)

    def _asks(self) -> bool:
        beats = self._beats()
        return beats > 0 and self._held + beats <= FETCH_BEATS

    def _ask(self) -> int:
        """Ask for the next burst if there is room; return its beats."""
        if not self._asks():
            return 0
        beats = self._beats()
        offset = (self._launch.program_at + self._asked) & OFFSET_MASK
        self.request = Burst(self._launch.program_region, offset, beats)
        self._asked += beats
        return beats

    def _load(self) -> None:
        """Take the next instruction into the check register."""
        word = self._words[self._loaded]
        self.index = self._loaded
        self._loaded += 1
        self._held -= 1
        self._phase = 1
        if word not in self._known:
            code = error_code(word, self._config)
            self._known[word] = (code, Instruction.decode(word) if code is ErrorCode.NONE else None)
        self.code, self.instruction = self._known[word]
        last = self._loaded == self._launch.program_count
        if last and self.instruction is not None and self.instruction.opcode is not Opcode.END:
            self.code = ErrorCode.NO_END
