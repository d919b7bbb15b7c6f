"""The simulator's values against a second implementation that shares nothing with it (`tests.machine.oracle`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from nmsat.dataflow.contract import walks
from nmsat.dataflow.contract.config import SatConfig, preset
from nmsat.dataflow.contract.isa import Instruction, Opcode, Side
from nmsat.dataflow.contract.legal import check as check_legal
from nmsat.sim.parts.walk import Walk as SimWalk
from nmsat.sim.values import State, execute
from nmsat.tb.machine.jobs import MachineJob, random_job
from tests.machine.oracle import Oracle, to32
from tests.machine.oracle import walk as oracle_walk

if TYPE_CHECKING:
    from collections.abc import Callable

TINY = preset("tiny")
TWO_LANES = SatConfig(name="lanes", rows=4, columns=8, act_lanes=2)
STEPS = 150_000
"""Multiply-adds of the largest program that is run by hand here: about a second."""


def steps(config: SatConfig, job: MachineJob) -> int:
    found = 0
    for f in job.code.instructions:
        if f.opcode.name == "COMPUTE":
            found += f["windows"] * (f["n_less_1"] + 1) * 8 * config.rows * config.columns
    return found


def check(config: SatConfig, seed: int) -> set[str]:
    """Compare memory and flags; return what the program has met."""
    job = random_job(config, seed)
    regions = [bytearray(region.tobytes()) for region in job.image.regions]
    oracle = Oracle(config.rows, config.columns, config.act_lanes, config.stage_depth, regions)
    state = State(config, job.image.regions)
    met = set()
    for instruction in job.code.instructions:
        oracle.run(instruction.opcode.name, instruction.values())
        execute(instruction, state)
        met.add(instruction.opcode.name)
        met |= {name for name in ("staged", "seed", "use_bp", "use_mask", "relu", "pad") if instruction[name]}
    for number, (mine, theirs) in enumerate(zip(regions, state.regions, strict=True)):
        places = np.flatnonzero(np.frombuffer(bytes(mine), np.uint8) != theirs)
        assert not places.size, f"seed {seed} ({job.what}): region {number} differs at {places[0]:#x}"
    assert (oracle.special, oracle.overflow) == (state.special, state.overflow), f"seed {seed} ({job.what})"
    return met


def quick(config: SatConfig, first: int, count: int) -> list[int]:
    """Return seeds of programs that the oracle runs in about a second each."""
    found: list[int] = []
    seed = first
    while len(found) < count:
        if steps(config, random_job(config, seed)) <= STEPS:
            found.append(seed)
        seed += 1
    return found


def test_random_programs() -> None:
    """Programs of tiny that are quick and meet all that the set below names."""
    met = {name for seed in (107, 115, 118, 127, 133, 134, 142) for name in check(TINY, seed)}
    assert {"LOAD_ACT", "LOAD_WGT", "COMPUTE", "STORE", "UPDATE", "STAGE"} <= met
    assert {"staged", "seed", "use_bp", "use_mask", "relu", "pad"} <= met


def fresh_oracle(regions: list[bytearray]) -> Oracle:
    return Oracle(TINY.rows, TINY.columns, TINY.act_lanes, TINY.stage_depth, regions)


def run(f: Instruction, regions: list[np.ndarray], prepare: Callable[[State, Oracle], None]) -> tuple[State, Oracle]:
    """Carry out one instruction on both; their memory and flags must agree."""
    copies = [bytearray(region.tobytes()) for region in regions]
    oracle = fresh_oracle(copies)
    state = State(TINY, [region.copy() for region in regions])
    prepare(state, oracle)
    oracle.run(f.opcode.name, f.values())
    execute(f, state)
    for mine, theirs in zip(copies, state.regions, strict=True):
        assert bytes(mine) == theirs.tobytes()
    assert (oracle.special, oracle.overflow) == (state.special, state.overflow)
    return state, oracle


@pytest.mark.parametrize(
    ("result", "fields", "special"),
    [
        (-np.inf, {"relu": 1}, False),  # what is written is +0
        (-np.inf, {}, True),
        (np.inf, {"relu": 1}, True),
        (np.nan, {"relu": 1}, True),
        (65520.0, {}, True),  # infinite once it is rounded
        (65520.0, {"to_half": 0}, False),
        (np.inf, {"side": 1}, False),  # the mask is 0
        (np.inf, {"watch": 0}, False),
        (65504.0, {}, False),
        (-0.0, {"relu": 1}, False),
        (np.inf, {"side": 1, "side_at": 1}, True),  # the mask is 1
    ],
)
def test_watch_looks_at_what_is_written(result: float, fields: dict[str, int], special: bool) -> None:
    def prepare(state: State, oracle: Oracle) -> None:
        state.capture[0, 0] = result
        oracle.capture[0, 0] = to32(result)

    f = {"rows": 1, "columns": 1, "to_half": 1, "watch": 1, "side_region": 1, **fields}
    regions = [np.full(128, 0xFF, np.uint8), np.zeros(128, np.uint8)]
    regions[1][65] = 0x3C
    state, _ = run(Instruction(Opcode.STORE, f), regions, prepare)
    assert state.special == special


def test_a_watch_that_finds_nothing_lowers_nothing() -> None:
    def prepare(state: State, oracle: Oracle) -> None:
        state.capture[0, 0], oracle.capture[0, 0] = 1, to32(1)
        state.special = oracle.special = True

    f = {"rows": 1, "columns": 1, "watch": 1}
    state, _ = run(Instruction(Opcode.STORE, f), [np.zeros(64, np.uint8)], prepare)
    assert state.special


@pytest.mark.parametrize("hold", [False, True])
def test_an_update_that_is_held(hold: bool) -> None:
    rng = np.random.default_rng(4)
    memory = rng.integers(0, 256, 64 * 64, np.uint8)
    words = memory.view(np.uint32)
    words[:512] &= 0xBFFF_FFFF  # weights and momenta below 2 in size
    fields = {"k": 13, "n": 9, "use_bp": 1, "use_mask": 1, "g_step": 1, "g_at": 32, "mask_at": 46, "ff_at": 48}
    fields |= {"bp_at": 56, "ff_log2_m_less_1": 2, "bp_log2_m_less_1": 1, "bp_n_less_1": 1, "shift": 3}
    fields |= {name: 0x3C00_0000 + 0x4_0000 * i for i, name in enumerate(("lr", "mu", "wd", "lam"))}

    def prepare(state: State, oracle: Oracle) -> None:
        state.special = oracle.special = hold

    state, _ = run(Instruction(Opcode.UPDATE, fields), [memory], prepare)
    same = (state.words(0)[:13, :9] == words.reshape(-1, 16)[:13, :9]).mean()
    assert (same == 1.0) == hold


@pytest.mark.parametrize("first", [0x7C00, 0x7E00, 0xFC00])
def test_an_overflow_stays_when_a_later_update_has_none(first: int) -> None:
    memory = np.zeros(64 * 16, np.uint8)
    halves = memory.view(np.uint16)
    halves[:32], halves[32:64] = first, 0x3C00  # gradients of the first and of the second
    places = {"w_at": 2, "mask_at": 4, "ff_at": 6}
    works = [Instruction(Opcode.UPDATE, {"k": 1, "n": 1, "g_at": at, **places}) for at in (0, 1)]

    for order, flags in (((0, 1), [True, True]), ((1, 0, 1), [False, True, True])):
        state, oracle = State(TINY, [memory.copy()]), fresh_oracle([bytearray(memory.tobytes())])
        for number, flag in zip(order, flags, strict=True):
            oracle.run("UPDATE", works[number].values())
            execute(works[number], state)
            assert (state.overflow, oracle.overflow) == (flag, flag)


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("result", [np.inf, -np.inf])
def test_a_sum_that_is_no_number_is_the_canonical_nan(result: float, half: bool) -> None:
    """An infinity and that of the other sign, as second operands of either width: x86 gives a NaN with a sign."""

    def prepare(state: State, oracle: Oracle) -> None:
        state.capture[0, 0] = result
        oracle.capture[0, 0] = to32(result)

    for side, bits in ((Side.TILE16, 0x7C00), (Side.TILE32, 0x7F800000)):
        other = bits | (result > 0) << (31 if side is Side.TILE32 else 15)
        regions = [np.zeros(64, np.uint8), np.zeros(64, np.uint8)]
        regions[1][:4] = np.frombuffer(other.to_bytes(4, "little"), np.uint8)
        f = {"rows": 1, "columns": 1, "side": side, "side_region": 1, "to_half": int(half)}
        state, _ = run(Instruction(Opcode.STORE, f), regions, prepare)
        found = state.regions[0].view(np.uint16 if half else np.uint32)[0]
        assert found == (0x7E00 if half else 0x7FC00000)


@pytest.mark.parametrize("packed", [False, True])
def test_fillers_meet_an_infinity(packed: bool) -> None:
    """Fillers of padding, or of memory, which point at place 0, behind the weights: 0 x infinity must not appear."""
    memory = np.zeros(64 * 16, np.uint8)
    memory.view(np.uint16)[:2] = 0x7C00, 0x3C00  # activations of a row: infinity and 1
    beats = memory.view(np.uint32 if packed else np.uint16).reshape(16, -1)
    beats[1, :4] = 0x4000  # weights of k = 0
    beats[2] = 1 << 20 if packed else 0
    rows = {"inner": 2, "inner_step": 1} if packed else {"dense": 1, "inner": 1, "pad": 1}
    code = (
        Instruction(Opcode.LOAD_ACT, {"rows": 1, "k": 2}),
        Instruction(Opcode.LOAD_WGT, {"blocks": 1, "outer": 1, "at": 1, **rows}),
        Instruction(Opcode.COMPUTE, {"n_less_1": 1, "windows": 1}),
        Instruction(Opcode.STORE, {"rows": 1, "columns": 4, "at": 3}),
    )
    mine = bytearray(memory.tobytes())
    oracle, state = fresh_oracle([mine]), State(TINY, [memory])
    for f in code:
        oracle.run(f.opcode.name, f.values())
        execute(f, state)
    assert state.words(0)[3, :4].view(np.float32).tolist() == [np.inf] * 4
    assert bytes(mine) == state.regions[0].tobytes()


def test_the_staging_buffer_wraps() -> None:
    memory = np.random.default_rng(5).integers(0, 256, 64 * 64, np.uint8)
    last = TINY.stage_depth - 1
    f = {"outer": 3, "inner": 2, "outer_step": 7, "at": 1, "base": last}
    state, oracle = run(Instruction(Opcode.STAGE, f), [memory], lambda *_: None)
    for place in (last, 0, 1, 2, 3, 4):
        assert state.stage[place].tolist() == oracle.stage[place]
    assert state.stage[0].tolist() == memory.view(np.uint16).reshape(-1, 32)[2].tolist()
    assert not state.stage[5:last].any()


@pytest.mark.long
@pytest.mark.parametrize("config", [TINY, preset("small"), TWO_LANES], ids=lambda config: config.name)
def test_many_random_programs(config: SatConfig) -> None:
    met = {name for seed in quick(config, 2_000, 60) for name in check(config, seed)}
    assert {"staged", "use_bp", "use_mask", "relu", "pad"} <= met


def random_walk(rng: np.random.Generator) -> dict[str, int]:
    """Return a legal LOAD_ACT of one beat per row with any walk: small pictures, so that lines and images end."""
    width, height = int(rng.integers(6)), int(rng.integers(1, 5))
    signed = {name: int(rng.integers(-9, 9)) for name in ("x_step", "y_step", "image_step", "ix0", "iy0")}
    inside = {name: int(rng.integers(-2, 3)) for name in ("ix_line", "iy_image")}
    sizes = {name: int(rng.integers(5)) for name in ("ix_step", "iy_step", "in_width", "in_height")}
    first = {"x0": int(rng.integers(max(width, 1))), "y0": int(rng.integers(height)), "width": width, "height": height}
    places = {name: int(rng.integers(2**34)) for name in ("at", "line_at", "image_at")}
    return {**signed, **inside, **sizes, **first, **places, "rows": 4, "k": 32, "windowed": int(rng.integers(4) > 0)}


def test_walks_are_those_of_the_page() -> None:
    """All at once (values, what a program touches), step by step (cycles) and as the page says (width 0 too)."""
    rng = np.random.default_rng(3)
    endless = 0
    for _ in range(400):
        load = Instruction(Opcode.LOAD_ACT, random_walk(rng))
        check_legal(load, TINY)
        wanted = list(oracle_walk(load.values(), "", 40, bool(load["windowed"])))
        steps = walks.walk(load, 40)
        assert [(int(at), bool(inside)) for at, inside in zip(steps.offset, steps.inside, strict=True)] == wanted, load
        model, found = SimWalk({**load.values(), "width": load["width"] * load["windowed"]}), []
        for _ in range(40):
            found.append((model.offset, model.inside))
            model.advance()
        assert found == wanted, load
        endless += load["windowed"] and load["width"] == 0
    assert endless > 20
