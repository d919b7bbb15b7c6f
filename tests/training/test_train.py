"""Short runs: determinism, learning, recording."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np
import pytest

from nmsat.algorithms.core.numeric import ordered_dot
from nmsat.algorithms.core.tape import Stage
from nmsat.algorithms.training.data import Dataset, digits
from nmsat.algorithms.training.train import DEMO, Progress, TrainConfig, Trainer, learning_rate, train

if TYPE_CHECKING:
    from pathlib import Path

    from nmsat.algorithms.core.tape import Tape


def few(samples: int = 96) -> Dataset:
    data = digits()
    return dataclasses.replace(
        data,
        x_train=data.x_train[:samples],
        y_train=data.y_train[:samples],
        x_test=data.x_test[:32],
        y_test=data.y_test[:32],
    )


def test_digits_split() -> None:
    data = digits()
    assert data.x_train.shape == (1347, 8, 8, 1)
    assert data.x_test.shape == (450, 8, 8, 1)
    assert data.x_train.max() == 1.0
    assert sorted(set(data.y_test.tolist())) == list(range(10))
    assert np.array_equal(data.x_test.astype(np.float16), data.x_test)


def test_validation_takes_its_samples_from_the_training_split() -> None:
    data, held = digits(), digits().validation()
    assert (len(held.x_train), len(held.x_test)) == (1077, 270)
    both = np.concatenate([held.x_train, held.x_test])
    assert sorted(x.tobytes() for x in both) == sorted(x.tobytes() for x in data.x_train)
    assert np.array_equal(held.x_test[1], data.x_train[5])
    assert held.y_test[1] == data.y_train[5]
    assert sorted(set(held.y_test.tolist())) == list(range(10))
    trainer = Trainer(DEMO.replace(split="validation"))
    assert np.array_equal(trainer.data.x_test, held.x_test)
    assert np.array_equal(Trainer(DEMO).data.x_test, data.x_test)


@pytest.mark.parametrize("arithmetic", ["contract", "fast"])
def test_equal_configurations_give_equal_bits(arithmetic: str) -> None:
    config = DEMO.replace(epochs=1, arithmetic=arithmetic)
    first, second = train(config, data=few(), record_step=-1), train(config, data=few(), record_step=-1)
    assert first.losses == second.losses
    assert first.accuracies == second.accuracies
    assert first.tape is not None and second.tape is not None
    assert all(np.array_equal(p.y, q.y) for p, q in zip(first.tape.products, second.tape.products, strict=True))  # type: ignore[arg-type]
    other = train(config.replace(seed=1), data=few())
    assert other.losses != first.losses


def test_a_recorded_step_holds_the_products_of_every_layer() -> None:
    result = train(DEMO.replace(epochs=1), data=few(), record_step=1)
    assert result.tape is not None
    names = [(p.name, p.stage) for p in result.tape.products]
    want = [(name, Stage.FF) for name in ("conv1", "conv2", "conv3", "fc1", "fc2")]
    for name in ("fc2", "fc1", "conv3", "conv2"):
        want += [(name, Stage.WU), (name, Stage.BP)]
    assert names == [*want, ("conv1", Stage.WU)]
    sparse = {(p.name, p.stage) for p in result.tape.products if p.pattern}
    assert sparse == {(name, stage) for name in ("conv2", "conv3", "fc1") for stage in (Stage.FF, Stage.BP)}
    for p in result.tape.products:
        assert p.a is not None and p.w is not None and p.y is not None
        assert np.array_equal(ordered_dot(p.a, p.w).view(np.uint32), p.y.view(np.uint32))


def test_the_last_step_is_recorded_whatever_comes_after() -> None:
    early = train(DEMO.replace(epochs=2), data=few(64), record_step=0)
    assert early.tape is not None
    assert len(early.tape.products) == 14


def test_progress_is_told_every_step() -> None:
    seen: list[Progress] = []
    result = train(DEMO.replace(epochs=2, batch=48, arithmetic="fast"), data=few(), progress=seen.append)
    assert [p.step for p in seen] == [1, 2, 3, 4]
    assert [p.steps for p in seen] == [4] * 4
    assert [p.loss for p in seen] == result.losses
    assert np.isnan(seen[0].accuracy)
    assert seen[-1].accuracy == result.accuracies[-1] == result.accuracy


def test_both_arithmetics_learn_the_same() -> None:
    config = DEMO.replace(epochs=3, batch=16)
    contract, fast = (train(config.replace(arithmetic=name), data=few(320)) for name in ("contract", "fast"))
    assert contract.losses[0] == pytest.approx(fast.losses[0], rel=2e-3)
    last = [np.mean(run.losses[-10:]) for run in (contract, fast)]
    assert last[0] == pytest.approx(last[1], rel=0.3)
    assert last[0] < 0.4 * contract.losses[0]
    assert contract.skipped == fast.skipped == 0


def test_an_overflowing_loss_scale_suppresses_updates() -> None:
    result = train(DEMO.replace(epochs=1, shift=24, method="dense"), data=few())
    assert result.skipped == 3


def test_learning_rate_rises_and_falls() -> None:
    config = TrainConfig(epochs=4, warmup=1.0, lr=0.1)
    rates = [learning_rate(config, step, 40) for step in range(40)]
    assert rates[0] == pytest.approx(0.1 / 11)
    assert rates[10] == pytest.approx(0.1)
    assert rates[:11] == sorted(rates[:11])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert 0 < rates[-1] < 0.001


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"epochs": 0}, "epochs is 0"),
        ({"batch": -1}, "batch is -1"),
        ({"shift": 30}, "shift is 30"),
        ({"lr": 0.0}, "lr is 0.0"),
        ({"pattern": "9:8"}, "9:8"),
        ({"method": "magic"}, "magic"),
        ({"arithmetic": "exact"}, "exact"),
        ({"split": "train"}, "split is 'train'; it must be one of test, validation"),
    ],
)
def test_bad_configurations_are_named(change: dict, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        train(DEMO.replace(**change), data=few())


def test_a_step_beyond_the_run_cannot_be_recorded() -> None:
    with pytest.raises(ValueError, match="record_step is 99"):
        train(DEMO.replace(epochs=1), data=few(), record_step=99)


@pytest.mark.parametrize(("step_seconds", "saved_at"), [(1.0, [60, 84]), (25.0, [2, 4, 6, 8]), (200.0, [1, 2, 3])])
def test_a_checkpoint_at_least_every_minute(
    step_seconds: float, saved_at: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the next step would end after a minute; the epoch has 84 steps here. Steps longer than that: after each."""
    from nmsat.algorithms.training import train as module

    class Clock(Trainer):
        """Takes no time but that of the clock."""

        def run_step(self, tape: Tape | None = None) -> float:
            del tape
            clock[0] += step_seconds
            self.step += 1
            return 0.0

    clock, found = [0.0], []
    monkeypatch.setattr(module.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(module, "save_checkpoint", lambda path, saved: found.append(saved.meta["step"]))
    config = TrainConfig(batch=16, epochs=2)
    train(config, checkpoint=tmp_path / "run.npz", make=Clock, stop=lambda: len(found) >= len(saved_at))
    assert found[: len(saved_at)] == saved_at
