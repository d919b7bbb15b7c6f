"""Where tensors lie in the regions of SAT's memory, and how the host reads and writes them (docs/machine/memory.md)."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from nmsat.algorithms.core.tape import Pattern
from nmsat.dataflow.contract.isa import BEAT_BYTES, HALVES, LANES, REGIONS
from nmsat.dataflow.contract.limits import PAGE_BEATS
from nmsat.dataflow.contract.links import FILLER_PAIR

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from nmsat.algorithms.core.packed import Packed

DENSE = Pattern(4, 4)
"""How dense weights are packed: all of each four."""

ALIGNMENT = PAGE_BEATS
"""Beats (4 KiB) at which a tensor starts, so that its bursts are long."""


@dataclass(frozen=True)
class Place:
    """Part of a region: first beat and number of beats."""

    name: str
    region: int
    at: int
    beats: int

    @property
    def key(self) -> tuple[int, int]:
        """What instructions that share it wait for each other by: region and start of the whole tensor."""
        return self.region, self.at


@dataclass(frozen=True)
class Rows(Place):
    """A matrix of `rows` rows of `columns` numbers of `bytes` bytes each (2 or 4); a row starts on a whole beat.

    pitch: beats from row to row, 0 for those of the columns; whole: first beat of the tensor that this is a part of,
    -1 if it is a tensor of its own.
    """

    rows: int
    columns: int
    bytes: int = 2
    pitch: int = 0
    whole: int = -1

    @property
    def step(self) -> int:
        """Beats from row to row."""
        return self.pitch or row_beats(self.columns, self.bytes)

    @property
    def key(self) -> tuple[int, int]:
        return self.region, self.at if self.whole < 0 else self.whole

    def part(self, rows: tuple[int, int], columns: tuple[int, int]) -> Rows:
        """Return part of the matrix: (first row, how many), (first column, how many).

        Raises ValueError if the columns do not start on a whole beat.
        """
        per_beat = BEAT_BYTES // self.bytes
        if columns[0] % per_beat:
            what = f"part of {self.name!r} starts at column {columns[0]!r}"
            raise ValueError(f"{what}; it must be a multiple of {per_beat}")
        beats = (rows[1] - 1) * self.step + row_beats(columns[1], self.bytes)
        at = self.at + rows[0] * self.step + columns[0] // per_beat
        sizes = (rows[1], columns[1], self.bytes, self.step)
        return Rows(self.name, self.region, at, beats, *sizes, self.key[1])

    def padded(self, columns: int) -> Rows:
        """Return it with the zeros behind each row counted as columns; ValueError if a row has no room for so many."""
        if row_beats(columns, self.bytes) > self.step:
            raise ValueError(f"rows of {self.name!r} hold {self.columns} columns; {columns!r} do not fit")
        return replace(self, columns=columns)


@dataclass(frozen=True)
class Weights:
    """A weight matrix [k, n] in memory: masters, momenta behind them, both packed copies, mask of W_ff, gradient.

    ff, bp: patterns of the copies (`DENSE` for dense ones); bp_place is None where no product reads W_bp.
    """

    name: str
    k: int
    n: int
    ff: Pattern
    bp: Pattern
    master: Place
    ff_place: Place
    bp_place: Place | None
    mask: Place
    gradient: Rows

    @property
    def blocks(self) -> int:
        """Blocks of 16 columns."""
        return -(-self.n // LANES)

    @property
    def row_blocks(self) -> int:
        """Blocks of 16 rows (W_bp)."""
        return -(-self.k // LANES)

    @property
    def groups(self) -> int:
        """Groups of W_ff along k."""
        return -(-self.k // self.ff.m)

    def run(self, block: int) -> int:
        """Beats of W_bp that a block of 16 columns n gives for a block of 16 rows."""
        width = min(LANES, self.n - block * LANES)
        return -(-width // self.bp.m) * self.bp.n


def row_beats(columns: int, size: int = 2) -> int:
    """Return the whole beats of a row of `columns` numbers of `size` bytes."""
    return -(-columns * size // BEAT_BYTES)


@dataclass
class Layout:
    """Deals out the regions. beats: used so far of each region."""

    beats: list[int] = field(default_factory=lambda: [0] * REGIONS)

    def rows(self, name: str, region: int, rows: int, columns: int, size: int = 2) -> Rows:
        """Place a matrix of binary16 (size 2) or binary32 (size 4)."""
        beats = rows * row_beats(columns, size)
        return Rows(name, region, self._take(region, beats), beats, rows, columns, size)

    def weights(self, name: str, region: int, k: int, n: int, ff: Pattern, bp: Pattern, *, backward: bool) -> Weights:
        """Place a weight matrix with all that belongs to it; backward: W_bp is wanted."""
        blocks, groups = -(-n // LANES), -(-k // ff.m)
        master = self._place(f"{name}.master", region, 2 * blocks * k)
        forward = self._place(f"{name}.ff", region, blocks * groups * ff.n)
        mask = self._place(f"{name}.mask", region, blocks * groups)
        gradient = self.rows(f"{name}.gradient", region, k, n)
        weights = Weights(name, k, n, ff, bp, master, forward, None, mask, gradient)
        if not backward:
            return weights
        beats = weights.row_blocks * sum(weights.run(block) for block in range(blocks))
        place = self._place(f"{name}.bp", region, beats)
        return Weights(name, k, n, ff, bp, master, forward, place, mask, gradient)

    def _place(self, name: str, region: int, beats: int) -> Place:
        return Place(name, region, self._take(region, beats), beats)

    def _take(self, region: int, beats: int) -> int:
        at = self.beats[region]
        self.beats[region] = -(-(at + beats) // ALIGNMENT) * ALIGNMENT
        return at


class Image:
    """The regions as the host sees them: uint8 arrays."""

    def __init__(self, beats: Sequence[int]) -> None:
        self.regions = [np.zeros(max(ALIGNMENT, count) * BEAT_BYTES, np.uint8) for count in beats]

    def write_rows(self, tensor: Rows, values: NDArray) -> None:
        """Store float16 or float32 [rows, columns]; what is left of the last beat of a row becomes 0."""
        held = self._numbers(tensor)
        padded = np.zeros(held.shape, held.dtype)
        padded[: values.shape[0], : tensor.columns] = values
        held[:] = padded

    def read_rows(self, tensor: Rows) -> NDArray:
        """Return [rows, columns]."""
        return self._numbers(tensor)[:, : tensor.columns].copy()

    def write_master(self, weights: Weights, w: NDArray[np.float32], v: NDArray[np.float32]) -> None:
        """Store masters and momenta [k, n]."""
        padded = np.zeros((2, weights.k, weights.blocks * LANES), np.float32)
        padded[:, :, : weights.n] = w, v
        blocks = padded.reshape(2, weights.k, weights.blocks, LANES).transpose(0, 2, 1, 3)
        self._bytes(weights.master)[:] = np.ascontiguousarray(blocks).view(np.uint8).ravel()

    def read_master(self, weights: Weights) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return masters and momenta [k, n]."""
        blocks = self._bytes(weights.master).view(np.float32).reshape(2, weights.blocks, weights.k, LANES)
        both = blocks.transpose(0, 2, 1, 3).reshape(2, weights.k, -1)[:, :, : weights.n]
        return both[0].copy(), both[1].copy()

    def write_copies(self, weights: Weights, ff: Packed, bp: Packed | None) -> None:
        """Store W_ff with its mask, and W_bp (packed along n)."""
        self._write_forward(weights, ff)
        if weights.bp_place is not None and bp is not None:
            self._write_backward(weights, weights.bp_place, bp)

    def _write_forward(self, weights: Weights, ff: Packed) -> None:
        words = _words(ff, weights.blocks * LANES)  # group, slot, column
        blocks = words.reshape(weights.groups, ff.n, weights.blocks, LANES).transpose(2, 0, 1, 3)
        self._bytes(weights.ff_place)[:] = np.ascontiguousarray(blocks).view(np.uint8).ravel()
        keep = np.zeros((weights.groups, weights.blocks * LANES), np.uint16)
        kept = np.where(ff.filler, 0, 1 << ff.index.astype(np.uint16)).sum(axis=1)
        keep[:, : weights.n] = kept
        beats = np.zeros((weights.blocks, weights.groups, HALVES), np.uint16)
        beats[:, :, :LANES] = keep.reshape(weights.groups, weights.blocks, LANES).transpose(1, 0, 2)
        self._bytes(weights.mask)[:] = beats.view(np.uint8).ravel()

    def _write_backward(self, weights: Weights, place: Place, bp: Packed) -> None:
        words = _words(bp, weights.row_blocks * LANES)  # group of n, slot, k
        parts, group = [], 0
        for block in range(weights.blocks):
            groups = weights.run(block) // bp.n
            part = words[group : group + groups].reshape(groups, bp.n, weights.row_blocks, LANES)
            parts.append(np.ascontiguousarray(part.transpose(2, 0, 1, 3)).view(np.uint8).ravel())
            group += groups
        self._bytes(place)[:] = np.concatenate(parts)

    def _numbers(self, tensor: Rows) -> NDArray:
        """Return the numbers of a matrix, those behind its columns included, as a view of the region."""
        kind = np.dtype(np.float16 if tensor.bytes == 2 else np.float32)
        per_beat = BEAT_BYTES // tensor.bytes
        start, width = tensor.at * per_beat, row_beats(tensor.columns, tensor.bytes) * per_beat
        end = start + (tensor.rows - 1) * tensor.step * per_beat + width
        held = self.regions[tensor.region].view(kind)[start:end]
        shape, strides = (tensor.rows, width), (tensor.step * BEAT_BYTES, tensor.bytes)
        return np.lib.stride_tricks.as_strided(held, shape, strides)

    def _bytes(self, place: Place) -> NDArray[np.uint8]:
        start = place.at * BEAT_BYTES
        return self.regions[place.region][start : start + place.beats * BEAT_BYTES]


def _words(packed: Packed, columns: int) -> NDArray[np.uint32]:
    """Return uint32[groups, slots, columns] of pairs; columns that do not exist are fillers."""
    out = np.full((packed.groups, packed.n, columns), FILLER_PAIR, np.uint32)
    value = np.ascontiguousarray(packed.values).view(np.uint16).astype(np.uint32)
    word = value | packed.index.astype(np.uint32) << 16 | packed.filler.astype(np.uint32) << 20
    out[:, :, : packed.columns] = word
    return out
