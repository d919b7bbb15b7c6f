"""What an instruction touches outside its engine's buffers: beats of memory, places of the staging buffer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from nmsat.dataflow.contract.codes import group_size, kept
from nmsat.dataflow.contract.isa import HALVES, LANES, OFFSET_MASK, ActMode, Opcode, Side
from nmsat.dataflow.contract.walks import walk

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from nmsat.dataflow.contract.isa import Instruction


@dataclass(frozen=True)
class Touch:
    """Beats that an instruction reads or writes.

    field: that says where; region; beats: offsets int64[n], in the order of time and as often as they are touched;
    write; row: of a STORE, the tile row that each belongs to.
    """

    field: str
    region: int
    beats: NDArray[np.int64]
    write: bool = False
    row: NDArray[np.int64] | None = None


def touches(f: Instruction) -> tuple[Touch, ...]:
    """Return what an instruction reads and writes in memory; beats of a staged load are none of them."""
    return _TOUCHES[f.opcode](f)


def _nothing(f: Instruction) -> tuple[Touch, ...]:
    del f
    return ()


def _load_act(f: Instruction) -> tuple[Touch, ...]:
    return () if f["staged"] else (Touch("at", f["region"], operand(f)),)


def _load_runs(f: Instruction) -> tuple[Touch, ...]:
    return (Touch("at", f["region"], _runs(f)),)


def operand(f: Instruction) -> NDArray[np.int64]:
    """Return the offsets that a LOAD_ACT reads, zeros left out."""
    columns = f["mode"] == ActMode.OS_COLUMNS
    steps, across = (f["k"], f["rows"]) if columns else (f["rows"], f["k"])
    path = walk(f, steps)
    beats = path.offset[path.inside, None] + np.arange(-(-across // HALVES))
    return beats.ravel() & OFFSET_MASK


def _runs(f: Instruction) -> NDArray[np.int64]:
    """Return the offsets of a STAGE or LOAD_WGT."""
    stage = f.opcode is Opcode.STAGE
    q = np.arange(1 if stage else f["blocks"])[:, None, None] * f["block_step"]
    o = np.arange(f["outer"])[:, None] * f["outer_step"]
    i = np.arange(f["inner"]) * (1 if stage else f["inner_step"])
    return (f["at"] + q + o + i).ravel() & OFFSET_MASK


def _store(f: Instruction) -> tuple[Touch, ...]:
    side = Side(f["side"])
    found = []
    if side is not Side.NONE:
        found.append(_rows(f, "side_", LANES if side is Side.TILE32 else HALVES))
    return (*found, _rows(f, "", HALVES if f["to_half"] else LANES))


def _rows(f: Instruction, prefix: str, per_beat: int) -> Touch:
    """Return the beats of all rows of a STORE that hold an element in use."""
    first, last = f["lane"] // per_beat, (f["lane"] + f["columns"] - 1) // per_beat
    beats = walk(f, f["rows"], prefix).offset[:, None] + np.arange(first, last + 1)
    row = np.repeat(np.arange(f["rows"]), last + 1 - first)
    return Touch(f"{prefix}at", f[f"{prefix}region"], beats.ravel(), not prefix, row)


def update_sizes(f: Instruction) -> dict[str, int]:
    """Return the beats from the first to the last of each tensor of an UPDATE, by the field that says where it is."""
    k, n = f["k"], f["n"]
    blocks, groups = -(-n // LANES), -(-k // group_size(f, "ff_"))
    sizes = {
        "g_at": (k - 1) * f["g_step"] + -(-n // HALVES),
        "w_at": 2 * blocks * k,
        "mask_at": blocks * groups,
        "ff_at": blocks * groups * kept(f, "ff_"),
    }
    if f["use_bp"]:
        sizes["bp_at"] = -(-k // LANES) * -(-n // group_size(f, "bp_")) * kept(f, "bp_")
    return sizes


def _update(f: Instruction) -> tuple[Touch, ...]:
    """Return the tensors of an UPDATE (docs/machine/update.md, docs/machine/memory.md)."""
    region, sizes = f["region"], update_sizes(f)
    del sizes["g_at"]
    rows = f["g_at"] + np.arange(f["k"])[:, None] * f["g_step"] + np.arange(-(-f["n"] // HALVES))
    reads = ("w_at", "mask_at") if f["use_mask"] else ("w_at",)
    beats = {name: f[name] + np.arange(size, dtype=np.int64) for name, size in sizes.items()}
    return (
        Touch("g_at", region, rows.ravel()),
        *(Touch(name, region, beats[name]) for name in reads),
        *(Touch(name, region, found, True) for name, found in beats.items()),
    )


_TOUCHES: Final[dict[Opcode, Callable[[Instruction], tuple[Touch, ...]]]] = {
    Opcode.LOAD_ACT: _load_act,
    Opcode.LOAD_WGT: _load_runs,
    Opcode.STAGE: _load_runs,
    Opcode.COMPUTE: _nothing,
    Opcode.STORE: _store,
    Opcode.UPDATE: _update,
    Opcode.END: _nothing,
}
