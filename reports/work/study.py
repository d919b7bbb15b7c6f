"""The accuracy table: runs on disk gathered into plain values, with what a step of each costs on SAT."""

from __future__ import annotations

import statistics
from dataclasses import asdict
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from nmsat.algorithms.core.vocabulary import METHODS, SMALL_NETWORKS
from nmsat.algorithms.training.recipes import RECIPES, changes, parse_name, run_name
from nmsat.algorithms.training.results import read_lines
from nmsat.algorithms.training.study import (
    ABLATIONS,
    PATTERNS,
    TABLE_NETWORKS,
    ablation_cells,
    best_rate,
    config_of,
    finished,
    rate_cells,
    run_cells,
    table,
)
from nmsat.dataflow.contract.config import preset
from nmsat.reports.work.progress import task
from nmsat.reports.work.training import sat_step, train_command
from nmsat.sim.results.provenance import Source

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from nmsat.algorithms.training.config import TrainConfig
    from nmsat.algorithms.training.study import Cell
    from nmsat.dataflow.contract.config import SatConfig

PAPER_LOSS: Final = 0.56
"""Mean loss of accuracy of BDWP 2:8 over the paper's networks, percent points (Fang et al., TCAD 2024)."""

_ORDER: Final = {"dense": -1, **{pattern: place for place, pattern in enumerate(PATTERNS)}}


def run_study(cells: Sequence[Cell], folder: Path, processes: int) -> list[dict[str, Any]]:
    """Run the cells that folder does not hold complete, show the progress, and return the summaries of all."""
    missing = sum(finished(cell, folder) is None for cell in cells)
    with task("study", missing, "run") as running:

        def show(cell: Cell, done: int, total: int) -> None:
            del done, total  # of this call; the bar counts the same
            running.advance(shown={"last": cell.name})

        return run_cells(cells, folder, processes=processes, progress=show)


def gather(summaries: Sequence[dict[str, Any]], folder: Path, machine: SatConfig) -> dict[str, Any]:
    """Return everything that the page and the plots show as plain values for JSON.

    summaries: of runs on the test split. Learning rates come from the validation runs that folder holds.
    """
    rows = [_row(row, summaries, machine) for row in table(summaries)]
    rows.sort(key=lambda row: (_place(row), row["variant"]))
    main = [row for row in rows if not row["variant"]]
    return {
        "machine": machine.name,
        "source": Source.MACHINE,
        "data": sorted({config_of(summary).data for summary in summaries} - {""}),
        "planned": list(machine.planned),
        "paper_loss": PAPER_LOSS,
        "paper": _paper(summaries, main),
        "rows": main,
        "ablations": _ablations(rows),
        "masks": _masks(summaries, folder),
        "rates": [found for network in TABLE_NETWORKS if (found := _rates(network, folder))],
        "recipes": {network: RECIPES[network].as_dict() for network in TABLE_NETWORKS},
        "runs": [_run(summary, machine) for summary in sorted(summaries, key=lambda s: run_name(config_of(s)))],
    }


def retimed(data: dict[str, Any]) -> dict[str, Any]:
    """Return the data of a study with the SAT cycles of its rows timed by the machine, accuracies as they are."""
    machine = preset(data["machine"])
    configs = [parse_name(run["name"]) for run in data["runs"]]
    # the arithmetic of the host that computed a run is none of the machine's
    configs = [config.replace(arithmetic=RECIPES[config.network].arithmetic) for config in configs]

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
    origin = {"source": Source.MACHINE, "planned": list(machine.planned)}
    return data | origin | {"rows": rows, "paper": paper, "ablations": ablations}


def _row(row: Any, summaries: Sequence[dict[str, Any]], machine: SatConfig) -> dict[str, Any]:
    same = _same(asdict(row), map(config_of, summaries))
    found = _sat(same[0].replace(seed=0), machine)
    return {**asdict(row), "run_seeds": sorted(config.seed for config in same), "sat": found}


def _same(row: dict[str, Any], configs: Iterable[TrainConfig]) -> list[TrainConfig]:
    """Return the runs of a row."""
    return [
        config
        for config in configs
        if (config.network, config.method) == (row["network"], row["method"])
        and row["pattern"] in ("dense", config.pattern)
        and _text(config) == row["variant"]
    ]


@lru_cache(maxsize=4096)
def _sat(config: TrainConfig, machine: SatConfig) -> dict[str, Any]:
    return sat_step(config, machine)


def _text(config: TrainConfig) -> str:
    return " ".join(f"{key}={value}" for key, value in changes(config).items())


def _place(row: dict[str, Any]) -> tuple[int, int, int]:
    networks, methods = list(RECIPES), list(METHODS)
    return networks.index(row["network"]), methods.index(row["method"]), _ORDER.get(row["pattern"], len(_ORDER))


def _paper(summaries: Sequence[dict[str, Any]], rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the loss of BDWP 2:8 against dense on the paper's networks, seed by seed."""
    out = []
    for network in SMALL_NETWORKS:
        dense = _by_seed(summaries, network, "dense")
        bdwp = _by_seed(summaries, network, "bdwp")
        losses = [100 * (dense[seed] - bdwp[seed]) for seed in sorted(dense.keys() & bdwp.keys())]
        row = next((r for r in rows if (r["network"], r["method"], r["pattern"]) == (network, "bdwp", "2:8")), None)
        if row is None or not losses:
            continue
        out.append(
            {
                "network": network,
                "seeds": len(losses),
                "dense": statistics.fmean(dense.values()),
                "bdwp": statistics.fmean(bdwp.values()),
                "loss": statistics.fmean(losses),
                "error": statistics.stdev(losses) / len(losses) ** 0.5 if len(losses) > 1 else None,
                "speedup": row["sat"]["speedup"],
                "bound": row["sat"]["bound"],
            }
        )
    return out


def _by_seed(summaries: Iterable[dict[str, Any]], network: str, method: str) -> dict[int, float]:
    """Return the accuracy of the recipe's runs of a method (at 2:8) by seed."""
    configs = ((config_of(summary), summary["accuracy"]) for summary in summaries)
    return {
        config.seed: accuracy
        for config, accuracy in configs
        if (config.network, config.method) == (network, method)
        and (method == "dense" or config.pattern == "2:8")
        and not changes(config)
    }


def _ablations(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return BDWP 2:8 as it is and with each of its changes, with their labels, of networks that have them."""
    out = []
    for network in dict.fromkeys(row["network"] for row in rows if row["variant"]):
        cells = [cell.config for cell in ablation_cells(network, seeds=[0])]
        labels = dict(zip(map(_text, cells[1:]), ("as it is", *ABLATIONS), strict=True))
        for row in rows:
            if (row["network"], row["method"], row["pattern"]) == (network, "bdwp", "2:8") and row["variant"] in labels:
                out.append({**row, "label": labels[row["variant"]]})
    return sorted(out, key=lambda row: (_place(row), ["as it is", *ABLATIONS].index(row["label"])))


def _masks(summaries: Sequence[dict[str, Any]], folder: Path) -> list[dict[str, Any]]:
    """Return the mean share of mask elements that change per update in each epoch, by network, method and pattern."""
    groups: dict[tuple[str, str, str, str], list[list[dict[str, Any]]]] = {}
    for summary in summaries:
        config = config_of(summary)
        if config.method == "dense" or not summary["sad_ff"] + summary["sad_bp"]:
            continue
        key = (config.network, config.method, config.pattern, _text(config))
        lines: list[dict[str, Any]] = read_lines(folder / f"{run_name(config)}.jsonl")
        groups.setdefault(key, []).append([line for line in lines if line["event"] == "epoch"])
    out = []
    for (network, method, pattern, changed), runs in groups.items():
        item: dict[str, Any] = {"network": network, "method": method, "pattern": pattern, "variant": changed}
        for side in ("sad_ff", "sad_bp"):
            item[side] = [statistics.fmean(e[side] for e in epochs) for epochs in zip(*runs, strict=True)]
        out.append(item)
    return sorted(out, key=lambda item: (_place(item), item["variant"]))


def _rates(network: str, folder: Path) -> dict[str, Any] | None:
    """Return the validation accuracies that a learning rate was chosen by, None unless all its runs are there."""
    found = [finished(cell, folder) for cell in rate_cells(network)]
    summaries = [summary for summary in found if summary is not None]
    if len(summaries) < len(found):
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
    return {"network": network, "best": best_rate(summaries), "recipe": RECIPES[network].lr, "rates": table_rows}


def _run(summary: dict[str, Any], machine: SatConfig) -> dict[str, Any]:
    config = config_of(summary)
    keys = ("accuracy", "loss", "test_loss", "macs_kept", "bound", "sad_ff", "sad_bp", "skipped")
    kept = {key: summary[key] for key in keys}
    return {"name": run_name(config), "command": train_command(config, machine), **kept}
