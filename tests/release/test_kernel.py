"""`sat_kernel`: ports and attributes that Vivado reads, its reset, and programs through it."""

from __future__ import annotations

import re
from typing import Final

import pytest

from nmsat.dataflow.contract.config import PRESETS, preset
from nmsat.dataflow.contract.registers import KERNEL
from nmsat.hw.control.host import Control
from nmsat.hw.parts.verilog import Port, component_ports, emit, read_ports
from nmsat.hw.release.kernel import CONTROL, MEMORY, kernel_ports, kernel_verilog
from nmsat.hw.release.xilinx import kernel_xml
from nmsat.hw.sat import Sat
from nmsat.tb.run.runner import build, run

TINY: Final = preset("tiny")
BENCH: Final = "nmsat.tb.machine.bench_kernel"

AXI4: Final = {
    "ar": "id addr len size burst cache prot valid ready",
    "r": "id data resp last valid ready",
    "aw": "id addr len size burst cache prot valid ready",
    "w": "data strb last valid ready",
    "b": "id resp valid ready",
}
LITE: Final = {"ar": "addr valid ready", "r": "data resp valid ready", "aw": "addr valid ready"} | {
    "w": "data strb valid ready",
    "b": "resp valid ready",
}


def declared(text: str) -> list[tuple[str, str, int, str]]:
    """Return (attribute, direction, width, name) of the ports, read from the text alone."""
    found = re.findall(
        r'X_INTERFACE_INFO = "([^"]+)" \*\)(?:\s*\(\* X_INTERFACE_PARAMETER = "[^"]+" \*\))?'
        r"\s*(input|output) +wire (?:\[(\d+):0\] )?(\w+)",
        text,
    )
    return [(info, way, int(high) + 1 if high else 1, name) for info, way, high, name in found]


def test_ports_have_the_names_of_vitis_and_an_attribute_each() -> None:
    ports = declared(kernel_verilog(TINY))
    assert [Port(name, width, way == "input") for _, way, width, name in ports] == list(kernel_ports(TINY))
    infos = {name: info for info, _, _, name in ports}
    wanted = {
        "ap_clk": "xilinx.com:signal:clock:1.0 ap_clk CLK",
        "ap_rst_n": "xilinx.com:signal:reset:1.0 ap_rst_n RST",
        "interrupt": "xilinx.com:signal:interrupt:1.0 interrupt INTERRUPT",
    }
    for bus, channels in ((CONTROL, LITE), (MEMORY, AXI4)):
        for channel, names in channels.items():
            for signal in names.split():
                full = f"{channel}{signal}"
                wanted[f"{bus}_{full}"] = f"xilinx.com:interface:aximm:1.0 {bus} {full.upper()}"
    assert infos == wanted


def test_each_interface_has_its_parameters_once() -> None:
    text = kernel_verilog(TINY)
    names = re.findall(r'"XIL_INTERFACENAME (\w+)', text)
    assert sorted(names) == ["ap_clk", "ap_rst_n", "interrupt", MEMORY, CONTROL]
    assert "XIL_INTERFACENAME ap_rst_n, POLARITY ACTIVE_LOW" in text
    assert f"ASSOCIATED_BUSIF {CONTROL}:{MEMORY}, ASSOCIATED_RESET ap_rst_n" in text


@pytest.mark.parametrize(("bits", "longest"), [(64, 128), (128, 64), (256, 32), (512, 16)])
def test_the_width_of_a_memory_port_is_told(bits: int, longest: int) -> None:
    """To Vivado by its ports and their attributes, to Vitis by kernel.xml."""
    config = TINY.replace(name="width", port_bits=bits)
    text = kernel_verilog(config)
    assert f"DATA_WIDTH {bits}, ID_WIDTH 1, " in text
    assert f"MAX_BURST_LENGTH {longest}, " in text
    widths = {name: width for _, _, width, name in declared(text)}
    assert [widths[f"{MEMORY}_{name}"] for name in ("rdata", "wdata", "wstrb")] == [bits, bits, bits // 8]
    (port,) = re.findall(rf'<port name="{MEMORY}" .*? dataWidth="(\d+)"', kernel_xml(config))
    assert int(port) == bits


def test_every_port_of_the_machine_is_wired_to_its_own() -> None:
    """Read from the text: under its own name, but for the master, the clock and the reset; some behind the guard."""
    text = kernel_verilog(TINY)
    wired = dict(re.findall(r"^    \.(\w+)\((.*?)\),?$", text, re.MULTILINE))
    assert (wired.pop("clk"), wired.pop("rst")) == ("ap_clk", "reset")
    ports = component_ports(Sat(TINY))
    assert wired.keys() == {port.name for port in ports}
    guards = dict(re.findall(r"^  assign (\w+) = (\w+) & ~reset;$", text, re.MULTILINE))
    for port in ports:
        mine = re.sub(r"^m_axi_", "m00_axi_", port.name)
        guarded = port.name.endswith(("valid", "ready")) or port.name == "interrupt"
        if port.is_input:
            assert wired[port.name] == (f"{mine} & ~reset" if guarded else mine)
        else:
            assert (guards.pop(mine) if guarded else mine) == wired[port.name]
    assert guards == {}


@pytest.mark.parametrize("name", PRESETS)
def test_kernel_does_not_depend_on_sizes_inside(name: str) -> None:
    assert kernel_verilog(preset(name)) == kernel_verilog(TINY)


def shell() -> dict[str, str]:
    """Return the kernel around a `sat` that holds registers alone: quick to build, and all that a reset meets."""
    control = emit(Control(TINY), "sat_control")
    inside = read_ports(control["sat_control.v"], "sat_control")
    ports = component_ports(Sat(TINY))
    driven = {f"axi__{port.name.removeprefix(CONTROL + '_')}": port.name for port in ports if CONTROL in port.name}
    driven |= {"clk": "clk", "rst": "rst", "interrupt": "interrupt", "ports_idle": "1'b1"}
    wires = []
    for port in inside:
        wire = driven.get(port.name, f"{port.width}'d0" if port.is_input else "run" if port.name == "run" else "")
        wires.append(f".{port.name}({wire})")
    alive = {f"m_axi_{name}": "run" for name in ("arvalid", "awvalid", "wvalid", "rready", "bready")}
    own = [port for port in ports if CONTROL not in port.name and port.name != "interrupt"]
    head = ["input clk", "input rst"]
    head += [f"{'input' if p.is_input else 'output'} [{p.width - 1}:0] {p.name}" for p in ports]
    ties = [f"assign {p.name} = {alive.get(p.name, str(p.width) + chr(39) + 'd0')};" for p in own if not p.is_input]
    text = f"module sat({', '.join(head)});\nwire run;\nsat_control control({', '.join(wires)});\n"
    waived = "/* verilator lint_off UNUSEDSIGNAL */ /* verilator lint_off PINCONNECTEMPTY */\n"
    sat = waived + text + "\n".join(ties) + "\nendmodule\n"
    return {**control, "sat.v": sat, f"{KERNEL}.v": kernel_verilog(TINY)}


@pytest.mark.rtl
def test_reset_loses_no_access() -> None:
    run(build(shell(), KERNEL), BENCH, ["reset"], job={"config": "tiny"}).check()


@pytest.mark.rtl
def test_an_unguarded_reset_is_found() -> None:
    """What the bench is for: without the guard the access in the first cycle is taken and never answered."""
    files = shell()
    files[f"{KERNEL}.v"] = re.sub(r"(valid|ready) & ~reset", r"\1", files[f"{KERNEL}.v"])
    assert not run(build(files, KERNEL), BENCH, ["reset"], job={"config": "tiny"}).passed


@pytest.mark.rtl
@pytest.mark.long
def test_programs_run_through_the_kernel() -> None:
    files = {**emit(Sat(TINY), "sat"), f"{KERNEL}.v": kernel_verilog(TINY)}
    found = run(build(files, KERNEL), BENCH, ["program"], job={"config": "tiny", "first": 0, "count": 6}).check()
    assert found.saved["cycles"] > 1000
