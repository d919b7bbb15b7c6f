"""Proofs of the memory ports: the rules of AXI4 for a master (ARM IHI 0022, A3), regions, answers.

The clients keep the contract of hw/parts/clients.py; for some engines `requests` proves that they do. Memory keeps its
side of AXI4 and is free otherwise.
"""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, Final
from unittest.mock import patch

from amaranth.hdl import Cat, Mux, Signal, Value
from amaranth.lib import data

from nmsat.dataflow.contract.isa import BEAT_BYTES, REGIONS, ErrorCode
from nmsat.dataflow.contract.limits import MAX_BURST, PAGE_BEATS, PAGE_BITS, READERS, WRITERS
from nmsat.hw.memory import axi as axi_module
from nmsat.hw.memory import port as port_module
from nmsat.hw.memory import read_port as read_module
from nmsat.hw.memory import write_port as write_module
from nmsat.hw.parts import clients as clients_module
from nmsat.tb.formal.followed import Followed
from nmsat.tb.formal.harness import Harness, implies, inside, opened
from nmsat.tb.formal.parts import dealt_parts, gathered, part_of_beat
from nmsat.tb.formal.proof import Fault, Proof

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nmsat.hw.parts.small_queue import SmallQueue

ADDRESS_BITS, OFFSET_BITS, DATA_BYTES, UNDER_WAY = 24, 10, 2, 4
"""Widths and depth in the proof; the machine has 64, 34, 64 and 16."""

BEAT_BITS: Final = BEAT_BYTES.bit_length() - 1


@contextmanager
def small(parts: int = 1) -> Iterator[None]:
    """Build ports and clients with the widths of the proof; a beat keeps its 64 addresses. parts: of a beat."""
    size = DATA_BYTES * parts
    sizes = {"BEAT_BYTES": size, "DATA_BITS": 8 * size}
    found: list[tuple[Any, dict[str, int]]] = [
        (axi_module, {"ADDRESS_BITS": ADDRESS_BITS, "OFFSET_BITS": OFFSET_BITS, **sizes}),
        (port_module, {"ADDRESS_BITS": ADDRESS_BITS, "OFFSET_BITS": OFFSET_BITS, "UNDER_WAY": UNDER_WAY}),
        (read_module, {"DATA_BITS": 8 * size}),
        (write_module, {"UNDER_WAY": UNDER_WAY}),
        (clients_module, {"OFFSET_BITS": OFFSET_BITS, "BEAT_BYTES": size}),
    ]
    with ExitStack() as stack:
        for module, numbers in found:
            for name, number in numbers.items():
                stack.enter_context(patch.object(module, name, number))
        yield


def request_rules(proof: Harness, port: Any, parts: int, *, write: bool) -> Any:
    """Put the rules of AR or AW on a port and what it is told; return its regions.

    The regions are chosen once. parts: of a beat, which a burst counts.
    """
    m = proof.m
    regions = proof.fixed("regions", axi_module.regions_layout())
    m.d.comb += Value.cast(port.regions).eq(Value.cast(regions))
    channel = "aw" if write else "ar"
    valid, ready = getattr(port.axi, f"{channel}valid"), getattr(port.axi, f"{channel}ready")
    address, transfers = getattr(port.axi, f"{channel}addr"), getattr(port.axi, f"{channel}len")
    length = transfers[(parts - 1).bit_length() :]
    for i, client in enumerate(port.clients):
        request = client.request
        proof.assume(proof.stable(f"client_{i}", request.valid, request.ready, request.payload))
        proof.assume(implies(request.valid, _in_page(request.payload)))
        asked: Any = getattr(opened(port).submodules, f"asked_{i}")
        full, behind = _places(asked)
        in_page = implies(asked.o.valid, _in_page(asked.o.payload))
        proof.check(in_page & implies(full, asked.o.valid), "what is asked for is what clients ask for")
        burst = data.View(clients_module.burst_layout(), behind)
        proof.check(implies(full, _in_page(burst)), "what waits behind it likewise")
    proof.check(proof.stable(channel, valid, ready, Cat(address, transfers)), "an address stands until it is taken")
    proof.check(implies(valid, address[BEAT_BITS:PAGE_BITS] + length < PAGE_BEATS), "a burst stays within 4 KiB")
    proof.check(implies(valid, address[:BEAT_BITS] == 0), "a burst begins at a beat")
    proof.check(implies(valid, length < MAX_BURST), "a burst has 16 beats at most")
    if parts > 1:
        whole = (transfers + 1)[: (parts - 1).bit_length()] == 0
        proof.check(implies(valid, whole), "a burst ends with a beat")
    failed = Signal(name="failed")
    m.d.sync += failed.eq(failed | port.error.valid)
    told = failed | port.error.valid
    proof.check(inside(opened(port), "failed") == told, "the port remembers that there was an error")
    proof.check(implies(failed | port.error.valid | port.halt, ~port.bursts), "no burst is accepted after an error")
    proof.cover(valid & ~ready, "an address waits")
    proof.cover(port.error.valid & (port.error.code == ErrorCode.REGION), "a burst outside its region is told")
    return regions


def _in_page(burst: Any) -> Value:
    return burst.offset[: (PAGE_BEATS - 1).bit_length()] + burst.beats_less_1 < PAGE_BEATS


def _places(places: Any) -> tuple[Signal, Signal]:
    """Return whether the second place is taken, and what is in it (`queues.two_places` is their proof)."""
    inner = opened(places)
    return inside(inner, "full"), inside(inner, "behind")


def accepted_rules(proof: Harness, port: Any, regions: Any, parts: int, *, write: bool) -> SmallQueue:
    """Check that what stands on AR or AW is what a client asked for; return the queue of what is under way."""
    m = proof.m
    requests = [getattr(opened(port).submodules, f"asked_{i}").o for i in range(len(port.clients))]
    waiting: Any = opened(port).submodules.waiting
    opened(opened(port).submodules.gate)  # while its widths are those of the proof
    channel = "aw" if write else "ar"
    valid, address = getattr(port.axi, f"{channel}valid"), getattr(port.axi, f"{channel}addr")
    taken = [request.valid & request.ready for request in requests]
    proof.check(waiting.push == Cat(taken).any(), "what a client hands over is under way, and nothing else")
    burst = Signal(clients_module.burst_layout(), name="burst")
    with m.If(Cat(taken).any()):
        for i, (request, takes) in enumerate(zip(requests, taken, strict=True)):
            with m.If(takes):
                m.d.sync += burst.eq(request.payload)
            others = [other for j, other in enumerate(taken) if j != i]
            one = ~Cat(others).any() & ~Cat(request.valid for request in requests[:i]).any()
            proof.check(implies(takes, (waiting.i == i) & one), "the first client goes, alone, and is remembered")
    region = Signal(axi_module.region_layout(), name="region_of_it")
    with m.Switch(burst.region):
        for i in range(REGIONS):
            with m.Case(i):
                m.d.comb += region.eq(regions[i])
    allowed = region.open & region.writable if write else region.open
    proof.check(implies(valid, allowed), "the region of a burst is open to it")
    proof.check(implies(valid, burst.offset + burst.beats_less_1 < region.size), "a burst ends within its region")
    right = address == ((region.page << PAGE_BITS) + (burst.offset << BEAT_BITS))[:ADDRESS_BITS]
    length = getattr(port.axi, f"{channel}len")[(parts - 1).bit_length() :] == burst.beats_less_1
    proof.check(implies(valid, right & length), "a burst is the one asked for, counted from the begin of its region")
    after = proof.before("taken_before", Cat(taken).any())
    proof.check(implies(after, valid), "a burst stands on the channel in the cycle after it is chosen")
    return waiting


@small()
def read_port() -> Harness:
    """The read port behind the engines' side and in front of memory."""
    return read_port_of(1)


def read_port_of(parts: int) -> Harness:
    """A read port with beats in so many parts."""
    proof = Harness()
    m = proof.m
    port = proof.add(read_module.ReadPort(len(READERS), parts), driven=("regions",))
    axi = port.axi
    regions = request_rules(proof, port, parts, write=False)
    waiting = accepted_rules(proof, port, regions, parts, write=False)
    whole, data, spoiled = gathered(proof, port, parts)
    entry = Followed(proof, waiting, UNDER_WAY)
    # memory: beats of bursts that were asked for, each with its last one at its end
    asked = axi.arvalid & axi.arready
    ends = axi.rvalid & axi.rlast
    owed = Signal(8, name="owed")
    m.d.sync += owed.eq(owed + asked - ends)
    proof.assume(implies(axi.rvalid, owed != 0))
    proof.check(waiting.level == owed + axi.arvalid, "what is under way was accepted and has not ended")
    proof.check(axi.rready, "beats are always taken")
    # the answers of the burst that is followed
    client = Signal(range(len(READERS)), name="client")
    m.d.comb += client.eq(entry.value)
    was = proof.before("was_rvalid", whole)
    beat = proof.before("was_rdata", data)
    of_it = proof.before("of_it", entry.first & whole)
    owner = proof.before("owner", client)
    for i, one in enumerate(port.clients):
        proof.check(implies(of_it, one.valid == (owner == i)), "a beat goes to the client that asked, to no other")
        proof.check(implies(one.valid, was & (one.data == beat)), "no beat is invented or changed")
    proof.check(implies(was, Cat(one.valid for one in port.clients).any()), "no beat is lost")
    wrong = proof.before("wrong", whole & spoiled)
    proof.check(implies(wrong, port.error.valid & (port.error.code == ErrorCode.READ)), "an error of memory is told")
    proof.check(implies(wrong & of_it, port.error.client == owner), "it is told of the client that asked")
    proof.check(implies(port.idle, (owed == 0) & ~axi.arvalid), "idle says that nothing is under way")
    proof.check(port.beats == whole, "beats are counted")
    _counts(proof, port, asked, axi.arvalid)
    proof.cover(of_it & (owner == 2) & axi.rvalid & entry.on, "a burst of two beats comes")
    proof.cover(waiting.level == 3, "three bursts are under way")
    return proof


def _counts(proof: Harness, port: Any, asked: Value, stands: Value) -> None:
    """As many bursts leave as are accepted."""
    ahead = Signal(8, name="accepted_less_left")
    proof.m.d.sync += ahead.eq(ahead + port.bursts - asked)
    proof.check(ahead == stands, "every burst accepted stands on the channel, once")


@small()
def write_port() -> Harness:
    """The write port behind the engines' side and in front of memory."""
    return write_port_of(1)


def write_port_of(parts: int) -> Harness:
    """A write port with beats in so many parts."""
    proof = Harness()
    m = proof.m
    port = proof.add(write_module.WritePort(len(WRITERS), parts), driven=("regions",))
    axi = port.axi
    regions = request_rules(proof, port, parts, write=True)
    waiting = accepted_rules(proof, port, regions, parts, write=True)
    inner = opened(port)
    order: Any = inner.submodules.order
    entry, entry_of_data = Followed(proof, waiting, UNDER_WAY), Followed(proof, order, UNDER_WAY, "data")
    pulled: Any = inner.submodules.pulled
    full, behind = _places(pulled)
    for i, client in enumerate(port.clients):
        proof.assume(proof.stable(f"beat_{i}", pulled.i.valid, client.pull, Cat(client.data, client.strobe)))
    # memory: an answer for each burst that was addressed and whose data it has
    addressed, written = Signal(8, name="addressed"), Signal(8, name="written")
    asked, moved = axi.awvalid & axi.awready, axi.wvalid & axi.wready
    number, whole = dealt_parts(proof, port, parts, moved)
    m.d.sync += [
        addressed.eq(addressed + asked - axi.bvalid),
        written.eq(written + (moved & axi.wlast) - axi.bvalid),
    ]
    proof.assume(implies(axi.bvalid, (addressed != 0) & (written != 0)))
    proof.check(waiting.level == addressed + axi.awvalid, "what is under way was accepted and not answered")
    second: Any = data.View(axi_module.written_layout(), behind)
    first: Any = pulled.o.payload
    ahead = (axi.wvalid & first.last) + (full & second.last)
    newest = Mux(full, second.last, first.last)
    proof.check(implies(axi.wvalid & ~newest, inside(inner, "number") != 0), "what was pulled last ends, or goes on")
    owed = order.level + ahead + written
    proof.check(owed == waiting.level, "data that have not left belong to bursts under way")
    proof.check(implies(full, axi.wvalid), "what waits in front of W waits behind a beat")
    proof.check(axi.bready, "answers are always taken")
    payload = Cat(axi.wdata, axi.wstrb, axi.wlast)
    proof.check(proof.stable("w", axi.wvalid, axi.wready, payload), "data stand until they are taken")
    same = (order.i.client == waiting.i) & (order.push == waiting.push)
    proof.check(implies(order.push | waiting.push, same), "data are those of the burst that was accepted")
    for i in range(len(port.clients)):
        request = getattr(inner.submodules, f"asked_{i}").o
        takes, burst = request.valid & request.ready, request.payload
        proof.check(implies(takes, order.i.beats_less_1 == burst.beats_less_1), "as many data as were asked for")
    _data(proof, port, entry_of_data, pulled.i)
    part_of_beat(proof, port, pulled.o, number)
    of_it, tells = proof.before("of_it", entry.first & axi.bvalid), proof.before("told", entry.value)
    _answers(proof, port, of_it, tells)
    proof.check(implies(port.idle, (addressed == 0) & (written == 0) & ~axi.awvalid & ~axi.wvalid), "idle is idle")
    proof.check(port.beats == whole, "beats are counted")
    _counts(proof, port, asked, axi.awvalid)
    proof.cover(of_it & (tells == 1), "a burst is answered")
    proof.cover(axi.wvalid & axi.awvalid & ~axi.awready & moved, "data leave before their address")
    proof.cover(full & ~axi.wready, "two beats wait in front of W")
    proof.cover(order.level == 3, "data of three bursts wait")
    return proof


def _answers(proof: Harness, port: Any, of_it: Value, tells: Value) -> None:
    """Check what clients are told of answers. of_it: that of the burst that is followed came; tells: its client."""
    axi = port.axi
    was = proof.before("was_bvalid", axi.bvalid)
    acknowledged = Cat(client.acknowledged for client in port.clients)
    for i, client in enumerate(port.clients):
        proof.check(implies(of_it, client.acknowledged == (tells == i)), "an answer goes to the client that asked")
    proof.check(acknowledged.any() == was, "no answer is lost or invented")
    wrong = proof.before("wrong", axi.bvalid & axi.bresp[1])
    proof.check(implies(wrong, port.error.valid & (port.error.code == ErrorCode.WRITE)), "an error of memory is told")
    proof.check(implies(wrong & of_it, port.error.client == tells), "it is told of the client that asked")


def _data(proof: Harness, port: Any, burst: Followed, beat: Any) -> None:
    """Follow the data of one burst: from its client, in order, the last one marked, into the places in front of W."""
    m, inner = proof.m, opened(port)
    order, number, moved = inner.submodules.order, inside(inner, "number"), beat.valid & beat.ready
    # the data of the burst that is followed
    owner, length = Signal(range(len(WRITERS)), name="owner"), Signal(4, name="length")
    beats = Signal(4, name="beats_of_it")
    m.d.comb += Cat(owner, length).eq(burst.value)
    with m.If(burst.first & moved):
        m.d.sync += beats.eq(beats + 1)
    with m.If(burst.push):
        m.d.sync += beats.eq(0)
    proof.check(implies(burst.on & ~burst.first, beats == 0), "no data of a burst leave before those in front of it")
    proof.check(implies(burst.first, (beats == number) & (beats <= length)), "beats are counted from the first")
    proof.check(implies(order.some, number <= order.o.beats_less_1), "no burst has more beats than it said")
    proof.check(implies(~order.some, number == 0), "no burst is begun before it is accepted")
    proof.check(implies(burst.first, beat.payload.last == (beats == length)), "wlast stands at the last beat only")
    for i, client in enumerate(port.clients):
        proof.check(implies(burst.first, client.pull == (moved & (owner == i))), "beats are of the client that asked")
        takes = burst.first & (owner == i) & beat.valid
        same = (beat.payload.data == client.data) & (beat.payload.strobe == client.strobe)
        proof.check(implies(takes, same), "data are unchanged")
    proof.cover(burst.first & moved & beat.payload.last & (beats == 2), "a burst of three beats leaves")


PROOFS: Final = (
    Proof(
        name="axi_read",
        claim="The read port keeps the rules of AXI4: an address stands until taken, is that of the first client "
        "whose burst waits, lies in a region open to reads, within 4 KiB, 16 beats at most; each beat of memory goes "
        "unchanged to the client that asked for it, none is lost or invented; errors are told of their client and stop "
        "the port.",
        make=read_port,
        unbounded=True,
        depth=3,
        reach=9,
        smaller="four clients as in the machine; 24 bits of address, 10 of an offset, 16 of data, 4 bursts under way; "
        "from a client to the choice requests pass two places, proved as `two_places`; "
        "clients hold their requests and stay within a page: proved as `requests_load` and its siblings",
        faults=(
            Fault(
                "an address does not wait",
                "hw/memory/port.py",
                "with m.Elif(ready):",
                "with m.Else():",
            ),
            Fault(
                "the end of a region is one beat late",
                "hw/memory/port.py",
                "inside.eq((end <= region.size) & region.open & right)",
                "inside.eq((end <= region.size + 1) & region.open & right)",
            ),
            Fault(
                "a closed region is read",
                "hw/memory/port.py",
                "(end <= region.size) & region.open & right",
                "(end <= region.size) & right",
            ),
            Fault(
                "all clients are told",
                "hw/memory/port.py",
                "Cat(answers.valid & (waiting.o == i) for i in range(len(told)))",
                "answers.valid.replicate(len(told))",
            ),
            Fault(
                "DECERR on R is ignored",
                "hw/memory/read_port.py",
                "axi.rresp[1]",
                "axi.rresp == 2",
            ),
            Fault(
                "bursts go on after an error",
                "hw/memory/port.py",
                "    with m.If(wrong | gate.violation):\n",
                "    with m.If(gate.violation):\n",
            ),
            Fault(
                "idle forgets the address that stands",
                "hw/memory/port.py",
                "port.idle.eq(~valid & ~waiting.some & ~told.any())",
                "port.idle.eq(~valid)",
            ),
        ),
    ),
    Proof(
        name="axi_write",
        claim="The write port keeps the rules of AXI4: addresses as in `axi_read`, in regions that may be written; "
        "data stand until taken, come unchanged and in order from the client that asked, WLAST stands at the last beat "
        "of a burst and nowhere else; each answer goes to its client, none is lost or invented.",
        make=write_port,
        unbounded=True,
        depth=3,
        reach=10,
        smaller="two clients as in the machine; widths and depth as in `axi_read`; to the choice and to W requests and "
        "data pass two places, proved as `two_places`; "
        "clients hold requests and data and stay within a page",
        faults=(
            Fault(
                "a region that may only be read is written",
                "hw/memory/port.py",
                "right = region.writable if self._write else 1",
                "right = 1",
            ),
            Fault(
                "WLAST comes a beat early",
                "hw/memory/write_port.py",
                "last.eq(number == order.o.beats_less_1)",
                "last.eq(number + 1 >= order.o.beats_less_1)",
            ),
            Fault(
                "data move when they are not taken",
                "hw/memory/write_port.py",
                "takes.eq(pulled.i.valid & pulled.i.ready)",
                "takes.eq(pulled.i.valid)",
            ),
            Fault(
                "DECERR on B is ignored",
                "hw/memory/write_port.py",
                "axi.bresp[1]",
                "axi.bresp == 2",
            ),
            Fault(
                "data come from the client that asks now",
                "hw/memory/write_port.py",
                "with m.If(order.o.client == i):",
                "with m.If(gate.client == i):",
            ),
        ),
    ),
)
