"""What further memory ports cost (`python -m nmsat.hw.release.port_costs` prints a table).

A port is an AXI4 master with its watchdog; with several there is a steer for each client.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from nmsat.dataflow.contract.limits import READERS, WRITERS
from nmsat.hw.memory.read_port import ReadPort
from nmsat.hw.memory.steer import ReadSteer, WriteSteer
from nmsat.hw.memory.write_port import WritePort
from nmsat.hw.parts.verilog import emit
from nmsat.hw.release.synth import synthesise

if TYPE_CHECKING:
    from amaranth.lib.wiring import Component

SEVERAL: Final = (2, 4)
"""Machines with more than one port."""


@dataclass(frozen=True)
class Takes:
    """What a part, or several, take: logic cells, registers, tables used as distributed RAM."""

    logic: int
    flip_flops: int
    ram_luts: int

    def __add__(self, other: Takes) -> Takes:
        logic, flip_flops = self.logic + other.logic, self.flip_flops + other.flip_flops
        return Takes(logic, flip_flops, self.ram_luts + other.ram_luts)

    def __mul__(self, count: int) -> Takes:
        return Takes(self.logic * count, self.flip_flops * count, self.ram_luts * count)


def takes(component: Component, top: str) -> Takes:
    """Return what a component takes."""
    found = synthesise(emit(component, top), top)
    return Takes(found.logic, found.flip_flops, found.ram_luts)


def ports_take() -> dict[str, Takes]:
    """Return what each part takes, and what machines of several ports take beyond one of a single port."""
    read, write = takes(ReadPort(len(READERS)), "sat_read_port"), takes(WritePort(len(WRITERS)), "sat_write_port")
    rows = {"read port": read, "write port": write}
    for ports in SEVERAL:
        reads, writes = takes(ReadSteer(ports), "sat_read_steer"), takes(WriteSteer(ports), "sat_write_steer")
        rows |= {f"read steer, {ports} ports": reads, f"write steer, {ports} ports": writes}
        steers = reads * len(READERS) + writes * len(WRITERS)
        rows[f"{ports} ports in place of one"] = (read + write) * (ports - 1) + steers
    return rows


def ports_text(rows: dict[str, Takes]) -> str:
    """Return the costs as text."""
    lines = [f"{'':28}{'logic':>7}{'FF':>7}{'RAM':>5}"]
    lines += [f"{name:28}{row.logic:7}{row.flip_flops:7}{row.ram_luts:5}" for name, row in rows.items()]
    return "\n".join(lines)


if __name__ == "__main__":
    print(ports_text(ports_take()))
