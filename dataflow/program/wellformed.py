"""Well-formed programs: those of which memory, cycles, counters and flags are the same on every machine.

docs/machine/programs.md says what is asked of a program. Time and room grow with the beats that it touches.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

import numpy as np

from nmsat.dataflow.contract.isa import BEAT_BYTES, INSTRUCTIONS, Instruction, Opcode, Queue
from nmsat.dataflow.contract.legal import products, rules
from nmsat.dataflow.program.held import Buffers, Shared, Watch
from nmsat.dataflow.program.order import Fault, IllFormedError, order
from nmsat.dataflow.program.touches import touches, update_sizes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from nmsat.dataflow.contract.config import SatConfig
    from nmsat.dataflow.contract.registers import Launch, Region
    from nmsat.dataflow.program.touches import Touch

ADDRESS_BEATS: Final = (1 << 64) // BEAT_BYTES
"""Beats of the address space; addresses wrap behind it."""


def check_words(config: SatConfig, words: Sequence[int], settings: Launch) -> None:
    """Raise IllFormedError unless a program in memory, as the host starts it, is well-formed.

    words: of 512 bits, as many as its region holds of the `program_count` announced. Behind END nothing counts.
    """
    code: list[Instruction] = []
    for index, word in enumerate(words[: settings.program_count]):
        try:
            instruction = Instruction.decode(word)
        except ValueError as error:
            raise IllFormedError(Fault(index, f"opcode {word & 15}", "opcode", str(error))) from None
        code.append(instruction)
        if instruction.opcode is Opcode.END:
            break
    check_well_formed(config, code, settings)


def check_well_formed(config: SatConfig, code: Sequence[Instruction], settings: Launch) -> None:
    """Raise IllFormedError unless a program, END last, is well-formed where the host starts it."""
    for index, instruction in enumerate(code):
        _check_rules(config, index, instruction)
        if instruction.opcode is Opcode.END and index + 1 < len(code):
            raise IllFormedError(Fault(index, "END", "opcode", f"stands in front of {len(code) - index - 1} others"))
    if not code or code[-1].opcode is not Opcode.END:
        raise IllFormedError(Fault(len(code), "nothing", "opcode", "the program has no END"))
    _check_place(settings, len(code))
    work = code[:-1]
    watch = Watch(work, order(work))
    buffers, memory = Buffers(config, watch), _Memory(settings, watch, len(code))
    for index in watch.order.turns:
        buffers.take(index)
        memory.take(index)


def _check_rules(config: SatConfig, index: int, instruction: Instruction) -> None:
    """Raise IllFormedError with the first rule of `dataflow.contract.legal` that an instruction breaks."""
    opcode, fields = instruction.opcode, instruction.values()
    for rule, holds in rules(opcode, fields, products(opcode, fields), config).items():
        if not holds:
            names = [name for name in INSTRUCTIONS[opcode].by_name if name in rule]
            field = max(names, key=len) if names else "opcode"
            raise IllFormedError(Fault(index, opcode.name, field, f"breaks the rule {rule!r}"))


def _check_place(settings: Launch, count: int) -> None:
    region = _region(settings, settings.program_region)
    if region is None or settings.program_at + count > region.size:
        what = f"the program leaves its region {settings.program_region}, or that is closed"
        raise IllFormedError(Fault(0, "the program", "program_at", what))


def _region(settings: Launch, number: int) -> Region | None:
    return settings.regions[number] if number < len(settings.regions) else None


class _Memory:
    """Who touches which beat of memory, region by region at its address."""

    def __init__(self, settings: Launch, watch: Watch, count: int) -> None:
        self._settings, self._watch = settings, watch
        self._touches = [self._of(index) for index in range(len(watch.code))]
        fetched = self._beats(settings.program_region, settings.program_at + np.arange(count))
        parts = [fetched, *(beats for found in self._touches for _, beats in found)]
        self._all, places = np.unique(np.concatenate(parts), return_inverse=True)
        ends = np.cumsum([len(part) for part in parts])
        split = np.split(places, ends[:-1])
        self._fetched = np.zeros(len(self._all), bool)
        self._fetched[split[0]] = True
        rest = iter(split[1:])
        self._places = [[next(rest) for _ in found] for found in self._touches]
        self._shared = Shared(len(self._all))
        self._watched = Shared(1)  # the flag `special`

    def _of(self, index: int) -> list[tuple[Touch, NDArray[np.int64]]]:
        """Return what an instruction touches, with addresses in beats; IllFormedError outside its regions."""
        f = self._watch.code[index]
        if f.opcode is Opcode.UPDATE:  # before beats are listed that nothing holds
            region = _region(self._settings, f["region"])
            for name, beats in update_sizes(f).items():
                if region is None or f[name] + beats > region.size:
                    raise self._watch.fault(index, name, f"reaches beyond region {f['region']}, or that is closed")
        found = []
        for touch in touches(f):
            region = _region(self._settings, touch.region)
            name = f"{touch.field.removesuffix('at')}region"
            if region is None:
                raise self._watch.fault(index, name, f"names region {touch.region}, which is closed")
            if touch.write and not region.writable:
                raise self._watch.fault(index, name, f"writes to region {touch.region}, which is read only")
            last = int(touch.beats.max(initial=0))
            if len(touch.beats) and last >= region.size:
                what = f"reaches beat {last} of region {touch.region}, which has {region.size}"
                raise self._watch.fault(index, touch.field, what)
            found.append((touch, self._beats(touch.region, touch.beats)))
        return found

    def _beats(self, number: int, offsets: NDArray[np.int64]) -> NDArray[np.int64]:
        region = _region(self._settings, number)
        assert region is not None
        return (region.base // BEAT_BYTES + offsets) % ADDRESS_BEATS

    def take(self, index: int) -> None:
        """Note what an instruction touches, in its turn."""
        f, watch = self._watch.code[index], self._watch
        self._check_alone(index)
        for (touch, _), places in zip(self._touches[index], self._places[index], strict=True):
            if touch.write and self._fetched[places].any():
                raise watch.fault(index, touch.field, "overwrites an instruction of the program")
            if f.opcode is Opcode.STORE and not touch.write and f["beside"]:
                self._check_beside(index, touch, places)
            name = partial(self._name, touch.region)
            watch.access(index, touch.field, self._shared, places, name, write=touch.write)
        flag = np.zeros(1, np.int64)
        if f.opcode is Opcode.STORE and f["watch"]:
            watch.access(index, "watch", self._watched, flag, _flag, write=True)
        elif f.opcode is Opcode.UPDATE:
            watch.access(index, "wait", self._watched, flag, _flag, write=False)

    def _name(self, number: int, place: int) -> str:
        region = _region(self._settings, number)
        assert region is not None
        offset = (int(self._all[place]) - region.base // BEAT_BYTES) % ADDRESS_BEATS
        return f"beat {offset} of region {number}"

    def _check_beside(self, index: int, touch: Touch, places: NDArray[np.int64]) -> None:
        """A second operand that is read beside the stores in front must not be what one of them writes."""
        last = self._shared.last(Queue.STORE, write=True)[places]
        if int(last.max(initial=-1)) >= self._watch.order.before[index][Queue.STORE]:
            other = self._watch.order.members[Queue.STORE][int(last.max())]
            raise self._watch.fault(index, "beside", f"reads {touch.field} beside the store that writes it,", other)

    def _check_alone(self, index: int) -> None:
        """What one instruction reads and writes must not meet, but for what it changes in place."""
        parts = [(touch, places) for (touch, _), places in zip(self._touches[index], self._places[index], strict=True)]
        if self._watch.code[index].opcode is Opcode.STORE:
            if len(parts) == 2:
                self._check_rows(index, parts[0], parts[1])
            return
        for number, (touch, places) in enumerate(parts):
            for other, others in parts[number + 1 :]:
                apart = touch.field == other.field or not (touch.write or other.write)
                if not apart and np.isin(places, others).any():
                    raise self._watch.fault(index, other.field, f"lies over the tensor at {touch.field}")

    def _check_rows(self, index: int, side: tuple[Touch, NDArray], result: tuple[Touch, NDArray]) -> None:
        """A STORE may write over its second operand where that was read for the same row or one in front."""
        (read, places), (wrote, others) = side, result
        assert read.row is not None
        assert wrote.row is not None
        met = np.isin(places, others)
        if not met.any():
            return
        # rows ascend, so the first of a beat is its earliest
        written, first = np.unique(others, return_index=True)
        earliest = wrote.row[first[np.searchsorted(written, places[met])]]
        if (earliest < read.row[met]).any():
            raise self._watch.fault(index, "side_at", "reads for a later row what an earlier one has overwritten")


def _flag(place: int) -> str:
    del place  # there is one
    return "the flag `special`"
