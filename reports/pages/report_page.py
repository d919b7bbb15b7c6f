"""The self-contained page of a report: figures, their numbers and origins, for each command that has `--report`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from nmsat.reports.pages.figure import KINDS, figure_files
from nmsat.reports.pages.html_page import render_page
from nmsat.reports.version import VERSION
from nmsat.reports.work.standing import STANDINGS
from nmsat.reports.work.timings import version

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nmsat.reports.pages.figure import Figure

PAGE: Final = "report.html"
"""File of the page."""

_DIGITS: Final = 16  # of the SHA-256 of the sources that are shown


@dataclass(frozen=True)
class Report:
    """A page and the files beside it.

    title, lead: what it is about, in a line and in a sentence; key: numbers for the head, each with what it is; figures
    in their order; missing: figures that are not there, and why, a line each; command: that makes it again.
    """

    title: str
    lead: str
    figures: Sequence[Figure]
    command: str
    key: Sequence[tuple[str, str]] = ()
    missing: Sequence[str] = ()

    def page(self) -> str:
        """Return the page as HTML; pictures and style are inside, nothing is loaded from elsewhere."""
        return render_page(
            "report.html.j2",
            title=self.title,
            lead=self.lead,
            key=self.key,
            figures=self.figures,
            missing=self.missing,
            standings=self._standings(),
            again=self.command,
            kinds=KINDS,
            version=VERSION,
            code=version()[:_DIGITS],
        )

    def files(self) -> dict[str, str | bytes]:
        """Return file name -> content of the page and of every figure."""
        found: dict[str, str | bytes] = {PAGE: self.page()}
        for figure in self.figures:
            found |= figure_files(figure)
        return found

    def record(self) -> dict[str, Any]:
        """Return everything as plain values: by name of a figure its numbers and their origin."""
        return {
            "title": self.title,
            "command": self.command,
            "version": VERSION,
            "code": version(),
            "missing": list(self.missing),
            "figures": {figure.name: figure.record() for figure in self.figures},
        }

    def _standings(self) -> list[tuple[str, str]]:
        used = {standing for figure in self.figures for standing, _ in figure.origin.standing}
        return [(str(standing), what) for standing, what in STANDINGS.items() if standing in used]


def file_names(figures: Sequence[str]) -> list[str]:
    """Return the files of a report with figures of these names."""
    return [PAGE, *(f"{name}.{kind}" for name in figures for kind in KINDS)]
