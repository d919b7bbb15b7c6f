"""Folders of images in small for tests, as ImageNet and Tiny ImageNet lay them out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from pathlib import Path


def make_images(folder: Path, *, notes: bool) -> Path:
    """Make three images of each of two classes to train on and one to test; notes: as Tiny ImageNet has the latter."""
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
