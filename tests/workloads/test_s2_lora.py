"""S2-LoRA: shared factors, coefficients, left-out ranks, counts; the oracles of its fact sheet."""

from __future__ import annotations

import numpy as np
import pytest

from nmsat.algorithms.core.sparsity import Gathered
from nmsat.algorithms.core.tape import Stage
from nmsat.algorithms.workloads.engine import ops
from nmsat.algorithms.workloads.engine.parameters import Parameter
from nmsat.algorithms.workloads.engine.program import Program
from nmsat.algorithms.workloads.engine.registry import record
from nmsat.algorithms.workloads.methods.s2_lora import WHISPER_SMALL, encoder
from nmsat.algorithms.workloads.methods.s2_lora_adapter import (
    ATOMS,
    PLANTED,
    WIDTH,
    adapt,
    adapted,
    planted,
    student,
    support_score,
)

X = np.random.default_rng(0).standard_normal((7, 40)).astype(np.float32)
NAMES = ["q", "k", "v"]


def _store(coefficients: dict[str, list[float]]) -> dict[str, Parameter]:
    """Three adapted 40 x 16 matrices with these coefficients of four ranks."""
    store: dict[str, Parameter] = {}
    p = Program(store=store)
    adapted(p, NAMES, p.input(X.shape, X), 16, 4, "faithful", gathered=False)
    for name, values in coefficients.items():
        store[f"{name}.c"].value = np.array(values, np.float32)
    return store


def _run(store: dict[str, Parameter], *, gathered: bool, exact: bool = False) -> tuple[list[np.ndarray], Program]:
    p = Program(store=store, exact=exact)
    return [y.array for y in adapted(p, NAMES, p.input(X.shape, X), 16, 4, "faithful", gathered=gathered)], p


MIXED = {"q": [0, 1.5, 0, -0.5], "k": [0, 0, 0, 2.0], "v": [0, 0, 0, 0]}


def test_the_adapter_is_the_merged_matrix() -> None:
    store = _store(MIXED)
    a, b = store["shared.a40"].array, store["shared.b16"].array
    for name, y in zip(NAMES, _run(store, gathered=False)[0], strict=True):
        merged = store[name].array + a @ np.diag(store[f"{name}.c"].array) @ b
        assert np.allclose(y, X @ merged, atol=1e-4)
    one = store["k"].array + 2.0 * np.outer(a[:, 3], b[3])
    assert np.allclose(_run(store, gathered=True)[0][1], X @ one, atol=1e-4)


def test_leaving_ranks_out_changes_no_bit() -> None:
    store = _store(MIXED)
    full, small = _run(store, gathered=False, exact=True), _run(store, gathered=True, exact=True)
    assert all(np.array_equal(y, z) for y, z in zip(full[0], small[0], strict=True))
    left = [(q.name, q.k, q.n, q.sparsity.whole) for q in small[1].tape.products if isinstance(q.sparsity, Gathered)]
    assert left == [
        ("q.a", 40, 2, (7, 40, 4)),  # ranks 1 and 3, shared by q and k
        ("q.b", 2, 16, (7, 4, 16)),
        ("k.b", 1, 16, (7, 4, 16)),
    ]


def test_no_coefficient_is_the_base_model() -> None:
    store = _store({name: [0.0] * 4 for name in NAMES})
    found, p = _run(store, gathered=True)
    assert [q.name for q in p.tape.products] == NAMES
    assert all(np.allclose(y, X @ store[name].array, atol=1e-5) for name, y in zip(NAMES, found, strict=True))


def test_the_gradient_of_a_coefficient_in_closed_form() -> None:
    store = _store(MIXED)
    target = np.random.default_rng(3).standard_normal((7, 16)).astype(np.float32)
    p = Program(store=store)
    outputs = adapted(p, NAMES, p.input(X.shape, X), 16, 4, "faithful", gathered=False)
    p.backward(ops.squared_error(outputs[0], p.input(target.shape, target)))
    g = 2 * (outputs[0].array - target) / target.size
    a, b = store["shared.a40"].array, store["shared.b16"].array
    expected = [sum(float(b[k] @ g[t]) * float(a[:, k] @ X[t]) for t in range(7)) for k in range(4)]
    assert np.allclose(store["q.c"].grad, expected, rtol=1e-3, atol=1e-5)  # type: ignore[arg-type]
    assert store["q"].grad is None


def test_at_the_first_step_coefficients_learn_and_factors_do_not() -> None:
    store: dict[str, Parameter] = {}
    x, y, _ = planted(0, store, "faithful")
    p = Program(store=store)
    out = student(p, p.input((64, WIDTH), x[:64]), "shared", 8, "faithful")
    p.backward(ops.squared_error(out, p.input((64, WIDTH), y[:64])))
    assert all(store[f"m{i}.c"].grad.any() for i in range(len(PLANTED)))  # type: ignore[union-attr]
    assert not store[f"shared.a{WIDTH}"].grad.any()  # type: ignore[union-attr]


def test_whisper_small_has_the_parameters_and_work_of_the_fact_sheet() -> None:
    program = record("s2-lora", "paper", "faithful")
    learnt = sum(w.size for w in program.store.values() if not w.frozen)
    assert learnt == 2 * 768 * 32 + 144 * 32
    assert learnt / 241.7e6 == pytest.approx(0.000222, rel=2e-3)
    p = Program(values=False)
    encoder(p, WHISPER_SMALL, p.input((8, 3000, 80)), "faithful")
    base = [q for q in p.tape.products if not isinstance(q.sparsity, Gathered)]
    assert sum(q.macs_full for q in base) / 8 == pytest.approx(172e9, rel=5e-3)
    assert not [q for q in program.tape.of(Stage.WU) if not isinstance(q.sparsity, Gathered)]


def test_the_convolutions_are_those_of_a_loop() -> None:
    program = record("s2-lora", "small", "faithful")
    products = {q.name: q for q in program.tape.of(Stage.FF)}
    mel = np.random.default_rng(0).standard_normal((24, 8)).astype(np.float16)
    first, second = products["conv1"], products["conv2"]
    padded = np.concatenate([np.zeros((1, 8)), mel, np.zeros((1, 8))])
    assert np.array_equal(first.a, np.stack([padded[t : t + 3].ravel() for t in range(24)]))  # type: ignore[arg-type]
    assert second.a is not None
    assert second.a.shape == (12, 96)
    assert np.array_equal(second.a[1:, :32], second.a[:-1, 64:])  # taps 2 i - 1, 2 i, 2 i + 1
    assert not second.a[0, :32].any()


def test_the_score_counts_atoms_and_not_places() -> None:
    rng = np.random.default_rng(5)
    a, b = rng.standard_normal((WIDTH, ATOMS)), rng.standard_normal((ATOMS, WIDTH))
    a, b = a / np.linalg.norm(a, axis=0), b / np.linalg.norm(b, axis=1)[:, None]
    atoms = np.einsum("ik,kj->kij", a, b)
    order = rng.permutation(ATOMS)
    store = {
        f"shared.a{WIDTH}": Parameter("a", a.shape, -a[:, order]),
        f"shared.b{WIDTH}": Parameter("b", b.shape, b[order]),
    }
    for index, chosen in enumerate(PLANTED):
        store[f"m{index}.c"] = Parameter("c", (ATOMS,), np.isin(order, chosen).astype(float))
    assert support_score(store, atoms) == 1
    store["m0.c"].value = np.ones(ATOMS)
    assert support_score(store, atoms) == pytest.approx(2 * 12 / (12 + 16))


def test_a_heavy_penalty_leaves_the_base_model() -> None:
    store, error, _ = adapt(0, "shared", 8, "faithful", 4, 1e3)
    assert error == 1
    assert not any(store[f"m{i}.c"].array.any() for i in range(len(PLANTED)))
