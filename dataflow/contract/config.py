"""The configuration of one SAT: the single object that drives schedule, simulator and circuit.

Whatever two views must agree on (sizes, latencies, presets) stands here or is derived here, once.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from nmsat.algorithms.core.ranges import GROUP_SIZES, short
from nmsat.dataflow.contract.ranges import MAX_NAME, MEMORY_RANGES, MOST_PORT_BITS, NAME_ALLOWED, SAT_RANGES, Range

if TYPE_CHECKING:
    from collections.abc import Mapping

INTERLEAVE: Final = 8
"""Independent outputs per element. It covers the adder loop and the operand bandwidth of N:M (design, section 4)."""

MAX_GROUP: Final = GROUP_SIZES[-1]
"""Places of the largest group, and so the most pairs an element keeps of one."""

UNDER_WAY: Final = 16
"""Bursts of one direction that the master of the machine lets be under way; a channel of memory takes as many."""

PRODUCT_STAGES: Final = 2
"""Registers between the operand memories of an element and its adder: operands, product."""


@dataclass(frozen=True, kw_only=True)
class MemoryConfig:
    """External memory as the simulator and the test benches model it.

    What each field means, its unit and its range stand in `ranges.MEMORY_RANGES`.
    Raises TypeError or ValueError for what docs/limits.md does not allow.
    """

    channels: int = 4
    bytes_per_second: float = 19.2e9
    efficiency: float = 0.68
    latency_ns: float = 120.0
    burst_bytes: int = 4096
    outstanding: int = UNDER_WAY

    def __post_init__(self) -> None:
        for field in MEMORY_RANGES:
            field.check(getattr(self, field.name))

    @property
    def planned(self) -> tuple[str, ...]:
        """In words, what of this memory the machine in RTL does not use."""
        return _planned(self, MEMORY_RANGES, "memory.")


@dataclass(frozen=True, kw_only=True)
class SatConfig:
    """Sizes of one SAT.

    What each field means, its unit and its range stand in `ranges.SAT_RANGES` and `ranges.SAT_PLAIN`.
    Raises TypeError or ValueError for what docs/limits.md does not allow. What is allowed and not built is `planned`.
    """

    name: str
    rows: int
    columns: int
    clock_mhz: float = 200.0
    act_lanes: int = 1
    adder_stages: int = 4
    row_slices: tuple[int, ...] = ()
    column_slices: tuple[int, ...] = ()
    act_depth: int = 4096
    weight_depth: int = 4096
    sum_depth: int = 4096
    stage_depth: int = 1024
    sore_lanes: int = 16
    wuve_lanes: int = 16
    ports: int = 1
    port_bits: int = MOST_PORT_BITS
    memory: MemoryConfig = MemoryConfig()

    def __post_init__(self) -> None:
        if not isinstance(self.name, str):
            raise TypeError(f"name is {self.name!r}; it must be a text")
        if not self.name.isprintable() or not 1 <= len(self.name) <= MAX_NAME or not _is_part(self.name):
            raise ValueError(f"name is {short(self.name)}; it must be {NAME_ALLOWED}")
        for field in SAT_RANGES:
            field.check(getattr(self, field.name))
        if self.sum_depth < INTERLEAVE * self.rows:
            least = INTERLEAVE * self.rows
            raise ValueError(f"sum_depth is {self.sum_depth!r}; a tile of {self.rows} rows needs 8 rows = {least}")
        for name, limit in (("row_slices", self.rows), ("column_slices", self.columns)):
            _check_slices(name, getattr(self, name), limit)
        if not isinstance(self.memory, MemoryConfig):
            raise TypeError(f"memory is {self.memory!r}; it must be a MemoryConfig")

    @property
    def planned(self) -> tuple[str, ...]:
        """In words, what of this machine is not built in RTL: `hw` refuses it, and results that use it say so."""
        return _planned(self, SAT_RANGES, "")

    @property
    def elements(self) -> int:
        """Number of elements (MAC units) of the array."""
        return self.rows * self.columns

    @property
    def act_bank(self) -> int:
        """Activations one bank of an element's operand memory holds: the limit of a * M."""
        return 16 * self.act_lanes

    @property
    def weight_bank(self) -> int:
        """Pairs one bank of an element's weight memory holds: the limit of N * b in weight stationary."""
        return 16

    @property
    def parts(self) -> int:
        """Transfers of a memory port in which it moves a beat of 64 bytes (docs/machine/memory.md)."""
        return MOST_PORT_BITS // self.port_bits

    def replace(self, **changes: object) -> SatConfig:
        """Return a copy with the given fields changed, checked again.

        Slices that lie beyond fewer rows or columns go with them, unless slices are given.
        """
        return dataclasses.replace(self, **{**self.slices_within(changes), **changes})  # type: ignore[arg-type]

    def slices_within(self, changes: Mapping[str, object]) -> dict[str, tuple[int, ...]]:
        """Return the slices that are left when rows or columns change."""
        found = {}
        for name, side in (("row_slices", "rows"), ("column_slices", "columns")):
            count = changes.get(side)
            if isinstance(count, int) and any(at >= count for at in getattr(self, name)):
                found[name] = tuple(at for at in getattr(self, name) if at < count)
        return found


def _is_part(name: str) -> bool:
    """Tell whether a name stays a part of a file name, and leads to no other folder."""
    return not name.startswith(".") and not {"/", "\\"} & set(name)


def slices_between(limit: int) -> str:
    """Return in words which slices an array has room for. limit: its rows or columns."""
    return f"ascending whole numbers from 1 to {limit - 1}" if limit > 1 else "empty: there is nothing between slices"


def _check_slices(name: str, slices: object, limit: int) -> None:
    what = slices_between(limit)
    places = slices if isinstance(slices, tuple) else None
    if places is None or any(isinstance(at, bool) or not isinstance(at, int) for at in places):
        raise TypeError(f"{name} is {slices!r}; it must be a tuple, {what}")
    if list(places) != sorted(set(places)) or any(not 0 < at < limit for at in places):
        raise ValueError(f"{name} is {slices!r}; it must be a tuple, {what}")


def _planned(config: object, ranges: tuple[Range, ...], prefix: str) -> tuple[str, ...]:
    found = (field.unbuilt(getattr(config, field.name)) for field in ranges)
    return tuple(f"{prefix}{text}" for text in found if text)


ONE_CHANNEL: Final = MemoryConfig(channels=1)
"""Memory behind the single AXI4 master of the machine (docs/machine/memory.md)."""

PRESETS: Final[dict[str, SatConfig]] = {
    config.name: config
    for config in (
        SatConfig(
            name="tiny",
            rows=4,
            columns=4,
            act_depth=2048,
            weight_depth=2048,
            sum_depth=1024,
            stage_depth=512,
            memory=ONE_CHANNEL,
        ),
        SatConfig(name="small", rows=8, columns=8, memory=ONE_CHANNEL),
        SatConfig(
            name="vcu1525",
            rows=32,
            columns=32,
            act_lanes=2,
            row_slices=(11, 22),  # the links cross to the next of three SLR there
            act_depth=8192,
            stage_depth=8192,
            weight_depth=32768,  # half: 256 columns of K = 4608 at 2:8; cycles.buffers counts the RAM
        ),
    )
}


CARDS: Final[dict[str, SatConfig]] = {
    config.name: config
    for config in (
        PRESETS["vcu1525"].replace(name="u200"),
        PRESETS["vcu1525"].replace(name="u250", row_slices=(8, 16, 24)),  # four SLR
        SatConfig(
            name="zcu102",
            rows=16,
            columns=16,
            act_lanes=2,
            act_depth=8192,
            stage_depth=8192,
            weight_depth=16384,
            wuve_lanes=1,
            port_bits=128,
            memory=ONE_CHANNEL,
        ),
        SatConfig(
            name="kv260",
            rows=8,
            columns=8,
            act_lanes=2,
            act_depth=8192,
            stage_depth=4096,
            weight_depth=8192,
            sum_depth=2048,
            wuve_lanes=1,
            port_bits=128,
            memory=ONE_CHANNEL,
        ),
        SatConfig(
            name="pynq-z2",
            rows=4,
            columns=2,
            clock_mhz=100.0,
            act_depth=4096,
            stage_depth=1024,
            weight_depth=8192,
            sum_depth=2048,
            wuve_lanes=1,
            port_bits=64,
            memory=MemoryConfig(channels=1, bytes_per_second=2.1e9),
        ),
    )
}
"""Machines for boards: the largest array that is built and that fits by the estimate of `nmsat config check`, with
at most 80 % of the LUTs and buffers in the block RAM. Ports of Zynq boards are as wide as those of their processing
systems, and one lane of WUVE hides behind them (docs/machine/update.md). None of them was placed; `PRESETS` are those
that tests build."""

NAMED: Final = {**PRESETS, **CARDS}
"""All configurations that have a name."""

MANY_PORTS: Final = ("2", "4")
"""What may stand behind the name of a preset and a dash: AXI4 masters."""


def preset(name: str) -> SatConfig:
    """Return the configuration called `name`, "vcu1525-2" with two AXI4 masters; ValueError lists the known ones."""
    base, _, ports = name.rpartition("-")
    if base in NAMED and ports in MANY_PORTS:
        return NAMED[base].replace(name=name, ports=int(ports))
    try:
        return NAMED[name]
    except KeyError:
        known = f"{', '.join(NAMED)}, each also with -2 or -4 behind it for so many memory ports"
        raise ValueError(f"config is {name!r}; known configurations: {known}") from None
