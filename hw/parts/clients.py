"""How engines meet the memory ports and the sequencer (docs/machine/memory.md)."""

from __future__ import annotations

from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from nmsat.dataflow.contract.isa import BEAT_BYTES, INSTRUCTION_BITS, OFFSET_BITS

INDEX_BITS = 32
"""Bits of the place of an instruction in its program."""


def burst_layout() -> data.StructLayout:
    """A burst: region, first beat in it, beats less 1 (1 to `MAX_BURST`); it does not cross 4 KiB."""
    return data.StructLayout({"region": 2, "offset": OFFSET_BITS, "beats_less_1": 4})


class ReadClient(wiring.Signature):
    """What an engine has to read memory.

    Members, as the engine has them:

    request : Out(stream of `burst_layout`), bursts, asked for from registers only.
    valid : In(1), a beat of an earlier burst is there; it is always taken.
    data : In(512), this beat, in the order of the requests.
    """

    def __init__(self) -> None:
        super().__init__(
            {
                "request": Out(stream.Signature(burst_layout())),
                "valid": In(1),
                "data": In(8 * BEAT_BYTES),
            }
        )


class WriteClient(wiring.Signature):
    """What an engine has to write memory.

    Members, as the engine has them:

    request : Out(stream of `burst_layout`), bursts whose beats the engine holds already, from registers only.
    data : Out(512), its next beat.
    strobe : Out(64), bytes of this beat that are written.
    pull : In(1), this beat is taken in this cycle.
    acknowledged : In(1), memory has taken one more burst of this engine (one cycle each).
    """

    def __init__(self) -> None:
        super().__init__(
            {
                "request": Out(stream.Signature(burst_layout())),
                "data": Out(8 * BEAT_BYTES),
                "strobe": Out(BEAT_BYTES),
                "pull": In(1),
                "acknowledged": In(1),
            }
        )


class WorkPort(wiring.Signature):
    """How an engine gets its instructions: an engine holds it as `In(WorkPort())`, the sequencer as `Out`.

    Members, as the sequencer has them:

    start : Out(stream of 512), an instruction whose semaphores have been lowered, for one cycle of
        `start.valid & start.ready` (the sequencer lowers them in that cycle; ready depends on registers only).
    done : In(1), the oldest instruction that has started is done (one cycle each).
    """

    def __init__(self) -> None:
        super().__init__(
            {
                "start": Out(stream.Signature(INSTRUCTION_BITS)),
                "done": In(1),
            }
        )
