"""hw.release.synth: what Yosys counts, and the budget of the element."""

from __future__ import annotations

import pytest

from nmsat.dataflow.contract.config import preset
from nmsat.hw.parts.verilog import emit
from nmsat.hw.release.port_costs import ports_take
from nmsat.hw.release.synth import Resources, SynthesisError, synthesise
from nmsat.hw.release.uspe_costs import Cost, Tied, element, table
from tests.source import ROOT

pytestmark = pytest.mark.synth

SMALL = """
module small(input clk, input we, input [4:0] wa, input [4:0] ra, input [13:0] d, output [13:0] q,
             input [10:0] a, input [10:0] b, output reg [21:0] p, output reg [7:0] s, input tap, output reg late);
  (* ram_style = "distributed" *) reg [13:0] memory [31:0];
  reg [4:0] delay;
  always @(posedge clk) begin
    if (we) memory[wa] <= d;
    p <= a * b;
    s <= a[7:0] + b[7:0];
    {late, delay} <= {delay, tap};
  end
  assign q = memory[ra];
endmodule
"""


def test_small_module_is_counted_by_hand() -> None:
    assert synthesise({"small.v": SMALL}, "small") == Resources(
        logic=4,  # 8 two-input tables of the sum, two to a cell
        ram_luts=8,
        shift_luts=1,
        flip_flops=22 + 8,  # the six delays are one shift register
        dsp=1,
        block_rams=0,
        ultra_rams=0,
        carry=2,
        adders=1,
        multipliers=1,
    )


def test_product_written_twice_shows() -> None:
    text = """module twice(input [10:0] a, input [10:0] b, input c, output [21:0] x, output [21:0] y);
      assign x = c ? a * b : 22'd0; assign y = c ? 22'd1 : a * b; endmodule"""
    assert synthesise({"twice.v": text}, "twice").multipliers == 2


def test_broken_verilog_is_an_error() -> None:
    with pytest.raises(SynthesisError, match="syntax error"):
        synthesise({"broken.v": "module broken(input a output b); endmodule"}, "broken")


@pytest.mark.parametrize(("lanes", "luts", "flip_flops"), [(1, 400, 360), (2, 430, 380)])
def test_element_stays_in_its_budget(lanes: int, luts: int, flip_flops: int) -> None:
    """The goal of the project is 560 tables and 450 flip-flops; this holds what has been reached, with little slack."""
    found = element(preset("tiny").replace(act_lanes=lanes, adder_stages=4))
    assert found.luts <= luts
    assert found.flip_flops <= flip_flops
    assert (found.dsp, found.block_rams) == (1, 0)
    assert (found.adders, found.multipliers) == (5, 1), (
        "exponents, their difference, sum, leading zeros, rounding; product"
    )


def test_tied_element_is_smaller_and_the_table_says_by_how_much() -> None:
    config = preset("tiny").replace(act_lanes=1, adder_stages=4)
    full = element(config)
    tied = synthesise(emit(Tied(config, {("ctl_i", "ws"): 0}), "sat_uspe"), "sat_uspe")
    assert tied.luts < full.luts
    lines = table([Cost("element", full), Cost("seeds", tied, less=True)]).splitlines()
    assert lines[1].split()[1] == str(full.luts)
    assert f"{tied.luts - full.luts:+}" in lines[2].split()


@pytest.mark.long
def test_the_page_of_memory_shows_what_ports_cost() -> None:
    rows = ports_take()
    page = " ".join((ROOT / "docs" / "machine" / "memory.md").read_text(encoding="utf-8").split())
    read, write, reads, writes = list(rows.values())[:4]
    both, four = rows["2 ports in place of one"], rows["4 ports in place of one"]
    for part in (
        f"a read port ({read.logic:,} logic cells, {read.flip_flops:,} registers, {read.ram_luts} cells of distributed",
        f"a write port ({write.logic:,}, {write.flip_flops:,}, {write.ram_luts})",
        f"({reads.logic} and {reads.flip_flops} of one that reads,",
        f"{writes.logic} and {writes.flip_flops} of one that writes): ",
        f"{both.logic:,} logic cells and {both.flip_flops:,} registers",
        f"Four ports add {four.logic:,} and {four.flip_flops:,} ",
    ):
        assert part in page
