"""Reads a VCD file back: the value of every signal in every clock cycle."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vcd.reader import ScalarChange, ScopeDecl, TokenKind, VarDecl, VectorChange, tokenize

if TYPE_CHECKING:
    from pathlib import Path


def read_waves(path: Path, top: str, wanted: set[str] | None = None) -> dict[str, list[int]]:
    """Return path below `top` -> values, one per cycle: what stands just before the rising edge of `clk` that ends it.

    wanted: the paths to keep (None: all). Unknown values count as 0.
    """
    scopes: list[str] = []
    names: dict[str, list[str]] = {}
    waves: dict[str, list[int]] = {}
    now: dict[str, int] = {}
    changes: dict[str, int] = {}
    with path.open("rb") as file:
        for token in tokenize(file):
            data = token.data
            if isinstance(data, ScopeDecl):
                scopes.append(data.ident)
            elif token.kind is TokenKind.UPSCOPE:
                scopes.pop()
            elif isinstance(data, VarDecl) and scopes[:1] == [top]:
                name = ".".join([*scopes[1:], data.reference])
                if name == "clk" or wanted is None or name in wanted:
                    names.setdefault(data.id_code, []).append(name)
                    waves[name], now[name] = [], 0
            elif token.kind is TokenKind.CHANGE_TIME:
                _apply(changes, now, waves)
            elif isinstance(data, ScalarChange | VectorChange):
                value = data.value if isinstance(data.value, int) else int(data.value == "1")
                changes.update(dict.fromkeys(names.get(data.id_code, ()), value))
    _apply(changes, now, waves)
    for values in waves.values():
        del values[:1]  # before the first edge
    return waves


def _apply(changes: dict[str, int], now: dict[str, int], waves: dict[str, list[int]]) -> None:
    """Let the changes of one moment happen; a rising edge ends a cycle with what stood before it."""
    if changes.get("clk") == 1 and now["clk"] == 0:
        for name, value in now.items():
            waves[name].append(value)
    now.update(changes)
    changes.clear()
