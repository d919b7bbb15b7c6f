"""The plan of the accuracy table that the repository keeps: its runs in their order, what carries its sentences first.

It is set so that all of it takes at most three hours of two cores (docs/training.md has the measured seconds).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from nmsat.algorithms.core.vocabulary import METHODS, SIZED_NETWORKS
from nmsat.algorithms.training.study import (
    CLOSING,
    SEEDS,
    TABLE_NETWORKS,
    Cell,
    ablation_cells,
    cells,
    changed_cells,
    rate_cells,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

MAIN: Final = "resnet9-small"
"""Network of the table's main sentence, on the images of a folder."""

COMPARED: Final = "resnet18-small"
"""Network on which all methods are compared, the quickest that takes images of any size."""

PLAN_PATTERNS: Final = ("2:8", "2:4", "2:16")
"""Patterns on the images: the paper's first."""

ABLATION_SEEDS: Final = (12, 13)
"""Seeds of the runs that look for what closes a loss, on the validation split: neither the table's nor the rates'."""

LONGER: Final = 3
"""How many times as long the longer runs are."""


@dataclass(frozen=True)
class Part:
    """A part of the plan: what it is for, and its runs."""

    title: str
    cells: tuple[Cell, ...]


def plan(data: str) -> list[Part]:
    """Return the parts in the order in which they run; data: name of the images (`algorithms.training.idx`)."""
    others = [network for network in SIZED_NETWORKS if network != MAIN]
    methods = [method for method in METHODS if method not in ("dense", "bdwp")]
    main, *more = PLAN_PATTERNS
    finest = more[0]
    longer = cells([MAIN], ["dense", "bdwp"], [main], ABLATION_SEEDS, data, split="validation", epochs=LONGER)
    closing = [cell for name in (MAIN, COMPARED) for cell in changed_cells(name, CLOSING, main, SEEDS, data)]
    parts = [
        ("learning rates of the images", [cell for name in (MAIN, *others) for cell in rate_cells(name, data=data)]),
        (f"{MAIN} on the images, dense and BDWP {main}", cells([MAIN], ["dense", "bdwp"], [main], data=data)),
        (f"{MAIN} on the images, BDWP at other patterns", cells([MAIN], ["bdwp"], more, data=data)),
        (f"{COMPARED} on the images, dense and BDWP {main}", cells([COMPARED], ["dense", "bdwp"], [main], data=data)),
        (f"what closes the loss of {MAIN}", ablation_cells(MAIN, main, ABLATION_SEEDS, data, split="validation")),
        (f"{MAIN} on the images, {LONGER} times as long", longer),
        (f"what closed it, of {MAIN} and {COMPARED}, on the test split", closing),
        (f"{MAIN} on the images, all three products at {finest}", cells([MAIN], ["bdwp+mvue"], [finest], data=data)),
        (f"{COMPARED} on the images, all methods at {main}", cells([COMPARED], methods, [main], data=data)),
        (f"all networks on their own data, dense and BDWP {main}", cells(TABLE_NETWORKS, ["dense", "bdwp"], [main])),
        (f"other networks on the images, dense and BDWP {main}", _others(others, main, data)),
        (f"{COMPARED} on the images, all at other patterns", cells([COMPARED], ["bdwp", *methods], more, data=data)),
    ]
    return [Part(title, tuple(found)) for title, found in parts]


def _others(networks: Sequence[str], pattern: str, data: str) -> list[Cell]:
    return cells([name for name in networks if name != COMPARED], ["dense", "bdwp"], [pattern], data=data)


def plan_cells(data: str) -> list[Cell]:
    """Return the runs of the plan in their order, none twice."""
    return list({cell.name: cell for part in plan(data) for cell in part.cells}.values())
