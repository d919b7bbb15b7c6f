"""Proofs of what engines ask of the memory ports: bursts stand until taken and stay within 4 KiB."""

from __future__ import annotations

from typing import Any, Final
from unittest.mock import patch

from amaranth.hdl import Signal

from nmsat.dataflow.contract.config import preset
from nmsat.dataflow.contract.isa import OFFSET_BITS
from nmsat.dataflow.contract.limits import FETCH_BEATS, LOAD_BURST, PAGE_BEATS, PAGE_BEATS_BITS, WRITE_BEATS
from nmsat.hw.control import fetch as fetch_module
from nmsat.hw.load.gather import LoadGather
from nmsat.hw.store.bursts import RowBursts
from nmsat.tb.formal.harness import Harness, implies, inside, loose, opened, source
from nmsat.tb.formal.proof import Fault, Proof


def _rules(proof: Harness, request: Any) -> None:
    ends = request.payload.offset[:PAGE_BEATS_BITS] + request.payload.beats_less_1
    proof.check(implies(request.valid, ends < PAGE_BEATS), "a burst stays within 4 KiB")
    proof.check(proof.stable("request", request.valid, request.ready, request.payload), "a request stands")
    proof.cover(request.valid & (ends == PAGE_BEATS - 1) & (request.payload.beats_less_1 == 3), "a burst ends at 4 KiB")


def load() -> Harness:
    """The part of the loader that joins beats to bursts, with any beats."""
    proof = Harness()
    dut = proof.add(LoadGather())
    grows = inside(opened(dut), "opened")
    inner = opened(dut)
    following = source(inner, inside(inner, "joins"), OFFSET_BITS)
    beats = source(inner, inside(inner, "full"), LOAD_BURST.bit_length())
    offset, valid = grows[2 : 2 + OFFSET_BITS], grows[-1]
    proof.check(implies(valid, (beats != 0) & (beats <= LOAD_BURST)), "a burst that grows has 1 to 8 beats")
    proof.check(implies(valid, following == (offset + beats)[:OFFSET_BITS]), "its next beat is the one behind it")
    proof.check(implies(valid, offset[:PAGE_BEATS_BITS] + beats <= PAGE_BEATS), "it does not grow beyond 4 KiB")
    _rules(proof, dut.request)
    return proof


def store() -> Harness:
    """The bursts of the store engine and of its second operand, with any walk and any room."""
    proof = Harness(reset=False)
    m = proof.m
    dut = proof.add(RowBursts(WRITE_BEATS), driven=("fields", "region", "first", "beats"))
    for name in ("fields", "region", "first", "beats"):
        value = getattr(dut, name)
        held = proof.fixed(f"held_{name}", len(value.as_value() if hasattr(value, "as_value") else value))
        m.d.comb += (value.as_value() if hasattr(value, "as_value") else value).eq(held)
    proof.assume((dut.beats != 0) & (dut.beats + dut.first <= 31))
    request = dut.request
    # what stands is taken before a new tile begins, and room only grows until then
    proof.assume(implies(dut.start, dut.finished))
    waits = proof.before("waits", request.valid & ~request.ready)
    proof.assume(implies(waits, dut.room >= proof.before("room_before", dut.room)))
    sent = inside(opened(dut), "sent")
    proof.check(implies(~dut.finished, sent < dut.beats), "what is left of a row is not nothing")
    proof.check(implies(request.valid, dut.beats_asked <= dut.room), "no more is asked for than there is room")
    proof.check(implies(request.valid, request.payload.beats_less_1 + 1 == dut.beats_asked), "what is asked is told")
    _rules(proof, request)
    return proof


def fetch() -> Harness:
    """The fetch of instructions, for any program and any memory that keeps to AXI4."""
    proof = Harness()
    m = proof.m
    with patch.object(fetch_module, "Check", loose(fetch_module.Check)):
        dut = proof.add(fetch_module.Fetch(preset("tiny")), driven=("at", "count", "region"))
        inner = opened(dut)
        proof.let(inner.submodules.check, ("code",))
    for name, bits in (("at", OFFSET_BITS), ("count", 32), ("region", 2)):
        m.d.comb += getattr(dut, name).eq(proof.fixed(f"held_{name}", bits))
    queue = inner.submodules.queue
    opened(queue)
    owed, request = Signal(6, name="owed"), dut.read.request
    stands = Signal(6, name="stands")
    m.d.comb += stands.eq(0)
    with m.If(request.valid):
        m.d.comb += stands.eq(request.payload.beats_less_1 + 1)
    with m.If(request.valid & request.ready):
        m.d.sync += owed.eq(owed + stands - dut.read.valid)
    with m.Else():
        m.d.sync += owed.eq(owed - dut.read.valid)
    proof.assume(implies(dut.read.valid, owed != 0))
    held = inside(inner, "held")
    proof.check(held == owed + stands + queue.level, "places are kept for what was asked for")
    proof.check(held <= FETCH_BEATS, "no more is asked for than there are places")
    proof.check(implies(queue.push, queue.level != FETCH_BEATS), "nothing comes to a full queue")
    proof.check(implies(queue.pop, queue.some), "nothing leaves an empty queue")
    proof.check(dut.asked <= dut.count, "nothing is asked for behind the end of the program")
    _rules(proof, request)
    return proof


PROOFS: Final = (
    Proof(
        name="requests_load",
        claim="Bursts of the loader stand until taken and stay within 4 KiB.",
        make=load,
        unbounded=True,
        depth=2,
        reach=8,
        smaller="nothing is smaller",
        faults=(
            Fault(
                "a burst goes on at 4 KiB",
                "hw/load/gather.py",
                " | ~following[:PAGE_BEATS_BITS].any())",
                ")",
            ),
        ),
    ),
    Proof(
        name="requests_store",
        claim="Bursts of the store engine and of its second operand stand until taken, stay within 4 KiB, and are no "
        "longer than the room for them.",
        make=store,
        unbounded=True,
        depth=2,
        reach=5,
        smaller="nothing is smaller; rows have 1 to 31 beats; a tile begins when the one before has been asked for; "
        "room does not shrink while a burst waits",
        faults=(
            Fault(
                "a burst is cut at its longest, not at 4 KiB",
                "hw/store/bursts.py",
                "Mux(in_page < capped, in_page, capped)",
                "capped",
            ),
        ),
    ),
    Proof(
        name="requests_fetch",
        claim="Bursts of the fetch stand until taken, stay within 4 KiB and within the program, and there is a place "
        "for every instruction asked for.",
        make=fetch,
        unbounded=True,
        depth=2,
        reach=6,
        smaller="nothing is smaller; any verdict of the check",
        faults=(
            Fault(
                "more is asked for than there are places",
                "hw/control/fetch.py",
                "& (held + beats <= FETCH_BEATS)",
                "& (held <= FETCH_BEATS)",
            ),
            Fault(
                "bursts are not aligned",
                "hw/control/fetch.py",
                "beats.eq(FETCH_BURST - low),",
                "beats.eq(FETCH_BURST),",
            ),
        ),
    ),
)
