"""`--report DIR` of commands whose answer has figures: the same page and files as those of `nmsat report`."""

from __future__ import annotations

from contextlib import contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Final

from nmsat.reports.commands.base import folder
from nmsat.reports.work.output import folder_of, output_folder
from nmsat.reports.work.text import InputError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from nmsat.reports.pages.report_page import Report

STEP_FIGURES: Final = ("speedup", "stages", "ablation", "causes", "roofline", "energy")
"""Figures that a report of training steps may have."""


def add_report(parser: argparse.ArgumentParser) -> None:
    """Add --report."""
    parser.add_argument(
        "--report",
        metavar="DIR",
        type=folder,
        default=None,
        help="folder for a page with figures, and each figure as SVG, PNG, CSV and JSON (default: none)",
    )


def check_apart(options: argparse.Namespace, folder: Path, option: str, file: str) -> None:
    """Raise InputError if --report is the folder of the command itself. option: that names it; file: of both."""
    if options.report is not None and folder_of(options.report) == folder_of(folder):
        raise InputError(
            f"--report is {str(options.report)!r}, and so is the folder of {option}; both hold {file}; choose another "
            "folder for one of them"
        )


def need_pictures() -> None:
    """Raise ImportError for a missing package of pages, before the work and not after it."""
    for package in ("jinja2", "matplotlib"):
        import_module(package)


@contextmanager
def reporting(
    options: argparse.Namespace, command: str, figures: Sequence[str]
) -> Iterator[Callable[[Callable[[], Report]], None]]:
    """Give what takes the maker of a report; the maker is called if --report was given.

    figures: names of those that the report may have; files in the way are refused before the block runs, and the
    folder is written when it ends.
    """
    if options.report is None:
        yield lambda _: None
        return
    need_pictures()
    from nmsat.reports.pages.report_page import file_names

    with output_folder(options.report, f"{command} --report", file_names(figures), force=options.force) as out:

        def write(make: Callable[[], Report]) -> None:
            for name, content in make().files().items():
                out.write(name, content)

        yield write
