"""What a workload says of itself: the labelled paragraphs of its module's docstring.

The first line says what it is. After it each paragraph that begins with one of `LABELS` starts a section; what follows
up to the next label belongs to it, and lines indented by four blanks are equations or tables, kept as they are.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import groupby
from typing import Final

LABELS: Final[dict[str, str]] = {
    "Source": "who published it, where, and what else was read",
    "Known": "which equations were read where, and which are from memory or an abstract alone",
    "Faithful": "what runs as published, and what was left out or is ours",
    "On SAT": "which products it has and which way each of them takes; what stays with the host",
    "Assumed": "what no source says at the sizes of the paper",
    "Ours (`nm`)": "the N:M form",
    "Study": "competitors, measure, seeds, and what must come out for the claim to hold",
    "Found here": "what came out",
}
"""The sections, in their order, and what stands in each."""

INDENT: Final = "    "

_LABEL: Final = re.compile(rf"^({'|'.join(map(re.escape, LABELS))}):(?= |$)", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """Part of a section: prose, or (literal) lines as they stand."""

    text: str
    literal: bool


@dataclass(frozen=True)
class Entry:
    """what: the first line; sections: blocks by label, in the order of `LABELS`."""

    what: str
    sections: dict[str, tuple[Block, ...]]


def entry(name: str, about: str) -> Entry:
    """Return what a docstring says of the workload `name`.

    Raises ValueError, which names the label, if one is missing, stands twice or out of order, or says nothing.
    """
    what, _, rest = about.strip().partition("\n")
    start, *parts = _LABEL.split(rest)
    found = list(parts[::2])
    if start.strip() or found != list(LABELS):
        wrong = [label for label in LABELS if found.count(label) != 1]
        problem = f"has {', '.join(wrong)} not once" if wrong else "has its labels out of order, or text before them"
        raise ValueError(f"docstring of workload {name!r} {problem}; it must hold, in this order: {', '.join(LABELS)}")
    sections = {label: _blocks(text) for label, text in zip(found, parts[1::2], strict=True)}
    empty = [label for label, blocks in sections.items() if not any(block.text for block in blocks)]
    if empty:
        raise ValueError(f"docstring of workload {name!r} says nothing under {', '.join(empty)}")
    return Entry(what.strip(), sections)


def _blocks(text: str) -> tuple[Block, ...]:
    """Cut a section into prose and literal lines; empty lines part them."""
    out = []
    for literal, lines in groupby(text.strip("\n").split("\n"), key=lambda line: line.startswith(INDENT)):
        body = "\n".join(line.removeprefix(INDENT) if literal else line.strip() for line in lines).strip("\n")
        if body:
            out.append(Block(body if literal else " ".join(body.split()), literal))
    return tuple(out)
