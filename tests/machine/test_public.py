"""Programs three ways: the circuit behind parts of others, the simulator, the oracle; memory and flags are equal.

The parts of others pause on every channel, refuse beats, and are reset with the machine in mid-run.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from functools import cache
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pytest

from nmsat.dataflow.contract.config import preset
from nmsat.dataflow.contract.isa import ErrorCode, Instruction, Opcode
from nmsat.dataflow.contract.registers import KERNEL, Status
from nmsat.dataflow.program.step import write_code
from nmsat.hw.release.kernel import kernel_verilog
from nmsat.hw.release.register_map import python_module
from nmsat.reports.work.verify import build_machine
from nmsat.sim.sat import Sat, launch
from nmsat.tb.machine.jobs import MachineJob, random_job
from nmsat.tb.machine.model import sat_verilog
from nmsat.tb.run.runner import Built, build, run
from tests.machine.oracle import BEAT, Oracle

if TYPE_CHECKING:
    from collections.abc import Sequence

pytestmark = pytest.mark.rtl

TINY: Final = preset("tiny")
BENCH: Final = "nmsat.tb.machine.bench_public"

SEEDS: Final = (107, 118, 627)
"""Random programs; results of 107 and 627 are infinite or NaN, watched, and hold the UPDATE behind them."""

HELD: Final = (107, 627)

SHORT: Final = (13, 473)
"""Short programs with all that touches memory: STAGE and a second operand, UPDATE beside a product."""

OPCODES: Final = {"fetch", "LOAD_ACT", "LOAD_WGT", "STAGE", "STORE", "UPDATE"}
"""Who reads memory; of them STORE and UPDATE write it."""

STATES: Final = 6
"""Of the buses, in which a run is cut."""

SLVERR, DECERR = 2, 3


@dataclass
class Noted:
    """A region that notes the beats that are read and written."""

    content: bytearray
    read: set[int] = field(default_factory=set)
    written: set[int] = field(default_factory=set)

    def __getitem__(self, places: slice) -> bytearray:
        self.read |= _beats(places)
        return self.content[places]

    def __setitem__(self, places: slice, value: bytes) -> None:
        self.written |= _beats(places)
        self.content[places] = value


def _beats(places: slice) -> set[int]:
    return set(range(places.start // BEAT, -(-places.stop // BEAT)))


@dataclass(frozen=True)
class Told:
    """What the oracle tells of a program.

    states: regions before the first instruction and behind each; flags: what the status must show beside how the run
    ended; reads, writes: instruction, region and beat of all that nobody in front has read or written.
    """

    states: tuple[tuple[bytes, ...], ...]
    flags: int
    reads: tuple[tuple[int, int, int], ...]
    writes: tuple[tuple[int, int, int], ...]


@cache
def told(seed: int) -> Told:
    """Return what the oracle tells of a random program."""
    drawn = random_job(TINY, seed)
    regions = [Noted(bytearray(region.tobytes())) for region in drawn.image.regions]
    oracle = Oracle(TINY.rows, TINY.columns, TINY.act_lanes, TINY.stage_depth, regions)
    states = [tuple(bytes(region.content) for region in regions)]
    found: dict[str, list[tuple[int, int, int]]] = {"read": [], "written": []}
    known: dict[str, set[tuple[int, int]]] = {"read": set(), "written": set()}
    for number, instruction in enumerate(drawn.code.instructions):
        for region in regions:
            region.read.clear()
            region.written.clear()
        oracle.run(instruction.opcode.name, instruction.values())
        states.append(tuple(bytes(region.content) for region in regions))
        for kind in found:
            touched = {(at, beat) for at, region in enumerate(regions) for beat in getattr(region, kind)}
            found[kind] += sorted((number, *place) for place in touched - known[kind])
            known[kind] |= touched
    flags = Status.SPECIAL * oracle.special | Status.OVERFLOW * oracle.overflow
    return Told(tuple(states), flags, tuple(found["read"]), tuple(found["written"]))


def serial(drawn: MachineJob) -> MachineJob:
    """Return a program whose instructions wait for the one in front: an error belongs to one of them only."""
    waits = [0, *(1 << number % 16 for number in range(len(drawn.code.instructions) - 1))]
    instructions = tuple(
        Instruction(f.opcode, {**f.fields, "wait": wait, "signal": 1 << number % 16})
        if f.opcode is not Opcode.END
        else f
        for number, (f, wait) in enumerate(zip(drawn.code.instructions, waits, strict=True))
    )
    code = replace(drawn.code, instructions=instructions)
    write_code(drawn.image, drawn.place, code)
    return replace(drawn, code=code)


def job_of(drawn: Sequence[MachineJob], turns: Sequence[Sequence[int]], *, kernel: bool = False) -> dict[str, Any]:
    """Return the job of the bench: programs with their regions anywhere in 62 bits."""
    rng = np.random.default_rng(1)
    job: dict[str, Any] = {"registers": python_module(1), "kernel": int(kernel), "count": len(drawn)}
    for number, one in enumerate(drawn):
        regions = one.image.regions
        assert len(regions) <= 4
        pages = np.sort(rng.choice(1 << 18, len(regions), replace=False)).astype(np.uint64)
        job[f"base_{number}"] = (pages << np.uint64(44)) + (
            rng.integers(1 << 20, size=len(pages), dtype=np.uint64) << np.uint64(12)
        )
        job[f"writable_{number}"] = np.arange(len(pages)) > 0
        job[f"program_{number}"] = np.array([one.place.region, one.place.at, one.place.beats])
        for region, content in enumerate(regions):
            job[f"memory_{number}_{region}"] = content.copy()
    return {**job, "turns": np.array(turns, np.uint64)}


def whole(saved: dict[str, Any], turn: int, drawn: MachineJob) -> None:
    """Hold a whole run to the oracle."""
    oracle = told(drawn.seed)
    assert saved[f"status_{turn}"].tolist() == [Status.IDLE | Status.DONE | oracle.flags, ErrorCode.NONE, 0], turn
    for region, content in enumerate(regions_of(oracle.states[-1], drawn)):
        assert saved[f"memory_{turn}_{region}"].tobytes() == content, (turn, region)


def regions_of(state: Sequence[bytes], drawn: MachineJob) -> list[bytes]:
    """Return a state of memory with the program of `drawn` in it."""
    return [drawn.image.regions[0].tobytes(), *state[1:]]


def begun(saved: dict[str, Any], turn: int, drawn: MachineJob) -> None:
    """Hold every byte that a run has left behind that did not come to its end to what it may have been."""
    states = [regions_of(state, drawn) for state in told(drawn.seed).states]
    for region in range(len(drawn.image.regions)):
        left = saved[f"begun_{turn}_{region}"]
        may = np.zeros(left.size, bool)
        for state in states:
            may |= left == np.frombuffer(state[region], np.uint8)
        assert may.all(), f"turn {turn}: region {region} holds what nobody has written at {np.flatnonzero(~may)[0]:#x}"


def test_programs_three_ways() -> None:
    """The host has the register map that a release brings, and nothing else; regions lie anywhere in 62 bits."""
    drawn = [random_job(TINY, seed) for seed in SEEDS]
    job = job_of(drawn, [[number] for number in range(len(SEEDS))])
    saved = run(build_machine(TINY), BENCH, ["programs"], job=job).check().saved
    for turn, one in enumerate(drawn):
        whole(saved, turn, one)
        oracle = told(one.seed)
        report = Sat(TINY).run(launch(one.image.regions, one.place), one.image.regions)
        assert Status.SPECIAL * report.special | Status.OVERFLOW * report.overflow == oracle.flags
        assert oracle.flags & Status.SPECIAL or one.seed not in HELD
        assert [region.tobytes() for region in one.image.regions] == list(oracle.states[-1]), one.seed


def refused(drawn: Sequence[MachineJob], each: int, seed: int) -> list[tuple[str, int, list[int]]]:
    """Return what memory refuses: who touches it first, its instruction, and the turn without an address of regions.

    each: beats of every kind of instruction, to read and to write; fewer where there are none.
    """
    rng = np.random.default_rng(seed)
    found: dict[tuple[str, bool], list[tuple[str, int, list[int]]]] = {}
    for program, one in enumerate(drawn):
        names = [f.opcode.name for f in one.code.instructions]
        oracle = told(one.seed)
        for write, places in ((0, oracle.writes), (1, oracle.reads)):
            for number, region, beat in places:
                kind = (names[number], bool(write))
                found.setdefault(kind, []).append((names[number], number, [program, region, beat, 1 - write]))
        fetched = range(len(one.code.instructions))
        fetch = [("fetch", number, [program, one.place.region, one.place.at + number, 0]) for number in fetched]
        found.setdefault(("fetch", False), []).extend(fetch)
    picked = [
        places[int(at)]
        for places in found.values()
        for at in rng.choice(len(places), min(each, len(places)), replace=False)
    ]
    return [picked[int(at)] for at in rng.permutation(len(picked))]


def faults(drawn: Sequence[MachineJob], each: int, seed: int, *, kernel: bool = False) -> None:
    """Let memory refuse beats and hold how the run ends, and the whole run after it, to the documents."""
    beats = refused(drawn, each, seed)
    job = job_of(drawn, [], kernel=kernel)
    answers = [SLVERR if number % 2 else DECERR for number in range(len(beats))]
    rows = [
        [program, int(job[f"base_{program}"][region]) + BEAT * beat, write, answer]
        for (_, _, (program, region, beat, write)), answer in zip(beats, answers, strict=True)
    ]
    job["turns"] = np.array(rows, np.uint64)
    saved = run(machine(kernel), BENCH, ["faults"], job=job, seed=seed).check().saved
    for turn, ((name, number, (program, *_, write)), answer) in enumerate(zip(beats, answers, strict=True)):
        status, code, index = saved[f"begun_status_{turn}"].tolist()
        what = f"turn {turn}: {name} {number} of seed {drawn[program].seed}, {'write' if write else 'read'}, {answer}"
        assert (status & ~told(drawn[program].seed).flags) == Status.IDLE | Status.DONE | Status.ERROR, what
        assert (code, index) == (ErrorCode.WRITE if write else ErrorCode.READ, number), what
        begun(saved, turn, drawn[program])
        whole(saved, turn, drawn[program])


def cut(drawn: Sequence[MachineJob], rows: Sequence[Sequence[int]], seed: int, *, kernel: bool = False) -> set[int]:
    """Cut runs; hold what they leave, and the whole runs behind them, to the oracle; return the turns that were cut."""
    saved = run(machine(kernel), BENCH, ["cuts"], job=job_of(drawn, rows, kernel=kernel), seed=seed).check().saved
    turns = {turn for turn in range(len(rows)) if f"begun_status_{turn}" in saved}
    for turn in turns:
        program, _, _, reset = rows[turn]
        may = 0 if reset else told(drawn[program].seed).flags  # of a run that was ended they stay until the next
        status, *error = saved[f"begun_status_{turn}"].tolist()
        assert (status & ~may, error) == (Status.IDLE, [ErrorCode.NONE, 0]), turn
        begun(saved, turn, drawn[program])
        whole(saved, turn, drawn[program])
    return turns


def machine(kernel: bool) -> Built:
    """Return the model of the machine, or of the kernel around it."""
    if not kernel:
        return build_machine(TINY)
    return build({**sat_verilog(TINY), f"{KERNEL}.v": kernel_verilog(TINY)}, KERNEL)


def test_beats_that_memory_refuses() -> None:
    """SLVERR and DECERR, to every client of both ports: code, instruction, no burst after it, and a whole run."""
    drawn = [serial(random_job(TINY, seed)) for seed in SHORT]
    kinds = Counter((name, bool(turn[3])) for name, _, turn in refused(drawn, 1, 1))
    assert {name for name, write in kinds if not write} == OPCODES
    assert {name for name, write in kinds if write} == {"STORE", "UPDATE"}
    faults(drawn, 1, 1)


def test_runs_that_are_cut() -> None:
    """By the command `reset`, and by a reset of machine, memory and host, in every state of the buses."""
    resets = [[1, 0, 0, 2], [1, 150, 1, 3], [1, 130, 2, 2], [0, 60, 3, 5], [1, 180, 4, 2], [0, 100, 5, 3]]
    commands = [[1, 0, 0, 0], [1, 140, 2, 0], [0, 40, 3, 0], [1, 150, 4, 0]]
    rows = [*resets, *commands]
    assert cut([random_job(TINY, seed) for seed in SHORT], rows, 1) == set(range(len(rows)))


@pytest.mark.long
@pytest.mark.parametrize("kernel", [False, True], ids=["sat", "sat_kernel"])
@pytest.mark.parametrize("seed", [2, 3])
def test_more_of_them(seed: int, kernel: bool) -> None:
    """Other programs, beats, pauses and moments; `sat_kernel` with its low reset, as long as cores of Xilinx ask."""
    rng = np.random.default_rng(seed)
    seeds = {2: (*SHORT, 568, 107), 3: (*SHORT, 92, 118)}[seed]
    faults([serial(random_job(TINY, number)) for number in seeds], 3, seed, kernel=kernel)
    rows = [
        [program, int(rng.integers(200)), state, length]
        for program in range(len(seeds))
        for state in range(STATES)
        for length in (0, int(rng.integers(16, 24) if kernel else rng.integers(2, 8)))
    ]
    turns = cut([random_job(TINY, number) for number in seeds], rows, seed, kernel=kernel)
    met = {(rows[turn][2], rows[turn][3] > 0) for turn in turns}
    assert met == {(state, reset) for state in range(STATES) for reset in (False, True)}
