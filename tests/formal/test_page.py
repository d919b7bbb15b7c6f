"""The page of verification: what it shows is the committed record, and the record is of the proofs that there are."""

from __future__ import annotations

import json

from nmsat.reports.commands.verification_page import RECORD, page
from nmsat.tb.formal.table import PROOFS
from tests.source import ROOT


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
