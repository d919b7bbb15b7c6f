"""A sweep as a TOML file: which machines run which training steps. Read and checked whole before any work starts.

config = "vcu1525"                # a name or a machine's file; lists and ranges may stand for every value
network = ["resnet18", "vgg19"]
batch = 64
method = "bdwp"
pattern = ["2:4", "2:8"]

[set]                             # fields of the machine; row_slices and column_slices are lists of lists
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
import sys
from dataclasses import dataclass
from decimal import Decimal, localcontext
from functools import cached_property
from math import prod
from typing import TYPE_CHECKING, Any, Final

from nmsat.algorithms.core.ranges import check_whole
from nmsat.algorithms.core.schema import FieldError, field_place, load_toml, read_text, toml_value
from nmsat.algorithms.core.tape import Pattern
from nmsat.algorithms.core.vocabulary import METHODS, NETWORK_FILES, NETWORKS, RENAMED, method_facts, trained_network
from nmsat.dataflow.contract.machine_file import SLICES, changed, find_machine, flat
from nmsat.dataflow.network.models import MAX_BATCH
from nmsat.reports.work.sweep_networks import file_digest, file_notes, is_file, is_tape, taped_step
from nmsat.reports.work.sweep_schema import MAX_POINTS, NUMBERS, WORK, check_sweep, range_text, slices_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

    from nmsat.dataflow.contract.config import SatConfig

MAX_SWEEP_BYTES: Final = 1 << 16
"""Largest file of a sweep."""

SPAN_DIGITS: Final = 60
"""Decimal digits that the values of a range are reckoned with: more than two binary64 numbers of the limits have."""

_KNOWN: Final = ", ".join((*NETWORKS, *NETWORK_FILES.values()))

TAPED: Final = ("batch", "method", "pattern")
"""Keys of a sweep that a tape holds itself: they do not count for it."""


@dataclass(frozen=True)
class Point:
    """A training step on a machine.

    machine: None if its fields do not fit together, which `error` says; content: SHA-256 of a network's file, '' for
    one called by name. Of a tape batch is None, method and pattern are those of its step.
    """

    index: int
    config: str
    network: str
    batch: int | None
    method: str
    pattern: str
    settings: tuple[tuple[str, Any], ...]
    machine: SatConfig | None
    error: str = ""
    content: str = ""

    @property
    def work(self) -> tuple[str, int | None, str, str]:
        """What runs: points of the same work are compared."""
        return self.network, self.batch, self.method, self.pattern


@dataclass(frozen=True)
class Plan:
    """All points of a sweep. axes: names of what has several values; doubled: combinations that are one point.

    notes: what the figures of its networks and methods do not hold, and what reading their files decided.
    """

    points: tuple[Point, ...]
    axes: tuple[str, ...]
    doubled: int
    notes: tuple[str, ...] = ()

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
    lost = next((name for name, default in WORK.items() if default is None and name not in found), None)
    if lost:
        raise FieldError(lost, f"{lost} is missing; it must be one of {_KNOWN}, or a list of these")
    axes = {
        name: _axis(name, found.get(name, default), _CHECKS[name], whole=name == "batch")
        for name, default in WORK.items()
    }
    axes |= {f"set.{name}": _field_axis(name, value) for name, value in flat(found.get("set", {})).items()}
    contents = {name: file_digest(name) for name in axes["network"] if is_file(name)}
    steps = {name: taped_step(name) for name in contents if is_tape(name)}
    tapes = {name: (step.method, step.patterns) for name, step in steps.items()}
    _check_taped(found, tapes, axes["network"])
    told = {name: file_notes(name, axes["batch"]) for name in contents if name not in steps}
    told |= {name: [f"left out {work.text}" for work in step.left_out] for name, step in steps.items()}
    total = prod(map(len, axes.values()))
    chosen = _chosen(found.get("random"), total)
    points: dict[tuple[Any, ...], Point] = {}
    machines = _Machines()
    for number in chosen:
        point = _point(len(points), _taken(axes, number), machines, contents, tapes)
        points.setdefault((point.config, *point.work, point.settings), point)
    _check_names(points.values())
    several = tuple(name for name, axis in axes.items() if len(axis) > 1)
    used = dict.fromkeys(point.method for point in points.values())
    told |= {name: [METHODS[name].host_note] for name in used if name in METHODS and METHODS[name].host_note}
    notes = tuple(f"{name}: {note}" for name, texts in told.items() for note in texts)
    return Plan(tuple(points.values()), several, len(chosen) - len(points), notes)


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
    return sorted(_drawn(random.Random(table.get("seed", 0)), total, table["points"]))


def _drawn(dice: random.Random, total: int, count: int) -> list[int]:
    """Return distinct numbers below `total`, which may be more than a range of Python has."""
    if total <= sys.maxsize:
        return dice.sample(range(total), count)
    found: dict[int, None] = {}
    while len(found) < count:
        found[dice.randrange(total)] = None
    return list(found)


class _Machines:
    """Machines of a sweep, each made once, however many points it has, and its file read once."""

    def __init__(self) -> None:
        self._found: dict[str, SatConfig] = {}
        self._known: dict[tuple[str, tuple[tuple[str, Any], ...]], tuple[SatConfig | None, str]] = {}

    def of(self, config: str, settings: tuple[tuple[str, Any], ...]) -> tuple[SatConfig | None, str]:
        """Return a machine, and why there is none."""
        key = config, settings
        if key not in self._known:
            if config not in self._found:
                self._found[config] = find_machine(config)
            try:
                self._known[key] = changed(self._found[config], dict(settings)), ""
            except ValueError as refused:
                self._known[key] = None, str(refused)
        return self._known[key]


def _check_taped(found: Mapping[str, Any], tapes: Mapping[str, object], networks: list[str]) -> None:
    """Raise FieldError for what counts for no network, since all are tapes."""
    given = next((key for key in TAPED if key in found), None)
    if given and len(tapes) == len(networks):
        which = f"network {networks[0]!r} is a tape" if len(networks) == 1 else "all networks are tapes"
        own = ", ".join(TAPED[:-1]) + f" and {TAPED[-1]}"
        text = f"{given} is {toml_value(found[given])}; {which}, and a tape holds {own} itself: leave {given} out"
        raise FieldError(given, text)


def _check_names(points: Iterable[Point]) -> None:
    """Raise FieldError if two machines of a sweep have one name: tables and pictures tell them apart by it."""
    known: dict[str, Point] = {}
    for point in points:
        if point.machine is None:
            continue
        first = known.setdefault(point.machine.name, point)
        if first.machine != point.machine:
            both = [_asked(one) for one in (first, point)]
            text = f"machine of {both[1]} has the name of that of {both[0]}, {point.machine.name!r}, and other values"
            raise FieldError("config", f"config is {point.config!r}; the {text}; give one of them another name")


def _asked(point: Point) -> str:
    settings = ", ".join(f"{name} = {toml_value(value)}" for name, value in point.settings)
    return f"{point.config!r}{f' with {settings}' if settings else ''}"


def _taken(axes: Mapping[str, list[Any]], number: int) -> dict[str, Any]:
    """Return the values of a combination by its number: the last axis runs fastest."""
    taken: dict[str, Any] = {}
    for name, axis in reversed(list(axes.items())):
        number, place = divmod(number, len(axis))
        taken[name] = axis[place]
    return {name: taken[name] for name in axes}


def _point(
    index: int,
    taken: Mapping[str, Any],
    machines: _Machines,
    contents: Mapping[str, str],
    tapes: Mapping[str, tuple[str, str]],
) -> Point:
    """Return the point of a combination. contents, tapes: SHA-256 of networks' files, method and pattern of tapes."""
    settings = tuple((name.removeprefix("set."), taken[name]) for name in taken if name.startswith("set."))
    machine, error = machines.of(taken["config"], settings)
    network, batch, method, pattern = (taken[key] for key in ("network", *TAPED))
    if network in tapes:
        batch, (method, pattern) = None, tapes[network]
    elif method == "dense":
        pattern = "dense"
    work = (taken["config"], network, batch, method, pattern)
    return Point(index, *work, settings, machine, error, contents.get(network, ""))


def _axis(name: str, value: Any, check: Callable[[Any], object], *, whole: bool = False) -> list[Any]:
    """Return the values of a key, each of them checked. whole: they are whole numbers."""
    values = _values(name, value, whole=whole)
    if not values:
        raise FieldError(name, f"{name} is {toml_value(value)}; it must hold a value")
    for one in values:
        try:
            check(one)
        except (TypeError, ValueError) as error:
            raise FieldError(name, f"{name.removesuffix(name.rpartition('.')[2])}{error}") from None
    return list(dict.fromkeys(values))


def _field_axis(name: str, value: Any) -> list[Any]:
    """Return the values of a field of the machine."""
    if name in SLICES:
        return _slices_axis(name, value)
    field = NUMBERS[name]
    values = _axis(f"set.{name}", value, field.check, whole=field.whole)
    return values if field.whole else [float(one) for one in values]


def _slices_axis(name: str, value: list[Any]) -> list[tuple[int, ...]]:
    """Return the values of slices: a list of places is one value, a list of such lists holds several."""
    several = value if any(isinstance(one, list) for one in value) else [value]
    for one in several:
        if not isinstance(one, list) or one != sorted(set(one)):
            wrong = one if isinstance(one, list) else value
            raise FieldError(f"set.{name}", f"set.{name} is {toml_value(wrong)}; {slices_text(name)}")
    return list(dict.fromkeys(map(tuple, several)))


def _values(name: str, value: Any, *, whole: bool) -> list[Any]:
    """Return the values that a value, a list or a range stands for. whole: those of a range are whole numbers."""
    if isinstance(value, list):
        return value
    if not isinstance(value, dict):
        return [value]
    if ("step" in value) == ("times" in value):
        raise FieldError(name, range_text(name, value))
    found = _span(value)
    if len(found) > MAX_POINTS:
        raise FieldError(name, f"{name} is {toml_value(value)}; it stands for more than {MAX_POINTS} values")
    if not whole:
        return [float(one) for one in found]
    odd = next((one for one in found if one % 1), None)
    if odd is not None:
        key = "from" if odd == found[0] else "step" if "step" in value else "times"
        field = f"{name}.{key}"
        text = f"{field} is {toml_value(value[key])}; {name} takes whole numbers, and the range has {float(odd)!r}"
        raise FieldError(field, text)
    return [int(one) for one in found]


def _span(value: Mapping[str, Any]) -> list[Decimal]:
    """Return the values of a range, in decimals as the file has them: 0.1 to 0.3 by 0.1 ends with 0.3.

    At most one more than `MAX_POINTS`.
    """
    found: list[Decimal] = []
    with localcontext(prec=SPAN_DIGITS):
        at, end, by = (Decimal(repr(value[key])) for key in ("from", "to", "step" if "step" in value else "times"))
        while at <= end and len(found) <= MAX_POINTS:
            found.append(at)
            at = at + by if "step" in value else at * by
            if at == found[-1]:
                break
    return found


def _network(name: object) -> None:
    if isinstance(name, str) and (name in NETWORKS or name in RENAMED):
        if name in RENAMED:
            trained_network(name)
        return
    if isinstance(name, str) and is_file(name):
        return
    raise ValueError(f"network is {name!r}; it must be one of {_KNOWN}")


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
