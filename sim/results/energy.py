"""Energy of a step, modelled: operations and bytes times a table. Nothing here was measured.

Sources: operation and memory energies at 45 nm, 0.9 V from M. Horowitz, "Computing's energy problem", ISSCC 2014.
FPGA against ASIC logic (about 9x with hard blocks): I. Kuon and J. Rose, "Measuring the gap between FPGAs and ASICs",
IEEE TCAD 2007. The factor from 45 nm to 16 nm and the power at rest are estimates from memory, not from a source.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from nmsat.algorithms.core.ranges import check_number
from nmsat.dataflow.program.host import UPDATE_OPERATIONS

if TYPE_CHECKING:
    from nmsat.sim.results.machine import MachineResult


MAX_ENERGY: Final = 1e6
"""Largest number of an `EnergyTable`."""


@dataclass(frozen=True, kw_only=True)
class EnergyTable:
    """Picojoule per operation or byte at 45 nm, and what turns them into those of the device.

    mac: binary16 multiply (1.1) and binary32 add (0.9); update_operation: mean of binary32 add (0.9) and multiply
    (3.7), as an update has as many of both; dram_byte: 20 pJ per bit of DDR4 with its interface (estimate); fpga: FPGA
    over ASIC; shrink: 45 nm to 16 nm; rest_watts: device and board without work (estimate).
    """

    mac: float = 2.0
    update_operation: float = 2.3
    dram_byte: float = 160.0
    fpga: float = 9.0
    shrink: float = 0.35
    rest_watts: float = 15.0

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            check_number(field.name, getattr(self, field.name), 0, MAX_ENERGY)


SOURCES: Final = (
    "operations, 45 nm: M. Horowitz, ISSCC 2014",
    "FPGA over ASIC: I. Kuon and J. Rose, IEEE TCAD 2007",
    "DDR4, 45 to 16 nm, power at rest: estimates without a source",
)
"""Where the numbers of `EnergyTable` come from."""


@dataclass(frozen=True)
class Energy:
    """Modelled energy of a step in joule, by where it goes; that of the buffers on chip is not in it."""

    macs: float
    update: float
    memory: float
    rest: float

    @property
    def total(self) -> float:
        """Sum of all parts."""
        return self.macs + self.update + self.memory + self.rest

    def record(self) -> dict[str, float | str | list[str]]:
        """Return the parts as plain values; the keys say what the numbers are."""
        return {
            "kind": "modelled, not measured",
            "sources": list(SOURCES),
            "macs_joule": self.macs,
            "update_joule": self.update,
            "memory_joule": self.memory,
            "rest_joule": self.rest,
            "total_joule": self.total,
        }


def step_energy(result: MachineResult, elements: int, table: EnergyTable | None = None) -> Energy:
    """Return the modelled energy of a step; elements: learnt elements that its update touches."""
    table = table or EnergyTable()
    device = table.fpga * table.shrink * 1e-12
    return Energy(
        macs=result.macs * table.mac * device,
        update=elements * UPDATE_OPERATIONS * table.update_operation * device,
        memory=sum(result.bytes.values()) * table.dram_byte * 1e-12,
        rest=result.seconds * table.rest_watts,
    )
