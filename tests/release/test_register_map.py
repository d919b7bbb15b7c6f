"""The register map in other tools' words: each form is read back by another program and held against the table."""

from __future__ import annotations

import re
import shutil
import subprocess
from typing import TYPE_CHECKING, Final
from xml.etree import ElementTree

import pytest

from nmsat.dataflow.contract.isa import ErrorCode
from nmsat.dataflow.contract.registers import REGISTERS, VERSION, Access, Command, RegionFlag, Status
from nmsat.hw.release.register_map import c_header, ipxact, markdown, python_module, register_files, system_rdl
from tests.source import ROOT

if TYPE_CHECKING:
    from pathlib import Path

ADDRESSES: Final = {name: register.address for name, register in REGISTERS.items()}
BITS: Final = {
    "COMMAND_START": Command.START,
    "COMMAND_RESET": Command.RESET,
    "STATUS_IDLE": Status.IDLE,
    "STATUS_DONE": Status.DONE,
    "STATUS_ERROR": Status.ERROR,
    "STATUS_SPECIAL": Status.SPECIAL,
    "STATUS_OVERFLOW": Status.OVERFLOW,
    **{f"REGION{i}_FLAGS_OPEN": RegionFlag.OPEN for i in range(4)},
    **{f"REGION{i}_FLAGS_WRITABLE": RegionFlag.WRITABLE for i in range(4)},
}
IPXACT: Final = "{http://www.accellera.org/XMLSchema/IPXACT/1685-2014}"


def test_a_c_compiler_reads_the_header(tmp_path: Path) -> None:
    header = c_header()
    names = re.findall(r"^#define (SAT_\w+) ", header, re.MULTILINE)
    assert len(names) == len(set(names))
    (tmp_path / "sat_registers.h").write_text(header)
    prints = "".join(f'printf("{name} %lu\\n", (unsigned long){name});' for name in names)
    (tmp_path / "show.c").write_text(
        f'#include <stdio.h>\n#include "sat_registers.h"\nint main(void) {{{prints} return 0;}}'
    )
    compiler = shutil.which("gcc") or shutil.which("g++") or "cc"
    subprocess.run([compiler, "-Wall", "-Werror", "-o", "show", "show.c"], cwd=tmp_path, check=True)
    shown = subprocess.run([tmp_path / "show"], capture_output=True, text=True, check=True).stdout
    values = {name: int(value) for name, value in (line.split() for line in shown.splitlines())}
    wanted = {f"SAT_{name.upper()}": address for name, address in ADDRESSES.items()}
    wanted |= {f"SAT_{name}": mask for name, mask in BITS.items()}
    wanted |= {f"SAT_ERROR_{code.name}": int(code) for code in ErrorCode}
    assert values == wanted | {"SAT_VERSION_VALUE": VERSION, "SAT_REGISTER_BYTES": 4096}


def test_python_reads_the_module() -> None:
    found: dict[str, object] = {}
    exec(python_module(), found)
    assert {name: found[name.upper()] for name in ADDRESSES} == ADDRESSES
    assert {name: found[name] for name in BITS} == BITS
    assert found["ERRORS"] == {int(code): code.name for code in ErrorCode}


def test_the_page_holds_the_table() -> None:
    page = (ROOT / "docs" / "registers.md").read_text(encoding="utf-8")
    assert markdown() in page, "python -m nmsat.hw.release.register_map prints the table of docs/registers.md"
    assert len(re.findall(r"^\| 0x[0-9a-f]{3} ", markdown(), re.MULTILINE)) == len(REGISTERS)


def test_memory_map_is_a_component_of_ip_xact() -> None:
    root = ElementTree.fromstring(ipxact())
    assert root.tag == f"{IPXACT}component"
    assert [child.tag.removeprefix(IPXACT) for child in root] == ["vendor", "library", "name", "version", "memoryMaps"]
    found = {}
    for register in root.iter(f"{IPXACT}register"):
        text = {child.tag.removeprefix(IPXACT): child.text for child in register}
        found[text["name"]] = int(text["addressOffset"] or -1)
        fields = [
            (int(field.findtext(f"{IPXACT}bitOffset") or -1), int(field.findtext(f"{IPXACT}bitWidth") or -1))
            for field in register.iter(f"{IPXACT}field")
        ]
        known = REGISTERS[text["name"] or ""]
        covered = sorted(bit for low, width in fields for bit in range(low, low + width))
        assert covered == list(range(known.low, known.low + known.bits))
        assert text["access"] == ("read-only" if known.access is Access.READ else "read-write")
    assert found == ADDRESSES


def test_system_rdl_has_every_register_and_bit() -> None:
    text = system_rdl()
    assert text.count("{") == text.count("}")
    found = {name: int(at, 16) for name, at in re.findall(r"^  \} (\w+) @ (0x[0-9a-f]+);", text, re.MULTILINE)}
    assert found == ADDRESSES
    widths = [int(high) - int(low) + 1 for high, low in re.findall(r"\[(\d+):(\d+)\];", text)]
    assert sum(widths) == sum(register.bits for register in REGISTERS.values())


@pytest.mark.parametrize("name", register_files())
def test_forms_do_not_change_from_call_to_call(name: str) -> None:
    assert register_files()[name] == register_files()[name]
    assert register_files()[name].endswith("\n")
