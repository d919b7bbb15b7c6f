"""What the writers of the loader have in common: an instruction, its beats, the end of its writes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from nmsat.dataflow.contract.isa import INSTRUCTION_BITS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from amaranth.hdl import Signal


class LoadWriter(wiring.Component):
    """Carry out the writes of one instruction at a time.

    Parameters: beat: layout of what stands at `beat`; ports: name -> member, those of the writer's own.
    Members:

    word : In(512), the instruction, held from `begin` to `ended`.
    begin : In(1), it starts; `word` is new in this cycle.
    beat : In(stream of `beat`), its beats; taken only while it runs, in order.
    ended : Out(1), the last write of the instruction is in this cycle.

    Timing: that of each writer; none depends on `beat.valid` for `beat.ready`.
    """

    word: Signal
    begin: Signal
    beat: stream.Interface
    ended: Signal

    def __init__(self, beat: data.StructLayout, ports: Mapping[str, Any]) -> None:
        super().__init__(
            {
                "word": In(INSTRUCTION_BITS),
                "begin": In(1),
                "beat": In(stream.Signature(beat)),
                **ports,
                "ended": Out(1),
            }
        )
