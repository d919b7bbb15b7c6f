"""One product to be run: its operands, where its results go, and the ways to cut it that the machine can run."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property
from math import lcm, prod
from typing import TYPE_CHECKING, Final

from nmsat.dataflow.contract.codes import codes
from nmsat.dataflow.contract.config import INTERLEAVE
from nmsat.dataflow.contract.isa import HALVES, LANES, OFFSET_MASK, Side
from nmsat.dataflow.contract.timing import window_cycles
from nmsat.dataflow.mapping.tiling import Mapping, legal_mappings
from nmsat.dataflow.program.sources import DepthRange, Even

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from collections.abc import Mapping as Counts

    from nmsat.algorithms.core.tape import Pattern
    from nmsat.dataflow.contract.config import SatConfig
    from nmsat.dataflow.program.sources import ActSource, Fields, RowTile, WgtSource
    from nmsat.dataflow.program.tensors import Place, Rows
    from nmsat.dataflow.program.windows import Images


COMMAND_COST: Final = 2048
"""Cycles of the commands of a product of few tiles: a few times what the end of one and the start of the next take."""

FEW: Final = 64
"""Tiles of a product from which on its start is less than a hundredth of it."""


@dataclass(frozen=True)
class Epilogue:
    """What happens to results on their way out (hw.store.epilogue).

    side: tensor beside the results, read as `kind` says: MASK and TILE16 of the shape of the result, TILE32 one row of
    binary32 added to every row (a bias). watch: an infinite or NaN result suppresses the updates that follow.
    """

    to_half: bool = True
    relu: bool = False
    watch: bool = False
    kind: Side = Side.NONE
    side: Rows | None = None


@dataclass(frozen=True)
class Phase:
    """Rows of a result that are every `step`-th pixel of an image, from `first` on (stride phases of BP).

    count: lines and columns of the phase; None: all up to the edge of the image.
    """

    images: Images
    first: tuple[int, int]
    step: tuple[int, int]
    count: tuple[int, int] | None = None

    @property
    def size(self) -> tuple[int, int]:
        """Lines and columns of the phase in one image."""
        if self.count is not None:
            return self.count
        sizes = (self.images.height, self.images.width)
        rows, columns = (
            -(-(size - first) // step) for size, first, step in zip(sizes, self.first, self.step, strict=True)
        )
        return rows, columns


@dataclass(frozen=True)
class Sink:
    """Where results go: rows of a tensor in order, or those of a phase of its images."""

    tensor: Rows
    epilogue: Epilogue = field(default_factory=Epilogue)
    phase: Phase | None = None

    def places(self) -> tuple[Place, ...]:
        """Return the tensors read beside the results."""
        return () if self.epilogue.side is None else (self.epilogue.side,)

    def fields(self, mapping: Mapping, tile: RowTile, column: int, columns: int) -> Fields:
        """Return the STORE of a tile; `capture` counts from the start of its results."""
        e, per_beat = self.epilogue, HALVES if self.epilogue.to_half else LANES
        out = {
            "ws": int(mapping.ws),
            **codes(a=mapping.a),
            "rows": tile.rows,
            "columns": columns,
            "lane": column % per_beat,
            "to_half": int(e.to_half),
            "relu": int(e.relu),
            "watch": int(e.watch),
            "side": int(e.kind),
            **self._walk("", self.tensor, tile.first, column // per_beat),
        }
        if e.side is None:
            return out
        if e.kind is Side.TILE32:
            beat = (column - column % per_beat) // LANES
            walk = {"side_region": e.side.region, "side_at": e.side.at + beat}
            return {**out, **walk, "side_line_at": walk["side_at"], "side_image_at": walk["side_at"]}
        # element `lane` of the side's beats belongs to the first column
        return {**out, **self._walk("side_", e.side, tile.first, (column - column % per_beat) // HALVES)}

    def alike(self, tile: RowTile, column: int, columns: int) -> tuple[tuple[int, ...], int, int]:
        """Return a key, beats of the result and of what is read beside it: stores of equal keys are alike but for
        offsets, which are as much apart as the beats."""
        e, per_beat = self.epilogue, HALVES if self.epilogue.to_half else LANES
        lane, place, pixels = column % per_beat, 0, tile.first
        if self.phase is not None:
            image, place = divmod(tile.first, prod(self.phase.size))
            pixels = image * self.phase.images.height * self.phase.images.width
        key = (tile.rows, columns, lane, place)
        beats = pixels * self.tensor.step + column // per_beat
        if e.side is None:
            return key, beats, 0
        if e.kind is Side.TILE32:
            return key, beats, (column - lane) // LANES
        return key, beats, pixels * e.side.step + (column - lane) // HALVES

    def _walk(self, prefix: str, tensor: Rows, first: int, beat: int) -> Fields:
        step, region = tensor.step, {f"{prefix}region": tensor.region}
        if self.phase is None:
            return {**region, f"{prefix}at": tensor.at + first * step + beat, f"{prefix}x_step": step}
        phase = self.phase
        height, width = phase.size
        line, picture = phase.images.width * step, phase.images.height * phase.images.width * step
        image, place = divmod(first, height * width)
        y0, x0 = divmod(place, width)
        image_at = tensor.at + image * picture + phase.first[0] * line + phase.first[1] * step + beat
        line_at = image_at + y0 * phase.step[0] * line
        walk = {
            f"{prefix}at": (line_at + x0 * phase.step[1] * step) & OFFSET_MASK,
            f"{prefix}line_at": line_at & OFFSET_MASK,
            f"{prefix}image_at": image_at & OFFSET_MASK,
            f"{prefix}x_step": phase.step[1] * step,
            f"{prefix}y_step": phase.step[0] * line,
            f"{prefix}image_step": picture,
        }
        return {**region, **walk, "width": width, "height": height, "x0": x0, "y0": y0}


@dataclass(frozen=True)
class ProductCode:
    """A product Y[m, n] = A[m, k] W[k, n] to be assembled.

    pattern: groups of W along K; None: a dense operand, whose groups the mapping chooses. dataflow: 'os', 'ws' or None
    for what the estimate prefers.
    """

    name: str
    m: int
    k: int
    n: int
    act: ActSource
    wgt: WgtSource
    sink: Sink
    pattern: Pattern | None = None
    dataflow: str | None = None
    mapping: Mapping | None = None


@dataclass(frozen=True)
class Cut:
    """A product cut by a mapping: its row tiles, columns of a tile, windows, array loads along K."""

    config: SatConfig
    code: ProductCode
    mapping: Mapping

    @cached_property
    def rows(self) -> Sequence[RowTile]:
        """Row tiles."""
        return self.code.act.tiles(self.config, self.mapping)

    @cached_property
    def heights(self) -> Counts[int, int]:
        """Rows of a tile -> tiles of so many."""
        return self.rows.sizes if isinstance(self.rows, Even) else Counter(tile.rows for tile in self.rows)

    @cached_property
    def tallest(self) -> RowTile:
        """The first of the tiles with the most rows."""
        return self.rows[0] if isinstance(self.rows, Even) else max(self.rows, key=lambda tile: tile.rows)

    @property
    def width(self) -> int:
        """Columns of a tile."""
        return self.mapping.b * self.config.columns

    @cached_property
    def span(self) -> int:
        """Elements along K of a command: an array load (WS); all of K, or even parts of it (OS).

        A part is at most what half a buffer takes; where a tile meets several columns, parts are of one size if there
        is such a cut, so that those of the next tile take the places of those of the last one. A product of few tiles
        whose operands can be cut anywhere (no taps of windows) has parts of at most `COMMAND_COST` cycles: nothing
        runs beside the load of its first one.
        """
        config, mapping, k = self.config, self.mapping, self.code.k
        if mapping.ws:
            return config.rows * mapping.m
        acts = config.act_depth * config.act_lanes // mapping.a
        pairs = config.weight_depth // (mapping.n * mapping.b) * mapping.m
        # More than half a buffer leaves no room to load the next tile beside it; parts are alike, so that the load of
        # a long one need not hide behind a short one.
        most, unit = min(acts, pairs) // 2, lcm(self.code.act.unit, self.code.wgt.unit)
        if unit <= HALVES and len(self.rows) * self.column_tiles < FEW:
            window = window_cycles(config, mapping.n, mapping.m, mapping.a)
            most = min(most, max(unit, COMMAND_COST // window * mapping.m))
        if -(-k // mapping.m) * mapping.m <= most:
            return k
        units = -(-k // unit)
        least = -(-units // max(1, most // unit))
        even = (parts for parts in range(least, 2 * least) if units % parts == 0 and self.column_tiles > 1)
        return -(-units // next(even, least)) * unit

    @property
    def column_tiles(self) -> int:
        """Tiles along the columns."""
        return -(-self.code.n // self.width)

    @cached_property
    def numbers(self) -> dict[int, int]:
        """Number of the row tile that begins with a row."""
        return {tile.first: number for number, tile in enumerate(self.rows)}

    @cached_property
    def parts(self) -> Even[DepthRange]:
        """Commands along K."""
        return Even(self.code.k, self.span, DepthRange)

    def windows(self, tile: RowTile, part: DepthRange) -> int:
        """Windows of a command."""
        return -(-tile.rows // self.mapping.a) if self.mapping.ws else -(-part.size // self.mapping.m)

    def act_words(self, tile: RowTile, part: DepthRange) -> int:
        """Words of a row's activation buffer that a command needs."""
        words = self.windows(tile, part) * self.mapping.a * self.mapping.m
        return -(-words // self.config.act_lanes)

    def pairs(self, part: DepthRange) -> int:
        """Pairs of a column's weight buffer that a command needs."""
        groups = self.config.rows if self.mapping.ws else -(-part.size // self.mapping.m)
        return groups * self.mapping.n * self.mapping.b

    def results(self, tile: RowTile) -> int:
        """Results of a column."""
        return INTERLEAVE * (-(-tile.rows // self.mapping.a) if self.mapping.ws else self.config.rows)

    @cached_property
    def rows_outer(self) -> bool:
        """Whether the loop over row tiles is outside: W stays in its buffer, and A would not."""
        parts = self.parts
        acts = self.act_words(self.tallest, parts[0]) * len(self.rows) * len(parts) <= self.config.act_depth
        return not acts and self.pairs(parts[0]) * self.column_tiles * len(parts) <= self.config.weight_depth

    def commands(self) -> Iterator[tuple[RowTile, int, DepthRange]]:
        """Yield (row tile, first column, part of the reduction) in the order in which they run."""
        columns = range(0, self.code.n, self.width)
        if self.rows_outer:
            yield from ((tile, column, d) for tile in self.rows for column in columns for d in self.parts)
        else:
            yield from ((tile, column, d) for column in columns for tile in self.rows for d in self.parts)

    def behind(self, tile: RowTile, column: int, part: DepthRange) -> Iterator[tuple[RowTile, DepthRange]]:
        """Yield whose operands A may be the next to be loaded behind those of a command, likely ones first."""
        if part.first + part.size < self.code.k:
            yield tile, self.parts[part.first // self.span + 1]
            return
        number, again = self.numbers[tile.first] + 1, column + self.width < self.code.n
        if self.rows_outer and again:
            yield tile, self.parts[0]
        if number < len(self.rows):
            yield self.rows[number], self.parts[0]
        elif again and not self.rows_outer:
            yield self.rows[0], self.parts[0]

    def check(self) -> None:
        """Raise ValueError if a buffer is too small for a tile."""
        largest, part = self.tallest, self.parts[0]
        for what, need, limit in (
            ("act_depth", self.act_words(largest, part), self.config.act_depth),
            ("weight_depth", self.pairs(part), self.config.weight_depth),
            ("sum_depth", self.results(largest), self.config.sum_depth),
            ("windows", self.windows(largest, part), (1 << 16) - 1),
        ):
            if need > limit:
                raise ValueError(f"product {self.code.name!r} needs {need} places; {what} is {limit}")
        column = min(self.width, self.code.n)
        self.code.wgt.loads(self.config, self.mapping, 0, column, part)
        self.code.act.loads(self.config, self.mapping, self.rows[0], part)


def cuts(config: SatConfig, code: ProductCode) -> list[Cut]:
    """Return every cut of a product that the machine can run; ValueError says what forbids the others."""
    found: list[Cut] = []
    reasons: dict[str, None] = {}
    candidates = legal_mappings(config, code.pattern) if code.mapping is None else [code.mapping]
    for mapping in candidates:
        packed = code.pattern is not None and (mapping.n, mapping.m) != (code.pattern.n, code.pattern.m)
        if packed or mapping.parts > 1 or code.dataflow not in (None, mapping.name):
            continue
        cut = Cut(config, code, mapping)
        try:
            cut.check()
        except ValueError as error:
            reasons[str(error)] = None
            continue
        found.append(cut)
    if not found:
        raise ValueError(f"product {code.name!r} does not run on {config.name!r}: {'; '.join(reasons) or 'no mapping'}")
    return found
