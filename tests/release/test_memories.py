"""dataflow.contract.memories: what the table says of buffers, against Verilog and against Yosys."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest
from amaranth.back import rtlil  # pyright: ignore[reportAttributeAccessIssue] # the stubs lack it
from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from nmsat.dataflow.contract.config import preset
from nmsat.dataflow.contract.dies import DIES, die
from nmsat.dataflow.contract.memories import BufferKind, buffers
from nmsat.hw.array.column_port import ColumnPort
from nmsat.hw.array.compute import CaptureBuffer
from nmsat.hw.array.row_port import RowPort
from nmsat.hw.load.stage import LoadStage
from nmsat.hw.parts.buffer import buffer_memory
from nmsat.hw.parts.verilog import VerilogPlatform, emit
from nmsat.hw.release.netlist import Declared, declared_memories, map_leaf

if TYPE_CHECKING:
    from nmsat.dataflow.contract.config import SatConfig

TINY = preset("tiny")
DEEP = TINY.replace(act_depth=4096, weight_depth=16384, sum_depth=4096, stage_depth=8192)
"""All kinds but sums and results fill an UltraRAM; those could."""

PARTS = ("xcvu9p", "xczu9eg", "xc7z020")

SHORT = {("deep", "xc7z020")}
"""What is mapped in each run of the tests; the rest takes a minute."""

HALVES = {
    (256, 512): 15,
    (512, 512): 15,
    (1024, 32): 2,
    (2048, 16): 2,
    (2048, 21): 3,
    (4096, 16): 4,
    (4096, 21): 6,
    (4096, 32): 8,
    (4096, 512): 114,
    (8192, 21): 11,
    (16384, 21): 21,
    (32768, 21): 42,
    (65536, 21): 84,
}
"""Entries, bits -> halves of 36 kbit: what Yosys 0.70 mapped one memory to, with a port to read and one to write."""


MEMORY = re.compile(r'^  attribute \\ram_style "(\w+)"\n  memory width (\d+) size (\d+) \\(\w+)', re.MULTILINE)
"""A memory as Amaranth describes it to Yosys."""

UNITS: dict[Any, dict[str, str]] = {
    RowPort: {"buffer": "activations"},
    ColumnPort: {"weights": "weights", "sums": "sums"},
    CaptureBuffer: {"memory": "results"},
    LoadStage: {"even": "staging", "odd": "staging"},
}
"""Part of the circuit -> its memories -> buffer of the table."""


class Buffers(wiring.Component):
    """One memory of each kind of buffer, nothing else."""

    def __init__(self, config: SatConfig) -> None:
        self._config = config
        members: dict[str, Any] = {}
        for name, buffer in buffers(config).items():
            members |= {f"{name}_{port}": In(range(buffer.entries)) for port in ("from", "to")}
            members |= {f"{name}_en": In(1), f"{name}_in": In(buffer.bits), f"{name}_out": Out(buffer.bits)}
        super().__init__(members)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        for name in buffers(self._config):
            memory = m.submodules[name] = buffer_memory(name, self._config, platform)
            write, read = memory.write_port(), memory.read_port()
            m.d.comb += [
                write.en.eq(getattr(self, f"{name}_en")),
                write.addr.eq(getattr(self, f"{name}_to")),
                write.data.eq(getattr(self, f"{name}_in")),
                read.addr.eq(getattr(self, f"{name}_from")),
                getattr(self, f"{name}_out").eq(read.data),
            ]
        return m


def mapped(config: SatConfig, part: str) -> dict[str, dict[str, int]]:
    """Return buffer -> kind of RAM -> cells, of one memory each, as Yosys maps them to a part."""
    text = emit(Buffers(config), "sat_buffers", VerilogPlatform(die(part)))["sat_buffers.v"]
    found: dict[str, dict[str, int]] = {name: {} for name in buffers(config)}
    for cell in map_leaf("sat_buffers", text, {}, family=die(part).family).cells:
        if cell.kind.startswith(("RAM", "URAM")):
            kinds = found[cell.name.partition(".")[0].lstrip("\\")]
            kinds[cell.kind] = kinds.get(cell.kind, 0) + 1
    return found


@pytest.mark.parametrize(("shape", "halves"), HALVES.items())
def test_block_ram_is_counted_as_yosys_maps_it(shape: tuple[int, int], halves: int) -> None:
    for part in ("xczu9eg", "xc7z020"):
        assert 2 * BufferKind("any", 1, *shape, ultra=True).blocks(die(part)) == halves


def test_a_whole_ultraram_goes_there_where_there_is_one() -> None:
    for part, ultra in (("xcvu9p", True), ("xck26", True), ("xczu9eg", False), ("xc7z020", False)):
        assert bool(DIES[part].uram) is ultra
        assert BufferKind("any", 1, 4096, 21, ultra=True).style(die(part)) == ("ultra" if ultra else "block")
        assert BufferKind("any", 1, 2048, 21, ultra=True).style(die(part)) == "block"
        assert BufferKind("any", 1, 65536, 21).style(die(part)) == "block"
    assert BufferKind("any", 1, 32768, 21, ultra=True).blocks(die("xcvu9p")) == 8  # its shape is fixed
    assert BufferKind("any", 1, 4096, 73, ultra=True).blocks(die("xcvu9p")) == 2


@pytest.mark.parametrize("part", PARTS)
def test_the_circuit_has_the_styles_of_the_table(part: str) -> None:
    config = TINY.replace(act_depth=4096, sum_depth=4096)
    for unit, memories in UNITS.items():
        text = rtlil.convert(unit(config), name="unit", platform=VerilogPlatform(die(part)), emit_src=False)
        found = {place: (style, int(bits), int(entries)) for style, bits, entries, place in MEMORY.findall(text)}
        for place, name in memories.items():
            buffer = buffers(config)[name]
            style = "ultra" if part == "xcvu9p" and name == "activations" else "block"
            assert found[place] == (style, buffer.bits, buffer.entries), name


def test_the_style_reaches_the_verilog() -> None:
    config = TINY.replace(act_depth=4096)
    for part, style in (("xcvu9p", "ultra"), ("xczu9eg", "block")):
        text = emit(RowPort(config), "sat_row_port", VerilogPlatform(die(part)))["sat_row_port.v"]
        assert list(declared_memories(text).values()) == [Declared(4096, 16, style)]


@pytest.mark.synth
@pytest.mark.parametrize(
    ("config", "part"),
    [
        pytest.param(config, part, id=f"{name}-{part}", marks=[] if (name, part) in SHORT else [pytest.mark.long])
        for name, config in (("tiny", TINY), ("deep", DEEP))
        for part in PARTS
    ],
)
def test_yosys_maps_what_the_table_counts(config: SatConfig, part: str) -> None:
    """UltraRAM only where the table has it; Yosys puts words beside one another there, which the count does not."""
    for name, kinds in mapped(config, part).items():
        buffer = buffers(config)[name]
        if buffer.style(die(part)) == "ultra":
            assert list(kinds) == ["URAM288"], name
            assert kinds["URAM288"] <= buffer.blocks(die(part)), name
        else:
            halves = {"RAMB18E": 1, "RAMB36E": 2}
            assert sum(halves[kind[:-1]] * count for kind, count in kinds.items()) == 2 * buffer.blocks(die(part)), name
