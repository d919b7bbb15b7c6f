"""Files of settings in TOML, held to a schema: of machines, of trainings, of sweeps.

A schema is a msgspec.Struct. It says which fields there are, of which kind, in which table, and within which limits;
the limits are those of the tables that the checks of Python values read too. What a file holds is converted to it
whole: unknown fields, fields that are missing, values of another kind at any depth and values out of range are
refused. The library tells where; the text of the refusal is ours: field, value, limit.
"""

from __future__ import annotations

import datetime
import re
import tomllib
from bisect import bisect_left
from typing import TYPE_CHECKING, Any, Final, TypeVar

from nmsat.algorithms.core.files import read_bounded
from nmsat.algorithms.core.ranges import MAX_SHOWN, check_number, check_whole, number_range, short

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from msgspec import Struct

    S = TypeVar("S", bound=Struct)

STATEMENT_PARTS: Final = re.compile(
    r'''"""(?:\\.|[^\\])*?""""{0,2}|"(?:\\.|[^"\\\n])*"'''
    r"""|'{3}.*?'{3,5}|'[^'\n]*'"""
    r"|#[^\n]*|[\[\]{}\n]",
    re.DOTALL,
)
"""What tells where statements of TOML end: strings, whose last three quotes may follow others, comments, brackets."""

MISSING: Final = object()
"""The value of a field that a file must have and has not."""

LOST: Final = re.compile(r"Object (?:missing required|contains unknown) field `(.*?)`(?: - at `\$\.(.*)`)?", re.DOTALL)
"""How msgspec tells a field that is missing or unknown, and in which table; tests hold all of these to its versions."""

PLACED: Final = re.compile(r".* - at `\$\.?(.*)`", re.DOTALL)
"""How it tells the place of a value that does not fit."""

WRONG_KIND: Final = re.compile(r"Expected `[^`]*`, got `", re.DOTALL)
"""How it tells a value of another kind."""

BARE: Final = re.compile(r"[\w.-]+")
"""Names that are told as they are."""

NAME: Final = re.compile(r"[A-Za-z0-9_-]+")
"""Names that stand bare in TOML."""


class FieldError(ValueError):
    """A field, or its value, that cannot be used. field: its name, `a.b` in a table; the text begins with it."""

    def __init__(self, field: str, text: str) -> None:
        super().__init__(text)
        self.field = field


class FieldKindError(FieldError, TypeError):
    """A value of another kind than its field has."""


def checked(found: Mapping[str, Any], schema: type[S], refused: Callable[[str, Any], str]) -> S:
    """Return what a file holds as its schema has it; FieldError for the first that does not fit.

    refused: gives the text of the refusal for a place, such as `memory.channels` or `rows[1]`, and its value, MISSING
    if it should be there and is not.
    """
    import msgspec

    try:
        return msgspec.convert(dict(found), schema)
    except msgspec.ValidationError as error:
        said = str(error)
    if lost := LOST.fullmatch(said):
        keys = [*_keys(lost[2] or ""), lost[1]]
    else:
        keys = _keys(match[1] if (match := PLACED.fullmatch(said)) else "")
    value: Any = found
    for key in keys:
        value = _inside(value, key)
    field = ".".join(key for key in keys if isinstance(key, str))
    kind = FieldKindError if WRONG_KIND.match(said) else FieldError
    raise kind(field, refused(_place(keys), value)) from None


def _keys(path: str) -> list[str | int]:
    """Return the names and places of `memory.channels` or `rows[1]`."""
    return [name or int(at) for name, at in re.findall(r"([^.\[\]]+)|\[(\d+)\]", path)]


def _inside(found: Any, key: str | int) -> Any:
    if isinstance(found, dict):
        return found.get(key, MISSING)
    return found[key] if isinstance(found, list) and isinstance(key, int) else MISSING


def _place(keys: list[str | int]) -> str:
    """Return `rows[1]`; names that cannot stand bare in TOML as Python writes them."""
    texts = [f"[{key}]" if isinstance(key, int) else f".{key if BARE.fullmatch(key) else repr(key)}" for key in keys]
    return "".join(texts).removeprefix(".")


def limits(low: float, high: float, *, whole: bool, above: bool = False) -> Any:
    """Return the kind of a number from low (above: beyond it) to high: an int, else an int or a float."""
    from typing import Annotated

    from msgspec import Meta

    if whole:
        return Annotated[int, Meta(ge=int(low), le=int(high))]
    return Annotated[float, Meta(gt=low, le=high) if above else Meta(ge=low, le=high)]


def toml_value(value: Any) -> str:
    """Return what a file holds as TOML writes it, in one line; what is too long or too deep as `short` tells it."""
    if type(value) is int:
        return short(value)
    try:
        text = _written(value)
    except RecursionError:  # thousands of tables or lists, one in the other
        return f"a {_kind(value)} of more levels than can be shown"
    except ValueError:  # a number of thousands of digits inside
        return f"a {_kind(value)} with a number of thousands of digits in it"
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]} ..."


def _kind(value: object) -> str:
    return "table" if isinstance(value, dict) else "list"


def _written(value: Any) -> str:
    if isinstance(value, dict):
        items = (f"{key if NAME.fullmatch(key) else repr(key)} = {_written(one)}" for key, one in value.items())
        return f"{{ {', '.join(items)} }}" if value else "{}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_written, value))}]"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, datetime.date | datetime.time):  # a date with a time is a date, too
        return value.isoformat()
    return repr(value)


def number_refused(name: str, value: object, low: float, high: float, *, whole: bool, above: bool = False) -> str:
    """Return why a value of a file is no number from low (above: beyond it) to high, in the words of TOML."""
    try:
        if whole:
            check_whole(name, value, int(low), int(high))
        else:
            check_number(name, value, low, high, above=above)
    except TypeError:
        limit = f"from {int(low)} to {int(high)}" if whole else number_range(low, high, above=above)
        return f"{name} is {toml_value(value)}; it must be a {'whole number' if whole else 'number'} {limit}"
    except ValueError as error:
        return str(error)
    raise AssertionError(f"{name} is {short(value)}: refused by its schema alone")


MARK: Final = "\ufeff"
"""What some editors write before a text in UTF-8, and TOML does not allow."""


def read_text(path: Path, most: int) -> str:
    """Return the text of a file, without `MARK`.

    ValueError if it cannot be read, is no regular file, has more than `most` bytes or is not UTF-8.
    """
    content = read_bounded(path, most)
    try:
        return content.decode().removeprefix(MARK)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: it is not UTF-8 at byte {error.start}") from None


def load_toml(text: str, where: object) -> dict[str, Any]:
    """Return what a TOML text holds; ValueError with what it is, a file for example, and the line, if it is none."""
    try:
        return tomllib.loads(text)
    except ValueError as error:  # also that of a number of thousands of digits
        raise ValueError(f"{where}: it is not TOML: {error}") from None
    except RecursionError:
        raise ValueError(f"{where}: it is not TOML that can be read: arrays within arrays without end") from None


def field_place(path: Path, text: str, field: str) -> str:
    """Return 'FILE, line 3' of the field `a.b` of a TOML text, or of the table that lacks it; else the file alone.

    tomllib tells no lines. A field is in the first statement with which the text, read up to its end, holds it; which
    one that is halving finds, since what is held once is held from there on. Of a text that is none of TOML, as of a
    file that changed since, the file alone.
    """
    starts = _statements(text)
    ends = [*starts[1:], len(text)]
    while field:
        try:
            first = bisect_left(ends, True, key=lambda end: _holds(tomllib.loads(text[:end]), field))
        except ValueError:
            break
        if first < len(ends):
            before = text.count("\n", 0, starts[first])
            return f"{path}, line {before + 1}"
        field = field.rpartition(".")[0]
    return str(path)


def _statements(text: str) -> list[int]:
    """Return where the statements of a TOML text begin: with the lines that are not inside a list or a string."""
    starts, depth = [0], 0
    for token in STATEMENT_PARTS.finditer(text):
        depth += (token[0] in "[{") - (token[0] in "]}")
        if token[0] == "\n" and not depth:
            starts.append(token.end())
    return starts


def _holds(found: Any, field: str) -> bool:
    """Return whether a table has a field `a.b`; names themselves may have dots."""
    if not isinstance(found, dict) or field in found:
        return isinstance(found, dict)
    ends = [at for at, letter in enumerate(field) if letter == "."]
    return any(_holds(found.get(field[:at]), field[at + 1 :]) for at in ends)
