"""The table runner, data sets, networks, and mask stability."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np
import pytest

from nmsat.algorithms.core.arithmetic import CONTRACT, FAST
from nmsat.algorithms.core.numeric import to_half
from nmsat.algorithms.core.tape import Pattern, Stage, Tape
from nmsat.algorithms.core.vocabulary import METHODS, SMALL_NETWORKS, SR_STE_DECAY, trained_network
from nmsat.algorithms.layers.base import Context, Layer, prepare
from nmsat.algorithms.layers.loss import softmax_cross_entropy
from nmsat.algorithms.layers.networks import BUILDERS, make_network
from nmsat.algorithms.layers.parameter import Parameter, Weight
from nmsat.algorithms.layers.pointwise import Gelu
from nmsat.algorithms.layers.products import Linear
from nmsat.algorithms.methods import make_method
from nmsat.algorithms.training.data import PLACES, load_dataset, teacher, text
from nmsat.algorithms.training.optim import Adam, LossScale
from nmsat.algorithms.training.plan import plan, plan_cells
from nmsat.algorithms.training.recipes import RATES, RECIPES, parse_name, run_name, variant
from nmsat.algorithms.training.stability import MaskWatch
from nmsat.algorithms.training.study import (
    SEEDS,
    TABLE_NETWORKS,
    Cell,
    ablation_cells,
    best_rate,
    cells,
    config_of,
    finished,
    rate_cells,
    run_cells,
    table,
)
from nmsat.algorithms.training.train import DEMO, Trainer

if TYPE_CHECKING:
    from pathlib import Path

    from nmsat.algorithms.core.arithmetic import Arithmetic


def test_cells_of_the_whole_table() -> None:
    every = cells()
    assert len(every) == len({cell.name for cell in every}) == len(TABLE_NETWORKS) * 5 * (1 + 9 * 5)
    assert all(cell.config.arithmetic == "contract" for cell in every)
    small = cells(["mlp"], ["dense", "bdwp"], ["2:8"], [4], epochs=1)
    assert [cell.name for cell in small] == ["mlp-dense-seed4,epochs=1", "mlp-bdwp-2of8-seed4,epochs=1"]
    assert small[1].config == RECIPES["mlp"].replace(method="bdwp", pattern="2:8", seed=4, epochs=1)
    with pytest.raises(ValueError, match="nothing"):
        cells(["nothing"])


def test_cells_run_once_and_gather_into_rows(tmp_path: Path) -> None:
    wanted = cells(["mlp"], ["dense", "bdwp+mvue"], ["2:8"], [0, 1], epochs=1, batch=2000)
    seen: list[str] = []
    first = run_cells(wanted, tmp_path, progress=lambda cell, *_: seen.append(cell.name))
    assert sorted(seen) == sorted(cell.name for cell in wanted)
    seen.clear()
    assert run_cells(wanted, tmp_path, progress=lambda cell, *_: seen.append(cell.name)) == first
    assert not seen
    rows = {row.method: row for row in table(first)}
    assert rows["dense"].seeds == rows["bdwp+mvue"].seeds == 2
    assert rows["dense"].variant == "epochs=1 batch=2000"
    assert rows["dense"].loss_points == 0  # its own pair: the dense run of the same length
    by_seed = {(config_of(run).method, config_of(run).seed): float(str(run["accuracy"])) for run in first}
    lost = [100 * (by_seed["dense", seed] - by_seed["bdwp+mvue", seed]) for seed in (0, 1)]
    assert rows["bdwp+mvue"].by_seed == pytest.approx(lost)
    assert rows["bdwp+mvue"].loss_points == pytest.approx(np.mean(lost))
    accuracies = [float(str(run["accuracy"])) for run in first if "mvue" in str(run["config"])]
    assert rows["bdwp+mvue"].accuracy == pytest.approx(np.mean(accuracies))
    assert rows["bdwp+mvue"].spread == pytest.approx(np.std(accuracies, ddof=1))
    assert rows["bdwp+mvue"].bound > 2
    assert rows["bdwp+mvue"].macs_kept < rows["dense"].macs_kept


def summary(accuracy: float, **changes: object) -> dict[str, object]:
    config = RECIPES["vgg19-small"].replace(**changes).as_dict()
    return {"config": config, "accuracy": accuracy, "bound": 2.0, "macs_kept": 100, "sad_ff": 0.01, "sad_bp": 0.02}


def test_rows_compare_with_the_dense_recipe() -> None:
    runs = [summary(0.98, method="dense", seed=0), summary(0.96, method="dense", seed=1)]
    runs += [summary(0.95, method="bdwp"), summary(0.99, method="bdwp", decay=0.0), summary(0.9, method="ste", seed=5)]
    dense, bdwp, changed, alone = table(runs)
    assert (dense.seeds, dense.pattern, dense.spread) == (2, "dense", pytest.approx(0.02 / 2**0.5))
    assert dense.loss_points == 0
    assert bdwp.loss_points == pytest.approx(3.0)  # against the dense run of its own seed
    assert (changed.variant, changed.loss_points) == ("decay=0.0", pytest.approx(-1.0))
    assert alone.loss_points is None


def test_pairs_share_data_split_and_length() -> None:
    changed = {"split": "validation", "epochs": 9}
    runs = [summary(0.98, method="dense", **changed), summary(0.90, method="bdwp", decay=0.0, **changed)]
    assert [row.loss_points for row in table(runs)] == [0, pytest.approx(8.0)]
    others: list[dict[str, object]] = [{}, {"split": "validation"}, {**changed, "data": "idx14-01234567"}]
    for other in others:
        assert table([*runs[:1], summary(0.9, method="bdwp", **other)])[1].loss_points is None


def test_the_plan_begins_with_what_carries_its_sentence() -> None:
    data = "idx14-01234567"
    parts, found = plan(data), plan_cells(data)
    assert len({cell.name for cell in found}) == len(found) == sum(len(part.cells) for part in parts)
    assert all(parse_name(cell.name) == cell.config for cell in found)
    first = [cell.config for cell in parts[1].cells]
    both = ("dense", "bdwp")
    assert [(config.method, config.seed) for config in first] == [(name, seed) for seed in SEEDS for name in both]
    assert {(config.network, config.data, config.split) for config in first} == {("resnet9-small", data, "test")}
    tried = {cell.config.seed for part in parts for cell in part.cells if cell.config.split == "validation"}
    assert not tried & set(SEEDS)  # what chooses is not what is shown
    compared = {cell.config.method for cell in found if cell.config.network == "resnet18-small" and cell.config.data}
    assert compared == set(METHODS)
    again = [cell.config for cell in found if cell.config.decay == 5 * SR_STE_DECAY and cell.config.split == "test"]
    assert {(config.network, config.seed) for config in again} == {
        (name, seed) for name in ("resnet9-small", "resnet18-small") for seed in SEEDS
    }


def test_a_study_stops_at_its_time_and_goes_on(tmp_path: Path) -> None:
    wanted = cells(["mlp"], ["dense"], seeds=[0, 1], epochs=1, batch=7000)
    assert run_cells(wanted, tmp_path, processes=1, until=time.time() - 1) == []
    assert list(tmp_path.iterdir()) == []  # no run began
    assert len(run_cells(wanted, tmp_path, processes=1, until=time.time() + 600)) == 2


def test_ablations_change_what_they_say() -> None:
    wanted = ablation_cells("vgg19-small", seeds=[1])
    assert [variant(cell.config) for cell in wanted] == [
        {},
        {},
        {"decay": 0.0},
        {"prune_from": "master"},
        {"decay": 5 * SR_STE_DECAY},
        {"dense_epochs": RECIPES["vgg19-small"].epochs / 4},
        {"decay": 5 * SR_STE_DECAY, "dense_epochs": RECIPES["vgg19-small"].epochs / 4},
        {"sparse_ends": True},
        {"patterns": "rest@2:4~2:8"},
        {"patterns": "rest@2:8~2:4"},
    ]
    assert len({cell.name for cell in wanted}) == len(wanted)


def test_a_name_says_the_whole_configuration() -> None:
    for cell in [*cells(seeds=[3]), *ablation_cells("resnet18-small"), *rate_cells("vit-small")]:
        assert parse_name(cell.name) == cell.config
        assert run_name(cell.config) == cell.name


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet9-small-bdwp-seed1", "resnet9-small-bdwp-2of8-seed1"),
        ("resnet9-small-dense-2of8-seed1", "NETWORK-dense-seedS"),
        ("resnet8-bdwp-2of8-seed1", "cell is 'resnet8"),
        ("vgg19-small-bdwp-2of7-seed1", "2:7"),
        ("vgg19-small-bdwp-2of8-seed1,speed=3", "speed"),
        ("vgg19-small-bdwp-2of8-seed1,epochs=soon", "TOML"),
        ("vgg19-small-bdwp-2of8-seed1,epochs=0", "epochs is 0"),
    ],
)
def test_other_names_are_refused(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_name(name)


def test_rates_are_chosen_away_from_the_test_split() -> None:
    wanted = rate_cells("vit-small", seeds=[7])
    assert {cell.config.split for cell in wanted} == {"validation"}
    assert sorted({cell.config.lr for cell in wanted}) == list(RATES["adam"])
    runs = [summary(accuracy, lr=lr) for lr, accuracy in ((0.1, 0.9), (0.2, 0.99), (0.2, 0.81), (0.05, 0.9))]
    assert best_rate(runs) == 0.05
    assert best_rate([*runs, summary(0.95, lr=0.2)]) == 0.2


def test_the_five_networks_belong_to_the_table() -> None:
    assert set(SMALL_NETWORKS) < set(TABLE_NETWORKS) < set(RECIPES)


def test_a_changed_configuration_runs_again(tmp_path: Path) -> None:
    (old,) = cells(["mlp"], ["dense"], seeds=[0], epochs=1, batch=7000)
    new = Cell(old.name, old.config.replace(lr=0.01))  # what a changed recipe leads to
    run_cells([old], tmp_path, processes=1)
    assert finished(old, tmp_path) is not None
    assert finished(new, tmp_path) is None
    run_cells([new], tmp_path, processes=1)
    assert finished(new, tmp_path) is not None


def test_text_is_split_inside_every_module() -> None:
    data = text()
    assert data.x_train.shape[1] == PLACES
    assert np.array_equal(data.x_train[:, 1:], data.y_train[:, :-1])
    assert data.x_train.min() >= 0
    assert data.y_train.max() < data.classes == 97
    letters = np.bincount(data.x_train.ravel(), minlength=97)
    assert letters[96] < 0.01 * letters.sum()
    assert letters[0] == letters.max()  # blanks
    assert "sha256" in data.source
    assert np.array_equal(text().x_test, data.x_test)


def test_the_teacher_has_a_known_best_accuracy() -> None:
    clean, noisy = teacher(noise=0.0), teacher()
    assert clean.best == 1.0
    assert noisy.best == pytest.approx(0.9625)
    agree = np.mean(np.concatenate([clean.y_train == noisy.y_train, clean.y_test == noisy.y_test]))
    assert agree == pytest.approx(noisy.best, abs=0.01)
    assert np.bincount(clean.y_train).min() > 1000


def test_unknown_names_are_listed() -> None:
    with pytest.raises(ValueError, match="digits, text, teacher"):
        load_dataset("mnist")
    with pytest.raises(ValueError, match="resnet18-small"):
        make_network("resnet152", np.random.default_rng(0))


BOUNDS = {"dense": 0, "bdwp": 2, "bdwp+mvue": 3}


class Thin(Layer):
    """Every second pixel: stands for max pooling where derivatives must not jump."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.shape: tuple[int, ...] = ()

    def forward(self, x: np.ndarray, ctx: Context) -> np.ndarray:
        del ctx
        self.shape = x.shape
        return x[:, :: self.size, :: self.size].copy()

    def backward(self, dy: np.ndarray, ctx: Context) -> np.ndarray:
        del ctx
        dx = np.zeros(self.shape, dy.dtype)
        dx[:, :: self.size, :: self.size] = dy
        return dx


def step_of(name: str, arithmetic: Arithmetic) -> tuple[float, list[Parameter], Tape]:
    """Loss, parameters with gradients, and products of one BDWP step on eight samples."""
    data = load_dataset(str(trained_network(name).data))
    model = make_network(name, np.random.default_rng(3))
    for p in model.parameters():
        p.master = to_half(p.master).astype(np.float32)
    tape = Tape()
    ctx = Context(arithmetic, make_method("bdwp", Pattern(2, 8)), tape)
    prepare(model, ctx)
    x, labels = data.x_train[:8], data.y_train[:8].ravel()
    logits = model.forward(x if x.dtype == np.int64 else arithmetic.narrow(x), ctx)
    loss, dy = softmax_cross_entropy(logits.reshape(len(labels), -1), labels, arithmetic, 1024.0)
    model.backward(dy.reshape(logits.shape), ctx)
    return loss, model.parameters(), tape


@pytest.mark.parametrize("smooth", [True, False])
@pytest.mark.parametrize("name", [name for name in BUILDERS if name != "mlp"])
def test_one_step_in_both_arithmetics(name: str, smooth: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The contract stays close to binary32: same products, weight gradients within 1 % where derivatives are smooth.

    ReLU and max pooling turn a rounding near their edge into another derivative: 15 % covers the deepest network.
    """
    if smooth:
        monkeypatch.setattr("nmsat.algorithms.layers.networks.ReLU", Gelu)
        monkeypatch.setattr("nmsat.algorithms.layers.networks.MaxPool2d", Thin)
    (fast_loss, fast, fast_tape), (exact_loss, exact, exact_tape) = step_of(name, FAST), step_of(name, CONTRACT)
    assert exact_loss == pytest.approx(fast_loss, rel=2e-3)
    assert [p.facts() for p in fast_tape.products] == [p.facts() for p in exact_tape.products]
    for p, q in zip(fast, exact, strict=True):
        if isinstance(p, Weight):
            assert p.grad is not None and q.grad is not None
            difference = np.linalg.norm(p.grad - q.grad.astype(np.float32)) / np.linalg.norm(p.grad)
            assert difference < (0.01 if smooth else 0.15), p.name


@pytest.mark.parametrize("name", BUILDERS)
def test_bounds_come_from_the_products(name: str) -> None:
    shares = {}
    for method, products in BOUNDS.items():
        trainer = Trainer(RECIPES.get(name, DEMO).replace(network=name, method=method, batch=16, arithmetic="fast"))
        tape = Tape()
        trainer.run_step(tape)
        shares[method] = tape.bound
        sparse = {p.stage for p in tape.products if p.pattern}
        assert len(sparse) == products
        assert tape.of(Stage.FF)
    assert shares["dense"] == 1.0
    assert 1.0 < shares["bdwp"] <= 2.0
    assert shares["bdwp"] < shares["bdwp+mvue"] <= 4.0


def test_mask_watch_counts_changes() -> None:
    layer, method, watch = (
        Linear("l", 16, 16, np.random.default_rng(0)),
        make_method("bdwp", Pattern(2, 8)),
        MaskWatch(),
    )
    layer.weight.refresh(CONTRACT, method)
    assert watch.update(layer.parameters()) == (0.0, 0.0)
    assert watch.update(layer.parameters()) == (0.0, 0.0)
    before = layer.weight.masks
    layer.weight.master = np.random.default_rng(1).standard_normal((16, 16)).astype(np.float32)
    layer.weight.refresh(CONTRACT, method)
    after = layer.weight.masks
    assert before is not None and after is not None
    assert before.ff is not None and before.bp is not None and after.ff is not None and after.bp is not None
    assert watch.update(layer.parameters()) == ((before.ff != after.ff).mean(), (before.bp != after.bp).mean())


def test_adam_follows_its_equations() -> None:
    p = Parameter("p", np.array([1.0, -2.0], np.float32))
    adam, m, v, w = Adam(0.9, 0.99, 1e-8, weight_decay=0.1), np.zeros(2), np.zeros(2), np.array([1.0, -2.0])
    for t in range(1, 6):
        g = np.array([0.5 * t, -0.25])
        p.grad = (g * 4).astype(np.float16)
        assert adam.step([p], 0.01, shift=2)
        m, v = 0.9 * m + 0.1 * g, 0.99 * v + 0.01 * g * g
        w = w - 0.01 * (m / (1 - 0.9**t) / (np.sqrt(v / (1 - 0.99**t)) + 1e-8) + 0.1 * w)
        assert np.allclose(p.master, w, rtol=1e-5)
    assert p.master.dtype == np.float32


def test_the_loss_scale_backs_off_and_grows() -> None:
    scale = LossScale(10, dynamic=True, interval=3)
    for finite, want in [(False, 9), (False, 8), (True, 8), (True, 8), (True, 9), (True, 9), (False, 8), (True, 8)]:
        scale.update(finite)
        assert scale.shift == want
    fixed = LossScale(10)
    fixed.update(False)
    assert fixed.shift == 10
    bottom, top = LossScale(0, dynamic=True), LossScale(24, dynamic=True, interval=1)
    bottom.update(False)
    top.update(True)
    assert (bottom.shift, top.shift) == (0, 24)
    with pytest.raises(ValueError, match="interval is 0"):
        LossScale(1, interval=0)


def test_a_dynamic_scale_recovers_from_overflow() -> None:
    trainer = Trainer(DEMO.replace(shift=24, dynamic_shift=True, method="dense", epochs=1))
    for _ in range(14):
        trainer.run_step()
    assert 0 < trainer.result.skipped < 14
    assert trainer.scale.shift == 24 - trainer.result.skipped
    assert trainer.result.losses[-1] != trainer.result.losses[0]


def test_dense_epochs_come_first() -> None:
    trainer = Trainer(DEMO.replace(arithmetic="fast", batch=449, epochs=2, dense_epochs=1 / 3))
    bounds = []
    for _ in range(4):
        trainer.run_step()
        bounds.append(trainer.result.bound)
    assert bounds[0] == 1.0
    assert bounds[1] == bounds[2] == bounds[3] > 1.9
    result = trainer.result
    assert result.macs_dense / result.macs_kept < bounds[1]
