"""The whole machine: RTL against the simulator."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from nmsat.dataflow.contract.config import preset
from nmsat.dataflow.contract.isa import ErrorCode
from nmsat.reports.work.verify import build_machine
from nmsat.tb.run.runner import run

if TYPE_CHECKING:
    from nmsat.tb.run.runner import Built


@pytest.fixture(scope="module")
def built() -> Built:
    return build_machine(preset("tiny"))


def check(built: Built, test: str, first: int, count: int) -> dict[str, int]:
    job = {"config": "tiny", "first": first, "count": count}
    saved = run(built, "nmsat.tb.machine.bench_sat", [test], job=job).check().saved
    return saved.get("ends", saved)


@pytest.mark.rtl
def test_registers(built: Built) -> None:
    assert check(built, "registers", 0, 0)["registers"] > 70


@pytest.mark.rtl
def test_soft_reset_leaves_nothing_behind(built: Built) -> None:
    assert check(built, "soft_reset", 0, 5)["cut"] >= 3


@pytest.mark.rtl
def test_errors_of_memory(built: Built) -> None:
    assert {"READ", "WRITE", "REGION", "TIMEOUT"} <= set(check(built, "faults", 0, 8))


@pytest.mark.rtl
def test_memory_that_answers_after_ten_thousand_cycles(built: Built) -> None:
    """An UPDATE; with a limit below that it ends as the model says."""
    job = {"config": "tiny", "seeds": [9]}
    ends = run(built, "nmsat.tb.machine.bench_sat", ["late"], job=job).check().saved["ends"]
    assert ends == {"NONE": 2, "TIMEOUT": 1}


@pytest.mark.rtl
def test_hostile_programs(built: Built) -> None:
    assert {"FIELD", "OPCODE", "NO_END"} <= set(check(built, "hostile", 0, 25))


@pytest.mark.rtl
@pytest.mark.long
def test_errors_of_memory_long(built: Built) -> None:
    assert check(built, "soft_reset", 100, 60)["cut"] >= 40
    assert {"READ", "WRITE", "REGION"} <= set(check(built, "faults", 100, 150))


@pytest.mark.rtl
@pytest.mark.long
def test_hostile_programs_long(built: Built) -> None:
    ends = check(built, "hostile", 1_000, 1_000)
    assert {code.name for code in ErrorCode} - {"READ", "WRITE", "SEMAPHORE", "TIMEOUT"} <= set(ends)
