"""Runs that stop and go on, configuration files, result lines."""

from __future__ import annotations

import dataclasses
import json
import math
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import TYPE_CHECKING

import numpy as np
import pytest

from nmsat.algorithms.core.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from nmsat.algorithms.training.config import DEMO, TrainConfig, parse_fields
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


def stopped(name: str, file: Path, steps: int = 6) -> Checkpoint:
    """Return the checkpoint that a run leaves after some steps."""
    train(RUNS[name], data=few(), checkpoint=file, stop=StopAfter(steps))
    return load_checkpoint(file)


@pytest.mark.parametrize("part", ["master", "optimizer"])
def test_numbers_that_are_not_finite_are_said(part: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "run.npz"
    run, config = next(iter(RUNS.items()))
    whole = stopped(run, file)
    key = next(key for key in whole.arrays if key.startswith(f"{part}/"))
    train(config, data=few(), checkpoint=file, stop=StopAfter(1))
    assert not caplog.messages
    bad = np.full_like(whole.arrays[key], np.nan)
    save_checkpoint(file, Checkpoint(whole.meta, {**whole.arrays, key: bad}))
    train(config, data=few(), checkpoint=file, stop=StopAfter(1))
    (told,) = caplog.messages
    assert f"'{file}' holds infinities or NaN: {bad.size} of {bad.size} numbers of {key!r};" in told


def refusal(trainer: Trainer, saved: Checkpoint) -> str:
    """Return why a fresh run does not continue from a checkpoint; nothing of it is taken over."""
    before = masters(trainer)
    with pytest.raises(ValueError, match=r"\w") as error:
        trainer.restore(saved)
    assert (masters(trainer), trainer.step, trainer.result.losses) == (before, 0, [])
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("name", RUNS)
def test_every_tensor_is_checked(name: str, tmp_path: Path) -> None:
    whole = stopped(name, tmp_path / "whole.npz")
    trainer = Trainer(RUNS[name], few())
    for key, value in whole.arrays.items():
        part, _, tensor = key.partition("/")
        wrong = {
            "missing": {k: v for k, v in whole.arrays.items() if k != key},
            "shape": {**whole.arrays, key: np.concatenate([value.reshape(-1), value.reshape(-1)[:1]])},
            "type": {**whole.arrays, key: value.astype(np.complex64)},
        }
        for arrays in wrong.values():
            text = refusal(trainer, Checkpoint(whole.meta, arrays))
            assert f"part {part!r}" in text and repr(tensor) in text
    for key in ("master/more", "method/more", "optimizer/more", "buffer/more", "other/more", "more"):
        text = refusal(trainer, Checkpoint(whole.meta, {**whole.arrays, key: np.zeros(1)}))
        assert "which this run does not know" in text or "keeps none" in text


WRONG_VALUES = [
    ("step", 3.0, "step is 3.0; it must be a whole number from 0 to 8"),
    ("step", -1, "step is -1"),
    ("step", 9, "step is 9"),
    ("step", 7, "losses is"),
    ("losses", [1.0], r"losses is [1.0]; it must be 6 numbers, one for each step"),
    ("losses", ["a"] * 6, "losses is"),
    ("epochs", [], "epochs is []; it must be those of 1 epochs"),
    ("epochs", [{"epoch": 1}], "epochs is"),
    ("skipped", 7, "skipped is 7"),
    ("macs", [1, 2, 3], "macs is"),
    ("macs", [1, 2, 0.0, 1, 2], "macs is"),
    ("seconds", -1, "seconds is -1"),
    ("seconds", math.nan, "seconds is nan"),
    ("scale", [25, 0], "scale is [25, 0]"),
    ("scale", [9, 0], "scale is [9, 0]; it must be an exponent from 10 to 10"),
    ("sad", [[0.0, 0.0]], "sad is"),
    ("config", None, "of another run"),
    ("more", 1, "has 'more', which this run does not know"),
]


@pytest.mark.parametrize(("field", "value", "message"), WRONG_VALUES)
def test_every_value_is_checked(field: str, value: object, message: str, tmp_path: Path) -> None:
    whole = stopped("bdwp", tmp_path / "whole.npz")
    trainer = Trainer(RUNS["bdwp"], few())
    assert message in refusal(trainer, Checkpoint({**whole.meta, field: value}, whole.arrays))
    save_checkpoint(tmp_path / "run.npz", Checkpoint({**whole.meta, field: value}, whole.arrays))
    with pytest.raises(
        ValueError, match=r"^checkpoint '.*run.npz' (does not fit|is of|has).*; delete it to start again$"
    ):
        train(RUNS["bdwp"], data=few(), checkpoint=tmp_path / "run.npz")


@pytest.mark.parametrize("field", ["step", "losses", "epochs", "skipped", "macs", "seconds", "scale", "sad"])
def test_a_missing_value_is_named(field: str, tmp_path: Path) -> None:
    whole = stopped("bdwp", tmp_path / "whole.npz")
    meta = {key: value for key, value in whole.meta.items() if key != field}
    assert f"has no {field!r}" in refusal(Trainer(RUNS["bdwp"], few()), Checkpoint(meta, whole.arrays))


@pytest.mark.parametrize(
    ("name", "start", "value"),
    [
        ("bi-mask", "method/calls/", np.array(7)),
        ("bi-mask", "method/kept/", None),
        ("adam", "optimizer/count/", np.array(3)),
    ],
)
def test_state_that_a_run_cannot_have_is_named(name: str, start: str, value: np.ndarray | None, tmp_path: Path) -> None:
    whole = stopped(name, tmp_path / "run.npz")
    key = next(key for key in whole.arrays if key.startswith(start))
    changed = np.zeros_like(whole.arrays[key]) if value is None else value
    text = refusal(Trainer(RUNS[name], few()), Checkpoint(whole.meta, {**whole.arrays, key: changed}))
    assert repr(key.partition("/")[2]) in text


def test_damaged_files_are_refused_or_hold_the_same(tmp_path: Path) -> None:
    whole = stopped("bdwp", tmp_path / "whole.npz")
    good, file = (tmp_path / "whole.npz").read_bytes(), tmp_path / "run.npz"
    rng = np.random.default_rng(0)
    refused = 0
    for place in [*rng.integers(0, len(good), 100), *range(30), *range(len(good) - 40, len(good))]:
        file.write_bytes(good[:place] + bytes([good[place] ^ (1 << int(rng.integers(8)))]) + good[place + 1 :])
        try:
            found = load_checkpoint(file)
        except ValueError as error:
            assert "run.npz" in str(error) and "\n" not in str(error)
            refused += 1
            continue
        assert found.meta == whole.meta
        assert found.arrays.keys() == whole.arrays.keys()
        assert all(np.array_equal(found.arrays[key], value) for key, value in whole.arrays.items())
    assert refused > 100
    np.savez(file, meta=np.frombuffer(b"[1, 2]", np.uint8))
    with pytest.raises(ValueError, match="another format"):
        load_checkpoint(file)
    np.save(tmp_path / "run.npy", np.zeros(3))
    with pytest.raises(ValueError, match="cannot be read"):
        load_checkpoint(tmp_path / "run.npy")


def save_often(file: Path, value: float, ready: Path) -> None:
    """Save checkpoints of one value, of a size of its own, many times, from when both writers are there."""
    (ready / str(value)).touch()
    while len(list(ready.iterdir())) < 2:
        time.sleep(0.001)
    for _ in range(200):
        save_checkpoint(file, Checkpoint({"value": value}, {"master/w": np.full(1000 + 1000 * int(value), value)}))


def test_two_writers_of_one_name_do_not_meet(tmp_path: Path) -> None:
    folder, ready, loads = tmp_path / "runs", tmp_path / "ready", 0
    folder.mkdir()
    ready.mkdir()
    file = folder / "run.npz"
    save_checkpoint(file, Checkpoint({"value": 0.0}, {"master/w": np.zeros(1000)}))
    with ProcessPoolExecutor(2, get_context("spawn")) as pool:
        writers = [pool.submit(save_often, file, value, ready) for value in (1.0, 2.0)]
        while not all(writer.done() for writer in writers):
            found = load_checkpoint(file)
            assert (found.arrays["master/w"] == found.meta["value"]).all()
            loads += 1
        for writer in writers:
            writer.result()
    assert loads > 0
    assert [path.name for path in folder.iterdir()] == ["run.npz"]


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
    assert [path.name for path in tmp_path.iterdir()] == ["run.npz"]


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


def test_configuration_files_change_what_they_name() -> None:
    assert DEMO.replace(**parse_fields('method = "sdgp"\nlr = 1')) == DEMO.replace(method="sdgp", lr=1.0)
    assert parse_fields("") == {}


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
        DEMO.replace(**parse_fields(text))


def test_a_batch_larger_than_the_data_is_refused() -> None:
    with pytest.raises(ValueError, match="batch is 100"):
        Trainer(DEMO.replace(batch=100), few())
