"""Results of runs as JSON lines, and runs that write them."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Final

from nmsat.algorithms.core.files import write_text
from nmsat.algorithms.core.locks import locked
from nmsat.algorithms.training.train import Trainer, train

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from nmsat.algorithms.training.config import TrainConfig
    from nmsat.algorithms.training.data import Dataset
    from nmsat.algorithms.training.outcome import Epoch, Progress, TrainResult


MOST_BYTES: Final = 255 - len("..lock")
"""Most bytes of a run's name in the names of its files, the longest of which is that of its lock; a file system has
255."""


def file_stem(name: str) -> str:
    """Return what names of a run's files begin with: its name, or its beginning and a digest where it is too long.

    The lines hold the whole configuration, from which the name follows.
    """
    if len(name.encode()) <= MOST_BYTES:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:32]
    start = name.encode()[: MOST_BYTES - len(digest) - 1].decode(errors="ignore")
    return f"{start}~{digest}"


def write_lines(path: Path, result: TrainResult, *, done: bool) -> None:
    """Write a run: one 'run' line (configuration), one 'epoch' line each, and an 'end' line (summary) when done.

    The file is replaced as a whole, so a resumed run leaves the same lines as one that was never stopped.
    """
    text = epoch_lines(result.config, result.epochs)
    if done:
        text += json.dumps({"event": "end", **result.summary()}) + "\n"
    write_text(path, text)


def epoch_lines(config: TrainConfig, epochs: Iterable[Epoch]) -> str:
    """Return the text of a results file without the 'end' line."""
    lines: list[dict[str, object]] = [{"event": "run", "config": config.as_dict()}]
    lines += [{"event": "epoch", **asdict(epoch)} for epoch in epochs]
    return "".join(json.dumps(line) + "\n" for line in lines)


def read_lines(path: Path) -> list[dict[str, object]]:
    """Return the lines of a results file; ValueError names the line that is no JSON object with an event."""
    out = []
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{str(path)!r} is no text ({error})") from None
    for number, line in enumerate(text.splitlines(), 1):
        try:
            fields = json.loads(line)
        except ValueError as error:  # also that of a number of thousands of digits
            raise ValueError(f"{str(path)!r} line {number} is not JSON ({error})") from None
        except RecursionError:
            raise ValueError(f"{str(path)!r} line {number} is not JSON that can be read: nested too deep") from None
        if not isinstance(fields, dict) or "event" not in fields:
            raise ValueError(f"{str(path)!r} line {number} is no line of results (a JSON object with an event)")
        out.append(fields)
    return out


def run_logged(
    config: TrainConfig,
    folder: Path,
    name: str,
    *,
    progress: Callable[[Progress], None] | None = None,
    data: Dataset | None = None,
    stop: Callable[[], bool] | None = None,
    every: int = 0,
    make: Callable[[TrainConfig, Dataset | None], Trainer] = Trainer,
) -> TrainResult:
    """Train with a checkpoint in folder/<name>.npz and results in folder/<name>.jsonl; the rest as in `train`.

    name: of the run; a long one is shortened as `file_stem` does.

    An interrupted run continues where its checkpoint stands; the checkpoint goes when the run is complete. BusyError if
    another process does a run of this name in the folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    stem = file_stem(name)
    checkpoint = folder / f"{stem}.npz"
    with locked(lock_file(folder, name)):
        result = train(config, progress=progress, data=data, checkpoint=checkpoint, stop=stop, every=every, make=make)
        done = len(result.epochs) == config.epochs
        write_lines(folder / f"{stem}.jsonl", result, done=done)
        if done:
            checkpoint.unlink(missing_ok=True)
    return result


def lock_file(folder: Path, name: str) -> Path:
    """Return the lock file of a run: there while the run is under way."""
    return folder / f".{file_stem(name)}.lock"
