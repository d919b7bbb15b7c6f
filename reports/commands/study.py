"""`nmsat study`: the accuracy table, run by run, kept on disk."""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from nmsat.algorithms.core.ranges import short
from nmsat.algorithms.core.vocabulary import METHODS, SIZED_NETWORKS, SMALL_NETWORKS
from nmsat.reports.commands.base import (
    Answer,
    Command,
    Listed,
    add_config,
    add_layer_patterns,
    folder,
    method,
    network,
    seed,
    sparse,
    whole,
)
from nmsat.reports.commands.parser import again
from nmsat.reports.commands.patterns import budget
from nmsat.reports.commands.report_option import add_report, check_apart, reporting
from nmsat.reports.commands.train import add_data, chosen_data
from nmsat.reports.work.commandline import TRAIN_MACHINE
from nmsat.reports.work.output import add_force, output_folder
from nmsat.reports.work.text import InputError, table
from nmsat.sim.results.provenance import Source, told_lines

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from nmsat.algorithms.training.plan import Part
    from nmsat.algorithms.training.study import Cell
    from nmsat.reports.pages.report_page import Report

DATA_FILE: Final = "accuracy.json"
"""File of the numbers that the page shows."""

PAGE_FILES: Final = (
    "accuracy.md",
    DATA_FILE,
    *(f"accuracy_{name}.svg" for name in ("networks", "methods", "patterns", "speed", "masks")),
)
"""Files of the page that the command may write."""


MAX_PROCESSES: Final = 64
"""Most runs at a time."""

MAX_HOURS: Final = 10000
"""Most hours of `--hours`."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    add_outputs(parser, "out/study")
    whole_table = "default: the whole table"
    for name, one, what in (
        ("networks", network, "resnet9-small,vit-small"),
        ("methods", method, "dense,bdwp"),
        ("patterns", sparse, "2:8,2:16"),
        ("seeds", seed, "0,1,2"),
    ):
        parser.add_argument(f"--{name}", metavar="LIST", type=Listed(one), help=f"such as {what}; {whole_table}")
    add_layer_patterns(parser, "layer_patterns")
    parser.add_argument(
        "--budget",
        type=budget,
        metavar="B",
        help="also the patterns by layer that nmsat patterns finds within this budget, such as 2:8 or 0.6",
    )
    add_data(parser)
    parser.add_argument("--rates", action="store_true", help="also do the validation runs that choose learning rates")
    parser.add_argument("--retime", action="store_true", help="with --redraw: time the SAT cycles of all rows anew")
    parser.add_argument(
        "--redraw",
        action="store_true",
        help="no run: write page and pictures again from the accuracy.json of --tables, whose machine stays",
    )
    add_config(parser, TRAIN_MACHINE, what="SAT whose cycles per step are told")
    add_report(parser)


def add_outputs(parser: argparse.ArgumentParser, out: str) -> None:
    """Add where runs and page go, and how long and how many at a time."""
    parser.add_argument(
        "--out", type=folder, default=Path(out), metavar="DIR", help=f"folder of runs and page (default: {out})"
    )
    parser.add_argument(
        "--tables", type=folder, metavar="DIR", help="folder of the page alone (default: that of --out)"
    )
    parser.add_argument(
        "--hours",
        type=hours,
        metavar="H",
        help="stop after H hours; the page says what is missing, and the same command goes on (default: no end)",
    )
    parser.add_argument(
        "--processes", type=processes, default=1, metavar="P", help="runs at a time, one thread each (default: 1)"
    )
    add_force(parser)


def processes(text: str) -> int:
    """Read a number of processes."""
    return whole(text, 1, MAX_PROCESSES)


def hours(text: str) -> float:
    """Read a time in hours; 0 starts no run."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= MAX_HOURS:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of hours from 0 to {MAX_HOURS}")
    return value


def run(options: argparse.Namespace) -> Answer:
    """Do the runs that are missing and write page, data and pictures."""
    return _redraw(options) if options.redraw else do_runs(options, chosen)


def do_runs(options: argparse.Namespace, wished: Callable[[argparse.Namespace], list[Part]]) -> Answer:
    """Do the runs that are wished for and write the page; options: out, tables, hours, processes, config, force."""
    from nmsat.reports.work.run_files import run_files
    from nmsat.reports.work.study import check_rates, gather, run_study

    until = None if options.hours is None else time.time() + 3600 * options.hours

    folder: Path = options.out / "runs"
    pages: Path = options.tables or options.out
    _check_apart(options, pages)
    try:
        parts = wished(options)
        wanted = list({cell.name: cell for part in parts for cell in part.cells}.values())
        with (
            output_folder(pages, "study", PAGE_FILES, force=options.force) as out,
            run_files(folder, wanted, force=options.force),
            reporting(options, "study", ("accuracy",)) as draw,
        ):
            check_rates(wanted, folder)
            summaries = run_study(wanted, folder, options.processes, until)
            data = gather(summaries, folder, options.config, parts)
            texts = page_files(data)
            for name, text in texts.items():
                out.write(name, text)
            draw(lambda: _report(options, data))
    except (ValueError, OSError) as error:
        raise InputError(str(error)) from None
    files = [pages / name for name in texts]
    return Answer({**data, "files": [str(file) for file in files]}, _text(data, files))


def _check_apart(options: argparse.Namespace, pages: Path) -> None:
    """Refuse the page's folder for the report: the data of the page have the name of the report's figure."""
    check_apart(options, pages, "--tables" if options.tables else "--out", DATA_FILE)


def _report(options: argparse.Namespace, data: dict[str, Any]) -> Report:
    from nmsat.reports.pages.full_report import study_report

    return study_report(data, again(options))


def chosen(options: argparse.Namespace) -> list[Part]:
    """Return the runs that the options ask for, in their order: the plan of the kept table if none does."""
    from nmsat.algorithms.training.idx import data_folder
    from nmsat.algorithms.training.named_data import data_name
    from nmsat.algorithms.training.plan import Part, plan
    from nmsat.algorithms.training.study import PATTERNS, SEEDS, TABLE_NETWORKS, cells, own_cells, rate_cells

    data = chosen_data(options)
    own = (options.layer_patterns, options.budget)
    choosing = (options.networks, options.methods, options.patterns, options.seeds, *own)
    if not any(choosing):
        return plan(data or data_name(str(data_folder()), options.side))
    networks = options.networks or (_networks_of(data) if data else TABLE_NETWORKS)
    found = cells(
        networks,
        options.methods or tuple(METHODS),
        [str(pattern) for pattern in options.patterns or PATTERNS],
        options.seeds or SEEDS,
        data,
    )
    if options.layer_patterns:
        found += own_cells(found, options.layer_patterns)
    if options.budget:
        found += _within_budget(found, options, data)
    parts = [Part("the runs that were asked for", tuple(found))]
    if options.rates:
        rates = [cell for network in networks for cell in rate_cells(network, data=data)]
        parts.insert(0, Part("learning rates", tuple(rates)))
    return parts


def _within_budget(found: Sequence[Cell], options: argparse.Namespace, data: str) -> list[Cell]:
    """Return the cells of each network and method again with the patterns by layer that the budget allows."""
    from nmsat.algorithms.methods import prunes_by_magnitude
    from nmsat.algorithms.training.study import own_cells
    from nmsat.reports.work.patterns import Asked, choose_patterns

    groups: dict[tuple[str, str], list[Cell]] = {}
    for cell in found:
        if prunes_by_magnitude(cell.config.method):
            groups.setdefault((cell.config.network, cell.config.method), []).append(cell)
    if not groups:
        raise ValueError(f"budget is {str(options.budget)!r}; none of the methods can have patterns by layer")
    out = []
    for (name, pruned_by), group in groups.items():
        asked = Asked(name, options.config, options.budget, method=pruned_by, processes=options.processes, data=data)
        out += own_cells(group, choose_patterns(asked)["patterns"])
    return out


def _networks_of(data: str) -> tuple[str, ...]:
    """Return the networks that named data are for unless some are named."""
    from nmsat.algorithms.training.named_data import COLOUR, sample_of

    sample = sample_of(data)
    photos = sample is not None and sample.shape[2] == 3 and data != COLOUR  # a ViT learns nothing of those few
    return SMALL_NETWORKS if photos else SIZED_NETWORKS


def page_files(data: dict[str, Any]) -> dict[str, str]:
    """Return file name -> text of the page, its data and its pictures; the names are among `PAGE_FILES`."""
    from nmsat.reports.pages.study_page import study_page
    from nmsat.reports.pages.study_plots import draw

    pictures = draw(data)
    return {
        "accuracy.md": study_page(data, pictures),
        DATA_FILE: json.dumps(data, indent=1) + "\n",
        **{picture.file: picture.svg for picture in pictures.values()},
    }


def _redraw(options: argparse.Namespace) -> Answer:
    """Write page and pictures again from the data beside them, which stays as it is but for what --retime asks for."""
    from nmsat.reports.work.study import retimed

    names = ("data_folder", "networks", "methods", "patterns", "seeds", "layer_patterns", "budget", "rates")
    chosen_runs = [name.partition("_")[0] for name in names if getattr(options, name)]
    if chosen_runs:
        raise InputError(f"--redraw shows the data as it is, without choosing runs; leave out --{chosen_runs[0]}")
    folder: Path = options.tables or options.out
    _check_apart(options, folder)
    source = folder / DATA_FILE
    names = [name for name in PAGE_FILES if options.retime or name != DATA_FILE]
    try:
        data = json.loads(source.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{error.filename}: {error.strerror}; --redraw needs the data of an earlier study") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{source} is not the data of a study: {short(error)}") from None
    try:
        with (
            output_folder(folder, "study", names, force=options.force, keep=True) as out,
            reporting(options, "study", ("accuracy",)) as draw,
        ):
            if options.retime:
                data = retimed(data)
            texts = page_files(data)
            for name in names:
                if name in texts:
                    out.write(name, texts[name])
            draw(lambda: _report(options, data))
    except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError) as error:
        raise InputError(f"{source} is not the data of a study: {short(error)}") from None
    files = [folder / name for name in texts]
    return Answer({**data, "files": [str(file) for file in files]}, _text(data, files))


def _text(data: dict[str, Any], files: list[Path]) -> str:
    from nmsat.reports.pages.study_page import UNPAIRED

    header = ("run", "seeds", "accuracy", "loss", "SAT cycles", "speed-up", "bound")
    rows = [
        (
            f"{row['network']} {row['method']} {'' if row['method'] == 'dense' else row['pattern']} {row['variant']}",
            str(row["seeds"]),
            f"{row['accuracy']:.2%}",
            UNPAIRED if row["loss_points"] is None else f"{row['loss_points']:.2f}",
            "no program" if row["sat"]["cycles"] is None else str(row["sat"]["cycles"]),
            "" if row["sat"]["speedup"] is None else f"{row['sat']['speedup']:.2f}x",
            f"{row['sat']['bound']:.2f}x",
        )
        for row in data["rows"]
    ]
    known = data["source"] in tuple(Source)
    told = told_lines(Source(data["source"]), data["planned"]) if known else [f"{data['source']}, not the machine's"]
    origin = [f"SAT cycles: {line}" for line in told]
    own = [line for row in data.get("own", []) for line in own_lines(row)]
    return "\n".join([table(header, rows), "", *own, *origin, f"page: {files[0]}"])


def own_lines(row: dict[str, Any]) -> list[str]:
    """Return what patterns by layer gain over their method's one pattern, in words."""
    from nmsat.reports.work.losses import told_width

    half = told_width(row["half_width"])
    width = "" if half is None else f" +- {half:.2f}"
    resolved = half is not None and abs(row["gain"]) > half
    told = f"{row['gain']:+.2f}{width} points over {row['seeds']} seeds ({'' if resolved else 'not '}resolved)"
    cycles = f"SAT cycles {row['cycles']} against {row['uniform_cycles']}"
    where = f"{row['network']} {row['method']}, {row['patterns']}"
    return [where, f"  against {row['pattern']} everywhere: {told}; {cycles}"]


COMMAND = Command(
    summary="Train networks by all methods at several patterns and seeds: accuracy against SAT cycles, as a page.",
    example="nmsat study --networks vgg19-small --methods dense,bdwp --patterns 2:8 --out out/study",
    add_arguments=add_arguments,
    run=run,
)
