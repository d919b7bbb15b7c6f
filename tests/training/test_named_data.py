"""Colour data that a run names: CIFAR in its formats, folders of images, files of the user; what is refused and how."""

from __future__ import annotations

import json
import pickle
import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from nmsat.algorithms.core.tape import Tape
from nmsat.algorithms.layers import networks, paper_networks
from nmsat.algorithms.training import cifar, image_folder
from nmsat.algorithms.training.config import TrainConfig
from nmsat.algorithms.training.data import Dataset, moved
from nmsat.algorithms.training.named_data import data_name, load_named
from nmsat.algorithms.training.pixels import Pixels, colours_of
from nmsat.algorithms.training.recipes import PAPER_RECIPES, parse_name, recipe, run_name
from nmsat.algorithms.training.train import Trainer
from tests.training.cifar_files import FOLDERS, batch_pickle, files_of, make_cifar

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.conftest import Outcome

IMAGES = 4
PAGE = Path(__file__).resolve().parent.parent.parent / "docs" / "training.md"


@pytest.fixture(autouse=True)
def _few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cifar, "BATCH_IMAGES", IMAGES)
    monkeypatch.setenv("NMSAT_DATA", "")  # what a command sets is gone after the test


@pytest.mark.parametrize("kind", ["cifar10", "cifar100"])
def test_both_formats_hold_the_same(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    places = [make_cifar(tmp_path / form, kind, form, IMAGES) for form in ("bin", "py")]
    names = {data_name(str(place)) for place in places} | {data_name(str(place.parent)) for place in places}
    (name,) = names  # the content counts, not the format and not the place
    monkeypatch.setenv("NMSAT_DATA", str(places[1].parent))
    data = load_named(name)
    assert (data.classes, len(data.x_train), len(data.x_test)) == (100 if kind == "cifar100" else 10, 20, 4)
    # By hand: the first image of the first file, planes one behind the other, its label in front.
    raw = (places[0] / next(iter(files_of(kind, "bin")))).read_bytes()
    start = 2 if kind == "cifar100" else 1
    assert data.y_train[0] == raw[start - 1]
    pixels = [[[raw[start + 1024 * c + 32 * row + column] for c in range(3)] for column in (0, 31)] for row in (0, 31)]
    assert isinstance(data.x_train, Pixels)
    bytes_of = data.x_train[:1] * data.x_train.colours.deviation + data.x_train.colours.mean
    assert np.allclose(bytes_of[0][np.ix_([0, 31], [0, 31])], pixels, atol=1e-3)
    whole = data.x_train[:].astype(np.float64)
    assert np.allclose(whole.mean(axis=(0, 1, 2)), 0, atol=1e-6)
    assert np.allclose(whole.std(axis=(0, 1, 2)), 1, atol=1e-6)
    held = data.validation()
    assert np.array_equal(held.x_test[:], data.x_train[::5])
    assert np.array_equal(held.y_test, data.y_train[::5])


def test_a_channel_of_one_colour_is_zero() -> None:
    images = np.full((2, 3, 3, 2), 9, np.uint8)
    images[..., 1] = np.arange(18).reshape(2, 3, 3)
    found = colours_of(images).normalised(images)
    assert not found[..., 0].any()
    assert np.isfinite(found).all()


def short(place: Path) -> None:
    path = place / "data_batch_2.bin"
    path.write_bytes(path.read_bytes()[:-1])


def wrong_label(place: Path) -> None:
    path = place / "test_batch.bin"
    path.write_bytes(b"\x0a" + path.read_bytes()[1:])


def gone(place: Path) -> None:
    (place / "data_batch_4.bin").unlink()


BINARY = {
    "short": (short, r"data_batch_2.bin' has 12291 bytes; CIFAR-10 has 4 images of 3073 bytes there"),
    "label": (wrong_label, r"test_batch.bin' has the label 10; CIFAR-10 has 0 to 9"),
    "gone": (gone, r"data_batch_4.bin' cannot be read: No such file"),
}


@pytest.mark.parametrize("case", BINARY)
def test_damaged_binary_files_are_refused_in_one_line(case: str, tmp_path: Path) -> None:
    place = make_cifar(tmp_path, "cifar10", "bin", IMAGES)
    damage, words = BINARY[case]
    damage(place)
    with pytest.raises(ValueError, match=words) as caught:
        data_name(str(place))
    assert "\n" not in str(caught.value)


ROWS = np.zeros((IMAGES, 3072), np.uint8)


class Spy:
    """Leaves a file where it is unpickled without care."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.path,))


PICKLED = {
    "cut": (lambda path: batch_pickle(b"labels", [1] * IMAGES, ROWS)[:-9], "is no pickled batch"),
    "call": (lambda path: pickle.dumps({b"data": Spy(path.parent / "spy")}), "it asks for"),
    "no dict": (lambda path: pickle.dumps([1, 2]), "it has no data and labels"),
    "few labels": (lambda path: batch_pickle(b"labels", [1], ROWS), r"has 1 labels; it must have 4"),
    "label": (lambda path: batch_pickle(b"labels", [1, 2, 3, -1], ROWS), r"has the label -1"),
    "wide": (lambda path: batch_pickle(b"labels", [1] * 4, np.zeros((4, 3000), np.uint8)), r"shape \(4, 3000\)"),
    "type": (lambda path: batch_pickle(b"labels", [1] * 4, ROWS, b"f8"), r"must be bytes of shape"),
    "text": (lambda path: b"not a pickle", "is no pickled batch"),
}


@pytest.mark.parametrize("case", PICKLED)
def test_damaged_and_hostile_pickles_are_refused_in_one_line(case: str, tmp_path: Path) -> None:
    place = make_cifar(tmp_path, "cifar10", "py", IMAGES)
    make, words = PICKLED[case]
    (place / "data_batch_3").write_bytes(make(place / "data_batch_3"))
    with pytest.raises(ValueError, match=words) as caught:
        data_name(str(place))
    assert "\n" not in str(caught.value)
    assert not (place / "spy").exists()


def test_runs_know_their_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = make_cifar(tmp_path / "a", "cifar10", "bin", IMAGES), tmp_path / "b"
    name = data_name(str(one))
    config = recipe("resnet9", name)
    assert parse_name(run_name(config)) == config
    assert config.batch == PAPER_RECIPES["resnet9"]["batch"]
    monkeypatch.setenv("NMSAT_DATA", str(make_cifar(other, "cifar100", "bin", IMAGES)))
    with pytest.raises(ValueError, match="does not hold CIFAR-10"):
        load_named(name)
    make_cifar(one.parent, "cifar100", "py", IMAGES)
    with pytest.raises(ValueError, match="it holds several sets: name one of"):
        data_name(str(one.parent))


def test_a_folder_of_nothing_known_says_what_is(tmp_path: Path) -> None:
    (tmp_path / "cifar-10-batches-bin").mkdir()
    (tmp_path / "cifar-10-batches-bin" / "data_batch_1.bin").touch()  # the rest is missing
    with pytest.raises(ValueError, match=r"neither IDX files .*, nor CIFAR .*, nor images in train/ and") as caught:
        data_name(str(tmp_path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"network": "resnet9"}, "trained on cifar10 or cifar100 of --data alone"),
        ({"network": "resnet9", "data": "images64c200-01234567"}, "which trains on cifar10, cifar100"),
        ({"network": "resnet18", "data": "cifar10-01234567"}, "which trains on images64"),
        ({"network": "gpt", "data": "colour"}, "colour images of --data are for"),
        ({"network": "vgg19-small", "data": "images65c10-01234567"}, "data is 'images65c10-01234567'"),
    ],
)
def test_networks_refuse_data_that_they_do_not_read(fields: dict[str, str], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        TrainConfig(**fields)  # type: ignore[arg-type] # fields of text


def make_images(folder: Path, *, notes: bool) -> Path:
    from PIL import Image

    rng = np.random.default_rng(5)
    for split, count in (("train", 3), ("val", 1)):
        for number, name in enumerate(("ants", "bees")):
            flat = split == "val" and notes
            place = folder / split / ("images" if flat else f"{name}/images")
            place.mkdir(parents=True, exist_ok=True)
            for i in range(count):
                pixels = rng.integers(0, 256, (20 + 10 * i, 24, 3)).astype(np.uint8)
                Image.fromarray(pixels).save(place / f"{name}_{i}.png")
            if flat:
                with (folder / split / "val_annotations.txt").open("a") as file:
                    file.write(f"{name}_0.png\t{name}\t0\t0\t{number}\t9\n")
    return folder


@pytest.mark.parametrize("notes", [False, True])
def test_folders_of_images(notes: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = make_images(tmp_path / "set", notes=notes)
    name = data_name(str(place))
    assert re.fullmatch(r"images64c2-[0-9a-f]{8}", name)
    assert data_name(str(place), 32).startswith("images32c2-")
    monkeypatch.setenv("NMSAT_DATA", str(place))
    data = load_named(name)
    assert data.x_train.shape == (6, 64, 64, 3)
    assert (data.y_train.tolist(), data.y_test.tolist()) == ([0, 0, 0, 1, 1, 1], [0, 1])
    assert abs(float(data.x_train[:].mean())) < 1e-5
    assert data.x_train[np.array([4, 1])].shape == (2, 64, 64, 3)
    assert np.array_equal(data.validation().x_test[:], data.x_train[np.array([0, 5])])
    with pytest.raises(ValueError, match="side is 28; of images in folders it is one of 32, 64, 224"):
        data_name(str(place), 28)


def test_folders_of_images_that_are_damaged(tmp_path: Path) -> None:
    place = make_images(tmp_path / "set", notes=True)
    file = place / "train" / "ants" / "images" / "ants_0.png"
    file.write_bytes(file.read_bytes()[:60])
    with pytest.raises(ValueError, match=r"ants_0.png' is no image that can be read") as caught:
        image_folder.read_image(str(file), 32)
    assert "\n" not in str(caught.value)
    notes = place / "val" / "val_annotations.txt"
    for line, words in (("bees_0.png\tcows\t0\n", "the class 'cows'"), ("../x.png\tants\n", "names '../x.png'")):
        notes.write_text(line)
        image_folder.list_images.cache_clear()
        with pytest.raises(ValueError, match=words):
            data_name(str(place))


def test_images_are_moved_and_turned() -> None:
    x = np.random.default_rng(2).normal(size=(40, 5, 6, 3)).astype(np.float32)
    out = moved(x, 1, np.random.default_rng(8))
    seen = set()
    for before, after in zip(x, out, strict=True):
        padded = np.zeros((7, 8, 3), np.float32)
        padded[1:6, 1:7] = before
        fits = [
            (down, right, turn)
            for down in range(3)
            for right in range(3)
            for turn in (1, -1)
            if np.array_equal(padded[down : down + 5, right : right + 6][:, ::turn], after)
        ]
        assert len(fits) == 1
        seen.add(fits[0])
    assert len(seen) > 9  # of 18
    assert np.array_equal(out, moved(x, 1, np.random.default_rng(8)))


def example(words: str) -> str:
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    (found,) = (text for text in blocks if words in text)
    return found


@pytest.mark.usefixtures("estimated")
def test_data_of_the_file_on_the_page(call: Callable[[str], Outcome], tmp_path: Path) -> None:
    path = tmp_path / "stripes.py"
    path.write_text(example("def data()"), encoding="utf-8")
    line = f"train --network vgg19-small --method bdwp --data {path} --steps 2 --json --config tiny --arithmetic fast"
    found = json.loads(call(line).out)
    assert re.fullmatch(r"vgg19-small-bdwp-2of8-seed0,arithmetic=fast,data=stripes-[0-9a-f]{8}", found["name"])
    assert parse_name(found["name"]).data == found["config"]["data"]
    again = json.loads(call(line).out)
    assert again["weights_sha256"] == found["weights_sha256"]


OWN = {
    "raises": ("def data():\n    raise RuntimeError('no\\nluck')", "which cannot be run: no luck"),
    "no function": ("x = 1", r"it must have a function data\(\) that returns a Dataset"),
    "labels": ("y[0] = 3", r"y_train has labels from 0 to 3; with 3 classes"),
    "kind": ("x = x.astype(np.float64)", "x_train is of float64"),
    "nan": ("x[0] = np.nan", "x_train has values that are not finite"),
    "shape": ("y = y[:, None]", r"y_train has shape \(30, 1\); there must be one label for each sample"),
    "lengths": ("y = y[1:]", "x_train has 30 samples and y_train 29"),
}


@pytest.mark.parametrize("case", OWN)
def test_files_without_data_are_refused_in_one_line(case: str, tmp_path: Path) -> None:
    text, words = OWN[case]
    if "data()" not in text and "x = 1" not in text:
        text = (
            "import numpy as np\nfrom nmsat.algorithms.training.data import Dataset\n"
            "def data():\n    x, y = np.ones((30, 8, 8, 1), np.float32), np.arange(30) % 3\n"
            f"    {text}\n    return Dataset(x, y, x, y, classes=3, source='ones')"
        )
    path = tmp_path / "mine.py"
    path.write_text(text)
    with pytest.raises(ValueError, match=words) as caught:
        data_name(str(path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "words"), [("My.py", "small letters"), ("gone.py", "no such file"), ("colour.py", "choose another name")]
)
def test_names_of_files(name: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=words):
        data_name(str(tmp_path / name))


@pytest.mark.parametrize("network", ["resnet9-small", "vit-small", "vgg19-small", "resnet18-small", "resnet50-small"])
def test_small_networks_train_in_colour(network: str) -> None:
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(8, 16, 16, 3)).astype(np.float32), np.arange(8) % 5
    config = recipe(network).replace(method="bdwp", batch=8, epochs=1)
    trainer = Trainer(config, Dataset(x, y, x, y, classes=5, source="noise", shift=2))
    tape = Tape()
    trainer.run_step(tape)
    products = {product.name: product for product in tape.products if product.stage.name == "FF"}
    first, last = tape.products[0], products["head" if network == "vit-small" else "fc"]
    assert first.k % 3 == 0
    assert last.n == 5
    assert np.isfinite(trainer.result.losses).all()


def test_other_samples_than_a_network_reads_are_refused(tmp_path: Path) -> None:
    y = np.arange(64) % 3
    for shape, network, words in (
        ((9, 9, 1), "vit-small", "square images whose side 4 divides"),
        ((8, 8), "vgg19-small", r"this network reads \[height, width, channels\]"),
        ((16, 16, 1), "digits-cnn", r"this network reads \(8, 8, 1\) alone"),
    ):
        x = np.ones((64, *shape), np.float32)
        with pytest.raises(ValueError, match=words):
            Trainer(recipe(network), Dataset(x, y, x, y, classes=3, source="ones"))


def test_paper_without_its_data(call: Callable[[str], Outcome], tmp_path: Path) -> None:
    make_cifar(tmp_path, "cifar10", "py", IMAGES)
    outcome = call(f"study paper --data {tmp_path}")
    assert (outcome.code, outcome.err.count("\n")) == (2, 1)
    assert "for vgg19 cifar-100-binary/{train.bin..test.bin} or cifar-100-python/{train..test};" in outcome.err
    assert "imagenet/{train,val}/CLASS/*.JPEG; --networks resnet9 does without" in outcome.err
    outcome = call(f"study paper --data {tmp_path / 'none'}")
    assert (outcome.code, outcome.err.count("\n")) == (2, 1)
    assert "there is no such folder" in outcome.err


@pytest.mark.usefixtures("estimated")
def test_paper_with_one_of_its_networks(
    call: Callable[[str], Outcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from concurrent.futures import Future

    from nmsat.algorithms.training import study

    class Here:
        """Does jobs at once, in this process, which knows of the small batches."""

        def __enter__(self) -> Here:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def submit(self, function: Callable[..., object], *arguments: object) -> Future:
            done: Future = Future()
            done.set_result(function(*arguments))
            return done

    monkeypatch.setattr(study, "workers", lambda _: Here())
    monkeypatch.setattr(cifar, "BATCH_IMAGES", 1)
    # A quick network in its place; what the real one multiplies is in tests/network/test_paper_networks.py.
    monkeypatch.setitem(paper_networks.PAPER_BUILDERS, "vgg19", networks.vgg)
    monkeypatch.setitem(PAPER_RECIPES, "vgg19", {"epochs": 1, "batch": 5, "arithmetic": "fast"})
    make_cifar(tmp_path, "cifar100", "bin", 1)
    line = f"study paper --data {tmp_path} --networks vgg19 --out {tmp_path / 'out'} --json --config tiny"
    outcome = call(line)
    assert outcome.code == 0, outcome.err
    found = json.loads(outcome.out)
    assert [(row["network"], row["method"]) for row in found["rows"]] == [
        ("vgg19/cifar100", "dense"),
        ("vgg19/cifar100", "bdwp"),
    ]
    assert found["rows"][1]["sat"]["bound"] == pytest.approx(1.99, abs=0.01)
    assert FOLDERS["cifar100", "bin"] in {path.name for path in tmp_path.iterdir()}
    assert "vgg19/cifar100" in (tmp_path / "out" / "accuracy.md").read_text(encoding="utf-8")


