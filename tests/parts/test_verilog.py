# amaranth: UnusedElaboratable=no
"""hw.parts.verilog: leaves as modules of their own, checked twins, text that depends on nothing but the design."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from amaranth.hdl import Instance, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.data import StructLayout
from amaranth.lib.wiring import In, Out
from amaranth.sim import Simulator

from nmsat.hw.parts.verilog import Leaf, Port, emit, place, read_ports


class Adder(wiring.Component):
    """Registered sum with a structured output, a nested interface and a port that nothing reads."""

    a: Signal
    total: Signal

    def __init__(self, width: int = 8) -> None:
        self.width = width
        super().__init__(
            {
                "a": In(width),
                "unread": In(3),
                "total": Out(width),
                "pair": Out(StructLayout({"low": 2, "high": 5})),
                "bus": Out(wiring.Signature({"valid": Out(1), "ready": In(1)})),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        total = Signal(self.width)
        m.d.sync += total.eq(total + self.a)
        m.d.comb += self.total.eq(total)
        return m


class Inverter(wiring.Component):
    """No registers, so no clock."""

    a: Signal
    y: Signal

    def __init__(self) -> None:
        super().__init__({"a": In(4), "y": Out(4)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.d.comb += self.y.eq(~self.a)
        return m


class Pair(wiring.Component):
    """Two adders in a row."""

    a: Signal
    total: Signal

    def __init__(self, second: int = 8, name: str = "adder") -> None:
        self.second = second
        self.name = name
        super().__init__({"a": In(8), "total": Out(8)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        first, second = Adder(), Adder(self.second)
        m.submodules.first = place(first, "adder", platform, parameters=first.width)
        m.submodules.second = place(second, self.name, platform, parameters=second.width)
        m.d.comb += [first.a.eq(self.a), second.a.eq(first.total), self.total.eq(second.total)]
        return m


def emit_leaf(component: wiring.Component, name: str) -> str:
    """Return the Verilog of a component alone."""
    return emit(component, name)[f"{name}.v"]


def test_leaf_keeps_the_names_and_widths_of_its_signature() -> None:
    ports = set(read_ports(emit_leaf(Adder(), "adder"), "adder"))
    assert ports == {
        Port("clk", 1, True),
        Port("rst", 1, True),
        Port("a", 8, True),
        Port("unread", 3, True),
        Port("total", 8, False),
        Port("pair", 7, False),
        Port("bus__valid", 1, False),
        Port("bus__ready", 1, True),
    }


def test_leaf_without_registers_has_no_clock() -> None:
    assert set(read_ports(emit_leaf(Inverter(), "inverter"), "inverter")) == {Port("a", 4, True), Port("y", 4, False)}


def test_leaf_is_written_once_and_instantiated_twice() -> None:
    files = emit(Pair(), "pair")
    assert list(files) == ["pair.v", "adder.v"]
    assert re.findall(r"^  (\S+) (\S+) \($", files["pair.v"], re.MULTILINE) == [("adder", "first"), ("adder", "second")]
    assert files["adder.v"].count("endmodule") == 1


def test_different_leaves_under_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="'adder' is placed as"):
        emit(Pair(second=9), "pair")
    assert set(emit(Pair(second=9, name="adder_9"), "pair")) == {"pair.v", "adder.v", "adder_9.v"}


def test_top_named_like_a_leaf_is_refused() -> None:
    with pytest.raises(ValueError, match="'adder' is both the top and a leaf"):
        emit(Pair(), "adder")


@pytest.mark.parametrize("name", ["", "2x", "a b", "a-b", "\\a"])
def test_module_name_must_be_plain(name: str) -> None:
    with pytest.raises(ValueError, match="must be a plain Verilog identifier"):
        emit_leaf(Inverter(), name)


def test_twin_checks_name_width_and_direction() -> None:
    text = emit_leaf(Adder(), "adder")
    leaf = Leaf("adder", text, read_ports(text, "adder"))
    assert isinstance(leaf.instance(Adder()), Instance)
    with pytest.raises(ValueError, match=r"'adder': the module has input a\[8\],.* component has input a\[9\],"):
        leaf.instance(Adder(9))
    with pytest.raises(ValueError, match=r"Inverter does not fit .* component has input a\[4\], output y\[4\]"):
        leaf.instance(Inverter())


def test_ports_of_an_undefined_module_are_an_error() -> None:
    with pytest.raises(ValueError, match="does not define it"):
        read_ports(emit_leaf(Inverter(), "inverter"), "other")


def test_amaranth_simulates_the_component_itself() -> None:
    dut = Pair()
    seen: list[int] = []

    async def bench(context: Any) -> None:
        context.set(dut.a, 3)
        for _ in range(4):
            await context.tick()
            seen.append(context.get(dut.total))

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
    assert seen == [0, 3, 9, 18]


def test_text_is_the_same_for_every_hash_seed(tmp_path: Path) -> None:
    program = f"from {__name__} import Pair; from nmsat.hw.parts.verilog import emit; print(emit(Pair(), 'pair'))"
    texts: set[str] = set()
    for seed in ("1", "4242"):
        env = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join([*sys.path, str(Path.cwd())])}
        run = subprocess.run(
            [sys.executable, "-c", program], cwd=tmp_path, env=env, check=True, capture_output=True, text=True
        )
        texts.add(run.stdout)
    assert texts == {f"{emit(Pair(), 'pair')}\n"}
