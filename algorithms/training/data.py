"""Data sets that need no network: handwritten digits, program text, and a generated set with known best accuracy.

Colour images made here are in `training.colour`; those of files are found by `training.named_data`.
"""

from __future__ import annotations

import hashlib
import importlib.util
import platform
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np

from nmsat.algorithms.layers.networks import PLACES
from nmsat.algorithms.layers.sample import Sample
from nmsat.algorithms.training.pixels import Pixels

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

Samples: TypeAlias = Any
"""Samples as an array, or as `Pixels`, which have its length, shape and indexing (a slice, or an array of places)."""


@dataclass(frozen=True, eq=False)
class Dataset:
    """Training and test split.

    x_train, x_test: float32 [samples, ...] or int64 tokens [samples, places]; y_train, y_test: int64 labels, one per
    sample or one per place; classes: how many; best: highest accuracy that any predictor can expect, where known;
    source: what the data are, with a digest where they depend on the machine; shift: each training image is turned
    left to right by chance and moved by up to so many pixels (0: images are as they are).
    """

    x_train: Samples
    y_train: NDArray[np.int64]
    x_test: Samples
    y_test: NDArray[np.int64]
    classes: int
    source: str
    best: float | None = None
    shift: int = 0

    @property
    def sample(self) -> Sample:
        """What a network reads of it."""
        return Sample(tuple(self.x_train.shape[1:]), self.classes)

    def validation(self) -> Dataset:
        """Return the training split alone, every fifth sample of it in the place of the test split."""
        keep = np.arange(len(self.x_train)) % 5 != 0
        x, y = self.x_train, self.y_train
        source = f"{self.source}; a fifth of the training samples for validation"
        return replace(
            self, x_train=_part(x, keep), y_train=y[keep], x_test=_part(x, ~keep), y_test=y[~keep], source=source
        )


def _part(x: Samples, keep: NDArray[np.bool_]) -> Samples:
    return x.part(keep) if isinstance(x, Pixels) else x[keep]


def moved(x: NDArray, shift: int, rng: np.random.Generator) -> NDArray:
    """Return images [B, H, W, C], each turned left to right with a chance of one half and moved by up to shift pixels.

    What comes in from outside is 0, the mean colour of normalised images.
    """
    batch, height, width = x.shape[:3]
    turned = rng.random(batch) < 0.5
    down, right = rng.integers(0, 2 * shift + 1, (2, batch))
    padded = np.pad(x, ((0, 0), (shift, shift), (shift, shift), (0, 0)))
    out = np.empty_like(x)
    for i in range(batch):
        cut = padded[i, down[i] : down[i] + height, right[i] : right[i] + width]
        out[i] = cut[:, ::-1] if turned[i] else cut
    return out


def digits() -> Dataset:
    """Return the 1797 handwritten digits of scikit-learn as [samples, 8, 8, 1] in 0..1, 450 of them for the test.

    Source: E. Alpaydin, C. Kaynak, Optical Recognition of Handwritten Digits, UCI 1998 (its test set).
    """
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    # The split is part of the data set: it does not follow the seed of a run.
    order = np.random.default_rng(1998).permutation(len(labels))
    x = (images.reshape(-1, 8, 8, 1) / 16).astype(np.float32)[order]
    y = labels.astype(np.int64)[order]
    return Dataset(x[450:], y[450:], x[:450], y[:450], classes=10, source="handwritten digits (UCI), 1347 + 450 images")


TEXT_MODULES: Final[tuple[str, ...]] = (
    *("argparse", "ast", "calendar", "csv", "datetime", "difflib", "enum", "heapq", "inspect", "textwrap"),
)
"""Modules of Python's own library whose source is the text."""

_FIRST, _LAST = 32, 126  # printable ASCII; a line end is class 95, anything else 96


def text(limit: int = 160_000) -> Dataset:
    """Return the next-character task on the source of `TEXT_MODULES`: int64 [samples, 64], 97 classes.

    limit: characters taken, shared evenly by the modules. The last tenth of each module's share is the test. The text
    belongs to the running Python; `source` names its version and digest.
    """
    train, test = [], []
    share = limit // len(TEXT_MODULES)
    for name in TEXT_MODULES:
        part = _tokens(_source(name)[:share])
        cut = len(part) * 9 // 10
        train.append(_windows(part[:cut]))
        test.append(_windows(part[cut:]))
    joined_train, joined_test = np.concatenate(train), np.concatenate(test)
    digest = hashlib.sha256(joined_train.tobytes() + joined_test.tobytes()).hexdigest()[:12]
    source = f"source of the library of Python {platform.python_version()}, {limit} characters, sha256 {digest}"
    return Dataset(
        joined_train[:, :-1], joined_train[:, 1:], joined_test[:, :-1], joined_test[:, 1:], classes=97, source=source
    )


def _source(module: str) -> str:
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise RuntimeError(
            f"module {module!r} has no source file in this Python; the text task needs the library's source"
        )
    return Path(spec.origin).read_text(encoding="utf-8")


def _tokens(characters: str) -> NDArray[np.int64]:
    codes = np.frombuffer(characters.encode("utf-32-le"), np.uint32).astype(np.int64)
    tokens = np.where((codes >= _FIRST) & (codes <= _LAST), codes - _FIRST, 96)
    return np.where(codes == ord("\n"), 95, tokens)


def _windows(tokens: NDArray[np.int64]) -> NDArray[np.int64]:
    """Cut into samples of PLACES + 1 tokens that share one token with the next: the last one is only a label."""
    count = (len(tokens) - 1) // PLACES
    return np.stack([tokens[i * PLACES : i * PLACES + PLACES + 1] for i in range(count)])


def teacher(samples: int = 16000, noise: float = 0.05) -> Dataset:
    """Return points labelled by a random 2:16 sparse network of 64 inputs, 8 hidden units and 4 classes.

    A share `noise` of the labels, in training and test, is replaced by uniform ones, so that the best accuracy to be
    expected is 1 - noise * 3/4. An eighth of the samples is the test. Generated from a fixed seed.
    """
    from nmsat.algorithms.core.nm import prune

    rng = np.random.default_rng(64)
    hidden = prune(rng.standard_normal((64, 8)).astype(np.float32), 2, 16).astype(np.float64)
    out = rng.standard_normal((8, 4))
    x = rng.standard_normal((samples, 64)).astype(np.float16).astype(np.float32)
    score = np.maximum(x.astype(np.float64) @ hidden, 0) @ out
    y = (score - score.mean(axis=0)).argmax(axis=1)
    y = np.where(rng.random(samples) < noise, rng.integers(0, 4, samples), y).astype(np.int64)
    cut = samples // 8
    source = f"generated: 2:16 sparse teacher 64-8-4, {samples - cut} + {cut} points, label noise {noise}"
    return Dataset(x[cut:], y[cut:], x[:cut], y[:cut], classes=4, source=source, best=1 - noise * 3 / 4)


DATASETS: Final[dict[str, Callable[[], Dataset]]] = {"digits": digits, "text": text, "teacher": teacher}


def load_dataset(name: str) -> Dataset:
    """Return a data set by name."""
    if name not in DATASETS:
        raise ValueError(f"dataset is {name!r}; known data sets: {', '.join(DATASETS)}")
    return DATASETS[name]()
