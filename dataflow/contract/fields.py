"""Layout of the configuration words: written here once; assembler, simulator and circuit take it from here."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Final

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


TILE: Final = WordLayout(
    "tile command",
    (
        Field("ws", 1, "0 output stationary, 1 weight stationary"),
        Field("n_less_1", 4, "kept elements of a group, N - 1"),
        Field("log2_m_less_1", 2, "log2 of the group size M, less 1: M in 2, 4, 8, 16"),
        Field("log2_a", 2, "log2 of the rows a of the interleave rectangle; b = 8 / a"),
        Field("windows", 16, "OS: groups along K; WS: row blocks. At least 1"),
        Field("act_base", 16, "first beat of the tile in the activation buffers"),
        Field("wgt_base", 16, "first pair of the tile in the weight buffers"),
        Field("seed", 1, "chains continue from the sums of the previous command, which has kept them"),
        Field("keep", 1, "sums stay, for the next command, instead of leaving"),
    ),
)


@dataclass(frozen=True, kw_only=True)
class TileCommand:
    """One command to the array, in the units a reader expects (N, M, a instead of their codes)."""

    ws: bool
    n: int
    m: int
    a: int
    windows: int
    act_base: int = 0
    wgt_base: int = 0
    seed: bool = False
    keep: bool = False

    @property
    def b(self) -> int:
        """Columns of the interleave rectangle."""
        return 8 // self.a

    @property
    def shape(self) -> tuple[bool, int, int, int]:
        """What must be equal for two commands to follow each other without draining the array."""
        return (self.ws, self.n, self.m, self.a)

    def encode(self) -> int:
        """Return the word of this command (layout `TILE`)."""
        return TILE.pack(
            ws=self.ws,
            n_less_1=self.n - 1,
            log2_m_less_1=self.m.bit_length() - 2,
            log2_a=self.a.bit_length() - 1,
            windows=self.windows,
            act_base=self.act_base,
            wgt_base=self.wgt_base,
            seed=self.seed,
            keep=self.keep,
        )

    @classmethod
    def decode(cls, word: int) -> TileCommand:
        """Return the command of a word."""
        f = TILE.unpack(word)
        return cls(
            ws=bool(f["ws"]),
            n=f["n_less_1"] + 1,
            m=2 << f["log2_m_less_1"],
            a=1 << f["log2_a"],
            windows=f["windows"],
            act_base=f["act_base"],
            wgt_base=f["wgt_base"],
            seed=bool(f["seed"]),
            keep=bool(f["keep"]),
        )
