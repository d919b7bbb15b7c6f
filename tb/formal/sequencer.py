"""Proofs of the sequencer: no instruction starts without its semaphores; short programs end."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, Final
from unittest.mock import patch

from amaranth.hdl import Cat, Module, Mux, Signal, Value

from nmsat.dataflow.contract.config import preset
from nmsat.dataflow.contract.isa import SEMAPHORE_MAX, SEMAPHORES, ErrorCode, Queue
from nmsat.dataflow.contract.limits import STARTED_DEPTH
from nmsat.hw.control import fetch as fetch_module
from nmsat.hw.control import semaphores as semaphores_module
from nmsat.hw.control import sequencer as sequencer_module
from nmsat.hw.parts import clients as clients_module
from nmsat.tb.formal.harness import Harness, implies, inside, loose, opened
from nmsat.tb.formal.proof import Fault, Proof

if TYPE_CHECKING:
    from collections.abc import Iterator

WAIT, SIGNAL = slice(4, 20), slice(20, 36)
"""Masks of an instruction (docs/machine/control.md): said here anew, not taken from the hardware."""

STARTED: Final = 2
"""Instructions that an engine may have started, in the proof of starts."""

SAMPLE_MAX: Final = 1
"""Highest value of a semaphore in the sample: so that one beyond is near."""


@contextmanager
def small(most: int, started: int, *, checked: bool) -> Iterator[None]:
    """Build the sequencer with words that end behind their masks.

    most: highest value of a semaphore; started: instructions that an engine may have started; checked: words come from
    the fetch, with any verdict of the check, else at any time.
    """
    words = {"INSTRUCTION_BITS": SIGNAL.stop, "INDEX_BITS": 4}
    found: list[tuple[Any, dict[str, Any]]] = [
        (sequencer_module, {**words, "STARTED_DEPTH": started}),
        (fetch_module, {**words, "Check": loose(fetch_module.Check)}),
        (clients_module, words),
        (semaphores_module, {"SEMAPHORE_MAX": most}),
    ]
    if not checked:
        found.append((sequencer_module, {"Fetch": loose(sequencer_module.Fetch)}))
    with ExitStack() as stack:
        for module, numbers in found:
            for name, number in numbers.items():
                stack.enter_context(patch.object(module, name, number))
        yield


def starts(most: int = SEMAPHORE_MAX) -> Harness:
    """The sequencer behind a fetch that hands it any words; one semaphore is followed. most: its highest value."""
    proof = Harness()
    m = proof.m
    with small(most, STARTED, checked=False):
        dut = proof.add(sequencer_module.Sequencer(preset("tiny")))
        inner = opened(dut)
        lanes: list[Any] = [inner.submodules[f"lane_{queue.name.lower()}"] for queue in Queue]
        parts = [opened(lane) for lane in lanes]
        counters = opened(inner.submodules.semaphores)
    proof.let(inner.submodules.fetch, ("valid", "word", "index", "code", "received"))
    which = proof.fixed("which", range(SEMAPHORES))
    started = [work.start.valid & work.start.ready for work in dut.work]
    lowers = Signal(name="lowers")
    m.d.comb += lowers.eq(
        Cat(go & _bit(work.start.payload[WAIT], which) for go, work in zip(started, dut.work, strict=True)).any()
    )
    raised: list[Value] = []
    for queue, work, go, part in zip(Queue, dut.work, started, parts, strict=True):
        raised.append(_in_engine(proof, queue.name.lower(), work, go, part, which))
    count, exact = Signal(12, name="count"), Signal(12, name="exact")
    m.d.comb += exact.eq(count + sum(raised, Value.cast(0)) - lowers)
    m.d.sync += count.eq(Mux(exact > most, most, exact))
    value = Signal(8, name="value")
    with m.Switch(which):
        for s in range(SEMAPHORES):
            with m.Case(s):
                m.d.comb += value.eq(inside(counters, f"value_{s}"))
    above = inner.submodules.semaphores.above
    proof.check(_bit(above, which) == (count != 0), "a semaphore is said to be above 0 if it is")
    for lane, part in zip(lanes, parts, strict=True):
        left = (part.submodules.started.level != STARTED) & part.submodules.queue.some
        held = left & ~_bit(inside(part, "missing"), which)
        proof.check(implies(lane.can, held), "what could start in the last cycle still can")
    proof.check(value == count, "a semaphore is what instructions that are done raised less what starts lowered")
    proof.check(implies(lowers, count != 0), "no instruction starts unless its semaphores are there")
    proof.check(count <= most, "no semaphore passes its highest value")
    proof.check(sum(started, Value.cast(0)) <= 1, "one instruction starts at a time")
    beyond = proof.before("beyond", exact > most)
    proof.check(implies(beyond, dut.failure.valid), "a semaphore raised beyond its highest value ends the run")
    proof.check(implies(Cat(started).any(), dut.run), "nothing starts outside a run")
    proof.cover(lowers & (dut.work[2].start.payload[WAIT] != 0) & started[2], "a store starts that had to wait")
    proof.cover(beyond, "a semaphore is raised beyond its highest value")
    twice = proof.before("two_before", proof.before("one_before", started[0]))
    proof.cover(started[3] & twice, "instructions start one after the other")
    return proof


def _in_engine(proof: Harness, name: str, work: Any, go: Value, part: Module, which: Signal) -> Value:
    """Follow what an engine has started; return whether the semaphore is raised in this cycle."""
    m = proof.m
    level = Signal(range(STARTED + 1), name=f"level_{name}")
    bits = Signal(STARTED, name=f"signals_{name}")
    proof.assume(implies(work.done, level != 0))
    after = Signal.like(level, name=f"after_{name}")
    m.d.comb += after.eq(level - work.done)
    m.d.sync += level.eq(after + go)
    kept = Mux(work.done, bits >> 1, bits)
    signal = _bit(work.start.payload[SIGNAL], which)
    m.d.sync += bits.eq(Mux(go, (kept & ~(1 << after)[:STARTED]) | (signal << after)[:STARTED], kept))
    queue, started = part.submodules.queue, part.submodules.started
    memory = opened(started).submodules.memory
    write, read = memory.write_ports[0], memory.read_ports[0]
    wide = len(write.addr)
    proof.check(level <= STARTED, "no engine holds more than it may have started")
    proof.check(started.level == level, "what is in an engine is what has started and is not done")
    proof.check((write.addr - read.addr)[:wide] == level[:wide], "as many places are taken as instructions are there")
    for place in range(STARTED):
        peek = memory.read_port(domain="comb")
        m.d.comb += peek.addr.eq(read.addr + place)
        same = _bit(Value.cast(peek.data)[:SEMAPHORES], which) == bits[place]
        proof.check(implies(place < level, same), "what an instruction raises is kept while it is in its engine")
    proof.check(implies(started.push, started.level != STARTED), "no engine has more instructions than are kept")
    waiting = opened(queue).submodules.memory
    behind = (waiting.write_ports[0].addr - waiting.read_ports[0].addr)[:2]
    proof.check(behind == queue.level[:2], "as many places of a queue are taken as instructions wait")
    proof.check(queue.level <= 4, "no queue holds more than four instructions")
    proof.check(implies(queue.push, queue.level != 4), "nothing enters a full queue")
    proof.check(implies(queue.pop, queue.some), "nothing leaves an empty queue")
    return work.done & bits[0]


def _bit(mask: Value, which: Value) -> Value:
    return (mask >> which)[0]


USED: Final = 2
"""Semaphores that such a program uses."""

COUNT: Final = 2
"""Instructions of the longest program in the proof of the end."""

PATIENCE: Final = 5
"""Cycles that an engine has for an instruction: so many that END can come before it is done."""

WITHIN: Final = 22
"""Cycles in which such a program ends."""


def ends() -> Harness:
    """The sequencer with its fetch; every word may be found right or wrong; memory and engines answer soon."""
    proof = Harness(reset=False)
    m = proof.m
    with small(SEMAPHORE_MAX, STARTED_DEPTH, checked=True):
        dut = proof.add(sequencer_module.Sequencer(preset("tiny")), driven=("run", "count", "at", "region"))
        inner = opened(dut)
        check: Any = opened(inner.submodules.fetch).submodules.check
        for queue in Queue:
            opened(inner.submodules[f"lane_{queue.name.lower()}"])
        opened(inner.submodules.semaphores)
    proof.let(check, ("code",))
    over, time = Signal(name="over"), Signal(8, name="time")
    count = proof.fixed("instructions", 2)
    proof.assume(count <= COUNT)
    m.d.comb += [dut.run.eq(~over), dut.count.eq(count), dut.at.eq(proof.fixed("place", 3))]
    m.d.sync += [over.eq(over | dut.finished | dut.failure.valid), time.eq(Mux(over, time, time + 1))]
    request = dut.read.request
    proof.assume(request.ready)
    proof.assume(Cat(dut.read.data[WAIT][USED:], dut.read.data[SIGNAL][USED:]) == 0)
    owed = Signal(6, name="owed")
    asked = Mux(request.valid & request.ready, request.payload.beats_less_1 + 1, 0)
    m.d.sync += owed.eq(owed + asked - dut.read.valid)
    proof.assume(dut.read.valid == (owed != 0))
    proof.assume(~dut.read_error.valid & ~dut.write_error.valid)
    levels: list[Signal] = []
    for queue, work in zip(Queue, dut.work, strict=True):
        level = Signal(4, name=f"level_{queue.name.lower()}")
        m.d.sync += level.eq(level + (work.start.valid & work.start.ready) - work.done)
        proof.assume(implies(work.done, level != 0))
        proof.assume(work.start.ready)
        proof.assume(_within(proof, f"done_{queue.name.lower()}", level != 0, work.done))
        levels.append(level)
    proof.check(implies(time >= WITHIN, over), "a program ends")
    done = proof.before("finished", dut.finished)
    proof.check(implies(done, ~Cat(level.any() for level in levels).any()), "nothing is in an engine at the end")
    taken = Signal(3, name="taken")
    m.d.sync += taken.eq(taken + dut.instructions)
    proof.cover(over & done & (taken == COUNT - 1), "the longest program ends with END")
    proof.cover(dut.failure.valid & (dut.failure.code == ErrorCode.DEADLOCK), "a deadlock is told")
    proof.cover(dut.failure.valid & (dut.failure.code == ErrorCode.NO_END), "a program without END is told")
    return proof


def _within(proof: Harness, name: str, wanted: Value, comes: Signal) -> Value:
    """Return whether what is wanted comes in `PATIENCE` cycles."""
    waited = Signal(range(PATIENCE + 1), name=f"{name}_waited")
    proof.m.d.sync += waited.eq(Mux(wanted & ~comes, waited + 1, 0))
    return implies(wanted & (waited == PATIENCE - 1), comes)


PROOFS: Final = (
    Proof(
        name="sequencer_starts",
        claim="No instruction starts unless all semaphores that it waits for are above 0; in that cycle, and in no "
        "other, they are lowered, and raised once when it is done; one starts at a time, in a run only; a semaphore "
        "raised beyond its highest value ends the run.",
        make=starts,
        sample=lambda: starts(SAMPLE_MAX),
        unbounded=True,
        depth=2,
        reach=8,
        smaller=f"{STARTED} instructions of an engine under way in place of 16; words end behind their masks, their "
        "places have 4 bits; the fetch may hand over any word at any time; engines are done with what they started",
        faults=(
            Fault(
                "one semaphore of several is enough",
                "hw/control/sequencer.py",
                "queue.some & ~missing.any() &",
                "queue.some & ~missing.all() &",
            ),
            Fault(
                "semaphores are lowered when the turn is another's",
                "hw/control/sequencer.py",
                "self.lowers.eq(Mux(self.starts, head",
                "self.lowers.eq(Mux(self.can, head",
            ),
            Fault(
                "what was found out before a start counts behind it",
                "hw/control/sequencer.py",
                "work.start.ready & ~self.moved",
                "work.start.ready",
            ),
            Fault(
                "two start in a cycle",
                "hw/control/sequencer.py",
                "lane.turn.eq(~before)",
                "lane.turn.eq(1)",
            ),
        ),
    ),
    Proof(
        name="sequencer_ends",
        claim=f"Every program of at most {COUNT} instructions, right or wrong, ends within {WITHIN} cycles, well or "
        "with an error: no wait without end, no deadlock that is not told; at a good end nothing is in an engine.",
        make=ends,
        unbounded=False,
        depth=WITHIN + 2,
        reach=WITHIN + 2,
        smaller=f"words end behind their masks; {USED} semaphores; memory takes and answers at once, engines take at "
        f"once and are done in at most {PATIENCE} cycles; any verdict of the check; no errors of memory",
        faults=(
            Fault(
                "a deadlock is not seen when a queue is empty",
                "hw/control/sequencer.py",
                "Cat(~lane.busy & (lane.blocked | ~lane.some) for lane in lanes).all()",
                "Cat(~lane.busy & lane.blocked for lane in lanes).all()",
            ),
            Fault(
                "the fetch forgets the last instruction",
                "hw/control/fetch.py",
                "& (left != 0) &",
                "& (left > 1) &",
            ),
            Fault(
                "END does not wait for engines",
                "hw/control/sequencer.py",
                "Cat(Cat(lane.some, lane.busy) for lane in lanes)",
                "Cat(lane.some for lane in lanes)",
            ),
        ),
    ),
)
