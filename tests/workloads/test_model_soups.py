"""Model soups: schedules, averages under one mask, greedy soups; the oracles of the fact sheet."""

from __future__ import annotations

import math

import numpy as np
import pytest

from nmsat.algorithms.core.tape import Stage
from nmsat.algorithms.workloads.engine.parameters import Parameter
from nmsat.algorithms.workloads.engine.registry import record
from nmsat.algorithms.workloads.methods.model_soups import (
    RESNET18_CIFAR,
    SMALL,
    accuracy,
    adaptive_peak,
    average,
    chosen,
    copied,
    greedy,
    held_out,
    images,
    phase_densities,
    prune,
    retraining_rate,
    soup,
)

RNG = np.random.default_rng(0)


def _network(members: int, density: float = 0.3) -> dict[str, Parameter]:
    w = Parameter("w", (members, 12, 5), RNG.standard_normal((members, 12, 5)))
    w.mask(RNG.random((12, 5)) < density)
    w.value = np.where(w.keep, w.array, 0)  # type: ignore[arg-type]
    return {"w": w, "w.bias": Parameter("w.bias", (members * 5,), RNG.standard_normal(members * 5))}


def test_phases_remove_one_share_of_what_is_left() -> None:
    for sparsity, wanted in ((0.9, (0.536, 0.785, 0.900)), (0.98, (0.729, 0.926, 0.980))):
        assert [1 - d for d in phase_densities(sparsity, 3)] == pytest.approx(wanted, abs=1e-3)
    assert phase_densities(0.7, 1) == pytest.approx([0.3])  # one shot


def test_rates_of_the_retraining() -> None:
    rates = [retraining_rate(step, 100, 0.2) for step in range(100)]
    assert rates[9] == rates[10] == pytest.approx(0.2)
    assert rates[4] == pytest.approx(0.1)
    assert np.allclose(np.diff(rates[10:]), -0.2 / 90)
    assert rates[-1] == pytest.approx(0.2 / 90)
    assert adaptive_peak(2.0, 2.0, 0.5, 0.3, 0.1) == pytest.approx(0.03)  # nothing lost: the lower limit
    assert adaptive_peak(2.0, 2.0 * math.sqrt(0.5), 0.5, 0.3, 0.1) == pytest.approx(0.1)  # r = sqrt(p)
    assert adaptive_peak(2.0, 2.0 * math.sqrt(0.875), 0.5, 0.3, 0.1) == pytest.approx(0.05)


def test_an_average_is_exactly_as_sparse_and_one_of_other_masks_is_not() -> None:
    store = _network(4)
    mean = average(store, 4)
    w = mean["w"]
    assert w.keep is store["w"].keep
    assert np.array_equal(w.array[0] != 0, store["w"].keep)  # type: ignore[arg-type]
    assert np.allclose(w.array[0], store["w"].array.mean(axis=0))
    assert np.allclose(mean["w.bias"].array, store["w.bias"].array.reshape(4, 5).mean(axis=0))
    for members, union in ((3, 0.271), (5, 0.410), (10, 0.651)):
        apart = (RNG.random((members, 400, 100)) < 0.1).any(axis=0)
        assert apart.mean() == pytest.approx(union, abs=0.01)


def test_copies_of_one_network_average_to_it() -> None:
    store = _network(1)
    for members in (1, 3):
        back = average(copied(store, members), members)
        for name, w in store.items():
            assert np.allclose(back[name].array, w.array)


def test_a_greedy_soup_scores_no_less_than_its_best_member() -> None:
    store = _network(4)
    goal = store["w"].array[[0, 2]].mean(axis=0)

    def score(network: dict[str, Parameter]) -> float:
        return -float(np.abs(network["w"].array[0] - goal).sum())

    store["w"].array[1] += 10.0 * (store["w"].array[0] != 0)  # far from all others
    taken = greedy(store, 4, score)
    assert 1 not in taken
    best = max(score(chosen(store, 4, [j])) for j in range(4))
    assert score(chosen(store, 4, taken)) >= best
    assert greedy(store, 4, lambda _: 1.0) == [0, 1, 2, 3]


def test_of_a_convex_loss_the_soup_is_below_the_mean_of_its_members() -> None:
    x, y, store = RNG.standard_normal((50, 12)), RNG.standard_normal((50, 5)), _network(6)
    losses = [np.mean((x @ w - y) ** 2) for w in store["w"].array]
    assert np.mean((x @ average(store, 6)["w"].array[0] - y) ** 2) <= np.mean(losses)


def test_pruning_keeps_the_largest_over_all_matrices() -> None:
    store = {f"fc{i}": Parameter(f"fc{i}", (1, 16, 8), RNG.standard_normal((1, 16, 8)) * (i + 1)) for i in range(3)}
    values = np.concatenate([w.array.ravel() for w in store.values()])
    prune(store, 2, SMALL, "faithful")
    kept = sum(int(w.keep.sum()) for w in store.values())  # type: ignore[union-attr]
    assert kept == round(0.1 * values.size)
    limit = np.sort(np.abs(values))[-kept]
    assert all((np.abs(w.array[w.array != 0]) >= limit).all() for w in store.values())
    store = {f"fc{i}": Parameter(f"fc{i}", (1, 16, 8), RNG.standard_normal((1, 16, 8))) for i in range(3)}
    for phase, n in enumerate((4, 2, 1)):
        prune(store, phase, SMALL, "nm")
        for name in ("fc0", "fc1"):
            assert ((store[name].array[0] != 0).reshape(2, 8, 8).sum(axis=1) == n).all()
    assert store["fc2"].keep is None


def test_members_learn_apart_under_one_mask() -> None:
    many, mean = soup(0, 2, 4, "faithful", dense_steps=4)
    first, second = many["fc0"].array
    assert not np.array_equal(first, second)
    for w in many.values():
        if len(w.shape) == 3:
            assert w.keep is not None
            assert not w.array[:, ~w.keep].any()
    alone = soup(0, 1, 4, "faithful", dense_steps=4)
    assert np.allclose(alone[0]["fc1"].array, alone[1]["fc1"].array)  # m = 1 is IMP
    apart = accuracy(many, 2)
    for j in range(2):
        assert accuracy(chosen(many, 2, [j]), 1)[0] == pytest.approx(apart[j])
    assert mean["fc0"].nonzeros * 2 == many["fc0"].nonzeros


def test_resnet18_has_the_work_of_the_fact_sheet_for_every_member() -> None:
    tape = record("model-soups", "paper", "faithful").tape
    ahead = tape.of(Stage.FF)
    assert all(q.count == 3 for q in tape.products)
    assert sum(q.macs_full for q in ahead) / (3 * RESNET18_CIFAR.batch) == pytest.approx(0.555e9, rel=5e-3)
    assert sum(q.macs_true for q in ahead) / sum(q.macs_full for q in ahead) == pytest.approx(0.1, abs=1e-3)
    weights = sum(q.k * q.n for q in ahead)
    assert weights == pytest.approx(11.2e6, rel=0.01)


def test_members_are_chosen_on_images_of_their_own() -> None:
    """The best member is found on images that it did not learn from and that are not those of the test."""
    sets = [{x.tobytes() for x in part} for part in (held_out().x_train, held_out().x_test, images().x_test)]
    assert all(len(part) > 200 for part in sets)
    assert not (sets[0] & sets[1] or sets[1] & sets[2] or sets[0] & sets[2])
