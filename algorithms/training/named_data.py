"""Data that a run names: where they come from, what their names mean, which networks read them.

| name | what | --data |
|---|---|---|
| idx14-0123abcd | images of IDX files, at a side | their folder |
| cifar10-0123abcd, cifar100-0123abcd | CIFAR | its folder, or the one around it |
| images64c200-0123abcd | images in folders, at a side, of so many classes | the folder with train/ and val/ |
| colour | colour images made here (`training.colour`) | the word |
| mine-0123abcd | data of the user's mine.py (`training.own_data`) | the file |

The digits are of the SHA-256 of what the data are; where they lie is said by `--data` or NMSAT_DATA.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

from nmsat.algorithms.core.vocabulary import PAPER_DATA, PAPER_NETWORKS, SIZED_NETWORKS, SMALL_NETWORKS
from nmsat.algorithms.layers.sample import Sample
from nmsat.algorithms.training import idx
from nmsat.algorithms.training.cifar import CIFAR_SIDE, SETS, cifar_layout, cifar_name, find_cifar, load_cifar
from nmsat.algorithms.training.colour import CLASSES, SIDE, colour
from nmsat.algorithms.training.image_folder import FOLDER_SIDES, images_name, is_image_folder, load_images
from nmsat.algorithms.training.own_data import load_own, own_name

if TYPE_CHECKING:
    from nmsat.algorithms.training.data import Dataset

COLOUR: Final = "colour"

UNPACKED: Final = ("tiny-imagenet-200", "imagenet")
"""Folders of images that a folder around them may hold."""

_NAME: Final = re.compile(
    r"(?P<kind>idx(?P<grey>14|28)|cifar10|cifar100|images(?P<side>\d+)c(?P<classes>\d+)|(?P<own>[a-z][a-z_]*))"
    r"-(?P<digest>[0-9a-f]{8})"
)


def sample_of(name: str) -> Sample | None:
    """Return what the samples of named data are, None for those of a user's file; ValueError if it is no such name."""
    if name == COLOUR:
        return Sample((SIDE, SIDE, 3), CLASSES)
    match = _NAME.fullmatch(name)
    if match is None or (match["side"] and int(match["side"]) not in FOLDER_SIDES):
        raise ValueError(f"data is {name!r}; it must be '' or such as 'idx14-0123abcd', which --data gives")
    if match["grey"]:
        return Sample((int(match["grey"]), int(match["grey"]), 1), idx.CLASSES)
    if match["kind"] in SETS:
        return Sample((CIFAR_SIDE, CIFAR_SIDE, 3), SETS[match["kind"]].classes)
    if match["side"]:
        return Sample((int(match["side"]), int(match["side"]), 3), int(match["classes"]))
    return None


def kind_of(name: str) -> str:
    """Return the kind of named data: what stands before their digits."""
    return name.partition("-")[0]


def check_data(name: str, network: str) -> None:
    """Raise ValueError if a network does not read named data."""
    sample = sample_of(name)
    if network in PAPER_NETWORKS:
        kind = kind_of(name)
        if kind not in PAPER_DATA[network] and kind.partition("c")[0] not in PAPER_DATA[network]:
            able = ", ".join(PAPER_DATA[network])
            raise ValueError(f"network is {network!r}, which trains on {able} (docs/training.md); data is {name!r}")
    elif sample is None:
        return  # the network looks at the samples itself
    elif sample.shape[2] == 1:
        if network not in SIZED_NETWORKS:
            raise ValueError(f"network is {network!r}; images of --data are for {', '.join(SIZED_NETWORKS)}")
    elif network not in SMALL_NETWORKS:
        raise ValueError(f"network is {network!r}; colour images of --data are for {', '.join(SMALL_NETWORKS)}")


def data_name(place: str, side: int | None = None) -> str:
    """Return the name of the data that `--data` means: a folder, a Python file, or 'colour'.

    side: of the images of IDX files and of folders of images, None for 14 and 64. ValueError, one line, for what cannot
    be used, and for a folder around several sets.
    """
    path = Path(place)
    if place == COLOUR:
        return COLOUR
    if path.suffix == ".py":
        if path.stem == COLOUR:
            raise ValueError(f"data file is {path.name!r}; the images made here are called so, choose another name")
        return own_name(path)
    sets = {kind: where for kind in SETS if (where := find_cifar(path, kind)) is not None}
    folders = _image_folders(path)
    if len(sets) + len(folders) > 1:
        held = ", ".join(str(where) for where in (*sets.values(), *folders))
        raise ValueError(f"data folder is {place!r}; it holds several sets: name one of {held}")
    for kind, where in sets.items():
        return cifar_name(where, kind)
    if folders:
        return images_name(folders[0], _side(side, FOLDER_SIDES, FOLDER_SIDES[1], "images in folders"))
    if path.is_dir() and not any(one.name.startswith(idx.PARTS) for one in path.iterdir()):
        raise ValueError(
            f"data folder is {place!r}; it holds neither IDX files ({idx.PARTS[0]}-ubyte.gz, ...), nor CIFAR "
            f"({cifar_layout('cifar10')}), nor images in train/ and val/"
        )
    return idx.idx_name(path, _side(side, idx.SIDES, idx.SIDES[0], "IDX files"))


def paper_data(folder: Path, network: str) -> str:
    """Return the name of the data that one of the paper's networks trains on, in a folder or in the one around it.

    ValueError, one line, for what is damaged; LookupError, which says how it must be laid out, for what is not there.
    """
    kind = PAPER_DATA[network][0]
    if kind in SETS:
        where = find_cifar(folder, kind)
        if where is None:
            raise LookupError(cifar_layout(kind))
        return cifar_name(where, kind)
    name = UNPACKED[0] if network == "resnet18" else UNPACKED[1]
    found = next((place for place in (folder / name, folder) if is_image_folder(place)), None)
    if found is None:
        raise LookupError(f"{name}/{{train,val}}/CLASS/*.JPEG")
    return images_name(found, int(kind.removeprefix("images")))


def _side(side: int | None, known: tuple[int, ...], usual: int, what: str) -> int:
    chosen = usual if side is None else side
    if chosen not in known:
        raise ValueError(f"side is {chosen!r}; of {what} it is one of {', '.join(map(str, known))}")
    return chosen


def _image_folders(place: Path) -> list[Path]:
    return [where for where in (place, *(place / name for name in UNPACKED)) if is_image_folder(where)]


def load_named(name: str) -> Dataset:
    """Return the data of that name from `idx.data_folder`; ValueError, one line, if they are not there."""
    sample_of(name)
    match = _NAME.fullmatch(name)
    if match is None:
        return colour()
    place, kind = idx.data_folder(), match["kind"]
    if match["grey"]:
        return idx.load_idx(name)
    if match["own"] and kind not in SETS:
        return _same(name, own_name(place), place) or load_own(place)
    if kind in SETS:
        where = find_cifar(place, kind)
        if where is None:
            raise ValueError(f"data is {name!r}; folder {str(place)!r} does not hold {SETS[kind].title}")
        return _same(name, cifar_name(where, kind), where) or load_cifar(where, kind)
    side = int(match["side"])
    folders = _image_folders(place)
    if not folders:
        raise ValueError(f"data is {name!r}; folder {str(place)!r} does not hold train/ and val/")
    named = {images_name(where, side): where for where in folders}
    return _same(name, name if name in named else next(iter(named)), place) or load_images(named[name], side)


def _same(name: str, found: str, place: Path) -> None:
    """Raise ValueError unless data that were found are those that a run names."""
    if name != found:
        raise ValueError(f"data is {name!r}; {str(place)!r} holds {found!r}: name another by --data")
