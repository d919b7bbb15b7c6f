"""The simulator from a notebook: products, tapes and steps through one function."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from nmsat.algorithms.core.numeric import ordered_dot
from nmsat.algorithms.core.tape import HostWork, Pattern, Stage, Tape
from nmsat.algorithms.workloads.engine.registry import record
from nmsat.dataflow.contract.config import SatConfig, preset
from nmsat.dataflow.mapping.choose import best_tiling
from nmsat.dataflow.mapping.tiling import legal_mappings
from nmsat.dataflow.program.pieces import LearntWeights, given_jobs, piece_jobs
from nmsat.sim.api import Switches, gemm, matmul, simulate, training_step
from nmsat.sim.array.fast import simulate_product
from nmsat.sim.array.stce import Stce
from nmsat.sim.array.stepped import run_stepped
from nmsat.sim.results.causes import ARRAY_CAUSES, MACHINE_CAUSES
from nmsat.sim.results.machine import MachineResult
from nmsat.sim.results.provenance import Source
from nmsat.sim.results.rows import ArrayResult, buffer_bytes
from nmsat.sim.store.epilogue import EpilogueEngine, EpilogueOptions, Sums
from nmsat.sim.work.machine import machine_run
from nmsat.sim.work.tape import TapeResult
from nmsat.sim.work.timed import Timer
from nmsat.sim.work.workload import simulate_tape
from tests.cases import patterns, product
from tests.streams import play

if TYPE_CHECKING:
    from nmsat.sim.array.stce import Trace
    from nmsat.sim.results.result import Result
    from nmsat.sim.results.rows import Row


def check_sums(result: Result) -> None:
    """Every total is the sum over rows, every row the sum over its causes, and no wait is negative."""
    table: list[dict[str, Any]] = result.table()
    assert result.cycles == sum(row["cycles"] for row in table) == sum(result.causes.values())
    for key in ("stage", "layer", "name", "cause"):
        assert sum(result.by(key).values()) == result.cycles
    at = 0
    for row, line in zip(result.rows, table, strict=True):
        assert row.start == at
        assert min(row.causes.values()) >= 0
        causes = MACHINE_CAUSES if isinstance(result, MachineResult) else ARRAY_CAUSES
        assert tuple(row.causes) == tuple(result.causes) == causes
        assert line["cycles"] == sum(line[cause] for cause in causes)
        at += row.cycles
    assert result.macs == sum(row.macs for row in result.rows)
    assert result.macs_skipped == sum(row.macs_skipped for row in result.rows) >= 0
    assert result.stalls == {cause: n for cause, n in result.causes.items() if cause != "steps"}
    if isinstance(result, ArrayResult):
        assert result.buffer_bytes == {
            name: sum(line.get(f"buffer_{name}", 0) for line in table) for name in ("a", "w", "y")
        }
    elif isinstance(result, MachineResult):
        assert result.bytes == {way: sum(line[f"bytes_{way}"] for line in table) for way in ("read", "written")}


def check_tiles(row: Row) -> None:
    """The tiles of a row add up to it: cycles of each cause, multiply-adds done and skipped."""
    tiles = list(row.tiles())
    assert sum(tile.cycles for tile in tiles) == row.cycles
    for cause in ARRAY_CAUSES:
        assert sum(tile.causes.get(cause, 0) for tile in tiles) == row.causes[cause]
    assert min(min(tile.causes.values()) for tile in tiles) >= 0
    assert sum(tile.macs for tile in tiles) == row.macs
    assert sum(tile.macs_skipped for tile in tiles) == row.macs_skipped
    assert min(min(tile.macs, tile.macs_skipped) for tile in tiles) >= 0


@pytest.mark.parametrize("dataflow", ["os", "ws"])
def test_a_product_opens_down_to_its_tiles(dataflow: str) -> None:
    for pattern in patterns():
        result = simulate(gemm(45, 77, 33, pattern), "tiny", switches=Switches(dataflow=dataflow))
        assert isinstance(result, ArrayResult)
        check_sums(result)
        for row in result.rows:
            check_tiles(row)
        assert result.rows[0].schedule["dataflow"] == dataflow


def test_a_product_takes_what_the_fast_gear_says() -> None:
    result = simulate(gemm(50, 60, 30, "2:8"), "small")
    tiling = best_tiling(preset("small"), 50, 60, 30, Pattern(2, 8))
    assert result.cycles == simulate_product(tiling).cycles
    assert result.seconds == result.cycles / 200e6
    assert isinstance(result, ArrayResult)
    assert result.rows[0].tiling == tiling


def test_values_are_those_of_the_arithmetic() -> None:
    rng = np.random.default_rng(3)
    a, w = rng.standard_normal((9, 40)).astype(np.float32), rng.standard_normal((40, 7)).astype(np.float32)
    one = matmul(a, w, "2:8")
    assert one.a is not None
    assert one.w is not None
    assert np.count_nonzero(one.w) <= 40 * 7 // 4
    (y,) = simulate(one, "tiny", values=True).values
    assert np.array_equal(y.view(np.uint32), ordered_dot(one.a, one.w).view(np.uint32))
    (stalled,) = simulate(one, "tiny", values=True, memory=True).values
    assert np.array_equal(y.view(np.uint32), stalled.view(np.uint32))


def test_the_flag_of_special_results_is_that_of_the_epilogue() -> None:
    """Held against the model of the epilogue, which is that of its RTL; 300 x 300 overflows binary16 only."""
    for big, flags in ((1.0, (False, False)), (300.0, (False, True)), (np.inf, (True, True)), (np.nan, (True, True))):
        a, w = np.full((1, 4), 1, np.float32), np.full((4, 3), 1, np.float32)
        a[0, 0], w[0, 1] = big, 300 if np.isfinite(big) else 1
        result = simulate(matmul(a, w), "tiny", values=True)
        assert (result.special(), result.special(half=True)) == flags
        x = result.values[0].ravel()
        beat = Sums(x=x, bias=np.zeros(3, np.float32), tile=x, mask=np.ones(3, bool), present=np.ones(3, bool))
        for half, flag in zip((False, True), flags, strict=True):
            engine = EpilogueEngine(EpilogueOptions(to_half=half))
            play(engine, [beat])
            assert engine.special is flag


@pytest.mark.parametrize("dataflow", ["os", "ws"])
def test_a_product_runs_on_the_machine_either_way(dataflow: str) -> None:
    result = simulate(gemm(24, 40, 20, "2:8"), "tiny", memory=True, switches=Switches(dataflow=dataflow))
    check_sums(result)
    assert result.source is Source.MACHINE
    assert result.table()[0]["dataflow"] == dataflow


def test_a_step_runs_on_the_machine_and_on_the_array() -> None:
    step = training_step("mlp", "bdwp", "2:8", batch=2)
    result = simulate(step, "tiny")
    check_sums(result)
    assert result.bound == step.bound
    assert list(result.by("stage")) == ["ff", "bp", "wu", "update"]
    assert min(result.bytes.values()) > 0
    on_chip = simulate(step, "tiny", memory=False)
    assert isinstance(on_chip, ArrayResult)
    check_sums(on_chip)
    assert on_chip.cycles < result.cycles - result.by("stage")["update"]
    for row in on_chip.rows:
        check_tiles(row)


def test_a_timer_is_asked_for_what_it_knows() -> None:
    timer, product = Timer(preset("tiny")), gemm(16, 16, 16)
    result = simulate(product, "tiny", memory=True, timer=timer)
    kept = timer.all(given_jobs([product]))
    assert [timed.cycles for timed in kept] == [row.cycles for row in result.rows]


def test_a_tape_holds_masks_and_host_work() -> None:
    rng = np.random.default_rng(4)
    tape = Tape(values=True)
    a, w = rng.standard_normal((12, 24)).astype(np.float16), rng.standard_normal((24, 10)).astype(np.float16)
    tape.record(matmul(a, w, "2:8", name="first"))
    tape.record(matmul(a, w, name="second"))
    tape.record_host(HostWork("softmax", "Softmax", Stage.FF, 100, 40))
    result = simulate(tape, "tiny", values=True)
    assert isinstance(result, TapeResult)
    check_sums(result)
    assert result.cycles == result.workload.cycles
    assert [row.schedule["how"] for row in result.rows] == ["native", "dense"]
    assert (result.host.operators, result.host.operations, result.host.bytes) == (1, 100, 40)
    for one, y in zip(tape.products, result.values, strict=True):
        assert one.a is not None
        assert one.w is not None
        assert np.array_equal(y.view(np.uint32), ordered_dot(one.a, one.w).view(np.uint32))
    stalled = simulate(tape, "tiny", memory=True)
    check_sums(stalled)
    assert stalled.cycles > result.cycles
    assert stalled.host == result.host


@pytest.mark.parametrize("name", ["granet", "moa", "sparsifiner"])
def test_workloads_run_as_tapes(name: str) -> None:
    """Covers, gathers and skipped tiles open too."""
    tape = record(name, "small", "faithful", values=False).tape
    result = simulate(tape, "tiny")
    check_sums(result)
    workload = simulate_tape(tape, preset("tiny"))
    assert result.cycles == workload.cycles
    assert result.macs == workload.macs_true


@pytest.mark.usefixtures("estimated")
@pytest.mark.parametrize("name", ["granet", "moa", "sparsifiner"])
def test_tapes_run_on_the_machine_as_their_pieces(name: str) -> None:
    tape = record(name, "small", "faithful", values=False).tape
    result = simulate(tape, "tiny", memory=True, timer=Timer(preset("tiny")))
    workload = simulate_tape(tape, preset("tiny"))
    stored = LearntWeights({product.name for product in tape.products if product.pattern is not None})
    assert result.cycles == machine_run(piece_jobs(workload.lowered, stored), Timer(preset("tiny")), 1).cycles
    assert result.macs_full == workload.macs_full


class Counting(Stce):
    """Counts the beats that the rows write into their elements and the pairs that the columns are asked for."""

    beats = 0
    requests = 0

    def _observe(self, trace: Trace) -> None:
        super()._observe(trace)
        self.beats += sum(row.ctl.awe for row in self.rows)
        self.requests += int(self.columns.requests[0][0].sum())


def test_bytes_between_buffers_and_array_are_those_that_the_stepped_gear_reads() -> None:
    config = SatConfig(name="t", rows=3, columns=2, act_depth=1 << 14, weight_depth=1 << 14, sum_depth=64)
    rng = np.random.default_rng(5)
    for pattern in (None, Pattern(2, 8), Pattern(3, 16)):
        for mapping in legal_mappings(config, pattern)[::4]:
            a, packed, tiling = product(rng, config, mapping, (11, 35, 5))
            engine = Counting(config)
            _, trace = run_stepped(a, packed, tiling, engine=engine)
            size = buffer_bytes(tiling)
            left = sum(len(column) for column in trace.out_value)
            assert size.y == 4 * (left + 2 * left * (tiling.depth_tiles - 1))
            assert size.a == 2 * config.act_lanes * engine.beats
            assert size.w == -(-21 * engine.requests // (8 * mapping.a))  # each pair is asked for a times


def test_refusals() -> None:
    step, machine = training_step("mlp", batch=1), preset("tiny")
    with pytest.raises(ValueError, match="config is 'huge'"):
        simulate(gemm(1, 1, 1), "huge")
    with pytest.raises(ValueError, match="no products"):
        simulate([], "tiny")
    with pytest.raises(TypeError, match="program holds 5"):
        simulate([5], "tiny")  # pyright: ignore[reportCallIssue, reportArgumentType]  the refusal is the test
    with pytest.raises(ValueError, match="holds no operands"):
        simulate(gemm(1, 1, 1), "tiny", values=True)
    with pytest.raises(ValueError, match="holds no operands"):
        simulate(step, "tiny", values=True)
    with pytest.raises(ValueError, match="only dataflow applies"):
        simulate(gemm(1, 1, 1), "tiny", switches=Switches(rectangle=8))
    with pytest.raises(ValueError, match="timer is of configuration 'small'"):
        simulate(gemm(1, 1, 1), machine, memory=True, timer=Timer(preset("small")))
    with pytest.raises(ValueError, match="planned and not built: rows is 12"):
        simulate(gemm(1, 1, 1), machine.replace(name="odd", rows=12), memory=True)
    with pytest.raises(ValueError, match="a has shape"):
        matmul(np.zeros((2, 3), np.float16), np.zeros((2, 3), np.float16))
    with pytest.raises(ValueError, match="has no values"):
        simulate(gemm(1, 1, 1), machine).special()
    with pytest.raises(ValueError, match="key is 'tile'"):
        simulate(gemm(1, 1, 1), machine).by("tile")
