"""What every workload must do: one tape from values and from shapes, exact on the simulator, both scales."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest

from nmsat.algorithms.workloads.engine.program import Program, differences
from nmsat.algorithms.workloads.engine.registry import (
    VARIANTS,
    Study,
    Variant,
    Workload,
    record,
    register,
    workload,
    workloads,
)
from nmsat.dataflow.contract.config import preset
from nmsat.sim.work.workload import check_values, simulate_tape

NAMES = list(workloads())


# Where the claim of a paper does not hold here; the docstring of each method says what was found instead.
NOT_HERE = {
    ("sparse-ift-parallel", "nm"),
    ("sparse-ift-factorized", "nm"),
    ("sparse-byte-nn", "faithful"),
    ("sparse-byte-nn", "nm"),
    ("gloredi", "faithful"),
    ("gloredi", "nm"),
    ("model-soups", "faithful"),
    ("model-soups", "nm"),
    ("sinkhorn-newton", "nm"),
    ("squarehead", "nm"),
    ("sparse-ot", "nm"),
    ("sparse-ot-map", "faithful"),
    ("sparse-ot-map", "nm"),
    ("ssvi", "faithful"),
    ("ssvi", "nm"),
}

# Small weights stay behind; those of each 8 are as far as MeZO, within the errors of both (its docstring).
NOT_HERE |= {("sparse-mezo", variant) for variant in VARIANTS}

# The term on attention changes too little to be seen (its docstring).
NOT_HERE |= {("sparse-then-prune", variant) for variant in VARIANTS}

# The planted pattern of ranks is not found with every seed (its docstring).
NOT_HERE |= {("s2-lora", variant) for variant in VARIANTS}

# With one of two seeds the consistency slows learning down; the seeds differ by more than that (its docstring).
NOT_HERE |= {("thor", "faithful")}

# The difference of means finds the planted heads as well (its docstring).
NOT_HERE |= {("sae-circuits", variant) for variant in VARIANTS}

# What the router lets pass is not what the task needs (its docstring).
NOT_HERE |= {("seqboat", variant) for variant in VARIANTS}

# No threshold leaves the planted ranks with every seed; all experts are no better than a dense network (docstrings).
NOT_HERE |= {(name, variant) for name in ("sora", "smoe-dropout") for variant in VARIANTS}

# Nearer than without a prior in the mean alone, and SDS is nearer still (its docstring).
NOT_HERE |= {("sparse3d", variant) for variant in VARIANTS}

# Plain pixels are recognised better (its docstring).
NOT_HERE |= {("tetrolet-scc", variant) for variant in VARIANTS}

# The task alone tags unlabelled languages as well (its docstring).
NOT_HERE |= {("lt-sft", variant) for variant in VARIANTS}

# Its bottlenecks are equally accurate and name no planted concept (its docstring).
NOT_HERE |= {("sparse-cbm", variant) for variant in VARIANTS}


@lru_cache(maxsize=4)
def _small(name: str, variant: Variant) -> Program:
    return record(name, "small", variant)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", NAMES)
def test_values_and_shapes_give_one_tape(name: str, variant: Variant) -> None:
    program = _small(name, variant)
    shapes = record(name, "small", variant, values=False, profile=program.profile)
    assert program.tape.products
    assert differences(program.tape, shapes.tape) == []
    assert all(p.a is None and p.y is None for p in shapes.tape.products)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", NAMES)
def test_the_simulator_gives_the_bits_of_the_program(name: str, variant: Variant) -> None:
    tape = _small(name, variant).tape
    assert all(p.a is not None and p.y is not None for p in tape.products)
    result = simulate_tape(tape, preset("tiny"))
    assert check_values(result) == []
    assert result.macs_true <= result.macs_spent
    assert result.cycles * result.config.elements >= result.macs_true


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", NAMES)
def test_the_paper_scale_runs_without_tensors(name: str, variant: Variant) -> None:
    program = record(name, "paper", variant)
    assert all(parameter.value is None for parameter in program.store.values())
    result = simulate_tape(program.tape, preset("vcu1525"))
    assert result.macs_true <= result.macs_full
    assert 0 < result.cycles <= result.cycles_dense
    low, high = workload(name).sat_share
    assert low < result.sat_share <= high
    assert 0 <= result.host_share < 1


@pytest.mark.long
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", NAMES)
def test_the_claim_holds_in_kind(name: str, variant: Variant) -> None:
    study = workload(name).solved(variant)
    assert study.holds is ((name, variant) not in NOT_HERE), (study.claim, study.measured)


def test_a_study_holds_or_does_not() -> None:
    assert Study("a claim", np.float64(2.0) > 1, {}).holds is True  # type: ignore[arg-type]


def test_requests_are_checked() -> None:
    with pytest.raises(ValueError, match="known workloads"):
        workload("nothing")
    with pytest.raises(ValueError, match="scale is"):
        record(NAMES[0], "huge", "nm")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="are not allocated"):
        record(NAMES[0], "paper", "nm", values=True)
    known: Workload = workload(NAMES[0])
    with pytest.raises(ValueError, match="registered twice"):
        register(known)
    with pytest.raises(ValueError, match="sat_share of"):
        replace(known, sat_share=(0.6, 0.2))
