"""How parts make a beat, for the proofs of memory ports: what comes is gathered, what leaves is dealt."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from amaranth.hdl import Cat, Const, Signal, Value

from nmsat.tb.formal.harness import implies, inside, opened

if TYPE_CHECKING:
    from nmsat.tb.formal.harness import Harness


def gathered(proof: Harness, port: Any, parts: int) -> tuple[Value, Value, Value]:
    """Return of the cycle: a beat is whole, its data, whether any part of it is an error.

    Parts are kept by their numbers, the port shifts them.
    """
    axi = port.axi
    if parts == 1:
        return axi.rvalid, axi.rdata, axi.rresp[1]
    m, inner, size = proof.m, opened(port), len(axi.rdata)
    number = Signal(range(parts), name="number_of_part")
    came = [Signal(size, name=f"came_{i}") for i in range(parts)]
    wrong = Signal(name="any_was_wrong")
    final = number == parts - 1
    with m.If(axi.rvalid):
        m.d.sync += [number.eq(number + 1), wrong.eq((axi.rresp[1] | wrong) & ~final)]
        for i, one in enumerate(came):
            with m.If(number == i):
                m.d.sync += one.eq(axi.rdata)
    proof.assume(implies(axi.rvalid & axi.rlast, final))
    beat = inside(inner, "beat")
    proof.check(inside(inner, "part") == number, "parts are counted")
    proof.check(inside(inner, "spoiled") == wrong, "an error is kept until its beat is whole")
    for i in range(1, parts):
        proof.check(implies(number == i, beat[(parts - i) * size :] == Cat(came[:i])), "parts wait in their order")
    return axi.rvalid & final, Cat(came[:-1], axi.rdata), axi.rresp[1] | wrong


def dealt_parts(proof: Harness, port: Any, parts: int, moved: Value) -> tuple[Value, Value]:
    """Return the number of the part on W, and whether a beat leaves with it; moved: W is taken."""
    if parts == 1:
        return Const(0), moved
    number = Signal(range(parts), name="number_of_part")
    with proof.m.If(moved):
        proof.m.d.sync += number.eq(number + 1)
    proof.check(inside(opened(port), "part") == number, "parts are counted")
    proof.check(implies(number != 0, port.axi.wvalid), "a beat leaves whole")
    return number, moved & (number == parts - 1)


def part_of_beat(proof: Harness, port: Any, beat: Any, number: Value) -> None:
    """Check that W shows the parts of the beat that stands in front of it; number: of the part."""
    axi = port.axi
    parts = len(port.clients[0].data) // len(axi.wdata)
    final = number == parts - 1
    proof.check(axi.wvalid == beat.valid, "a part stands on W for a beat")
    proof.check(beat.ready == (axi.wready & final), "a beat goes with its last part")
    proof.check(implies(axi.wvalid, axi.wlast == (beat.payload.last & final)), "wlast stands at the last part only")
    for p in range(parts):
        shown = Cat(axi.wdata, axi.wstrb) == Cat(
            beat.payload.data.word_select(p, len(axi.wdata)), beat.payload.strobe.word_select(p, len(axi.wstrb))
        )
        proof.check(implies(axi.wvalid & (number == p), shown), "parts are unchanged, in their order")
