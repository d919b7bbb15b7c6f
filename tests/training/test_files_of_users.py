"""Files of users that nobody would think of: pickles that hold too much, pipes among images, names, what is printed."""

from __future__ import annotations

import os
import pickle
import time
from typing import TYPE_CHECKING

import numpy as np
import pytest

from nmsat.algorithms.training import cifar
from nmsat.algorithms.training.cifar import SafeArray, unpickle
from nmsat.algorithms.training.named_data import data_name, load_named
from tests.training.cifar_files import batch_pickle, make_cifar
from tests.training.image_files import make_images

if TYPE_CHECKING:
    from pathlib import Path

IMAGES = 4
ROWS = np.arange(IMAGES * 3072).astype(np.uint8).reshape(IMAGES, 3072)
NEST = b"]" + b"q\x000h\x00h\x00\x86" * 40
"""A pair of one thing twice, which is a pair of one thing twice, and so on: its text would be of 2^40 items."""


@pytest.fixture(autouse=True)
def _few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cifar, "BATCH_IMAGES", IMAGES)


def number(value: int) -> bytes:
    return b"J" + value.to_bytes(4, "little")


SHAPE = number(IMAGES) + number(3072) + b"\x86"
CODE = b"U\x02u1"


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (SHAPE, NEST, r"data of shape no two whole numbers, type 'u1' and 12288 bytes; they must be"),
        (SHAPE, NEST + number(3072) + b"\x86", r"data of shape no two whole numbers, type 'u1'"),
        (SHAPE, b"\x8a\x09" + b"\x01" * 9 + number(3072) + b"\x86", r"data of shape no two whole numbers"),
        (CODE, NEST, r"data of shape \(4, 3072\), type no text and"),
        (CODE, b"U\x63" + b"f" * 99, r"type 'ffffffffffffffffffff' and"),
    ],
    ids=["nest", "pair with a nest", "pair with a long number", "type is a nest", "type is long"],
)
def test_what_stands_for_shape_and_type_is_told_in_few_words(
    old: bytes, new: bytes, words: str, tmp_path: Path
) -> None:
    place = make_cifar(tmp_path, "cifar10", "py", IMAGES)
    whole = batch_pickle(b"labels", [1] * IMAGES, ROWS)
    assert whole.count(old) == 1
    (place / "data_batch_3").write_bytes(whole.replace(old, new))
    with pytest.raises(ValueError, match=words) as caught:
        data_name(str(place))
    assert len(str(caught.value)) < 300 + len(str(place))


def test_python_3_wrote_the_same_in_protocol_2(tmp_path: Path) -> None:
    place = make_cifar(tmp_path, "cifar10", "py", IMAGES)
    path = place / "data_batch_3"
    path.write_bytes(batch_pickle(b"labels", [1] * IMAGES, ROWS))
    name = data_name(str(place))
    path.write_bytes(pickle.dumps({b"labels": [1] * IMAGES, b"data": ROWS}, 2))
    cifar._read.cache_clear()
    assert b"_codecs" in path.read_bytes()
    assert data_name(str(place)) == name
    rows = unpickle(path, path.read_bytes())[b"data"]
    assert isinstance(rows, SafeArray)
    assert rows.data == ROWS.tobytes()


ENCODE = b"\x80\x02c_codecs\nencode\nq\x00"
LATIN1 = b"X\x06\x00\x00\x00latin1"
LONG = b"X\x40\x00\x00\x00" + b"a" * 64


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (ENCODE + b"X\x01\x00\x00\x00aX\x05\x00\x00\x00rot13\x86R.", "it encodes in another way than text to latin1"),
        (ENCODE + number(3) + LATIN1 + b"\x86R.", "it encodes in another way"),
        (ENCODE + LONG + LATIN1 + b"\x86q\x01" + b"h\x00h\x01R" * 9 + b".", "it encodes more text than it holds"),
        (ENCODE + b"}b.", "it changes _codecs.encode"),
        (b"\x80\x02c_codecs\ndecode\n.", "it asks for _codecs.decode"),
    ],
    ids=["other codec", "no text", "too much", "changed", "other name"],
)
def test_a_pickle_encodes_its_own_text_to_bytes_and_nothing_else(data: bytes, words: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"is no pickled batch: {words}"):
        unpickle(tmp_path, data)


def nested(wide: int, deep: int) -> bytes:
    """Return instructions that leave a tuple of `wide` times one tuple, `deep` times over, on the stack."""
    return b")q\x000" + (b"(" + b"h\x00" * wide + b"tq\x000") * deep + b"h\x00"


FAR = nested(2, 60)


@pytest.mark.parametrize(
    "data",
    [
        b"}" + FAR + b"K\x01s.",
        b"}(K\x01K\x01" + FAR + b"K\x02u.",
        b"(" + FAR + b"K\x01d.",
        b"}" + nested(1000, 3) + b"K\x01s.",
        b"}" + nested(1, 20_000) + b"K\x01s.",
        b"\x8f(" + FAR + b"\x90.",
        b"(" + FAR + b"\x91.",
        b"}" + FAR + b"2\x86K\x01s.",
    ],
    ids=["key", "second key", "marked dict", "wide", "deep", "set", "frozen set", "pair"],
)
def test_a_key_that_would_be_hashed_for_years_is_refused_at_once(data: bytes, tmp_path: Path) -> None:
    begun = time.process_time()
    with pytest.raises(ValueError, match="is no pickled batch: it has a key of more than 1000 items"):
        unpickle(tmp_path, b"\x80\x04" + data)
    assert time.process_time() - begun < 10


def test_tuples_that_nothing_hashes_and_short_keys_are_read(tmp_path: Path) -> None:
    found = unpickle(tmp_path, b"\x80\x04]" + nested(2, 20) + b"a.")
    assert len(found) == 1
    keys = {(1, (2, 3)): 1, frozenset((4, 5)): [6], b"7": {8, 9}}
    for protocol in range(4, 6):
        assert unpickle(tmp_path, pickle.dumps(keys, protocol)) == keys


@pytest.mark.parametrize("data", [b"s.", b"0.", b"q\x00.", b"(t", b"\x86."])
def test_a_stack_that_is_too_short_is_damage(data: bytes, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is no pickled batch"):
        unpickle(tmp_path, b"\x80\x04" + data)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
@pytest.mark.parametrize("kind", ["pipe", "folder", "link"])
def test_what_is_no_file_is_no_image(kind: str, tmp_path: Path) -> None:
    place = make_images(tmp_path / "set", notes=False)
    path = place / "train" / "bees" / "images" / "b.PNG"
    make = {"pipe": lambda: os.mkfifo(path), "folder": path.mkdir, "link": lambda: path.symlink_to("gone")}
    make[kind]()
    with pytest.raises(ValueError, match=r"b.PNG' is no regular file; take it away or rename it$"):
        data_name(str(place))


def test_a_name_need_not_be_utf_8(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = make_images(tmp_path / "set", notes=False)
    before = place / "train" / "bees" / "images" / "bees_0.png"
    try:
        path = before.rename(before.with_name("b\udcff.png"))
    except (OSError, UnicodeEncodeError):
        pytest.skip("this file system has names in UTF-8 alone")
    monkeypatch.setenv("NMSAT_DATA", str(place))
    data = load_named(data_name(str(place)))
    assert data.x_train[:].shape == (6, 64, 64, 3)
    assert str(path) in data.x_train.paths


def test_what_a_file_prints_is_no_output_of_a_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "mine.py"
    path.write_text(
        "import numpy as np\nfrom nmsat.algorithms.training.data import Dataset\nprint('loaded')\n"
        "def data():\n    x, y = np.ones((30, 8, 8, 1), np.float32), np.arange(30) % 3\n"
        "    print('called')\n    return Dataset(x, y, x, y, classes=3, source='ones')"
    )
    assert data_name(str(path)).startswith("mine-")
    found = capsys.readouterr()
    assert (found.out, found.err) == ("", "loaded\ncalled\n")


DATA_FILE = """\
import numpy as np
from nmsat.algorithms.training.data import Dataset
def data():
    x, y = np.ones((30, 8, 6, 1), np.float32), np.arange(30) % 3
    return Dataset(x, y, x, y, {fields})
"""


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ("shift='a'", "shift is 'a'; it must be an int from 0 to 5"),
        ("shift=-1", "shift is -1; it must be a whole number from 0 to 5"),
        ("shift=10**9", "shift is 1000000000; it must be a whole number from 0 to 5"),
        ("shift=6", "shift is 6"),
        ("best='x'", "best is 'x'; it must be a number from 0 to 1"),
        ("best=1.5", "best is 1.5"),
        ("source=5", "source is 5; it must be a text of one line"),
        ("source='a\\nb'", "source is 'a"),
        ("classes=2.5", "classes is 2.5"),
        ("x_train=None", "must be arrays of NumPy"),
    ],
)
def test_every_field_of_data_is_looked_at(fields: str, words: str, tmp_path: Path) -> None:
    name = fields.partition("=")[0]
    others = [f"{key}={value}" for key, value in {"classes": 3, "source": "'ones'"}.items() if key != name]
    text = DATA_FILE.format(fields=", ".join([fields, *others]))
    if name == "x_train":
        text = text.replace("(x, y, x, y, x_train=None", "(None, y, x, y")
    (tmp_path / "mine.py").write_text(text)
    with pytest.raises(ValueError, match=r"mine\.py") as caught:
        data_name(str(tmp_path / "mine.py"))
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_name_of_data_covers_all_that_trains(tmp_path: Path) -> None:
    names = set()
    for place, fields in enumerate(("classes=3", "classes=3, shift=3", "classes=4", "classes=3")):
        path = tmp_path / str(place) / "mine.py"
        path.parent.mkdir()
        path.write_text(DATA_FILE.format(fields=f"{fields}, source='ones'"))
        names.add(data_name(str(path)))
    assert len(names) == 3
