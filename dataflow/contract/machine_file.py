"""A machine as a TOML file: every field of `SatConfig`, those of its memory in the table `memory`.

    name = "mine"
    rows = 16
    columns = 16

    [memory]
    latency_ns = 90.0

Fields that are left out have the value that `SatConfig` gives them, `name` the name of the file. Fields, units and
ranges stand in `dataflow.contract.ranges`; what is refused is a `FieldError` with file, line, field, value and limit.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from nmsat.dataflow.contract.config import MemoryConfig, SatConfig, preset
from nmsat.dataflow.contract.ranges import MAX_NAME, MEMORY_RANGES, SAT_PLAIN, SAT_RANGES, Plain, Range

if TYPE_CHECKING:
    from collections.abc import Mapping

MACHINE_SUFFIX: Final = ".toml"
"""How the name of a file ends that is a machine."""

MAX_BYTES: Final = 1 << 14
"""Largest file of a machine."""

MEMORY_PREFIX: Final = "memory."
"""What stands before the fields of the memory."""

MACHINE_FIELDS: Final[dict[str, Range | Plain]] = {
    **{field.name: field for field in (SAT_PLAIN[0], *SAT_RANGES, *SAT_PLAIN[1:])},
    **{f"{MEMORY_PREFIX}{field.name}": field for field in MEMORY_RANGES},
}
"""All fields of a machine by name; those of its memory as `memory.channels`."""


class FieldError(ValueError):
    """A field, or its value, that cannot be used. field: its name; the text begins with it."""

    def __init__(self, field: str, text: str) -> None:
        super().__init__(text)
        self.field = field


def find_machine(text: str) -> SatConfig:
    """Return the preset of that name, or the machine of a file whose name ends in .toml."""
    if not text.lower().endswith(MACHINE_SUFFIX):
        try:
            return preset(text)
        except ValueError as error:
            raise ValueError(f"{error}; or a file, NAME{MACHINE_SUFFIX}") from None
    return read_machine(Path(text))


def read_machine(path: Path) -> SatConfig:
    """Return the machine of a TOML file; ValueError in one line with file, line, field, value and limit."""
    text = read_text(path)
    try:
        return make_machine({"name": path.stem, **flat(load_toml(text, path))})
    except FieldError as error:
        raise ValueError(f"{field_place(path, text, error.field)}: {error}") from None


def read_text(path: Path, most: int = MAX_BYTES) -> str:
    """Return the text of a file; ValueError if it cannot be read, has more than `most` bytes or is not UTF-8."""
    try:
        content = path.read_bytes() if path.stat().st_size <= most else None
    except OSError as error:
        raise ValueError(f"{path}: it cannot be read: {error.strerror or error}") from None
    if content is None:
        raise ValueError(f"{path}: it has {path.stat().st_size} bytes; at most {most} are read")
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: it is not UTF-8 at byte {error.start}") from None


def load_toml(text: str, path: Path) -> dict[str, Any]:
    """Return what a TOML text holds; ValueError with file and line if it is none."""
    try:
        return tomllib.loads(text)
    except ValueError as error:  # also that of a number of thousands of digits
        raise ValueError(f"{path}: it is not TOML: {error}") from None
    except RecursionError:
        raise ValueError(f"{path}: it is not TOML that can be read: arrays within arrays without end") from None


def field_place(path: Path, text: str, field: str) -> str:
    """Return 'FILE, line 3' of the field `a.b` of a TOML text; the file alone if the field is not in it.

    tomllib tells no lines. A field is in the first statement with which the text, read up to there, holds it.
    """
    lines, first = text.split("\n"), 1
    for number in range(1, len(lines) + 1):
        try:
            found: Any = tomllib.loads("\n".join(lines[:number]))
        except tomllib.TOMLDecodeError:
            continue  # in the middle of a statement
        for key in field.split("."):
            found = found.get(key) if isinstance(found, dict) else None
        if found is not None:
            return f"{path}, line {first}"
        first = number + 1
    return str(path)


def flat(found: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return {"memory": {"channels": 1}} as {"memory.channels": 1}."""
    out: dict[str, Any] = {}
    for name, value in found.items():
        if isinstance(value, dict) and f"{prefix}{name}." == MEMORY_PREFIX:
            out |= flat(value, MEMORY_PREFIX)
        else:
            out[f"{prefix}{name}"] = value
    return out


def values(config: SatConfig) -> dict[str, Any]:
    """Return all fields of a machine, by the names of `MACHINE_FIELDS`."""
    return {name: getattr(*_owner(config, name)) for name in MACHINE_FIELDS}


def make_machine(given: Mapping[str, Any]) -> SatConfig:
    """Return the machine of some fields, by the names of `MACHINE_FIELDS` and as TOML holds values.

    Raises FieldError for what does not fit, also for the name of a preset with other values.
    """
    fitted = {name: _fitted(name, value) for name, value in given.items()}
    for field in dataclasses.fields(SatConfig):
        if field.default is dataclasses.MISSING and field.name not in fitted:
            raise FieldError(field.name, f"{field.name} is missing; it must be {MACHINE_FIELDS[field.name].allowed}")
    memory = {
        name.removeprefix(MEMORY_PREFIX): value for name, value in fitted.items() if name.startswith(MEMORY_PREFIX)
    }
    try:
        external = MemoryConfig(**memory)
    except (TypeError, ValueError) as error:
        text = f"{MEMORY_PREFIX}{error}"
        raise FieldError(text.partition(" ")[0], text) from None
    try:
        config = SatConfig(**{n: v for n, v in fitted.items() if not n.startswith(MEMORY_PREFIX)}, memory=external)
    except (TypeError, ValueError) as error:
        raise FieldError(str(error).partition(" ")[0], str(error)) from None
    if _other_preset(config):
        raise FieldError("name", f"name is {config.name!r}, that of a preset with other values; choose another name")
    return config


def changed(config: SatConfig, given: Mapping[str, Any]) -> SatConfig:
    """Return a machine with some fields changed, which its name then tells unless `name` is among them; FieldError."""
    before = values(config)
    after = {name: value for name, value in given.items() if before.get(name) != _fitted(name, value)}
    if after and "name" not in after:
        told = f"{config.name} {' '.join(f'{name}={toml(value)}' for name, value in after.items())}"
        after["name"] = told if len(told) <= MAX_NAME else f"{told[: MAX_NAME - 4]} ..."
    return make_machine(before | config.slices_within(after) | after) if after else config


def parse_value(text: str) -> Any:
    """Return a value as it is written in TOML; what is no TOML is a text."""
    try:
        found = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):
        return text
    return found["value"] if list(found) == ["value"] else text


def toml(value: Any) -> str:
    """Return a value of a field as TOML writes it."""
    return json.dumps(list(value) if isinstance(value, tuple) else value, ensure_ascii=False)


def machine_text(config: SatConfig) -> str:
    """Return a machine as TOML that `read_machine` reads back: all fields, with unit, meaning and range."""
    rows = []
    for name, value in values(config).items():
        field, key = MACHINE_FIELDS[name], name.removeprefix(MEMORY_PREFIX)
        if name.startswith(MEMORY_PREFIX) and not any(row == "[memory]" for row in rows):
            rows += ["", "[memory]"]
        unit = f" ({field.unit})" if isinstance(field, Range) and field.unit else ""
        rows += [f"# {field.what}{unit}: {field.allowed}", f"{key} = {toml(value)}"]
    return "\n".join(rows) + "\n"


def _owner(config: SatConfig, name: str) -> tuple[SatConfig | MemoryConfig, str]:
    return (config.memory, name.removeprefix(MEMORY_PREFIX)) if name.startswith(MEMORY_PREFIX) else (config, name)


def _fitted(name: str, value: Any) -> Any:
    """Return a value of TOML as the field takes it: arrays as tuples, whole numbers as float where fractions may be."""
    field = MACHINE_FIELDS.get(name)
    if field is None:
        near = difflib.get_close_matches(name, MACHINE_FIELDS, 1)
        hint = f"did you mean {near[0]}?" if near else f"fields: {', '.join(MACHINE_FIELDS)}"
        raise FieldError(name, f"{name} is {value!r}; a machine has no such field; {hint}")
    if isinstance(value, list):
        return tuple(value)
    if isinstance(field, Range) and not field.whole and type(value) is int and field.low <= value <= field.high:
        return float(value)
    return value


def _other_preset(config: SatConfig) -> bool:
    try:
        return preset(config.name) != config
    except ValueError:
        return False
