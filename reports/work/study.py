"""The accuracy table: runs on disk gathered into plain values, with what a step of each costs on SAT."""

from __future__ import annotations

import statistics
from dataclasses import asdict
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from nmsat.algorithms.core.vocabulary import METHODS, PAPER_NETWORKS, SMALL_NETWORKS, trained_network
from nmsat.algorithms.training.data import load_dataset
from nmsat.algorithms.training.named_data import load_named
from nmsat.algorithms.training.recipes import changes, order_of, parse_name, recipe, run_name
from nmsat.algorithms.training.recipes import task as task_of
from nmsat.algorithms.training.study import (
    ABLATIONS,
    PATTERNS,
    Cell,
    best_rate,
    config_of,
    finished,
    rate_cells,
    record_of,
    run_cells,
    table,
)
from nmsat.dataflow.contract.config import preset
from nmsat.reports.work.losses import half_width
from nmsat.reports.work.progress import task
from nmsat.reports.work.training import sat_step, train_command
from nmsat.sim.results.provenance import Source

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from nmsat.algorithms.training.config import TrainConfig
    from nmsat.algorithms.training.plan import Part
    from nmsat.dataflow.contract.config import SatConfig

PAPER_LOSS: Final = 0.56
"""Mean loss of accuracy of BDWP 2:8 over the paper's networks, percent points (Fang et al., TCAD 2024)."""

_ORDER: Final = {"dense": -1, **{pattern: place for place, pattern in enumerate(PATTERNS)}}


def check_rates(cells: Iterable[Cell], folder: Path) -> None:
    """Raise ValueError for a record in folder of the runs that chose the learning rates of these cells' networks, if it
    cannot be used: the page reads them after the last run."""
    for network, data in dict.fromkeys((cell.config.network, cell.config.data) for cell in cells):
        for cell in _rate_cells(network, data):
            finished(cell, folder)


def run_study(
    cells: Sequence[Cell], folder: Path, processes: int, until: float | None = None
) -> list[dict[str, Any]]:
    """Run the cells that folder does not hold complete, show the progress, and return the summaries of all.

    until: time at which it stops where it is; the summaries are then of the cells that are complete.
    """
    missing = sum(finished(cell, folder) is None for cell in cells)
    with task("study", missing, "run") as running:

        def show(cell: Cell, done: int, total: int) -> None:
            del done, total  # of this call; the bar counts the same
            running.advance(shown={"last": cell.name})

        return run_cells(cells, folder, processes=processes, until=until, progress=show)


def gather(
    summaries: Sequence[dict[str, Any]], folder: Path, machine: SatConfig, parts: Sequence[Part] = ()
) -> dict[str, Any]:
    """Return everything that the page and the plots show as plain values for JSON.

    summaries: of finished runs. Learning rates come from the validation runs that folder holds; parts: the plan, whose
    missing runs are told.
    """
    rates = {cell.name for task in _tasks(summaries) for cell in _rate_cells(*task)}
    summaries = [summary for summary in summaries if run_name(config_of(summary)) not in rates]
    rows = [_row(row, summaries, machine) for row in table(summaries)]
    rows.sort(key=lambda row: (_place(row), row["variant"]))
    main = [row for row in rows if not row["variant"]]
    return {
        "machine": machine.name,
        "source": Source.MACHINE,
        "data": {task_of(recipe(*task)): _data(*task) for task in _tasks(summaries)},
        "planned": list(machine.planned),
        "plan": [_part(part, folder) for part in parts],
        "paper_loss": PAPER_LOSS,
        "paper": _paper(summaries, main),
        "rows": main,
        "ablations": _ablations(rows),
        "own": _own(rows),
        "masks": _masks(summaries, folder),
        "rates": [found for task in _tasks(summaries) if (found := _rates(task, folder))],
        "recipes": {task_of(recipe(*task)): recipe(*task).as_dict() for task in _tasks(summaries)},
        "runs": [_run(summary, machine) for summary in sorted(summaries, key=lambda s: run_name(config_of(s)))],
    }


def _tasks(summaries: Iterable[dict[str, Any]]) -> list[tuple[str, str]]:
    """Return (network, data) of the runs, in the order of the recipes, images of a folder first."""
    found = {(config.network, config.data) for config in map(config_of, summaries)}
    return sorted(found, key=lambda task: (not task[1], order_of(task[0]), task[1]))


def _rate_cells(network: str, data: str) -> list[Cell]:
    return rate_cells(network, data=data)


def _data(network: str, data: str) -> dict[str, Any]:
    """Return what a network learns from: its source, and how many labels of the test split count."""
    found = load_named(data) if data else load_dataset(str(trained_network(network).data))
    return {"source": found.source, "test": found.y_test.size, "best": found.best}


def _part(part: Part, folder: Path) -> dict[str, Any]:
    missing = [cell.name for cell in part.cells if finished(cell, folder) is None]
    return {"title": part.title, "runs": len(part.cells), "missing": missing}


def retimed(data: dict[str, Any]) -> dict[str, Any]:
    """Return the data of a study with the SAT cycles of its rows timed by the machine, accuracies as they are."""
    machine = preset(data["machine"])
    configs = [parse_name(run["name"]) for run in data["runs"]]
    # the arithmetic of the host that computed a run is none of the machine's
    configs = [config.replace(arithmetic=recipe(config.network).arithmetic) for config in configs]

    def again(row: dict[str, Any]) -> dict[str, Any]:
        return row | {"sat": _sat(_same(row, configs)[0].replace(seed=0), machine)}

    with task("SAT cycles", len(data["rows"]), "row") as running:
        rows = []
        for row in data["rows"]:
            running.now(f"{row['network']} {row['method']} {row['pattern']}")
            rows.append(again(row))
            running.advance()
    speed = {row["network"]: row["sat"] for row in rows if (row["method"], row["pattern"]) == ("bdwp", "2:8")}
    paper = [row | {"speedup": speed[row["network"]]["speedup"]} for row in data["paper"]]
    ablations = [again(row) for row in data["ablations"]]
    own = [row | _own_cycles(row, configs, machine) for row in data.get("own", [])]
    origin = {"source": Source.MACHINE, "planned": list(machine.planned)}
    return data | origin | {"rows": rows, "paper": paper, "ablations": ablations, "own": own}


def _own_cycles(row: dict[str, Any], configs: Iterable[TrainConfig], machine: SatConfig) -> dict[str, Any]:
    """Return the cycles of a row of patterns by layer, and those of its one pattern in all layers."""
    key = (row["network"], row["method"], row["pattern"], row["patterns"])
    config = next(c for c in configs if (task_of(c), c.method, c.pattern, c.patterns) == key).replace(seed=0)
    uniform = config.replace(patterns="")
    return {"cycles": _sat(config, machine)["cycles"], "uniform_cycles": _sat(uniform, machine)["cycles"]}


def _row(row: Any, summaries: Sequence[dict[str, Any]], machine: SatConfig) -> dict[str, Any]:
    same = _same(asdict(row), map(config_of, summaries))
    found = _sat(same[0].replace(seed=0), machine)
    return {**asdict(row), "run_seeds": sorted(config.seed for config in same), "sat": found}


def _same(row: dict[str, Any], configs: Iterable[TrainConfig]) -> list[TrainConfig]:
    """Return the runs of a row."""
    return [
        config
        for config in configs
        if (task_of(config), config.method) == (row["network"], row["method"])
        and row["pattern"] in ("dense", config.pattern)
        and _text(config) == row["variant"]
    ]


@lru_cache(maxsize=4096)
def _sat(config: TrainConfig, machine: SatConfig) -> dict[str, Any]:
    return sat_step(config, machine)


def _text(config: TrainConfig) -> str:
    return " ".join(f"{key}={value}" for key, value in changes(config).items())


def _place(row: dict[str, Any]) -> tuple[bool, int, int, int]:
    network, _, images = row["network"].partition("/")
    methods = list(METHODS)
    pattern = _ORDER.get(row["pattern"], len(_ORDER))
    return not images, order_of(network), methods.index(row["method"]), pattern


def _paper(summaries: Sequence[dict[str, Any]], rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the loss of BDWP 2:8 against dense on the paper's networks, seed by seed."""
    out = []
    for network in dict.fromkeys(row["network"] for row in rows):
        if network.partition("/")[0] not in (*PAPER_NETWORKS, *SMALL_NETWORKS):
            continue
        dense = _by_seed(summaries, network, "dense")
        bdwp = _by_seed(summaries, network, "bdwp")
        seeds = sorted(dense.keys() & bdwp.keys())
        losses = [100 * (dense[seed] - bdwp[seed]) for seed in seeds]
        row = next((r for r in rows if (r["network"], r["method"], r["pattern"]) == (network, "bdwp", "2:8")), None)
        if row is None or not losses:
            continue
        out.append(
            {
                "network": network,
                "seeds": len(losses),
                "dense": statistics.fmean(dense[seed] for seed in seeds),
                "bdwp": statistics.fmean(bdwp[seed] for seed in seeds),
                "loss": statistics.fmean(losses),
                "error": statistics.stdev(losses) / len(losses) ** 0.5 if len(losses) > 1 else None,
                "speedup": row["sat"]["speedup"],
                "bound": row["sat"]["bound"],
            }
        )
    return out


def _by_seed(summaries: Iterable[dict[str, Any]], network: str, method: str) -> dict[int, float]:
    """Return the accuracy of the recipe's runs of a method (at 2:8) by seed; network: as `recipes.task` names it."""
    configs = ((config_of(summary), summary["accuracy"]) for summary in summaries)
    return {
        config.seed: accuracy
        for config, accuracy in configs
        if (task_of(config), config.method) == (network, method)
        and (method == "dense" or config.pattern == "2:8")
        and not changes(config)
    }


def _ablations(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return BDWP 2:8 as it is and with each of its changes, of networks that have them.

    With label; `gain` over BDWP as it is over the seeds of both, percent points, and `half_width` of its interval (None
    where no seed is); `share` of the multiply-adds of the dense run (None without one).
    """
    labelled = [(row, _label(row["variant"])) for row in rows if (row["method"], row["pattern"]) == ("bdwp", "2:8")]
    plain = {(row["network"], row["variant"]): row for row, label in labelled if label == _LABELS[0]}
    dense = {(row["network"], row["variant"]): row["macs_kept"] for row in rows if row["method"] == "dense"}
    found = []
    for row, label in labelled:
        if label is not None:
            key = row["network"], _key(row["variant"])
            gains = [] if label == _LABELS[0] else _gains(plain.get(key), row)
            share = row["macs_kept"] / dense[key] if key in dense else None
            found.append({**row, "label": label, "share": share, **_mean_gain(gains)})
    changed = {row["network"] for row in found if row["variant"]}
    found = [row for row in found if row["network"] in changed]
    labels = list(_LABELS)
    return sorted(found, key=lambda row: (_place(row), _key(row["variant"]), labels.index(row["label"])))


def _own(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return what patterns by layer gain over one pattern in all layers, seed by seed, percent points of accuracy."""
    by_key = {(row["network"], row["method"], row["pattern"], row["variant"]): row for row in rows}
    out = []
    for row in rows:
        changed = row["variant"].split()
        texts = [word.partition("=")[2] for word in changed if word.startswith("patterns=")]
        rest = " ".join(word for word in changed if not word.startswith("patterns="))
        uniform = by_key.get((row["network"], row["method"], row["pattern"], rest))
        gains = _gains(uniform, row)
        if texts and uniform is not None and gains:
            out.append(
                {
                    "network": row["network"],
                    "method": row["method"],
                    "pattern": row["pattern"],
                    "patterns": texts[0],
                    "seeds": len(gains),
                    **_mean_gain(gains),
                    "cycles": row["sat"]["cycles"],
                    "uniform_cycles": uniform["sat"]["cycles"],
                }
            )
    return out


def _gains(before: dict[str, Any] | None, after: dict[str, Any]) -> list[float]:
    """Return what a row gains over another in each seed of both, percent points of accuracy."""
    # by_seed is empty where a dense run is missing
    old, new = (
        {} if row is None else dict(zip(row["run_seeds"], row["by_seed"], strict=False)) for row in (before, after)
    )
    return [old[seed] - new[seed] for seed in old if seed in new]


def _mean_gain(gains: Sequence[float]) -> dict[str, Any]:
    """Return gains as the page shows them: mean and half of the 95 % interval; None where there is nothing to tell."""
    return {"gain": statistics.fmean(gains) if gains else None, "half_width": half_width(gains) if gains else None}


_LABELS: Final = ("as it is", *ABLATIONS)


def _label(variant: str) -> str | None:
    """Return the label of a variant of BDWP, whatever its split and length; None if it is none of the ablations."""
    words = (word.partition("=") for word in variant.split())
    own = {key: value for key, _, value in words if key not in _SHARED}
    if "dense_epochs" in own:
        own["dense_epochs"] = ""  # a share of the run, whatever its length
    for label, fields in ABLATIONS.items():
        if own == {key: "" if key == "dense_epochs" else str(value) for key, value in fields.items()}:
            return label
    return None if own else _LABELS[0]


_SHARED: Final = ("split", "epochs")


def _key(variant: str) -> str:
    """Return what a variant shares with the dense run that it is compared with."""
    return " ".join(word for word in variant.split() if word.partition("=")[0] in _SHARED)


def _masks(summaries: Sequence[dict[str, Any]], folder: Path) -> list[dict[str, Any]]:
    """Return the mean share of mask elements that change per update in each epoch, by network, method and pattern."""
    groups: dict[tuple[str, str, str, str], list[list[dict[str, Any]]]] = {}
    for summary in summaries:
        config = config_of(summary)
        if config.method == "dense" or not summary["sad_ff"] + summary["sad_bp"]:
            continue
        key = (task_of(config), config.method, config.pattern, _text(config))
        record = record_of(Cell(run_name(config), config), folder)
        if record is None:
            raise ValueError(f"results of run {run_name(config)} are gone from {str(folder)!r}")
        groups.setdefault(key, []).append(record.epochs)
    out = []
    for (network, method, pattern, changed), runs in groups.items():
        item: dict[str, Any] = {"network": network, "method": method, "pattern": pattern, "variant": changed}
        for side in ("sad_ff", "sad_bp"):
            item[side] = [statistics.fmean(e[side] for e in epochs) for epochs in zip(*runs, strict=True)]
        out.append(item)
    return sorted(out, key=lambda item: (_place(item), item["variant"]))


def _rates(task: tuple[str, str], folder: Path) -> dict[str, Any] | None:
    """Return the validation accuracies that a learning rate was chosen by, as far as its runs are there; None: none."""
    found = [finished(cell, folder) for cell in _rate_cells(*task)]
    summaries = [summary for summary in found if summary is not None]
    if not summaries:
        return None
    means: dict[float, dict[str, float]] = {}
    for method in ("dense", "bdwp"):
        by_rate: dict[float, list[float]] = {}
        for summary in summaries:
            config = config_of(summary)
            if config.method == method:
                by_rate.setdefault(config.lr, []).append(float(str(summary["accuracy"])))
        for rate, values in by_rate.items():
            means.setdefault(rate, {})[method] = statistics.fmean(values)
    table_rows = [{"lr": rate, **values} for rate, values in sorted(means.items())]
    both = {rate for rate, values in means.items() if len(values) > 1}
    paired = [summary for summary in summaries if config_of(summary).lr in both]
    best = best_rate(paired) if paired else None
    own = recipe(*task)
    return {"network": task_of(own), "best": best, "recipe": own.lr, "rates": table_rows, "missing": _missing(found)}


def _missing(found: Sequence[object]) -> int:
    return sum(summary is None for summary in found)


def _run(summary: dict[str, Any], machine: SatConfig) -> dict[str, Any]:
    config = config_of(summary)
    keys = ("accuracy", "loss", "test_loss", "macs_kept", "bound", "sad_ff", "sad_bp", "skipped")
    kept = {key: summary[key] for key in keys}
    return {"name": run_name(config), "command": train_command(config, machine), **kept}
