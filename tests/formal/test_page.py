"""The page of verification: it shows the committed records, and these are of the proofs and faults that there are."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from nmsat.reports.commands.verification_page import COVERAGE, ICARUS, MUTANTS, RECORD, UNREACHED, page
from nmsat.tb import icarus
from nmsat.tb.coverage import PARTS
from nmsat.tb.formal.table import PROOFS
from nmsat.tb.machine.bins import BINS
from tests.ci_scripts import script
from tests.source import ROOT

if TYPE_CHECKING:
    import pytest


def test_the_page_shows_the_record() -> None:
    assert (ROOT / "docs" / "verification.md").read_text(encoding="utf-8") == page()


def test_the_record_is_of_the_proofs_that_there_are() -> None:
    found = {proof["name"]: proof for proof in json.loads(RECORD.read_text(encoding="utf-8"))["proofs"]}
    assert list(found) == list(PROOFS)
    for name, proof in PROOFS.items():
        told = found[name]
        assert told["verdict"] == "proved"
        assert (told["unbounded"], told["depth"]) == (proof.unbounded, proof.depth)
        assert (told["claim"], told["smaller"]) == (proof.claim, proof.smaller)
        assert told["faults"] == [fault.name for fault in proof.faults]


def test_the_record_is_of_the_faults_that_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of those that were run at most one in twenty lives; who does is told on the page, with the reason if it may."""
    planted = script("mutate", monkeypatch).mutants()
    told = json.loads(MUTANTS.read_text(encoding="utf-8"))["mutants"]
    assert [(one["tier"], one["file"], one["name"], one["test"], one["why"]) for one in told] == [
        (tier, one.file, one.name, one.test, one.equivalent) for tier, members in planted.items() for one in members
    ]
    states = [one["state"] for one in told]
    assert "broken" not in states
    assert states.count("alive") <= 0.05 * (states.count("alive") + states.count("killed"))
    assert all(one["why"] for one in told if one["state"] == "equivalent")
    words = " ".join(page().split())
    for one in told:
        if one["state"] in ("alive", "equivalent"):
            assert f"- `{one['file']}`, *{one['name']}*, {one['state']}" in words
    missing = states.count("not run")
    assert f"- {missing} of the {len(told)} faults above: they have not been run." in page() or not missing


def test_what_was_missed_once_is_seen_by_quick_tests() -> None:
    """Sixteen faults passed every test once; `make test` runs what sees them now."""
    told = [one for one in json.loads(MUTANTS.read_text(encoding="utf-8"))["mutants"] if one["missed"]]
    assert len(told) == 16
    for one in told:
        path, _, name = one["test"].partition("::")
        text = (ROOT / path).read_text(encoding="utf-8")
        above = text.partition(f"def {name}(")[0].rpartition("\n\n\n")[2]
        assert f"def {name}(" in text
        assert "pytest.mark.long" not in above, one["name"]
        assert "pytestmark" not in text, one["name"]
        assert one["state"] == "killed", one["name"]


def test_the_record_is_of_the_bins_that_there_are() -> None:
    """All of them are filled, nothing differed, and what is not reached of a module is explained, and nothing else."""
    told = json.loads(COVERAGE.read_text(encoding="utf-8"))
    assert set(told["bins"]) == set(BINS)
    assert all(told["bins"].values())
    assert (told["empty"], told["differences"]) == ([], [])
    assert [(one["name"], one["count"], tuple(one["seeds"])) for one in told["parts"]] == [
        (one.name, one.count, one.seeds) for one in PARTS
    ]
    modules = told["modules"]
    missed = {one["name"] for one in modules if any(one[kind] > one[f"{kind}_hit"] for kind in ("lines", "branches"))}
    assert {one["module"] for one in told["missed"]} == missed
    assert set(UNREACHED) == missed


def test_the_record_is_of_the_cases_that_there_are() -> None:
    told = json.loads(ICARUS.read_text(encoding="utf-8"))["cases"]
    assert [(one["name"], one["what"]) for one in told] == [(one.name, one.what) for one in icarus.cases().values()]
    assert all(one["equal"] for one in told)
