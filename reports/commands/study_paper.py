"""`nmsat study paper`: the paper's table, its five networks at their own size on their own data."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from nmsat.algorithms.core.vocabulary import PAPER_NETWORKS
from nmsat.reports.commands.base import Answer, Command, Listed, Named, add_config, folder, method, seed, sparse
from nmsat.reports.commands.paper import network
from nmsat.reports.commands.study import add_outputs, do_runs
from nmsat.reports.commands.train import count
from nmsat.reports.work.text import InputError

if TYPE_CHECKING:
    import argparse
    from pathlib import Path

    from nmsat.algorithms.training.plan import Part

METHODS_SHOWN: Final = "dense,bdwp"

PATTERNS_SHOWN: Final = "2:8"

SEEDS_SHOWN: Final = "0"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument(
        "--data",
        type=folder,
        dest="paper_folder",
        metavar="DIR",
        required=True,
        help="folder with CIFAR-10, CIFAR-100, tiny-imagenet-200/ and imagenet/ as they are given out",
    )
    parser.add_argument(
        "--networks",
        type=Listed(Named(network, lambda: PAPER_NETWORKS)),
        default=None,
        metavar="NAME,...",
        help=f"some of {', '.join(PAPER_NETWORKS)} (default: all)",
    )
    for name, one, usual in (
        ("methods", method, METHODS_SHOWN),
        ("patterns", sparse, PATTERNS_SHOWN),
        ("seeds", seed, SEEDS_SHOWN),
    ):
        parser.add_argument(
            f"--{name}", metavar="LIST", type=Listed(one), default=usual, help=f"with commas (default: {usual})"
        )
    parser.add_argument("--epochs", type=count, metavar="E", help="length of the runs (default: the recipes')")
    add_outputs(parser, "out/paper")
    add_config(parser, "vcu1525", what="SAT whose cycles per step are told")


def run(options: argparse.Namespace) -> Answer:
    """Do the runs that are missing and write the page."""
    return do_runs(options, wished)


def wished(options: argparse.Namespace) -> list[Part]:
    """Return the runs of the networks, whose data are all looked at before the first begins."""
    from nmsat.algorithms.training.idx import DATA_VARIABLE
    from nmsat.algorithms.training.plan import Part
    from nmsat.algorithms.training.study import cells

    names = options.networks or PAPER_NETWORKS
    found = _data(options.paper_folder, names)
    os.environ[DATA_VARIABLE] = str(options.paper_folder.absolute())
    length = {} if options.epochs is None else {"epochs": options.epochs}
    patterns = [str(pattern) for pattern in options.patterns]
    return [
        Part(name, tuple(cells([name], options.methods, patterns, options.seeds, found[name], **length)))
        for name in PAPER_NETWORKS
        if name in names
    ]


def _data(folder: Path, names: tuple[str, ...] | list[str]) -> dict[str, str]:
    """Return the data of each network; InputError, one line, says what a folder lacks and how it must be laid out."""
    from nmsat.algorithms.training.named_data import paper_data

    if not folder.is_dir():
        raise InputError(f"data folder is {str(folder)!r}; there is no such folder")
    found, missing = {}, {}
    for name in names:
        try:
            found[name] = paper_data(folder, name)
        except LookupError as error:
            missing[name] = str(error.args[0])
    if missing:
        layout = "; ".join(f"for {name} {what}" for name, what in missing.items())
        left = ",".join(found)
        instead = f"; --networks {left} does without" if left else ""
        raise InputError(f"data folder is {str(folder)!r}; it lacks {layout}{instead}")
    return found


COMMAND = Command(
    summary="The paper's table: its five networks at their own size, trained on CIFAR-10, CIFAR-100, Tiny ImageNet and "
    "ImageNet, dense and by BDWP.",
    example="nmsat study paper --data ~/datasets --networks resnet9 --out out/paper",
    add_arguments=add_arguments,
    run=run,
)
