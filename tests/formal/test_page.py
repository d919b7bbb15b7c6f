"""The page of verification: it shows the committed records, and these are of the proofs and faults that there are."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from nmsat.reports.commands import verification_page
from nmsat.reports.commands.verification_page import COVERAGE, ICARUS, MUTANTS, RECORD, UNREACHED, page, planted
from nmsat.tb import icarus
from nmsat.tb.coverage import PARTS
from nmsat.tb.formal.table import PROOFS
from nmsat.tb.machine.bins import BINS, EXCLUDED
from tests.ci_scripts import script
from tests.source import ROOT

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def test_the_page_shows_the_record() -> None:
    assert (ROOT / "docs" / "verification.md").read_text(encoding="utf-8") == page(planted())


def test_the_page_of_proofs_tells_what_the_records_hold() -> None:
    text = (ROOT / "docs" / "machine" / "proof.md").read_text(encoding="utf-8")
    coverage, second = (json.loads(path.read_text(encoding="utf-8")) for path in (COVERAGE, ICARUS))
    programs = sum(part["count"] + len(part["seeds"]) for part in coverage["parts"])
    modules = coverage["modules"]
    lines, branches = (
        f"{sum(one[f'{kind}_hit'] for one in modules):,} of {sum(one[kind] for one in modules):,} {kind}"
        for kind in ("lines", "branches")
    )
    assert f"{programs} programs: each of {len(coverage['bins'])} declared bins is filled" in text
    assert f"{lines} and {branches} of the Verilog" in text
    assert f"{second['seconds']} s beside other work" in text


def test_the_record_is_of_the_proofs_that_there_are() -> None:
    found = {proof["name"]: proof for proof in json.loads(RECORD.read_text(encoding="utf-8"))["proofs"]}
    assert list(found) == list(PROOFS)
    for name, proof in PROOFS.items():
        told = found[name]
        assert told["verdict"] == "proved"
        assert (told["unbounded"], told["depth"]) == (proof.unbounded, proof.depth)
        assert (told["claim"], told["smaller"]) == (proof.claim, proof.smaller)
        assert told["faults"] == [fault.name for fault in proof.faults]


def test_the_page_is_of_the_faults_that_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of those that were run at most one in twenty lives; who does is told on the page, with the reason if it may."""
    mutants = script("mutate", monkeypatch).mutants()
    told = planted()
    assert [(one["tier"], one["file"], one["name"], one["test"], one["why"]) for one in told] == [
        (tier, one.file, one.name, one.test, one.equivalent) for tier, members in mutants.items() for one in members
    ]
    states = [one["state"] for one in told]
    assert "broken" not in states
    assert states.count("alive") <= 0.05 * (states.count("alive") + states.count("killed"))
    assert all(one["why"] for one in told if one["state"] == "equivalent")
    text = page(told)
    words = " ".join(text.split())
    for one in told:
        if one["state"] in ("alive", "equivalent"):
            assert f"- `{one['file']}`, *{one['name']}*, {one['state']}" in words
    missing = states.count("not run")
    assert f"- {missing} of the {len(told)} faults above: they have not been run with this" in text or not missing


def test_what_was_run_with_another_source_counts_as_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A verdict holds for the source, the test and the fault that it was found with, whatever the record says."""
    mutate = script("mutate", monkeypatch)
    first, *others = [(tier, one) for tier, members in mutate.mutants().items() for one in members]
    record = json.loads(MUTANTS.read_text(encoding="utf-8"))
    of_today = {**record["mutants"][0], "name": "any", "state": "killed"}
    record["mutants"] = [{**of_today, "key": mutate.key(one)} for _, one in (first, *others[:9]) if not one.equivalent]
    record["mutants"][0]["key"] = "0" * 16
    known = len(record["mutants"]) - 1
    (tmp_path / "mutants.json").write_text(json.dumps(record), encoding="utf-8")
    monkeypatch.setattr(verification_page, "MUTANTS", tmp_path / "mutants.json")
    told = planted()
    assert [one["state"] for one in told].count("killed") == known
    assert (told[0]["name"], told[0]["state"]) == (first[1].name, "not run")
    count, text = len(told), page(told)
    assert f"| all | {count} | {known} | 0 | 0 | 0 | {count - known} |" in text
    assert f"- {count - known} of the {count} faults above: they have not been run with this" in text


def test_bins_that_are_not_declared_are_named_with_the_reason() -> None:
    text = page().partition("## Coverage\n")[2].partition("\n## ")[0]
    words = " ".join(text.split())
    lines = words.split(" - ")
    assert f"in none of these numbers, are {len(EXCLUDED)} bins" in words
    for name, why in EXCLUDED.items():
        group, _, place = name.partition(": ")
        assert any(line.startswith(f"{group}, ") and f"*{place}*" in line and f": {why}." in line for line in lines)
    bins = json.loads(COVERAGE.read_text(encoding="utf-8"))["bins"]
    once = [name.partition(": ")[2] for name, count in bins.items() if count == 1]
    assert f"{len(once)} rest on a single hit" in words
    assert all(name in words for name in once)


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
