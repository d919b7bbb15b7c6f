"""The update engine: values against algorithms, RTL against the model, cycles per row, what it refuses."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import numpy as np
import pytest

from nmsat.algorithms.core import nm
from nmsat.algorithms.core.numeric import canonical, to_half
from nmsat.algorithms.training.optim import SgdConstants, sgd_update
from nmsat.dataflow.contract.config import SatConfig, preset
from nmsat.dataflow.contract.isa import BEAT_BYTES, Instruction, Opcode
from nmsat.dataflow.contract.limits import UPDATE_BURST, UPDATE_WAITING
from nmsat.hw.parts.verilog import emit
from nmsat.hw.update.update import Updater as UpdaterRtl
from nmsat.sim.update.update import Updater
from nmsat.sim.update.values import UpdateShape, apply_update
from nmsat.tb.run.runner import Built, build, run
from nmsat.tb.update.operands import REGION_BEATS, fill, random_update
from tests.benches import run as play_bench

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

BLOCKS = ("sat_wuve_lane_4_4_2", "sat_sore_lane_1")
"""Modules that occur 16 and 32 times."""


class Reader:
    """Numbers of a region, found one by one as docs/machine/update.md describes them."""

    def __init__(self, region: NDArray[np.uint8], update: Instruction) -> None:
        self._words = region.copy()
        self._update = update
        self._k, self._n = update["k"], update["n"]

    def _at(self, beat: int, place: int, kind: type[np.generic]) -> np.generic:
        size = np.dtype(kind).itemsize
        first = beat * BEAT_BYTES + place * size
        return self._words[first : first + size].view(kind)[0]

    def _table(self, kind: type[np.generic], where: Callable[[int, int], tuple[int, int]]) -> NDArray:
        """Return [k, n] of the numbers at `where(row, column)`: beat and place in it."""
        return np.array([[self._at(*where(r, c), kind) for c in range(self._n)] for r in range(self._k)], kind)

    def master(self, momenta: bool) -> NDArray[np.float32]:
        """Return weights or momenta [k, n]."""
        first = self._update["w_at"] + (-(-self._n // 16) * self._k if momenta else 0)
        return self._table(np.float32, lambda r, c: (first + c // 16 * self._k + r, c % 16))

    def gradient(self) -> NDArray[np.float16]:
        """Return the gradient [k, n]."""
        first, step = self._update["g_at"], self._update["g_step"]
        return self._table(np.float16, lambda r, c: (first + r * step + c // 32, c % 32))

    def mask(self) -> NDArray[np.bool_]:
        """Return the mask of W_ff [k, n]."""
        m = 2 << self._update["ff_log2_m_less_1"]
        groups, first = -(-self._k // m), self._update["mask_at"]
        words = self._table(np.uint16, lambda r, c: (first + c // 16 * groups + r // m, c % 16))
        return (words >> (np.arange(self._k) % m)[:, None] & 1).astype(np.bool_)

    def pair(self, beat: int, place: int) -> tuple[int, int, bool]:
        """Return binary16 bits, index and filler of a pair."""
        word = int(self._at(beat, place, np.uint32))
        assert word >> 21 == 0
        return word & 0xFFFF, word >> 16 & 15, bool(word >> 20)


def expected_pairs(packed: nm.Packed, group: int, slot: int, column: int) -> tuple[int, int, bool]:
    place = (group, slot, column)
    return int(packed.values.view(np.uint16)[place]), int(packed.index[place]), bool(packed.filler[place])


def check_copies(found: Reader, update: Instruction, half: NDArray[np.float16]) -> None:
    """Compare W_ff and W_bp pair by pair with the packed forms of the algorithm."""
    k, n = half.shape
    ff = nm.pack(half, update["ff_n_less_1"] + 1, 2 << update["ff_log2_m_less_1"])
    bp = nm.pack(half, update["bp_n_less_1"] + 1, 2 << update["bp_log2_m_less_1"], axis=1)
    beat = update["ff_at"]
    for block in range(-(-n // 16)):
        for group in range(ff.groups):
            for slot in range(ff.n):
                for c in range(16 * block, min(n, 16 * block + 16)):
                    assert found.pair(beat, c % 16) == expected_pairs(ff, group, slot, c)
                beat += 1
    if not update["use_bp"]:
        return
    beat = update["bp_at"]
    for block in range(-(-n // 16)):
        groups = range(16 * block // bp.m, min(bp.groups, (16 * block + 16) // bp.m))
        for rows in range(-(-k // 16)):
            for group in groups:
                for slot in range(bp.n):
                    for r in range(16 * rows, min(k, 16 * rows + 16)):
                        assert found.pair(beat, r % 16) == expected_pairs(bp, group, slot, r)
                    beat += 1


@pytest.mark.parametrize("seed", range(8))
def test_memory_holds_what_the_algorithm_says(seed: int) -> None:
    rng = np.random.default_rng(seed)
    update = random_update(rng, 40, 50)
    memory = [np.zeros(REGION_BEATS * BEAT_BYTES, np.uint8) for _ in range(2)]
    fill(memory, update, rng)
    before = Reader(memory[update["region"]], update)
    w, v, g, hold = before.master(False), before.master(True), before.gradient(), seed == 3
    lr, mu, wd, lam = (float(np.uint32(update[name]).view(np.float32)) for name in ("lr", "mu", "wd", "lam"))
    mask = before.mask() if update["use_mask"] else None
    new_w, new_v = sgd_update(w, v, g, SgdConstants(lr, mu, wd, lam, update["shift"]), mask)
    stays = np.full(g.shape, hold) | ~np.isfinite(g)
    new_w, new_v = np.where(stays, canonical(w.copy()), new_w), np.where(stays, v, new_v)

    overflow = apply_update(update, memory, hold)

    after = Reader(memory[update["region"]], update)
    assert overflow == (not np.isfinite(g).all())
    assert np.array_equal(after.master(False).view(np.uint32), new_w.view(np.uint32))
    assert np.array_equal(after.master(True).view(np.uint32), new_v.view(np.uint32))
    half = to_half(new_w)
    assert np.array_equal(after.mask(), nm.mask(half, update["ff_n_less_1"] + 1, 2 << update["ff_log2_m_less_1"]))
    check_copies(after, update, half)


def test_absent_lanes_become_zero_and_nothing_else_changes() -> None:
    fields = {"k": 5, "n": 18, "g_step": 1, "w_at": 3, "g_at": 30, "mask_at": 40, "ff_at": 50, "bp_at": 80}
    update = Instruction(Opcode.UPDATE, fields | {"use_bp": 1})
    memory = [np.full(200 * BEAT_BYTES, 0x3C, np.uint8)]
    apply_update(update, memory)
    beats = memory[0].reshape(-1, BEAT_BYTES)
    # W_ff 1:2: two blocks of three groups; W_bp: a row block of 8 groups, of one in the second block of columns
    written = [*range(3, 23), *range(40, 46), *range(50, 56), *range(80, 89)]
    untouched = np.setdiff1d(np.arange(len(beats)), written)
    assert (beats[untouched] == 0x3C).all()
    assert not beats[8:13, 8:].any() and not beats[18:23, 8:].any()
    assert not beats[43:46, 4:].any() and beats[43:46, :4].any()
    assert (beats[53:56].view(np.uint32)[:, 2:] == 1 << 20).all()


@pytest.mark.parametrize(("column", "overflow"), [(17, True), (18, False), (31, False)])
def test_gradients_of_absent_lanes_raise_nothing(column: int, overflow: bool) -> None:
    fields = {"k": 5, "n": 18, "g_step": 1, "w_at": 3, "g_at": 30, "mask_at": 40, "ff_at": 50}
    memory = np.zeros(60 * BEAT_BYTES, np.uint8)
    memory.view(np.float16).reshape(-1, 32)[34, column] = np.inf
    assert apply_update(Instruction(Opcode.UPDATE, fields), [memory]) is overflow


def steps(update: Instruction, latency: int, lanes: int = 16) -> int:
    """Return the cycles of an instruction from its start to `done` with a memory of so many cycles, never busy."""
    engine = Updater(lanes_of(lanes))
    reads: deque[int] = deque()
    writes: deque[int] = deque()
    answers: deque[int] = deque()
    engine.tick(update, granted=False, arrives=False, write_granted=False, pulled=False, acknowledged=False)
    cycle, free = 1, 0
    while not engine.done:
        asked, written = engine.request, engine.write_request
        if asked is not None:
            first = max(free, cycle + latency)
            free = first + asked.beats
            reads.extend(range(first, free))
        arrives = bool(reads) and reads[0] == cycle
        if arrives:
            reads.popleft()
        pulled = bool(writes)
        if pulled:
            writes[0] -= 1
            if writes[0] == 0:
                writes.popleft()
                answers.append(cycle + latency)
        answered = bool(answers) and answers[0] <= cycle
        if answered:
            answers.popleft()
        if written is not None:
            writes.append(written.beats)
        engine.tick(None, asked is not None, arrives, written is not None, pulled, answered)
        cycle += 1
    return cycle


@pytest.mark.parametrize("latency", [10, 30])
def test_reads_set_the_pace(latency: int) -> None:
    fields = {"k": 256, "n": 32, "g_step": 1, "w_at": 0, "g_at": 1024, "mask_at": 2048, "ff_at": 4096, "bp_at": 8192}
    fields |= {"use_bp": 1, "use_mask": 1, "ff_n_less_1": 1, "ff_log2_m_less_1": 2}
    fields |= {"bp_n_less_1": 1, "bp_log2_m_less_1": 2}
    rows, masks = 512, 64
    cycles = steps(Instruction(Opcode.UPDATE, fields), latency)
    assert 3 * rows + masks <= cycles <= 3 * rows + masks + 2 * latency + 120
    # two cycles a row are fast enough but for the last burst, whose rows become complete one each cycle
    assert cycles <= steps(Instruction(Opcode.UPDATE, fields), latency, 8) <= cycles + UPDATE_BURST
    for lanes in (1, 2, 4):
        part = steps(Instruction(Opcode.UPDATE, fields), latency, lanes)
        assert rows * 16 // lanes <= part <= rows * 16 // lanes + 2 * latency + 130


def test_instructions_out_of_range() -> None:
    memory = [bytearray(64 * BEAT_BYTES)]
    with pytest.raises(ValueError, match="k is 0"):
        apply_update(Instruction(Opcode.UPDATE, {"n": 3}), memory)
    fields = {"k": 4, "n": 16, "g_step": 1, "w_at": 60}
    with pytest.raises(ValueError, match="w_at is 60; 8 beats from there leave the region of 64 beats"):
        apply_update(Instruction(Opcode.UPDATE, fields), memory)
    with pytest.raises(ValueError, match="shift"):
        apply_update(Instruction(Opcode.UPDATE, fields | {"w_at": 0, "shift": 25}), memory)
    for name, value in (("wuve_lanes", 32), ("wuve_lanes", 12), ("sore_lanes", 8)):
        for engine in (Updater, UpdaterRtl):
            with pytest.raises(ValueError, match=f"{name} is {value}"):
                engine(preset("tiny").replace(**{name: value}))


def lanes_of(lanes: int) -> SatConfig:
    return preset("tiny").replace(name="lanes", wuve_lanes=lanes)


def built(lanes: int = 16) -> Built:
    return build(emit(UpdaterRtl(lanes_of(lanes)), "sat_update"), "sat_update", blocks=BLOCKS)


def test_shape_of_an_instruction() -> None:
    update = Instruction(Opcode.UPDATE, {"k": 20, "n": 40, "g_step": 2, "use_bp": 1, "bp_log2_m_less_1": 1})
    assert UpdateShape.of(update).beats() == {"w_at": 120, "g_at": 40, "mask_at": 30, "ff_at": 30, "bp_at": 20}


@pytest.mark.rtl
def test_rtl_against_model() -> None:
    job = {"lanes": 16, "instructions": 30, "k": 40, "n": 40}
    counts = run(built(), "nmsat.tb.update.bench_update", job=job).check().saved
    assert counts["resets"] == 5
    assert counts["rows"] > 500
    assert counts["held"] > 0
    assert counts["overflows"] > 0


@pytest.mark.rtl
@pytest.mark.long
@pytest.mark.parametrize("lanes", [1, 2, 4, 8])
def test_rows_in_parts(lanes: int) -> None:
    job = {"lanes": lanes, "instructions": 30, "k": 60, "n": 70}
    counts = run(built(lanes), "nmsat.tb.update.bench_update", job=job).check().saved
    assert counts["rows"] > 1_000
    assert counts["held"] > 0
    assert counts["overflows"] > 0


@pytest.mark.rtl
@pytest.mark.long
@pytest.mark.parametrize("seed", [2, 3])
def test_rtl_against_model_long(seed: int) -> None:
    job = {"lanes": 16, "instructions": 40, "k": 120, "n": 100}
    counts = run(built(), "nmsat.tb.update.bench_update", job=job, seed=seed).check().saved
    assert counts["rows"] > 6_000
    assert counts["writes_waiting"] == UPDATE_WAITING


@pytest.mark.long
def test_in_amaranths_simulator() -> None:
    """A little of the bench, for faults that are planted (`make mutate`)."""
    job = {"lanes": 16, "instructions": 8, "k": 20, "n": 40}
    assert play_bench(UpdaterRtl(preset("tiny")), "nmsat.tb.update.bench_update", job, 1)["rows"] > 10


@pytest.mark.long
def test_parts_in_amaranths_simulator() -> None:
    """As above, with one lane of WUVE, which is soon simulated."""
    job = {"lanes": 1, "instructions": 8, "k": 12, "n": 40}
    assert play_bench(UpdaterRtl(lanes_of(1)), "nmsat.tb.update.bench_update", job, 1)["rows"] > 10
