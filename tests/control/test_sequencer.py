"""Sequencer: RTL against the model; the rules of legal instructions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from amaranth.sim import Simulator

from nmsat.dataflow.contract.config import SatConfig, preset
from nmsat.dataflow.contract.isa import INSTRUCTIONS, ErrorCode, Instruction, Opcode
from nmsat.dataflow.contract.legal import check, check_machine, error_code, products, rules
from nmsat.dataflow.contract.registers import Launch, Region
from nmsat.hw.control.fetch import Check
from nmsat.hw.control.sequencer import Sequencer
from nmsat.hw.parts.rule_inputs import late_rules
from nmsat.hw.parts.verilog import emit
from nmsat.sim.control.fetch import Words
from nmsat.sim.control.sequencer import Sequencer as Model
from nmsat.tb.machine.jobs import random_job
from nmsat.tb.run.runner import build, run
from tests.benches import in_amaranth

TINY = preset("tiny")
TWO_LANES = TINY.replace(name="two lanes", act_lanes=2)


def check_rtl(runs: int, seed: int) -> dict[str, int]:
    built = build(emit(Sequencer(TINY), "sat_sequencer"), "sat_sequencer")
    config = {"name": "x", "rows": 4, "columns": 4, "act_depth": 2048, "weight_depth": 2048, "sum_depth": 1024}
    return (
        run(built, "nmsat.tb.control.bench_sequencer", job={"config": config, "runs": runs}, seed=seed)
        .check()
        .saved["ends"]
    )


@pytest.mark.rtl
def test_rtl_against_model() -> None:
    ends = check_rtl(60, seed=6)
    assert ends["NONE"] >= 10
    assert {"FIELD", "DEADLOCK", "NO_END", "SEMAPHORE", "READ", "REGION"} <= set(ends)


@pytest.mark.rtl
@pytest.mark.long
def test_rtl_against_model_long() -> None:
    assert set(check_rtl(1_000, seed=2)) == {code.name for code in ErrorCode}


LEGAL = {
    Opcode.LOAD_ACT: {"rows": 32, "k": 64, "log2_a": 3, "log2_m_less_1": 0, "base": 2048 - 512},
    Opcode.LOAD_WGT: {"blocks": 1, "outer": 4, "inner": 8, "log2_a": 1, "pad": 3, "base": 2048 - 140},
    Opcode.STAGE: {"outer": 8, "inner": 64, "base": 511},
    Opcode.COMPUTE: {"windows": 8, "n_less_1": 1, "log2_m_less_1": 2, "log2_a": 1, "capture": 1024 - 32},
    Opcode.STORE: {"rows": 8, "columns": 16, "log2_a": 1, "capture": 1024 - 32, "lane": 12},
    Opcode.UPDATE: {"k": 1, "n": 1, "shift": 24},
    Opcode.END: {},
}

ILLEGAL = [
    (Opcode.LOAD_ACT, {"rows": 33}, "rows <= a R"),
    (Opcode.LOAD_ACT, {"rows": 0}, "rows >= 1"),
    (Opcode.LOAD_ACT, {"k": 0}, "k >= 1"),
    (Opcode.LOAD_ACT, {"mode": 3}, "mode <= 2"),
    (Opcode.LOAD_ACT, {"log2_m_less_1": 1}, "a M <= 16"),
    (Opcode.LOAD_ACT, {"base": 2048 - 511}, "act_depth"),
    (Opcode.LOAD_ACT, {"k": 65}, "act_depth"),
    (Opcode.LOAD_ACT, {"mode": 2, "k": 9}, "k <= R M"),
    (Opcode.LOAD_ACT, {"mode": 2, "k": 8, "base": 2048 - 63}, "WS: base and operands"),
    (Opcode.LOAD_ACT, {"windowed": 1, "width": 3, "x0": 3, "height": 1}, "x0 < width"),
    (Opcode.LOAD_ACT, {"windowed": 1, "width": 3, "height": 0}, "y0 < height"),
    (Opcode.LOAD_WGT, {"inner": 0}, "inner >= 1"),
    (Opcode.LOAD_WGT, {"outer": 0}, "outer >= 1"),
    (Opcode.LOAD_WGT, {"blocks": 0}, "blocks >= 1"),
    (Opcode.LOAD_WGT, {"blocks": 2}, "lane and beats"),
    (Opcode.LOAD_WGT, {"dense": 1, "blocks": 2}, "dense: blocks is 1"),
    (Opcode.LOAD_WGT, {"log2_a": 2, "lane": 4}, "lane and beats"),
    (Opcode.LOAD_WGT, {"dense": 1, "inner": 1, "lane": 8}, "lane and beats"),
    (Opcode.LOAD_WGT, {"pad": 4}, "weight_depth"),
    (Opcode.LOAD_WGT, {"dense": 1, "inner": 1, "base": 2048 - 27}, "dense: base and pairs"),
    (Opcode.STAGE, {"inner": 0}, "inner >= 1"),
    (Opcode.STAGE, {"outer": 0}, "outer >= 1"),
    (Opcode.STAGE, {"inner": 65}, "stage_depth"),
    (Opcode.STAGE, {"base": 512}, "base < stage_depth"),
    (Opcode.COMPUTE, {"n_less_1": 8}, "N <= M"),
    (Opcode.COMPUTE, {"windows": 0}, "windows >= 1"),
    (Opcode.COMPUTE, {"log2_a": 2}, "a M <= 16"),
    (Opcode.COMPUTE, {"ws": 1, "n_less_1": 4}, "N b <= 16"),
    (Opcode.COMPUTE, {"act_base": 2048 - 127}, "act_depth"),
    (Opcode.COMPUTE, {"wgt_base": 2048 - 63}, "weight_depth"),
    (Opcode.COMPUTE, {"ws": 1, "wgt_base": 2048 - 31, "capture": 0}, "WS: wgt_base"),
    (Opcode.COMPUTE, {"ws": 1, "capture": 1024 - 63}, "sum_depth"),
    (Opcode.COMPUTE, {"capture": 1024 - 31}, "sum_depth"),
    (Opcode.STORE, {"rows": 9}, "rows <= a R"),
    (Opcode.STORE, {"rows": 0}, "rows >= 1"),
    (Opcode.STORE, {"columns": 0}, "columns >= 1"),
    (Opcode.STORE, {"columns": 17}, "columns <= b C"),
    (Opcode.STORE, {"lane": 6}, "multiple of C"),
    (Opcode.STORE, {"lane": 16}, "lane < 16"),
    (Opcode.STORE, {"capture": 1024 - 31}, "sum_depth"),
    (Opcode.STORE, {"ws": 1, "rows": 9}, "sum_depth"),
    (Opcode.STORE, {"width": 2, "height": 2, "x0": 2}, "x0 < width"),
    (Opcode.STORE, {"width": 2, "height": 2, "y0": 2}, "y0 < height"),
    (Opcode.UPDATE, {"k": 0}, "k >= 1"),
    (Opcode.UPDATE, {"n": 0}, "n >= 1"),
    (Opcode.UPDATE, {"shift": 25}, "shift <= 24"),
    (Opcode.UPDATE, {"ff_n_less_1": 2}, "W_ff: N <= M"),
    (Opcode.UPDATE, {"bp_n_less_1": 2}, "W_bp: N <= M"),
    (Opcode.END, {"signal": 1}, "wait and signal"),
    (Opcode.END, {"zero": 1}, "spare bits"),
]


@pytest.mark.parametrize("opcode", list(LEGAL))
def test_instructions_at_the_limit_are_legal(opcode: Opcode) -> None:
    instruction = Instruction(opcode, LEGAL[opcode])
    check(instruction, TINY)
    assert error_code(instruction.encode(), TINY) is ErrorCode.NONE


@pytest.mark.parametrize(("opcode", "changes", "rule"), ILLEGAL)
def test_each_rule_is_found(opcode: Opcode, changes: dict[str, int], rule: str) -> None:
    instruction = Instruction(opcode, {**LEGAL[opcode], **changes})
    with pytest.raises(ValueError, match=rule):
        check(instruction, TINY)
    assert error_code(instruction.encode(), TINY) is ErrorCode.FIELD


@pytest.mark.parametrize("opcode", list(Opcode))
def test_every_rule_has_an_instruction_that_breaks_it(opcode: Opcode) -> None:
    kept = broken_rules(opcode, {})
    assert {rule for rule, broken in kept.items() if broken} == set()
    cases = [broken_rules(opcode, changes) for other, changes, _ in ILLEGAL if other is opcode]
    found = {rule for case in cases for rule, broken in case.items() if broken}
    assert found >= kept.keys() - {"spare bits are 0"}  # one text for all, broken by an END


def broken_rules(opcode: Opcode, changes: dict[str, int]) -> dict[str, bool]:
    """Return rule -> whether the legal example with these changes breaks it."""
    fields = Instruction(opcode, {**LEGAL[opcode], **changes}).values()
    return {rule: not holds for rule, holds in rules(opcode, fields, products(opcode, fields), TINY).items()}


def test_the_first_of_several_errors() -> None:
    """Read port, write port, then what the sequencer itself has found; memory's belong to the engine's oldest."""
    settings = Launch((Region(0, 64, writable=True),), 0, 0, 0)
    model = Model(settings, Words(TINY, []))
    model.tick(True, False, False, -1, (), 0)
    read, write = (ErrorCode.READ, 0), (ErrorCode.WRITE, 0)
    assert model.failure(None, None) == (ErrorCode.NO_END, 0)
    assert model.failure(None, write) == (ErrorCode.WRITE, 0)
    assert model.failure(read, write) == model.failure(read, None) == (ErrorCode.READ, 0)
    full = Model(settings, Words(TINY, [0]))
    full._own = (ErrorCode.DEADLOCK, 7)
    full._values[3] = 256
    full._overflow([(1 << 3, 5)])
    assert full.failure(None, None) == (ErrorCode.SEMAPHORE, 5)
    full._own = (ErrorCode.FIELD, 2)
    full._values[3] = 256
    full._overflow([(1 << 3, 5)])
    assert full.failure(None, None) == (ErrorCode.FIELD, 2)


def test_unknown_opcodes() -> None:
    unknown = set(range(16)) - set(Opcode)
    assert 0 in unknown
    assert {error_code(code, TINY) for code in unknown} == {ErrorCode.OPCODE}


def test_machines_have_sides_of_powers_of_two_and_lanes_of_a_beat() -> None:
    with pytest.raises(ValueError, match="rows is 6"):
        check_machine(TINY.replace(rows=6))
    with pytest.raises(ValueError, match="columns is 64"):
        check_machine(TINY.replace(columns=64))
    with pytest.raises(ValueError, match="wuve_lanes is 32; the machine in RTL is built for 1, 2, 4, 8 or 16"):
        check_machine(TINY.replace(wuve_lanes=32))


def words_at_the_limit(config: SatConfig, rng: np.random.Generator) -> list[int]:
    """Return instructions of random jobs, and the same with one field changed."""
    found = {i.encode() for seed in range(12) for i in random_job(config, seed).code.instructions[:20]}
    for a in (2, 3):  # columns mode at the end of the buffer: a round of array rows more or less
        rows, words_of_k = config.rows << a, 8 * (2 << a) // config.act_lanes
        for taken in (32, rows // 2, rows):
            for ahead in range(4):
                base = config.act_depth - words_of_k + ahead * (2 // config.act_lanes)
                fields = {"mode": 1, "log2_a": a, "rows": max(1, taken), "k": 16, "base": base}
                found.add(Instruction(Opcode.LOAD_ACT, fields).encode())
    words = sorted(found)
    for word in sorted(found):
        layout = INSTRUCTIONS[Opcode(word & 15)]
        fields = layout.unpack(word)
        for _ in range(3):
            name = str(rng.choice(list(fields)[1:]))
            field, value = layout.by_name[name], fields[name]
            anything = field.value(int(rng.integers(1 << 62)) & ((1 << field.bits) - 1))
            choices = (0, 1, field.low, field.high, value ^ 1, min(value + 1, field.high), anything)
            words.append(layout.pack(**{**fields, name: choices[int(rng.integers(len(choices)))]}))
    return words


@pytest.mark.parametrize("config", [TINY, TWO_LANES, preset("vcu1525")], ids=lambda config: config.name)
def test_circuit_checks_as_the_model(config: SatConfig) -> None:
    dut = Check(config)
    words = words_at_the_limit(config, np.random.default_rng(5))
    wrong = []

    async def play(ctx: Any) -> None:
        for word in words:
            ctx.set(dut.word, word)
            await ctx.tick().repeat(2)
            if ctx.get(dut.code) != error_code(word, config):
                wrong.append(Instruction.decode(word))

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(play)
    simulator.run()
    assert not wrong
    assert sum(error_code(word, config) is ErrorCode.FIELD for word in words) > 40


@pytest.mark.parametrize("config", [TINY, TWO_LANES, preset("vcu1525")], ids=lambda config: config.name)
def test_rules_that_look_at_products_are_known(config: SatConfig) -> None:
    """The others say the same whatever the products are; these do not."""
    rng = np.random.default_rng(7)
    for opcode, late in late_rules(config).items():
        moved: set[str] = set()
        for _ in range(400):
            word = int.from_bytes(rng.bytes(64), "little")
            fields = INSTRUCTIONS[opcode].unpack(word)
            fields |= {name: 0 for name in fields if rng.random() < 0.5}
            found = [
                rules(opcode, fields, dict.fromkeys(products(opcode, fields), size), config)
                for size in (0, 1 << 20)
            ]
            moved |= {name for name in found[0] if bool(found[0][name]) != bool(found[1][name])}
        assert moved == late, opcode


@pytest.mark.long
def test_in_amaranths_simulator() -> None:
    """A little of the bench, for faults that are planted (`make mutate`)."""
    with in_amaranth(__name__):
        assert {"SEMAPHORE", "NO_END", "DEADLOCK"} <= set(check_rtl(60, seed=6))
