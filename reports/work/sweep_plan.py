"""A sweep as a TOML file: which machines run which training steps. Read and checked whole before any work starts.

config = "vcu1525"                # a name or a machine's file; lists and ranges may stand for every value
network = ["resnet18", "vgg19"]
batch = 64
method = "bdwp"
pattern = ["2:4", "2:8"]

[set]                             # fields of the machine
rows = { from = 8, to = 32, times = 2 }
memory.latency_ns = [60, 120]

[random]                          # so many of all combinations; without it all of them
points = 10
seed = 1
"""

from __future__ import annotations

import hashlib
import json
import random
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import TYPE_CHECKING, Any, Final

from nmsat.algorithms.core.ranges import check_number, check_whole
from nmsat.algorithms.core.tape import Pattern
from nmsat.algorithms.core.vocabulary import NETWORKS, RENAMED, method_facts, trained_network
from nmsat.dataflow.contract.machine_file import (
    MACHINE_FIELDS,
    changed,
    field_place,
    find_machine,
    flat,
    load_toml,
    read_text,
)
from nmsat.dataflow.contract.ranges import Range
from nmsat.dataflow.network.models import MAX_BATCH

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from nmsat.dataflow.contract.config import SatConfig

MAX_POINTS: Final = 100_000
"""Most points of a sweep."""

MAX_SWEEP_BYTES: Final = 1 << 16
"""Largest file of a sweep."""

WORK: Final = {"config": "vcu1525", "network": None, "batch": 512, "method": "bdwp", "pattern": "2:8"}
"""Keys of a sweep that are no field of the machine -> value if left out; None: must be given."""


class SweepError(ValueError):
    """A key of a sweep, or its value, that cannot be used. key: its name in the file."""

    def __init__(self, key: str, text: str) -> None:
        super().__init__(text)
        self.key = key


@dataclass(frozen=True)
class Point:
    """A training step on a machine. machine: None if its fields do not fit together, which `error` says."""

    index: int
    config: str
    network: str
    batch: int
    method: str
    pattern: str
    settings: tuple[tuple[str, Any], ...]
    machine: SatConfig | None
    error: str = ""

    @property
    def work(self) -> tuple[str, int, str, str]:
        """What runs: points of the same work are compared."""
        return self.network, self.batch, self.method, self.pattern


@dataclass(frozen=True)
class Plan:
    """All points of a sweep. axes: names of what has several values; doubled: combinations that are one point."""

    points: tuple[Point, ...]
    axes: tuple[str, ...]
    doubled: int

    @cached_property
    def digest(self) -> str:
        """SHA-256 of all points."""
        text = json.dumps([repr(point) for point in self.points])
        return hashlib.sha256(text.encode()).hexdigest()


def read_sweep(path: Path) -> Plan:
    """Return the points of a file; ValueError in one line with file, line, key, value and limit."""
    text = read_text(path, MAX_SWEEP_BYTES)
    try:
        return make_plan(load_toml(text, path))
    except SweepError as error:
        raise ValueError(f"{field_place(path, text, error.key)}: {error}") from None


def make_plan(found: Mapping[str, Any]) -> Plan:
    """Return the points of what a file holds; SweepError."""
    tables = {name: found.get(name, {}) for name in ("set", "random")}
    for name in found:
        if name not in WORK and name not in tables:
            raise SweepError(
                name, f"{name} is {found[name]!r}; a sweep has no such key; keys: {', '.join(WORK)}, set, random"
            )
    for name, table in tables.items():
        if not isinstance(table, dict):
            raise SweepError(name, f"{name} is {table!r}; it must be a table")
    axes = {name: _axis(name, found.get(name, default), _CHECKS[name]) for name, default in WORK.items()}
    axes |= {f"set.{name}": _field_axis(name, value) for name, value in flat(tables["set"]).items()}
    total = prod(map(len, axes.values()))
    chosen = _chosen(tables["random"], total)
    points: dict[tuple[Any, ...], Point] = {}
    machines = _Machines()
    for number in chosen:
        point = _point(len(points), axes, number, machines)
        points.setdefault((point.config, *point.work, point.settings), point)
    several = tuple(name for name, axis in axes.items() if len(axis) > 1)
    return Plan(tuple(points.values()), several, len(chosen) - len(points))


def _chosen(table: Mapping[str, Any], total: int) -> range | list[int]:
    """Return the numbers of the combinations that are taken."""
    if not table:
        if total > MAX_POINTS:
            raise SweepError("set", f"set has {total} combinations; at most {MAX_POINTS} are run; name [random] points")
        return range(total)
    for name in table:
        if name not in ("points", "seed"):
            raise SweepError(f"random.{name}", f"random.{name} is {table[name]!r}; keys of it: points, seed")
    for name, high in (("points", min(total, MAX_POINTS)), ("seed", (1 << 63) - 1)):
        try:
            check_whole(f"random.{name}", table.get(name, 0), int(name == "points"), high)
        except (TypeError, ValueError) as error:
            raise SweepError(f"random.{name}", str(error)) from None
    return sorted(random.Random(table.get("seed", 0)).sample(range(total), table["points"]))


class _Machines:
    """Machines of a sweep, each made once, however many points it has."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, tuple[tuple[str, Any], ...]], tuple[SatConfig | None, str]] = {}

    def of(self, config: str, settings: tuple[tuple[str, Any], ...]) -> tuple[SatConfig | None, str]:
        """Return a machine, and why there is none."""
        key = config, settings
        if key not in self._known:
            try:
                self._known[key] = changed(find_machine(config), dict(settings)), ""
            except ValueError as refused:
                self._known[key] = None, str(refused)
        return self._known[key]


def _point(index: int, axes: Mapping[str, list[Any]], number: int, machines: _Machines) -> Point:
    """Return a combination by its number: the last axis runs fastest."""
    taken: dict[str, Any] = {}
    for name, axis in reversed(list(axes.items())):
        number, place = divmod(number, len(axis))
        taken[name] = axis[place]
    settings = {name.removeprefix("set."): taken[name] for name in axes if name.startswith("set.")}
    pattern = "dense" if taken["method"] == "dense" else taken["pattern"]
    machine, error = machines.of(taken["config"], tuple(settings.items()))
    work = (taken["config"], taken["network"], taken["batch"], taken["method"], pattern)
    return Point(index, *work, tuple(settings.items()), machine, error)


def _axis(name: str, value: Any, check: Callable[[Any], object]) -> list[Any]:
    """Return the values of a key, each of them checked."""
    values = _values(name, value)
    if not values:
        raise SweepError(name, f"{name} is {value!r}; it must hold a value")
    for one in values:
        try:
            check(one)
        except (TypeError, ValueError) as error:
            raise SweepError(name, f"{name.removesuffix(name.rpartition('.')[2])}{error}") from None
    return list(dict.fromkeys(values))


def _field_axis(name: str, value: Any) -> list[Any]:
    """Return the values of a field of the machine."""
    field = MACHINE_FIELDS.get(name)
    if not isinstance(field, Range):
        able = ", ".join(other for other, fact in MACHINE_FIELDS.items() if isinstance(fact, Range))
        raise SweepError(f"set.{name}", f"set.{name} is {value!r}; fields that a sweep changes: {able}")
    values = _axis(f"set.{name}", value, field.check)
    return values if field.whole else [float(one) for one in values]


def _values(name: str, value: Any) -> list[Any]:
    """Return the values that a value, a list or a range stands for."""
    if isinstance(value, list):
        return value
    if not isinstance(value, dict):
        return [value]
    if set(value) not in ({"from", "to", "step"}, {"from", "to", "times"}):
        raise SweepError(name, f"{name} is {value!r}; a range has from, to, and step or times")
    try:
        for key, low in (("from", 0), ("to", 0), ("step", 1e-9), ("times", 1.001)):
            check_number(f"{name}.{key}", value.get(key, 2), low, 1e12)
    except (TypeError, ValueError) as error:
        raise SweepError(name, str(error)) from None
    found, at = [], value["from"]
    while at <= value["to"] and len(found) <= MAX_POINTS:
        found.append(at)
        at = at + value["step"] if "step" in value else at * value["times"]
        if at == found[-1]:
            break
    if len(found) > MAX_POINTS:
        raise SweepError(name, f"{name} is {value!r}; it stands for more than {MAX_POINTS} values")
    return found


def _network(name: object) -> None:
    if isinstance(name, str) and (name in NETWORKS or name in RENAMED):
        if name in RENAMED:
            trained_network(name)
        return
    raise ValueError(f"network is {name!r}; it must be one of {', '.join(NETWORKS)}")


def _text(what: str, check: Callable[[str], object]) -> Callable[[Any], object]:
    def checked(value: Any) -> None:
        if not isinstance(value, str):
            raise TypeError(f"{what} is {value!r}; it must be a text")
        check(value)

    return checked


def _sparse(text: str) -> None:
    if Pattern.parse(text) is None:
        raise ValueError(f"pattern is {text!r}; write N:M such as 2:8 (dense is a method)")


_CHECKS: Final[dict[str, Callable[[Any], object]]] = {
    "config": _text("config", find_machine),
    "network": _network,
    "batch": lambda value: check_whole("batch", value, 1, MAX_BATCH),
    "method": _text("method", method_facts),
    "pattern": _text("pattern", _sparse),
}
