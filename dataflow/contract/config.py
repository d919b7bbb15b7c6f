"""The configuration of one SAT: the single object that drives schedule, simulator and circuit.

Whatever two views must agree on (sizes, latencies, presets) stands here or is derived here, once.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Final

INTERLEAVE: Final = 8
"""Independent outputs per element. It covers the adder loop and the operand bandwidth of N:M (design, section 4)."""

GROUP_SIZES: Final = (2, 4, 8, 16)
"""Legal M of a pattern N:M."""

PRODUCT_STAGES: Final = 2
"""Registers between the operand memories of an element and its adder: operands, product."""

MAX_ADDER_STAGES: Final = 7
"""Adder registers that fit into the accumulator loop: 8 interleaved outputs less the accumulator memory's write."""


def _check_range(name: str, value: int, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} is {value!r}; it must be a whole number from {low} to {high}")
    if not low <= value <= high:
        raise ValueError(f"{name} is {value!r}; it must be from {low} to {high}")


@dataclass(frozen=True, kw_only=True)
class MemoryConfig:
    """External memory as the simulator and the test benches model it.

    channels: independent channels; bytes_per_second: peak of one channel; efficiency: attained share of the peak
    (0, 1]; latency_ns: first word of a burst; burst_bytes: longest burst; outstanding: bursts in flight per channel.
    """

    channels: int = 4
    bytes_per_second: float = 19.2e9
    efficiency: float = 0.68
    latency_ns: float = 120.0
    burst_bytes: int = 4096
    outstanding: int = 8

    def __post_init__(self) -> None:
        for name in ("channels", "burst_bytes", "outstanding"):
            _check_range(name, getattr(self, name), 1, 1 << 20)
        for name in ("bytes_per_second", "latency_ns"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)!r}; it must be above 0")
        if not 0 < self.efficiency <= 1:
            raise ValueError(f"efficiency is {self.efficiency!r}; it must be above 0 and at most 1")


@dataclass(frozen=True, kw_only=True)
class SatConfig:
    """Sizes of one SAT.

    rows, columns: elements of the array (R, C).
    clock_mhz: clock of the whole machine, MHz.
    act_lanes: activations a row link carries per cycle (1 or 2).
    adder_stages: registers inside the adder of an element (1..7).
    row_slices, column_slices: rows (columns) with an extra register slice in front of them, for SLR crossings.
    act_depth: beats of one row's activation buffer, both halves together; weight_depth: pairs of one column's weight
    buffer, both halves; sum_depth: binary32 sums of one column's result buffer; stage_depth: beats of 64 bytes of the
    staging buffer, from which activations are read as often as windows overlap.
    sore_lanes, wuve_lanes: lanes of the pruning and of the weight-update engine, one element per lane and cycle.
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
    memory: MemoryConfig = MemoryConfig()

    def __post_init__(self) -> None:
        _check_range("rows", self.rows, 1, 256)
        _check_range("columns", self.columns, 1, 256)
        _check_range("adder_stages", self.adder_stages, 1, MAX_ADDER_STAGES)
        if self.act_lanes not in (1, 2):
            raise ValueError(f"act_lanes is {self.act_lanes!r}; it must be 1 or 2")
        if not self.clock_mhz > 0:
            raise ValueError(f"clock_mhz is {self.clock_mhz!r}; it must be above 0")
        for name in ("act_depth", "weight_depth", "sum_depth", "stage_depth"):
            value = getattr(self, name)
            _check_range(name, value, 64, 1 << 16)
            if value & (value - 1):
                raise ValueError(f"{name} is {value!r}; it must be a power of two")
        for name in ("sore_lanes", "wuve_lanes"):
            _check_range(name, getattr(self, name), 1, 256)
        for name, limit in (("row_slices", self.rows), ("column_slices", self.columns)):
            values = getattr(self, name)
            if list(values) != sorted(set(values)) or any(not 0 < v < limit for v in values):
                raise ValueError(f"{name} is {values!r}; it must be ascending indices from 1 to {limit - 1}")

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

    def replace(self, **changes: object) -> SatConfig:
        """Return a copy with the given fields changed, checked again."""
        return dataclasses.replace(self, **changes)  # type: ignore[arg-type]


ONE_CHANNEL: Final = MemoryConfig(channels=1)
"""Memory behind the single AXI4 master of the machine (docs/machine.md)."""

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
            act_depth=8192,
            stage_depth=8192,
            weight_depth=32768,  # half holds 256 columns of K = 4608 at 2:8; dataflow.schedule.memory_plan counts the RAM
        ),
    )
}


def preset(name: str) -> SatConfig:
    """Return the configuration called `name`; ValueError lists the known ones."""
    try:
        return PRESETS[name]
    except KeyError:
        raise ValueError(f"config is {name!r}; known configurations: {', '.join(PRESETS)}") from None
