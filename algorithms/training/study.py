"""The accuracy table: networks x methods x patterns x seeds, each cell a run, kept on disk and never run twice."""

from __future__ import annotations

import os
import statistics
import time
from concurrent.futures import as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from nmsat.algorithms.core.vocabulary import METHODS, SMALL_NETWORKS, SR_STE_DECAY
from nmsat.algorithms.methods import prunes_by_magnitude
from nmsat.algorithms.methods.files import read_method_files
from nmsat.algorithms.training.config import TrainConfig, parse_config
from nmsat.algorithms.training.recipes import RATES, changes, dense_changes, recipe, run_name, task
from nmsat.algorithms.training.records import read_record
from nmsat.algorithms.training.results import file_stem, run_logged
from nmsat.algorithms.training.resume import other_source
from nmsat.algorithms.training.workers import interruptible, workers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from nmsat.algorithms.training.records import Record

PATTERNS: Final = ("2:4", "2:8", "4:8", "2:16", "1:8")
"""Patterns of the table."""

TABLE_NETWORKS: Final = (*SMALL_NETWORKS, "gpt", "mlp")
"""Networks of the table."""

SEEDS: Final = (0, 1, 2, 3, 4)
"""Seeds of the table."""

ABLATED: Final = ("vgg19-small", "resnet18-small")
"""Networks of the ablations."""

RATE_SEEDS: Final = (10, 11)
"""Seeds of the runs that choose learning rates, none of the table's; on images of a folder the first alone."""


FIVE_TIMES: Final = "five times the SR-STE term"
DENSE_FIRST: Final = "dense for the first quarter"

ABLATIONS: Final[dict[str, dict[str, object]]] = {
    "no SR-STE term": {"decay": 0.0},
    "pruned from the master": {"prune_from": "master"},
    FIVE_TIMES: {"decay": 5 * SR_STE_DECAY},
    DENSE_FIRST: {"dense_epochs": 0.25},
    f"{FIVE_TIMES}, {DENSE_FIRST}": {"decay": 5 * SR_STE_DECAY, "dense_epochs": 0.25},
    "first layer and classifier sparse": {"sparse_ends": True},
    "2:4 in FF": {"patterns": "rest@2:4~2:8"},
    "2:4 in BP": {"patterns": "rest@2:8~2:4"},
}
"""Changes to BDWP 2:8 whose effect is measured; dense_epochs as a share of the run."""

CLOSING: Final = (FIVE_TIMES, DENSE_FIRST, f"{FIVE_TIMES}, {DENSE_FIRST}")
"""What lost least on the validation split at the cycles of a BDWP step: measured again on the test split, by the seeds
of the table."""


@dataclass(frozen=True)
class Cell:
    """One run of the table: a name, unique in it, and its configuration."""

    name: str
    config: TrainConfig


@dataclass(frozen=True)
class Row:
    """Mean and spread over seeds.

    network: as `recipes.task` names it; variant: what differs from the recipe beside method, pattern and seed, as
    'field=value'; empty for the recipe. loss_points: mean accuracy of the dense runs with the same seeds, data and
    length (`recipes.dense_changes`) minus that of these, in percent points (None without them); by_seed: the same of
    each seed; bound: dense over kept multiply-adds of a step; macs_kept: multiply-adds of a run; sad_ff, sad_bp: mean
    share of mask elements that change per update.
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
    sad_bp: float
    by_seed: tuple[float, ...] = ()


def cells(
    networks: Sequence[str] = TABLE_NETWORKS,
    methods: Sequence[str] = tuple(METHODS),
    patterns: Sequence[str] = PATTERNS,
    seeds: Sequence[int] = SEEDS,
    data: str = "",
    **changes: object,
) -> list[Cell]:
    """Return the cells of a table, seed by seed; 'dense' has one per seed.

    data: as in `TrainConfig`; changes: to every configuration.
    """
    out = []
    for seed in seeds:
        for network in networks:
            for method in methods:
                for pattern in patterns if method != "dense" else ("dense",):
                    fields = {"method": method, "seed": seed, **changes}
                    if method != "dense":
                        fields["pattern"] = pattern
                    out.append(make_cell(recipe(network, data).replace(**fields)))
    return out


def own_cells(found: Iterable[Cell], patterns: str) -> list[Cell]:
    """Return the cells again, with patterns by layer, of methods that can have them, at the first pattern of each.

    ValueError if there is none.
    """
    out: dict[tuple[str, str, int], Cell] = {}
    for cell in found:
        config = cell.config
        if prunes_by_magnitude(config.method):
            key = config.network, config.method, config.seed
            out.setdefault(key, make_cell(config.replace(patterns=patterns)))
    if not out:
        raise ValueError(f"patterns by layer are {patterns!r}; none of the methods can have them")
    return list(out.values())


def make_cell(config: TrainConfig) -> Cell:
    """Return the cell of a configuration under its own name."""
    return Cell(run_name(config), config)


def ablation_cells(
    network: str, pattern: str = "2:8", seeds: Sequence[int] = SEEDS, data: str = "", **changes: object
) -> list[Cell]:
    """Return dense and BDWP cells of a network and one BDWP cell per entry of `ABLATIONS` and seed.

    changes: to every configuration.
    """
    out = cells([network], ["dense", "bdwp"], [pattern], seeds, data, **changes)
    return out + changed_cells(network, tuple(ABLATIONS), pattern, seeds, data, **changes)


def changed_cells(
    network: str, labels: Sequence[str], pattern: str, seeds: Sequence[int], data: str = "", **changes: object
) -> list[Cell]:
    """Return one BDWP cell per named entry of `ABLATIONS` and seed; changes: to every configuration."""
    out = []
    for label in labels:
        fields = dict(ABLATIONS[label])
        if "dense_epochs" in fields:
            fields["dense_epochs"] = float(str(fields["dense_epochs"])) * recipe(network, data).epochs
        own = cells([network], ["bdwp"], [pattern], seeds, data, **changes)
        out += [make_cell(cell.config.replace(**fields)) for cell in own]
    return out


def rate_cells(network: str, seeds: Sequence[int] = (), data: str = "") -> list[Cell]:
    """Return the runs that choose a network's learning rate: dense and BDWP 2:8, on the validation split alone.

    seeds: none for those of `RATE_SEEDS`.
    """
    rates = RATES[recipe(network, data).optimizer]
    chosen = seeds or (RATE_SEEDS[:1] if data else RATE_SEEDS)
    return [
        cell
        for rate in rates
        for cell in cells([network], ["dense", "bdwp"], ["2:8"], chosen, data, lr=rate, split="validation")
    ]


def best_rate(summaries: Iterable[dict[str, object]]) -> float:
    """Return the learning rate with the highest mean accuracy over runs of one network; of equals the lowest."""
    found: dict[float, list[float]] = {}
    for summary in summaries:
        found.setdefault(config_of(summary).lr, []).append(float(str(summary["accuracy"])))
    return max(sorted(found), key=lambda rate: statistics.fmean(found[rate]))


def config_of(summary: dict[str, object]) -> TrainConfig:
    """Return the configuration of a summary; ValueError for one that no run can have."""
    fields = summary.get("config")
    if not isinstance(fields, dict):
        raise ValueError(f"summary holds no configuration: {summary!r}")
    return parse_config(fields)


def record_of(cell: Cell, folder: Path) -> Record | None:
    """Return the record of a cell that has been run with this very configuration, else None.

    ValueError names the file and what is wrong in it (`training.records`), also where the method is a user's whose file
    has changed since.
    """
    path = folder / f"{file_stem(cell.name)}.jsonl"
    found = read_record(path)
    if found is None or found.config != cell.config:
        return None
    if other_source(found.summary, cell.config.method):
        raise ValueError(
            f"results {str(path)!r} were written with another text of the file that registers method "
            f"{cell.config.method!r}; delete them to do the run again"
        )
    return found


def finished(cell: Cell, folder: Path) -> dict[str, object] | None:
    """Return the summary of a cell that has been run with this very configuration, else None; as `record_of`."""
    found = record_of(cell, folder)
    return None if found is None else found.summary


def run_cells(
    wanted: Iterable[Cell],
    folder: Path,
    *,
    processes: int = 2,
    until: float | None = None,
    progress: Callable[[Cell, int, int], None] | None = None,
) -> list[dict[str, object]]:
    """Run the cells that are not finished, in their order, and return the summaries of all that are then.

    processes: at most this many at a time, each with one thread; until: time (`time.time`) at which runs stop where
    they are, with a checkpoint, and no other begins; progress(cell, done, total): after every cell. A cell that was
    interrupted continues from its checkpoint.
    """
    if processes < 1:
        raise ValueError(f"processes is {processes!r}; it must be at least 1")
    wanted = list(wanted)
    missing = [cell for cell in wanted if finished(cell, folder) is None]
    folder.mkdir(parents=True, exist_ok=True)
    with _one_thread(), workers(processes) as pool:
        jobs = {pool.submit(_run, cell, folder, until): cell for cell in missing}
        for done, job in enumerate(as_completed(jobs), 1):
            job.result()
            if progress is not None:
                progress(jobs[job], done, len(missing))
    summaries = [finished(cell, folder) for cell in wanted]
    return [summary for summary in summaries if summary is not None]


def table(summaries: Iterable[dict[str, object]]) -> list[Row]:
    """Gather summaries into rows: same network and data, method, pattern and variant, different seeds."""
    groups: dict[tuple[str, str, str, str], list[dict[str, object]]] = {}
    dense: dict[tuple[str, str, int], float] = {}
    for summary in summaries:
        config = config_of(summary)
        pattern = "dense" if config.method == "dense" else config.pattern
        groups.setdefault((task(config), config.method, pattern, _told(changes(config))), []).append(summary)
        if config.method == "dense":
            dense[_pair(config)] = float(str(summary["accuracy"]))
    return [_row(key, runs, dense) for key, runs in groups.items()]


def _told(changed: dict[str, object]) -> str:
    return " ".join(f"{key}={value}" for key, value in changed.items())


def _pair(config: TrainConfig) -> tuple[str, str, int]:
    """Return what a run has in common with the dense run that it is compared with."""
    return task(config), _told(dense_changes(config)), config.seed


def _row(
    key: tuple[str, str, str, str], runs: list[dict[str, object]], dense: dict[tuple[str, str, int], float]
) -> Row:
    runs = sorted(runs, key=lambda run: config_of(run).seed)
    values = [float(str(run["accuracy"])) for run in runs]
    paired = [dense.get(_pair(config_of(run))) for run in runs]
    losses = tuple(100 * (one - value) for one, value in zip(paired, values, strict=True) if one is not None)
    return Row(
        *key,
        seeds=len(runs),
        accuracy=statistics.fmean(values),
        spread=statistics.stdev(values) if len(values) > 1 else 0.0,
        loss_points=statistics.fmean(losses) if len(losses) == len(runs) else None,
        bound=_mean(runs, "bound"),
        macs_kept=_mean(runs, "macs_kept"),
        sad_ff=_mean(runs, "sad_ff"),
        sad_bp=_mean(runs, "sad_bp"),
        by_seed=losses if len(losses) == len(runs) else (),
    )


def _mean(runs: list[dict[str, object]], key: str) -> float:
    return statistics.fmean(float(str(run[key])) for run in runs)


def _run(cell: Cell, folder: Path, until: float | None) -> None:
    def late() -> bool:
        return until is not None and time.time() >= until

    if not late():
        read_method_files()
        with interruptible():
            run_logged(cell.config, folder, cell.name, stop=late)


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
