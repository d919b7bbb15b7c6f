"""Block RAM that the buffers of the machine take: a count, not a placed design (docs/timing.md)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from nmsat.dataflow.contract.dies import DEFAULT_DIE
from nmsat.dataflow.contract.memories import buffers

if TYPE_CHECKING:
    from nmsat.dataflow.contract.config import SatConfig
    from nmsat.dataflow.contract.dies import Die

BLOCK_OF: Final = {"ultra": "uram", "block": "bram36"}
"""`ram_style` -> blocks that a memory takes."""


@dataclass(frozen=True)
class BufferCount:
    """Block RAM of one kind of buffer: how many memories of entries x bits, and the blocks that they take."""

    name: str
    memories: int
    entries: int
    bits: int
    block: str
    blocks: int


def buffer_counts(config: SatConfig, die: Die = DEFAULT_DIE) -> tuple[BufferCount, ...]:
    """Return what the buffers take on a device by `dataflow.contract.memories`, no packing of words.

    Of memories that take half of a RAMB36 two share one.
    """
    return tuple(
        BufferCount(
            buffer.name,
            buffer.memories,
            buffer.entries,
            buffer.bits,
            BLOCK_OF[buffer.style(die)],
            math.ceil(buffer.memories * buffer.blocks(die)),
        )
        for buffer in buffers(config).values()
    )


def block_totals(counts: tuple[BufferCount, ...]) -> dict[str, int]:
    """Return the blocks of all buffers by kind."""
    return {kind: sum(count.blocks for count in counts if count.block == kind) for kind in DEFAULT_DIE.blocks}


def check_buffers(config: SatConfig, die: Die = DEFAULT_DIE) -> dict[str, int]:
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
