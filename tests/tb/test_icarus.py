"""tb.icarus: the second simulator, and that it sees what the first one cannot."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from nmsat.hw.parts.verilog import emit
from nmsat.tb import icarus
from nmsat.tb.run.icarus import find_icarus, without_initial_values
from nmsat.tb.run.runner import BuildError, MissingToolError, SimulationError, build_icarus, run

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.rtl

BENCH = "nmsat.tb.run.bench_runner"


@pytest.fixture
def installed() -> None:
    try:
        find_icarus()
    except MissingToolError as error:
        pytest.skip(str(error))


class Total(wiring.Component):
    """`total` grows by twice `value`; without `resets` nothing gives it its first value but the start of the chip."""

    enable: Signal
    value: Signal
    total: Signal

    def __init__(self, *, resets: bool) -> None:
        self._resets = resets
        super().__init__({"enable": In(1), "value": In(16), "total": Out(32)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        held = Signal(32, reset_less=not self._resets)
        ready = Signal()
        m.d.sync += ready.eq(1)
        m.d.comb += self.total.eq(held)
        with m.If(self.enable):
            m.d.sync += held.eq(held + (self.value << 1))
        return m


def totals(resets: bool, folder: Path) -> list[int]:
    """Return what a circuit gives in Icarus Verilog."""
    built = build_icarus(emit(Total(resets=resets), "accumulator"), "accumulator", folder / "built")
    results = run(
        built, BENCH, ["accumulate"], job={"values": np.array([1, 2, 3]), "scale": 1}, directory=folder / "run"
    )
    return results.check().saved["totals"]


@pytest.mark.usefixtures("installed")
def test_a_register_that_is_not_reset_is_seen(tmp_path: Path) -> None:
    assert totals(True, tmp_path) == [2, 6, 12]
    with pytest.raises(SimulationError, match="non-0/1"):
        totals(False, tmp_path)


def test_initial_values_go() -> None:
    text = "\n".join(
        [
            "  reg \\$auto$verilog_backend.cc:2355:dump_module$1  = 0;",
            "  output [7:0] len;",
            "  reg [7:0] len = 8'h00;",
            "  reg [3:0] \\$a.b  = 4'h0;",
            "  reg [3:0] rows [1:0];",
            "  initial begin",
            "    rows[0] = 4'h0;",
            "    rows[1] = 4'h3;",
            "  end",
            "  integer memory_entry;",
            "  initial",
            "    for (memory_entry = 0; memory_entry <= 3; memory_entry = memory_entry + 1)",
            "      memory[memory_entry] = 5'h00;",
            "  assign x = len;",
            "",
        ]
    )
    assert without_initial_values(text).splitlines() == [
        "  reg \\$auto$verilog_backend.cc:2355:dump_module$1  = 0;",
        "  output [7:0] len;",
        "  reg [7:0] len ;",
        "  reg [3:0] \\$a.b ;",
        "  reg [3:0] rows [1:0];",
        "  assign x = len;",
    ]


@pytest.mark.parametrize("line", ["  initial x = 1;", "    reg y = 1'h1;"])
def test_a_value_that_is_left_is_refused(line: str) -> None:
    with pytest.raises(ValueError, match="still gives an initial value"):
        without_initial_values(f"module m;\n{line}\nendmodule\n")


@pytest.mark.usefixtures("installed")
def test_the_array_in_icarus(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One product; make icarus runs the others, and the machine."""
    assert icarus.main(["array-0", "--json", str(tmp_path / "found.json")]) == 0
    assert "1 of 1 equal" in capsys.readouterr().out
    (case,) = json.loads((tmp_path / "found.json").read_text())["cases"]
    assert (case["equal"], case["repeat"]) == (True, "make icarus CASE=array-0")


@pytest.mark.usefixtures("installed")
def test_a_circuit_that_is_not_verilog(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="Icarus Verilog failed"):
        build_icarus({"m.v": "module m; assign = 1; endmodule\n"}, "m", tmp_path)


@pytest.mark.usefixtures("installed")
def test_a_difference_is_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    honest = icarus.array_job(0)
    job = replace(honest, w=honest.a.T[:, :1].repeat(6, 1))
    monkeypatch.setattr(icarus, "array_job", lambda _: job)
    assert icarus.main(["array-0"]) == 1
    assert "DIFFERS (again: make icarus CASE=array-0)" in capsys.readouterr().out


def test_without_icarus_one_line_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert icarus.main([]) == 2
    assert capsys.readouterr().err == "Icarus Verilog: 'iverilog' not found in PATH; install it (Debian: iverilog)\n"


def test_a_case_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert icarus.main(["machine-1"]) == 2
    assert "case is 'machine-1'; there is none of this name" in capsys.readouterr().err
