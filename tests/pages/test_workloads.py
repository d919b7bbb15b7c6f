"""What is reported about workloads: plain values, text, tables, samples for the RTL."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from nmsat.algorithms.workloads.engine import registry
from nmsat.algorithms.workloads.engine.program import differences
from nmsat.algorithms.workloads.engine.registry import record, workloads
from nmsat.dataflow.contract.config import preset
from nmsat.reports.pages import workload_page as tables
from nmsat.reports.pages.workload_totals import RECORD, KnownTotals
from nmsat.reports.work import workload as reports
from nmsat.reports.work.committed import CYCLES_PAGE
from nmsat.reports.work.text import InputError, prose
from nmsat.sim.array.fast import simulate_product
from nmsat.sim.results.provenance import Source
from nmsat.sim.work.sample import sample_products
from nmsat.sim.work.workload import simulate_tape

ROOT = Path(__file__).resolve().parent.parent.parent

TINY = preset("tiny")


def test_the_list_names_every_workload() -> None:
    found = reports.workload_list()
    assert [item["name"] for item in found] == list(workloads())
    assert json.loads(json.dumps(found)) == found
    assert len({item["paper"] for item in found}) >= 9
    assert all(set(item["variants"]) == {"faithful", "nm"} for item in found)


@pytest.mark.usefixtures("estimated")
@pytest.mark.parametrize("scale", ["small", "paper"])
def test_a_run_is_plain_values_and_text(scale: str) -> None:
    values = reports.workload_run("sora", scale, "nm", study=False)  # type: ignore[arg-type]
    assert json.loads(json.dumps(values, allow_nan=False))["name"] == "sora"
    assert values["config"] == reports.CONFIGS[scale]
    assert values["match"]
    assert values["values"] is (scale == "small")
    assert sum(item["cycles"] for item in values["items"]) == values["cycles"]
    assert sum(item["macs_true"] for item in values["items"]) == values["macs_true"]
    text = reports.workload_text(values)
    assert ("equal to the program, bit for bit" in text) is (scale == "small")
    assert "reference, not ours" in text


def test_a_study_is_part_of_a_small_run() -> None:
    values = reports.workload_run("milu", "small", "faithful", preset("small"))
    assert values["study"]["holds"] is True
    assert values["config"] == "small"
    assert f"{values['study']['claim']}: yes" in reports.workload_text(values)
    assert "uniform_takes_the_shortest" in reports.workload_text(values)


@pytest.mark.usefixtures("estimated")
def test_the_table_has_a_line_for_every_workload_and_variant(monkeypatch: pytest.MonkeyPatch) -> None:
    known = workloads()
    monkeypatch.setattr(tables, "workloads", lambda: {name: known[name] for name in ("sora", "sparsifiner")})
    lines = tables.table("paper", preset("vcu1525"), KnownTotals({}), print, 1, {}).splitlines()
    assert len({line.count("|") for line in lines}) == 1
    assert [line.split(" | ")[:2] for line in lines[2:]] == [
        [f"| {name}", variant] for name in ("sora", "sparsifiner") for variant in registry.VARIANTS
    ]


def test_the_page_in_the_repository_has_a_line_for_every_workload_and_variant() -> None:
    text = (ROOT / "reports" / "tables" / CYCLES_PAGE).read_text(encoding="utf-8")
    for title in ("## At the scale of the papers", "## At small scale"):
        lines = text.split(title)[1].split("\n\n## ")[0].splitlines()
        assert [line.split(" | ")[:2] for line in lines if line.startswith("| ")][2:] == [
            [f"| {name}", variant] for name in workloads() for variant in registry.VARIANTS
        ]


@pytest.mark.parametrize("path", sorted((ROOT / "reports" / "tables").glob("*.md")), ids=lambda path: path.name)
def test_the_prose_of_the_pages_has_short_lines(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if len(line) >= 120 and not line.startswith(("|", "!", "    "))] == []


def test_prose_is_wrapped() -> None:
    text = prose(f"{'word ' * 60}\n{'x' * 130} sub-word")
    assert max(len(line) for line in text.splitlines() if "x" not in line) < 120
    assert text.split() == [*["word"] * 60, "x" * 130, "sub-word"]


@pytest.mark.long
def test_the_page_in_the_repository_is_what_the_command_writes() -> None:
    folder = ROOT / "reports" / "tables"
    known = KnownTotals.read(folder)
    assert (folder / CYCLES_PAGE).read_text(encoding="utf-8") == tables.cycles_page(known, print)
    assert (folder / RECORD).read_text(encoding="utf-8") == known.text()


def test_programs_that_ran_are_taken_until_the_estimate_changes(tmp_path: Path) -> None:
    program = record("sparsifiner", "small", "nm")
    result = simulate_tape(program.tape, TINY)
    known = KnownTotals.read(tmp_path)
    guess = known.totals("sparsifiner", "nm", program, result, print)
    assert (guess.source, known.text()) == (Source.ESTIMATE, "{}\n")
    exact = KnownTotals({}, ["sparsifiner"])
    ran = exact.totals("sparsifiner", "nm", program, result, print)
    assert ran.source is Source.MACHINE
    assert ran.cycles == reports.on_machine(program, result, print).cycles
    (tmp_path / RECORD).write_text(exact.text())
    assert KnownTotals.read(tmp_path).totals("sparsifiner", "nm", program, result, print) == ran
    entries = json.loads(exact.text())
    entries["sparsifiner nm"]["estimate"] += 1
    (tmp_path / RECORD).write_text(json.dumps(entries))
    stale = KnownTotals.read(tmp_path)
    assert (stale.totals("sparsifiner", "nm", program, result, print), stale.text()) == (guess, "{}\n")


@pytest.mark.parametrize("text", ["[]", "{", '{"a": {}}', '{"a": {"cycles": "x"}}', '{"a": 3}'])
def test_a_damaged_record_is_one_line(text: str, tmp_path: Path) -> None:
    (tmp_path / RECORD).write_text(text)
    with pytest.raises(InputError, match="is no record of workloads"):
        KnownTotals.read(tmp_path)


def test_speed_up_grows_with_the_pruning_of_granet() -> None:
    rows = tables.granet_progress(preset("vcu1525"))
    assert [round(row["density"], 3) for row in rows] == [0.5, 0.269, 0.15, 0.106, 0.1]
    speedups = [row["speedup"] for row in rows]
    assert speedups == sorted(speedups)
    assert speedups[-1] > speedups[0] + 0.15


def test_sparse_wide_costs_the_forward_pass_of_the_dense_network() -> None:
    rows = {row["network"]: row for row in tables.iso_flop_cycles(preset("vcu1525"))}
    dense, wide = rows["dense"], rows["wide, nm"]
    assert wide["macs"] == pytest.approx(dense["macs"], rel=0.01)
    assert wide["forward"] == pytest.approx(dense["forward"], rel=0.02)
    assert rows["wide, faithful"]["forward"] > 2 * dense["forward"]  # a cover loses the premise
    assert wide["step"] == pytest.approx(2 * dense["step"], rel=0.02)  # the weight gradient is dense


def test_spans_save_cycles_beyond_the_causal_mask() -> None:
    found = tables.causal_attention(preset("vcu1525"))
    assert found["all pairs"] > 1.9 * found["causal"]
    assert found["causal"] > 1.4 * found["MoA"]


@pytest.mark.parametrize("name", ["granet", "moa", "sparse-ot"])
def test_samples_are_products_of_the_program(name: str) -> None:
    tape = record(name, "small", "nm").tape
    samples = sample_products(simulate_tape(tape, TINY), TINY, count=5)
    assert len(samples) == 5
    assert len({(s.how, s.pattern, s.stage) for s in samples}) > 1
    for sample in samples:
        y = simulate_product(sample.tiling, sample.a, sample.packed).y
        assert y is not None
        assert np.isfinite(y).all()
        assert sample.tiling.m * sample.tiling.k * sample.tiling.n <= 40_000
        product = next(p for p in tape.products if (p.name, p.stage.value) == (sample.product, sample.stage))
        if sample.whole and product.y is not None and product.count == 1 and sample.how == "native":
            assert np.array_equal(y, product.y)
        if sample.y is not None:
            assert np.array_equal(y.view(np.uint32), sample.y.view(np.uint32))
    assert sum(sample.y is not None for sample in samples) >= 4


@pytest.mark.usefixtures("estimated")
def test_the_example_of_the_documentation_is_a_workload(monkeypatch: pytest.MonkeyPatch) -> None:
    """The module in docs/workloads.md, as the page says: found, exact, at both scales, its claim true."""
    text = (Path(__file__).parent.parent.parent / "docs" / "workloads.md").read_text(encoding="utf-8")
    before = len(workloads())
    monkeypatch.setattr(registry, "_KNOWN", dict(registry._KNOWN))
    module = ModuleType("fixed_mask")
    monkeypatch.setitem(sys.modules, "fixed_mask", module)
    exec(text.split("```python\n")[1].split("```")[0], module.__dict__)
    assert len(workloads()) == before + 1
    for variant in registry.VARIANTS:
        program = record("fixed-mask", "small", variant)
        shapes = record("fixed-mask", "small", variant, values=False, profile=program.profile)
        assert differences(program.tape, shapes.tape) == []
        for scale in registry.SCALES:
            values = reports.workload_run("fixed-mask", scale, variant)
            assert values["match"]
            assert values["study"] is None if scale == "paper" else values["study"]["holds"]


def test_samples_need_values() -> None:
    result = simulate_tape(record("moa", "small", "nm", values=False).tape, TINY)
    with pytest.raises(ValueError, match="holds no values"):
        sample_products(result, TINY)


@pytest.mark.rtl
@pytest.mark.parametrize(("name", "variant"), [("granet", "faithful"), ("moa", "nm")])
def test_a_sample_runs_on_the_rtl(name: str, variant: str) -> None:
    found = reports.workload_verify(name, variant, TINY, count=4)  # type: ignore[arg-type]
    assert len(found["checks"]) == 4
    assert found["match"], [check["differences"] for check in found["checks"]]


@pytest.mark.long
@pytest.mark.rtl
@pytest.mark.parametrize("variant", ["faithful", "nm"])
@pytest.mark.parametrize("name", list(workloads()))
def test_every_workload_runs_on_the_rtl(name: str, variant: str) -> None:
    assert reports.workload_verify(name, variant, TINY, count=24)["match"]  # type: ignore[arg-type]
