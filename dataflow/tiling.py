"""One product on the array: mapping, tiles, commands (docs/array.md)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Final

from dataflow.config import GROUP_SIZES, INTERLEAVE
from dataflow.timing import window_cycles
from dataflow.words import TileCommand

if TYPE_CHECKING:
    from collections.abc import Iterator

    from algorithms.tape import Pattern
    from dataflow.config import SatConfig

RECTANGLES: Final = (1, 2, 4, 8)
"""Legal a of an interleave rectangle a x b = 8."""

MAX_WINDOWS: Final = (1 << 16) - 1
"""Largest window count of a command."""


@dataclass(frozen=True)
class Mapping:
    """How a product meets the array.

    ws: weight stationary; a: rows of the interleave rectangle; n, m: group as the array sees it (dense: n == m);
    parts: rows of the array one group is spread over (WS, where N b <= 16 would not hold otherwise); each part keeps
    ceil(N / parts) pairs and sees the whole group of activations.
    """

    ws: bool
    a: int
    n: int
    m: int
    parts: int = 1

    @property
    def b(self) -> int:
        """Columns of the interleave rectangle."""
        return INTERLEAVE // self.a

    @property
    def slots(self) -> int:
        """Pairs of one group in one element: N of the commands."""
        return -(-self.n // self.parts)

    @property
    def name(self) -> str:
        """'os' or 'ws'."""
        return "ws" if self.ws else "os"


def legal_mappings(config: SatConfig, pattern: Pattern | None) -> list[Mapping]:
    """Return every mapping of a product with this pattern (None: dense) that the element's memories hold.

    Dense products may use any group size; a WS group that keeps too many pairs is spread over several rows.
    """
    groups = [(pattern.n, pattern.m)] if pattern and pattern.n < pattern.m else [(g, g) for g in GROUP_SIZES]
    found = []
    for n, m in groups:
        for a in RECTANGLES:
            if a * m > config.act_bank:
                continue
            found.append(Mapping(False, a, n, m))
            slots = config.weight_bank // (INTERLEAVE // a)
            found.append(Mapping(True, a, n, m, -(-n // slots)))
    return found


@dataclass(frozen=True)
class Tiling:
    """A product Y[m, n] = A[m, k] @ W[k, n] cut for the array by a mapping.

    count: as many independent products of this shape follow each other without a break (heads of an attention).
    """

    config: SatConfig
    mapping: Mapping
    m: int
    k: int
    n: int
    count: int = 1

    def __post_init__(self) -> None:
        for name in ("m", "k", "n", "count"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)!r}; a product has at least 1 of each")
        if not self.mapping.ws and self.groups > MAX_WINDOWS:
            raise ValueError(f"k is {self.k!r}; output stationary takes at most {MAX_WINDOWS * self.mapping.m}")

    @cached_property
    def groups(self) -> int:
        """Groups along K."""
        return -(-self.k // self.mapping.m)

    @cached_property
    def column_tiles(self) -> int:
        """Tiles along N."""
        return -(-self.n // (self.mapping.b * self.config.columns))

    @cached_property
    def tile_rows(self) -> int:
        """Rows of Y one command covers: a R (OS) or the blocks of one chunk (WS)."""
        if not self.mapping.ws:
            return self.mapping.a * self.config.rows
        return self.blocks * self.mapping.a

    @cached_property
    def row_tiles(self) -> int:
        """Tiles (OS) or chunks (WS) along M."""
        return -(-self.m // self.tile_rows)

    @cached_property
    def depth_tiles(self) -> int:
        """Commands along K: 1 in OS, array loads in WS."""
        if not self.mapping.ws:
            return 1
        return -(-self.groups * self.mapping.parts // self.config.rows)

    @cached_property
    def blocks(self) -> int:
        """WS: row blocks of one command: M cut evenly so that a command takes it, and the result buffers its sums."""
        total = -(-self.m // self.mapping.a)
        limit = MAX_WINDOWS if self.depth_tiles == 1 else self.config.sum_depth // INTERLEAVE
        return -(-total // -(-total // limit))

    @cached_property
    def windows(self) -> int:
        """Windows of one command."""
        return self.blocks if self.mapping.ws else self.groups

    @cached_property
    def window(self) -> int:
        """Cycles of one window."""
        return window_cycles(self.config, self.mapping.slots, self.mapping.m, self.mapping.a)

    @cached_property
    def commands(self) -> int:
        """Number of commands of all `count` products."""
        return self.row_tiles * self.column_tiles * self.depth_tiles * self.count

    @cached_property
    def beats(self) -> int:
        """Activation beats per row of one command."""
        return self.windows * self.mapping.a * self.mapping.m // self.config.act_lanes

    @cached_property
    def pairs(self) -> int:
        """Pairs per column of one command."""
        per_window = self.mapping.slots * self.mapping.b
        return per_window * (self.config.rows if self.mapping.ws else self.groups)

    def tiles(self) -> Iterator[Tile]:
        """Yield the commands of one product in the order in which they run."""
        for column in range(self.column_tiles):
            for row in range(self.row_tiles):
                for depth in range(self.depth_tiles):
                    yield Tile(self, row, column, depth)


@dataclass(frozen=True)
class Tile:
    """One command of a product: which rows, columns and array load."""

    tiling: Tiling
    row: int
    column: int
    depth: int

    @property
    def act_block(self) -> tuple[int, int]:
        """Identity of its activations: commands with equal identity read the same beats."""
        return (self.row, self.depth)

    @property
    def wgt_block(self) -> tuple[int, int]:
        """Identity of its weights."""
        return (self.column, self.depth)

    @property
    def leaves(self) -> bool:
        """Whether its results leave the array."""
        return self.depth == self.tiling.depth_tiles - 1

    def command(self, act_base: int, wgt_base: int) -> TileCommand:
        """Return the command with its operands at the given places of the buffers."""
        tiling, mapping = self.tiling, self.tiling.mapping
        return TileCommand(
            ws=mapping.ws,
            n=mapping.slots,
            m=mapping.m,
            a=mapping.a,
            windows=tiling.windows,
            act_base=act_base,
            wgt_base=wgt_base,
            seed=self.depth > 0,
            keep=not self.leaves,
        )
