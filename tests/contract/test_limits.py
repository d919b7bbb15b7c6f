"""Limits of configurations and sizes: each field at its edges and beyond, in every view of the machine."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nmsat.algorithms.core.ranges import MAX_COUNT, MAX_SIDE
from nmsat.algorithms.core.tape import ConvShape, Pattern, Product, Stage
from nmsat.algorithms.training.config import NUMBER_RANGES, WHOLE_RANGES, TrainConfig
from nmsat.dataflow.contract.config import MemoryConfig, SatConfig, preset
from nmsat.dataflow.contract.legal import check_machine
from nmsat.dataflow.contract.ranges import MEMORY_RANGES, SAT_RANGES, Range
from nmsat.dataflow.mapping.choose import best_tiling
from nmsat.sim.api import Switches, gemm, matmul, simulate, training_step
from nmsat.sim.results.energy import EnergyTable
from nmsat.sim.sat import Sat, launch

if TYPE_CHECKING:
    from collections.abc import Callable

TINY = preset("tiny")
FIELDS = [*SAT_RANGES, *MEMORY_RANGES]
WRONG_KINDS = [True, None, "4", [4], math.nan, np.float32(4), np.bool_(True), 4 + 0j]


def changed(field: Range, value: Any) -> SatConfig:
    """Return the tiny machine with one field of it or of its memory changed."""
    base = TINY.replace(sum_depth=4096)  # as many sums as 256 rows need
    if field in MEMORY_RANGES:
        return base.replace(memory=dataclasses.replace(base.memory, **{field.name: value}))
    if field.name == "sum_depth":
        base = base.replace(rows=1)
    return base.replace(**{field.name: value})


def inside(field: Range) -> list[Any]:
    """Return values at the edges of a field and next to them, all of them allowed."""
    low, high = field.low, field.high
    near = (low * 2, high / 2) if field.power or not field.whole else (low + 1, high - 1)
    kind: Callable[[float], Any] = int if field.whole else float
    return sorted({kind(value) for value in (low, *near, high) if low <= value <= high})


def outside(field: Range) -> list[Any]:
    """Return numbers just beyond the edges, far beyond them, and between the powers of two."""
    low, high = field.low, field.high
    if not field.whole:
        return [math.nextafter(low, 0), math.nextafter(high, math.inf), 0, -1.0, math.inf, -math.inf, math.nan]
    between = [3 * int(low), int(high) - 1] if field.power else []
    return [int(low) - 1, int(high) + 1, 0, -1, 1 << 70, 10**400, *between]


def one_line(error: pytest.ExceptionInfo[Exception], name: str) -> str:
    """Return the text of a refusal: one line of moderate length that begins with the name."""
    text = str(error.value)
    assert text.startswith(f"{name} is ")
    assert "\n" not in text
    assert len(text) < 200
    return text


@pytest.mark.parametrize("field", FIELDS, ids=lambda field: field.name)
def test_numbers_beyond_the_edges_are_refused_where_the_configuration_is_made(field: Range) -> None:
    for value in outside(field):
        with pytest.raises(ValueError) as error:
            changed(field, value)
        text = one_line(error, field.name)
        assert f"{field.low:g}" in text or str(int(field.low)) in text
        assert f"{field.high:g}" in text or str(int(field.high)) in text


@pytest.mark.parametrize("field", FIELDS, ids=lambda field: field.name)
def test_values_of_another_kind_are_refused(field: Range) -> None:
    kinds = [*WRONG_KINDS, np.int64(field.high), *([4.0, np.float64(4)] if field.whole else [])]
    for value in kinds:
        with pytest.raises((TypeError, ValueError)) as error:
            changed(field, value)
        one_line(error, field.name)
        is_nan = isinstance(value, float) and math.isnan(value)
        assert isinstance(error.value, ValueError if is_nan and not field.whole else TypeError)


def test_a_number_of_numpy_is_told_what_to_write() -> None:
    with pytest.raises(TypeError, match=r"rows is .*4.*; it must be an int from 1 to 256 \(write int\(rows\)\)"):
        TINY.replace(rows=np.int64(4))


@pytest.mark.parametrize(
    ("change", "kind", "text"),
    [
        ({"name": ""}, ValueError, "name is ''"),
        ({"name": "a\nb"}, ValueError, r"name is 'a\\nb'"),
        ({"name": "a\x7fb"}, ValueError, r"name is 'a\\x7fb'"),
        ({"name": "z/../../x"}, ValueError, "name is 'z/../../x'; it must be one line .* none of them / or "),
        ({"name": "z\\x"}, ValueError, "name is .*; it must be one line .* none of them / or "),
        ({"name": ".x"}, ValueError, r"name is '\.x'; it must be one line .* the first no dot"),
        ({"name": ".."}, ValueError, r"name is '\.\.'"),
        ({"name": 3}, TypeError, "name is 3"),
        ({"memory": {"channels": 1}}, TypeError, "memory is .*; it must be a MemoryConfig"),
        ({"rows": 32, "sum_depth": 128}, ValueError, "sum_depth is 128; a tile of 32 rows needs 8 rows = 256"),
        ({"row_slices": (0,)}, ValueError, r"row_slices is \(0,\); .* from 1 to 3"),
        ({"row_slices": (4,)}, ValueError, r"row_slices is \(4,\)"),
        ({"column_slices": (2, 1)}, ValueError, r"column_slices is \(2, 1\)"),
        ({"column_slices": (1, 1)}, ValueError, r"column_slices is \(1, 1\)"),
        ({"column_slices": [1]}, TypeError, r"column_slices is \[1\]; it must be a tuple"),
        ({"column_slices": (True,)}, TypeError, r"column_slices is \(True,\)"),
        ({"column_slices": 1}, TypeError, "column_slices is 1"),
        ({"rows": 1, "row_slices": (1,)}, ValueError, "it must be a tuple, empty"),
    ],
)
def test_fields_that_are_no_numbers(change: dict[str, Any], kind: type[Exception], text: str) -> None:
    with pytest.raises(kind, match=text):
        TINY.replace(**change)


@pytest.mark.parametrize(("name", "value"), [("outstanding", 1), ("burst_bytes", 64), ("burst_bytes", 3072)])
def test_memories_that_the_machine_cannot_use(name: str, value: int) -> None:
    """One burst under way: the machine waited for ever; bursts of one beat, or not of a power: it failed in mid-run."""
    with pytest.raises(ValueError, match=f"{name} is {value}"):
        MemoryConfig(**{name: value})


def ends(config: SatConfig) -> bool:
    """Whether the machine's simulator runs a small program to its end."""
    from nmsat.reports.work.program import matrix_program

    program = matrix_program(config, (5, 9, 6), Pattern(1, 2), None, 0)
    report = Sat(config).run(launch(program.image.regions, program.place), program.image.regions, limit=2_000_000)
    return report.error == 0 and report.cycles > 0


@pytest.mark.parametrize("field", FIELDS, ids=lambda field: field.name)
def test_every_view_works_at_the_edges(field: Range) -> None:
    """Array and machine; what the RTL is not built for is refused by it, and results of the array say so."""
    from nmsat.hw.sat import Sat as Circuit

    for value in inside(field):
        config = changed(field, value)
        for memory in (False, True):
            if memory and config.planned:
                continue
            result = simulate(gemm(9, 40, 20, "2:8"), config, memory=memory)
            assert type(result.cycles) is int
            assert result.cycles > 0
            assert 0 < result.utilization <= 1
            assert result.planned == config.planned
            assert result.record()["planned"] == list(config.planned)
        if config.planned:
            with pytest.raises(ValueError, match="planned and not built"):
                simulate(gemm(9, 40, 20, "2:8"), config, memory=True)
            assert field.built is not None
            for view in (Circuit, Sat, check_machine):
                with pytest.raises(ValueError, match=f"planned and not built: {field.name} is {value}"):
                    view(config)
        else:
            Circuit(config)
            assert ends(config)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_mixture_of_edges_is_refused_at_once_or_simulates(data: st.DataObject) -> None:
    memory = {f.name: data.draw(st.sampled_from(inside(f)), label=f.name) for f in MEMORY_RANGES}
    fields = {f.name: data.draw(st.sampled_from(inside(f)), label=f.name) for f in SAT_RANGES}
    try:
        config = SatConfig(name="edges", **fields, memory=MemoryConfig(**memory))
    except ValueError as error:
        assert str(error).startswith("sum_depth is ")  # the one rule between fields
        return
    for pattern in (None, "2:8"):
        result = simulate(gemm(33, 70, 40, pattern), config)
        assert result.cycles >= -(-result.macs // config.elements)
    if not config.planned:
        assert Sat(config)


@pytest.mark.long
@pytest.mark.synth
@pytest.mark.parametrize(
    "change",
    [
        {"act_depth": 64, "weight_depth": 64, "sum_depth": 64, "stage_depth": 64},
        {"rows": 1, "columns": 1, "adder_stages": 1},
        {"rows": 32, "columns": 32, "adder_stages": 7, "act_lanes": 2, "row_slices": (1, 31), "column_slices": (1, 31)},
    ],
    ids=["shallow", "smallest", "largest"],
)
def test_the_circuit_elaborates_at_the_edges(change: dict[str, Any]) -> None:
    from nmsat.hw.parts.verilog import emit
    from nmsat.hw.sat import Sat as Circuit

    assert "module sat(" in emit(Circuit(TINY.replace(**change)), "sat")["sat.v"]


BAD_SIZES = [0, -1, MAX_SIDE + 1, 10**400, 1.5, 2.0, math.nan, math.inf, True, "4", None, np.bool_(True)]


@pytest.mark.parametrize("value", BAD_SIZES, ids=lambda value: str(value)[:12])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_sides_of_products(value: Any, place: int) -> None:
    sides: list[Any] = [4, 8, 4]
    sides[place] = value
    name = "mkn"[place]
    for make in (
        lambda: simulate(gemm(*sides), "tiny", memory=True),
        lambda: Product("p", Stage.FF, *sides),
        lambda: best_tiling(TINY, *sides, None),
    ):
        with pytest.raises((TypeError, ValueError)) as error:
            make()
        text = str(error.value)
        assert text.startswith((f"{name} of product", f"{name} is "))
        assert str(MAX_SIDE) in text
        assert len(text) < 120


def test_sides_of_numpy_become_ints() -> None:
    """An int32 of NumPy would wrap around in the number of multiply-adds."""
    side: Any = np.int32(1 << 20)
    product = gemm(side, side, side)
    assert product.macs_dense == 1 << 60
    assert all(type(size) is int for size in (product.m, product.k, product.n))
    assert simulate(product, "tiny").cycles == simulate(gemm(1 << 20, 1 << 20, 1 << 20), "tiny").cycles


def test_the_largest_sides_simulate() -> None:
    for sides in ((MAX_SIDE, 1, 1), (1, MAX_SIDE, 1), (1, 1, MAX_SIDE)):
        assert simulate(gemm(*sides), "vcu1525").cycles > MAX_SIDE // 1024


BAD_BATCHES: list[Any] = [0, -1, (1 << 24) + 1, 1.5, True, "4"]


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: Product("p", Stage.FF, 4, 8, 4, count=MAX_COUNT + 1), "count of product 'p' is 4294967296"),
        (lambda: Product("p", Stage.FF, 4, 8, 4, count=1.5), "count of product 'p' is 1.5"),  # type: ignore[arg-type]
        (lambda: Product("p", Stage.FF, 4, 8, 4, (2, 8)), r"pattern of product 'p' is \(2, 8\)"),  # type: ignore[arg-type]
        (lambda: Product("p", "ff", 4, 8, 4), "stage of product 'p' is 'ff'"),  # type: ignore[arg-type]
        (lambda: gemm(4, 8, 4, stage="dw"), "stage is 'dw'; it must be one of ff, bp, wu"),
        (lambda: gemm(np.array([4]), 8, 4), r"m of product 'gemm' is array\(\[4\]\); it must be a whole number"),  # type: ignore[arg-type]
        (lambda: Pattern(2.0, 8), "N of a pattern N:M is 2.0"),  # type: ignore[arg-type]
        (lambda: Pattern(2, True), "M of a pattern N:M is True"),
        (lambda: ConvShape(0, 4, 4, 3, 8, (3, 3)), "batch of a convolution is 0"),
        (lambda: ConvShape(1, 4, 4, 3, 8, (3, 0)), "kernel of a convolution is 0"),
        (lambda: ConvShape(1, 4, 4, 3, 8, 3), "kernel of a convolution is 3; it must be a tuple"),  # type: ignore[arg-type]
        (lambda: ConvShape(1, 4, 4, 3, 8, (3, 3), padding=(-1, 0)), "padding of a convolution is -1"),
        (lambda: simulate(gemm(4, 8, 4), 3), "config is 3"),  # type: ignore[call-overload]
        (lambda: simulate(gemm(4, 8, 4), memory="yes"), "memory is 'yes'"),  # type: ignore[call-overload]
        (lambda: simulate(gemm(4, 8, 4), values=1), "values is 1"),  # type: ignore[call-overload]
        (lambda: simulate(gemm(4, 8, 4), switches="os"), "switches is 'os'"),  # type: ignore[call-overload]
        (lambda: simulate(7), "program is 7; it must be a product"),  # type: ignore[call-overload]
        (lambda: simulate("gemm"), "program is 'gemm'"),  # type: ignore[call-overload]
        (lambda: matmul([[1.0]], [[1.0]]), "a is list"),  # type: ignore[arg-type]
        (lambda: matmul(np.zeros((0, 4), np.float16), np.zeros((4, 4), np.float16)), "m of product 'matmul' is 0"),
        (lambda: Switches(rectangle=True), "rectangle is True"),
        (lambda: EnergyTable(mac=math.nan), "mac is nan; it must be from 0 to 1e\\+06"),
        *((lambda batch=batch: training_step("resnet9", batch=batch), f"batch is {batch!r}") for batch in BAD_BATCHES),
    ],
)
def test_other_inputs(make: Callable[[], object], text: str) -> None:
    with pytest.raises((TypeError, ValueError), match=text):
        make()


def test_training_runs_are_checked_field_by_field() -> None:
    for name, low, high in WHOLE_RANGES:
        for value in (low - 1, high + 1, 1.5, True, math.nan, "1"):
            with pytest.raises((TypeError, ValueError), match=f"{name} is "):
                TrainConfig(**{name: value})  # type: ignore[arg-type]
    for name, _, high in NUMBER_RANGES:
        for value in (-1.0, high * 1.001, math.nan, math.inf, True, "1", 1e40):
            with pytest.raises((TypeError, ValueError), match=f"{name} is "):
                TrainConfig(**{name: value})  # type: ignore[arg-type]
    for name in ("dynamic_shift", "sparse_ends"):
        with pytest.raises(TypeError, match=f"{name} is 1"):
            TrainConfig(**{name: 1})  # type: ignore[arg-type]


def test_the_page_of_limits_is_that_of_the_code() -> None:
    """python -m nmsat.reports.commands.limits_page > docs/limits.md"""
    from nmsat.reports.commands.limits_page import page, rows

    assert (Path(__file__).resolve().parent.parent.parent / "docs/limits.md").read_text(encoding="utf-8") == page()
    names = [row[0] for row in rows()]
    for field in FIELDS:
        assert sum(f"`{field.name}`" in name for name in names) >= 1
    for name, *_ in (*WHOLE_RANGES, *NUMBER_RANGES):
        assert f"training run: `{name}`" in names
