"""Products by themselves and pieces of workloads as programs: what each becomes, nothing missing, updates behind."""

from __future__ import annotations

import numpy as np
import pytest

from nmsat.algorithms.core.sparsity import Blocks, Unstructured
from nmsat.algorithms.core.tape import ConvShape, Pattern, Product, Stage, Tape
from nmsat.algorithms.workloads.engine import ops
from nmsat.algorithms.workloads.engine.products import linear
from nmsat.algorithms.workloads.engine.program import Program
from nmsat.algorithms.workloads.engine.registry import record
from nmsat.dataflow.contract.config import preset
from nmsat.dataflow.network.step import Step, Update
from nmsat.dataflow.program.jobs import ProductJob, UpdateJob, step_jobs
from nmsat.dataflow.program.lower import Form
from nmsat.dataflow.program.pieces import LearntWeights, given_jobs, lone_job, piece_jobs
from nmsat.dataflow.program.ways import How, Options, lower
from nmsat.sim.work.timed import Timer
from nmsat.sim.work.workload import simulate_tape
from nmsat.sim.work.workload_memory import simulate_memory, stored_weights

TINY, BIG = preset("tiny"), preset("vcu1525")


def network(pattern: Pattern | None) -> Program:
    """Record a step of two layers, shapes alone."""
    p = Program(values=False)
    x = p.input((128, 64))
    weights = [p.weight(name, shape, ff=pattern, bp=pattern) for name, shape in (("a", (64, 48)), ("b", (48, 32)))]
    hidden = ops.relu(linear("a", x, weights[0]))
    p.backward(ops.cross_entropy(linear("b", hidden, weights[1]), None))
    return p


@pytest.mark.parametrize("pattern", [None, Pattern(2, 8)])
def test_native_products_take_what_they_take_in_a_training_step(pattern: Pattern | None) -> None:
    p, timer = network(pattern), Timer(TINY)
    result = simulate_tape(p.tape, TINY, None if pattern is None else Options(only=(How.NATIVE, How.DENSE)))
    ours = piece_jobs(result.lowered, stored_weights(p))
    updates = (Update("a", 64, 48, ff=pattern, bp=None), Update("b", 48, 32, ff=pattern, bp=pattern))
    theirs = step_jobs(Step("tape", tuple(p.tape.products), (), updates, (), p.tape.macs_dense))
    assert [(job.name, job.stage) for job in ours] == [(job.name, job.stage) for job in theirs]
    assert [timed.cycles for timed in timer.all(ours)] == [timed.cycles for timed in timer.all(theirs)]


def test_windows_are_read_from_the_image_where_groups_do_not_run_across_taps() -> None:
    conv = ConvShape(2, 8, 8, 16, 8, (3, 3), (1, 1), (1, 1))
    for channels, pattern, form in ((16, Pattern(2, 8), Form.WEIGHTS), (12, Pattern(2, 8), Form.PACKED)):
        shape = ConvShape(**{**vars(conv), "channels_in": channels})
        job = lone_job(Product("c", Stage.FF, 128, 9 * channels, 8, pattern, conv=shape))
        assert job.form is form
        assert (job.products[0].conv is None) is (form is Form.PACKED)
        assert job.runs(TINY)


def test_two_activations_lie_as_they_are() -> None:
    assert lone_job(Product("mix", Stage.FF, 8, 8, 8), stored=False).form is Form.PLAIN
    assert lone_job(Product("l0.scores", Stage.FF, 8, 8, 8), stored=False).form is Form.TURNED
    assert [job.form for job in given_jobs([Product("p", stage, 8, 8, 8) for stage in (Stage.FF, Stage.WU)])] == [
        Form.PACKED,
        Form.WEIGHTS,
    ]


def test_levels_of_a_cover_run_one_by_one() -> None:
    keep = np.random.default_rng(0).random((64, 256)) < np.repeat([0.02, 0.5], 128)
    product = Product("p", Stage.FF, 4096, 64, 256, sparsity=Unstructured("w", int(keep.sum()), keep))
    item = lower(product, BIG, Options(only=(How.COVER,)))
    jobs = piece_jobs([item], LearntWeights(stored=("p",)))
    assert len(jobs) == len(item.pieces) > 1
    assert [(p.n, p.pattern) for job in jobs for p in job.products] == [(x.n, x.pattern) for x in item.pieces]
    (one,) = piece_jobs([item], LearntWeights(stored=("p",)), dense=True)
    assert one.products[0].macs_full == product.macs_full


def test_the_whole_product_runs_where_its_pieces_would_take_longer() -> None:
    """Many small tiles of an attention, each with the start and end of a program."""
    keep = np.eye(16, dtype=bool)
    product = Product("p", Stage.FF, 64, 8, 64, count=1, sparsity=Blocks("y", 4, 4, keep))
    item = lower(product, BIG, Options(only=(How.SKIP,)))
    assert sum(piece.count for piece in item.pieces) == 16
    (one,) = piece_jobs([item], LearntWeights())
    assert (one.products[0].m, one.products[0].n) == (64, 64)


@pytest.mark.usefixtures("estimated")
@pytest.mark.parametrize("name", ["granet", "moa", "smoe-dropout", "sora", "sparsifiner"])
def test_memory_costs_cycles_and_says_why(name: str) -> None:
    program = record(name, "small", "nm", values=False)
    result = simulate_tape(program.tape, TINY)
    found = simulate_memory(program, result, Timer(TINY))
    assert sum(found.run.causes.values()) == found.cycles == sum(row.cycles for row in found.run.rows)
    assert found.record()["speedup"] == found.speedup == found.cycles_dense / found.cycles
    assert found.dense.macs >= found.run.macs


def test_the_machine_updates_what_learns_by_sgd_once_and_last() -> None:
    program = record("granet", "paper", "faithful")
    weights = stored_weights(program)
    assert {name for name in program.store if not name.endswith((".gain", ".bias"))} == weights.updated.keys()
    jobs = piece_jobs(simulate_tape(program.tape, BIG).lowered, weights, dense=True)
    updates = [job for job in jobs if isinstance(job, UpdateJob)]
    assert sorted(job.name for job in updates) == sorted(weights.updated)
    assert {job.name: job.k * job.n * job.count for job in updates} == dict(weights.updated)
    assert all(isinstance(job, ProductJob) for job in jobs[: -len(updates)])


@pytest.mark.parametrize("name", ["sora", "smoe-dropout", "squarehead", "moa"])
def test_what_learns_by_adam_or_not_at_all_is_not_updated_by_sat(name: str) -> None:
    assert stored_weights(record(name, "paper", "faithful")).updated == {}


def test_nothing_to_run_is_refused() -> None:
    with pytest.raises(ValueError, match="items is empty"):
        piece_jobs([], LearntWeights())
    with pytest.raises(ValueError, match="holds no products"):
        simulate_tape(Tape(), BIG)
