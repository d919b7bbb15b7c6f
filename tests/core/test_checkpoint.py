"""Runs that stop and go on, configuration files, result lines."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING

import numpy as np
import pytest

from nmsat.algorithms.core.checkpoint import load_checkpoint, save_checkpoint
from nmsat.algorithms.training.config import DEMO, TrainConfig, format_config, parse_config, read_config
from nmsat.algorithms.training.data import Dataset, digits
from nmsat.algorithms.training.results import read_lines, run_logged
from nmsat.algorithms.training.train import Trainer, train

if TYPE_CHECKING:
    from pathlib import Path


def few(samples: int = 32) -> Dataset:
    data = digits()
    return dataclasses.replace(
        data,
        x_train=data.x_train[:samples],
        y_train=data.y_train[:samples],
        x_test=data.x_test[:20],
        y_test=data.y_test[:20],
    )


class StopAfter:
    """Asks a run to stop after a number of steps."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    def __call__(self) -> bool:
        self.left -= 1
        return self.left == 0


def masters(trainer: Trainer) -> list[bytes]:
    return [p.master.tobytes() for p in trainer.model.parameters()]


RUNS = {
    "bdwp": DEMO.replace(batch=8, epochs=2),
    "dynamic shift": DEMO.replace(batch=8, epochs=2, shift=20, dynamic_shift=True),
    "bi-mask": DEMO.replace(batch=8, epochs=2, method="bi-mask", arithmetic="fast"),
    "transposable": DEMO.replace(batch=8, epochs=2, method="transposable", arithmetic="fast"),
    "bdwp+mvue": DEMO.replace(batch=8, epochs=2, method="bdwp+mvue", arithmetic="fast"),
    "norms": TrainConfig(network="vgg19-small", arithmetic="fast", batch=8, epochs=2),
    "adam": TrainConfig(network="vit-small", arithmetic="fast", batch=8, epochs=2, optimizer="adam", lr=1e-3),
    "dense warm-up": DEMO.replace(batch=8, epochs=2, arithmetic="fast", dense_epochs=1.0, method="transposable"),
}


@pytest.mark.parametrize("name", RUNS)
@pytest.mark.parametrize("cut", [4, 6])
def test_a_stopped_run_ends_with_the_same_bits(name: str, cut: int, tmp_path: Path) -> None:
    config, file = RUNS[name], tmp_path / "run.npz"
    whole = train(config, data=few())
    straight = Trainer(config, few())
    while straight.step < straight.steps:
        straight.run_step()
    part = train(config, data=few(), checkpoint=file, stop=StopAfter(cut))
    assert len(part.losses) == cut
    rest = train(config, data=few(), checkpoint=file)
    assert rest.losses == whole.losses == straight.result.losses
    assert rest.epochs == whole.epochs
    assert (rest.macs_dense, rest.macs_kept, rest.bound) == (whole.macs_dense, whole.macs_kept, whole.bound)
    resumed = Trainer(config, few())
    resumed.restore(load_checkpoint(file))
    assert masters(resumed) == masters(straight)


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "run.npz"
    config = DEMO.replace(batch=8, epochs=1, arithmetic="fast")
    train(config, data=few(), checkpoint=file)
    with pytest.raises(ValueError, match=r"another run.*'seed': 0"):
        train(config.replace(seed=3), data=few(), checkpoint=file)


def test_broken_checkpoints_are_named(tmp_path: Path) -> None:
    file = tmp_path / "run.npz"
    file.write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"run\.npz.*cannot be read"):
        load_checkpoint(file)
    trainer = Trainer(DEMO.replace(arithmetic="fast"), few())
    whole = tmp_path / "whole.npz"
    save_checkpoint(whole, trainer.checkpoint())
    file.write_bytes(whole.read_bytes()[:-100])
    with pytest.raises(ValueError, match="cannot be read"):
        load_checkpoint(file)
    with pytest.raises(FileNotFoundError):
        load_checkpoint(tmp_path / "none.npz")


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "run.npz"
    trainer = Trainer(DEMO.replace(arithmetic="fast"), few())
    save_checkpoint(file, trainer.checkpoint())
    before = file.read_bytes()

    def full(*_: object, **__: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(OSError, match="no space"):
        save_checkpoint(file, trainer.checkpoint())
    assert file.read_bytes() == before


def test_result_lines_do_not_depend_on_interruptions(tmp_path: Path) -> None:
    config = DEMO.replace(batch=8, epochs=2, arithmetic="fast")
    run_logged(config, tmp_path / "a", "run", data=few())
    run_logged(config, tmp_path / "b", "run", data=few(), stop=StopAfter(5))
    assert [line["event"] for line in read_lines(tmp_path / "b" / "run.jsonl")] == ["run", "epoch"]
    run_logged(config, tmp_path / "b", "run", data=few())
    first, second = (read_lines(tmp_path / side / "run.jsonl") for side in "ab")
    assert [line["event"] for line in first] == ["run", "epoch", "epoch", "end"]
    assert {**first[-1], "seconds": 0} == {**second[-1], "seconds": 0}
    assert first[:-1] == second[:-1]
    assert not (tmp_path / "b" / "run.npz").exists()
    assert first[-1]["config"] == config.as_dict()


def test_bad_result_lines_are_named(tmp_path: Path) -> None:
    file = tmp_path / "x.jsonl"
    file.write_text(json.dumps({"event": "run"}) + "\n{\n")
    with pytest.raises(ValueError, match="line 2"):
        read_lines(file)


@pytest.mark.parametrize("config", [DEMO, TrainConfig(network="vit-small", decay=0.0, dynamic_shift=True, lr=1e-3)])
def test_configuration_files_round_trip(config: TrainConfig, tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text(format_config(config))
    assert read_config(file) == config


def test_configuration_files_change_what_they_name() -> None:
    assert parse_config('method = "sdgp"\nlr = 1') == DEMO.replace(method="sdgp", lr=1.0)
    assert parse_config("", TrainConfig(network="mlp")).network == "mlp"


@pytest.mark.parametrize(
    ("text", "error", "match"),
    [
        ("epochs = ", ValueError, "not TOML"),
        ("epoch = 3", ValueError, "key is 'epoch'"),
        ("epochs = 3.5", TypeError, "epochs is 3.5"),
        ("sparse_ends = 1", TypeError, "sparse_ends is 1"),
        ('pattern = "2:5"', ValueError, "2:5"),
        ("[run]\nseed = 1", ValueError, "key is 'run'"),
        ('optimizer = "rmsprop"', ValueError, "rmsprop"),
        ('prune_from = "master"\nmethod = "sdgp"', ValueError, "cannot prune from the masters"),
        ("dense_epochs = -1", ValueError, "dense_epochs"),
    ],
)
def test_bad_configuration_files_are_named(text: str, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        parse_config(text)


def test_a_batch_larger_than_the_data_is_refused() -> None:
    with pytest.raises(ValueError, match="batch is 100"):
        Trainer(DEMO.replace(batch=100), few())
