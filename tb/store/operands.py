"""Beats and words of the epilogue, which bench and test share."""

from __future__ import annotations

import numpy as np

from nmsat.sim.store.epilogue import Results, Sums
from nmsat.tb.drive.lockstep import pack
from nmsat.tb.fp.f32_vectors import cancelling, random_floats


def sums_word(beat: Sums) -> int:
    """Return the payload of an input beat."""
    binary32 = [(values.view(np.uint32), 32) for values in (beat.x, beat.bias, beat.tile)]
    return pack([*binary32, (beat.mask, 1), (beat.present, 1)])


def results_word(beat: Results) -> int:
    """Return the payload of an output beat."""
    bits = beat.y.view(np.uint16 if beat.y.dtype == np.float16 else np.uint32)
    return pack([(bits, 32), (beat.mask, 1), (beat.present, 1)])


def random_sums(rng: np.random.Generator, lanes: int, spread: bool) -> Sums:
    """Return one beat of moderate numbers or (spread) numbers of every magnitude, special ones among them.

    In one lane of four the bias cancels with x, in one of four the tile with what the other two give.
    """
    x, bias, tile = (random_floats(rng, lanes, spread) for _ in range(3))
    if not spread:
        x = np.ldexp(x, 4 * rng.integers(-5, 6, lanes)).astype(np.float32)
    which = rng.integers(0, 8, lanes)
    bias = np.where(which < 2, cancelling(rng, x), bias)
    with np.errstate(all="ignore"):
        partner = np.where(which == 2, x, x + bias)  # of a beat without bias, or with one
    tile = np.where((which == 2) | (which == 3), cancelling(rng, partner), tile)
    return Sums(x, bias, tile, rng.random(lanes) < 0.5, rng.random(lanes) < 0.9)
