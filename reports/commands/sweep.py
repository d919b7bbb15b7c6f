"""`nmsat sweep`: many machines and training steps by the estimate; the best of them again by the quick gear."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from nmsat.reports.commands.base import SUMMARY, Answer, Command, add_processes, folder
from nmsat.reports.version import VERSION
from nmsat.reports.work.commandline import spell
from nmsat.reports.work.output import add_force, output_folder
from nmsat.reports.work.progress import LOG
from nmsat.reports.work.text import InputError, table
from nmsat.sim.results.provenance import Source

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from nmsat.reports.work.sweep_plan import Plan

POINTS: Final = "points.parquet"
"""File of the results."""

MOST_REASONS: Final = 3
"""Reasons of points that did not run that the text tells."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("file", type=Path, metavar="FILE", help="TOML file of the sweep (docs/sweeps.md)")
    parser.add_argument(
        "--out", metavar="DIR", type=folder, default=None, help="folder (default: out/sweep/ and FILE's name)"
    )
    parser.add_argument("--estimate", action="store_true", help="leave the points of the fronts to the estimate, too")
    parser.add_argument(
        "--accuracy", metavar="FILE", type=Path, default=None, help="accuracy.json of nmsat study: accuracies beside"
    )
    add_processes(parser)
    parser.add_argument(
        "--scheduler",
        metavar="ADDRESS",
        default="",
        help="Dask scheduler, such as tcp://host:8786, whose workers do it; --processes then counts for nothing",
    )
    add_force(parser)


def run(options: argparse.Namespace) -> Answer:
    """Run what is missing and write table, summary and pictures."""
    import_module("pyarrow")  # missing it is said before the work, not after it

    if options.scheduler:
        import_module("distributed")

    from nmsat.reports.pages.figure import figure_files
    from nmsat.reports.pages.sweep_page import PAGE, sweep_page
    from nmsat.reports.pages.sweep_plots import NAMES, sweep_figures
    from nmsat.reports.work.spread import Where
    from nmsat.reports.work.standing import Basis
    from nmsat.reports.work.sweep import run_sweep, sweep_version
    from nmsat.reports.work.sweep_accuracy import add_accuracies, read_accuracies
    from nmsat.reports.work.sweep_journal import Journal
    from nmsat.reports.work.sweep_plan import read_sweep
    from nmsat.reports.work.sweep_table import parquet_bytes

    try:
        plan = read_sweep(options.file)
    except ValueError as error:
        raise InputError(str(error)) from None
    for note in plan.notes:
        LOG.warning("%s", note)
    known = read_accuracies(options.accuracy) if options.accuracy else {}
    where = Where(options.processes, options.scheduler)
    stem = options.file.stem
    folder: Path = options.out or Path("out/sweep") / (stem if stem.strip(".") else options.file.name)
    with output_folder(folder, "sweep", [POINTS, SUMMARY, PAGE, *NAMES], force=options.force) as out:
        if options.estimate and not options.force:
            _check_estimated(folder, out.path / SUMMARY)
        journal = Journal(out.path, plan.digest, sweep_version())
        try:
            rows = run_sweep(plan, journal, where, exact=not options.estimate)
        finally:
            journal.close()
        add_accuracies(rows, known)
        facts = {"sweep": plan.digest, "version": sweep_version()}
        content = parquet_bytes(rows, {**facts, "source": Source.ESTIMATE})
        out.write(POINTS, content)
        figures = sweep_figures(rows, plan.axes, Basis(_command(options), _machines(plan)))
        drawn = {name: data for figure in figures for name, data in figure_files(figure).items()}
        for name, data in drawn.items():
            out.write(name, data)
        values = _summary(rows) | facts | {"axes": list(plan.axes), "doubled": plan.doubled, "nmsat": VERSION}
        values["notes"] = list(plan.notes)
        values |= {"points_sha256": hashlib.sha256(content).hexdigest()}
        out.write(PAGE, sweep_page(values, figures, _command(options)))
        out.write(SUMMARY, json.dumps(values, indent=1) + "\n")
    files = [str(folder / name) for name in (POINTS, SUMMARY, PAGE, *drawn)]
    return Answer({**values, "files": files}, _text(values, files))


def _check_estimated(asked: Path, summary: Path) -> None:
    """Raise InputError if a folder has exact results, which those of --estimate would replace."""
    if not summary.exists():
        return
    found = json.loads(summary.read_text(encoding="utf-8"))  # as nmsat sweep wrote it
    if found.get("estimate_off"):
        raise InputError(
            f"output folder is {str(asked)!r}; exact results stand in it, which --estimate would replace; leave out "
            "--estimate (what is there does not run again), or choose another folder; --force would replace them"
        )


def _command(options: argparse.Namespace) -> str:
    """Return the command that gives the same points; how many processes run it changes nothing."""
    asked = {"--estimate": True} if options.estimate else {}
    asked |= {"--accuracy": options.accuracy} if options.accuracy else {}
    return spell("sweep", [options.file], asked)


def _machines(plan: Plan) -> str:
    """Return in words which machines a sweep has."""
    machines = {point.machine for point in plan.points if point.machine is not None}
    names = ", ".join(dict.fromkeys(point.config for point in plan.points))
    varied = [name.removeprefix("set.") for name in plan.axes if name.startswith("set.")]
    changes = f"; they differ in {', '.join(varied)}" if varied else ""
    return f"{len(machines)} {'machine' if len(machines) == 1 else 'machines'} made of {names}{changes}"


def _summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    from nmsat.reports.work.sweep_front import estimate_off, near_the_fronts

    states = [row["status"] for row in rows]
    return {
        "points": len(rows),
        "states": {name: states.count(name) for name in dict.fromkeys(states)},
        "source": Source.ESTIMATE,
        "estimate_off": estimate_off(rows),
        "near": near_the_fronts(rows),
        "front": [row for row in rows if row["front"]],
        "errors": dict(Counter(_reason(row) for row in rows if row["error"] or row["planned"]).most_common()),
    }


def _reason(row: dict[str, Any]) -> str:
    """Return why a point did not run, without the name of its machine: the same reason of many is one."""
    text = row["error"] or row["planned"]
    return text.replace(f"on {row['machine']!r}", "on the machine") if row.get("machine") else text


def _text(values: dict[str, Any], files: list[str]) -> str:
    from nmsat.reports.work.sweep_front import near_text, told_here

    rows = []
    for row in values["front"]:
        exact = row.get("exact_cycles")
        work = f"{row['network']} {row['batch'] or 'as recorded'} {row['method']} {row['pattern']}"
        speed = f"{row['exact_speedup' if exact else 'speedup']:.4f}"
        sizes = (str(row["dsp"]), str(row["lut"]), str(row["bram36"]), str(row["uram"]))
        rows.append((work, row["machine"], *sizes, str(row["cycles"]), str(exact or ""), speed))
    header = ("front of", "machine", "DSPs", "LUTs", "BRAM36", "URAM", str(Source.ESTIMATE), "exact", "speed-up")
    states = ", ".join(f"{count} {name}" for name, count in values["states"].items())
    lines = [f"{values['points']} points: {states}", told_here(values["estimate_off"])]
    if values["near"]:
        lines.append(near_text(values["near"]))
    lines += [f"{count} did not run: {why}" for why, count in values["errors"].items()][:MOST_REASONS]
    if len(values["errors"]) > MOST_REASONS:
        lines.append(f"and {len(values['errors']) - MOST_REASONS} reasons more, in points.parquet and with --json")
    if values["doubled"]:
        lines.append(
            f"{values['doubled']} combinations are not points of their own: dense steps have no pattern, a tape has "
            "batch, method and patterns of its own"
        )
    return "\n".join([table(header, rows), "", *lines, *files])


COMMAND = Command(
    summary="Run many machines and training steps at once by the estimate, and the best of them by the quick gear.",
    example="nmsat sweep docs/sweep.toml --out out/sweep --processes 2",
    add_arguments=add_arguments,
    run=run,
)
