"""N:M of single layers, and of the forward and the backward copy: what a run's `patterns` says.

    "conv2@2:4+res1a@2:16~2:8+fc@dense+rest@2:8~2:4"

A part for each layer, '+' between them: its name, '@', N:M of both copies, or of the forward and the backward copy with
'~' between; 'dense' leaves a copy whole; 'rest' are all layers that have no part. Layers without a part and without
'rest' follow the pattern of the run. No sign of it is special in the name of a file, as names of runs hold it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from nmsat.algorithms.core.tape import Pattern

if TYPE_CHECKING:
    from collections.abc import Mapping

AT: Final = "@"
"""Stands between the name of a layer and its patterns."""

REST: Final = "rest"
"""Stands for the layers that have no part of their own."""


def parse_patterns(text: str) -> dict[str, tuple[Pattern | None, Pattern | None]]:
    """Return layer -> (pattern of FF, of BP), None where dense; ValueError names the part that cannot be read."""
    found: dict[str, tuple[Pattern | None, Pattern | None]] = {}
    for part in text.split("+") if text else ():
        name, at, written = part.partition(AT)
        if not name or not at:
            raise ValueError(f"patterns has the part {part!r}; write LAYER@N:M or LAYER@N:M~N:M, '+' between parts")
        if name in found:
            raise ValueError(f"patterns names layer {name!r} twice")
        forward, slash, backward = written.partition("~")
        ff = _parse(forward)
        found[name] = ff, _parse(backward) if slash else ff
    return found


def write_patterns(patterns: Mapping[str, tuple[Pattern | None, Pattern | None]]) -> str:
    """Return the text that `parse_patterns` reads."""

    def one(pattern: Pattern | None) -> str:
        return "dense" if pattern is None else str(pattern)

    parts = []
    for name, (ff, bp) in patterns.items():
        parts.append(f"{name}{AT}{one(ff)}" + ("" if ff == bp else f"~{one(bp)}"))
    return "+".join(parts)


def _parse(text: str) -> Pattern | None:
    found = Pattern.parse(text)
    return None if found is None or found.n == found.m else found
