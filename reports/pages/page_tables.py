"""The tables of a demo's page as plain values, in the order in which a narrow screen shows them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nmsat.reports.work.records import Check, DemoRecord, ProductRun, StageTotal, TrainingRun


@dataclass(frozen=True)
class Cell:
    """One cell: its text, and whether it tells of something good (True), bad (False) or neither (None)."""

    text: str
    good: bool | None = None


@dataclass(frozen=True)
class Table:
    """A table of a page.

    caption: what it shows; columns: headings, that of the rows' names first; lead: so many columns stand in the first
    line of a row where the screen is narrow, the others below them with their headings; rows: cells as columns;
    sums: the last so many rows are sums.
    """

    caption: str
    columns: tuple[str, ...]
    lead: int
    rows: tuple[tuple[Cell, ...], ...]
    sums: int = 0

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(f"row {row[0].text!r} has {len(row)} cells; the table has {len(self.columns)} columns")


def percent(share: float) -> str:
    """Return a share of 1 as percent."""
    return f"{100 * share:.1f} %"


def numbers(value: int) -> str:
    """Return a whole number in groups of thousands."""
    return f"{value:,}".replace(",", "\N{NARROW NO-BREAK SPACE}")


def training_table(record: DemoRecord) -> Table:
    """Return accuracy, loss and time of both training runs."""
    columns = ("run", "test accuracy", "last loss", "steps", "seconds")
    return Table("Both training runs at their end", columns, 3, tuple(map(_training_row, record.runs)))


def stages_table(record: DemoRecord) -> Table:
    """Return the sums over the step's products by stage, and over the step."""
    columns = ("stage", "speed-up", "cycles", "cycles dense", "bound of speed-up", "utilization")
    rows = tuple(map(_stage_row, (*record.stages, record.total)))
    return Table("Cycles of the array by stage", columns, 3, rows, sums=1)


def products_table(record: DemoRecord) -> Table:
    """Return every product of the step, layer by layer."""
    columns = ("product", "speed-up", "cycles", "cycles dense", "utilization", "largest wait", "M × K × N", "pattern")
    return Table("Cycles of the array by product", columns, 3, tuple(map(_product_row, record.by_layer)))


def checks_table(record: DemoRecord) -> Table:
    """Return the products, or parts of them, that ran on the RTL."""
    columns = ("product", "result", "values compared", "cycles RTL", "cycles simulator", "part", "M × K × N", "pattern")
    caption = "Products compared between the Verilog and the simulator"
    return Table(caption, columns, 3, tuple(map(_check_row, record.checks)))


def _training_row(run: TrainingRun) -> tuple[Cell, ...]:
    texts = (run.label, percent(run.accuracy), f"{run.losses[-1]:.4f}", str(len(run.losses)), f"{run.seconds:.1f}")
    return tuple(map(Cell, texts))


def _stage_row(item: StageTotal) -> tuple[Cell, ...]:
    texts = (
        item.stage.upper() if item.stage != "step" else "whole step",
        f"{item.speedup:.2f}×",
        numbers(item.cycles),
        numbers(item.cycles_dense),
        f"{item.bound:.2f}×",
        percent(item.ideal / item.cycles),
    )
    return tuple(map(Cell, texts))


def _product_row(product: ProductRun) -> tuple[Cell, ...]:
    texts = (
        f"{product.layer} {product.stage.upper()}",
        f"{product.cycles_dense / product.cycles:.2f}×",
        numbers(product.cycles),
        numbers(product.cycles_dense),
        percent(product.utilization),
        _largest_wait(product),
        f"{product.m} × {product.k} × {product.n}",
        product.pattern,
    )
    return tuple(map(Cell, texts))


def _check_row(check: Check) -> tuple[Cell, ...]:
    result = Cell("equal", good=True) if check.match else Cell(check.difference or "cycles differ", good=False)
    texts = (
        numbers(check.values),
        numbers(check.cycles_rtl),
        numbers(check.cycles_sim),
        "whole" if check.whole else "cut",
        f"{check.m} × {check.k} × {check.n}",
        check.pattern,
    )
    return (Cell(f"{check.layer} {check.stage.upper()}"), result, *map(Cell, texts))


def _largest_wait(product: ProductRun) -> str:
    cause, cycles = max(product.stalls.items(), key=lambda item: item[1], default=("none", 0))
    return f"{cause} {percent(cycles / product.cycles)}" if cycles else "none"
