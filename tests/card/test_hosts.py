"""Hosts on XRT's interface, of which there is a stand-in: the C++ host, its library, and what a launch says."""

from __future__ import annotations

import json
import shutil
import subprocess
from typing import TYPE_CHECKING, Final

import numpy as np
import pytest

from nmsat.algorithms.core.tape import Pattern
from nmsat.dataflow.contract.config import preset
from nmsat.dataflow.contract.registers import COUNTERS, REGISTERS, Command, configuration, port_of
from nmsat.hw.release.package import HOST_SOURCES
from nmsat.hw.release.register_map import c_header
from nmsat.reports.work.card import open_card
from nmsat.reports.work.launch import launch_files
from nmsat.reports.work.program import matrix_program, program_files
from nmsat.sim.card.driver import Card, CardError
from nmsat.sim.card.model import Model
from nmsat.sim.card.xrt import Xrt
from nmsat.sim.sat import Sat, launch
from nmsat.tb.machine.jobs import random_job
from tests.source import ROOT

if TYPE_CHECKING:
    from pathlib import Path

TINY: Final = preset("tiny")
STUB: Final = ROOT / "tests" / "release" / "xrt_stub"


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the host program and its library, compiled against the stand-in of XRT."""
    folder = tmp_path_factory.mktemp("host")
    (folder / "sat_registers.h").write_text(c_header())
    compiler = shutil.which("g++") or "c++"
    flags = [compiler, "-std=c++17", "-Wall", "-Wextra", "-Werror", f"-I{folder}", f"-I{STUB}"]
    source = str(HOST_SOURCES / "sat_host.cpp")
    builds = [["-o", "sat_host"], ["-DSAT_LIBRARY", "-shared", "-fPIC", "-o", "libsat_host.so"]]
    running = [subprocess.Popen([*flags, source, *words], cwd=folder) for words in builds]
    assert [process.wait() for process in running] == [0, 0]
    return folder


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder as `nmsat program --out` writes it, and set the stand-in up for it."""
    found = matrix_program(TINY, (12, 16, 17), Pattern(2, 8), None, 5)
    before = [region.copy() for region in found.image.regions]
    Sat(TINY).run(launch(found.image.regions, found.place), found.image.regions)
    folder = tmp_path / "program"
    for name, content in program_files(TINY, found, before).items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    (tmp_path / "sat.xclbin").touch()
    registers = {REGISTERS[name].address: value for name, value in configuration(TINY).items()}
    registers |= {REGISTERS["cycles"].address: 321, REGISTERS["cycles_high"].address: 1}
    monkeypatch.setenv("SAT_STUB_REGISTERS", " ".join(f"{at}={value}" for at, value in registers.items()))
    monkeypatch.setenv("SAT_STUB_AFTER", str(folder / "expected"))
    monkeypatch.setenv("SAT_STUB_LOG", str(tmp_path / "log"))
    return folder


def written(log: Path) -> dict[str, int]:
    """Return the last value of each register that the host wrote."""
    names = {register.address: name for name, register in REGISTERS.items()}
    return {names[int(at)]: int(value) for at, value in (line.split() for line in log.read_text().splitlines())}


def test_host_program_runs_a_folder(host: Path, program: Path, tmp_path: Path) -> None:
    words = [host / "sat_host", tmp_path / "sat.xclbin", program, tmp_path / "out"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr, done.stdout) == (0, "", f"cycles {(1 << 32) + 321}\n")
    assert (tmp_path / "out" / "region2.bin").read_bytes() == (program / "expected" / "region2.bin").read_bytes()
    assert not (tmp_path / "out" / "region0.bin").exists()
    asked, description = written(tmp_path / "log"), json.loads((program / "launch.json").read_text())
    for entry in description["regions"]:
        i = entry["region"]
        assert asked[f"region{i}_flags"] == (3 if entry["writable"] else 1)
        assert (asked[f"region{i}_size"], asked[f"region{i}_size_high"]) == (entry["beats"], 0)
        assert asked[f"region{i}_base_high"] == 2
        assert asked[f"region{i}_base"] % 4096 == 0
    (place,) = description["programs"]
    assert (asked["program_region"], asked["program_at"], asked["program_count"]) == (0, place["at"], place["count"])
    assert asked["watchdog"] == 0
    again = subprocess.run(words, capture_output=True, text=True, check=False)
    assert again.returncode == 0, "the folder is there"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["none.xclbin", "{}", "."], "cannot open none.xclbin"),
        (["{}/region0.bin", "nowhere", "."], "cannot read nowhere/launch.txt"),
        (["{}/region0.bin", "{}", ".", "3"], "no such device"),
        (["{}/region0.bin", "{}", "no/where"], "cannot make no/where: No such file or directory"),
        (["{}/region0.bin", "{}", "{}/region0.bin"], "{}/region0.bin is no folder"),
    ],
)
def test_host_program_says_what_is_wrong(words: list[str], message: str, host: Path, program: Path) -> None:
    command = [str(host / "sat_host"), *(word.format(program) for word in words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, f"sat_host: {message.format(program)}\n")


def test_host_program_ends_what_a_killed_host_has_left(
    host: Path, program: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without that it would find the end of the other run, and keep memory in which nothing has been computed."""
    monkeypatch.setenv("SAT_STUB_BUSY", "3")
    words = [host / "sat_host", tmp_path / "sat.xclbin", program, tmp_path / "out"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    said = "sat_host: the card still runs what another host has started; it is reset\n"
    assert (done.returncode, done.stderr, done.stdout) == (0, said, f"cycles {(1 << 32) + 321}\n")
    assert (tmp_path / "out" / "region2.bin").read_bytes() == (program / "expected" / "region2.bin").read_bytes()
    first, *_ = (tmp_path / "log").read_text().splitlines()
    assert first == f"{REGISTERS['command'].address} {Command.RESET}"


def test_host_program_refuses_a_card_that_no_reset_ends(
    host: Path, program: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAT_STUB_BUSY", "stuck")
    words = [host / "sat_host", tmp_path / "sat.xclbin", program, tmp_path / "out"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines()[-1] == (
        "sat_host: the card still waits for its memory after a reset; load it anew (xbutil reset)"
    )
    assert (tmp_path / "log").read_text() == f"{REGISTERS['command'].address} {Command.RESET}\n"
    assert list((tmp_path / "out").iterdir()) == []


IDENTITY: Final = ("version", "rows", "columns", "act_lanes", "act_depth", "weight_depth", "sum_depth")
"""Registers by which a program's machine is known: all that tell of the machine, but its clock."""


@pytest.mark.parametrize("name", IDENTITY[1:])
def test_host_program_refuses_a_program_for_another_machine(
    name: str, host: Path, program: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The card is tiny but for one register; nothing is written to it."""
    card = configuration(TINY) | {name: 77}
    said = " ".join(f"{REGISTERS[register].address}={value}" for register, value in card.items())
    monkeypatch.setenv("SAT_STUB_REGISTERS", said)
    words = [host / "sat_host", tmp_path / "sat.xclbin", program, tmp_path / "out"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"sat_host: the program is for a machine with {name} {configuration(TINY)[name]}, the card has 77; "
        "write it for the card (nmsat program --config)\n"
    )
    assert not (tmp_path / "log").exists()


def test_host_program_refuses_a_launch_that_names_no_machine(host: Path, program: Path, tmp_path: Path) -> None:
    path = program / "launch.txt"
    path.write_text("\n".join(line for line in path.read_text().splitlines() if not line.startswith("machine ")))
    words = [host / "sat_host", tmp_path / "sat.xclbin", program, tmp_path / "out"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    message = "sat_host: launch.txt names no machine; write it anew (nmsat program --out)\n"
    assert (done.returncode, done.stderr) == (1, message)
    assert not (tmp_path / "log").exists()


def test_a_launch_names_its_machine_and_the_driver_refuses_another(program: Path) -> None:
    described = json.loads((program / "launch.json").read_text())["machine"]
    assert described == {name: configuration(TINY)[name] for name in IDENTITY}
    lines = [line.split() for line in (program / "launch.txt").read_text().splitlines() if line[:1] != "#"]
    told = [words[1:] for words in lines if words[0] == "machine"]
    assert told == [[name, str(REGISTERS[name].address), str(value)] for name, value in described.items()]
    Card(TINY, Model(TINY)).check(described)
    small = preset("small")
    with pytest.raises(CardError, match="for a machine with rows 4; the card, configuration 'small', has 8"):
        Card(small, Model(small)).check(described)
    with pytest.raises(CardError, match="ports 2; the card, configuration 'tiny', has 'no such register'"):
        Card(TINY, Model(TINY)).check({"ports": 2})


@pytest.mark.parametrize("busy", ["", "3"])
def test_python_drives_xrt_through_the_library(
    busy: str, host: Path, program: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAT_STUB_BUSY", busy)
    card = open_card("xrt", TINY, image=tmp_path / "sat.xclbin", library=host / "libsat_host.so")
    assert isinstance(card, Card)
    job = matrix_program(TINY, (12, 16, 17), Pattern(2, 8), None, 5)
    report = card.run(launch(job.image.regions, job.place), job.image.regions)
    assert report.counters == dict.fromkeys(COUNTERS, 0) | {"cycles": (1 << 32) + 321}
    assert job.image.regions[2].tobytes() == (program / "expected" / "region2.bin").read_bytes()
    assert job.reference is not None
    assert np.array_equal(job.image.read_rows(job.result), job.reference())
    card.close()


def test_xrt_errors_are_told(host: Path, program: Path, tmp_path: Path) -> None:
    assert program.exists()
    library = host / "libsat_host.so"
    with pytest.raises(OSError, match=r"card 0 with .*gone\.xclbin.*: cannot open"):
        Xrt(library, tmp_path / "gone.xclbin")
    link = Xrt(library, tmp_path / "sat.xclbin")
    with pytest.raises(OSError, match="XRT: register offset"):
        link.read(0x1002)
    link.close()


def test_files_of_a_launch_name_the_master() -> None:
    job = random_job(preset("tiny-2"), 3)
    files = launch_files(job.image.regions, None, [job.place], preset("tiny-2"))
    found = json.loads(str(files["launch.json"]))["regions"]
    assert [region["port"] for region in found] == [port_of(i, 2) for i in range(len(found))]
    assert "region 2 write region2.bin 1" in str(files["launch.txt"]).splitlines()
    one = launch_files(job.image.regions, None, [job.place], TINY)
    assert "port" not in str(one["launch.json"])
    assert "region 2 write region2.bin" in str(one["launch.txt"]).splitlines()
