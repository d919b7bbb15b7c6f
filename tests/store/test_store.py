"""The store engine: Verilated RTL against its model cycle by cycle, what it writes against the tables."""

from __future__ import annotations

from collections import deque
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest

from nmsat.dataflow.contract.config import SatConfig, preset
from nmsat.dataflow.contract.isa import Instruction, Opcode, Side
from nmsat.dataflow.contract.legal import check as check_legal
from nmsat.dataflow.contract.limits import STORE_AHEAD
from nmsat.hw.parts.verilog import emit
from nmsat.hw.store.beats import chunk_beats
from nmsat.hw.store.store import Store as StoreRtl
from nmsat.sim.store.store import Store
from nmsat.tb.run.runner import build, run
from tests.benches import in_amaranth

if TYPE_CHECKING:
    from collections.abc import Callable


def check(rows: int, columns: int, count: int, seed: int, tests: tuple[str, ...] | None = None) -> dict[str, int]:
    """Run random instructions; return the counts of the bench. tests: of the bench, else all."""
    config = SatConfig(name="bench", rows=rows, columns=columns, sum_depth=256)
    built = build(emit(StoreRtl(config), "sat_store"), "sat_store")
    job = {"rows": rows, "columns": columns, "sum_depth": config.sum_depth, "count": count, "resets": count // 5}
    return run(built, "nmsat.tb.store.bench_store", tests, job=job, seed=seed).check().saved


@pytest.mark.rtl
@pytest.mark.parametrize(("rows", "columns"), [(4, 4), (3, 5)])
def test_rtl_against_model(rows: int, columns: int) -> None:
    saved = check(rows, columns, 36, seed=1)
    assert saved["beats"] > 300
    assert saved["overlaps"] > 1_000
    assert saved["resets"] >= 3


@pytest.mark.rtl
@pytest.mark.long
@pytest.mark.parametrize(("rows", "columns"), [(4, 4), (8, 8), (2, 16), (2, 32), (1, 1), (2, 31)])
def test_rtl_against_model_long(rows: int, columns: int) -> None:
    assert check(rows, columns, 100, seed=2)["beats"] > 1_500


def test_a_store_that_ends_waits_for_room_among_those_that_are_not_acknowledged() -> None:
    """One more than `STORE_AHEAD` are written while none is acknowledged; none loses its `done`."""
    with in_amaranth(__name__):
        assert check(2, 2, 0, seed=1, tests=("acknowledged_late",))["waited"] == STORE_AHEAD + 1


@pytest.mark.parametrize(("columns", "beats"), [(1, 1), (4, 1), (16, 1), (32, 2), (5, 2), (31, 3)])
def test_beats_over_which_a_chunk_spreads(columns: int, beats: int) -> None:
    assert chunk_beats(columns) == beats


def done_cycles(
    instructions: list[Instruction], latency: int = 20, between: Callable[[Store], Store] | None = None
) -> list[int]:
    """Return when each is done, before a memory that takes everything at once and answers after `latency` cycles.

    between: gives the engine that goes on in the next cycle.
    """
    engine, waiting, answers, done = Store(preset("tiny")), deque(instructions), deque[int](), list[int]()
    bursts = deque[int]()  # beats that are left to leave
    cycle = reads = 0
    while len(done) < len(instructions):
        burst, side = engine.write_request, engine.request
        start = waiting.popleft() if waiting and engine.ready else None
        pulled, answered = bool(bursts), bool(answers) and answers[0] <= cycle
        if answered:
            answers.popleft()
        engine.tick(start, side is not None, reads > 0, burst is not None, pulled, answered)
        if pulled:
            bursts[0] -= 1
            if not bursts[0]:
                bursts.popleft()
                answers.append(cycle + latency)
        if burst is not None:
            bursts.append(burst.beats)
        reads += (side.beats if side else 0) - (reads > 0)
        cycle += 1
        if engine.done:
            done.append(cycle)
        if between is not None:
            engine = between(engine)
    return done


def test_a_store_is_read_while_the_one_in_front_is_written() -> None:
    fields = {"log2_a": 1, "rows": 8, "columns": 16, "to_half": 1, "x_step": 1}  # 32 chunks of 4 results
    plain, mask = Instruction(Opcode.STORE, fields), {"side": Side.MASK, "side_x_step": 1}
    done = done_cycles([plain] * 6)
    assert [late - early for early, late in pairwise(done)] == [32 + 3] * 5
    beside = done_cycles([plain, Instruction(Opcode.STORE, {**fields, **mask, "beside": 1})])
    alone = done_cycles([plain, Instruction(Opcode.STORE, {**fields, **mask})])
    assert beside[1] < alone[1]
    assert alone[1] - alone[0] > alone[0]


def test_a_bias_is_read_once() -> None:
    """Its walk does not move; a row that is read anew for each row of the result takes the port as long as those."""
    fields = {"log2_a": 1, "rows": 8, "columns": 16, "to_half": 1, "x_step": 1, "side": Side.TILE32, "beside": 1}
    work = Instruction(Opcode.STORE, fields)
    check_legal(work, preset("tiny"))
    _, (same, _) = Store(preset("tiny")).bursts(work)
    _, (each, _) = Store(preset("tiny")).bursts(Instruction(Opcode.STORE, {**fields, "side_x_step": 1}))
    assert list(same.beats) == [1]
    assert list(each.beats) == [1] * 8
    done = done_cycles([work] * 6)
    assert max(late - early for early, late in pairwise(done)) < 32 + 20 + 10


def test_another_engine_goes_on_from_the_state_of_any_cycle() -> None:
    fields = {"log2_a": 1, "rows": 8, "columns": 16, "to_half": 1, "x_step": 1}
    wide = {"log2_a": 0, "rows": 4, "columns": 30, "lane": 4, "to_half": 0, "x_step": 4, "at": 61}
    mask, tile = {"side": Side.MASK, "side_x_step": 1}, {"side": Side.TILE32, "side_x_step": 3, "side_at": 62}
    changes = [{}, {"rows": 1}, {"rows": 1}, {"rows": 1}, wide, {**mask, "beside": 1}, {"relu": 1}, mask]
    changes += [wide | tile | {"beside": 1}, {"rows": 1}, tile, {}, tile | {"side_x_step": 0}, {}]
    works = [Instruction(Opcode.STORE, {**fields, **change}) for change in changes]
    config, under_way = preset("tiny"), set[int]()
    for work in works:
        check_legal(work, config)

    def another(engine: Store) -> Store:
        key = engine.key()
        found = Store(config)
        found.restore(key)
        assert found.key() == key
        under_way.add(len(key[Store.REGISTERS.index("_ends")]))
        return found

    for latency in (1, 20, 90):
        assert done_cycles(works, latency, another) == done_cycles(works, latency)
    assert under_way == set(range(STORE_AHEAD + 1))


@pytest.mark.long
def test_in_amaranths_simulator() -> None:
    """A little of the bench, for faults that are planted (`make mutate`)."""
    with in_amaranth(__name__):
        assert check(2, 2, 10, seed=1)["beats"] > 30
