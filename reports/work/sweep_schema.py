"""What a file of a sweep may hold: kinds, tables and limits. `sweep_plan` looks at what fits together afterwards."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, Final

from nmsat.algorithms.core.ranges import short_name
from nmsat.algorithms.core.schema import MISSING, checked, limits, number_refused, toml_value
from nmsat.dataflow.contract.machine_file import MACHINE_FIELDS, MEMORY_PREFIX, SLICES
from nmsat.dataflow.contract.ranges import Range
from nmsat.dataflow.network.models import MAX_BATCH

if TYPE_CHECKING:
    from collections.abc import Mapping

    from msgspec import Struct

MAX_POINTS: Final = 100_000
"""Most points of a sweep."""

WORK: Final = {"config": "vcu1525", "network": None, "batch": 512, "method": "bdwp", "pattern": "2:8"}
"""Keys of a sweep that are no field of the machine -> value if left out; None: must be given."""

NUMBERS: Final = {name: field for name, field in MACHINE_FIELDS.items() if isinstance(field, Range)}
"""Fields of the machine that are numbers."""

SWEPT: Final = (*NUMBERS, *SLICES)
"""Fields of the machine that a sweep changes: all but its name."""

SPAN: Final = {"from": (0, 1e12), "to": (0, 1e12), "step": (1e-9, 1e12), "times": (1.001, 1e12)}
"""Keys of a range -> least and largest value; it has one of the last two."""

DRAW: Final = {"points": (1, MAX_POINTS), "seed": (0, (1 << 63) - 1)}
"""Keys of the table `random` -> least and largest value."""


def check_sweep(found: Mapping[str, Any]) -> None:
    """Raise FieldError for the first of what a file holds that does not fit."""
    checked(found, sweep_schema(), lambda place, value: _refused(found, place, value))


@cache
def sweep_schema() -> type[Struct]:
    """Return the schema. Lists and ranges may stand for every number, lists for every text."""
    from msgspec import UNSET, UnsetType, defstruct, field

    def table(name: str, kinds: Mapping[str, Any], *needed: str) -> type[Struct]:
        fields: list[Any] = []
        for key, kind in kinds.items():  # with names of their own: Python takes no `from`
            own = field(name=key) if key in needed else field(name=key, default=UNSET)
            fields.append((f"{key}_", kind | UnsetType, own))
        return defstruct(name, fields, kw_only=True, forbid_unknown_fields=True)

    bounds = {key: limits(*ends, whole=True) | limits(*ends, whole=False) for key, ends in SPAN.items()}
    bounds |= {key: limits(*SPAN[key], whole=False) for key in ("step", "times")}
    span = table("Span", bounds, "from", "to")
    numbers = {name: limits(field.low, field.high, whole=field.whole) for name, field in NUMBERS.items()}
    kinds: dict[str, Any] = {name: kind | list[kind] | span for name, kind in numbers.items()}
    for name, sides in SLICES.items():
        place = limits(1, NUMBERS[sides].high - 1, whole=True)
        kinds[name] = list[place | list[place]]
    inner = {name.removeprefix(MEMORY_PREFIX): kinds.pop(name) for name in SWEPT if name.startswith(MEMORY_PREFIX)}
    kinds[MEMORY_PREFIX.removesuffix(".")] = table("Memory", inner)
    batch = limits(1, MAX_BATCH, whole=True)
    work = {name: batch | list[batch] | span if name == "batch" else str | list[str] for name in WORK}
    draw = table("Random", {name: limits(*ends, whole=True) for name, ends in DRAW.items()}, "points")
    return table("Sweep", {**work, "set": table("Settings", kinds), "random": draw})


def range_text(name: str, value: object) -> str:
    """Return why a range is none."""
    return f"{name} is {toml_value(value)}; a range has from, to, and step or times"


def _refused(found: Mapping[str, Any], place: str, value: Any) -> str:
    """Return in one line why a value is refused. found: all that the file holds."""
    name = place.partition("[")[0]
    around, _, last = name.rpartition(".")
    if name in _NUMBERS and value is not MISSING:
        whole, low, high = _NUMBERS[name]
        return number_refused(name, value, low, high, whole=whole)
    if name in _NUMBERS:
        return f"{name} is missing; it must be a whole number from {_NUMBERS[name][1]} to {_NUMBERS[name][2]}"
    if around in _NUMBERS and last in SPAN and value is not MISSING:
        return number_refused(name, value, *SPAN[last], whole=False)
    if around in _NUMBERS:
        return range_text(around, _inside(found, around))
    known = {"set": f"fields that a sweep changes: {', '.join(SWEPT)}", "random": f"keys of it: {', '.join(DRAW)}"}
    keys = known.get(around.partition(".")[0], f"a sweep has no such key; keys: {', '.join((*WORK, *known))}")
    kinds = dict.fromkeys(WORK, "it must be a text, or a list of texts")
    kinds |= dict.fromkeys(("set", "random", "set.memory"), "it must be a table")
    kinds |= {f"set.{slices}": slices_text(slices) for slices in SLICES}
    told = short_name(place if name.removeprefix("set.") in SLICES else name)
    return f"{told} is {toml_value(value)}; {kinds.get(name, keys)}"


def slices_text(name: str) -> str:
    """Return what slices must be."""
    return f"it must be a list such as [8, 16], or a list of such lists; each {MACHINE_FIELDS[name].allowed}"


_NUMBERS: Final = {
    "batch": (True, 1, MAX_BATCH),
    **{f"set.{name}": (field.whole, field.low, field.high) for name, field in NUMBERS.items()},
    **{f"random.{name}": (True, *ends) for name, ends in DRAW.items()},
}
"""Keys that are numbers -> whether whole, least and largest value."""


def _inside(found: Any, name: str) -> Any:
    for key in name.split("."):
        found = found[key]
    return found
