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
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from nmsat.algorithms.core.ranges import check_whole
from nmsat.algorithms.core.schema import FieldError, field_place, load_toml, read_text
from nmsat.algorithms.core.tape import Pattern
from nmsat.algorithms.core.vocabulary import NETWORKS, RENAMED, method_facts, trained_network
from nmsat.dataflow.contract.machine_file import changed, find_machine, flat
from nmsat.dataflow.network.models import MAX_BATCH, load_model
from nmsat.reports.work.sweep_schema import MAX_POINTS, SWEPT, WORK, check_sweep, range_text

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from nmsat.dataflow.contract.config import SatConfig

MAX_SWEEP_BYTES: Final = 1 << 16
"""Largest file of a sweep."""

LAYER_FILES: Final = {".onnx": "an ONNX file (.onnx)", ".csv": "a SCALE-Sim table (.csv)"}
"""Files that can stand for a network of a sweep; a tape has batch, method and patterns of its own."""


@dataclass(frozen=True)
class Point:
    """A training step on a machine.

    machine: None if its fields do not fit together, which `error` says; content: SHA-256 of a network's file, '' for
    one called by name.
    """

    index: int
    config: str
    network: str
    batch: int
    method: str
    pattern: str
    settings: tuple[tuple[str, Any], ...]
    machine: SatConfig | None
    error: str = ""
    content: str = ""

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
    except FieldError as error:
        raise ValueError(f"{field_place(path, text, error.field)}: {error}") from None


def make_plan(found: Mapping[str, Any]) -> Plan:
    """Return the points of what a file holds; FieldError."""
    check_sweep(found)
    axes = {name: _axis(name, found.get(name, default), _CHECKS[name]) for name, default in WORK.items()}
    axes |= {f"set.{name}": _field_axis(name, value) for name, value in flat(found.get("set", {})).items()}
    contents = {name: file_digest(name) for name in axes["network"] if is_file(name)}
    for name in contents:
        _check_file(name, axes["batch"])
    total = prod(map(len, axes.values()))
    chosen = _chosen(found.get("random"), total)
    points: dict[tuple[Any, ...], Point] = {}
    machines = _Machines()
    for number in chosen:
        point = _point(len(points), axes, number, machines, contents)
        points.setdefault((point.config, *point.work, point.settings), point)
    several = tuple(name for name, axis in axes.items() if len(axis) > 1)
    return Plan(tuple(points.values()), several, len(chosen) - len(points))


def _chosen(table: Mapping[str, Any] | None, total: int) -> range | list[int]:
    """Return the numbers of the combinations that are taken."""
    if table is None:
        if total > MAX_POINTS:
            raise FieldError("set", f"set has {total} combinations; at most {MAX_POINTS} are run; name [random] points")
        return range(total)
    try:
        check_whole("random.points", table["points"], 1, min(total, MAX_POINTS))
    except ValueError as error:
        raise FieldError("random.points", str(error)) from None
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


def is_file(network: str) -> bool:
    """Tell whether a network is a file."""
    return Path(network).suffix.lower() in LAYER_FILES


def file_digest(network: str) -> str:
    """Return the SHA-256 of a network's file; FieldError if it cannot be read."""
    try:
        return hashlib.sha256(Path(network).read_bytes()).hexdigest()
    except OSError as error:
        text = f"network is {network!r}; it cannot be read: {error.strerror or error}"
        raise FieldError("network", text) from None


def _check_file(network: str, batches: list[int]) -> None:
    """Raise FieldError for a file that is no network, or none of these batches."""
    for batch in batches:
        try:
            load_model(network, batch)
        except ValueError as error:
            text = f"network is {network!r}; it does not run with batch {batch}: {error}"
            raise FieldError("network", text) from None


def _point(
    index: int, axes: Mapping[str, list[Any]], number: int, machines: _Machines, contents: Mapping[str, str]
) -> Point:
    """Return a combination by its number: the last axis runs fastest."""
    taken: dict[str, Any] = {}
    for name, axis in reversed(list(axes.items())):
        number, place = divmod(number, len(axis))
        taken[name] = axis[place]
    settings = {name.removeprefix("set."): taken[name] for name in axes if name.startswith("set.")}
    pattern = "dense" if taken["method"] == "dense" else taken["pattern"]
    machine, error = machines.of(taken["config"], tuple(settings.items()))
    work = (taken["config"], taken["network"], taken["batch"], taken["method"], pattern)
    return Point(index, *work, tuple(settings.items()), machine, error, contents.get(taken["network"], ""))


def _axis(name: str, value: Any, check: Callable[[Any], object]) -> list[Any]:
    """Return the values of a key, each of them checked."""
    values = _values(name, value)
    if not values:
        raise FieldError(name, f"{name} is {value!r}; it must hold a value")
    for one in values:
        try:
            check(one)
        except (TypeError, ValueError) as error:
            raise FieldError(name, f"{name.removesuffix(name.rpartition('.')[2])}{error}") from None
    return list(dict.fromkeys(values))


def _field_axis(name: str, value: Any) -> list[Any]:
    """Return the values of a field of the machine."""
    field = SWEPT[name]
    values = _axis(f"set.{name}", value, field.check)
    return values if field.whole else [float(one) for one in values]


def _values(name: str, value: Any) -> list[Any]:
    """Return the values that a value, a list or a range stands for."""
    if isinstance(value, list):
        return value
    if not isinstance(value, dict):
        return [value]
    if ("step" in value) == ("times" in value):
        raise FieldError(name, range_text(name, value))
    found, at = [], value["from"]
    while at <= value["to"] and len(found) <= MAX_POINTS:
        found.append(at)
        at = at + value["step"] if "step" in value else at * value["times"]
        if at == found[-1]:
            break
    if len(found) > MAX_POINTS:
        raise FieldError(name, f"{name} is {value!r}; it stands for more than {MAX_POINTS} values")
    return found


def _network(name: object) -> None:
    if isinstance(name, str) and (name in NETWORKS or name in RENAMED):
        if name in RENAMED:
            trained_network(name)
        return
    if isinstance(name, str) and is_file(name):
        return
    raise ValueError(f"network is {name!r}; it must be one of {', '.join((*NETWORKS, *LAYER_FILES.values()))}")


def _sparse(text: str) -> None:
    if Pattern.parse(text) is None:
        raise ValueError(f"pattern is {text!r}; write N:M such as 2:8 (dense is a method)")


_CHECKS: Final[dict[str, Callable[[Any], object]]] = {
    "config": find_machine,
    "network": _network,
    "batch": lambda value: check_whole("batch", value, 1, MAX_BATCH),
    "method": method_facts,
    "pattern": _sparse,
}
