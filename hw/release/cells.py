"""Cells of UltraScale+ and the 7 series: which pins lead to which, where paths end, what pins are for."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from nmsat.hw.release.synth import BLOCK_RAMS, MULTIPLIERS, ULTRA_RAM

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from nmsat.hw.release.netlist import Bit, Cell

LEVEL: Final = 10
"""Parts of a level that are counted."""

CLOCKS: Final = ("C", "CLK", "WCLK", "CLKARDCLK", "CLKBWRCLK")
"""Pins of clocks: neither paths nor fan-outs."""

_RESETS: Final = re.compile(r"R|S|CLR|PRE|RST\w*")
_ENABLES: Final = re.compile(r"C?E|CE\w+|WE\w*|EN\w*|REGCE\w*")

SEQUENTIAL: Final = ("FDRE", "FDSE", "FDCE", "FDPE", *MULTIPLIERS, *BLOCK_RAMS, ULTRA_RAM)
"""Cells that end paths and begin them."""

CLOCKED_PINS: Final = re.compile(r"Q|P|PCOUT|DOUT\w*")
"""Outputs of `SEQUENTIAL`: paths begin there."""

OUTPUT_PINS: Final = re.compile(r"C?O|Q(?:31)?|P(?:COUT)?|[SD]PO|DO[A-H]|DOUT\w*")
"""Outputs of all cells."""

_WEIGHTS: Final = {"INV": 0, "MUXF7": 1, "MUXF8": 1, "MUXF9": 1, **{f"LUT{n}": LEVEL for n in range(1, 7)}}


def bits_of(ports: Mapping[str, list[Bit]]) -> Iterator[tuple[str, int, int]]:
    """Yield port, place and net of all bits that are no constants."""
    for port, bits in ports.items():
        for i, bit in enumerate(bits):
            if isinstance(bit, int):
                yield port, i, bit


def cell_arcs(cell: Cell) -> Iterator[tuple[int, int, int]]:
    """Yield from, to and tenths of the paths through a cell that is no leaf."""
    if cell.kind in ("CARRY4", "CARRY8"):
        yield from _carry_arcs(cell)
    elif cell.kind in _WEIGHTS:
        for _, _, to in _pins(cell, ["O"]):
            for _, _, bit in _pins(cell, [name for name in cell.pins if name != "O"]):
                yield bit, to, _WEIGHTS[cell.kind]
    elif is_ram(cell):
        for out in cell.pins:
            for _, _, to in _pins(cell, [out]):
                for _, _, bit in _pins(cell, address_of(cell, out) or []):
                    yield bit, to, LEVEL
    elif cell.kind not in SEQUENTIAL:
        raise ValueError(f"cell {cell.name!r} is a {cell.kind!r}, whose paths are not known here")


def _carry_arcs(cell: Cell) -> Iterator[tuple[int, int, int]]:
    """Yield the paths of a carry block: a bit depends on those below it."""
    for out, j, to in _pins(cell, ["O", "CO"]):
        for port, i, bit in _pins(cell, ["CI", "CYINIT", "DI", "S"]):
            if port in ("CI", "CYINIT") or i < j or (i == j and (out == "CO" or port == "S")):
                yield bit, to, 1


def _pins(cell: Cell, names: Iterable[str]) -> Iterator[tuple[str, int, int]]:
    return bits_of({name: cell.pins.get(name, []) for name in names})


def is_ram(cell: Cell) -> bool:
    """Whether a cell is distributed RAM or a shift register: its address leads to what it shows."""
    return cell.kind not in SEQUENTIAL and cell.kind.startswith(("RAM", "SRL"))


def address_of(cell: Cell, out: str) -> list[str] | None:
    """Return the pins that choose what a distributed RAM or shift register shows at pin `out`; None if none shows."""
    if re.fullmatch(r"DO[A-H]", out):
        return [f"ADDR{out[-1]}"] if f"ADDR{out[-1]}" in cell.pins else []
    if out == "DPO":
        return [name for name in cell.pins if name.startswith("DPRA")]
    if out in ("SPO", "O", "Q"):
        return [name for name in cell.pins if re.fullmatch(r"A\d*", name)]
    return [] if out == "Q31" else None


def ends_at(cell: Cell, port: str) -> bool:
    """Whether paths end at a pin, which is none of a clock."""
    if cell.kind in SEQUENTIAL:
        return CLOCKED_PINS.fullmatch(port) is None
    return is_ram(cell) and address_of(cell, port) is None


def pin_kind(cell: Cell, port: str) -> str:
    """Return what an input is for: 'reset', 'enable' or 'data'."""
    if cell.kind in SEQUENTIAL or is_ram(cell):
        if _RESETS.fullmatch(port):
            return "reset"
        if _ENABLES.fullmatch(port):
            return "enable"
    return "data"
