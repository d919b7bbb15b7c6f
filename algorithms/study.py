"""The accuracy table: networks x methods x patterns x seeds, each cell a run, kept on disk and never run twice."""

from __future__ import annotations

import json
import os
import statistics
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from typing import TYPE_CHECKING, Final

from algorithms.config import TrainConfig
from algorithms.methods import METHODS
from algorithms.results import read_lines, run_logged

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

PATTERNS: Final = ("2:4", "2:8", "4:8", "2:16", "1:8")
"""Patterns of the table."""

RECIPES: Final[dict[str, TrainConfig]] = {
    "resnet9": TrainConfig(network="resnet9", arithmetic="fast", epochs=8),
    "vit": TrainConfig(network="vit", arithmetic="fast", epochs=30, optimizer="adam", lr=2e-3, warmup=2.0),
    "vgg": TrainConfig(network="vgg", arithmetic="fast", epochs=8),
    "resnet18": TrainConfig(network="resnet18", arithmetic="fast", epochs=8),
    "resnet50": TrainConfig(network="resnet50", arithmetic="fast", epochs=10),
    "gpt": TrainConfig(network="gpt", arithmetic="fast", epochs=6, optimizer="adam", lr=2e-3, warmup=0.5),
    "mlp": TrainConfig(network="mlp", arithmetic="fast", epochs=8, weight_decay=1e-3),
}
"""Training recipe of each network of the table, the same for every method and pattern."""


ABLATIONS: Final[dict[str, dict[str, object]]] = {
    "no SR-STE term": {"decay": 0.0},
    "pruned from the master": {"prune_from": "master"},
    "dense for the first quarter": {"dense_epochs": 0.25},
    "first layer and classifier sparse": {"sparse_ends": True},
}
"""Changes to BDWP whose effect is measured one by one; dense_epochs as a share of the run."""


@dataclass(frozen=True)
class Cell:
    """One run of the table: a name, unique in it, and its configuration."""

    name: str
    config: TrainConfig


@dataclass(frozen=True)
class Row:
    """Mean and spread over seeds.

    variant: what differs from the recipe beside method, pattern and seed, as 'field=value'; empty for the recipe.
    loss_points: mean accuracy of the recipe's dense runs minus that of these, in percent points (None without them);
    bound: dense over kept multiply-adds of a step; macs_kept: multiply-adds of a run.
    """

    network: str
    method: str
    pattern: str
    variant: str
    seeds: int
    accuracy: float
    spread: float
    loss_points: float | None
    bound: float
    macs_kept: float
    sad_ff: float


def cells(
    networks: Sequence[str] = tuple(RECIPES),
    methods: Sequence[str] = METHODS,
    patterns: Sequence[str] = PATTERNS,
    seeds: Sequence[int] = (0, 1, 2),
    **changes: object,
) -> list[Cell]:
    """Return the cells of a table, seed by seed; 'dense' has one per seed. changes: to every configuration."""
    out = []
    for seed in seeds:
        for network in networks:
            if network not in RECIPES:
                raise ValueError(f"network is {network!r}; the table knows {', '.join(RECIPES)}")
            for method in methods:
                for pattern in patterns if method != "dense" else ("dense",):
                    fields = {"method": method, "seed": seed, **changes}
                    if method != "dense":
                        fields["pattern"] = pattern
                    name = f"{network}-{method}-{pattern.replace(':', 'of')}-seed{seed}"
                    out.append(Cell(name, RECIPES[network].replace(**fields)))
    return out


def ablation_cells(network: str, pattern: str = "2:8", seeds: Sequence[int] = (0, 1, 2)) -> list[Cell]:
    """Return dense and BDWP cells of a network and one BDWP cell per entry of `ABLATIONS` and seed."""
    out = cells([network], ["dense", "bdwp"], [pattern], seeds)
    for label, changes in ABLATIONS.items():
        fields = dict(changes)
        if "dense_epochs" in fields:
            fields["dense_epochs"] = float(str(fields["dense_epochs"])) * RECIPES[network].epochs
        for cell in cells([network], ["bdwp"], [pattern], seeds, **fields):
            out.append(Cell(f"{cell.name}-{label.replace(' ', '_')}", cell.config))
    return out


def variant(config: dict[str, object]) -> str:
    """Return what a configuration changes in its network's recipe beside method, pattern and seed."""
    recipe = RECIPES.get(str(config["network"]))
    if recipe is None:
        return ""
    own = recipe.as_dict()
    changed = [key for key in own if key not in ("method", "pattern", "seed") and own[key] != config.get(key)]
    return " ".join(f"{key}={config.get(key)}" for key in changed)


def finished(cell: Cell, folder: Path) -> dict[str, object] | None:
    """Return the summary of a cell that has been run with this very configuration, else None."""
    path = folder / f"{cell.name}.jsonl"
    if not path.exists():
        return None
    last = read_lines(path)[-1]
    return last if last.get("event") == "end" and last.get("config") == cell.config.as_dict() else None


def run_cells(
    wanted: Iterable[Cell],
    folder: Path,
    *,
    processes: int = 2,
    progress: Callable[[Cell, int, int], None] | None = None,
) -> list[dict[str, object]]:
    """Run the cells that are not finished and return the summaries of all.

    processes: at most this many at a time, each with one thread; progress(cell, done, total): after every cell. A cell
    that was interrupted continues from its checkpoint.
    """
    if processes < 1:
        raise ValueError(f"processes is {processes!r}; it must be at least 1")
    wanted = list(wanted)
    missing = [cell for cell in wanted if finished(cell, folder) is None]
    folder.mkdir(parents=True, exist_ok=True)
    for cell in missing:
        _drop_other(cell, folder)
    with _one_thread(), ProcessPoolExecutor(processes, get_context("spawn")) as pool:
        jobs = {pool.submit(_run, cell, folder): cell for cell in missing}
        for done, job in enumerate(as_completed(jobs), 1):
            job.result()
            if progress is not None:
                progress(jobs[job], done, len(missing))
    summaries = [finished(cell, folder) for cell in wanted]
    return [summary for summary in summaries if summary is not None]


def table(summaries: Iterable[dict[str, object]]) -> list[Row]:
    """Gather summaries into rows: same network, method, pattern and variant, different seeds."""
    groups: dict[tuple[str, str, str, str], list[dict]] = {}
    for summary in summaries:
        config = summary["config"]
        if not isinstance(config, dict):
            raise ValueError(f"summary holds no configuration: {summary!r}")
        pattern = "dense" if config["method"] == "dense" else config["pattern"]
        groups.setdefault((config["network"], config["method"], pattern, variant(config)), []).append(summary)
    dense = {key[0]: _mean(runs, "accuracy") for key, runs in groups.items() if (key[1], key[3]) == ("dense", "")}
    rows = []
    for (network, method, pattern, changed), runs in groups.items():
        values = [float(run["accuracy"]) for run in runs]
        mean = statistics.fmean(values)
        lost = 100 * (dense[network] - mean) if network in dense else None
        spread = statistics.stdev(values) if len(values) > 1 else 0.0
        counts = (_mean(runs, "bound"), _mean(runs, "macs_kept"), _mean(runs, "sad_ff"))
        rows.append(Row(network, method, pattern, changed, len(runs), mean, spread, lost, *counts))
    return rows


def _mean(runs: list[dict], key: str) -> float:
    return statistics.fmean(float(run[key]) for run in runs)


def _run(cell: Cell, folder: Path) -> None:
    run_logged(cell.config, folder, cell.name)


def _drop_other(cell: Cell, folder: Path) -> None:
    """Remove what an older configuration of this cell left; a checkpoint of the same one stays."""
    lines = folder / f"{cell.name}.jsonl"
    checkpoint = folder / f"{cell.name}.npz"
    if not checkpoint.exists():
        return
    from algorithms.checkpoint import load_checkpoint

    if load_checkpoint(checkpoint).meta["config"] != json.loads(json.dumps(cell.config.as_dict())):
        checkpoint.unlink()
        lines.unlink(missing_ok=True)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Let processes started here compute with one thread each: as many of them as asked for share the machine."""
    names = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
    old = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, "1"))
    try:
        yield
    finally:
        for name, value in old.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
