"""Programs as the quick gear reads them: of each instruction only what time depends on, equal ones the same object.

Of a region only its port counts: symbols name ports where instructions name regions.

Legal instructions whose accesses stay within their regions meet no error of memory or check; any other program is for
the exact gear.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from nmsat.dataflow.contract.isa import LANES, OFFSET_MASK, REGIONS, ErrorCode, Instruction, Opcode
from nmsat.dataflow.contract.legal import error_code
from nmsat.dataflow.contract.limits import UPDATE_BURST
from nmsat.sim.store.beats import same_row

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from nmsat.dataflow.contract.config import SatConfig
    from nmsat.dataflow.contract.registers import Launch, Region
    from nmsat.sim.load.loader import Loader
    from nmsat.sim.run import Known
    from nmsat.sim.store.store import Store


_WALK: Final = frozenset(
    (
        *("region", "at", "line_at", "image_at", "x_step", "y_step", "image_step"),
        *("width", "height", "x0", "y0", "windowed", "staged", "rows"),
        *("ix0", "iy0", "ix_line", "iy_image", "ix_step", "iy_step", "in_width", "in_height"),
        *("outer", "inner_step", "outer_step", "block_step", "blocks", "base"),
    )
)
"""Fields of a load that only its beats depend on."""

_STORE_WALK: Final = frozenset(
    (
        *("region", "at", "line_at", "image_at", "x_step", "y_step", "image_step"),
        *(f"side_{name}" for name in ("region", "at", "line_at", "image_at", "x_step", "y_step", "image_step")),
        *("width", "height", "x0", "y0", "capture"),
    )
)
"""Fields of a store that only its bursts depend on."""

_COMPUTE_PLACES: Final = ("act_base", "wgt_base", "capture")
_CONSTANTS: Final = ("shift", "region", "lr", "mu", "wd", "lam")
_UPDATE_PLACES: Final = ("w_at", "g_at", "mask_at", "ff_at", "bp_at")


LOADS: Final = (Opcode.LOAD_ACT, Opcode.LOAD_WGT, Opcode.STAGE)


class Symbol(Instruction):
    """An instruction of which only what its time depends on is kept; two are equal if they are the same object."""

    __hash__ = object.__hash__

    def __eq__(self, other: object) -> bool:
        return self is other


@dataclass(frozen=True)
class Reach:
    """What an instruction accesses: region, least and largest offset in it, whether it writes."""

    region: int
    low: int
    high: int
    writes: bool = False

    @classmethod
    def at(cls, region: int, low: int, high: int, *, writes: bool = False) -> Reach:
        """Return the reach of offsets that wrap: from low to high, both included; none if high < low."""
        start = low & OFFSET_MASK
        return cls(region, start, start + high - low, writes)

    def moved(self, beats: int) -> Reach:
        """Return it so many beats further."""
        return Reach.at(self.region, self.low + beats, self.high + beats, writes=self.writes)

    def within(self, regions: Sequence[Region | None]) -> bool:
        """Whether all of it lies in the region, which may be written if need be."""
        if self.high < self.low:
            return True
        region = regions[self.region] if self.region < len(regions) else None
        if region is None or (self.writes and not region.writable):
            return False
        return self.low >= 0 and self.high < region.size


class Symbols:
    """Symbols of all instructions seen so far, for one configuration. engines: `sim.run` or its compiled twin; known:
    shared with the runs."""

    def __init__(self, config: SatConfig, engines: Any, known: Known) -> None:
        self._loader: Loader = engines.Loader(config, known.beats)
        self._store: Store = engines.Store(config, known.bursts)
        self._all: dict[tuple[Any, ...], Symbol] = {}

    def program(self, instructions: Sequence[Instruction], launch: Launch) -> list[Symbol] | None:
        """Return the symbols of a program, or None if an access may leave its region."""
        reader = Reader(self, ports_of(launch))
        symbols: list[Symbol] = []
        for instruction in instructions:
            symbol, reach = reader.read(instruction)
            if not all(part.within(launch.regions) for part in reach):
                return None
            symbols.append(symbol)
        return symbols

    def load(self, instruction: Instruction, joins: int, port: int) -> Symbol:
        """Return the symbol of a load whose first read beat follows the last one before it (1) or does not (0)."""
        beats, _ = self._loader.beats(instruction)
        kept = [item for item in instruction.fields.items() if item[0] not in _WALK or item[0] == "inner"]
        name = (instruction.opcode, port, beats.flags, joins, *sorted(item for item in kept if item[1]))
        return self._named(name, instruction, {"joins": joins, "region": port})

    def span(self, instruction: Instruction) -> tuple[int, int] | None:
        """Return the first offset that a load reads, and that behind its last one; None if it reads nothing.

        Behind the last is -1 if its last beat is one that is read: nothing can follow that.
        """
        beats, shift = self._loader.beats(instruction)
        if beats.high < beats.low:
            return None
        first, last = (beats.offsets[at] + shift & OFFSET_MASK for at in (beats.first, beats.last))
        return first, -1 if beats.flags[beats.last] & 8 else last + 1

    def reach(self, instruction: Instruction) -> Reach:
        """Return what a load that reads accesses."""
        beats, shift = self._loader.beats(instruction)
        return Reach.at(instruction["region"], beats.low + shift, beats.high + shift)

    def of(self, instruction: Instruction, joins: int, ports: Sequence[int]) -> Symbol:
        """Return the symbol of an instruction. joins: of a load, as in `load`; ports: of the regions."""
        if instruction.opcode in LOADS:
            return self.load(instruction, joins, ports[instruction["region"]])
        if instruction.opcode is Opcode.STORE:
            return self.store(instruction, ports)[0]
        return self.other(instruction, ports)

    def store(self, instruction: Instruction, ports: Sequence[int]) -> tuple[Symbol, tuple[Reach, ...]]:
        """Return the symbol of a STORE and what it accesses."""
        (writes, shift), (reads, side) = self._store.bursts(instruction)
        kept = [item for item in instruction.fields.items() if item[0] not in _STORE_WALK and item[1]]
        to, beside = ports[instruction["region"]], ports[instruction["side_region"]] if reads.beats else 0
        name = (instruction.opcode, to, beside, writes.beats, reads.beats, same_row(instruction), *sorted(kept))
        symbol = self._named(name, instruction, {"region": to, "side_region": beside})
        return symbol, (
            Reach.at(instruction["region"], writes.low + shift, writes.high + shift, writes=True),
            Reach.at(instruction["side_region"], reads.low + side, reads.high + side),
        )

    def other(self, instruction: Instruction, ports: Sequence[int]) -> Symbol:
        """Return the symbol of a COMPUTE, an UPDATE or END."""
        port = ports[instruction["region"]] if instruction.opcode is Opcode.UPDATE else 0
        fields = {name: value for name, value in instruction.fields.items() if value}
        for name in (*_COMPUTE_PLACES, *_CONSTANTS):
            fields.pop(name, None)
        for name in _UPDATE_PLACES:
            if name in fields:
                fields[name] %= UPDATE_BURST
        name = (instruction.opcode, port, *sorted(fields.items()))
        return self._named(name, Instruction(instruction.opcode, fields), {"region": port} if port else {})

    def _named(self, name: tuple[Any, ...], instruction: Instruction, changed: Mapping[str, int]) -> Symbol:
        symbol = self._all.get(name)
        if symbol is None:
            symbol = self._all[name] = Symbol(instruction.opcode, {**instruction.fields, **changed})
        return symbol


class Reader:
    """Reads the instructions of a program in order: whether loads join depends on those in front.

    ports: of the regions.
    """

    def __init__(self, symbols: Symbols, ports: Sequence[int]) -> None:
        self._symbols, self._ports = symbols, ports
        self._end = -1  # behind the last beat that was read, if zeros came after it; -1: nothing can follow

    def read(self, instruction: Instruction) -> tuple[Symbol, tuple[Reach, ...]]:
        """Return the symbol of the next instruction and what it accesses."""
        opcode = instruction.opcode
        if opcode in LOADS:
            return self._load(instruction)
        if opcode is Opcode.STORE:
            return self._symbols.store(instruction, self._ports)
        symbol = self._symbols.other(instruction, self._ports)
        return symbol, update_reach(instruction) if opcode is Opcode.UPDATE else ()

    def _load(self, instruction: Instruction) -> tuple[Symbol, tuple[Reach, ...]]:
        port = self._ports[instruction["region"]]
        span = self._symbols.span(instruction)
        if span is None:
            return self._symbols.load(instruction, 0, port), ()
        joins = 0
        if instruction.opcode is not Opcode.STAGE:  # which asks for itself
            joins = int(span[0] == self._end)
            self._end = span[1]
        return self._symbols.load(instruction, joins, port), (self._symbols.reach(instruction),)


def ports_of(launch: Launch) -> tuple[int, ...]:
    """Return the port of each region; 0 of one that is closed."""
    regions = (*launch.regions, *[None] * (REGIONS - len(launch.regions)))
    return tuple([0 if region is None else region.port for region in regions])


def update_reach(f: Instruction) -> tuple[Reach, ...]:
    """Return what an UPDATE accesses at most."""
    k, blocks = f["k"], -(-f["n"] // LANES)
    groups = -(-k // (2 << f["ff_log2_m_less_1"]))
    bp_groups = -(-f["n"] // (2 << f["bp_log2_m_less_1"]))
    sizes = {
        "w_at": 2 * blocks * k,
        "g_at": (k - 1) * f["g_step"] + -(-blocks // 2),
        "mask_at": blocks * groups,
        "ff_at": blocks * groups * (f["ff_n_less_1"] + 1),
        "bp_at": -(-k // LANES) * bp_groups * (f["bp_n_less_1"] + 1) * f["use_bp"],
    }
    return tuple(Reach(f["region"], f[name], f[name] + size - 1, name != "g_at") for name, size in sizes.items())


def decoded(words: Sequence[int], config: SatConfig) -> list[Instruction] | None:
    """Return the instructions of a program that ends with its only END, or None if one is not legal."""
    instructions: list[Instruction] = []
    for word in words:
        if error_code(word, config) is not ErrorCode.NONE:
            return None
        instructions.append(Instruction.decode(word))
    return instructions
