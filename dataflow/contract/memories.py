"""Buffers of the machine as memories of a device: one table for the attribute in the RTL, the count and the model.

A buffer that may lie in UltraRAM does so on a device that has some, if it fills the 4096 entries of a block; all others
are block RAM. The shape of an UltraRAM is fixed (UG901, "Differences between UltraRAM and Block RAM").
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from nmsat.dataflow.contract.isa import BEAT_BYTES
from nmsat.dataflow.contract.links import PAIR

if TYPE_CHECKING:
    from nmsat.dataflow.contract.config import SatConfig
    from nmsat.dataflow.contract.dies import Die

BRAM_HALVES: Final = (
    *((entries, bits, 1) for entries, bits in ((512, 36), (1024, 18), (2048, 9), (4096, 4), (8192, 2), (16384, 1))),
    *((entries, bits, 2) for entries, bits in ((512, 72), (1024, 36), (2048, 18), (4096, 9), (8192, 4), (16384, 2))),
    (32768, 1, 2),
)
"""Entries x bits of block RAM with a port to read and one to write, and the halves of 36 kbit that it takes."""

URAM_SHAPE: Final = (4096, 72)
"""Entries x bits of an UltraRAM block."""


@dataclass(frozen=True)
class BufferKind:
    """So many memories of entries x bits; ultra: they may lie in UltraRAM."""

    name: str
    memories: int
    entries: int
    bits: int
    ultra: bool = False

    def style(self, die: Die) -> str:
        """Return `ram_style` on a device: 'ultra' or 'block'."""
        return "ultra" if self.ultra and die.uram and self.entries >= URAM_SHAPE[0] else "block"

    def blocks(self, die: Die) -> float:
        """Return the blocks that one memory takes: UltraRAM, or RAMB36 in halves; every memory of one shape."""
        if self.style(die) == "ultra":
            return _pieces(self, *URAM_SHAPE)
        return min(_pieces(self, entries, bits) * halves for entries, bits, halves in BRAM_HALVES) / 2


def buffers(config: SatConfig) -> dict[str, BufferKind]:
    """Return the buffers of a configuration by name, those of one kind together.

    Sums and results stay in block RAM: 32 bits would leave more than half of an UltraRAM empty.
    """
    found = (
        BufferKind("activations", config.rows, config.act_depth, 16 * config.act_lanes, ultra=True),
        BufferKind("weights", config.columns, config.weight_depth, PAIR.bits, ultra=True),
        BufferKind("sums", config.columns, config.sum_depth, 32),
        BufferKind("results", config.columns, config.sum_depth, 32),
        BufferKind("staging", 2, config.stage_depth // 2, 8 * BEAT_BYTES, ultra=True),
    )
    return {buffer.name: buffer for buffer in found}


def styles(config: SatConfig, die: Die) -> dict[str, str]:
    """Return buffer -> `ram_style`: all that the Verilog of a configuration takes from a device."""
    return {name: buffer.style(die) for name, buffer in buffers(config).items()}


def _pieces(buffer: BufferKind, entries: int, bits: int) -> int:
    return -(-buffer.entries // entries) * -(-buffer.bits // bits)
