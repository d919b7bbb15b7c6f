"""Functional coverage: bins are filled by what was carried out, and by nothing else."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from nmsat.dataflow.contract.config import preset
from nmsat.dataflow.contract.isa import Compute, ErrorCode, Instruction, Opcode, Side
from nmsat.dataflow.contract.legal import error_code
from nmsat.dataflow.contract.registers import COUNTERS
from nmsat.sim.parts.outcome import Report
from nmsat.sim.sat import Sat, program_words
from nmsat.tb import coverage
from nmsat.tb.machine.bins import BINS, EXCLUDED, Counted, carry_out, fresh_state
from nmsat.tb.machine.configs import dealt
from nmsat.tb.machine.jobs import random_job
from nmsat.tb.run.runner import SimulationError

TINY = preset("tiny")


def filled(counted: Counted) -> set[str]:
    return {name for name, count in counted.counts.items() if count}


def of(opcode: Opcode, **fields: int) -> set[str]:
    """Return the bins that one instruction fills."""
    counted = Counted()
    counted.instruction(Instruction(opcode, fields), TINY, None)
    return filled(counted)


def test_a_compute_fills_the_bins_of_its_fields() -> None:
    command = Compute(ws=True, n=2, m=8, a=4, windows=1, seed=True)
    assert of(Opcode.COMPUTE, **command.fields()) == {
        "pattern x dataflow: 2:8 ws",
        "dataflow x rectangle: ws 4x2",
        "operand x rectangle: sparse 4x2",
        "chains: ws seed",
    }
    dense = replace(command, n=4, m=4, ws=False, seed=False, keep=True)
    assert {"pattern x dataflow: dense os", "chains: os keep"} < of(Opcode.COMPUTE, **dense.fields())


def test_a_bin_that_is_called_illegal_is_so_on_every_machine() -> None:
    """No COMPUTE with that pattern is legal, whatever its rectangle, on machines of one lane or two."""
    legal = set()
    for lanes, a, (n, m) in product((1, 2), (1, 2, 4, 8), ((5, 16), (8, 16), (2, 16), (3, 8))):
        command = Compute(ws=True, n=n, m=m, a=a, windows=1).instruction()
        if error_code(command.encode(), TINY.replace(act_lanes=lanes)) is ErrorCode.NONE:
            legal.add(f"{n}:{m} ws")
    assert legal == {"2:16 ws", "3:8 ws"}
    illegal = {name for name, why in EXCLUDED.items() if "no machine takes it" in why}
    assert illegal == {"pattern x dataflow: 5:16 ws", "pattern x dataflow: 8:16 ws"}


def test_what_is_not_declared_is_not_counted() -> None:
    assert not BINS.keys() & EXCLUDED.keys()
    wraps = {"outer": 1, "inner": 2, "base": TINY.stage_depth - 1}
    assert of(Opcode.STAGE, **wraps) == of(Opcode.STAGE, outer=1, inner=1) == {"loads: stage"}


def test_leftovers_of_a_store() -> None:
    whole = of(Opcode.STORE, rows=2 * TINY.rows, columns=4 * TINY.columns, log2_a=1, side=Side.MASK, to_half=1)
    assert whole == {"leftovers: os rows whole", "leftovers: os columns whole", "epilogue: mask half"}
    part = of(Opcode.STORE, rows=3, columns=1, log2_a=1, relu=1, lane=4, ws=1)
    assert {"leftovers: ws rows leftover", "leftovers: ws columns leftover", "epilogue: lane"} < part


def test_values_are_those_that_were_loaded() -> None:
    """An UPDATE loads no operand; a product loads normal ones. What stood in buffers before counts for nothing."""
    for seed, operands in ((9, set()), (50, {"activation normal", "weight normal", "result normal"})):
        job = random_job(TINY, seed)
        settings = dealt(TINY, seed, job.image.regions, job.place)
        counted, state = Counted(), fresh_state(TINY, job.image.regions)
        Sat(TINY).time(settings, program_words(job.image.regions, settings), carry_out(counted, state))
        found = {name.partition(": ")[2] for name in filled(counted) if BINS[name] == "operands"}
        assert operands <= found
        assert bool(operands) == bool(found)


def test_marks_in_buffers_change_nothing() -> None:
    """Programs give the same memory whether buffers begin with marks or with zeros."""
    for seed in (13, 50, 64, 92):
        marked, plain = random_job(TINY, seed), random_job(TINY, seed)
        settings = dealt(TINY, seed, marked.image.regions, marked.place)
        state = fresh_state(TINY, marked.image.regions)
        Sat(TINY).time(settings, program_words(marked.image.regions, settings), carry_out(None, state))
        Sat(TINY).run(settings, plain.image.regions)
        for mine, theirs in zip(marked.image.regions, plain.image.regions, strict=True):
            assert np.array_equal(mine, theirs)


def test_how_a_run_ends() -> None:
    counters = dict.fromkeys(COUNTERS, 0) | {"wait_flush": 3, "load_blocked": 1}
    counted = Counted()
    counted.end(Report(counters, ErrorCode.FIELD, 7, special=True, overflow=False), "pausing", int(Opcode.STORE))
    assert filled(counted) == {
        "stalls: wait_flush pausing",
        "stalls: load_blocked pausing",
        "ends: FIELD",
        "ends: FIELD STORE",
        "ends: special",
    }


def test_only_declared_bins_count() -> None:
    counted = Counted()
    counted.add("chains", ["os alone", "os alone", "of no dataflow"])
    assert (counted.counts["chains: os alone"], set(counted.counts)) == (1, set(BINS))


DATA = (
    "# SystemC::Coverage-3\n"
    "C '\x01f\x02/x/sat_a.v\x01l\x024\x01n\x023\x01page\x02v_line/sat_a\x01o\x02block\x01h\x02TOP.one' 2\n"
    "C '\x01f\x02/x/sat_a.v\x01l\x024\x01n\x023\x01page\x02v_line/sat_a\x01o\x02block\x01h\x02TOP.two' 0\n"
    "C '\x01f\x02/x/sat_a.v\x01l\x027\x01n\x025\x01page\x02v_branch/sat_a\x01o\x02if\x01h\x02TOP.one' 0\n"
    "C '\x01f\x02/x/sat_a.v\x01l\x028\x01n\x025\x01page\x02v_branch/sat_a\x01o\x02if\x01h\x02TOP.one' 0\n"
    "C '\x01f\x02/x/sat_b.v\x01l\x027\x01n\x025\x01page\x02v_branch/sat_b.in\x01o\x02if\x01h\x02TOP.b' 1\n"
)
"""What Verilator writes: two instances of a module, and another."""


VERILOG = "\n" * 6 + "  if (x) y;\n  if (\\$auto$verilog_backend.cc:2355:dump_module$1 ) begin end\n"
"""Line 8 is none of the circuit's."""


def test_lines_and_branches_by_module() -> None:
    rows = coverage.modules(coverage.of_circuit(coverage.points(DATA), {"sat_a.v": VERILOG, "sat_b.v": VERILOG}))
    assert rows == [coverage.Module("sat_a", 1, 1, 1, 0), coverage.Module("sat_b", 0, 0, 1, 1)]
    assert coverage.total(rows) == coverage.Module("all", 1, 1, 2, 1)


@pytest.mark.parametrize("hole", [True, False])
def test_an_empty_bin_fails_the_tier(
    hole: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path
) -> None:
    bins = dict.fromkeys(BINS, 1) | {"chains: ws seed": int(not hole)}
    monkeypatch.setattr(coverage, "sat_verilog", lambda _: {"sat_a.v": VERILOG, "sat_b.v": VERILOG})
    monkeypatch.setattr(coverage, "build", lambda *_, **__: None)
    monkeypatch.setattr(coverage, "run_part", lambda *_: (bins, DATA, []))
    assert coverage.main(["--seed", "7", "--json", str(tmp_path / "c.json")]) == int(hole)
    out = capsys.readouterr().out
    assert ("EMPTY chains: ws seed" in out, "again: make coverage SEED=7" in out) == (hole, hole)
    record = json.loads((tmp_path / "c.json").read_text())
    assert record["empty"] == (["chains: ws seed"] if hole else [])
    assert record["missed"] == [{"module": "sat_a", "kind": "branch", "line": 7, "what": "if", "text": "if (x) y;"}]


@pytest.mark.rtl
@pytest.mark.long
def test_no_bin_stays_empty(tmp_path) -> None:
    """The whole tier: the regression fails while a declared bin is empty, or where circuit and simulator differ."""
    assert coverage.main(["--json", str(tmp_path / "c.json")]) == 0


def test_a_difference_fails_the_tier(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    class Results:
        def check(self) -> None:
            raise SimulationError("seed 3: cycles is 1")

    monkeypatch.setattr(coverage, "run", lambda *_, **__: Results())
    bins, _, wrong = coverage.run_part(coverage.PARTS[0], 0, None, tmp_path)  # type: ignore[arg-type]
    assert (bins, wrong) == ({}, ["seed 3: cycles is 1"])
