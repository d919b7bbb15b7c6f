"""Products on the Verilated array engine, and the comparison that holds it against simulator and reference."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from nmsat.algorithms.core.numeric import to_half
from nmsat.dataflow.cycles.array import product_duration, result_cycles
from nmsat.dataflow.mapping.place import place_results, results_per_column
from nmsat.hw.array.stce import Stce
from nmsat.hw.parts.links import pair_layout
from nmsat.hw.parts.verilog import emit
from nmsat.sim.array.fast import simulate_product
from nmsat.sim.array.links import positions
from nmsat.sim.array.stepped import PlacedOperands, place_operands, run_stepped
from nmsat.tb.array import reference
from nmsat.tb.run.runner import Built, build, run

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nmsat.algorithms.core.packed import Packed
    from nmsat.algorithms.core.tape import Pattern
    from nmsat.dataflow.contract.config import SatConfig
    from nmsat.dataflow.mapping.tiling import Tiling

BENCH_DEPTHS: Final = (1 << 12, 1 << 16)
"""Entries of the operand buffers in benches: few for quick builds, else all that a command can address."""


@dataclass(frozen=True, eq=False)
class Job:
    """One product for the bench.

    w: float16[k, n] before it was pruned to `pattern` and packed, if it is known: the reference then prunes by itself.
    gap: most idle cycles in front of each operand write, and 64th part of those before each command, drawn from `seed`;
    abort: reset the engine after so many cycles instead of finishing (0: finish).
    """

    a: np.ndarray
    packed: Packed
    tiling: Tiling
    gap: int = 0
    seed: int = 0
    abort: int = 0
    w: np.ndarray | None = None
    pattern: Pattern | None = None


@dataclass(frozen=True, eq=False)
class RtlRun:
    """What the circuit gave: y float32[m, n]; cycle int[C, results] of each result from the first window's start."""

    y: np.ndarray
    cycle: np.ndarray
    waits: np.ndarray

    @property
    def cycles(self) -> int:
        """From the start of the first window to the last result, both included."""
        return int(self.cycle.max()) + 1


@dataclass(frozen=True)
class Verdict:
    """Comparison of one product: values bit for bit, cycles result by result; the first difference in words."""

    cycles_rtl: int
    cycles_sim: int
    outputs: int
    differences: tuple[str, ...] = field(default=())

    @property
    def match(self) -> bool:
        """Whether nothing differs."""
        return not self.differences


TOP: Final = "sat_stce"
"""Module of the engine."""

MOST_IN_ONE_PIECE: Final = 64
"""Elements of the largest array that is compiled as one piece."""

_FLUSH: Final = 10_000
"""Cycles a late command may cost: it finds the array empty and starts anew."""


def bench_config(config: SatConfig, *, deep: bool = False) -> SatConfig:
    """Return `config` with operand buffers of a depth that benches use; the depth changes no cycle."""
    depth = BENCH_DEPTHS[deep]
    return config.replace(act_depth=depth, weight_depth=depth)


@lru_cache(maxsize=8)
def build_stce(config: SatConfig) -> Built:
    """Return the Verilated engine of this configuration, built if need be."""
    # Small arrays simulate several times faster as one piece, large ones do not compile as one.
    blocks = ("sat_row",) if config.elements > MOST_IN_ONE_PIECE else ()
    return build(stce_verilog(config), TOP, blocks=blocks)


def stce_verilog(config: SatConfig) -> dict[str, str]:
    """Return file name -> Verilog of the engine."""
    return emit(Stce(config), TOP)


def run_products(config: SatConfig, jobs: Sequence[Job], built: Built | None = None) -> list[RtlRun]:
    """Run products on the circuit, one after the other without reset in between; jobs that abort give no result.

    built: the model to run, by default that of Verilator.
    """
    payload: dict[str, Any] = {"count": len(jobs)}
    for i, job in enumerate(jobs):
        payload.update({f"{name}_{i}": value for name, value in _pack_job(job).items()})
    results = run(built or build_stce(config), "nmsat.tb.array.bench_stce", ["products"], job=payload).check()
    return [_unpack(results.saved, i, job.tiling) for i, job in enumerate(jobs) if not job.abort]


def compare(job: Job, got: RtlRun) -> Verdict:
    """Hold one run against the simulator (bits and the cycle of every result), and both against the reference (bits).

    The reference is `tb.array.reference`, which shares nothing with the simulator. Results are compared in all bits,
    those of a NaN included; the simulator's sums also rounded to binary16.
    """
    expected = simulate_product(job.tiling, job.a, job.packed)
    assert expected.y is not None
    rtl, simulator, judge = got.y.view(np.uint32), expected.y.view(np.uint32), reference_bits(job)
    halves = to_half(expected.y).view(np.uint16), reference.half(judge)
    differences = [
        *_different(("RTL", rtl), ("simulator", simulator)),
        *_different(("RTL", rtl), ("reference", judge)),
        *_different(("simulator", simulator), ("reference", judge)),
        *_different(("simulator in binary16", halves[0]), ("reference", halves[1])),
    ]
    cycle = _expected_cycles(job)
    wrong = np.argwhere(cycle != got.cycle)
    if len(wrong):
        c, i = wrong[0]
        differences.append(
            f"{len(wrong)} of {cycle.size} results leave in another cycle than simulated; first: result {i} of "
            f"column {c}, RTL cycle {got.cycle[c, i]}, simulator {cycle[c, i]}"
        )
    return Verdict(got.cycles, int(cycle.max()) + 1, got.y.size, tuple(differences))


def reference_bits(job: Job) -> np.ndarray:
    """Return the results of a product by the reference, as bit patterns uint32[m, n]."""
    a, packed = job.a.view(np.uint16), job.packed
    if job.w is not None:
        pattern = None if job.pattern is None else (job.pattern.n, job.pattern.m)
        return reference.product(a, job.w.view(np.uint16), pattern)
    return reference.product_of_pairs(a, packed.values.view(np.uint16), packed.index, packed.filler, packed.m)


def _different(one: tuple[str, np.ndarray], other: tuple[str, np.ndarray]) -> list[str]:
    """Return in words where two arrays of bit patterns differ first; empty if nowhere."""
    (name, mine), (other_name, theirs) = one, other
    wrong = np.argwhere(mine != theirs)
    if not len(wrong):
        return []
    r, c = wrong[0]
    kind = np.float32 if mine.dtype == np.uint32 else np.float16
    digits = 2 * mine.itemsize
    first, second = (f"{kind(b.view(kind)[r, c])!s} (0x{b[r, c]:0{digits}x})" for b in (mine, theirs))
    where = f"first at row {r}, column {c}: {name} {first}, {other_name} {second}"
    return [f"{len(wrong)} of {mine.size} values of the {name} differ from the {other_name}; {where}"]


def _expected_cycles(job: Job) -> np.ndarray:
    """Return int[C, results]: when each result leaves; the stepped gear says so when commands come late."""
    config = job.tiling.config
    if not job.gap:
        return result_cycles(job.tiling)[None, :] + positions(config.columns, config.column_slices)[:, None]
    trace = run_stepped(job.a, job.packed, job.tiling, _command_gaps(job))[1]
    return np.array(trace.out_cycle) - trace.starts[0][0]


def verify_products(config: SatConfig, jobs: Sequence[Job]) -> list[Verdict]:
    """Run products on the circuit and compare each; see `compare`."""
    kept = [job for job in jobs if not job.abort]
    return [compare(job, got) for job, got in zip(kept, run_products(config, jobs), strict=True)]


def _pack_job(job: Job) -> dict[str, Any]:
    placed = place_operands(job.a, job.packed, job.tiling)
    act, words = operand_words(placed)
    return {
        "act": act,
        "wgt": words,
        "act_gaps": _gaps(job, "act", len(act)),
        "wgt_gaps": _gaps(job, "wgt", len(words)),
        "commands": np.array([command.command() for command in placed.commands], np.uint64),
        "gaps": np.array(_command_gaps(job)),
        "expected": results_per_column(job.tiling),
        "limit": product_duration(job.tiling).total + 1000 + sum(_command_gaps(job)) + _FLUSH * len(placed.commands),
        "abort": job.abort,
    }


def operand_words(placed: PlacedOperands) -> tuple[np.ndarray, np.ndarray]:
    """Return uint8[beats, bytes] for the activation, uint8[pairs, bytes] for the weight buffers, all ports at once."""
    act = np.ascontiguousarray(placed.act.transpose(1, 0, 2)).view(np.uint8).reshape(placed.act.shape[1], -1)
    return act, _pair_words(placed)


def _gaps(job: Job, what: str, count: int) -> np.ndarray:
    rng = np.random.default_rng([job.seed, *what.encode()])
    return rng.integers(0, job.gap + 1, count)


def _command_gaps(job: Job) -> list[int]:
    """Idle cycles before each command: up to 64 times those before each operand, so that they matter."""
    return (_gaps(job, "commands", job.tiling.commands) * 64).tolist()


def _pair_words(placed: PlacedOperands) -> np.ndarray:
    """Return uint8[pairs, bytes]: the pairs of all columns side by side, 21 bits each
    (`dataflow.contract.links.PAIR`)."""
    pair = placed.value.view(np.uint16).astype(np.uint32)
    pair |= placed.index.astype(np.uint32) << 16
    pair |= placed.filler.astype(np.uint32) << 20
    bits = np.unpackbits(pair.T.copy().view(np.uint8), axis=1, bitorder="little")
    bits = bits.reshape(pair.shape[1], pair.shape[0], 32)[:, :, : pair_layout().size]
    return np.packbits(bits.reshape(pair.shape[1], -1), axis=1, bitorder="little")


def _unpack(saved: dict[str, Any], i: int, tiling: Tiling) -> RtlRun:
    values = saved[f"values_{i}"].view(np.float32)
    return RtlRun(place_results(tiling, values), saved[f"cycles_{i}"], saved[f"waits_{i}"])
