"""`nmsat study`: the accuracy table, run by run, kept on disk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from nmsat.reports.commands.base import Answer, Command, InputError, config, seed, table, whole
from nmsat.reports.work.output import add_force, output_folder

if TYPE_CHECKING:
    import argparse

    from nmsat.algorithms.training.study import Cell

PAGE_FILES: Final = ("accuracy.md", "accuracy.json", "accuracy_pareto.svg", "accuracy_masks.svg")
"""Files of the page that the command may write."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    from nmsat.dataflow.contract.config import preset

    parser.add_argument(
        "--out",
        type=Path,
        default=Path("out/study"),
        metavar="DIR",
        help="folder of runs and page (default: out/study)",
    )
    parser.add_argument("--tables", type=Path, metavar="DIR", help="folder of the page alone (default: that of --out)")
    for name, what in (("networks", "resnet9,vit"), ("methods", "dense,bdwp"), ("patterns", "2:8,2:16")):
        parser.add_argument(f"--{name}", metavar="LIST", type=listed, help=f"such as {what}; default: the whole table")
    parser.add_argument("--seeds", metavar="LIST", type=seeds, help="such as 0,1,2")
    parser.add_argument("--rates", action="store_true", help="also do the validation runs that choose learning rates")
    parser.add_argument(
        "--processes", type=processes, default=1, metavar="P", help="runs at a time, one thread each (default: 1)"
    )
    parser.add_argument(
        "--config",
        type=config,
        default=preset("small"),
        metavar="NAME",
        help="SAT whose cycles per step are told: tiny, small or vcu1525 (default: small)",
    )
    add_force(parser)


def listed(text: str) -> list[str]:
    """Read a list with commas."""
    return [item for item in text.split(",") if item]


def seeds(text: str) -> list[int]:
    """Read a list of seeds."""
    return [seed(item) for item in listed(text)]


def processes(text: str) -> int:
    """Read a number of processes."""
    return whole(text, 1, 64)


def run(options: argparse.Namespace) -> Answer:
    """Do the runs that are missing and write page, data and pictures."""
    from nmsat.algorithms.training.study import rate_cells
    from nmsat.reports.work.run_files import run_files
    from nmsat.reports.work.study import gather, run_study

    folder: Path = options.out / "runs"
    pages: Path = options.tables or options.out
    try:
        wanted = chosen(options)
        networks = dict.fromkeys(cell.config.network for cell in wanted) if options.rates else ()
        rates = [cell for network in networks for cell in rate_cells(network)]
        with (
            output_folder(pages, "study", PAGE_FILES, force=options.force) as out,
            run_files(folder, [*wanted, *rates], force=options.force),
        ):
            run_study(rates, folder, options.processes)
            data = gather(run_study(wanted, folder, options.processes), folder, options.config)
            texts = page_files(data)
            for name, text in texts.items():
                out.write(name, text)
    except (ValueError, OSError) as error:
        raise InputError(str(error)) from None
    files = [pages / name for name in texts]
    return Answer({**data, "files": [str(file) for file in files]}, _text(data, files))


def chosen(options: argparse.Namespace) -> list[Cell]:
    """Return the cells that the options ask for: the whole table if none does."""
    from nmsat.algorithms.methods import METHODS
    from nmsat.algorithms.training.study import PATTERNS, SEEDS, TABLE_NETWORKS, cells, default_cells

    if not any((options.networks, options.methods, options.patterns, options.seeds)):
        return default_cells()
    return cells(
        options.networks or TABLE_NETWORKS,
        options.methods or METHODS,
        options.patterns or PATTERNS,
        options.seeds or SEEDS,
    )


def page_files(data: dict[str, Any]) -> dict[str, str]:
    """Return file name -> text of the page, its data and its pictures; the names are among `PAGE_FILES`."""
    from nmsat.reports.pages.study_page import study_page
    from nmsat.reports.pages.study_plots import mask_chart, pareto_chart

    texts = {
        "accuracy.md": study_page(data),
        "accuracy.json": json.dumps(data, indent=1) + "\n",
        "accuracy_pareto.svg": pareto_chart(data["rows"]),
    }
    networks = list(dict.fromkeys(row["network"] for row in data["ablations"]))
    if networks:
        texts["accuracy_masks.svg"] = mask_chart(data["masks"], networks)
    return texts


def _text(data: dict[str, Any], files: list[Path]) -> str:
    header = ("run", "seeds", "accuracy", "loss", "SAT cycles", "speed-up", "bound")
    rows = [
        (
            f"{row['network']} {row['method']} {'' if row['method'] == 'dense' else row['pattern']} {row['variant']}",
            str(row["seeds"]),
            f"{row['accuracy']:.2%}",
            "" if row["loss_points"] is None else f"{row['loss_points']:.2f}",
            str(row["sat"]["cycles"]),
            f"{row['sat']['speedup']:.2f}x",
            f"{row['sat']['bound']:.2f}x",
        )
        for row in data["rows"]
    ]
    return "\n".join([table(header, rows), "", f"page: {files[0]}"])


COMMAND = Command(
    summary="Train networks by all methods at several patterns and seeds: accuracy against SAT cycles, as a page.",
    example="nmsat study --networks vgg --methods dense,bdwp --patterns 2:8 --out out/study",
    add_arguments=add_arguments,
    run=run,
)
