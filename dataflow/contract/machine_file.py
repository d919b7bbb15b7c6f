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
import hashlib
import json
import tomllib
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from nmsat.algorithms.core.ranges import short_name
from nmsat.algorithms.core.schema import (
    MISSING,
    FieldError,
    checked,
    field_place,
    limits,
    load_toml,
    number_refused,
    read_text,
    toml_value,
)
from nmsat.dataflow.contract.config import MemoryConfig, SatConfig, preset, slices_between
from nmsat.dataflow.contract.ranges import MAX_NAME, MEMORY_RANGES, SAT_PLAIN, SAT_RANGES, Plain, Range

if TYPE_CHECKING:
    from collections.abc import Mapping

    from msgspec import Struct

MACHINE_SUFFIX: Final = ".toml"
"""How the name of a file ends that is a machine."""

MAX_BYTES: Final = 1 << 14
"""Largest file of a machine."""

NAME_DIGITS: Final = 12
"""Digits of the SHA-256 of a name that is too long."""

MEMORY_PREFIX: Final = "memory."
"""What stands before the fields of the memory."""

SLICES: Final = {"row_slices": "rows", "column_slices": "columns"}
"""Fields that hold places between rows or columns -> which."""

MACHINE_FIELDS: Final[dict[str, Range | Plain]] = {
    **{field.name: field for field in (SAT_PLAIN[0], *SAT_RANGES, *SAT_PLAIN[1:])},
    **{f"{MEMORY_PREFIX}{field.name}": field for field in MEMORY_RANGES},
}
"""All fields of a machine by name; those of its memory as `memory.channels`."""


def find_machine(text: str, *, named: bool = True) -> SatConfig:
    """Return the preset of that name, or the machine of a file whose name ends in .toml; named: as `read_machine`."""
    if "\0" in text:
        raise ValueError(f"config is {text!r}; no file has a NUL in its name")
    if not text.lower().endswith(MACHINE_SUFFIX):
        try:
            return preset(text)
        except ValueError as error:
            raise ValueError(f"{error}; or a file, NAME{MACHINE_SUFFIX}") from None
    return read_machine(Path(text), named=named)


def read_machine(path: Path, *, named: bool = True) -> SatConfig:
    """Return the machine of a TOML file; ValueError in one line with file, line, field, value and limit.

    named: whether it keeps the name, which then must not be that of a preset with other values (`needs_name`).
    """
    text = read_text(path, MAX_BYTES)
    given = load_toml(text, path)
    try:
        made = _made(nested({"name": path.stem, **given}))
        return _own_name(made) if named else made
    except FieldError as error:
        hint = "; without a name in it, a file gives its own" if error.field == "name" and "name" not in given else ""
        raise ValueError(f"{field_place(path, text, error.field)}: {error}{hint}") from None


@cache
def machine_schema() -> type[Struct]:
    """Return what a file of a machine may hold: kinds and limits of `MACHINE_FIELDS`, defaults of `SatConfig`."""
    import msgspec

    numbers = {name: field for name, field in MACHINE_FIELDS.items() if isinstance(field, Range)}
    kinds: dict[str, Any] = {name: limits(field.low, field.high, whole=field.whole) for name, field in numbers.items()}
    for slices, sides in SLICES.items():
        kinds[slices] = list[limits(1, numbers[sides].high - 1, whole=True)]
    kinds["name"] = str
    tables: dict[str, type[Struct]] = {}
    for kind, prefix in ((MemoryConfig, MEMORY_PREFIX), (SatConfig, "")):
        fields: list[Any] = []
        for field in dataclasses.fields(kind):
            if field.name in tables:
                default = msgspec.field(default_factory=tables[field.name])
                fields.append((field.name, tables[field.name], default))
            else:
                missing = field.default is dataclasses.MISSING
                fields.append((field.name, kinds[f"{prefix}{field.name}"], *(() if missing else (field.default,))))
        name = prefix.removesuffix(".")
        tables[name] = msgspec.defstruct(kind.__name__, fields, kw_only=True, forbid_unknown_fields=True)
    return tables[""]


def values(config: SatConfig) -> dict[str, Any]:
    """Return all fields of a machine, by the names of `MACHINE_FIELDS`."""
    return {name: getattr(*_owner(config, name)) for name in MACHINE_FIELDS}


def make_machine(given: Mapping[str, Any]) -> SatConfig:
    """Return the machine of some fields, as TOML holds values, those of the memory in a table or as `memory.channels`.

    Raises FieldError for what does not fit, also for the name of a preset with other values.
    """
    return _own_name(_made(nested(given)))


def _made(given: Mapping[str, Any]) -> SatConfig:
    from msgspec.structs import asdict

    fields = asdict(checked(given, machine_schema(), _refused))
    memory = asdict(fields.pop("memory"))
    fields |= {name: tuple(fields[name]) for name in SLICES}
    try:
        external = MemoryConfig(**memory)
    except (TypeError, ValueError) as error:
        text = f"{MEMORY_PREFIX}{error}"
        raise FieldError(text.partition(" ")[0], text) from None
    try:
        return SatConfig(**fields, memory=external)
    except (TypeError, ValueError) as error:
        name = str(error).partition(" ")[0]
        raise FieldError(name, _slices_refused(name, fields) if name in SLICES else str(error)) from None


def _slices_refused(name: str, fields: Mapping[str, Any]) -> str:
    """Return why slices of a file are refused, which is no tuple of Python's."""
    return f"{name} is {toml_value(fields[name])}; it must be a list, {slices_between(fields[SLICES[name]])}"


def _own_name(config: SatConfig) -> SatConfig:
    """Return a machine; FieldError if it has the name of a preset, and other values."""
    if needs_name(config):
        raise FieldError("name", f"name is {config.name!r}, that of a preset with other values; choose another name")
    return config


def changed(config: SatConfig, given: Mapping[str, Any]) -> SatConfig:
    """Return a machine with some fields changed, which its name then tells unless `name` is among them; FieldError.

    given: as `make_machine` takes them; a table changes what is in it.
    """
    given, before = flat(given), values(config)
    if "name" not in given:
        _own_name(config)
    made = _made(nested(before | config.slices_within(given) | given))
    after = values(made)
    told = [f"{name}={toml(value)}" for name, value in given.items() if after[name] != before[name]]
    if not told or "name" in given:
        return _own_name(made if told else config)
    return _own_name(made.replace(name=_fitting(f"{config.name} {' '.join(told)}")))


def _fitting(name: str) -> str:
    """Return a name, a long one cut and ended by a part of its SHA-256, so that two that differ stay apart."""
    if len(name) <= MAX_NAME:
        return name
    end = f" ... {hashlib.sha256(name.encode()).hexdigest()[:NAME_DIGITS]}"
    return name[: MAX_NAME - len(end)] + end


def flat(found: Mapping[str, Any]) -> dict[str, Any]:
    """Return {"memory": {"channels": 1}} as {"memory.channels": 1}."""
    out: dict[str, Any] = {}
    for name, value in found.items():
        inner = value if isinstance(value, dict) and f"{name}." == MEMORY_PREFIX else None
        out |= {name: value} if inner is None else {f"{MEMORY_PREFIX}{key}": one for key, one in inner.items()}
    return out


def nested(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return {"memory.channels": 1} as {"memory": {"channels": 1}}."""
    out: dict[str, Any] = {}
    memory: dict[str, Any] = {}
    for name, value in given.items():
        if name.startswith(MEMORY_PREFIX):
            memory[name.removeprefix(MEMORY_PREFIX)] = value
        else:
            out[name] = list(value) if isinstance(value, tuple) else value
    return {"memory": memory} | out if memory else out


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


def _refused(place: str, value: Any) -> str:
    """Return in one line why a value is refused: that of its field, as the tables of limits word it."""
    name = place.partition("[")[0]
    field = MACHINE_FIELDS.get(name)
    if f"{name}." == MEMORY_PREFIX:
        known = ", ".join(dataclasses.asdict(MemoryConfig()))
        return f"{name} is {toml_value(value)}; a machine has no such field, but a table [{name}] with {known}"
    if field is None:
        near = difflib.get_close_matches(name, MACHINE_FIELDS, 1)
        hint = f"did you mean {near[0]}?" if near else f"fields: {', '.join(MACHINE_FIELDS)}"
        return f"{short_name(place)} is {toml_value(value)}; a machine has no such field; {hint}"
    if value is MISSING:
        return f"{place} is missing; it must be {field.allowed}"
    if isinstance(field, Range):
        return number_refused(name, value, field.low, field.high, whole=field.whole)
    return f"{place} is {toml_value(value)}; it must be {field.allowed}"


def needs_name(config: SatConfig) -> bool:
    """Tell whether a machine has the name of a preset, and other values."""
    try:
        return preset(config.name) != config
    except ValueError:
        return False
