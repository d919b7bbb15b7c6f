"""One product on the array: mapping, tiles, commands (docs/machine/array.md)."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Final

from nmsat.algorithms.core.ranges import GROUP_SIZES
from nmsat.dataflow.contract.codes import RECTANGLE_ROWS
from nmsat.dataflow.contract.config import INTERLEAVE
from nmsat.dataflow.contract.isa import Compute
from nmsat.dataflow.contract.timing import window_cycles
from nmsat.dataflow.cycles.array import product_duration

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nmsat.algorithms.core.tape import Pattern
    from nmsat.dataflow.contract.config import SatConfig
    from nmsat.dataflow.cycles.array import Duration

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
        for a in RECTANGLE_ROWS:
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
    Derived once, because the scheduler makes thousands of these:
    groups: along K; tile_rows: rows of Y that one command covers, a R (OS) or the blocks of one chunk (WS);
    row_tiles: tiles (OS) or chunks (WS) along M; column_tiles: along N; depth_tiles: commands along K, 1 in OS, array
    loads in WS; blocks: row blocks of one WS command; windows: of one command; window: its cycles; commands: of all
    `count` products; beats: activation beats per row of one command; pairs: pairs per column of one command.
    """

    config: SatConfig
    mapping: Mapping
    m: int
    k: int
    n: int
    count: int = 1
    groups: int = field(init=False, compare=False, repr=False)
    tile_rows: int = field(init=False, compare=False, repr=False)
    row_tiles: int = field(init=False, compare=False, repr=False)
    column_tiles: int = field(init=False, compare=False, repr=False)
    depth_tiles: int = field(init=False, compare=False, repr=False)
    blocks: int = field(init=False, compare=False, repr=False)
    windows: int = field(init=False, compare=False, repr=False)
    window: int = field(init=False, compare=False, repr=False)
    commands: int = field(init=False, compare=False, repr=False)
    beats: int = field(init=False, compare=False, repr=False)
    pairs: int = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        if self.m < 1 or self.k < 1 or self.n < 1 or self.count < 1:
            name = next(name for name in ("m", "k", "n", "count") if getattr(self, name) < 1)
            raise ValueError(f"{name} is {getattr(self, name)!r}; a product has at least 1 of each")
        config, mapping = self.config, self.mapping
        a, b, slots, rows = mapping.a, mapping.b, mapping.slots, config.rows
        groups = -(-self.k // mapping.m)
        if not mapping.ws and groups > MAX_WINDOWS:
            raise ValueError(f"k is {self.k!r}; output stationary takes at most {MAX_WINDOWS * mapping.m}")
        depth = -(-groups * mapping.parts // rows) if mapping.ws else 1
        blocks = _blocks(config, -(-self.m // a), depth)
        tile_rows = a * (blocks if mapping.ws else rows)
        row_tiles, column_tiles = -(-self.m // tile_rows), -(-self.n // (b * config.columns))
        windows = blocks if mapping.ws else groups
        # As object.__setattr__ for each, in one call: the only way round `frozen` for derived fields.
        self.__dict__.update(
            groups=groups,
            tile_rows=tile_rows,
            row_tiles=row_tiles,
            column_tiles=column_tiles,
            depth_tiles=depth,
            blocks=blocks,
            windows=windows,
            window=window_cycles(config, slots, mapping.m, a),
            commands=row_tiles * column_tiles * depth * self.count,
            beats=windows * a * mapping.m // config.act_lanes,
            pairs=slots * b * (rows if mapping.ws else groups),
        )

    @cached_property
    def duration(self) -> Duration:
        """Its cycles with operands on chip."""
        return product_duration(self)

    def tiles(self) -> Iterator[Tile]:
        """Yield the commands of one product in the order in which they run."""
        for column in range(self.column_tiles):
            for row in range(self.row_tiles):
                for depth in range(self.depth_tiles):
                    yield Tile(self, row, column, depth)


def _blocks(config: SatConfig, total: int, depth: int) -> int:
    """WS: row blocks of one command: M cut evenly so that a command takes it, and the result buffers its sums."""
    limit = MAX_WINDOWS if depth == 1 else config.sum_depth // INTERLEAVE
    return -(-total // -(-total // limit))


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

    def command(self, act_base: int, wgt_base: int) -> Compute:
        """Return the command with its operands at the given places of the buffers."""
        tiling, mapping = self.tiling, self.tiling.mapping
        return Compute(
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
