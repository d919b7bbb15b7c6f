"""What Vivado and Vitis are given beside the Verilog: settings for the scripts in `vivado/`, kernel.xml, constraints.

The scripts are the same for all configurations; `settings.tcl`, written here, holds all that differs. No Vivado was at
hand: commands and arguments are those of UG835, UG1118 and UG1393 (Vivado 2022.2) and of public projects that use them.
"""

from __future__ import annotations

from itertools import combinations, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Final

from nmsat.dataflow.contract.isa import REGIONS
from nmsat.dataflow.contract.registers import (
    KERNEL,
    REGISTER_BITS,
    REGISTERS,
    Access,
    named_bits,
    port_of,
    registers,
)
from nmsat.hw.release.kernel import CONTROL, memories
from nmsat.hw.release.register_map import IPXACT_ACCESS, LIBRARY, REVISION, VENDOR

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nmsat.dataflow.contract.config import SatConfig
    from nmsat.dataflow.contract.registers import Register
    from nmsat.hw.release.devices import Device

SCRIPTS: Final = Path(__file__).with_name("vivado")
"""Folder of the scripts, and of what they read, that are the same for all configurations."""

FOLDER: Final = "xilinx"
"""Folder of the package that holds what this module writes."""

_ROWS: Final = "machine/compute/stce/row_{}"
_LINK: Final = "machine/compute/stce/act_link_{}"
"""Cells below the kernel: a row of elements, and the registers through which rows between two slices are written."""

_POINTER: Final = "_base"
"""End of the names of registers that hold the low half of an address."""


def xilinx_files(config: SatConfig, board: Device, sources: Sequence[str]) -> dict[str, str]:
    """Return file name below `FOLDER` -> content. sources: Verilog files beside that folder, in order of reading."""
    scripts = {path.name: path.read_text(encoding="utf-8") for path in sorted(SCRIPTS.iterdir())}
    return {
        "settings.tcl": settings(config, board, sources),
        **scripts,
        "kernel.xml": kernel_xml(config),
        "link.cfg": link_config(config),
        "clock.xdc": clock_constraints(config),
        "floorplan.xdc": floorplan(config, board),
    }


def settings(config: SatConfig, board: Device, sources: Sequence[str]) -> str:
    """Return `settings.tcl`: all that the scripts need to know of a configuration and a board."""
    values = {
        "config": config.name,
        "device": board.name,
        "part": board.part,
        "board": board.board,
        "board_kind": board.kind,
        "clock_mhz": f"{config.clock_mhz:.3f}",
        "kernel": KERNEL,
        "vendor": VENDOR,
        "library": LIBRARY,
        "version": REVISION,
        "control": CONTROL,
        "register_bytes": str(1 << REGISTER_BITS),
    }
    lines = [f"# Written by nmsat: configuration {_word(config.name)}, device {board.name}."]
    lines += [f"set sat_{name} {_word(value)}" for name, value in values.items()]
    lines += ["set sat_files {", *(f"    {_word('../' + name)}" for name in sources), "}"]
    buses = memories(config.ports)
    lines += ["# SLR, cells below the kernel that lie there; as in floorplan.xdc.", "set sat_floorplan {"]
    lines += [f"    {slr} {{{' '.join(cells)}}}" for slr, cells in placement(config, board).items()] + ["}"]
    lines += [f"set sat_memories {{{' '.join(buses)}}}", "# Pointer, and the bus by which the machine follows it."]
    pointers = [f"region{i}{_POINTER} {buses[port_of(i, config.ports)]}" for i in range(REGIONS)]
    lines += [f"set sat_pointers {{{' '.join(pointers)}}}"]
    lines += ["# Name, offset, bits, access, description, fields (name, bit, width, access)."]
    found = _vivado_registers(registers(config.ports))
    lines += ["set sat_registers {", *(f"    {{{_register(item)}}}" for item in found), "}", ""]
    return "\n".join(lines)


def kernel_xml(config: SatConfig) -> str:
    """Return `kernel.xml` (UG1393): a user-managed kernel with a pointer for each region of memory."""
    buses = memories(config.ports)
    masters = "\n".join(
        f'      <port name="{bus}" mode="master" range="0xFFFFFFFFFFFFFFFF" dataWidth="{config.port_bits}" '
        'portType="addressable" base="0x0"/>'
        for bus in buses
    )
    behind = [buses[port_of(i, config.ports)] for i in range(REGIONS)]
    args = "\n".join(
        f'      <arg name="region{i}_base" addressQualifier="1" id="{i}" port="{behind[i]}" size="0x8" '
        f'offset="{REGISTERS[f"region{i}_base"].address:#x}" hostOffset="0x0" hostSize="0x8" type="void*"/>'
        for i in range(REGIONS)
    )
    return f"""\
<?xml version="1.0" encoding="UTF-8"?>
<root versionMajor="1" versionMinor="9">
  <kernel name="{KERNEL}" language="ip" vlnv="{VENDOR}:{LIBRARY}:{KERNEL}:{REVISION}" attributes="" \
preferredWorkGroupSizeMultiple="0" workGroupSize="1" interrupt="true" hwControlProtocol="user_managed">
    <ports>
      <port name="{CONTROL}" mode="slave" range="{1 << REGISTER_BITS:#x}" dataWidth="32" portType="addressable" \
base="0x0"/>
{masters}
    </ports>
    <args>
{args}
    </args>
  </kernel>
</root>
"""


def link_config(config: SatConfig) -> str:
    """Return `link.cfg` for `v++ -l`: one machine, a DDR channel for each of its masters, its clock."""
    buses = memories(config.ports)
    said = "all its regions in one DDR channel" if len(buses) == 1 else "a DDR channel behind each of its masters"
    joined = "\n".join(f"sp={KERNEL}_1.{bus}:DDR[{number}]" for number, bus in enumerate(buses))
    return f"""\
# One machine, {said}.
[connectivity]
nk={KERNEL}:1:{KERNEL}_1
{joined}

[clock]
freqHz={round(config.clock_mhz * 1e6)}:{KERNEL}_1
"""


def clock_constraints(config: SatConfig) -> str:
    """Return `clock.xdc`: the clock of an out-of-context run; in a design the clock comes from outside."""
    period = 1000 / config.clock_mhz
    return f"""\
# Out of context: the clock of the machine, {config.clock_mhz:g} MHz; ap_rst_n is synchronised inside.
create_clock -name ap_clk -period {period:.3f} [get_ports ap_clk]
set_false_path -to [get_pins {{reset_sync_reg[0]/D}}]
"""


def floorplan(config: SatConfig, board: Device) -> str:
    """Return `floorplan.xdc`: the rows of the array dealt to the SLRs, what feeds them in the middle one.

    Cells are found below any hierarchy: alone, below a block design, below a platform.
    """
    lines = [f"# {config.rows} rows of elements on {board.slrs} SLR of {board.part}."]
    placed = placement(config, board)
    if not placed:
        why = "there is one" if board.slrs == 1 else "row_slices has none, so no link between rows may cross an SLR"
        return "\n".join([*lines, f"# Nothing to place: {why}.", ""])
    starts = [str(rows.start) for rows in shares(config, board)[1:]]
    slices = ", ".join(map(str, config.row_slices))
    lines += [f"# Register slices before rows {slices}; SLR boundaries before rows {', '.join(starts)}."]
    for slr, cells in placed.items():
        block = f"sat_slr{slr}"
        lines += [f"create_pblock {block}", f"resize_pblock {block} -add SLR{slr}"]
        lines += [
            f"add_cells_to_pblock {block} [get_cells -hierarchical -filter {{NAME =~ *{cell}}}]" for cell in cells
        ]
    return "\n".join([*lines, ""])


def placement(config: SatConfig, board: Device) -> dict[int, tuple[str, ...]]:
    """Return SLR -> cells below the kernel, none twice; nothing unless the array spans several SLRs.

    SLRs meet where the machine has register slices alone: with fewer slices than boundaries fewer SLRs are used.
    """
    dealt = shares(config, board)
    if len(dealt) == 1:
        return {}
    first = (board.slrs - len(dealt)) // 2
    starts = (0, *config.row_slices)
    placed = {}
    for slr, rows in enumerate(dealt, first):
        links = [number for number, start in enumerate(starts) if start in rows]
        placed[slr] = (*(_ROWS.format(row) for row in rows), *(_LINK.format(number) for number in links))
    feeders = [f"machine/{name}" for name in ("control", "sequencer", "loader")]
    feeders += [f"machine/{kind}_port{port or ''}" for port in range(config.ports) for kind in ("read", "write")]
    feeders += ["machine/compute/stce/head", "machine/compute/stce/tail"]
    middle = first + len(dealt) // 2
    placed[middle] = (*placed[middle], *feeders)
    return placed


def shares(config: SatConfig, board: Device) -> list[range]:
    """Return the rows of each SLR that is used, in order: cut at slices only, the largest share as small as can be."""
    cuts = combinations(config.row_slices, min(len(config.row_slices), board.slrs - 1))
    dealt = ([range(start, stop) for start, stop in pairwise((0, *at, config.rows))] for at in cuts)
    return min(dealt, key=lambda ranges: max(map(len, ranges)))


def _vivado_registers(table: dict[str, Register]) -> list[tuple[Register, int]]:
    """Return (register, bits) of the IP's memory map: both halves of a region's base are one pointer, for Vitis."""
    halves = {f"{name}_high" for name in table if name.endswith(_POINTER)}
    return [
        (register, 64 if register.name.endswith(_POINTER) else 32)
        for register in table.values()
        if register.name not in halves
    ]


def _register(item: tuple[Register, int]) -> str:
    register, bits = item
    access = IPXACT_ACCESS[register.access]
    named = named_bits(register.name)
    fields = " ".join(f"{{{name} {at} 1 {_bit_access(register, name)}}}" for name, at in named.items())
    return f"{register.name} {register.address:#05x} {bits} {access} {_word(register.doc)} {{{fields}}}"


def _bit_access(register: Register, name: str) -> str:
    return "read-only" if register.access is Access.STATUS and name != "done" else IPXACT_ACCESS[register.access]


def _word(text: str) -> str:
    """Return a text as one word of Tcl."""
    if text and all(character.isalnum() or character in "_.:/-+" for character in text):
        return text
    escaped = "".join(f"\\{character}" if character in '\\{}[]$";' else character for character in text)
    return f'"{escaped}"'
