"""What an UPDATE instruction does to memory (docs/machine/update.md); its timing is that of `sim.update.update`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from nmsat.algorithms.core import nm
from nmsat.algorithms.core.numeric import to_half
from nmsat.algorithms.core.tape import Pattern
from nmsat.algorithms.training.optim import SgdConstants
from nmsat.dataflow.contract.codes import group_size, kept
from nmsat.dataflow.contract.isa import BEAT_BYTES, HALVES, LANES
from nmsat.dataflow.contract.links import FILLER_PAIR
from nmsat.sim.update.wuve import update

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from nmsat.dataflow.contract.isa import Instruction


@dataclass(frozen=True)
class UpdateShape:
    """Sizes of one UPDATE: matrix [k, n], patterns (bp: None if W_bp is not made), beats per row of the gradient."""

    k: int
    n: int
    ff: Pattern
    bp: Pattern | None
    g_step: int

    @classmethod
    def of(cls, instruction: Instruction) -> UpdateShape:
        """Return the sizes of an instruction; ValueError if k, n or a pattern is illegal."""
        k, n = instruction["k"], instruction["n"]
        for name, size in (("k", k), ("n", n)):
            if size < 1:
                raise ValueError(f"{name} is {size!r}; an UPDATE needs at least 1")
        ff, bp = (Pattern(kept(instruction, copy), group_size(instruction, copy)) for copy in ("ff_", "bp_"))
        return cls(k, n, ff, bp if instruction["use_bp"] else None, instruction["g_step"])

    @property
    def blocks(self) -> int:
        """Blocks of 16 columns."""
        return -(-self.n // LANES)

    @property
    def groups(self) -> int:
        """Groups of W_ff along k."""
        return -(-self.k // self.ff.m)

    def beats(self) -> dict[str, int]:
        """Return the beats from the first to the last one of each tensor, by the name of its offset (weights: w_at)."""
        rows = self.blocks * self.k
        sizes = {"w_at": 2 * rows, "g_at": (self.k - 1) * self.g_step + -(-self.n // HALVES)}
        sizes |= {"mask_at": self.blocks * self.groups, "ff_at": self.blocks * self.groups * self.ff.n}
        if self.bp is not None:
            sizes["bp_at"] = -(-self.k // LANES) * -(-self.n // self.bp.m) * self.bp.n
        return sizes


def apply_update(instruction: Instruction, memory: Sequence[bytearray | NDArray[np.uint8]], hold: bool = False) -> bool:
    """Carry out an UPDATE in memory; return whether a gradient was infinite or NaN (flag `overflow`).

    memory: bytes of each region, changed in place. hold: weights and momenta stay. Raises ValueError if a tensor does
    not lie in its region or the instruction is illegal.
    """
    shape = UpdateShape.of(instruction)
    region = np.frombuffer(memory[instruction["region"]], np.uint8)
    at = {name: _tensor(region, instruction, name, beats) for name, beats in shape.beats().items()}
    w, v = at["w_at"].view(np.float32).reshape(2, shape.blocks, shape.k, LANES)
    g = _gradient(at["g_at"].view(np.float16).reshape(-1, HALVES), shape)
    kept = np.ones(w.shape, np.bool_)
    if instruction["use_mask"]:
        kept = _read_mask(at["mask_at"].view(np.uint16).reshape(shape.blocks, shape.groups, HALVES), shape)
    present = np.arange(shape.blocks * LANES).reshape(shape.blocks, 1, LANES) < shape.n
    new_w, new_v = update(w, v, g, kept, _constants(instruction), hold)
    w[:] = np.where(present, new_w, np.float32(0))
    v[:] = np.where(present, new_v, np.float32(0))
    half = to_half(w.transpose(1, 0, 2).reshape(shape.k, -1)[:, : shape.n])
    at["ff_at"].view(np.uint32)[:] = forward_words(half, shape.ff).ravel()
    at["mask_at"].view(np.uint16)[:] = mask_words(half, shape.ff).ravel()
    if shape.bp is not None:
        at["bp_at"].view(np.uint32)[:] = backward_words(half, shape.bp).ravel()
    return bool((~np.isfinite(g) & present).any())


def forward_words(half: NDArray[np.float16], pattern: Pattern) -> NDArray[np.uint32]:
    """Return W_ff of a matrix float16[k, n] as it lies in memory: uint32[block, group, slot, lane]."""
    pairs = _pair_words(nm.pack(half, pattern.n, pattern.m))
    return pairs.reshape(*pairs.shape[:2], -1, LANES).transpose(2, 0, 1, 3)


def backward_words(half: NDArray[np.float16], pattern: Pattern) -> NDArray[np.uint32]:
    """Return W_bp of a matrix float16[k, n] as it lies in memory, flat.

    Order: [block of 16 n][block of 16 k][group in the block of n][slot][lane].
    """
    pairs = _pair_words(nm.pack(half, pattern.n, pattern.m, axis=1))
    tiles = pairs.reshape(*pairs.shape[:2], -1, LANES).transpose(2, 0, 1, 3)  # [block of k, group, slot, lane]
    per_block = LANES // pattern.m
    parts = [tiles[:, first : first + per_block].ravel() for first in range(0, tiles.shape[1], per_block)]
    return np.concatenate(parts)


def mask_words(half: NDArray[np.float16], pattern: Pattern) -> NDArray[np.uint16]:
    """Return the mask of W_ff as it lies in memory: uint16[block, group, 32], bit p of word l: lane l keeps place p."""
    k, n = half.shape
    keep = np.pad(nm.mask(half, pattern.n, pattern.m), ((0, -k % pattern.m), (0, -n % LANES)))
    places = keep.reshape(-1, pattern.m, keep.shape[1] // LANES, LANES).astype(np.uint16)
    words = (places << np.arange(pattern.m, dtype=np.uint16)[:, None, None]).sum(axis=1, dtype=np.uint16)
    return np.pad(words.transpose(1, 0, 2), ((0, 0), (0, 0), (0, HALVES - LANES)))


def _pair_words(packed: nm.Packed) -> NDArray[np.uint32]:
    """Return pairs as uint32[group, slot, column], columns filled up with fillers to a multiple of 16."""
    words = packed.values.view(np.uint16).astype(np.uint32)
    words |= packed.index.astype(np.uint32) << np.uint32(16)
    words |= np.where(packed.filler, np.uint32(FILLER_PAIR), np.uint32(0))
    spare = -words.shape[2] % LANES
    return np.pad(words, ((0, 0), (0, 0), (0, spare)), constant_values=FILLER_PAIR)


def _tensor(region: NDArray[np.uint8], instruction: Instruction, name: str, beats: int) -> NDArray[np.uint8]:
    first, held = instruction[name], len(region) // BEAT_BYTES
    if first + beats > held:
        raise ValueError(f"{name} is {first!r}; {beats} beats from there leave the region of {held} beats")
    return region[first * BEAT_BYTES : (first + beats) * BEAT_BYTES]


def _gradient(beats: NDArray[np.float16], shape: UpdateShape) -> NDArray[np.float16]:
    """Return the gradient as [block, k, 16] from its beats [beat, 32]."""
    block = np.arange(shape.blocks)[:, None]
    rows = beats[np.arange(shape.k) * shape.g_step + block // 2].reshape(shape.blocks, shape.k, 2, LANES)
    return np.take_along_axis(rows, (block % 2)[:, :, None, None], axis=2)[:, :, 0]


def _read_mask(words: NDArray[np.uint16], shape: UpdateShape) -> NDArray[np.bool_]:
    """Return which weights the mask keeps, [block, k, 16], from words [block, group, 32]."""
    row = np.arange(shape.k)
    bits = words[:, row // shape.ff.m, :LANES] >> (row % shape.ff.m).astype(np.uint16)[:, None]
    return (bits & 1).astype(np.bool_)


def _constants(instruction: Instruction) -> SgdConstants:
    lr, mu, wd, lam = (float(np.uint32(instruction[name]).view(np.float32)) for name in ("lr", "mu", "wd", "lam"))
    return SgdConstants(lr, mu, wd, lam, instruction["shift"])
