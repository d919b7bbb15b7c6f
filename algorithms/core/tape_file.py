"""A tape of shapes as a file: JSON lines.

The first line is {"tape": 2, "decays": whether the update adds the SR-STE term}. Then come, one a line, products
("stage"), tensors that the update changes beside the weights of products ("elements"), and what the recording leaves
out ("left_out"). A file of before has products alone and does not say what it leaves out.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

from nmsat.algorithms.core.files import write_text
from nmsat.algorithms.core.tape import ConvShape, Learnt, LeftOut, Pattern, Product, Stage, Tape

if TYPE_CHECKING:
    from pathlib import Path

VERSION: Final = 2
"""Form of the file that `write_tape` writes."""

UNSAID: Final = LeftOut(
    "layers that were not converted, attention, recurrent layers", "unknown, the tape is an older one"
)
"""What a file of the first form may leave out."""

LONGEST: Final = 300
"""Characters of an error that are told: a line may hold anything."""

PAIRS: Final = ("kernel", "stride", "padding", "dilation")
"""Fields of a convolution that have a value per axis."""


def write_tape(path: Path, tape: Tape) -> None:
    """Write the products (values stay behind), the learnt tensors beside them, and what is left out.

    Raises ValueError for products with sparsity beside the pattern: the file has no form for it.
    """
    lines: list[dict[str, object]] = [{"tape": VERSION, "decays": tape.decays}]
    lines += [{"left_out": x.name, "kind": x.kind, "calls": x.calls} for x in tape.left_out]
    for p in tape.products:
        if p.sparsity is not None:
            raise ValueError(f"product {p.name!r} has sparsity beside its pattern; a tape file holds patterns only")
        line: dict[str, object] = {"name": p.name, "stage": p.stage.value, "m": p.m, "k": p.k, "n": p.n}
        line |= {"pattern": None if p.pattern is None else str(p.pattern), "count": p.count, "online": p.online}
        line |= {"conv": None if p.conv is None else asdict(p.conv), "weight": p.weight}
        lines.append(line)
    lines += [{"learnt": x.name, "elements": x.elements} for x in tape.learnt]
    write_text(path, "".join(json.dumps(line) + "\n" for line in lines))


def read_tape(path: Path) -> Tape:
    """Read a tape file; ValueError names the line that is wrong."""
    tape = Tape()
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            _read(tape, json.loads(line), first=number == 1)
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise ValueError(f"{str(path)!r} line {number} is not a product ({_short(error)})") from None
    return tape


def _short(error: Exception) -> str:
    text = repr(error)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} ..."


def _read(tape: Tape, fields: object, *, first: bool) -> None:
    if not isinstance(fields, dict):
        raise TypeError(f"the line is {fields!r}; it must be an object")
    if first and "tape" in fields:
        if fields["tape"] != VERSION:
            raise ValueError(f"the form of the tape is {fields['tape']!r}; this version reads {VERSION}")
        decays = fields.get("decays", False)
        if type(decays) is not bool:
            raise TypeError(f"decays is {decays!r}; it must be true or false")
        tape.decays = decays
        return
    if first:
        tape.left_out.append(UNSAID)
    if "left_out" in fields:
        calls = _whole(fields, "calls")
        tape.left_out.append(LeftOut(_text(fields, "left_out"), _text(fields, "kind"), calls))
    elif "learnt" in fields:
        tape.learnt.append(Learnt(_text(fields, "learnt"), _whole(fields, "elements")))
    else:
        tape.record(_product(fields))


def _product(fields: dict[str, Any]) -> Product:
    pattern = None if fields["pattern"] is None else Pattern.parse(_text(fields, "pattern"))
    m, k, n, count = (_whole(fields, key) for key in ("m", "k", "n", "count"))
    online = fields["online"]
    if type(online) is not bool:
        raise TypeError(f"online is {online!r}; it must be true or false")
    conv = None if fields["conv"] is None else _convolution(fields["conv"])
    weight = _text({"weight": "", **fields}, "weight")
    stage = Stage(fields["stage"])
    return Product(_text(fields, "name"), stage, m, k, n, pattern, count, conv, online=online, weight=weight)


def _convolution(fields: object) -> ConvShape:
    if not isinstance(fields, dict):
        raise TypeError(f"conv is {fields!r}; it must be an object or null")
    given = dict(fields)
    values: dict[str, Any] = {}
    for key in PAIRS:
        pair = given.pop(key)
        if not isinstance(pair, list) or len(pair) != 2 or any(type(v) is not int for v in pair):
            raise TypeError(f"{key} of conv is {pair!r}; it must be a list of two whole numbers")
        values[key] = tuple(pair)
    for key in ("batch", "height", "width", "channels_in", "channels_out", "groups"):
        values[key] = _whole(given, key)
        del given[key]
    if given:
        raise ValueError(f"conv has the unknown fields {', '.join(map(repr, sorted(given)))}")
    return ConvShape(**values)


def _whole(fields: dict[str, Any], key: str) -> int:
    value = fields[key]
    if type(value) is not int:
        raise TypeError(f"{key} is {value!r}; it must be a whole number")
    return value


def _text(fields: dict[str, Any], key: str) -> str:
    value = fields[key]
    if not isinstance(value, str):
        raise TypeError(f"{key} is {value!r}; it must be text")
    return value
