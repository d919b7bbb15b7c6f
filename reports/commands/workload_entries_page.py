"""The page of what each workload says of itself, docs/workload_entries.md, beside what the tables measured of it.

`python -m nmsat.reports.commands.workload_entries_page > docs/workload_entries.md` writes it of the docstrings of the
workloads and of the pages in `reports/tables`; a test holds them together.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from nmsat.algorithms.workloads.engine.entry import LABELS, entry
from nmsat.algorithms.workloads.engine.registry import VARIANTS, workloads
from nmsat.reports.pages.workload_page import RTL_PAGE, STUDIES_PAGE, markdown, table_rows
from nmsat.reports.work.committed import CYCLES_PAGE
from nmsat.reports.work.text import InputError, prose

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nmsat.algorithms.workloads.engine.registry import Workload

TABLES: Final = Path(__file__).resolve().parents[2] / "reports" / "tables"

MISSING: Final = "not measured yet"
"""What stands where the pages of tables have no row of a workload."""

INTRODUCTION: Final = """\
# What each workload is

An entry for each method and document that runs as a [workload](workloads.md), made of the docstring of its module and
of the measured tables: [densities and cycles](../reports/tables/workloads.md),
[studies](../reports/tables/workload_studies.md) with all their numbers, and
[products on the RTL](../reports/tables/workload_rtl.md). Each says:
"""

AFTER: Final = """\
In the tables, *speed-up* is of the array at the sizes of the paper, *on the machine* that of its programs with memory
(both over the same work with nothing left out), *study* whether the claim held on the small problem, and *RTL* how many
of its products ran there. `nmsat workload run NAME --scale paper` runs one of them, `--variant nm` our form.

Written by `python -m nmsat.reports.commands.workload_entries_page` (`> docs/workload_entries.md`)."""


def page(tables: Path = TABLES) -> str:
    """Return the page. tables: folder of the measured pages; InputError for one that cannot be read.

    Workloads of one module share an entry, since they share its docstring.
    """
    entries: dict[str, list[Workload]] = {}
    for item in workloads().values():
        entries.setdefault(item.about or item.name, []).append(item)
    measured = _Measured(tables)
    rows = [(_link(items), items[0].kind, _title(items), items[0].source) for items in entries.values()]
    parts = [
        prose_of(INTRODUCTION),
        "\n".join(prose(f"{label}: {what}.", bullet=True) for label, what in LABELS.items()),
        prose_of(AFTER),
        markdown(("entry", "kind", "title", "source"), rows),
        *(_entry(items, measured) for items in entries.values()),
    ]
    return "\n\n".join(parts) + "\n"


class _Measured:
    """What the pages in `reports/tables` say of a workload and variant."""

    def __init__(self, tables: Path) -> None:
        def read(name: str) -> str:
            try:
                return (tables / name).read_text(encoding="utf-8")
            except OSError as error:
                raise InputError(f"{tables / name} cannot be read ({error}); nmsat workload table writes it") from error

        paper = read(CYCLES_PAGE).partition("## At the scale of the papers")[2].partition("\n## ")[0]
        self.cycles = table_rows(paper)
        self.studies = table_rows(read(STUDIES_PAGE).partition("\n## ")[0])
        self.rtl = table_rows(read(RTL_PAGE))

    def row(self, name: str, variant: str) -> tuple[str, ...]:
        """Return the cells of one row of an entry's table; `MISSING` for what no page has measured yet."""
        key = (name, variant)
        cycles, study, rtl = self.cycles.get(key), self.studies.get(key), self.rtl.get(key)
        timed = (MISSING,) * 3
        if cycles is not None:
            # The second column called speed-up is that of the machine.
            array, machine = (cell for heading, cell in cycles if heading == "speed-up")
            timed = (dict(cycles)["ways"], array, f"{machine} ({dict(cycles)['by']})")
        return *timed, _cell(study, "holds here"), _cell(rtl, "products")

    def claim(self, name: str, variant: str) -> str:
        """Return the claim of a study, or that it has not run yet and what runs it."""
        study = self.studies.get((name, variant))
        if study is None:
            return f"{MISSING}; `nmsat workload table --studies --rtl --force --only {name}` measures it"
        return _cell(study, "claim in kind")


def _cell(row: list[tuple[str, str]] | None, heading: str) -> str:
    return MISSING if row is None else dict(row)[heading]


def prose_of(text: str) -> str:
    """Return paragraphs in lines of less than 120 characters; headings stay."""
    return "\n\n".join(part if part.startswith("#") else prose(part) for part in text.strip().split("\n\n"))


def _title(items: Sequence[Workload]) -> str:
    return "; ".join(item.title for item in items)


def _heading(items: Sequence[Workload]) -> str:
    return ", ".join(item.name for item in items)


def _link(items: Sequence[Workload]) -> str:
    heading = _heading(items)
    return f"[{heading}](#{heading.replace(', ', '-')})"


def _entry(items: Sequence[Workload], measured: _Measured) -> str:
    """Return the entry of the workloads of one module."""
    first = items[0]
    said = entry(first.name, first.about or "")
    parts = [f"## {_heading(items)}", prose(said.what)]
    for label, blocks in said.sections.items():
        for index, block in enumerate(blocks):
            lead = f"**{label}:** " if index == 0 else ""
            parts.append(f"```text\n{block.text}\n```" if block.literal else prose(lead + block.text))
    if first.document is not None:
        facts = first.document
        known = {"Protocol": facts.protocol, "Models": facts.models, "Metrics": facts.metrics}
        parts += [prose(f"**{what}:** {text}.") for what, text in known.items()]
    claims = dict.fromkeys(measured.claim(item.name, variant) for item in items for variant in VARIANTS)
    parts += [prose(f"**Claim in kind:** {claim}.") for claim in claims]
    quoted = dict.fromkeys(item.quoted for item in items)
    parts += [prose(f"**The paper says** (reference, not ours): {text}.") for text in quoted]
    header = ("workload", "variant", "what it means", "ways", "speed-up", "on the machine", "study", "RTL")
    rows = []
    for item in items:
        for variant in VARIANTS:
            rows.append((f"`{item.name}`", variant, item.variants[variant], *measured.row(item.name, variant)))
    parts.append(markdown(header, rows))
    return "\n\n".join(parts)


if __name__ == "__main__":
    print(page(), end="")
