"""A tape of shapes as a file: JSON lines, one product each."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from nmsat.algorithms.core.files import write_text
from nmsat.algorithms.core.tape import ConvShape, Pattern, Product, Stage, Tape

if TYPE_CHECKING:
    from pathlib import Path


def write_tape(path: Path, tape: Tape) -> None:
    """Write name, stage, shape, pattern, count, convolution and `online` of every product; values stay behind.

    Raises ValueError for products with sparsity beside the pattern: the file has no form for it.
    """
    lines = []
    for p in tape.products:
        if p.sparsity is not None:
            raise ValueError(f"product {p.name!r} has sparsity beside its pattern; a tape file holds patterns only")
        line: dict[str, object] = {"name": p.name, "stage": p.stage.value, "m": p.m, "k": p.k, "n": p.n}
        line |= {"pattern": None if p.pattern is None else str(p.pattern), "count": p.count, "online": p.online}
        line["conv"] = None if p.conv is None else asdict(p.conv)
        lines.append(json.dumps(line) + "\n")
    write_text(path, "".join(lines))


def read_tape(path: Path) -> Tape:
    """Read a tape file; ValueError names the line that is wrong."""
    tape = Tape()
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            tape.record(_product(json.loads(line)))
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{str(path)!r} line {number} is not a product ({error!r})") from None
    return tape


def _product(fields: dict) -> Product:
    conv: ConvShape | None = None
    if fields["conv"] is not None:
        # JSON turns pairs into lists.
        parts: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in fields["conv"].items()}
        conv = ConvShape(**parts)
    pattern = None if fields["pattern"] is None else Pattern.parse(fields["pattern"])
    m, k, n, count = (_whole(fields, key) for key in ("m", "k", "n", "count"))
    online = fields["online"]
    if type(online) is not bool:
        raise TypeError(f"online is {online!r}; it must be true or false")
    return Product(str(fields["name"]), Stage(fields["stage"]), m, k, n, pattern, count, conv, online=online)


def _whole(fields: dict, key: str) -> int:
    value = fields[key]
    if type(value) is not int:
        raise TypeError(f"{key} is {value!r}; it must be a whole number")
    return value
