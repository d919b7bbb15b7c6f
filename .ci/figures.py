"""Draws the pictures of README and docs: `make figures`, from .ci/figures/*.svg.j2 into docs/figures.

Layout and words stand in the templates; what can become untrue comes from the code or is held to it: masks are pruned
by the library, bars have the cycles of the demo that the README prints, numbers are those of the contract, and the
rooms are the folders that there are. A room that is named and is not there, or is there and not shown, ends it.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from nmsat.algorithms.core.nm import mask
from nmsat.dataflow.contract import isa, limits, ranges
from nmsat.dataflow.contract.registers import COUNTERS
from nmsat.reports.pages.style import STAGE_COLORS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

ROOT: Final = Path(__file__).resolve().parent.parent
TEMPLATES: Final = ROOT / ".ci" / "figures"
FIGURES: Final = ROOT / "docs" / "figures"

CELL: Final = 16
"""Side of a weight in the picture, units."""

BAR: Final = 200
"""Length of the dense step, units."""

WHOLE: Final = "architecture"
"""The picture that shows every room."""


def figures() -> dict[str, str]:
    """Return name of the file -> picture; ValueError for rooms that do not agree with the tree."""
    found = {}
    for path in sorted(TEMPLATES.glob("*.svg.j2")):
        name = path.name.removesuffix(".j2")
        found[name], tree = draw(path.name)
        if name == f"{WHOLE}.svg" and (left := tree.left()):
            raise ValueError(f"{path.name} does not show {', '.join(left)}")
    return found


def draw(template: str) -> tuple[str, Tree]:
    """Return a picture, and where it shows rooms."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), undefined=StrictUndefined, keep_trailing_newline=True, autoescape=False
    )
    tree = Tree()
    return environment.get_template(template).render(**facts(), room=tree.room, rooms=tree.rooms), tree


def facts() -> dict[str, Any]:
    """Return what templates name beside rooms."""
    weights = np.random.default_rng(1).standard_normal((8, 8)).astype(np.float32)
    dense, sparse = demo_cycles((ROOT / "README.md").read_text(encoding="utf-8"))
    scale = BAR / sum(dense.values())
    return {
        "ff": mask(weights, 2, 8, axis=0),
        "bp": mask(weights, 2, 8, axis=1),
        "cells": cells,
        "dense": dense,
        "sparse": sparse,
        "bars": lambda cycles, y: bars(cycles, y, scale),
        "counters": len(COUNTERS),
        "instruction_bits": isa.INSTRUCTION_BITS,
        "queues": len(isa.Queue),
        "semaphores": isa.SEMAPHORES,
        "readers": len(limits.READERS),
        "writers": len(limits.WRITERS),
        "port_bits": f"{ranges.LEAST_PORT_BITS} to {ranges.MOST_PORT_BITS}",
    }


def demo_cycles(readme: str) -> tuple[dict[str, int], dict[str, int]]:
    """Return stage -> cycles of the demo's step, dense and with BDWP, as the README prints them."""
    lines = re.findall(r"^(ff|bp|wu) +(\d+) +(\d+) ", readme, re.MULTILINE)
    if [stage for stage, _, _ in lines] != list(STAGE_COLORS):
        raise ValueError(f"README.md prints the demo's cycles of {lines}; they must be of {', '.join(STAGE_COLORS)}")
    return {stage: int(one) for stage, one, _ in lines}, {stage: int(two) for stage, _, two in lines}


def cells(kept: NDArray[np.bool_]) -> str:
    """Return a square for each weight that is kept, a line for each row."""
    rows = []
    for row, places in enumerate(kept):
        squares = [f'x="{CELL * int(place)}" y="{CELL * row}"' for place in np.flatnonzero(places)]
        rows.append("".join(f'<rect {at} width="{CELL}" height="{CELL}"/>' for at in squares))
    return "\n".join(filter(None, rows))


def bars(cycles: Mapping[str, int], y: int, scale: float) -> str:
    """Return the stages of a step one behind the other."""
    text, x = "", 0.0
    for stage, count in cycles.items():
        width = scale * count
        text += f'<rect x="{x:.1f}" y="{y}" width="{width:.1f}" height="18" fill="{STAGE_COLORS[stage]}"/>'
        x += width
    return text


class Tree:
    """The rooms of the tree, and which of them a picture shows.

    places: folder and room -> x and y of its box.
    """

    def __init__(self) -> None:
        self.places: dict[tuple[str, str], tuple[int, int]] = {}
        self._there = {
            folder: {path.parent.name for path in (ROOT / folder).glob("*/*.py")}
            for folder in ("algorithms", "dataflow", "sim", "hw", "tb", "reports")
        }
        self._there["reports"].add("tables")

    def room(self, folder: str, names: str, x: int, y: int, width: int, height: int = 28) -> str:
        """Return a box of rooms; one that the circuit has and a page describes is a part of the machine."""
        self.rooms(folder, names)
        self.places |= {(folder, name): (x, y) for name in names.split()}
        parts = self._there["hw"] & {page.stem for page in (ROOT / "docs" / "machine").glob("*.md")}
        fill, line = "#e3e6e8", "#5b6064"
        if folder in ("sim", "hw", "tb") and set(names.split()) <= parts:
            fill, line = "#ffffff", "#d55e00"
        elif (folder, names) == ("dataflow", "contract"):
            fill = "#d9dbd7"
        return (
            f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="5" fill="{fill}" stroke="{line}"/>\n'
            f'<text x="{x + width / 2:g}" y="{y + height / 2 + 5:g}" font-size="13.2" fill="#1d1f21" '
            f'text-anchor="middle">{names}</text>'
        )

    def rooms(self, folder: str, names: str) -> str:
        """Return names of rooms as they are; ValueError for one that is not there."""
        for name in re.findall(r"\w+", names):
            if name not in self._there[folder]:
                raise ValueError(f"{folder}/{name} is shown; {folder} has {', '.join(sorted(self._there[folder]))}")
        return names

    def left(self) -> list[str]:
        """Return the rooms without a box."""
        there = {(folder, name) for folder, names in self._there.items() for name in names}
        return [f"{folder}/{name}" for folder, name in sorted(there - self.places.keys())]


def main() -> int:
    """Write all pictures."""
    for name, picture in figures().items():
        (FIGURES / name).write_text(picture, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
