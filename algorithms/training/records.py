"""Records of complete runs: the lines of a results file, each value looked at before any is taken over."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from nmsat.algorithms.core.ranges import MAX_SHIFT, short
from nmsat.algorithms.core.schema import MISSING, checked, limits
from nmsat.algorithms.training.config import TrainConfig, parse_config
from nmsat.algorithms.training.outcome import Epoch
from nmsat.algorithms.training.results import read_lines

if TYPE_CHECKING:
    from pathlib import Path

    from msgspec import Struct

_COUNT: Final = 1 << 63
"""Beyond all counts of a record."""

_MEANS: Final = ("sad_ff", "sad_bp")
"""What the end line has as means over the epochs; the rest of an epoch it has as the last epoch has it."""


@dataclass(frozen=True)
class Record:
    """A complete run: its configuration, its epochs with the fields of `Epoch`, and its end line."""

    config: TrainConfig
    epochs: list[dict[str, Any]]
    summary: dict[str, Any]


def read_record(path: Path) -> Record | None:
    """Return what a results file holds of a complete run; None if there is no file, or if the run goes on.

    ValueError, one line with file, line and value, for a file that no run has written so: a field that is missing,
    unknown, of another kind or out of range, lines of another configuration, an end that is not that of its epochs.
    """
    if not path.exists():
        return None
    lines: list[dict[str, Any]] = read_lines(path)
    if not lines or lines[-1]["event"] != "end":
        return None
    for number, line in enumerate(lines, 1):
        try:
            _check_line(line, _event(number, len(lines)), number - 1)
        except ValueError as error:
            raise _wrong(path, number, str(error)) from None
    first, *epochs, last = lines
    try:
        config = parse_config(last["config"])
        _check_end(config, first, epochs, last)
    except ValueError as error:
        raise _wrong(path, len(lines), str(error)) from None
    return Record(config, [{name: line[name] for name in _names()} for line in epochs], last)


def _wrong(path: Path, number: int, what: str) -> ValueError:
    return ValueError(f"results {str(path)!r} line {number}: {what}; delete the file to do the run again")


def _event(number: int, count: int) -> str:
    return "run" if number == 1 else "end" if number == count else "epoch"


def _names() -> tuple[str, ...]:
    return tuple(field.name for field in fields(Epoch))


def _check_line(line: dict[str, Any], event: str, epoch: int) -> None:
    """Raise ValueError for a line that is not of its event, or has another number of an epoch."""
    if line["event"] != event:
        raise ValueError(f"event is {short(line['event'])}; it must be {event!r}")
    checked(line, _schemas()[event], _refused)
    for name, value in line.items():
        if isinstance(value, float) and not math.isfinite(value) and name not in ("loss", "test_loss"):
            raise ValueError(f"{name} is {value!r}; it must be finite")
    if event == "epoch" and line["epoch"] != epoch:
        raise ValueError(f"epoch is {line['epoch']!r}; it must be {epoch}")


def _check_end(config: TrainConfig, first: dict[str, Any], epochs: list[dict[str, Any]], last: dict[str, Any]) -> None:
    """Raise ValueError for an end line that does not follow from the lines before."""
    if first["config"] != last["config"]:
        raise ValueError("config is another than that of line 1")
    if len(epochs) != config.epochs:
        raise ValueError(f"epochs is {config.epochs} in config; the file has lines of {len(epochs)}")
    for name in _names():
        values = [line[name] for line in epochs]
        wanted = math.fsum(values) / len(values) if name in _MEANS else values[-1]
        if not _same(last[name], wanted):
            told = "mean of the epochs" if name in _MEANS else "last epoch"
            raise ValueError(f"{name} is {last[name]!r}; the {told} has {wanted!r}")


def _same(one: float, other: float) -> bool:
    """Whether two numbers are equal but for the order of sums; no number equals no number."""
    return math.isclose(one, other, rel_tol=1e-9) or (math.isnan(one) and math.isnan(other))


@cache
def _schemas() -> dict[str, type[Struct]]:
    """Return what each line may hold; an epoch has the fields of `Epoch`."""
    from msgspec import defstruct

    share, count = limits(0, 1, whole=False), limits(0, _COUNT - 1, whole=True)
    epoch: dict[str, Any] = dict.fromkeys(_names(), count)
    epoch |= {"loss": float, "test_loss": float, "accuracy": share, "sad_ff": share, "sad_bp": share}
    epoch |= {"shift": limits(0, MAX_SHIFT, whole=True)}
    run = {"config": dict[str, Any]}
    end = {**run, **epoch, "macs_dense": count, "macs_kept": count}
    end |= {"bound": limits(0, _COUNT, whole=False, above=True), "seconds": limits(0, _COUNT, whole=False)}
    end |= {"weights_sha256": str, "losses_sha256": str}
    kinds = {"run": run, "epoch": epoch, "end": end}
    optional = {"end": [("method_sha256", str, "")]}
    return {
        event: defstruct(
            event.title(), [("event", str), *own.items(), *optional.get(event, [])], forbid_unknown_fields=True
        )
        for event, own in kinds.items()
    }


_WANTED: Final = {
    **dict.fromkeys(("accuracy", "sad_ff", "sad_bp"), "a number from 0 to 1"),
    **dict.fromkeys(("loss", "test_loss"), "a number"),
    **dict.fromkeys(("weights_sha256", "losses_sha256", "method_sha256"), "a text"),
    "bound": "a number above 0",
    "seconds": "a number of seconds",
    "shift": f"a whole number from 0 to {MAX_SHIFT}",
    "config": "a JSON object",
}


def _refused(name: str, value: object) -> str:
    if value is MISSING:
        return f"{name} is missing"
    known = name in _WANTED or name in _names() or name.startswith("macs_")
    if not known:
        return f"{name} is {short(value)}; there is no such field"
    return f"{name} is {short(value)}; it must be {_WANTED.get(name, 'a whole number from 0')}"
