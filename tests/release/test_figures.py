"""What `vcu1525` takes, as Yosys estimates it: goals, what of them is missed, and nothing may get worse.

The figures are those of `reports/tables/synth_vcu1525.json`; `docs/xilinx.md` tells them as they stand there. A leaf
that has changed needs a new record (`nmsat synth --config vcu1525 --out reports/tables`), and a record that is worse
than what stands here needs a reason.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final

import pytest

from nmsat.dataflow.contract.config import preset
from nmsat.dataflow.contract.dies import die
from nmsat.hw.array.uspe import Uspe
from nmsat.hw.parts.verilog import emit
from nmsat.hw.release.estimate import FANOUT, estimate
from nmsat.hw.release.kept import kept_files
from nmsat.hw.release.levels import analyse
from nmsat.hw.release.netlist import map_leaf
from nmsat.hw.release.synth import mapped_of
from nmsat.reports.work.synth import estimate_values
from tests.source import ROOT

SHARES: Final = {"luts": 0.48, "flip_flops": 0.22, "dsp": 0.20}
"""Resource -> most of the XCVU9P that the machine may take: goals of the project."""

MEMORY_SHARE: Final = 0.60
"""The same of RAMB36 and UltraRAM together."""

LEVELS: Final = 9.0
"""Most levels of a leaf: a goal of the project."""

MISSED: Final = {
    "sat_store": 10.1,
    "sat_loader": 10.0,
    "sat_compute": 9.4,
    "sat_head": 9.4,
    "sat_stce": 9.4,
    "sat_sequencer": 9.2,
    "sat": 9.1,
}
"""Leaf that misses the goal -> its levels, at most."""

CLOSE: Final = {"sat_sequencer": 11.2, "sat_store": 11.0, "sat_loader": 10.0}
"""The three worst leaves of `tiny` -> their levels."""

REACHED: Final = {"luts": 560_872, "flip_flops": 492_270, "dsp": 1_157, "bram36": 256, "uram": 144}
"""Resource -> what the machine took when this was written, and takes at most."""

PLACED: Final = ("sat_uspe", "sat_sequencer", "sat_read_port")
"""Units whose clocks on an ECP5 the page tells, in its order."""

WIDEST: Final = ("sat_loader", "sat", "sat_stce")
"""Leaves whose widest nets the page tells."""

NAMES: Final = {1: "one", 2: "two", 3: "three", 4: "four", 5: "five", 6: "six", 7: "seven", 8: "eight", 9: "nine"}


def record() -> dict[str, Any]:
    """Return the committed estimate."""
    return json.loads((ROOT / "reports" / "tables" / "synth_vcu1525.json").read_text(encoding="utf-8"))


def leaves(values: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {leaf["leaf"]: leaf for leaf in values["leaves"]}


def levels(values: dict[str, Any]) -> dict[str, float]:
    """Return leaf -> levels of its longest path, of leaves that have one."""
    return {name: leaf["levels"] for name, leaf in leaves(values).items() if leaf["levels"] is not None}


def worse(values: dict[str, Any]) -> list[str]:
    """Return what of an estimate of `vcu1525` is above a goal, or above what missed it when this was written."""
    found = [
        f"{name}: {values['share'][name]:.1%} of the part, at most {most:.0%}"
        for name, most in SHARES.items()
        if values["share"][name] > most
    ]
    if values["memory_share"] > MEMORY_SHARE:
        found.append(f"memories: {values['memory_share']:.1%} of the part, at most {MEMORY_SHARE:.0%}")
    found += [
        f"{name}: {values['total'][name]}, at most {most}"
        for name, most in REACHED.items()
        if values["total"][name] > most
    ]
    return found + [
        f"{name}: {deep} levels, at most {MISSED.get(name, LEVELS)}"
        for name, deep in levels(values).items()
        if deep > MISSED.get(name, LEVELS)
    ]


def test_the_record_is_no_worse_than_what_was_reached() -> None:
    values = record()
    assert worse(values) == []
    above = {name: deep for name, deep in levels(values).items() if deep > LEVELS}
    assert above == MISSED, "a leaf is better than it was, or the list names one that misses nothing: renew MISSED"
    assert values["total"] | REACHED == values["total"], "the machine takes less: renew REACHED"


def test_the_record_adds_up() -> None:
    """Totals are leaves times instances; shares are those of the part, by its data sheet."""
    values, part = record(), die("xcvu9p")
    for name, total in values["total"].items():
        assert total == sum(leaf["instances"] * leaf[name] for leaf in values["leaves"]), name
    assert (part.luts, part.flip_flops, part.dsp, part.bram36, part.uram) == (1_182_240, 2_364_480, 6_840, 2_160, 960)
    for name, share in values["share"].items():
        assert share == values["total"][name] / getattr(part, name)
    blocks = values["total"]["bram36"] + values["total"]["uram"]
    assert values["memory_share"] == blocks / (part.bram36 + part.uram)


def test_what_gets_worse_is_found() -> None:
    values = record()
    values["share"]["dsp"], values["memory_share"] = 0.21, 0.61
    values["total"]["luts"] += 1
    for name, more in (("sat_store", 10.2), ("sat_uspe", 9.1)):
        leaves(values)[name]["levels"] = more
    assert worse(values) == [
        "dsp: 21.0% of the part, at most 20%",
        "memories: 61.0% of the part, at most 60%",
        "luts: 560873, at most 560872",
        "sat_store: 10.2 levels, at most 10.1",
        "sat_uspe: 9.1 levels, at most 9.0",
    ]


@pytest.mark.synth
def test_the_element_is_that_of_the_record() -> None:
    """Three quarters of the machine's tables: mapped anew, with the Yosys of the record."""
    files = emit(Uspe(preset("vcu1525")), "sat_uspe")
    netlist = map_leaf("sat_uspe", files["sat_uspe.v"], {})
    path, takes = analyse(netlist, {}, FANOUT).path, mapped_of(netlist.counts)
    assert path is not None
    kept = leaves(record())["sat_uspe"]
    assert (kept["levels"], kept["begin"], kept["end"]) == (path.levels, path.begin, path.end)
    assert (kept["luts"], kept["flip_flops"], kept["dsp"]) == (takes.luts, takes.flip_flops, takes.dsp)


@pytest.mark.synth
@pytest.mark.long
def test_the_record_is_of_this_circuit() -> None:
    """Every leaf of `vcu1525` mapped anew: levels, resources, fan-outs and memories are those of the record."""
    config, part = preset("vcu1525"), die("xcvu9p")
    values = estimate_values(estimate(kept_files(config, ("sat",), die=part), family=part.family), config, part)
    kept = record()
    assert json.loads(json.dumps(values)) == {name: kept[name] for name in values}


@pytest.mark.synth
@pytest.mark.long
def test_tiny_is_no_worse_than_the_page_says() -> None:
    config, part = preset("tiny"), die("xcvu9p")
    values = estimate_values(estimate(kept_files(config, ("sat",), die=part), family=part.family), config, part)
    above = {name: deep for name, deep in levels(values).items() if deep > LEVELS}
    assert above | CLOSE == above
    assert max(above, key=above.__getitem__) == next(iter(CLOSE))
    by = max(above.values()) - LEVELS
    assert f"`tiny`, which Yosys maps otherwise, {NAMES[len(above)]} as well, by {by:.1f}: " in page()


def lines() -> str:
    return (ROOT / "docs" / "xilinx.md").read_text(encoding="utf-8")


def page() -> str:
    return " ".join(lines().split())


def share(value: float) -> str:
    """Return a share as the page has it."""
    return f"{100 * value:.1f} %"


def test_the_page_tells_what_the_record_holds() -> None:
    text, values = page(), record()
    total, shares, table = values["total"], values["share"], values["buffers_by_table"]
    luts = {engine["engine"]: f"{engine['luts']:,}" for engine in values["engines"]}
    element = leaves(values)["sat_uspe"]
    by_table = sum(table.values()) / (values["available"]["bram36"] + values["available"]["uram"])
    widest = {leaf: max(net["pins"] for net in values["fanout"] if net["leaf"] == leaf) for leaf in WIDEST}
    goals = " | ".join(f"{100 * most:.0f} %" for most in (*SHARES.values(), MEMORY_SHARE))
    elements = f"The {element['instances']:,} elements are {element['instances'] * element['luts']:,} LUT of it, "
    engines = f"engine is {luts['sat_update']}, the store engine {luts['sat_store']}, the loader {luts['sat_loader']}."
    missed = f"Of `vcu1525` {NAMES[len(MISSED)]} leaves miss it, by {max(MISSED.values()) - LEVELS:.1f} at most; "
    for part in (
        f"{len(values['leaves'])} leaves",
        *(f"| {total[name]:,}: {share(shares[name])} |" for name in SHARES),
        f"| {total['bram36']:.0f} + {total['uram']}: {share(values['memory_share'])} |",
        f"| {table['bram36']} + {table['uram']}: {share(by_table)} |",
        f"| goal, at most | {goals} |",
        f"{elements}the update {engines}",
        f"The goal is at most {LEVELS:.0f} levels in every leaf. {missed}",
        ", ".join(f"`{name}` {'has ' * (not at)}{deep}" for at, (name, deep) in enumerate(CLOSE.items())),
        f"the {levels(values)['sat_column_port']} levels of `sat_column_port`",
        f"{widest['sat_loader']:,} pins from a register",
        f"the update engine, {widest['sat']:,} pins",
        f"{widest['sat_stce']:,} at most",
    ):
        assert part in text


def test_the_page_tells_the_levels_of_leaves() -> None:
    """Its table of leaves: those that miss the goal, and others that have been worse."""
    told: dict[str, float] = {}
    for names, now, rest in re.findall(r"^\| (`sat[^|]*) \| [^|]+ \| ([\d.]+) \| ([^|]*)\|$", lines(), re.MULTILINE):
        told |= {name: float(now) for name in re.findall(r"`(\w+)`", names)}
        assert bool(rest.strip()) == (float(now) > LEVELS), names
    kept = levels(record())
    assert told == {name: kept[name] for name in told}
    assert told.keys() >= MISSED.keys()


def test_the_page_tells_the_clocks_of_the_record() -> None:
    units = json.loads((ROOT / "reports" / "tables" / "placed.json").read_text(encoding="utf-8"))["units"]
    element, sequencer, port = ({unit["unit"]: unit for unit in units}[name] for name in PLACED)
    assert (
        f"an element {element['mhz']:.1f} MHz, the sequencer {sequencer['mhz']:.1f}, the read port {port['mhz']:.1f}. "
        f"The sequencer was to be as fast as the element: it has {sequencer['against']:.2f} of its clock"
    ) in page()
