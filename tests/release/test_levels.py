"""hw.release.levels: levels and fan-outs of netlists that are small enough to be followed by hand."""

from __future__ import annotations

import pytest

from nmsat.hw.release.levels import LeafModel, LoopError, analyse
from nmsat.hw.release.netlist import Bit, Cell, Netlist

NAMES = {2: "in", 3: "a", 9: "b", 20: "clk"}


def lut(name: str, inputs: list[Bit], out: Bit) -> Cell:
    pins = {f"I{i}": [bit] for i, bit in enumerate(inputs)}
    return Cell(name, f"LUT{len(inputs)}", {**pins, "O": [out]})


def register(name: str, data: Bit, out: Bit, reset: Bit = "0", enable: Bit = "1") -> Cell:
    return Cell(name, "FDRE", {"C": [20], "D": [data], "Q": [out], "R": [reset], "CE": [enable]})


def netlist(
    *cells: Cell, inputs: dict[str, list[Bit]] | None = None, outputs: dict[str, list[Bit]] | None = None
) -> Netlist:
    return Netlist("leaf", {}, inputs or {}, outputs or {}, cells, NAMES)


def test_path_is_counted_by_hand() -> None:
    """Register, table, inverter, two carry blocks, MUXF7, table, register: 2 tables and 3 tenths."""
    found = analyse(
        netlist(
            register("start", "0", 3),
            lut("first", [3, 2], 4),
            Cell("inverter", "INV", {"I": [4], "O": [5]}),
            Cell(
                "low",
                "CARRY4",
                {"S": [5, "0", "0", "0"], "DI": ["0"] * 4, "CI": ["0"], "CO": [30, 31, 32, 6], "O": [33]},
            ),
            Cell("high", "CARRY4", {"S": ["0"] * 4, "DI": ["0"] * 4, "CI": [6], "O": [7, 34, 35, 36]}),
            Cell("choice", "MUXF7", {"I0": [7], "I1": ["0"], "S": ["1"], "O": [8]}),
            lut("last", [8], 10),
            register("end", 10, 9),
        ),
        {},
        above=0,
    )
    assert found.path is not None
    assert (found.path.levels, found.path.begin, found.path.end) == (2.3, "a", "b")


def test_carry_does_not_lead_downwards() -> None:
    """Bit 3 of an adder feeds a table whose result is bit 0 of another; bit 0 does not depend on bit 3 of its own."""
    block = {"S": [3, "0", "0", 11], "DI": ["0"] * 4, "CI": ["0"], "CO": [30, 31, 32, 33], "O": [10, 34, 35, 36]}
    found = analyse(
        netlist(register("r", "0", 3), lut("t", [10], 11), Cell("c", "CARRY4", block), register("e", 36, 9)),
        {},
        above=0,
    )
    assert found.path is not None
    assert found.path.levels == pytest.approx(1.2)


def test_multipliers_and_block_ram_end_paths_and_distributed_ram_is_a_level() -> None:
    ram = {"ADDRA": [3], "ADDRH": [6], "DIA": [5], "DOA": [4], "WE": ["1"], "WCLK": [20]}
    cells = [register("r", "0", 3), Cell("m", "RAM32M16", ram), lut("t", [4], 7)]
    ended = analyse(
        netlist(*cells, Cell("d", "DSP48E2", {"A": [7], "P": [8]}), lut("u", [8], 12), register("e", 12, 9)), {}, 0
    )
    assert ended.path is not None
    assert ended.path.levels == 2.0
    write_address = analyse(netlist(lut("w", [3], 6), register("r", "0", 3), cells[1]), {}, 0)
    assert write_address.path is not None
    assert write_address.path.levels == 1.0


def test_paths_and_fanouts_go_through_leaves() -> None:
    """A leaf with a table from port to port, one register behind another table, and a net that passes straight."""
    inner = netlist(
        lut("t", [2], 4),
        lut("u", [2], 5),
        register("r", 5, 6, reset=7),
        register("s", 6, 8, reset=7),
        inputs={"x": [2], "rst": [7], "clk": [20]},
        outputs={"y": [4], "rst_out": [7], "z": [8]},
    )
    model = analyse(inner, {}, 0).model
    assert model.through == {("x", 0): [(("y", 0), 10)], ("rst", 0): [(("rst_out", 0), 0)]}
    assert (model.into["x", 0], model.out["z", 0]) == (10, 0)
    outer = netlist(
        register("start", "0", 3),
        register("reset", "0", 13),
        Cell("one", "inner", {"x": [3], "rst": [13], "clk": [20], "y": [10], "rst_out": [14]}),
        Cell("two", "inner", {"x": [10], "rst": [14], "clk": [20], "y": [11]}),
        register("own", 11, 12, reset=14),
    )
    found = analyse(outer, {"inner": model}, above=2)
    assert found.path is not None
    assert (found.path.levels, found.path.begin) == (2.0, "a")
    assert [(net.name, net.sinks) for net in found.nets] == [
        ("net 13", {"reset": 5}),
    ]
    assert analyse(outer, {"inner": model}, above=5).nets == ()


def test_pins_are_told_apart_and_clocks_left_out() -> None:
    cells = [register(f"r{i}", 3, 40 + i, reset=6, enable=7) for i in range(3)]
    found = analyse(netlist(*cells, register("c", "0", 3), lut("e", [3], 7)), {}, above=1)
    assert {net.name: net.sinks for net in found.nets} == {
        "a": {"data": 4},
        "net 6": {"reset": 3},
        "net 7": {"enable": 3},
    }


def test_loops_and_unknown_cells_are_errors() -> None:
    with pytest.raises(LoopError, match=r"module 'leaf' has a loop without a register: .*net 4"):
        analyse(netlist(lut("a", [5], 4), lut("b", [4], 5)), {}, 0)
    with pytest.raises(ValueError, match="cell 'x' is a 'LUT7'"):
        analyse(netlist(Cell("x", "LUT7", {"O": [2]})), {}, 0)


def test_leaf_without_logic_has_no_path() -> None:
    found = analyse(netlist(Cell("one", "inner", {"x": [3]})), {"inner": LeafModel()}, 0)
    assert found.path is None
