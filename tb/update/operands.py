"""Beats, words and instructions for the update engine and its parts, which benches and tests share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from nmsat.algorithms.core.ranges import GROUP_SIZES
from nmsat.algorithms.core.tape import Pattern
from nmsat.algorithms.training.optim import SgdConstants
from nmsat.dataflow.contract.isa import BEAT_BYTES, HALVES, LANES, Instruction, Opcode
from nmsat.sim.update.sore import GroupElements, KeptPairs
from nmsat.sim.update.values import UpdateShape
from nmsat.sim.update.wuve import UpdateBeat, UpdatedBeat
from nmsat.tb.drive.lockstep import pack
from nmsat.tb.fp.f32_vectors import cancelling, random_floats

if TYPE_CHECKING:
    from numpy.typing import NDArray

REGION_BEATS: Final = 6000
"""Beats of each memory region that a random UPDATE lies in."""

Matrix = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
"""w, v, g, mask_ff of one weight matrix [k, n]."""


def elements_word(beat: GroupElements) -> int:
    """Return the payload of an input beat."""
    return pack([(beat.value, 16), (beat.present, 1), (beat.last, 1)])


def pairs_word(beat: KeptPairs) -> int:
    """Return the payload of an output beat."""
    pairs = beat.value.astype(np.uint32) | beat.index.astype(np.uint32) << 16 | beat.filler.astype(np.uint32) << 20
    return pack([(pairs, 21), (beat.keep, 1), (beat.last, 1)])


def random_beats(rng: np.random.Generator, lanes: int, width: int, m: int, groups: int) -> list[GroupElements]:
    """Return groups of binary16 numbers: one group in four rich in ties, NaNs, zeros and infinities, some cut short."""
    beats = []
    special = np.array([0x0000, 0x8000, 0x7C00, 0xFC00, 0x7E00, 0xFE01, 0x3C00, 0xBC00, 0x0001], np.uint16)
    for _ in range(groups):
        value = rng.integers(0, 1 << 16, (m, lanes), dtype=np.uint16)
        if rng.random() < 0.25:
            value = special[rng.integers(0, len(special), (m, lanes))]
        elif rng.random() < 0.25:
            value = (value & 0x8003).astype(np.uint16)
        length = int(rng.integers(1, m + 1)) if rng.random() < 0.2 else m
        beats += cut(value, rng.random((m, lanes)) > (rng.random() if rng.random() < 0.2 else 0), length, width)
    return beats


def cut(value: np.ndarray, present: np.ndarray, length: int, width: int) -> list[GroupElements]:
    """Return one group, [m, lanes], of which only the first `length` places exist, as beats."""
    present = present & (np.arange(len(present)) < length)[:, None]
    count = -(-length // width)
    return [
        GroupElements(
            value[b * width : (b + 1) * width].T,
            present[b * width : (b + 1) * width].T,
            last=b == count - 1 and (b + 1) * width < len(value),
        )
        for b in range(count)
    ]


def update_word(beat: UpdateBeat) -> int:
    """Return the payload of an input beat."""
    binary32 = [(beat.w.view(np.uint32), 32), (beat.v.view(np.uint32), 32)]
    flags = [(beat.kept, 1), (beat.present, 1), (beat.last, 1), (beat.end, 1)]
    return pack([*binary32, (beat.g.view(np.uint16), 16), *flags])


def updated_word(beat: UpdatedBeat) -> int:
    """Return the payload of an output beat."""
    binary32 = [(beat.w.view(np.uint32), 32), (beat.v.view(np.uint32), 32)]
    return pack([*binary32, (beat.half.view(np.uint16), 16), (beat.present, 1), (beat.last, 1), (beat.end, 1)])


def random_weights(
    rng: np.random.Generator, lanes: int, spread: bool, constants: SgdConstants | None = None
) -> UpdateBeat:
    """Return one beat; gradients are any binary16 pattern if spread, else finite but for a rare infinity or NaN.

    One weight in twenty is a zero of either sign. constants: of the update whose sums cancel in some lanes; in one of
    twelve all numbers are close to the smallest normal one, so that products and sums are subnormal.
    """
    g = rng.integers(0, 1 << 16, lanes, dtype=np.uint16)
    if not spread:
        g = rng.normal(0, 8, lanes).astype(np.float16).view(np.uint16)
        rare = rng.random(lanes) < 0.005
        g[rare] = rng.choice(np.array([0x7C00, 0xFC00, 0x7E00, 0xFD55], np.uint16), int(rare.sum()))
    w = random_floats(rng, lanes, spread)
    zero = rng.random(lanes) < 0.05
    w[zero] = rng.choice(np.array([0.0, -0.0], np.float32), int(zero.sum()))
    v, kept = random_floats(rng, lanes, spread), rng.random(lanes) < 0.3
    if constants is not None:
        w, v = cancelled(rng, w, v, g.view(np.float16), kept, constants)
        tiny = rng.random(lanes) < 1 / 12
        low = np.ldexp(rng.normal(size=(2, lanes)), rng.integers(-140, -100, (2, lanes))).astype(np.float32)
        w, v, g = np.where(tiny, low[0], w), np.where(tiny, low[1], v), np.where(tiny, np.uint16(0), g)
    return UpdateBeat(
        w,
        v,
        g.view(np.float16),
        kept,
        rng.random(lanes) < 0.9,
        bool(rng.random() < 0.1),
        bool(rng.random() < 0.1),
    )


def cancelled(
    rng: np.random.Generator, w: np.ndarray, v: np.ndarray, g: np.ndarray, kept: np.ndarray, constants: SgdConstants
) -> tuple[np.ndarray, np.ndarray]:
    """Return w, v float32 of any shape, in which one element in six makes a sum of the update cancel.

    Each of the four sums of docs/arithmetic.md, "Weight update": gradient and decay of the weight, their sum and the
    decay of what was pruned, momentum and gradient, weight and step. g, kept: as they are.
    """
    lr, mu, wd, lam = constants.lr, constants.momentum, constants.weight_decay, constants.decay
    which = rng.integers(0, 24, w.shape)
    with np.errstate(all="ignore"):
        step = np.ldexp(g.astype(np.float64), -constants.shift)
        pruned = np.where(kept, 0.0, lam)
        weights = (step / wd, step / (wd + pruned), -lr * (mu * v.astype(np.float64) + step) / (1 - lr * (wd + pruned)))
        momenta = (step + (wd + pruned) * w.astype(np.float64)) / mu
        chosen = [cancelling(rng, values.astype(np.float32)) for values in (*weights, momenta)]
    for number, values in enumerate(chosen):
        here = (which == number) & np.isfinite(values)
        if number < len(weights):
            w = np.where(here, values, w)
            v = np.where(here & (number < 2), np.float32(0), v)  # else the momentum hides what is left of the gradient
        else:
            v = np.where(here, values, v)
    return w, v


def random_constants(rng: np.random.Generator, spread: bool) -> SgdConstants:
    """Return constants as training uses them, or (spread) of every magnitude, zeros and special ones among them."""
    if spread:
        lr, mu, wd, lam = random_floats(rng, 4, True).tolist()
    else:
        lr, mu, wd, lam = rng.uniform(0, 0.5), 0.9, float(rng.choice([0.0, 5e-4])), float(rng.choice([0.0, 2e-4]))
    return SgdConstants(lr, mu, wd, lam, int(rng.integers(0, 25)))


def random_pattern(rng: np.random.Generator, largest: int) -> Pattern | None:
    """Return a pattern with M up to `largest`; one in eight is None."""
    if rng.random() < 0.125:
        return None
    m = int(rng.choice([m for m in GROUP_SIZES if m <= largest]))
    return Pattern(int(rng.integers(1, m + 1)), m)


def random_matrix(rng: np.random.Generator, k: int, n: int) -> Matrix:
    """Return w, v, g and mask_ff of one matrix; weights often tie in binary16."""
    w = rng.normal(0, 0.05, (k, n)).astype(np.float32)
    if rng.random() < 0.5:
        w = np.round(w, 2).astype(np.float32)
    v = (rng.normal(0, 1, (k, n)) * (rng.random() < 0.5)).astype(np.float32)
    g = (rng.normal(0, 4, (k, n)) * (rng.random() < 0.7)).astype(np.float16)
    return w, v, g, rng.random((k, n)) < 0.3


def float_bits(value: float) -> int:
    """Return the bits of a number rounded to binary32."""
    return int(np.float32(value).view(np.uint32))


def random_update(rng: np.random.Generator, largest_k: int, largest_n: int) -> Instruction:
    """Return a legal UPDATE whose tensors lie at random places of a region, without overlap."""
    k, n = int(rng.integers(1, largest_k + 1)), int(rng.integers(1, largest_n + 1))
    fields = {"k": k, "n": n, "shift": int(rng.integers(0, 25)), "region": int(rng.integers(0, 2))}
    for copy in ("ff", "bp"):
        log2 = int(rng.integers(0, 4))
        fields |= {f"{copy}_log2_m_less_1": log2, f"{copy}_n_less_1": int(rng.integers(0, 2 << log2))}
    fields |= {"use_bp": int(rng.random() < 0.8), "use_mask": int(rng.random() < 0.7)}
    fields["g_step"] = -(-n // HALVES) + int(rng.choice([0, 0, 2]))
    constants = {"lr": rng.uniform(0, 0.5), "mu": 0.9, "wd": 5e-4, "lam": 2e-4}
    fields |= {name: float_bits(value) for name, value in constants.items()}
    beats = UpdateShape.of(Instruction(Opcode.UPDATE, fields)).beats()
    at = int(rng.integers(0, 20))
    for name in rng.permutation(list(beats)):
        fields[str(name)] = at
        at += beats[name] + int(rng.integers(0, 10))
    if at > REGION_BEATS:
        raise ValueError(f"tensors of {k} x {n} take {at!r} beats; the regions of this bench hold {REGION_BEATS}")
    return Instruction(Opcode.UPDATE, fields)


def fill(memory: list[NDArray[np.uint8]], update: Instruction, rng: np.random.Generator) -> None:
    """Put numbers that train into the tensors of an UPDATE; all other bytes, those of absent lanes too, are random.

    The mask is random too: of pruned elements some sums cancel by chance of it.
    """
    for region in memory:
        region[:] = rng.integers(0, 256, region.shape, np.uint8)
    region, beats = memory[update["region"]], UpdateShape.of(update).beats()
    w = region[update["w_at"] * BEAT_BYTES :][: beats["w_at"] * BEAT_BYTES].view(np.float32)
    w[:] = rng.normal(0, 0.05, w.shape)
    if rng.random() < 0.5:
        w[:] = np.round(w, 2)
    g = region[update["g_at"] * BEAT_BYTES :][: beats["g_at"] * BEAT_BYTES].view(np.float16)
    g[:] = rng.normal(0, 4, g.shape)
    shape = UpdateShape.of(update)
    block, row, lane = np.meshgrid(*map(np.arange, (shape.blocks, shape.k, LANES)), indexing="ij")
    gradient = g.reshape(-1, HALVES)[row * shape.g_step + block // 2, block % 2 * LANES + lane]
    both = region[update["w_at"] * BEAT_BYTES :][: beats["w_at"] * BEAT_BYTES].view(np.float32)
    weights, momenta = both.reshape(2, shape.blocks, shape.k, LANES)
    lr, mu, wd, lam = (float(np.uint32(update[name]).view(np.float32)) for name in ("lr", "mu", "wd", "lam"))
    constants = SgdConstants(lr, mu, wd, lam, update["shift"])
    weights[:], momenta[:] = cancelled(rng, weights, momenta, gradient, rng.random(weights.shape) < 0.5, constants)
    if rng.random() < 0.3:
        g[rng.integers(0, len(g))] = rng.choice([np.inf, np.nan])
