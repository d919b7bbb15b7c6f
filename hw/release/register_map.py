"""The registers of the host in the words of other tools: C, Python, Markdown, SystemRDL, IP-XACT.

All are written from `dataflow.contract.registers`, which the circuit itself is built from. PeakRDL was looked at: it
starts from SystemRDL, where the names of counters and the widths that follow from the instructions would stand a second
time, and brings eight packages; who uses it anyway (UVM, HTML, VHDL) takes `sat.rdl`, which it reads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from xml.sax.saxutils import escape

from nmsat.dataflow.contract.isa import ErrorCode
from nmsat.dataflow.contract.registers import KERNEL, REGISTER_BITS, VERSION, Access, named_bits, registers
from nmsat.hw.release.kernel import CONTROL

if TYPE_CHECKING:
    from nmsat.dataflow.contract.registers import Register

VENDOR: Final = "nmsat"
LIBRARY: Final = "kernel"
REVISION: Final = "1.0"
"""Vendor, library and version of the IP: VLNV `nmsat:kernel:sat_kernel:1.0`."""

RDL_ACCESS: Final = {
    Access.COMMAND: ("r", "rw"),
    Access.STATUS: ("rw", "rw"),
    Access.SETTING: ("rw", "rw"),
    Access.READ: ("rw", "r"),
}
"""Access -> what the circuit does, what the host may do (SystemRDL `hw`, `sw`)."""

IPXACT_ACCESS: Final = {access: "read-only" if access is Access.READ else "read-write" for access in Access}
"""Access in the words of IP-XACT."""

LETTERS: Final = {Access.COMMAND: "W", Access.STATUS: "R/W1C", Access.SETTING: "R/W", Access.READ: "R"}
"""Access in the table for people."""


def c_header(ports: int = 1) -> str:
    """Return `sat_registers.h`: addresses, bits, codes of errors."""
    lines = [
        "/* Registers of the SAT machine, byte offsets in s_axi_control; written by nmsat. */",
        "#ifndef SAT_REGISTERS_H",
        "#define SAT_REGISTERS_H",
        "",
        f"#define SAT_VERSION_VALUE {VERSION:#010x}u",
        f"#define SAT_REGISTER_BYTES {1 << REGISTER_BITS:#x}u",
        "",
    ]
    for register in registers(ports).values():
        name = f"SAT_{register.name.upper()}"
        lines.append(f"#define {name} {register.address:#05x}u /* {_access(register)}: {register.doc} */")
        lines += [f"#define {name}_{bit.upper()} (1u << {at})" for bit, at in named_bits(register.name).items()]
    codes = [f"#define SAT_ERROR_{code.name} {int(code)}u" for code in ErrorCode]
    return "\n".join([*lines, "", "/* Values of SAT_ERROR_CODE. */", *codes, "", "#endif", ""])


def python_module(ports: int = 1) -> str:
    """Return `sat_registers.py`, for a host without nmsat: the same as constants."""
    lines = [
        '"""Registers of the SAT machine, byte offsets in s_axi_control; written by nmsat."""',
        "",
        f"VERSION_VALUE = {VERSION:#010x}",
        f"REGISTER_BYTES = {1 << REGISTER_BITS:#x}",
        "",
    ]
    for register in registers(ports).values():
        name = register.name.upper()
        lines.append(f"{name} = {register.address:#05x}  # {_access(register)}: {register.doc}")
        lines += [f"{name}_{bit.upper()} = 1 << {at}" for bit, at in named_bits(register.name).items()]
    codes = [f"    {int(code)}: {code.name!r}," for code in ErrorCode]
    return "\n".join([*lines, "", "ERRORS = {", *codes, "}", ""])


def markdown(ports: int = 1) -> str:
    """Return the table for people, which also stands in docs/registers.md."""
    rows = ["| offset | register | bits | access | meaning |", "|---|---|---|---|---|"]
    for register in registers(ports).values():
        top = register.low + register.bits - 1
        bits = f"{top}:{register.low}" if register.bits > 1 else str(register.low)
        names = ", ".join(f"bit {at} `{bit}`" for bit, at in named_bits(register.name).items())
        doc = f"{register.doc} ({names})" if names else register.doc
        rows.append(f"| {register.address:#05x} | `{register.name}` | {bits} | {LETTERS[register.access]} | {doc} |")
    return "\n".join([*rows, ""])


def system_rdl(ports: int = 1) -> str:
    """Return the address map in SystemRDL 2.0."""
    lines = [
        "// Registers of the SAT machine; written by nmsat.",
        "addrmap sat {",
        '  name = "SAT machine";',
        "  default regwidth = 32;",
        "  default accesswidth = 32;",
    ]
    for register in registers(ports).values():
        hw, sw = RDL_ACCESS[register.access]
        lines += ["  reg {", f'    desc = "{register.doc}";']
        for name, high, low in _fields(register):
            once = " onwrite = woclr;" if register.access is Access.STATUS and name == "done" else ""
            soft = "r" if register.access is Access.STATUS and name != "done" else sw
            lines.append(f"    field {{ hw = {hw}; sw = {soft};{once} }} {name}_f[{high}:{low}];")
        lines.append(f"  }} {register.name} @ {register.address:#05x};")
    return "\n".join([*lines, "};", ""])


def ipxact(ports: int = 1) -> str:
    """Return the memory map as an IP-XACT component (IEEE 1685-2014)."""
    told = "\n".join(_ipxact_register(register) for register in registers(ports).values())
    return f"""\
<?xml version="1.0" encoding="UTF-8"?>
<ipxact:component xmlns:ipxact="http://www.accellera.org/XMLSchema/IPXACT/1685-2014">
  <ipxact:vendor>{VENDOR}</ipxact:vendor>
  <ipxact:library>{LIBRARY}</ipxact:library>
  <ipxact:name>{KERNEL}</ipxact:name>
  <ipxact:version>{REVISION}</ipxact:version>
  <ipxact:memoryMaps>
    <ipxact:memoryMap>
      <ipxact:name>{CONTROL}</ipxact:name>
      <ipxact:addressBlock>
        <ipxact:name>registers</ipxact:name>
        <ipxact:baseAddress>0</ipxact:baseAddress>
        <ipxact:range>{1 << REGISTER_BITS}</ipxact:range>
        <ipxact:width>32</ipxact:width>
        <ipxact:usage>register</ipxact:usage>
{told}
      </ipxact:addressBlock>
      <ipxact:addressUnitBits>8</ipxact:addressUnitBits>
    </ipxact:memoryMap>
  </ipxact:memoryMaps>
</ipxact:component>
"""


def register_files(ports: int = 1) -> dict[str, str]:
    """Return file name -> content of the register map in all forms. ports: AXI4 masters of the machine."""
    return {
        "sat_registers.h": c_header(ports),
        "sat_registers.py": python_module(ports),
        "sat_registers.md": markdown(ports),
        "sat.rdl": system_rdl(ports),
        "sat_memory_map.xml": ipxact(ports),
    }


def _access(register: Register) -> str:
    return LETTERS[register.access]


def _fields(register: Register) -> list[tuple[str, int, int]]:
    """Return (name, highest bit, lowest bit) of the fields of a register; one of its own name if its bits have none."""
    named = named_bits(register.name)
    if named:
        return [(name, at, at) for name, at in named.items()]
    return [(register.name, register.low + register.bits - 1, register.low)]


def _ipxact_register(register: Register) -> str:
    access = IPXACT_ACCESS[register.access]
    lines = [
        "<ipxact:register>",
        f"  <ipxact:name>{register.name}</ipxact:name>",
        f"  <ipxact:description>{escape(register.doc)}</ipxact:description>",
        f"  <ipxact:addressOffset>{register.address}</ipxact:addressOffset>",
        "  <ipxact:size>32</ipxact:size>",
        f"  <ipxact:access>{access}</ipxact:access>",
    ]
    for name, high, low in _fields(register):
        one = register.access is Access.STATUS
        lines += [
            "  <ipxact:field>",
            f"    <ipxact:name>{name}</ipxact:name>",
            f"    <ipxact:bitOffset>{low}</ipxact:bitOffset>",
            f"    <ipxact:bitWidth>{high - low + 1}</ipxact:bitWidth>",
            f"    <ipxact:access>{'read-only' if one and name != 'done' else access}</ipxact:access>",
            *(
                ["    <ipxact:modifiedWriteValue>oneToClear</ipxact:modifiedWriteValue>"]
                if one and name == "done"
                else []
            ),
            "  </ipxact:field>",
        ]
    return "\n".join(f"        {line}" for line in [*lines, "</ipxact:register>"])


if __name__ == "__main__":
    print(markdown(), end="")
