"""The Xilinx package: its Tcl runs under tclsh against a recorder, its XML and constraints are read, none is golden by
accident."""

from __future__ import annotations

import re
import shutil
import subprocess
from typing import TYPE_CHECKING, Final
from xml.etree import ElementTree

import pytest

from nmsat.dataflow.contract.config import PRESETS, preset
from nmsat.dataflow.contract.isa import REGIONS
from nmsat.dataflow.contract.registers import KERNEL, REGISTERS
from nmsat.hw.release.devices import DEVICES, device
from nmsat.hw.release.kernel import CONTROL, MEMORY, kernel_ports, kernel_verilog
from nmsat.hw.release.xilinx import FOLDER, SCRIPTS, xilinx_files
from tests.source import ROOT

if TYPE_CHECKING:
    from pathlib import Path

TCLSH: Final = shutil.which("tclsh")
RECORDER: Final = ROOT / "tests" / "release" / "vivado_recorder.tcl"
GOLDEN: Final = ROOT / "tests" / "data" / "xilinx"
SOURCES: Final = ("sat_leaf.v", "sat.v", f"{KERNEL}.v")

needs_tclsh = pytest.mark.skipif(TCLSH is None, reason="tclsh is not installed (Debian: apt install tcl)")


def package(folder: Path, config: str = "tiny", board: str = "vcu1525") -> Path:
    """Write the package around Verilog that nobody reads; return the folder of the scripts."""
    (folder / FOLDER).mkdir(parents=True)
    for name in SOURCES:
        (folder / name).write_text(kernel_verilog(preset(config)) if KERNEL in name else "")
    for name, text in xilinx_files(preset(config), device(board), SOURCES).items():
        (folder / FOLDER / name).write_text(text)
    return folder / FOLDER


def record(scripts: Path, name: str, *words: str) -> list[list[str]]:
    """Run a script against the recorder; return its calls, each a list of words."""
    done = run(scripts, name, *words)
    assert done.returncode == 0, done.stderr
    return [line.split(" ") for line in done.stdout.splitlines()]


def run(scripts: Path, name: str, *words: str) -> subprocess.CompletedProcess[str]:
    pins = [
        f"{{{p.name} {'in' if p.is_input else 'out'}}}" for p in kernel_ports(preset("tiny")) if "axi" not in p.name
    ]
    pins += [f"{{{CONTROL} bus}}", f"{{{MEMORY} bus}}"]
    command = [TCLSH or "", str(RECORDER), " ".join(pins), str(scripts / name), *words]
    return subprocess.run(command, cwd=scripts.parent, capture_output=True, text=True, check=False)


@needs_tclsh
def test_packaging_names_every_register_and_file(tmp_path: Path) -> None:
    calls = record(package(tmp_path), "package_kernel.tcl", str(tmp_path / "packaged"))
    text = [" ".join(call) for call in calls]
    added = [call[1] for call in calls if call[0] == "ipx::add_register"]
    merged = {f"region{i}_base_high" for i in range(REGIONS)}
    assert added == [name for name in REGISTERS if name not in merged]
    offsets = [int(call[2], 16) for call in calls if call[:2] == ["set_property", "address_offset"]]
    assert offsets == [REGISTERS[name].address for name in added]
    files = next(line for line in text if line.startswith("add_files"))
    assert re.findall(r"[\w.]+\.v\b", files) == list(SOURCES)
    assert [call[2] for call in calls if call[0] == "ipx::add_register_parameter"] == [
        f"region{i}_base" for i in range(REGIONS)
    ]
    for wanted in (
        f"set_property top {KERNEL} sources_1",
        "set_property vitis_drc {ctrl_protocol user_managed} core",
        f"ipx::associate_bus_interfaces -busif {MEMORY} -clock ap_clk core",
    ):
        assert wanted in text
    made = f"{tmp_path}/packaged"
    (last,) = [line for line in text if line.startswith("package_xo")]
    assert last == (
        f"package_xo -force -xo_path {made}/{KERNEL}.xo -kernel_name {KERNEL} "
        f"-ip_directory {made}/ip -kernel_xml {tmp_path}/{FOLDER}/kernel.xml"
    )


@needs_tclsh
def test_ip_alone_makes_no_kernel(tmp_path: Path) -> None:
    calls = record(package(tmp_path), "package_ip.tcl")
    assert "ipx::save_core" in {call[0] for call in calls}
    assert "package_xo" not in {call[0] for call in calls}


@needs_tclsh
@pytest.mark.parametrize("board", [name for name, found in DEVICES.items() if found.kind == "card"])
def test_card_is_a_connected_design(board: str, tmp_path: Path) -> None:
    calls = record(package(tmp_path, board=board), "card.tcl", str(tmp_path / "card"), "bitstream")
    text = [" ".join(call) for call in calls]
    assert f"create_project -force -part {DEVICES[board].part} sat_card {tmp_path}/card/project" in text
    assert f"set_property board_part {DEVICES[board].board}:1.3 project" in text
    assert "create_bd_cell -type ip -vlnv nmsat:kernel:sat_kernel:1.0 sat" in text
    assert "create_bd_cell -type ip -vlnv xilinx.com:ip:xdma:2.10 pcie" in text, "2.10 is newer than 2.1"
    assert text.index("validate_bd_design") < text.index("launch_runs impl_1 -to_step write_bitstream -jobs 4")


@needs_tclsh
@pytest.mark.parametrize("board", [name for name, found in DEVICES.items() if found.kind != "card"])
def test_zynq_is_a_connected_design(board: str, tmp_path: Path) -> None:
    calls = record(package(tmp_path, board=board), "zynq.tcl", str(tmp_path / "zynq"))
    names = [call[0] for call in calls]
    assert "validate_bd_design" in names
    assert "launch_runs" not in names


@needs_tclsh
@pytest.mark.parametrize("step", ["synth", "route"])
def test_out_of_context_writes_what_is_read_later(step: str, tmp_path: Path) -> None:
    calls = record(package(tmp_path, "vcu1525"), "out_of_context.tcl", str(tmp_path / "out"), step)
    files = {call[-1].rpartition("/")[2] for call in calls if call[0].startswith("report_")}
    steps = ["synth", "route"][: 1 + (step == "route")]
    kinds = ("utilization", "hierarchy", "timing", "fanout", "power")
    assert files == {f"{name}_{kind}.rpt" for name in steps for kind in kinds}
    placed = [call for call in calls if call[0] == "create_pblock"]
    assert len(placed) == (3 if step == "route" else 0)


@needs_tclsh
@pytest.mark.parametrize(
    ("script", "board", "words", "message"),
    [
        ("card.tcl", "zcu102", (), "the package is for zcu102, which is no PCIe card; use zynq.tcl"),
        ("zynq.tcl", "u250", (), "the package is for u250, which is no Zynq board; use card.tcl"),
        ("card.tcl", "u250", ("out", "bits"), "STEP is 'bits'; it must be design or bitstream"),
        ("out_of_context.tcl", "u250", ("out", "synthesis"), "STEP is 'synthesis'; it must be synth or route"),
    ],
)
def test_scripts_refuse_what_they_cannot_do(
    script: str, board: str, words: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    done = run(package(tmp_path, board=board), script, *words)
    assert done.returncode == 1
    assert message in done.stderr


@needs_tclsh
@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("ipx::save_core $core", "ipx::save_cores $core", "invalid command name"),
        ("-taxonomy /KernelIP", "-taxonmy /KernelIP", "unknown option -taxonmy"),
        ("close_project -delete\n    close_project", "close_project", "1 projects are left open"),
        ("set_property top $::sat_kernel", "set_property top", "set_property NAME VALUE OBJECT"),
    ],
)
def test_the_recorder_finds_faults(before: str, after: str, message: str, tmp_path: Path) -> None:
    scripts = package(tmp_path)
    text = (scripts / "lib.tcl").read_text()
    assert before in text
    (scripts / "lib.tcl").write_text(text.replace(before, after))
    done = run(scripts, "package_ip.tcl")
    assert done.returncode == 1
    assert message in done.stderr


@needs_tclsh
def test_a_pin_left_open_is_found(tmp_path: Path) -> None:
    scripts = package(tmp_path, board="zcu102")
    text = (scripts / "zynq.tcl").read_text()
    (scripts / "zynq.tcl").write_text(text.replace("{sat/ap_clk to_memory", "{to_memory"))
    assert "sat/ap_clk is not connected" in run(scripts, "zynq.tcl").stderr


def test_kernel_xml_has_the_fields_of_a_user_managed_kernel() -> None:
    root = ElementTree.fromstring(xilinx_files(preset("tiny"), device("u250"), SOURCES)["kernel.xml"])
    assert (root.tag, root.attrib) == ("root", {"versionMajor": "1", "versionMinor": "9"})
    kernel = root.find("kernel")
    assert kernel is not None
    assert kernel.attrib == {
        "name": KERNEL,
        "language": "ip",
        "vlnv": f"nmsat:kernel:{KERNEL}:1.0",
        "attributes": "",
        "preferredWorkGroupSizeMultiple": "0",
        "workGroupSize": "1",
        "interrupt": "true",
        "hwControlProtocol": "user_managed",
    }
    ports = {port.attrib["name"]: port.attrib for port in kernel.iter("port")}
    assert {name: port["mode"] for name, port in ports.items()} == {CONTROL: "slave", MEMORY: "master"}
    assert (ports[CONTROL]["range"], ports[MEMORY]["dataWidth"]) == ("0x1000", "512")
    args = list(kernel.iter("arg"))
    assert [int(arg.attrib["offset"], 16) for arg in args] == [REGISTERS[f"region{i}_base"].address for i in range(4)]
    assert {(arg.attrib["port"], arg.attrib["addressQualifier"], arg.attrib["size"]) for arg in args} == {
        (MEMORY, "1", "0x8")
    }


@pytest.mark.parametrize("config", PRESETS)
@pytest.mark.parametrize("board", DEVICES)
def test_floorplan_places_every_row_once(config: str, board: str) -> None:
    text = xilinx_files(preset(config), device(board), SOURCES)["floorplan.xdc"]
    rows = [int(row) for row in re.findall(r"machine/compute/stce/row_(\d+)", text)]
    assert rows == (list(range(preset(config).rows)) if DEVICES[board].slrs > 1 else [])
    assert text.count("create_pblock") == (DEVICES[board].slrs if rows else 0)


def test_unknown_devices_are_refused_by_name() -> None:
    known = "vcu1525, u200, u250, zcu102, kv260, pynq-z2"
    with pytest.raises(ValueError, match=f"device is 'vc709'; known devices: {known}"):
        device("vc709")


@pytest.mark.parametrize("name", ["settings.tcl", "kernel.xml", "link.cfg", "clock.xdc", "floorplan.xdc"])
def test_files_are_the_golden_ones(name: str) -> None:
    made = xilinx_files(preset("vcu1525"), device("vcu1525"), SOURCES)[name]
    assert made == (GOLDEN / name).read_text(encoding="utf-8"), "python -m tests.release.test_xilinx renews them"


def test_scripts_are_the_same_for_all_configurations() -> None:
    one, other = (xilinx_files(preset(name), device("u250"), SOURCES) for name in ("tiny", "vcu1525"))
    scripts = {path.name for path in SCRIPTS.glob("*.tcl")}
    assert scripts == {
        f"{name}.tcl" for name in ("lib", "package_ip", "package_kernel", "out_of_context", "card", "zynq")
    }
    assert {name for name in scripts if one[name] != other[name]} == set()


if __name__ == "__main__":
    GOLDEN.mkdir(exist_ok=True)
    for name, text in xilinx_files(preset("vcu1525"), device("vcu1525"), SOURCES).items():
        if not (SCRIPTS / name).exists():
            (GOLDEN / name).write_text(text, encoding="utf-8")


def test_a_machine_with_two_masters_has_a_channel_of_memory_behind_each() -> None:
    config = preset("tiny-2")
    text = kernel_verilog(config)
    assert f"ASSOCIATED_BUSIF {CONTROL}:m00_axi:m01_axi," in text
    assert re.findall(r"XIL_INTERFACENAME (m\d\d_axi), PROTOCOL AXI4,", text) == ["m00_axi", "m01_axi"]
    one, two = ({p.name for p in kernel_ports(preset(name))} for name in ("tiny", "tiny-2"))
    assert two - one == {name.replace("m00", "m01") for name in one if name.startswith("m00_axi_")}
    files = xilinx_files(config, device("vcu1525"), SOURCES)
    assert re.findall(r"^sp=(.*)$", files["link.cfg"], re.MULTILINE) == [
        f"{KERNEL}_1.m0{port}_axi:DDR[{port}]" for port in range(2)
    ]
    root = ElementTree.fromstring(files["kernel.xml"])
    assert [port.attrib["name"] for port in root.iter("port")] == [CONTROL, "m00_axi", "m01_axi"]
    assert [arg.attrib["port"] for arg in root.iter("arg")] == ["m00_axi", "m00_axi", "m01_axi", "m01_axi"]
    assert {"read_port", "write_port1"} <= set(re.findall(r"machine/(\w+)", files["floorplan.xdc"]))


@needs_tclsh
@pytest.mark.parametrize(("script", "board"), [("card.tcl", "vcu1525"), ("zynq.tcl", "zcu102")])
def test_block_designs_refuse_several_masters(script: str, board: str, tmp_path: Path) -> None:
    done = run(package(tmp_path, "tiny-2", board), script, str(tmp_path / "out"))
    assert done.returncode
    assert "2 masters" in done.stderr
    assert "link.cfg" in done.stderr
