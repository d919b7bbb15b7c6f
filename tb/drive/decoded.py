"""Words of a port by the fields that they are made of, for what a failed comparison says."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from amaranth.hdl import Shape
from amaranth.lib import data

from nmsat.dataflow.contract.isa import Instruction, Opcode

if TYPE_CHECKING:
    from collections.abc import Iterator

    from amaranth.lib import wiring

MOST: Final = 4
"""Fields that a message names; of more it says how many there are."""


def layouts(component: wiring.Component) -> dict[str, data.Layout]:
    """Return the layouts of the ports that have one, by the names that a bench knows ports by."""
    found: dict[str, Any] = {}
    for path, member, _ in component.signature.flatten(component):
        if isinstance(member.shape, data.Layout):
            found["__".join(map(str, path))] = member.shape
    return found


def fields(shape: Any, word: int, name: str = "") -> Iterator[tuple[str, int]]:
    """Give the plain fields of a word with their names, such as `pair[3].index`."""
    if isinstance(shape, data.Layout):
        inside = isinstance(shape, data.ArrayLayout)
        for key, field in shape:
            below = f"{name}[{key}]" if inside else f"{name}.{key}" if name else str(key)
            bits = (1 << Shape.cast(field.shape).width) - 1
            yield from fields(field.shape, word >> field.offset & bits, below)
    else:
        yield name or "word", word


def instruction_difference(got: int, wanted: int) -> str:
    """Say in which fields an instruction differs from the one that it should be."""
    opcodes = [word & 15 for word in (got, wanted)]
    if opcodes[0] != opcodes[1] or opcodes[1] not in set(Opcode):
        return f"has opcode {opcodes[0]}, the model says {opcodes[1]}"
    mine, theirs = (Instruction.decode(word).values() for word in (got, wanted))
    return _named([(name, value, theirs[name]) for name, value in mine.items() if value != theirs[name]])


def difference(layout: data.Layout | None, got: int, wanted: int, mask: int = -1) -> str:
    """Say in which fields a word differs from what the model says; mask: bits that mean something."""
    if layout is None:
        return f"is {got:#x}, the model says {wanted:#x}"
    matter = dict(fields(layout, mask & ((1 << Shape.cast(layout).width) - 1)))
    theirs = dict(fields(layout, wanted))
    mine = fields(layout, got)
    return _named([(name, value, theirs[name]) for name, value in mine if (value ^ theirs[name]) & matter[name]])


def _named(differs: list[tuple[str, int, int]]) -> str:
    said = [f"{name} is {mine:#x}, the model says {theirs:#x}" for name, mine, theirs in differs]
    more = f"; {len(said) - MOST} more fields" if len(said) > MOST else ""
    return "differs: " + "; ".join(said[:MOST]) + more
