"""SquareHead and SparseGPT: loss, pruning, masks, shapes; the oracles of the fact sheet."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from nmsat.algorithms.core.tape import Pattern, Stage
from nmsat.algorithms.workloads.engine.program import Program
from nmsat.algorithms.workloads.engine.registry import record
from nmsat.algorithms.workloads.engine.text import library_text
from nmsat.algorithms.workloads.methods import squarehead as sh
from nmsat.algorithms.workloads.methods.sparsegpt import BLOCK, sparsegpt

if TYPE_CHECKING:
    from nmsat.algorithms.workloads.engine.parameters import Parameter

TINY = replace(sh.SMALL, batch=2, tokens=8, width=24, heads=2, hidden=32)


def _loss(states: list[np.ndarray], taught: list[np.ndarray]) -> float:
    p = Program(dtype=np.float64)
    return float(sh.squarehead([p.input(s.shape, s) for s in states], [p.input(t.shape, t) for t in taught]).array)


def test_squarehead_of_equal_and_of_silent_students() -> None:
    taught = [1000 * np.random.default_rng(i).standard_normal((2, 5, 7)) for i in range(3)]
    assert _loss(taught, taught) == 0
    assert _loss([np.zeros_like(t) for t in taught], taught) == pytest.approx(3, rel=1e-6)
    other = [t + 1 for t in taught]
    assert _loss([4 * s for s in other], [4 * t for t in taught]) == pytest.approx(_loss(other, taught), rel=1e-6)


def test_gradient_of_squarehead() -> None:
    rng = np.random.default_rng(1)
    s, t = rng.standard_normal((2, 4, 6)), rng.standard_normal((2, 4, 6))
    p = Program(dtype=np.float64)
    leaf = p.vector("s", s.shape)
    leaf.array[...] = s
    p.backward(sh.squarehead([leaf], [p.input(t.shape, t)]))
    assert leaf.grad is not None
    assert np.allclose(leaf.grad, 2 * (s - t) / (t.size * (np.mean(t**2) + sh.EPSILON)))


@pytest.mark.parametrize("rows", [64, 2 * BLOCK])
def test_sparsegpt_with_orthogonal_inputs_is_magnitude_pruning(rows: int) -> None:
    rng = np.random.default_rng(2)
    w = rng.standard_normal((rows, 10))
    x = np.linalg.qr(rng.standard_normal((rows, rows)))[0]
    value, keep = sparsegpt(w, x, density=0.3)
    for start in range(0, rows, BLOCK):
        part, size = keep[start : start + BLOCK], np.abs(w[start : start + BLOCK])
        assert part.sum() == round(0.3 * part.size)
        assert size[part].min() >= size[~part].max()
    assert np.allclose(value, np.where(keep, w, 0))


def test_sparsegpt_keeps_n_of_m() -> None:
    rng = np.random.default_rng(3)
    w, x = rng.standard_normal((37, 9)), rng.standard_normal((200, 37))
    value, keep = sparsegpt(w, x, pattern=Pattern(2, 4))
    counts = np.add.reduceat(keep, np.arange(0, 37, 4), axis=0, dtype=int)
    assert (counts[:-1] == 2).all()
    assert (counts[-1] == 1).all()
    assert not value[~keep].any()
    with pytest.raises(ValueError, match="exactly one"):
        sparsegpt(w, x)


def test_sparsegpt_is_the_optimal_correction_input_by_input() -> None:
    """Against brute force: the inverse of the remaining inputs' Hessian, anew for every input."""
    rng = np.random.default_rng(5)
    x, w = rng.standard_normal((400, 20)) @ (np.eye(20) + 0.5 * rng.random((20, 20))), rng.standard_normal((20, 6))
    value, keep = sparsegpt(w, x, density=0.5, damping=1e-9)
    h, left = 2 * x.T @ x, w.copy()
    for j in range(20):
        inverse = np.linalg.inv(h[j:, j:])
        left[j:] -= np.outer(inverse[:, 0], np.where(keep[j], 0, left[j]) / inverse[0, 0])
    assert np.allclose(value, np.where(keep, left, 0), atol=1e-6)


def test_sparsegpt_lies_between_a_refit_and_zeroing() -> None:
    rng = np.random.default_rng(4)
    x = rng.standard_normal((400, 8)) @ rng.standard_normal((8, 32)) + 0.3 * rng.standard_normal((400, 32))
    w = rng.standard_normal((32, 24))
    value, keep = sparsegpt(w, x, density=0.5, damping=1e-8)
    target = x @ w
    found, zeroed = (float(np.sum((x @ v - target) ** 2)) for v in (value, np.where(keep, w, 0)))
    refit = 0.0
    for column in range(24):
        inside = keep[:, column]
        best = np.linalg.lstsq(x[:, inside], target[:, column], rcond=None)[0]
        refit += float(np.sum((x[:, inside] @ best - target[:, column]) ** 2))
    assert refit <= found < 0.2 * zeroed


def _pruned(variant: str) -> dict[str, Parameter]:
    store: dict[str, Parameter] = {}
    tokens, _ = sh.batch(library_text()[0], TINY, 0)
    sh.forward(Program(store=store), TINY, tokens, "teacher", None)
    calibration = replace(TINY, batch=16)
    return sh.prune(calibration, store, sh.batch(library_text()[0], calibration, 1)[0], variant)  # type: ignore[arg-type]


@pytest.mark.parametrize("variant", ["faithful", "nm"])
def test_the_mask_survives_fine_tuning(variant: str) -> None:
    pruned = _pruned(variant)
    tuned = sh.finetune(TINY, pruned, variant, 3, distilled=True)  # type: ignore[arg-type]
    matrices = [n for n in tuned if n.startswith("student.l") and n.split(".")[-1] in sh.LINEAR]
    assert len(matrices) == 8
    for name in matrices:
        keep = pruned[name].keep
        assert keep is not None
        assert keep.mean() == pytest.approx(0.5 if variant == "nm" else 0.3, abs=1e-3)
        assert not tuned[name].array[~keep].any()
        assert not np.array_equal(tuned[name].array, pruned[name].array)
    frozen = [n for n in tuned if n.startswith("teacher.")]
    assert all(np.array_equal(tuned[n].array, pruned[n].array) for n in frozen)


def test_a_student_of_full_density_is_the_teacher() -> None:
    store: dict[str, Parameter] = {}
    tokens, _ = sh.batch(library_text()[0], TINY, 0)
    taught = sh.forward(Program(store=store), TINY, tokens, "teacher", None)[0].array
    for name in list(store):
        twin = "student." + name.removeprefix("teacher.")
        store[twin] = replace(store[name], name=twin)
    size = replace(TINY, density=1.0)
    assert np.array_equal(sh.forward(Program(store=store), size, tokens, "student", "faithful")[0].array, taught)


def test_alibi_grows_with_the_distance() -> None:
    bias = sh.alibi(4, 6)
    assert bias[0, 5, 3] == -2 * 2.0**-2
    assert bias[3, 5, 0] == -5 * 2.0**-8
    assert not np.triu(bias).any()


def test_mpt_7b_has_the_size_of_the_fact_sheet() -> None:
    program = record("squarehead", "paper", "faithful")
    student = {n: w for n, w in program.store.items() if n.startswith("student.")}
    tied = sum(w.size for n, w in student.items() if not n.endswith(".zero") and n != "student.head")
    assert tied == 6_649_286_656
    forward = [q for q in program.tape.of(Stage.FF) if q.name.startswith("student.l0.")]
    tokens = 32 * 512
    shapes = {q.name.split(".")[-1]: (q.m, q.k, q.n) for q in forward if q.name.split(".")[-1] in sh.LINEAR}
    assert shapes == {
        "qkv": (tokens, 4096, 12288),
        "out": (tokens, 4096, 4096),
        "up": (tokens, 4096, 16384),
        "down": (tokens, 16384, 4096),
    }
    runs = [q for q in program.tape.products if q.name.endswith(".l0.qkv")]
    assert [q.name.split(".")[0] for q in runs] == ["teacher", "checkpoint", "student", "student", "student"]
    assert [q.stage.value for q in runs] == ["ff", "ff", "ff", "wu", "bp"]


def test_orders_and_rates_of_the_study_are_others() -> None:
    pruned = _pruned("nm")
    tuned = [
        sh.finetune(TINY, pruned, "nm", 2, distilled=False, rate=rate, order=order)["student.head"].array
        for rate, order in ((1e-3, 0), (1e-3, 1), (2e-3, 0), (1e-3, 0))
    ]
    assert np.array_equal(tuned[0], tuned[3])
    assert not np.array_equal(tuned[0], tuned[1])
    assert not np.array_equal(tuned[0], tuned[2])
    chosen, measured = (sh.bits_per_character(TINY, pruned, "student", "nm", chosen_on=on) for on in (True, False))
    assert chosen != measured
