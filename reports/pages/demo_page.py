"""The self-contained page of a demo run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from nmsat.reports.pages.demo_plots import (
    accuracy_curves,
    cycles_chart,
    loss_curves,
    timeline_chart,
    zoom_chart,
)
from nmsat.reports.pages.html_page import render_page
from nmsat.reports.pages.page_tables import checks_table, numbers, percent, products_table, stages_table, training_table
from nmsat.reports.pages.style import standalone
from nmsat.reports.work.records import LEAST_VALUES
from nmsat.sim.results.provenance import Source, told_lines

if TYPE_CHECKING:
    from nmsat.reports.work.records import DemoRecord

PAGE: Final = "report.html"

PAGE_FILES: Final = (PAGE, "loss.svg", "accuracy.svg", "cycles.svg", "timeline.svg", "zoom.svg")
"""All files of a page."""

SOURCES: Final = (
    ("Training in NumPy", "losses and accuracies; the arithmetic is that of the hardware, nothing here is about time."),
    (
        "Simulator of the array",
        "cycles, speed-ups, utilization and both pictures of the array over time.",
    ),
    ("The Verilog, run in Verilator", "the table of compared products: the array alone, not the machine around it."),
    (
        "Not in these cycles",
        "moving operands from and to memory, the update of the weights and pruning: all operands are on chip.",
    ),
    ("Not measured here", "clock rate, seconds on a board, resources and energy."),
)
"""Where the figures of the page come from: source, what of the page is from it."""


def draw(record: DemoRecord) -> dict[str, str]:
    """Return the pictures of the record, name -> SVG text for a page."""
    return {
        "loss": loss_curves(record.runs),
        "accuracy": accuracy_curves(record.runs),
        "cycles": cycles_chart(record.by_layer, record.total),
        "timeline": timeline_chart(record.timelines),
        "zoom": zoom_chart(record.zoom),
    }


def render(record: DemoRecord, plots: dict[str, str]) -> str:
    """Return the page as HTML; pictures and style are inside, nothing is loaded from elsewhere."""
    kept, _, group = record.pattern.partition(":")
    dense, sparse = record.runs
    return render_page(
        "demo.html.j2",
        title=f"nmsat: one training step with BDWP {record.pattern}, from loss curve to circuit",
        record=record,
        dense=dense,
        sparse=sparse,
        step=record.total,
        kept=kept,
        group=group,
        sources=SOURCES,
        covered=record.covered,
        least=LEAST_VALUES,
        origin=told_lines(Source.ARRAY, record.config.planned),
        plots=plots,
        tables={
            "training": training_table(record),
            "stages": stages_table(record),
            "products": products_table(record),
            "checks": checks_table(record),
        },
        percent=percent,
        number=numbers,
    )


def page_files(record: DemoRecord) -> dict[str, str]:
    """Return file name -> text of the page and its pictures, which are those of `PAGE_FILES`."""
    plots = draw(record)
    return {PAGE: render(record, plots), **{f"{name}.svg": standalone(svg) for name, svg in plots.items()}}
