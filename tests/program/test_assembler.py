"""Who waits for whom where the compiler shares buffers and memory: each reason by itself."""

from __future__ import annotations

from nmsat.dataflow.contract.config import preset
from nmsat.dataflow.contract.isa import Opcode, Queue
from nmsat.dataflow.program.assembler import LINKS, Assembler, Node, Ring
from nmsat.dataflow.program.staging import Staging
from nmsat.dataflow.program.tensors import Place

LOAD = {"rows": 1, "k": 1}
STORE = {"rows": 1, "columns": 1, "to_half": 1}


def test_who_writes_waits_for_who_still_reads() -> None:
    out, place, other = Assembler(preset("tiny")), Place("x", 1, 0, 4), Place("y", 1, 4, 4)
    load = out.emit(Opcode.LOAD_ACT, LOAD, "a", reads=[place])
    apart = out.emit(Opcode.STORE, STORE, "b", writes=[other])
    store = out.emit(Opcode.STORE, STORE, "c", writes=[place])
    link = 1 << LINKS[Queue.LOAD, Queue.STORE]
    assert (load.signal, apart.wait, store.wait) == (link, 0, link)


def node(number: int) -> Node:
    return Node(Opcode.COMPUTE, {}, number, "")


def test_what_is_overwritten_in_part_is_waited_for_until_it_is_gone() -> None:
    ring = Ring(64)
    first = ring.take("a", 10)
    ring.take("b", 54)
    first.block.used = user = node(0)
    assert ring.take("c", 5).after == [user]  # over places 0 to 4 of a
    assert ring.find("a") is None
    assert ring.take("d", 5).after == [user]  # over places 5 to 9


def test_what_is_staged_ahead_spares_what_is_read_now() -> None:
    def runs(region: int, base: int) -> dict[str, int]:
        return {"region": region, "at": 0, "outer": 4, "inner": 2, "outer_step": 2, "base": base}

    for base, fits in ((8, True), (7, False), (4, False), (9, False)):  # of 16 places 0 to 7 are read now
        staging = Staging(16)
        now = runs(1, 0)
        assert list(staging.loads([(Opcode.STAGE, now)])) == [(Opcode.STAGE, now)]
        assert staging.ahead(runs(2, base)) == (runs(2, base) if fits else None)
        assert staging.held == (runs(2, base) if fits else now)
