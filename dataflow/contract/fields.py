"""What a word is made of: fields by name, packed and unpacked (`dataflow.contract.isa` has the words)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True)
class Field:
    """One field of a word: its width in bits, what it means, and whether it is a number in two's complement."""

    name: str
    bits: int
    doc: str
    signed: bool = False

    @cached_property
    def low(self) -> int:
        """Least value."""
        return -(1 << (self.bits - 1)) if self.signed else 0

    @cached_property
    def high(self) -> int:
        """Largest value."""
        return (1 << (self.bits - self.signed)) - 1

    @property
    def meaning(self) -> str:
        """What it means, and that it is signed if it is, for people."""
        return f"{self.doc}, signed" if self.signed else self.doc

    def value(self, pattern: int) -> int:
        """Return the number that `bits` bits stand for."""
        return pattern - (1 << self.bits) if pattern > self.high else pattern


@dataclass(frozen=True)
class WordLayout:
    """An ordered set of fields, the first at bit 0."""

    name: str
    fields: tuple[Field, ...]

    @property
    def bits(self) -> int:
        """Width of the word."""
        return sum(field.bits for field in self.fields)

    @cached_property
    def by_name(self) -> dict[str, Field]:
        """Name to field, in order."""
        return {field.name: field for field in self.fields}

    def widths(self) -> dict[str, int]:
        """Name to width in order, as an Amaranth StructLayout takes it."""
        return {field.name: field.bits for field in self.fields}

    def table(self) -> str:
        """Return a line for each field, for people: first and last bit, name, meaning."""
        lines, low = [], 0
        for field in self.fields:
            lines.append(f"{low:3} to {low + field.bits - 1:3}  {field.name:15} {field.meaning}")
            low += field.bits
        return "\n".join(lines)

    def check(self, values: Mapping[str, int]) -> None:
        """Raise ValueError for a name that is no field, and for a value that its field cannot hold."""
        for name, value in values.items():
            field = self.by_name.get(name)
            if field is None:
                raise ValueError(f"{self.name} has no field {name!r}; fields: {', '.join(self.by_name)}")
            if not field.low <= value <= field.high:
                raise ValueError(
                    f"field {name!r} of {self.name} is {value!r}; it must be from {field.low} to {field.high}"
                )

    def pack(self, **values: int) -> int:
        """Return the word with the given fields, signed ones as numbers; every field must be given and must fit."""
        self.check(values)
        word, at = 0, 0
        for field in self.fields:
            if field.name not in values:
                raise ValueError(f"{self.name} needs field {field.name!r}")
            word |= (int(values[field.name]) & ((1 << field.bits) - 1)) << at
            at += field.bits
        return word

    def unpack(self, word: int) -> dict[str, int]:
        """Return the fields of a word, signed ones as numbers."""
        if not 0 <= word < 1 << self.bits:
            raise ValueError(f"word {word!r} does not fit the {self.bits} bits of {self.name}")
        values = {}
        for field in self.fields:
            values[field.name] = field.value(word & ((1 << field.bits) - 1))
            word >>= field.bits
        return values
