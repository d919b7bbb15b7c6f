"""The Xilinx package: its Tcl runs under tclsh against a recorder, its XML and constraints are read, none is golden by
accident."""

from __future__ import annotations

import re
import shutil
import subprocess
from typing import TYPE_CHECKING, Final
from xml.etree import ElementTree

import pytest

from nmsat.dataflow.contract.config import preset
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
    assert "connect_bd_net sat/interrupt interrupt_sync/interrupt" in text
    assert "connect_bd_net pcie/axi_aclk interrupt_sync/clk" in text
    assert "connect_bd_net interrupt_sync/request pcie/usr_irq_req" in text
    assert "set_false_path -to interrupt_sync/inst/first_reg" in text
    assert text.index("validate_bd_design") < text.index("launch_runs impl_1 -to_step write_bitstream -jobs 4")


@needs_tclsh
@pytest.mark.parametrize("board", [name for name, found in DEVICES.items() if found.kind != "card"])
def test_zynq_is_a_connected_design(board: str, tmp_path: Path) -> None:
    scripts, out = package(tmp_path, board=board), tmp_path / "zynq"
    names = [call[0] for call in record(scripts, "zynq.tcl", str(out))]
    assert "validate_bd_design" in names
    assert "launch_runs" not in names
    assert not list(out.glob("sat_zynq.*"))
    text = [" ".join(call) for call in record(scripts, "zynq.tcl", str(out), "bitstream")]
    written = f"write_hw_platform -fixed -include_bit -force -file {out}/sat_zynq.xsa"
    assert text.index("wait_on_run impl_1") < text.index(written)
    names_of = {path.name: path.read_text().strip() for path in out.glob("sat_zynq.*")}
    assert names_of == {"sat_zynq.bit": "sat_zynq_wrapper.bit", "sat_zynq.hwh": "sat_zynq.hwh"}


@needs_tclsh
@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("$sat::here sat_interrupt_sync.v", "$sat::here ../sat.v", "no file of the project has module sat_interrupt_s"),
        ("[get_bd_pins pcie/axi_aclk] [get_bd_pins interrupt_sync/clk]", "a b", "interrupt_sync/clk is not connected"),
        ("interrupt_sync/request]", "interrupt_sync/irq]", "interrupt_sync has no pin irq"),
        ("sat::add_constraints interrupt.xdc", "sat::add_constraints irq.xdc", "irq.xdc does not exist"),
        ("assign_bd_address -offset 0x0 -r", "assign_bd_address; assign_bd_address -offset 0 -r", "given a place"),
    ],
)
def test_a_fault_of_the_card_is_found(before: str, after: str, message: str, tmp_path: Path) -> None:
    scripts = package(tmp_path)
    text = (scripts / "card.tcl").read_text()
    assert before in text
    (scripts / "card.tcl").write_text(text.replace(before, after))
    done = run(scripts, "card.tcl")
    assert done.returncode == 1
    assert message in done.stderr


@pytest.mark.skipif(shutil.which("iverilog") is None, reason="iverilog is not installed (Debian: iverilog)")
def test_the_interrupt_passes_two_registers(tmp_path: Path) -> None:
    bench = """
module bench;
    reg clk = 0, line = 0;
    wire request;
    sat_interrupt_sync dut (.clk(clk), .interrupt(line), .request(request));
    always #5 clk = ~clk;
    initial begin
        #12 line = 1;
        #1 $write("%b", request);
        repeat (3) begin @(posedge clk); #1 $write("%b", request); end
        line = 0;
        repeat (3) begin @(posedge clk); #1 $write("%b", request); end
        $finish(0);
    end
endmodule
"""
    (tmp_path / "bench.v").write_text(bench)
    sources, built = [tmp_path / "bench.v", SCRIPTS / "sat_interrupt_sync.v"], tmp_path / "bench"
    subprocess.run(["iverilog", "-Wall", "-o", built, *sources], check=True)
    done = subprocess.run(["vvp", "-n", built], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "0011100"


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


def pblocks(text: str) -> dict[int, list[str]]:
    """Return SLR -> cells of a floorplan, read line by line; a line that is none of the three commands is an error."""
    found: dict[int, list[str]] = {}
    for line in text.splitlines():
        if line.startswith("#"):
            continue
        words = re.fullmatch(
            r"create_pblock sat_slr(\d)|resize_pblock sat_slr(\d) -add SLR\2"
            r"|add_cells_to_pblock sat_slr(\d) \[get_cells -hierarchical -filter \{NAME =~ \*(machine/[\w/]+)\}\]",
            line,
        )
        assert words, line
        made, _, slr, cell = words.groups()
        if made:
            assert int(made) not in found
            found[int(made)] = []
        if slr:
            found[int(slr)].append(cell)
    return found


def numbered(cells: list[str], name: str) -> list[int]:
    return [int(cell.rpartition("_")[2]) for cell in cells if cell.rpartition("/")[2].startswith(f"{name}_")]


@pytest.mark.parametrize("board", DEVICES)
@pytest.mark.parametrize(
    ("rows", "slices"),
    [
        (32, (11, 22)), (32, (8, 16)), (32, (8, 16, 24)), (32, ()), (16, (11,)), (4, ()), (4, (1, 2, 3)), (1, ()),
        (3, (1, 2)), (32, (1, 2, 3, 4, 16)), (5, (4,)),
    ],
)  # fmt: skip
def test_floorplan_follows_the_slices(board: str, rows: int, slices: tuple[int, ...]) -> None:
    """SLRs meet at slices alone; rows and their links are placed once, together, in order; no pblock is empty."""
    config = preset("vcu1525").replace(rows=rows, row_slices=slices)
    found = pblocks(xilinx_files(config, device(board), SOURCES)["floorplan.xdc"])
    slrs = DEVICES[board].slrs
    if slrs == 1 or not slices:
        assert found == {}
        return
    assert len(found) == min(slrs, len(slices) + 1)
    assert list(found) == list(range(min(found), max(found) + 1))
    assert 0 <= min(found) <= max(found) < slrs
    assert [row for cells in found.values() for row in numbered(cells, "row")] == list(range(rows))
    links = [link for cells in found.values() for link in numbered(cells, "act_link")]
    assert links == list(range(len(slices) + 1))
    for cells in found.values():
        mine = numbered(cells, "row")
        assert mine[0] in (0, *slices)
        assert [(0, *slices)[link] in mine for link in numbered(cells, "act_link")].count(False) == 0
    assert [slr for slr, cells in found.items() if "machine/control" in cells] == [sorted(found)[len(found) // 2]]


def test_boundaries_are_the_slices_that_were_set() -> None:
    config = preset("vcu1525").replace(row_slices=(8, 16))
    found = pblocks(xilinx_files(config, device("vcu1525"), SOURCES)["floorplan.xdc"])
    assert [numbered(cells, "row")[0] for cells in found.values()] == [0, 8, 16]
    assert [numbered(cells, "act_link") for cells in found.values()] == [[0], [1], [2]]


@needs_tclsh
@pytest.mark.parametrize("platform", [False, True])
def test_kernel_is_placed_as_the_floorplan_says(
    platform: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Into pblocks of its own, or into those of a platform's reconfigurable region."""
    scripts = package(tmp_path, "vcu1525")
    if platform:
        monkeypatch.setenv("RECORDER_PLATFORM", "1")
    calls = record(scripts, "place_kernel.tcl")
    name = "pblock_dynamic_SLR" if platform else "sat_slr"
    added = [(int(call[1].removeprefix(name)), call[2]) for call in calls if call[0] == "add_cells_to_pblock"]
    wanted = pblocks((scripts / "floorplan.xdc").read_text())
    assert added == [(slr, cell) for slr, cells in wanted.items() for cell in cells]
    assert sum(call[0] == "create_pblock" for call in calls) == (0 if platform else 3)


@needs_tclsh
@pytest.mark.parametrize(("config", "placed"), [("vcu1525", True), ("tiny", False)])
def test_card_and_kernel_take_the_floorplan(config: str, placed: bool, tmp_path: Path) -> None:
    scripts = package(tmp_path, config)
    text = [" ".join(call) for call in record(scripts, "card.tcl", str(tmp_path / "card"), "bitstream")]
    plan = scripts / "floorplan.xdc"
    lines = [f"add_files -fileset constrs_1 -norecurse {plan}", f"set_property used_in_synthesis false {plan}"]
    assert [line for line in text if "floorplan" in line and "get_files" not in line] == (lines if placed else [])
    if placed:
        assert text.index(lines[1]) < text.index("launch_runs impl_1 -to_step write_bitstream -jobs 4")
    told = run(scripts, "package_kernel.tcl", str(tmp_path / "packaged")).stdout
    hook = f"--vivado.prop run.impl_1.STEPS.PLACE_DESIGN.TCL.PRE={scripts / 'place_kernel.tcl'}"
    assert (hook in told) == placed


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
    scripts = {path.name for path in SCRIPTS.iterdir()}
    names = ("lib", "package_ip", "package_kernel", "place_kernel", "out_of_context", "card", "zynq")
    assert scripts == {*(f"{name}.tcl" for name in names), "sat_interrupt_sync.v", "interrupt.xdc"}
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
    sliced = xilinx_files(config.replace(row_slices=(2,)), device("vcu1525"), SOURCES)
    assert {"read_port", "write_port1"} <= set(re.findall(r"machine/(\w+)", sliced["floorplan.xdc"]))


@needs_tclsh
@pytest.mark.parametrize(("script", "board"), [("card.tcl", "vcu1525"), ("zynq.tcl", "zcu102")])
def test_block_designs_refuse_several_masters(script: str, board: str, tmp_path: Path) -> None:
    done = run(package(tmp_path, "tiny-2", board), script, str(tmp_path / "out"))
    assert done.returncode
    assert "2 masters" in done.stderr
    assert "link.cfg" in done.stderr
