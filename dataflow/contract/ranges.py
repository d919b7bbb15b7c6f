"""Which values the fields of a configuration may have, and which of them the machine in RTL is built for.

`dataflow.contract.config` checks by these tables when a configuration is made; docs/limits.md is a print of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from nmsat.algorithms.core.ranges import check_number, check_whole

MAX_ADDER_STAGES: Final = 7
"""Adder registers that fit into the accumulator loop: 8 interleaved outputs less the accumulator memory's write."""

MAX_PORTS: Final = 4
"""Most AXI4 masters: a region each."""

_SIDES: Final = (1, 2, 4, 8, 16, 32)
_BEAT: Final = (16,)


@dataclass(frozen=True, kw_only=True)
class Range:
    """The values of one field.

    low, high: both included (above: low is not); whole: an int, else an int or a float; power: a power of two; built:
    values that the machine in RTL is built for, None for all; unit, why: for people.
    """

    name: str
    low: float
    high: float
    why: str
    unit: str = ""
    whole: bool = True
    power: bool = False
    built: tuple[int, ...] | None = None

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


def listed(values: tuple[int, ...]) -> str:
    """Return '1, 2 or 4'."""
    *front, last = map(str, values)
    return f"{', '.join(front)} or {last}" if front else last


SAT_RANGES: Final = (
    Range(
        name="rows",
        low=1,
        high=256,
        unit="elements of a column",
        built=_SIDES,
        why="a beat of 32 numbers is dealt to whole sets of rows",
    ),
    Range(
        name="columns",
        low=1,
        high=256,
        unit="elements of a row",
        built=_SIDES,
        why="a beat of 32 numbers holds whole chunks of C",
    ),
    Range(name="clock_mhz", low=1, high=1000, unit="MHz", whole=False, why="of the whole machine"),
    Range(name="act_lanes", low=1, high=2, unit="activations per cycle", why="operand banks of 16 or 32"),
    Range(name="adder_stages", low=1, high=MAX_ADDER_STAGES, unit="registers", why="8 outputs cover the adder's loop"),
    *(
        Range(name=name, low=64, high=1 << 16, unit=unit, power=True, why="16 bits of address in an instruction")
        for name, unit in (
            ("act_depth", "beats of a row"),
            ("weight_depth", "pairs of a column"),
            ("sum_depth", "sums of a column"),
            ("stage_depth", "beats of 64 bytes"),
        )
    ),
    *(
        Range(name=name, low=1, high=256, unit="elements per cycle", built=_BEAT, why="a beat holds 16 weights")
        for name in ("sore_lanes", "wuve_lanes")
    ),
    Range(name="ports", low=1, high=MAX_PORTS, unit="AXI4 masters", power=True, why="a region lies behind one of them"),
)
"""Fields of `SatConfig` that are numbers."""

MEMORY_RANGES: Final = (
    Range(name="channels", low=1, high=64, unit="channels", built=(1,), why="the machine has one AXI4 master"),
    Range(name="bytes_per_second", low=1e8, high=1e12, unit="bytes per second", whole=False, why="peak of one channel"),
    Range(name="efficiency", low=0.01, high=1, unit="share of the peak", whole=False, why="what a channel attains"),
    Range(name="latency_ns", low=1, high=1e4, unit="ns", whole=False, why="from request to first data"),
    Range(
        name="burst_bytes",
        low=1024,
        high=4096,
        unit="bytes",
        power=True,
        why="the machine asks for up to 16 beats of 64 bytes; no burst of AXI4 crosses 4 KiB",
    ),
    Range(
        name="outstanding",
        low=2,
        high=256,
        unit="bursts per channel",
        why="a write is taken while there is room for two: with one the machine would wait for ever",
    ),
)
"""Fields of `MemoryConfig`."""
