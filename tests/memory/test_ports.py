"""Memory ports: RTL against the models."""

from __future__ import annotations

import pytest

from nmsat.dataflow.contract.limits import READERS, WRITERS
from nmsat.hw.memory.read_port import ReadPort
from nmsat.hw.memory.write_port import WritePort
from nmsat.hw.parts.verilog import emit
from nmsat.tb.run.runner import build, run
from tests.benches import in_amaranth


def check_rtl(runs: int, cycles: int, seed: int, *, write: bool, parts: int = 1) -> dict[str, int]:
    name = "sat_write_port" if write else "sat_read_port"
    component = WritePort(len(WRITERS), parts) if write else ReadPort(len(READERS), parts)
    built = build(emit(component, name), name)
    job = {"runs": runs, "cycles": cycles, "write": write, "parts": parts}
    return run(built, "nmsat.tb.memory.bench_ports", job=job, seed=seed).check().saved


@pytest.mark.rtl
@pytest.mark.parametrize("write", [False, True])
def test_rtl_against_model(write: bool) -> None:
    counts = check_rtl(40, 200, seed=1, write=write)
    assert counts["cycles"] > 2_000
    assert counts["errors"] >= 3
    assert counts["late"] >= 3
    assert counts["bursts"] > 200
    assert counts["beats"] > 1_000


@pytest.mark.rtl
@pytest.mark.parametrize("write", [False, True])
def test_beats_in_parts(write: bool) -> None:
    """The narrowest port; short: what is in between is in the long test."""
    counts = check_rtl(30, 200, seed=1, write=write, parts=8)
    assert counts["errors"] >= 3
    assert counts["late"] >= 3
    assert counts["beats"] > 100


@pytest.mark.rtl
@pytest.mark.long
@pytest.mark.parametrize("parts", [1, 2, 4, 8])
@pytest.mark.parametrize("write", [False, True])
def test_rtl_against_model_long(write: bool, parts: int) -> None:
    assert check_rtl(200, 1_000, seed=2, write=write, parts=parts)["errors"] > 30


@pytest.mark.long
@pytest.mark.parametrize("write", [False, True])
def test_in_amaranths_simulator(write: bool) -> None:
    """A little of the bench, for faults that are planted (`make mutate`)."""
    with in_amaranth(__name__):
        assert check_rtl(60, 80, seed=2, write=write)["beats"] > 500


@pytest.mark.long
@pytest.mark.parametrize("write", [False, True])
def test_parts_in_amaranths_simulator(write: bool) -> None:
    """As above, with beats in four parts."""
    with in_amaranth(__name__):
        assert check_rtl(60, 80, seed=1, write=write, parts=4)["beats"] > 150
