"""SparseByteNN: kernel groups, the order of channels carried through, MobileNet; the oracles of its fact sheet."""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
import pytest

from nmsat.algorithms.core.tape import Pattern, Stage
from nmsat.algorithms.workloads.engine.program import Program
from nmsat.algorithms.workloads.engine.registry import Variant, record
from nmsat.algorithms.workloads.methods.kernel_groups import (
    along_inputs,
    balanced,
    by_norm,
    cover,
    scores,
    shared_order,
    threshold,
)
from nmsat.algorithms.workloads.methods.sparse_byte_nn import (
    MOBILENET,
    SMALL,
    TOY,
    network,
    pruned,
    rearranged,
    spent,
    train,
)
from nmsat.dataflow.contract.config import preset
from nmsat.sim.work.workload import simulate_tape

if TYPE_CHECKING:
    from nmsat.algorithms.workloads.engine.parameters import Parameter

RNG = np.random.default_rng(6)
IMAGES = RNG.random((2, 8, 8, 1))


def _net() -> tuple[Program, np.ndarray]:
    """A network whose channels all differ, and its logits."""
    p = Program(dtype=np.float64)
    network(p, SMALL, p.input(IMAGES.shape, IMAGES))
    for w in p.store.values():
        w.value = w.array * np.exp(RNG.standard_normal(w.shape[-1])) + 0.1 * RNG.standard_normal(w.shape)
    q = Program(dtype=np.float64, store=p.store)
    return p, network(q, SMALL, q.input(IMAGES.shape, IMAGES)).array


def test_the_order_of_channels_is_carried_through_the_network() -> None:
    p, logits = _net()
    tensors = {name: w.array for name, w in p.store.items()}
    moved = rearranged(tensors, SMALL)
    for name, w in p.store.items():
        w.value = moved[name]
    q = Program(dtype=np.float64, store=p.store)
    assert np.allclose(network(q, SMALL, q.input(IMAGES.shape, IMAGES)).array, logits, atol=1e-10)
    for index in range(len(SMALL.blocks)):
        norms = np.abs(moved[f"pw{index}"]).sum(axis=0)
        assert np.all(np.diff(norms) <= 1e-12)
        assert not np.array_equal(moved[f"pw{index}"], tensors[f"pw{index}"])


def test_layers_whose_outputs_are_added_share_an_order() -> None:
    x, left, right, after = (RNG.standard_normal(s) for s in ((5, 6), (6, 8), (6, 8), (8, 3)))
    order = shared_order([left, right])
    assert not np.array_equal(order, by_norm(left))
    moved = (x @ left[:, order] + x @ right[:, order]) @ after[order]
    assert np.allclose(moved, (x @ left + x @ right) @ after)


@pytest.mark.parametrize(("group", "share"), [(1, 0.928), (4, 0.825), (8, 0.790), (16, 0.764)])
def test_kept_magnitude_of_even_weights_is_that_of_the_fact_sheet(group: int, share: float) -> None:
    w = RNG.standard_normal((512, 512))
    score = scores(w, group)
    kept = threshold(score, round(0.7 * score.size))
    assert score[kept].sum() / np.abs(w).sum() == pytest.approx(share, abs=0.004)


def test_one_output_is_no_group_and_all_outputs_are_inputs() -> None:
    w = RNG.standard_normal((12, 8))
    assert np.array_equal(scores(w, 1), np.abs(w))
    keep = balanced(scores(w, 8), 5)
    assert keep.shape == (12, 1)
    assert set(np.flatnonzero(keep)) == set(np.argsort(-np.abs(w).sum(axis=1))[:5])
    assert balanced(scores(w, 4), 12).all()


def test_single_weights_keep_more_than_ordered_groups_and_those_more_than_groups_in_place() -> None:
    """Channels of unequal size; by even ones the order gains nothing."""
    w = RNG.standard_normal((256, 256)) * np.exp(RNG.standard_normal(256))

    def share(w: np.ndarray, group: int) -> float:
        score = scores(w, group)
        return score[threshold(score, round(0.7 * score.size))].sum() / np.abs(w).sum()

    assert share(w, 1) > share(w[:, by_norm(w)], 16) > share(w, 16) + 0.02
    even = RNG.standard_normal((256, 256))
    assert share(even[:, by_norm(even)], 16) == pytest.approx(share(even, 16), abs=0.005)


def test_the_order_by_norm_is_near_the_best_of_all_partitions() -> None:
    w = RNG.standard_normal((16, 8)) * np.exp(RNG.standard_normal(8))

    def kept(order: list[int]) -> float:
        score = scores(w[:, order], 4)
        return score[threshold(score, 22)].sum()

    halves = [[0, *rest] for rest in combinations(range(1, 8), 3)]
    every = [kept(half + [i for i in range(8) if i not in half]) for half in halves]
    assert len(every) == 35
    found = kept(list(by_norm(w)))
    assert np.median(every) < found <= max(every) + 1e-12
    assert found > 0.97 * max(every)


def test_a_group_of_outputs_shares_its_pattern_along_the_inputs() -> None:
    keep = along_inputs(scores(RNG.standard_normal((24, 16)), 4), Pattern(6, 8))
    assert keep.shape == (24, 4)
    assert np.all(keep.reshape(3, 8, 4).sum(axis=1) == 6)
    p, _ = _net()
    w = pruned(p.store, SMALL, "nm", "nm")["pw2"]
    assert w.keep is not None
    assert np.array_equal(w.forward().values != 0, w.keep)
    assert np.all(w.keep.reshape(16, 4, 4).any(axis=2) == w.keep.reshape(16, 4, 4).all(axis=2))


def test_a_cover_takes_the_fullest_group_of_a_column() -> None:
    keep = np.zeros((32, 2), bool)
    keep[[0, 1, 17], 0] = True  # 2 of 16: 1:8 holds the third but not the first two
    keep[:, 1] = True
    assert cover(keep) == pytest.approx((2 / 16 + 1) / 2)
    iid = RNG.random((128, 4000)) < 0.3
    assert cover(iid) <= 0.60  # sixteen groups of 8 need 0.596 on average
    p, _ = _net()
    for w in [pruned(p.store, SMALL, "single", "faithful")[f"pw{i}"] for i in range(3)]:
        assert w.keep is not None
        assert cover(w.keep) <= 0.75


@pytest.mark.parametrize(("variant", "budget"), [("faithful", 0.7), ("nm", 0.75)])
def test_single_weights_have_the_budget_of_the_groups(variant: Variant, budget: float) -> None:
    """Both spend equal multiply-adds up to one step of a cover in each layer."""
    store: dict[str, Parameter] = {}
    train(store, TOY, 1, 0.1, 0)
    groups, single = (spent(pruned(store, TOY, how, variant), TOY) for how in (variant, "single"))
    assert single <= groups
    assert single == pytest.approx(groups, abs=0.01)
    assert groups == pytest.approx(budget, abs=0.02)


def test_mobilenet_has_the_multiply_adds_of_the_fact_sheet() -> None:
    program = record("sparse-byte-nn", "paper", "faithful")
    forward = program.tape.of(Stage.FF)
    macs = {kind: sum(q.macs_full for q in forward if q.name.startswith(kind)) / 8e6 for kind in ("stem", "pw")}
    host = sum(work.macs for work in program.tape.host if work.stage is Stage.FF) / 8e6
    macs["dw"] = host
    assert macs == pytest.approx({"stem": 10.8, "dw": 17.4, "pw": 539.5}, abs=0.05)
    assert sum(q.macs_full for q in forward) / 8e6 + host == pytest.approx(568.7, abs=0.1)
    assert sum(w.size for w in program.store.values()) == pytest.approx(4.23e6, abs=0.02e6)
    pointwise = [q for q in forward if q.name.startswith("pw")]
    assert sum(q.macs_true for q in pointwise) / sum(q.macs_full for q in pointwise) == pytest.approx(0.7, abs=0.002)
    assert MOBILENET.group == preset("vcu1525").columns


@pytest.mark.parametrize("variant", ["faithful", "nm"])
def test_pointwise_layers_are_faster_by_what_was_pruned(variant: str) -> None:
    program = record("sparse-byte-nn", "paper", variant)  # type: ignore[arg-type]
    program.tape.products[:] = [q for q in program.tape.of(Stage.FF) if q.name.startswith("pw")]
    result = simulate_tape(program.tape, preset("vcu1525"))
    assert result.speedup > 0.9 * result.ideal
