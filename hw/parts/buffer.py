"""Buffers of the machine as memories of Amaranth, with the style of the device that the Verilog is for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from amaranth.lib.memory import Memory

from nmsat.dataflow.contract.dies import DEFAULT_DIE
from nmsat.dataflow.contract.memories import buffers
from nmsat.hw.parts.verilog import VerilogPlatform

if TYPE_CHECKING:
    from nmsat.dataflow.contract.config import SatConfig


def buffer_memory(name: str, config: SatConfig, platform: object) -> Memory:
    """Return one memory of buffer `name` of `dataflow.contract.memories.buffers`; no words, all bits are 0 at first.

    platform: as `elaborate` gets it; where it names no part, the style is that of `DEFAULT_DIE`.
    """
    buffer = buffers(config)[name]
    die = platform.die if isinstance(platform, VerilogPlatform) else DEFAULT_DIE
    return Memory(shape=buffer.bits, depth=buffer.entries, init=[], attrs={"ram_style": buffer.style(die)})
