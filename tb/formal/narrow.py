"""Proofs of memory ports below 512 bits, whose beats pass in parts: what `tb.formal.ports` says of wide ones, and how
parts make a beat."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from nmsat.tb.formal.ports import read_port_of, small, write_port_of
from nmsat.tb.formal.proof import Fault, Proof

if TYPE_CHECKING:
    from nmsat.tb.formal.harness import Harness

PARTS: Final = 4
"""Parts of a beat in these proofs; the machine has 2, 4 or 8."""


@small(PARTS)
def narrow_read_port() -> Harness:
    """The read port behind the engines' side and in front of memory."""
    return read_port_of(PARTS)


@small(PARTS)
def narrow_write_port() -> Harness:
    """The write port behind the engines' side and in front of memory."""
    return write_port_of(PARTS)


PROOFS: Final = (
    Proof(
        name="axi_read_parts",
        claim="A read port below 512 bits keeps what `axi_read` says: a burst has the transfers of whole beats, each "
        "beat reaches the client that asked in the cycle after its last part, in the order in which its parts came; an "
        "error of any part is told once, with its beat.",
        make=narrow_read_port,
        unbounded=True,
        depth=3,
        reach=14,
        smaller="as `axi_read`, with beats of 64 bits in four parts; memory ends no burst within a beat",
        faults=(
            Fault(
                "an error of a part that is not the last is forgotten",
                "hw/memory/read_port.py",
                "spoiled.eq(any_wrong & ~part.all())",
                "spoiled.eq(0)",
            ),
            Fault(
                "an error stays with the beat behind it",
                "hw/memory/read_port.py",
                "spoiled.eq(any_wrong & ~part.all())",
                "spoiled.eq(any_wrong)",
            ),
            Fault(
                "the first part is the highest",
                "hw/memory/read_port.py",
                "beat.eq(Cat(beat[len(axi.rdata) :], axi.rdata))",
                "beat.eq(Cat(axi.rdata, beat))",
            ),
            Fault(
                "a beat is told with each part",
                "hw/memory/read_port.py",
                "whole.eq(axi.rvalid & part.all())",
                "whole.eq(axi.rvalid)",
            ),
            Fault(
                "a burst counts beats",
                "hw/memory/port.py",
                "length.eq(Cat(Const(-1, (parts - 1).bit_length()), beats_less_1))",
                "length.eq(beats_less_1)",
            ),
        ),
    ),
    Proof(
        name="axi_write_parts",
        claim="A write port below 512 bits keeps what `axi_write` says: the parts of a beat leave one behind the "
        "other, the lowest bytes first, with their strobes; the beat goes with the last of them, which alone can end a "
        "burst.",
        make=narrow_write_port,
        unbounded=True,
        depth=3,
        reach=18,
        smaller="as `axi_write`, with beats of 64 bits in four parts",
        faults=(
            Fault(
                "WLAST stands at all parts of the last beat",
                "hw/memory/write_port.py",
                "axi.wlast.eq(wide.wlast & part.all())",
                "axi.wlast.eq(wide.wlast)",
            ),
            Fault(
                "a beat goes with each part",
                "hw/memory/write_port.py",
                "wide.wready.eq(axi.wready & part.all())",
                "wide.wready.eq(axi.wready)",
            ),
            Fault(
                "parts move when they are not taken",
                "hw/memory/write_port.py",
                "with m.If(axi.wvalid & axi.wready):",
                "with m.If(axi.wvalid):",
            ),
            Fault(
                "all parts are the first",
                "hw/memory/write_port.py",
                "word_select(i, len(out))",
                "word_select(0, len(out))",
            ),
        ),
    ),
)
