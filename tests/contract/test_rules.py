"""Each rule of `legal` from both sides: the last value that is legal, and the first that breaks this rule and no other.

So a rule that is deleted, or moved by one, fails here.
"""

from __future__ import annotations

import pytest

from nmsat.dataflow.contract.config import SatConfig, preset
from nmsat.dataflow.contract.isa import INSTRUCTIONS, Instruction, Opcode
from nmsat.dataflow.contract.legal import products, rules

TINY, SMALL = preset("tiny"), preset("small")
LANES = SatConfig(name="lanes", rows=4, columns=8, act_lanes=2, act_depth=2048)

Edge = tuple[str, dict[str, int], dict[str, int], str, SatConfig]


def edge(opcode: str, legal: str, broken: str, rule: str, config: SatConfig = TINY) -> Edge:
    """legal, broken: fields as text; broken changes the legal ones."""
    values = [
        {name: int(value) for name, value in (part.split("=") for part in text.split())} for text in (legal, broken)
    ]
    return opcode, values[0], {**values[0], **values[1]}, rule, config


WIN = "rows=1 k=1 windowed=1 width=3 height=2 x0=2 y0=1"
WGT = "blocks=1 outer=1 inner=1"
CALC = "windows=1"
STORE = "rows=1 columns=1 to_half=1"
UPDATE = "k=1 n=1"
ACT_OS, ACT_WS = "OS: base and operands within act_depth", "WS: base and operands within act_depth"
PACKED, DENSE = "packed: base and pairs within weight_depth", "dense: base and pairs within weight_depth"
BESIDE = "lane and beats side by side within b C and the beat"
RESULTS = "capture and results within sum_depth"

EDGES = [
    edge("LOAD_ACT", "mode=2 rows=1 k=1", "mode=3", "mode <= 2"),
    edge("LOAD_ACT", "rows=1 k=1", "rows=0", "rows >= 1"),
    edge("LOAD_ACT", "rows=1 k=1", "k=0", "k >= 1"),
    edge("LOAD_ACT", "log2_a=1 rows=8 k=1", "rows=9", "OS: rows <= a R"),
    edge("LOAD_ACT", "log2_a=3 rows=32 k=1 mode=1", "rows=33", "OS: rows <= a R"),
    edge("LOAD_ACT", "mode=2 rows=9 k=1", "mode=0", "OS: rows <= a R"),
    edge("LOAD_ACT", "rows=1 k=1 log2_a=1 log2_m_less_1=2", "log2_m_less_1=3", "a M <= 16 lanes"),
    edge("LOAD_ACT", "rows=1 k=1 log2_a=1 log2_m_less_1=3", "log2_a=2", "a M <= 16 lanes", LANES),
    edge("LOAD_ACT", "mode=2 rows=1 k=8", "k=9", "WS: k <= R M"),
    edge("LOAD_ACT", "mode=2 rows=1 k=16 log2_m_less_1=1", "k=17", "WS: k <= R M"),
    edge("LOAD_ACT", "rows=1 k=16 base=2032", "base=2033", ACT_OS),
    edge("LOAD_ACT", "rows=1 k=16 base=2032", "k=17", ACT_OS),
    edge("LOAD_ACT", "rows=1 k=16 log2_a=1 base=2016", "log2_a=2", ACT_OS),
    edge("LOAD_ACT", "rows=1 k=16 base=2040", "base=2041", ACT_OS, LANES),
    edge("LOAD_ACT", "mode=1 rows=32 k=16 log2_a=3 base=1920", "base=1921", ACT_OS),
    edge("LOAD_ACT", "mode=1 rows=16 k=16 log2_a=2 base=1984", "base=1985", ACT_OS),
    edge("LOAD_ACT", "mode=1 rows=32 k=16 log2_a=3 base=3976", "base=3977", ACT_OS, SMALL),
    edge("LOAD_ACT", "mode=1 rows=32 k=16 log2_a=3 base=3976", "rows=33", ACT_OS, SMALL),
    edge("LOAD_ACT", "mode=1 rows=32 k=16 log2_a=3 base=3976", "mode=0", ACT_OS, SMALL),
    edge("LOAD_ACT", "mode=1 rows=16 k=16 log2_a=1 base=4064", "base=4065", ACT_OS, SMALL),
    edge("LOAD_ACT", "mode=2 rows=4 k=1 base=2040", "base=2041", ACT_WS),
    edge("LOAD_ACT", "mode=2 rows=4 k=1 base=2040", "rows=5", ACT_WS),
    edge("LOAD_ACT", "mode=2 rows=4 k=1 base=2044", "base=2045", ACT_WS, LANES),
    edge("LOAD_ACT", WIN, "x0=3", "windowed: x0 < width (or width is 0)"),
    edge("LOAD_ACT", WIN, "y0=2", "windowed: y0 < height (or width is 0)"),
    edge("LOAD_ACT", f"{WIN} x0=9 y0=9 width=0", "width=10", "windowed: y0 < height (or width is 0)"),
    edge("LOAD_ACT", f"{WIN} x0=9 windowed=0", "windowed=1", "windowed: x0 < width (or width is 0)"),
    edge("LOAD_WGT", WGT, "blocks=0", "blocks >= 1"),
    edge("LOAD_WGT", f"{WGT} dense=1", "blocks=2", "dense: blocks is 1"),
    edge("LOAD_WGT", WGT, "outer=0", "outer >= 1"),
    edge("LOAD_WGT", WGT, "inner=0", "inner >= 1"),
    edge("LOAD_WGT", f"{WGT} blocks=2", "blocks=3", BESIDE),
    edge("LOAD_WGT", WGT, "lane=1", BESIDE),
    edge("LOAD_WGT", f"{WGT} log2_a=1", "blocks=2", BESIDE),
    edge("LOAD_WGT", f"{WGT} log2_a=1", "lane=1", BESIDE),
    edge("LOAD_WGT", f"{WGT} log2_a=2 lane=8", "lane=4", BESIDE),
    edge("LOAD_WGT", f"{WGT} log2_a=2 lane=8", "lane=16", BESIDE),
    edge("LOAD_WGT", f"{WGT} log2_a=2 lane=8", "lane=9", BESIDE),
    edge("LOAD_WGT", f"{WGT} log2_a=2", "blocks=2", BESIDE),
    edge("LOAD_WGT", f"{WGT} log2_a=3 lane=12", "lane=14", BESIDE),
    edge("LOAD_WGT", f"{WGT} dense=1", "inner=2", BESIDE),
    edge("LOAD_WGT", f"{WGT} dense=1", "lane=16", BESIDE),
    edge("LOAD_WGT", f"{WGT} dense=1 log2_a=1 lane=16", "lane=8", BESIDE),
    edge("LOAD_WGT", f"{WGT} dense=1 log2_a=1", "inner=2", BESIDE),
    edge("LOAD_WGT", f"{WGT} dense=1 inner=2", "inner=3", BESIDE, SMALL),
    edge("LOAD_WGT", "blocks=1 outer=2 inner=2 pad=1 base=2008", "base=2009", PACKED),
    edge("LOAD_WGT", "blocks=1 outer=2 inner=2 pad=1 base=2008", "pad=2", PACKED),
    edge("LOAD_WGT", "blocks=1 outer=2 inner=2 pad=1 base=2008", "inner=3", PACKED),
    edge("LOAD_WGT", "blocks=1 outer=2 inner=2 log2_a=1 base=2032", "log2_a=0", PACKED),
    edge("LOAD_WGT", "blocks=1 outer=3 inner=2 base=2000", "base=2001", PACKED),
    edge("LOAD_WGT", f"{WGT} dense=1 pad=4 base=2008", "base=2009", DENSE),
    edge("LOAD_WGT", f"{WGT} dense=1 pad=4 base=2008", "outer=2", DENSE),
    edge("LOAD_WGT", f"{WGT} dense=1 pad=4 base=2028 log2_a=1", "log2_a=0", DENSE),
    edge("STAGE", "outer=1 inner=1", "outer=0", "outer >= 1"),
    edge("STAGE", "outer=1 inner=1", "inner=0", "inner >= 1"),
    edge("STAGE", "outer=1 inner=1 base=511", "base=512", "base < stage_depth"),
    edge("STAGE", "outer=1 inner=512", "inner=513", "beats <= stage_depth"),
    edge("STAGE", "outer=256 inner=2", "outer=257", "beats <= stage_depth"),
    edge("COMPUTE", f"{CALC} n_less_1=1", "n_less_1=2", "N <= M"),
    edge("COMPUTE", CALC, "windows=0", "windows >= 1"),
    edge("COMPUTE", f"{CALC} log2_a=1 log2_m_less_1=2", "log2_a=2", "a M <= 16 lanes"),
    edge("COMPUTE", f"{CALC} log2_a=1 log2_m_less_1=3", "log2_a=2", "a M <= 16 lanes", LANES),
    edge("COMPUTE", f"{CALC} ws=1 n_less_1=1 log2_m_less_1=1", "n_less_1=2", "WS: N b <= 16"),
    edge("COMPUTE", f"{CALC} ws=1 n_less_1=3 log2_m_less_1=1 log2_a=1", "log2_a=0", "WS: N b <= 16"),
    edge("COMPUTE", f"{CALC} act_base=2046", "act_base=2047", "act_base and operands within act_depth"),
    edge("COMPUTE", f"{CALC} log2_a=1 act_base=2044", "act_base=2045", "act_base and operands within act_depth"),
    edge("COMPUTE", f"{CALC} act_base=2046", "windows=2", "act_base and operands within act_depth"),
    edge("COMPUTE", f"{CALC} act_base=2047", "act_base=2048", "act_base and operands within act_depth", LANES),
    edge("COMPUTE", f"{CALC} wgt_base=2040", "wgt_base=2041", "OS: wgt_base and pairs within weight_depth"),
    edge("COMPUTE", f"{CALC} wgt_base=2040", "windows=2", "OS: wgt_base and pairs within weight_depth"),
    edge("COMPUTE", f"{CALC} wgt_base=2040", "n_less_1=1", "OS: wgt_base and pairs within weight_depth"),
    edge("COMPUTE", f"{CALC} ws=1 wgt_base=2016", "wgt_base=2017", "WS: wgt_base and pairs within weight_depth"),
    edge("COMPUTE", f"{CALC} ws=1 wgt_base=2016", "n_less_1=1", "WS: wgt_base and pairs within weight_depth"),
    edge("COMPUTE", f"{CALC} capture=992", "capture=993", f"OS: {RESULTS}"),
    edge("COMPUTE", "windows=2 ws=1 capture=1008", "capture=1009", f"WS: {RESULTS}"),
    edge("COMPUTE", "windows=2 ws=1 capture=1008", "windows=3", f"WS: {RESULTS}"),
    edge("STORE", STORE, "rows=0", "rows >= 1"),
    edge("STORE", STORE, "columns=0", "columns >= 1"),
    edge("STORE", f"{STORE} log2_a=3 columns=4", "columns=5", "columns <= b C"),
    edge("STORE", f"{STORE} columns=32", "columns=33", "columns <= b C"),
    edge("STORE", f"{STORE} rows=4", "rows=5", "OS: rows <= a R"),
    edge("STORE", f"{STORE} rows=5 ws=1", "ws=0", "OS: rows <= a R"),
    *(edge("STORE", f"{STORE} lane=4", f"lane={lane}", "lane is a multiple of C") for lane in (3, 5, 6)),
    edge("STORE", f"{STORE} lane=8", "lane=12", "lane is a multiple of C", SMALL),
    edge("STORE", f"{STORE} lane=12 to_half=0", "lane=16", "lane < 16 for binary32"),
    edge("STORE", f"{STORE} lane=28", "to_half=0", "lane < 16 for binary32"),
    edge("STORE", f"{STORE} capture=992", "capture=993", f"OS: {RESULTS}"),
    edge("STORE", f"{STORE} ws=1 rows=4 log2_a=1 capture=1008", "capture=1009", f"WS: {RESULTS}"),
    edge("STORE", f"{STORE} ws=1 rows=4 log2_a=1 capture=1008", "rows=5", f"WS: {RESULTS}"),
    edge("STORE", f"{STORE} width=3 height=2 x0=2 y0=1", "x0=3", "x0 < width (or width is 0)"),
    edge("STORE", f"{STORE} width=3 height=2 x0=2 y0=1", "y0=2", "y0 < height (or width is 0)"),
    edge("STORE", f"{STORE} x0=9 y0=9", "width=10", "y0 < height (or width is 0)"),
    edge("UPDATE", UPDATE, "k=0", "k >= 1"),
    edge("UPDATE", UPDATE, "n=0", "n >= 1"),
    edge("UPDATE", f"{UPDATE} shift=24", "shift=25", "shift <= 24"),
    *(edge("UPDATE", f"{UPDATE} {p}_n_less_1=1", f"{p}_n_less_1=2", f"W_{p}: N <= M") for p in ("ff", "bp")),
    *(
        edge("END", "zero=0", f"{name}={value}", "wait and signal are 0")
        for name in ("wait", "signal")
        for value in (1, 2)
    ),
    *(
        edge(opcode, legal, "zero=1", "spare bits are 0")
        for opcode, legal in (
            *(("LOAD_ACT", "rows=1 k=1"), ("LOAD_WGT", WGT), ("STAGE", "outer=1 inner=1"), ("COMPUTE", CALC)),
            *(("STORE", STORE), ("UPDATE", UPDATE), ("END", "wait=0")),
        )
    ),
]


def broken_rules(opcode: Opcode, fields: dict[str, int], config: SatConfig) -> set[str]:
    values = Instruction(opcode, fields).values()
    return {name for name, holds in rules(opcode, values, products(opcode, values), config).items() if not holds}


@pytest.mark.parametrize(("name", "legal", "broken", "rule", "config"), EDGES)
def test_both_sides_of_a_rule(
    name: str, legal: dict[str, int], broken: dict[str, int], rule: str, config: SatConfig
) -> None:
    opcode = Opcode[name]
    assert broken_rules(opcode, legal, config) == set()
    assert broken_rules(opcode, broken, config) == {rule}


@pytest.mark.parametrize("opcode", list(Opcode))
def test_no_rule_is_without_its_sides(opcode: Opcode) -> None:
    fields = dict.fromkeys(INSTRUCTIONS[opcode].by_name, 1)
    known = {rule for name, _, _, rule, _ in EDGES if name == opcode.name}
    assert set(rules(opcode, fields, products(opcode, fields), TINY)) == known
