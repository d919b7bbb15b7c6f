"""Faults that Yosys draws in netlists (`make netlist`): they are in the model, chosen by number, and judged rightly."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from nmsat.hw.parts.small_queue import SmallQueue
from nmsat.reports.commands.verification_page import NETLIST
from nmsat.tb.run.errors import BuildError
from tests.ci_scripts import script
from tests.source import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import ModuleType


@pytest.fixture
def netlist(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return script("netlist", monkeypatch)


@pytest.mark.synth
def test_the_same_seed_draws_the_same_faults(netlist: ModuleType) -> None:
    texts = [netlist.planted(SmallQueue(8, 4), "sat_queue", 3, seed) for seed in (1, 1, 2)]
    assert texts[0] == texts[1]
    assert texts[0][1] != texts[2][1]
    text, faults, _ = texts[0]
    assert len(faults) == 3
    assert all(fault.startswith("mutate -mode ") and "-src hw/parts/small_queue.py" in fault for fault in faults)
    assert '  initial if ($value$plusargs("mutant=%d", mutant) == 0) mutant = 0;\n' in text
    assert "input [1:0] mutant" not in text
    assert ", mutant" not in text.partition(";")[0]
    for number in (1, 2, 3):
        assert f"2'h{number}" in text


class Played:
    """A unit whose bench is played: what it does with each fault."""

    def __init__(self, netlist: ModuleType, monkeypatch: pytest.MonkeyPatch, ends: list[Exception | None]) -> None:
        self.netlist, self.chosen = netlist, list[str]()
        self.ends: Iterator[Exception | None] = iter(ends)
        self.unit = netlist.Unit("queue", "nmsat.tb.drive.bank", "test_x", self.play)
        monkeypatch.setattr(netlist, "planted", lambda *_: ("text", ["mutate a", "mutate b"], "digest"))

    def play(self, bank: Any) -> None:
        assert bank.emit(object(), "sat_queue") == {"sat_queue.v": "text"}
        self.chosen += bank.run.keywords["plusargs"]
        end = next(self.ends)
        if end is not None:
            raise end


def test_a_fault_is_killed_if_the_bench_fails(netlist: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    said = AssertionError("AssertionError: cycle 3: o is 1")
    played = Played(netlist, monkeypatch, [None, said, None])
    digest, verdicts = netlist.judge(played.unit, {})
    assert digest == "digest"
    assert played.chosen == ["+mutant=0", "+mutant=1", "+mutant=2"]
    assert [(one.fault, one.state, one.said) for one in verdicts] == [
        ("mutate a", "killed", "AssertionError: cycle 3: o is 1"),
        ("mutate b", "alive", ""),
    ]
    played = Played(netlist, monkeypatch, [None, said, None])
    known = {("queue", "mutate a"): "no", ("queue", "mutate b"): "it is never used"}
    states = [(one.state, one.why) for one in netlist.judge(played.unit, known)[1]]
    assert states == [("alive", "no"), ("equivalent", "it is never used")]


def test_what_does_not_run_is_no_verdict(netlist: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RuntimeError, match="queue: the bench does not pass without a fault: wrong"):
        netlist.judge(Played(netlist, monkeypatch, [ValueError("wrong")]).unit, {})
    with pytest.raises(BuildError):
        netlist.judge(Played(netlist, monkeypatch, [None, BuildError("no compiler")]).unit, {})


def test_the_record_is_of_the_units_that_there_are(netlist: ModuleType) -> None:
    """Every fault is killed or explained, one in twenty is alive at most; explained is nothing that was not drawn."""
    units = json.loads(NETLIST.read_text(encoding="utf-8"))["units"]
    assert [(one["unit"], one["test"]) for one in units] == [(one.name, one.test) for one in netlist.UNITS]
    assert {one["seed"] for one in units} == {netlist.SEED}
    faults = [one for unit in units for one in unit["faults"]]
    assert len(faults) == netlist.COUNT * len(netlist.UNITS) >= 25
    states = [one["state"] for one in faults]
    assert set(states) <= {"killed", "equivalent", "alive"}
    assert states.count("alive") <= 0.05 * len(states)
    for kind in ("equivalent", "alive"):
        told = {(one["unit"], one["fault"]): one["why"] for one in faults if one["state"] == kind}
        assert told == netlist.reasons(kind)
        assert all(told.values())
    for one in units:
        path, _, name = one["test"].partition("::")
        assert f"def {name.partition('[')[0]}(" in (ROOT / path).read_text(encoding="utf-8")


def test_a_unit_that_is_not_there(netlist: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        netlist.main(["--only", "nothing", "--json", str(tmp_path / "out.json")])
    assert "--only is 'nothing'; units: sore, " in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
