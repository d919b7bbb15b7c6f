"""The self-contained page of a demo run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from jinja2 import Environment, PackageLoader, StrictUndefined

from nmsat.reports.pages.demo_plots import cycles_chart, loss_curves, standalone, timeline_chart, zoom_chart

if TYPE_CHECKING:
    from nmsat.reports.work.records import DemoRecord, ProductRun

PAGE: Final = "report.html"

PAGE_FILES: Final = (PAGE, "loss.svg", "cycles.svg", "timeline.svg", "zoom.svg")
"""All files of a page."""


def draw(record: DemoRecord) -> dict[str, str]:
    """Return the pictures of the record, name -> SVG text for a page."""
    return {
        "loss": loss_curves(record.runs),
        "cycles": cycles_chart(record.by_layer),
        "timeline": timeline_chart(record.timelines),
        "zoom": zoom_chart(record.zoom),
    }


def render(record: DemoRecord, plots: dict[str, str]) -> str:
    """Return the page as HTML; pictures and style are inside, nothing is loaded from elsewhere."""
    environment = Environment(loader=PackageLoader("nmsat.reports.pages"), autoescape=True, undefined=StrictUndefined)
    kept, _, group = record.pattern.partition(":")
    dense, sparse = record.runs
    return environment.get_template("demo.html.j2").render(
        title=f"nmsat: one training step with BDWP {record.pattern}, from loss curve to circuit",
        record=record,
        dense=dense,
        sparse=sparse,
        step=record.total,
        kept=kept,
        group=group,
        matches=sum(check.match for check in record.checks),
        plots=plots,
        percent=lambda share: f"{100 * share:.1f} %",
        number=lambda value: f"{value:,}".replace(",", "\N{THIN SPACE}"),
        stall=_largest_stall,
    )


def page_files(record: DemoRecord) -> dict[str, str]:
    """Return file name -> text of the page and its pictures, which are those of `PAGE_FILES`."""
    plots = draw(record)
    return {PAGE: render(record, plots), **{f"{name}.svg": standalone(svg) for name, svg in plots.items()}}


def _largest_stall(product: ProductRun) -> str:
    cause, cycles = max(product.stalls.items(), key=lambda item: item[1], default=("none", 0))
    return f"{cause} {cycles / product.cycles:.1%}" if cycles else "none"
