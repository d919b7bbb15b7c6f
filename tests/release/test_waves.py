"""Waves for GTKWave: every signal that the save file names is in the Verilog; the filter decodes instructions."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import TYPE_CHECKING, Final

import pytest

from nmsat.dataflow.contract.config import preset
from nmsat.dataflow.contract.isa import QUEUE_OF, Opcode, Queue
from nmsat.dataflow.contract.registers import KERNEL, WAIT_CAUSES
from nmsat.dataflow.program.listing import listing
from nmsat.hw.array.compute import ComputeEngine
from nmsat.hw.control.sequencer import Sequencer
from nmsat.hw.parts.verilog import component_ports
from nmsat.hw.release.kernel import kernel_verilog
from nmsat.hw.release.waves import DECODER, WAVE_CAUSES, causes, command_file, decoder, save_file, wave_files
from nmsat.hw.sat import Sat
from nmsat.tb.machine import model
from nmsat.tb.machine.jobs import random_job

if TYPE_CHECKING:
    from pathlib import Path

TINY: Final = preset("tiny")


@pytest.fixture(scope="module")
def verilog() -> dict[str, str]:
    """Return the heads of the modules that the save file looks into; nothing is elaborated."""
    parts = {"sat": Sat(TINY), "sat_sequencer": Sequencer(TINY), "sat_compute": ComputeEngine(TINY)}
    return {
        f"{name}.v": f"module {name}();\n"
        + "".join(
            f"  {'input' if p.is_input else 'output'} {f'[{p.width - 1}:0] ' if p.width > 1 else ''}{p.name};\n"
            for p in component_ports(part)
        )
        + "endmodule\n"
        for name, part in parts.items()
    }


def test_views_are_for_each_top_that_is_traced(verilog: dict[str, str]) -> None:
    """The machine alone, or within the kernel, under the name that the kernel's Verilog gives it."""
    files = wave_files(verilog)
    assert set(files) == {"sat.gtkw", "sat.sucl", "sat_kernel.gtkw", "sat_kernel.sucl", DECODER, WAVE_CAUSES}
    (instance,) = re.findall(r"^  sat (\w+) \($", kernel_verilog(TINY), re.MULTILINE)
    assert (model.TOP, KERNEL) == ("sat", "sat_kernel")
    for end in ("gtkw", "sucl"):
        inside = files[f"sat.{end}"].replace("sat.", f"sat_kernel.{instance}.")
        assert files[f"sat_kernel.{end}"] == inside != files[f"sat.{end}"]


def test_every_signal_that_is_shown_exists(verilog: dict[str, str]) -> None:
    shown = re.findall(r"^(?:\+\{[^}]*\} )?(sat\.\S+)$", save_file(verilog, "sat"), re.MULTILINE)
    assert len(shown) == len(set(shown)) > 50
    modules = {"": "sat", "sequencer": "sat_sequencer", "compute": "sat_compute"}
    for signal in shown:
        path, _, last = signal.removeprefix("sat.").rpartition(".")
        name, _, width = last.partition("[")
        wanted = rf"^  (?:input|output) {re.escape('[' + width + ' ') if width else ''}{name};$"
        assert re.search(wanted, verilog[f"{modules[path]}.v"], re.MULTILINE), signal


def test_groups_are_the_queues_and_the_ports(verilog: dict[str, str]) -> None:
    groups = re.findall(r"^-(.+)$", save_file(verilog, "sat"), re.MULTILINE)
    titles = list(dict.fromkeys(groups))
    assert titles[:4] == ["host", "read", "write", "run"]
    loads = ", ".join(opcode.name for opcode, queue in QUEUE_OF.items() if queue is Queue.LOAD)
    assert loads.startswith("LOAD_ACT, LOAD_WGT, STAGE")
    assert f"load: {loads}" in titles
    text = save_file(verilog, "sat")
    assert text.count(f"^>1 {DECODER}") == 4
    assert f"^1 {WAVE_CAUSES}" in text


def test_surfer_shows_what_gtkwave_shows(verilog: dict[str, str]) -> None:
    """The same signals in the same order, without the range of their bits; a divider's name is one word."""
    shown = re.findall(r"^(?:\+\{[^}]*\} )?(sat\.[^\s\[]+)\S*$", save_file(verilog, "sat"), re.MULTILINE)
    commands = [line.split(" ") for line in command_file(verilog, "sat").splitlines()]
    assert [words[1] for words in commands if words[0] == "variable_add"] == shown
    titles = dict.fromkeys(re.findall(r"^-(.+)$", save_file(verilog, "sat"), re.MULTILINE))
    dividers = [words[1:] for words in commands if words[0] == "divider_add"]
    assert dividers == [[title.replace(", ", ",").replace(" ", "_")] for title in titles]
    assert commands[-1] == ["zoom_fit"]


def test_filter_says_what_a_listing_says(tmp_path: Path) -> None:
    """The script alone, as GTKWave runs it."""
    script = tmp_path / DECODER
    script.write_text(decoder())
    instructions = [i for seed in range(12) for i in random_job(TINY, seed).code.instructions]
    assert {i.opcode for i in instructions} >= set(Opcode) - {Opcode.STAGE}
    lines = [f"{instruction.encode():0128X}" for instruction in instructions]
    done = subprocess.run(
        [sys.executable, "-I", script],
        input="\n".join([*lines, "x" * 128, "0" * 128, "7"]) + "\n",
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines() == [*listing(instructions).splitlines(), "x" * 128, "-", "7"]


def test_causes_have_their_words() -> None:
    assert causes().splitlines() == ["0 -", *(f"{int(wait)} {name}" for wait, name in WAIT_CAUSES.items())]
