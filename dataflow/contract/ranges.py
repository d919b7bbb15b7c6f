"""Which values the fields of a configuration may have, and which of them the machine in RTL is built for.

`dataflow.contract.config` checks by these tables when a configuration is made; docs/limits.md is a print of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from nmsat.algorithms.core.ranges import check_number, check_whole

MAX_ADDER_STAGES: Final = 7
"""Adder registers that fit into the accumulator loop: 8 interleaved outputs less the accumulator memory's write."""

MAX_NAME: Final = 100
"""Longest name of a configuration."""

NAME_ALLOWED: Final = f"one line of 1 to {MAX_NAME} characters, none of them / or \\, the first no dot"
"""Names of configurations, in words; they are parts of file names."""

MAX_PORTS: Final = 4
"""Most AXI4 masters: a region each."""

MOST_PORT_BITS: Final = 512
"""Data bits of the widest memory port: a beat of 64 bytes, the unit of every layout."""

LEAST_PORT_BITS: Final = 64
"""Data bits of the narrowest one, which moves a beat in 8 parts; 16 beats are then 128 of the 256 transfers of AXI4."""

_SIDES: Final = (1, 2, 4, 8, 16, 32)
_BEAT: Final = 16


@dataclass(frozen=True, kw_only=True)
class Range:
    """The values of one field.

    what: the field in words; low, high: both included; whole: an int, else an int or a float; power: of two; built:
    values that the machine in RTL is built for, None for all; unit, why: for people.
    """

    name: str
    what: str
    low: float
    high: float
    why: str
    unit: str = ""
    whole: bool = True
    power: bool = False
    built: tuple[int, ...] | None = None

    @property
    def allowed(self) -> str:
        """The values in words."""
        kind = "a power of two from" if self.power else "from" if self.whole else "a number from"
        return f"{kind} {shown(self.low)} to {shown(self.high)}"

    def check(self, value: object) -> None:
        """Raise TypeError or ValueError, in one line with name, value and limits, unless the field may be value."""
        if not self.whole:
            check_number(self.name, value, self.low, self.high)
            return
        check_whole(self.name, value, int(self.low), int(self.high))
        if self.power and isinstance(value, int) and value & (value - 1):
            raise ValueError(f"{self.name} is {value!r}; it must be a power of two from {self.low} to {self.high}")

    def unbuilt(self, value: int) -> str:
        """Return in words why the machine in RTL is not built for a value that the field may have; '' if it is."""
        if self.built is None or value in self.built:
            return ""
        return f"{self.name} is {value!r}; the machine in RTL is built for {listed(self.built)}"


@dataclass(frozen=True, kw_only=True)
class Plain:
    """A field that is no number: the name, what it is and which values it takes, in words; why, for people."""

    name: str
    what: str
    allowed: str
    why: str


def shown(value: float) -> str:
    """Return such as 65,536, 0.01 or 1e+12."""
    return f"{int(value):,}" if isinstance(value, int) or (value.is_integer() and value < 1e7) else f"{value:g}"


def listed(values: tuple[int, ...]) -> str:
    """Return '1, 2 or 4'."""
    *front, last = map(str, values)
    return f"{', '.join(front)} or {last}" if front else last


SAT_PLAIN: Final = (
    Plain(
        name="name",
        what="what the machine is called",
        allowed=NAME_ALLOWED,
        why="stands in messages, files and names of files",
    ),
    Plain(
        name="row_slices",
        what="rows with a register slice more in front of them, where the array crosses from die to die",
        allowed="ascending, from 1 to rows - 1",
        why="a slice stands between two rows",
    ),
    Plain(
        name="column_slices",
        what="columns with a register slice more in front of them",
        allowed="ascending, from 1 to columns - 1",
        why="a slice stands between two columns",
    ),
)
"""Fields of `SatConfig` that are no numbers; `memory` has fields of its own."""

SAT_RANGES: Final = (
    Range(
        name="rows",
        what="elements of the array, one below the other (R)",
        low=1,
        high=256,
        unit="elements of a column",
        built=_SIDES,
        why="a beat of 32 numbers is dealt to whole sets of rows",
    ),
    Range(
        name="columns",
        what="elements of the array, side by side (C)",
        low=1,
        high=256,
        unit="elements of a row",
        built=_SIDES,
        why="a beat of 32 numbers holds whole chunks of C",
    ),
    Range(
        name="clock_mhz",
        what="clock of the whole machine",
        low=1,
        high=1000,
        unit="MHz",
        whole=False,
        why="periods of 1 ns to 1 us",
    ),
    Range(
        name="act_lanes",
        what="activations that a row link carries per cycle",
        low=1,
        high=2,
        unit="activations per cycle",
        why="operand banks of 16 or 32",
    ),
    Range(
        name="adder_stages",
        what="registers inside the adder of an element",
        low=1,
        high=MAX_ADDER_STAGES,
        unit="registers",
        why="8 outputs cover the adder's loop",
    ),
    *(
        Range(
            name=name,
            what=what,
            low=64,
            high=1 << 16,
            unit=unit,
            power=True,
            why="16 bits of address in an instruction",
        )
        for name, unit, what in (
            ("act_depth", "beats of a row", "activation buffer of a row, both halves together"),
            ("weight_depth", "pairs of a column", "weight buffer of a column, both halves together"),
            ("sum_depth", "sums of a column", "binary32 sums that the result buffer of a column holds"),
            ("stage_depth", "beats of 64 bytes", "staging buffer, read as often as windows of a convolution overlap"),
        )
    ),
    *(
        Range(
            name=name,
            what=f"lanes of the {engine} engine",
            low=1,
            high=256,
            unit="elements per cycle",
            built=built,
            why=why,
        )
        for name, engine, built, why in (
            ("sore_lanes", "pruning", (_BEAT,), "a beat holds 16 weights"),
            (
                "wuve_lanes",
                "weight-update",
                tuple(1 << i for i in range(_BEAT.bit_length())),
                "a row of 16 weights passes in equal parts, and is 3 beats of memory: more lanes would wait",
            ),
        )
    ),
    Range(
        name="ports",
        what="AXI4 masters, 1, 2 or 4, each with a memory of its own behind it",
        low=1,
        high=MAX_PORTS,
        unit="AXI4 masters",
        power=True,
        why="a region lies behind one of them",
    ),
    Range(
        name="port_bits",
        what="data bits of an AXI4 master, 64, 128, 256 or 512; below 512 a beat of 64 bytes passes in parts",
        low=LEAST_PORT_BITS,
        high=MOST_PORT_BITS,
        unit="bits",
        power=True,
        why="programs and tensors are in beats of 512 bits, whatever the port",
    ),
)
"""Fields of `SatConfig` that are numbers."""

MEMORY_RANGES: Final = (
    Range(
        name="channels",
        what="independent channels of memory",
        low=1,
        high=64,
        unit="channels",
        built=(1,),
        why="the machine has one AXI4 master",
    ),
    Range(
        name="bytes_per_second",
        what="peak of one channel",
        low=1e8,
        high=1e12,
        unit="bytes per second",
        whole=False,
        why="0.1 GB/s to 1 TB/s",
    ),
    Range(
        name="efficiency",
        what="share of the peak that a channel attains",
        low=0.01,
        high=1,
        unit="share of the peak",
        whole=False,
        why="some of the peak",
    ),
    Range(
        name="latency_ns",
        what="time to the first word of a burst",
        low=1,
        high=1e4,
        unit="ns",
        whole=False,
        why="from 1 ns to 10 us",
    ),
    Range(
        name="burst_bytes",
        what="longest burst",
        low=1024,
        high=4096,
        unit="bytes",
        power=True,
        why="the machine asks for up to 16 beats of 64 bytes; no burst of AXI4 crosses 4 KiB",
    ),
    Range(
        name="outstanding",
        what="bursts under way in a channel",
        low=2,
        high=256,
        unit="bursts per channel",
        why="a write is taken while there is room for two: with one the machine would wait for ever",
    ),
)
"""Fields of `MemoryConfig`."""
