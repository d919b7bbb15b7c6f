"""Folders of IDX files: what is read, named by its content, and what is refused in one line."""

from __future__ import annotations

import gzip
import json
import re
from typing import TYPE_CHECKING

import numpy as np
import pytest

from nmsat.algorithms.training import idx
from nmsat.algorithms.training.config import TrainConfig
from nmsat.algorithms.training.recipes import parse_name, run_name
from nmsat.algorithms.training.study import cells, table
from nmsat.algorithms.training.train import Trainer
from tests.training.idx_files import make_folder, write_idx

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.conftest import Outcome


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    idx._files.cache_clear()
    yield
    idx._files.cache_clear()


def test_images_are_scaled_and_named_by_their_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    zipped, plain = make_folder(tmp_path / "a"), make_folder(tmp_path / "b", end="-ubyte")
    name = idx.idx_name(zipped, 14)
    assert re.fullmatch("idx14-[0-9a-f]{8}", name)
    assert idx.idx_name(plain, 14) == name  # the content counts, not how it is packed
    assert idx.idx_name(zipped, 28) == name.replace("14", "28")
    monkeypatch.setenv("NMSAT_DATA", str(plain))
    small, large = idx.load_idx(name), idx.load_idx(name.replace("14", "28"))
    assert (small.x_train.shape, small.x_test.shape) == ((48, 14, 14, 1), (20, 14, 14, 1))
    assert large.x_train.dtype == np.float32
    assert large.x_train.max() == 1
    mean = large.x_train[5, 2:4, 6:8, 0].mean()
    assert small.x_train[5, 1, 3, 0] == pytest.approx(mean, abs=1e-6)
    assert small.y_test.tolist() == [number % 10 for number in range(20)]
    assert small.y_test.dtype == np.int64


def test_files_of_the_side_itself_are_read_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_folder(tmp_path / "a", side=14, end=".ubyte")
    monkeypatch.setenv("NMSAT_DATA", str(folder))
    assert idx.load_idx(idx.idx_name(folder, 14)).x_train.shape == (48, 14, 14, 1)
    with pytest.raises(ValueError, match="images are 14 x 14; for 28 x 28"):
        idx.load_idx(idx.idx_name(folder, 28))


def cut(folder: Path) -> None:
    path = folder / "train-images-idx3-ubyte.gz"
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes())[:-1]))


CASES: dict[str, tuple[Callable[[Path], object], str]] = {
    "no file": (lambda f: (f / "t10k-labels-idx1-ubyte.gz").unlink(), "neither t10k-labels-idx1-ubyte.gz nor"),
    "cut": (cut, "no whole IDX file of bytes"),
    "no gzip": (lambda f: (f / "train-labels-idx1-ubyte.gz").write_bytes(b"12"), "cannot be read"),
    "empty": (lambda f: (f / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(b"")), "no whole IDX file"),
    "label": (lambda f: write_idx(f / "t10k-labels-idx1-ubyte.gz", np.full(20, 10, np.uint8)), "label is 10"),
    "counts": (lambda f: write_idx(f / "t10k-labels-idx1-ubyte.gz", np.zeros(9, np.uint8)), r"labels \(9,\)"),
}


@pytest.mark.parametrize("case", CASES)
def test_damaged_folders_are_refused_in_one_line(case: str, tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "a")
    damage, words = CASES[case]
    damage(folder)
    with pytest.raises(ValueError, match=words) as caught:
        idx.idx_name(folder, 14)
    assert "\n" not in str(caught.value)


def test_a_run_refuses_other_data_than_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = make_folder(tmp_path / "a"), make_folder(tmp_path / "b", samples=50)
    monkeypatch.setenv("NMSAT_DATA", str(other))
    config = TrainConfig(network="vgg19-small", batch=16, data=idx.idx_name(one, 14))
    with pytest.raises(ValueError, match="name another by --data"):
        Trainer(config)
    monkeypatch.setenv("NMSAT_DATA", str(tmp_path / "none"))
    with pytest.raises(ValueError, match=r"there is no such folder$"):
        Trainer(config)
    monkeypatch.delenv("NMSAT_DATA")
    monkeypatch.setattr(idx, "DEBIAN", str(tmp_path / "gone"))
    with pytest.raises(ValueError, match="on Debian: apt-get install dataset-fashion-mnist"):
        Trainer(config)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"network": "vgg19-small", "data": "idx15-01234567"}, "data is 'idx15-01234567'"),
        ({"network": "vgg19-small", "data": "digits"}, "data is 'digits'"),
        ({"network": "vit-small", "data": "idx14-01234567"}, "network is 'vit-small'; images of --data are for"),
    ],
)
def test_configurations_that_cannot_be_are_refused(fields: dict[str, str], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        TrainConfig(**fields)  # type: ignore[arg-type] # fields of text


def test_the_name_of_a_run_says_its_data() -> None:
    config = parse_name("vgg19-small-bdwp-2of8-seed1,data=idx14-01234567")
    assert config.data == "idx14-01234567"
    assert parse_name(run_name(config)) == config


def test_a_table_pairs_runs_of_the_same_data() -> None:
    kept = {"accuracy": 0.9, "bound": 1.0, "macs_kept": 1, "sad_ff": 0, "sad_bp": 0}
    made = cells(["vgg19-small"], ["dense", "bdwp"], ["2:8"], [0], data="idx28-01234567")
    rows = table({**kept, "config": cell.config.as_dict()} for cell in made)
    assert [(row.variant, row.loss_points) for row in rows] == [("", 0), ("", 0)]


def test_train_on_a_folder(call: Callable[[str], Outcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NMSAT_DATA", raising=False)
    monkeypatch.setenv("NMSAT_DATA", "")  # so that it goes again after the test
    folder = make_folder(tmp_path / "a")
    found = json.loads(call(f"train --network vgg19-small --data {folder} --steps 1 --json").out)
    assert found["config"]["data"] == idx.idx_name(folder, 14)
    assert found["name"].endswith(f",data={idx.idx_name(folder, 14)}")
    refused = call(f"train --network vgg19-small --data {tmp_path / 'none'}")
    assert (refused.code, refused.err.count("\n")) == (2, 1)
    assert "there is no such folder" in refused.err
