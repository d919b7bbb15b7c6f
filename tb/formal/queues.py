"""Proofs of the queues of hw/parts: order, nothing lost, nothing invented, what is offered stands."""

from __future__ import annotations

from typing import Final

from amaranth.hdl import Cat, Mux, Signal, Value

from nmsat.dataflow.contract.config import UNDER_WAY
from nmsat.hw.parts.result_queue import ResultQueue
from nmsat.hw.parts.small_queue import SmallQueue
from nmsat.hw.parts.two_places import TwoPlaces
from nmsat.tb.formal.followed import Followed
from nmsat.tb.formal.harness import Harness, implies, inside, opened, source
from nmsat.tb.formal.proof import Fault, Proof

WIDTH: Final = 8
LATENCY: Final = 5
"""Cycles of the data path in front of the result queue; the least that needs all three bits of its places."""


def small_queue() -> Harness:
    """A queue alone; its user keeps its rules."""
    proof = Harness()
    queue = proof.add(SmallQueue(WIDTH, UNDER_WAY))
    entry = Followed(proof, queue, UNDER_WAY)
    proof.assume(implies(queue.push, queue.level != UNDER_WAY))
    proof.assume(implies(queue.pop, queue.some))
    proof.check(queue.some == (queue.level != 0), "some says whether there is an entry")
    proof.check(implies(entry.first, Value.cast(queue.o) == entry.value), "entries leave in order and unchanged")
    proof.cover(entry.first & queue.pop & entry.value.all(), "an entry leaves")
    proof.cover((queue.level == 3) & entry.on & ~entry.first, "an entry waits behind others")
    return proof


def result_queue() -> Harness:
    """A data path that never stops, and the queue behind it, with one beat followed all the way."""
    proof = Harness()
    m = proof.m
    queue = proof.add(ResultQueue(WIDTH, LATENCY), driven=("data",))
    inner = opened(queue)
    memory = inner.submodules.memory
    depth = queue.depth
    beat = proof.free("beat", WIDTH)
    path = [Signal(WIDTH, name=f"path_{k}", reset_less=True) for k in range(LATENCY)]
    m.d.sync += [new.eq(old) for new, old in zip(path, [beat, *path], strict=False)]
    m.d.comb += queue.data.eq(path[-1])
    under_way, waiting, held = inside(inner, "under_way"), source(inner, queue.o.valid), source(inner, queue.idle)
    leaves = Signal(name="taken")
    m.d.comb += leaves.eq(queue.o.valid & queue.o.ready)
    # the beat that is followed: behind `ahead` others, in stage `stage` of the path or in the queue
    on, queued = Signal(name="on"), Signal(name="queued")
    value = Signal(WIDTH, name="value")
    ahead, stage = Signal(range(depth + 1), name="ahead"), Signal(range(LATENCY + 1), name="stage")
    push = Signal(name="follow")
    m.d.comb += push.eq(queue.enter & proof.free("pick") & ~on)
    with m.If(push):
        m.d.sync += [on.eq(1), queued.eq(0), stage.eq(0), value.eq(beat), ahead.eq(held - leaves)]
    with m.Elif(on):
        m.d.sync += ahead.eq(ahead - leaves)
        with m.If(stage == LATENCY - 1):
            m.d.sync += queued.eq(1)
        with m.Else():
            m.d.sync += stage.eq(stage + 1)
        with m.If(queued & leaves & (ahead == 0)):
            m.d.sync += [on.eq(0), queued.eq(0)]
    write, read = memory.write_ports[0], memory.read_ports[0]
    peek = memory.read_port(domain="comb")
    m.d.comb += peek.addr.eq(read.addr + ahead)
    bits = len(write.addr)
    before_it = sum((Mux(stage < k, under_way[k], 0) for k in range(1, LATENCY)), Value.cast(0))
    in_path = on & ~queued
    proof.check(held <= depth, "no more is inside than there are places")
    proof.check(held == waiting + sum(under_way, Value.cast(0)), "what is inside is under way or waits")
    proof.check((write.addr - read.addr)[:bits] == waiting[:bits], "what waits was written and not read")
    proof.check(implies(in_path, (stage < LATENCY) & (Cat(under_way) >> stage)[0]), "a beat is where it should be")
    proof.check(implies(in_path, (ahead == waiting + before_it)), "a beat does not overtake")
    for k in range(LATENCY):
        proof.check(implies(in_path & (stage == k), path[k] == value), "a beat keeps its value on its way")
    proof.check(implies(queued, on & (ahead < waiting) & (Value.cast(peek.data) == value)), "a result keeps its place")
    proof.check(implies(on, ahead < held), "what is inside is counted")
    proof.check(
        implies(queued & (ahead == 0), queue.o.valid & (Value.cast(queue.o.payload) == value)),
        "results leave in order and unchanged",
    )
    proof.check(proof.stable("o", queue.o.valid, queue.o.ready, queue.o.payload), "a result stands until it is taken")
    proof.check(queue.idle == (held == 0), "idle says that nothing is inside")
    proof.check(implies(queue.ready, held < depth), "a beat is taken only if its result has a place")
    proof.cover(queued & (ahead == 0) & leaves & value.all(), "a result leaves")
    proof.cover(held == depth, "all places are taken")
    return proof


def two_places() -> Harness:
    """Two places alone, with one entry followed; who hands over keeps what is offered until it is taken."""
    proof = Harness()
    m = proof.m
    places = proof.add(TwoPlaces(WIDTH))
    inner = opened(places)
    full, behind = inside(inner, "full"), inside(inner, "behind")
    enters, leaves = Signal(name="enters"), Signal(name="leaves")
    m.d.comb += [enters.eq(places.i.valid & places.i.ready), leaves.eq(places.o.valid & places.o.ready)]
    on, second, value = Signal(name="on"), Signal(name="second"), Signal(WIDTH, name="value")
    with m.If(enters & proof.free("pick") & ~on):
        m.d.sync += [on.eq(1), value.eq(places.i.payload), second.eq(places.o.valid & ~leaves)]
    with m.Elif(on & leaves):
        m.d.sync += [on.eq(second), second.eq(0)]
    count = Signal(2, name="count")
    m.d.sync += count.eq(count + enters - leaves)
    proof.check(count == places.o.valid + full, "nothing is lost or invented")
    proof.check(implies(full, places.o.valid), "the second place is behind the first")
    proof.check(places.i.ready == (count != 2), "something is taken while there is a place")
    proof.check(implies(on, Mux(second, full, places.o.valid)), "an entry stays until it leaves")
    proof.check(implies(on, Mux(second, behind, Value.cast(places.o.payload)) == value), "in order and unchanged")
    payload = Value.cast(places.o.payload)
    proof.check(proof.stable("o", places.o.valid, places.o.ready, payload), "what is offered stands until it is taken")
    proof.cover(on & ~second & leaves & enters & value.all(), "one leaves while another enters")
    proof.cover(on & second & leaves, "one leaves while another waits")
    return proof


PROOFS: Final = (
    Proof(
        name="two_places",
        claim="Two places between a stream and another hand on in order, unchanged, each once; what is offered stands "
        "until it is taken, and something is taken whenever a place is free.",
        make=two_places,
        unbounded=True,
        depth=2,
        reach=6,
        smaller="8 bits wide (data are only moved)",
        faults=(
            Fault(
                "what waits is forgotten",
                "hw/parts/two_places.py",
                "Mux(full, behind, enters)",
                "enters",
            ),
            Fault(
                "the second place is never taken",
                "hw/parts/two_places.py",
                "with m.Elif(self.i.valid):",
                "with m.Elif(self.i.valid & self.o.ready):",
            ),
        ),
    ),
    Proof(
        name="small_queue",
        claim="A queue hands out its entries in order, unchanged, each once; `some` and `level` are right.",
        make=small_queue,
        unbounded=True,
        depth=2,
        reach=8,
        smaller="8 bits wide (data are only moved); 16 places, as in the machine; its user never overfills it: proved "
        "for its users below",
        faults=(
            Fault(
                "an entry that enters while another leaves is not counted",
                "hw/parts/small_queue.py",
                "self.level.eq(self.level + self.push - self.pop)",
                "self.level.eq(self.level + (self.push & ~self.pop) - self.pop)",
            ),
            Fault(
                "the place of the oldest one moves by pushes",
                "hw/parts/small_queue.py",
                "read.addr.eq(read.addr + self.pop)",
                "read.addr.eq(read.addr + (self.pop | (self.push & self.level[1])))",
            ),
        ),
    ),
    Proof(
        name="result_queue",
        claim="Behind a data path that never stops, every beat taken comes out once, in order, unchanged, and stands "
        "until it is taken; the queue never overflows.",
        make=result_queue,
        unbounded=True,
        depth=2,
        reach=12,
        smaller=f"8 bits wide; a data path of {LATENCY} cycles that hands its beats on",
        faults=(
            Fault(
                "a beat is taken when only the results that wait have a place",
                "hw/parts/result_queue.py",
                "self.ready.eq(inside != self.depth)",
                "self.ready.eq(waiting != self.depth)",
            ),
            Fault(
                "a result moves before it is taken",
                "hw/parts/result_queue.py",
                "read.addr.eq(read.addr + leaves)",
                "read.addr.eq(read.addr + self.o.valid)",
            ),
        ),
    ),
)
