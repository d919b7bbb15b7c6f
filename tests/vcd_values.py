"""Reads a VCD file back: the value of every signal in every clock cycle.

The reader of pyvcd refuses what Verilator writes (`$rootio`, `$1`), hence this one; `tests/trace/test_trace.py` holds
the two against each other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def read_waves(path: Path, top: str, wanted: set[str] | None = None) -> dict[str, list[int]]:
    """Return path below `top` -> values, one per cycle: what stands just before the rising edge of `clk` that ends it.

    wanted: the paths to keep (None: all). Unknown values count as 0.
    """
    with path.open(encoding="ascii") as file:
        lines = iter(file)
        names = _declarations(lines, top, wanted)
        waves = {name: [] for paths in names.values() for name in paths}
        now, changes = dict.fromkeys(waves, 0), {}
        for line in lines:
            if line.startswith("#"):
                _apply(changes, now, waves)
            elif line[0] in "01xzb":
                value, code = line[1:].split() if line[0] == "b" else (line[0], line[1:].strip())
                number = int(value.replace("x", "0").replace("z", "0"), 2)
                changes.update(dict.fromkeys(names.get(code, ()), number))
    _apply(changes, now, waves)
    return {name: values[1:] for name, values in waves.items()}  # without what stood before the first edge


def _declarations(lines: Iterator[str], top: str, wanted: set[str] | None) -> dict[str, list[str]]:
    """Return code -> paths below `top` of the variables that are wanted, `clk` among them."""
    scopes: list[str] = []
    names: dict[str, list[str]] = {}
    for words in map(str.split, lines):
        match words:
            case ["$scope", _, name, "$end"]:
                scopes.append(name)
            case ["$upscope", "$end"]:
                scopes.pop()
            case ["$var", _, _, code, name, *_] if scopes[:1] == [top]:
                path = ".".join([*scopes[1:], name])
                if path == "clk" or wanted is None or path in wanted:
                    names.setdefault(code, []).append(path)
            case ["$enddefinitions", "$end"]:
                return names
    raise ValueError("the file has no $enddefinitions")


def _apply(changes: dict[str, int], now: dict[str, int], waves: dict[str, list[int]]) -> None:
    """Let the changes of one moment happen; a rising edge ends a cycle with what stood before it."""
    if changes.get("clk") == 1 and now["clk"] == 0:
        for name, value in now.items():
            waves[name].append(value)
    now.update(changes)
    changes.clear()
