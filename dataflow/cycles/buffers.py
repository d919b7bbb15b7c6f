"""Block RAM that the buffers of the machine take: a count, not a placed design (docs/timing.md)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from nmsat.dataflow.contract.dies import DIES
from nmsat.dataflow.contract.isa import BEAT_BYTES
from nmsat.dataflow.contract.links import PAIR

if TYPE_CHECKING:
    from nmsat.dataflow.contract.config import SatConfig
    from nmsat.dataflow.contract.dies import Die

XCVU9P: Final = DIES["xcvu9p"]
"""The device of the card that `vcu1525` is for."""

BRAM_SHAPES: Final = ((1024, 36), (2048, 18), (4096, 9))
"""Entries x bits of a BRAM36 as a simple dual-port memory."""

URAM_SHAPE: Final = (4096, 72)
"""Entries x bits of an UltraRAM block."""


@dataclass(frozen=True)
class BufferCount:
    """Block RAM of one kind of buffer: how many memories of entries x bits, and the blocks that they take."""

    name: str
    memories: int
    entries: int
    bits: int
    block: str
    blocks: int


def buffer_counts(config: SatConfig, die: Die = XCVU9P) -> tuple[BufferCount, ...]:
    """Return what the buffers take on an UltraScale+ device, every memory mapped for itself, no packing of words.

    Memories of a whole UltraRAM or more go there if the device has any, all others into BRAM36.
    """
    large = "uram" if die.uram else "bram36"
    return (
        _count("activations", config.rows, config.act_depth, 16 * config.act_lanes, large),
        _count("weights", config.columns, config.weight_depth, PAIR.bits, large),
        _count("sums", config.columns, config.sum_depth, 32),
        _count("results", config.columns, config.sum_depth, 32),
        _count("staging", 2, config.stage_depth // 2, 8 * BEAT_BYTES, large),
    )


def block_totals(counts: tuple[BufferCount, ...]) -> dict[str, int]:
    """Return the blocks of all buffers by kind."""
    return {kind: sum(count.blocks for count in counts if count.block == kind) for kind in XCVU9P.blocks}


def check_buffers(config: SatConfig, die: Die = XCVU9P) -> dict[str, int]:
    """Return the blocks by kind; ValueError names the largest buffer if they are more than the device has."""
    counts = buffer_counts(config, die)
    total = block_totals(counts)
    for kind, used in total.items():
        if used > die.blocks[kind]:
            worst = max((c for c in counts if c.block == kind), key=lambda c: c.blocks)
            raise ValueError(
                f"buffers of {config.name!r} need {used} {kind}, {used - die.blocks[kind]} more than the "
                f"{die.name.upper()} has; the largest is {worst.name} with {worst.memories} x {worst.entries} x "
                f"{worst.bits} bits; halve its depth"
            )
    return total


def _count(name: str, memories: int, entries: int, bits: int, large: str = "bram36") -> BufferCount:
    """Count one kind of buffer; large: the blocks of memories that fill an UltraRAM."""
    deep, wide = URAM_SHAPE
    block = large if entries >= deep else "bram36"
    if block == "uram":
        each = -(-entries // deep) * -(-bits // wide)
    else:
        each = min(-(-entries // depth) * -(-bits // width) for depth, width in BRAM_SHAPES)
    return BufferCount(name, memories, entries, bits, block, memories * each)
