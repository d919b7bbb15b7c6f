"""Fetch and check of instructions, cycle by cycle (hw/control/fetch.py)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from nmsat.dataflow.contract.isa import OFFSET_MASK, ErrorCode, Instruction, Opcode
from nmsat.dataflow.contract.legal import error_code
from nmsat.dataflow.contract.limits import CHECK_CYCLES, FETCH_BEATS, FETCH_BURST
from nmsat.sim.memory.port import Burst

if TYPE_CHECKING:
    from nmsat.dataflow.contract.config import SatConfig
    from nmsat.dataflow.contract.registers import Launch
    from nmsat.sim.parts.state import Key

FAR: Final = FETCH_BEATS + FETCH_BURST
"""With so many instructions left to load, fetch does not see the end of the program."""


Checked = tuple[ErrorCode, Instruction | None]
"""What the check says to an instruction, and the instruction if it is legal."""


class Words(Sequence[Checked]):
    """A program as it stands in memory, checked word by word when it is asked for."""

    def __init__(self, config: SatConfig, words: Sequence[int]) -> None:
        self._config = config
        self._words = words
        self._known: dict[int, Checked] = {}

    def __len__(self) -> int:
        return len(self._words)

    def __getitem__(self, index: Any) -> Any:
        word = self._words[index]
        if word not in self._known:
            code = error_code(word, self._config)
            self._known[word] = (code, Instruction.decode(word) if code is ErrorCode.NONE else None)
        return self._known[word]


class Fetch:
    """Registers of `hw.control.fetch.Fetch`.

    program: its instructions, checked; missing ones are never reached, since the port refuses to read them.
    request: burst asked for; index: of the instruction handed out; received: instructions that have arrived.
    """

    def __init__(self, launch: Launch, program: Sequence[Checked]) -> None:
        self._launch = launch
        self._program = program
        self._asked = self._held = self._loaded = self._phase = 0
        self.received = 0
        self.index = 0
        self.request: Burst | None = None
        self.code = ErrorCode.NONE
        self.instruction: Instruction | None = None
        self.still = False  # nothing changes before a beat, a grant or a take

    @property
    def loaded(self) -> int:
        """Instructions that have been taken into the check register so far."""
        return self._loaded

    @property
    def checks(self) -> bool:
        """Whether an instruction stands in the check register."""
        return self._phase != 0

    def key(self) -> Key:
        """Return the state without addresses but for the region; places count from the instruction loaded next."""
        at, left = self._launch.program_at + self._asked, self._launch.program_count - self._loaded
        instruction = self.instruction if self._phase else None
        beats = self.request.beats if self.request is not None else 0
        counts = self._asked - self._loaded, self.received - self._loaded, self._held, self._phase
        return at % FETCH_BURST, min(left, FAR), *counts, beats, instruction, self._launch.program_region

    def restore(self, key: Key, loaded: int) -> None:
        """Return to a state that `key` gave, in a program of which so many instructions have been loaded."""
        _, _, asked, received, self._held, self._phase, beats, self.instruction, _ = key
        self._loaded, self.index = loaded, max(0, loaded - 1)
        self._asked, self.received = loaded + asked, loaded + received
        self.request = Burst(self._launch.program_region, 0, beats) if beats else None
        self.code, self.still = ErrorCode.NONE, False

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
        if self.still and not (granted or arrives or take):
            return
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
        self.still = self.settled

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
        self.code, self.instruction = self._program[self._loaded]
        self.index = self._loaded
        self._loaded += 1
        self._held -= 1
        self._phase = 1
        last = self._loaded == self._launch.program_count
        if last and self.instruction is not None and self.instruction.opcode is not Opcode.END:
            self.code = ErrorCode.NO_END
