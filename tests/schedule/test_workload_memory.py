"""Workloads with external memory: the program of their lowered products, against that of a training step."""

from __future__ import annotations

import numpy as np
import pytest

from nmsat.algorithms.core.sparsity import Unstructured
from nmsat.algorithms.core.tape import Pattern, Product, Stage, Tape
from nmsat.algorithms.workloads.engine import ops
from nmsat.algorithms.workloads.engine.products import linear
from nmsat.algorithms.workloads.engine.program import Program
from nmsat.algorithms.workloads.engine.registry import record
from nmsat.dataflow.contract.config import preset
from nmsat.dataflow.network.step import Step, Update
from nmsat.dataflow.program.ways import How, Options, lower, whole
from nmsat.dataflow.schedule.lowered_program import Weights, lowered_program, settled_pieces
from nmsat.dataflow.schedule.program import ProductRun, UpdateRun
from nmsat.dataflow.schedule.step_program import step_program
from nmsat.sim.schedule.machine import run_program
from nmsat.sim.work.workload import simulate_tape
from nmsat.sim.work.workload_memory import simulate_memory, stored_weights

TINY, BIG = preset("tiny"), preset("vcu1525")


def _network(pattern: Pattern | None) -> Program:
    """Record a step of two layers, shapes alone."""
    p = Program(values=False)
    x = p.input((1024, 512))
    weights = [p.weight(name, shape, ff=pattern, bp=pattern) for name, shape in (("a", (512, 384)), ("b", (384, 256)))]
    hidden = ops.relu(linear("a", x, weights[0]))
    p.backward(ops.cross_entropy(linear("b", hidden, weights[1]), None))
    return p


@pytest.mark.parametrize("pattern", [None, Pattern(2, 8)])
def test_native_products_are_scheduled_as_in_a_training_step(pattern: Pattern | None) -> None:
    p = _network(pattern)
    result = simulate_tape(p.tape, BIG, None if pattern is None else Options(only=(How.NATIVE, How.DENSE)))
    ours = lowered_program(result.lowered, stored_weights(p))
    # The first layer needs no input gradient, so no copy of its weights for one.
    updates = (Update("a", 512, 384, ff=pattern, bp=None), Update("b", 384, 256, ff=pattern, bp=pattern))
    step = Step("bdwp", tuple(p.tape.products), (), updates, (), p.tape.macs_dense)
    theirs = step_program(step, BIG)
    assert [run for run in ours.instructions if isinstance(run, ProductRun)] == [
        run for run in theirs.instructions if isinstance(run, ProductRun)
    ]
    found, wanted = ([r for r in x.instructions if isinstance(r, UpdateRun)] for x in (ours, theirs))
    assert [(r.name, r.beats) for r in found] == [(r.name, r.beats) for r in wanted]
    # The step of dataflow.network.step keeps a dense copy of a layer of which one direction is not pruned.
    extra = {"a": 512 * 384 * 2 if pattern else 0, "b": 0}
    assert [r.bytes + extra[r.name] for r in found] == [r.bytes for r in wanted]
    assert [type(r) for r in ours.instructions] == [type(r) for r in theirs.instructions]


def test_a_program_can_be_written_out_as_words() -> None:
    p = _network(Pattern(2, 8))
    program = lowered_program(simulate_tape(p.tape, TINY).lowered, stored_weights(p))
    assert len(program.assemble()) > len(program.instructions)


@pytest.mark.parametrize("name", ["granet", "moa", "smoe-dropout", "sora"])
@pytest.mark.parametrize("scale", ["small", "paper"])
def test_memory_costs_cycles_and_says_why(name: str, scale: str) -> None:
    config = preset("tiny" if scale == "small" else "vcu1525")
    program = record(name, scale, "nm", values=False)  # type: ignore[arg-type]
    result = simulate_tape(program.tape, config)
    found = simulate_memory(program, result)
    assert sum(found.causes.values()) == found.cycles
    assert found.cycles_dense >= result.cycles_dense * 0.999  # chains of `dataflow.mapping.chain` save a few fills
    assert found.cycles > result.cycles * 0.97
    assert 1 < found.speedup <= result.ideal
    assert found.record()["speedup"] == found.speedup


def test_slow_memory_is_waited_for() -> None:
    program = record("granet", "paper", "nm")
    slow = BIG.replace(memory=BIG.memory.__class__(channels=1, bytes_per_second=2e9))
    found = [simulate_memory(program, simulate_tape(program.tape, config)) for config in (BIG, slow)]
    assert found[1].cycles > 2 * found[0].cycles
    assert found[1].causes["bandwidth"] > found[1].cycles / 2
    assert found[1].speedup < found[0].speedup


def test_levels_of_a_cover_read_the_activations_again_unless_the_whole_product_is_quicker() -> None:
    keep = np.random.default_rng(0).random((64, 256)) < np.repeat([0.02, 0.5], 128)
    product = Product("p", Stage.FF, 4096, 64, 256, sparsity=Unstructured("w", int(keep.sum()), keep))
    item = lower(product, BIG, Options(only=(How.COVER,)))
    assert len(item.pieces) > 1
    (one,) = lowered_program([lower(product, BIG, Options(only=(How.DENSE,)))], Weights()).instructions
    several = lowered_program([item], Weights(stored=("p",))).instructions
    assert isinstance(one, ProductRun)
    assert settled_pieces(item, stored=True) == item.pieces
    assert sum(run.a.bytes for run in several if isinstance(run, ProductRun)) == len(item.pieces) * one.a.bytes
    # With next to no work in each part, loading them one by one is not worth it.
    small = Product("s", Stage.FF, 4, 64, 256, sparsity=Unstructured("w", int(keep.sum()), keep))
    covered = lower(small, BIG, Options(only=(How.COVER,)))
    assert settled_pieces(covered, stored=True) == (whole(small),) or len(covered.pieces) == 1


def test_sat_updates_what_learns_by_sgd_once() -> None:
    program = record("granet", "paper", "faithful")
    weights = stored_weights(program)
    assert {name for name in program.store if not name.endswith((".gain", ".bias"))} == weights.updated.keys()
    instructions = lowered_program(simulate_tape(program.tape, BIG).lowered, weights).instructions
    updates = [run.name for run in instructions if isinstance(run, UpdateRun)]
    assert sorted(updates) == sorted(weights.updated)


@pytest.mark.parametrize("name", ["sora", "smoe-dropout", "squarehead", "moa"])
def test_what_learns_by_adam_or_not_at_all_is_not_updated_by_sat(name: str) -> None:
    assert stored_weights(record(name, "paper", "faithful")).updated == {}


def test_an_update_of_experts_waits_for_the_last_of_them() -> None:
    program = record("smoe-dropout", "paper", "faithful")
    weights = Weights(frozenset(program.store), {"l0.moe.w1": program.store["l0.moe.w1"].size})
    instructions = lowered_program(simulate_tape(program.tape, BIG).lowered, weights).instructions
    (at,) = (i for i, run in enumerate(instructions) if isinstance(run, UpdateRun))
    uses = [i for i, run in enumerate(instructions[:at]) if run.name.startswith("l0.moe.w1")]
    assert len(uses) >= 18  # forward, backward, sixteen gradients
    assert not any(run.name.startswith("l0.moe.w1") for run in instructions[at + 1 :])


def test_dense_weights_are_copied_once_for_both_directions() -> None:
    p = _network(None)
    program = lowered_program(simulate_tape(p.tape, BIG).lowered, stored_weights(p), dense=True)
    updates = {run.name: run.bytes for run in program.instructions if isinstance(run, UpdateRun)}
    assert updates == {"a": 512 * 384 * 20, "b": 384 * 256 * 20}
    assert run_program(program).cycles > 0


def test_nothing_to_run_is_refused() -> None:
    with pytest.raises(ValueError, match="items is empty"):
        lowered_program([], Weights())
    with pytest.raises(ValueError, match="holds no products"):
        simulate_tape(Tape(), BIG)
