"""Page and pictures of wide sweeps: all works apart, marks on every axis, reasons that end, and what is left out."""

from __future__ import annotations

import re
from typing import Any

import pytest

from nmsat.reports.commands.sweep import _summary
from nmsat.reports.pages.style import new_figure, style
from nmsat.reports.pages.sweep_page import MOST_ERRORS, sweep_page
from nmsat.reports.pages.sweep_plots import MARKS, MOST_WORKS, mark_axis, sweep_figures
from nmsat.reports.work.standing import Basis
from tests.cli.sweeps import rough


def test_reasons_are_grouped_without_machines_and_the_page_of_many_ends() -> None:
    rows: list[dict[str, Any]] = [
        {"index": i, "machine": f"m{i}", "error": f"product 'fc{i % 30}' does not run on 'm{i}': why", "cycles": None}
        | {"status": "error", "front": False, "planned": ""}
        for i in range(1500)
    ]
    rows.append(rows[0] | {"index": 1500})
    values = _summary(rows)
    assert len(values["errors"]) == 30
    assert next(iter(values["errors"].items())) == ("product 'fc0' does not run on the machine: why", 51)
    page = sweep_page(values | {"axes": [], "nmsat": "", "sweep": "", "version": "", "points_sha256": ""}, [], "c")
    assert page.count("does not run on") == MOST_ERRORS
    assert "10 more reasons, of 500 points" in page


@pytest.mark.parametrize("values", [(25468, 25491), (7.0,), (0.101, 0.102), (12, 12.4), (1, 10**6), (99, 101, 104)])
def test_an_axis_has_two_marks_that_differ_and_are_seen(values: tuple[float, ...]) -> None:
    with style():
        drawing = new_figure(300)
        axes = drawing.subplots()
        axes.plot(values, values, "o")
        axes.set(xscale="log")
        mark_axis(axes.xaxis, values)
        drawing.draw_without_rendering()
    low, high = axes.get_xlim()
    seen = [text.get_text() for text, at in zip(axes.get_xticklabels(), axes.get_xticks(), strict=True)
            if low <= at <= high]  # fmt: skip
    assert len(set(seen)) == len(seen) >= 2


def test_pictures_draw_eight_works_apart_and_exact_cycles_where_there_are_any() -> None:
    assert len(set(MARKS)) == MOST_WORKS == 8
    rows = [
        {**rough(i, 10 + i % 5, 1000 + i, 0), "batch": 1 + i // 5, "accuracy": 0.5, "machine": "m"} for i in range(45)
    ]
    rows[1]["exact_cycles"], rows[2]["exact_cycles"] = 990, 991
    figures = {figure.name: figure for figure in sweep_figures(rows, [], Basis("c", "m"))}
    pareto = figures["pareto_lut"]
    assert "9 works, the first 8 drawn" in pareto.caption
    assert all(f">n, batch {batch}, bdwp 2:8<" in pareto.picture.svg for batch in range(1, 9))
    assert [(row["cycles"], row["standing"]) for row in pareto.rows][:2] == [(990, "exact"), (1005, "modelled")]
    assert figures["accuracy"].rows[0]["cycles"] == 990
    labels = re.findall(r">(bdwp 2:8)<", figures["accuracy"].picture.svg)
    assert len(labels) == 1  # in the legend, not at each of the points


def test_heat_maps_of_more_rows_than_dots_say_so() -> None:
    work = {"network": "vit", "batch": 1, "method": "bdwp", "pattern": "2:8", "machine": "m", "accuracy": None}
    rows = [
        {**work, "rows": i, "columns": j, "cycles": 1000 + i, "lut": 1, "dsp": 1, "ram_kbit": 1}
        for i in range(1, 782) for j in (1, 2)
    ]  # fmt: skip
    heat = sweep_figures(rows, ["set.rows", "set.columns"], Basis("c", "m"))[3]
    found = re.search(r"(\d+) of the 781 values of rows are drawn; all are in the files", heat.caption)
    assert found is not None
    assert 400 < int(found[1]) < 781
