"""Results of runs as JSON lines, and runs that write them."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

from nmsat.algorithms.training.train import Trainer, train

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from nmsat.algorithms.training.config import TrainConfig
    from nmsat.algorithms.training.data import Dataset
    from nmsat.algorithms.training.train import Progress, TrainResult


def write_lines(path: Path, result: TrainResult, *, done: bool) -> None:
    """Write a run: one 'run' line (configuration), one 'epoch' line each, and an 'end' line (summary) when done.

    The file is replaced as a whole, so a resumed run leaves the same lines as one that was never stopped.
    """
    lines: list[dict[str, object]] = [{"event": "run", "config": result.config.as_dict()}]
    lines += [{"event": "epoch", **asdict(epoch)} for epoch in result.epochs]
    if done:
        lines.append({"event": "end", **result.summary()})
    temporary = path.with_name(path.name + ".part")
    temporary.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    temporary.replace(path)


def read_lines(path: Path) -> list[dict[str, object]]:
    """Return the lines of a results file; ValueError names the line that is not JSON."""
    out = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            out.append(json.loads(line))
        except json.JSONDecodeError as error:
            raise ValueError(f"{str(path)!r} line {number} is not JSON ({error})") from None
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

    An interrupted run continues where its checkpoint stands; the checkpoint goes when the run is complete.
    """
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint = folder / f"{name}.npz"
    result = train(config, progress=progress, data=data, checkpoint=checkpoint, stop=stop, every=every, make=make)
    done = len(result.epochs) == config.epochs
    write_lines(folder / f"{name}.jsonl", result, done=done)
    if done:
        checkpoint.unlink(missing_ok=True)
    return result
