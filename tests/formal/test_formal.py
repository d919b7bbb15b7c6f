"""The proofs (`make formal`): each sees the faults that it names, from reset on; no assumption hides anything."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from nmsat.tb.formal import tier
from nmsat.tb.formal.harness import Harness
from nmsat.tb.formal.plant import plant, refute
from nmsat.tb.formal.proof import Fault, Proof
from nmsat.tb.formal.table import PROOFS
from tests.source import ROOT

if TYPE_CHECKING:
    from pathlib import Path

FAULTS = [(name, fault.name) for name, proof in PROOFS.items() for fault in proof.faults]
QUICK = {("small_queue", FAULTS[0][1]), ("requests_load", "a burst goes on at 4 KiB")}

pytestmark = pytest.mark.synth


def test_every_fault_fits_the_source() -> None:
    assert len(FAULTS) > len(PROOFS) - 1
    for proof in PROOFS.values():
        assert len({fault.name for fault in proof.faults}) == len(proof.faults) >= 1
        for fault in proof.faults:
            assert (ROOT / fault.file).read_text(encoding="utf-8").count(fault.old) == 1, fault.name
            assert fault.new != fault.old
            assert fault.file.startswith("hw/")


@pytest.mark.parametrize(
    ("name", "fault"),
    [pytest.param(*one, marks=() if one in QUICK else pytest.mark.long) for one in FAULTS],
)
def test_a_planted_fault_is_found(name: str, fault: str, tmp_path: Path) -> None:
    proof = PROOFS[name]
    (planted,) = (one for one in proof.faults if one.name == fault)
    said = refute(proof, planted, tmp_path)
    assert " failed: " in said, said


def test_a_proof_without_its_fault_holds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert tier.main(["requests_load", "--json", str(tmp_path / "out" / "formal.json")]) == 0
    assert "1 of 1 proved" in capsys.readouterr().out
    (found,) = json.loads((tmp_path / "out" / "formal.json").read_text(encoding="utf-8"))["proofs"]
    assert (found["name"], found["verdict"], found["unbounded"]) == ("requests_load", "proved", True)
    assert found["repeat"] == "make formal PROOF=requests_load"


def counter(most: int, *, hides: bool) -> Harness:
    """A counter that is said to stay at or below `most`; hides: an assumption keeps it from moving."""
    proof = Harness()
    count = proof.before("count", proof.free("step", 3))
    if hides:
        proof.assume(count == 0)
    proof.check(count <= most, "it stays low")
    proof.cover(count == 2, "it moves")
    return proof


@pytest.mark.parametrize(
    ("most", "hides", "verdict", "why"),
    [(7, False, "proved", ""), (6, False, "failed", "it stays low"), (6, True, "vacuous", "it moves")],
)
def test_what_a_verdict_says(most: int, hides: bool, verdict: str, why: str) -> None:
    proof = Proof(
        name="counter",
        claim="",
        make=lambda: counter(most, hides=hides),
        unbounded=True,
        depth=2,
        reach=3,
        smaller="",
        faults=(Fault("", "", "", ""),),
    )
    found = tier.judge(proof, tier.questions(proof, bounded=False))
    assert (found.verdict, found.why) == (verdict, why)


def test_a_proof_needs_a_fault() -> None:
    with pytest.raises(ValueError, match="proof 'x' has no fault"):
        Proof(name="x", claim="", make=Harness, unbounded=True, depth=1, reach=1, smaller="", faults=())


def test_a_fault_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"'a': its text stands 0 times in hw/sat.py; once it must"):
        plant(Fault("a", "hw/sat.py", "no such text", ""), tmp_path)


def test_a_name_that_no_proof_has(capsys: pytest.CaptureFixture[str]) -> None:
    assert tier.main(["axi_reed"]) == 2
    said = capsys.readouterr().err
    assert "proof is 'axi_reed'" in said
    assert "axi_read" in said
