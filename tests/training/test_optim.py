"""The weight update against exact rational arithmetic, one rounding per line of docs/arithmetic.md."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nmsat.algorithms.core.tape import Pattern
from nmsat.algorithms.layers.base import Context, prepare
from nmsat.algorithms.layers.products import Linear
from nmsat.algorithms.methods import make_method
from nmsat.algorithms.training.optim import Sgd, SgdConstants, sgd_update


def round32(x: Fraction) -> Fraction:
    """Nearest binary32, ties to even, subnormals kept; inputs stay below the overflow threshold."""
    if x == 0:
        return x
    exponent = -126
    while abs(x) >= Fraction(2) ** (exponent + 1):
        exponent += 1
    unit = Fraction(2) ** (exponent - 23)
    return round(x / unit) * unit


def exact_update(w: float, v: float, g: float, c: SgdConstants, kept: bool) -> tuple[Fraction, Fraction]:
    lr, mu, wd, lam = (Fraction(float(np.float32(x))) for x in (c.lr, c.momentum, c.weight_decay, c.decay))
    w_, v_, g_ = Fraction(w), Fraction(v), Fraction(g) / 2**c.shift
    t1 = round32(wd * w_)
    t2 = Fraction(0) if kept else round32(lam * w_)
    g1 = round32(g_ + t1)
    g2 = round32(g1 + t2)
    v1 = round32(mu * v_)
    v2 = round32(v1 + g2)
    d = round32(lr * v2)
    return round32(w_ - d), v2


small32 = st.integers(0, 0x47FFFFFF).map(lambda b: float(np.uint32(b).view(np.float32)))
signed32 = st.tuples(small32, st.booleans()).map(lambda p: -p[0] if p[1] else p[0])
half_bits = st.integers(0, 0x7BFF).map(lambda b: float(np.uint16(b).view(np.float16)))
signed16 = st.tuples(half_bits, st.booleans()).map(lambda p: -p[0] if p[1] else p[0])
rates = st.sampled_from([0.0, 0.1, 0.05, 2e-4, 0.9, 1.0, 5e-4])


@given(signed32, signed32, signed16, rates, rates, rates, rates, st.integers(0, 24), st.booleans())
@settings(max_examples=1500, deadline=None)
def test_update_is_the_sequence_of_single_roundings(
    w: float, v: float, g: float, lr: float, mu: float, wd: float, lam: float, shift: int, kept: bool
) -> None:
    constants = SgdConstants(lr, mu, wd, lam, shift)
    new_w, new_v = sgd_update(
        np.array([w], np.float32),
        np.array([v], np.float32),
        np.array([g], np.float16),
        constants,
        np.array([kept]),
    )
    want_w, want_v = exact_update(w, v, g, constants, kept)
    assert (Fraction(float(new_w[0])), Fraction(float(new_v[0]))) == (want_w, want_v)


def test_subnormals_are_honoured() -> None:
    tiny = np.array([2.0**-149], np.float32)
    w, v = sgd_update(tiny, 3 * tiny, np.zeros(1, np.float16), SgdConstants(1.0, 0.5))
    assert v[0] == 2 * tiny[0]  # 1.5 units is a tie, to even
    assert w[0] == -tiny[0]


def test_signed_zeros_follow_from_the_additions() -> None:
    zero = np.zeros(1, np.float32)
    w, v = sgd_update(-zero, -zero, np.array([-0.0], np.float16), SgdConstants(0.1, 0.9))
    assert not np.signbit(v[0])  # g1 = -0 + -0 = -0, g2 = -0 + +0 = +0, v' = -0 + +0 = +0
    assert np.signbit(w[0])  # -0 - +0


def test_nans_are_canonical() -> None:
    odd = np.array([0xFFC12345], np.uint32).view(np.float32)
    w, v = sgd_update(odd, odd, np.zeros(1, np.float16), SgdConstants(0.1))
    assert (w.view(np.uint32)[0], v.view(np.uint32)[0]) == (0x7FC00000, 0x7FC00000)


def test_the_sr_ste_term_reaches_pruned_weights_only() -> None:
    w = np.array([1.0, 1.0], np.float32)
    zero = np.zeros(2, np.float32)
    new_w, _ = sgd_update(w, zero, zero.astype(np.float16), SgdConstants(0.5, 0.0, 0.0, 0.25), np.array([True, False]))
    assert new_w.tolist() == [1.0, 0.875]
    dense, _ = sgd_update(w, zero, zero.astype(np.float16), SgdConstants(0.5, 0.0, 0.0, 0.25))
    assert dense.tolist() == [1.0, 1.0]


def trained_layer() -> tuple[Linear, Context]:
    layer = Linear("l", 16, 16, np.random.default_rng(3))
    ctx = Context(method=make_method("bdwp", Pattern(2, 8)))
    prepare(layer, ctx)
    x = np.random.default_rng(4).standard_normal((4, 16)).astype(np.float16)
    layer.backward(layer.forward(x, ctx), ctx)
    return layer, ctx


@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("which", [0, 1])
def test_one_bad_gradient_suppresses_the_whole_update(bad: float, which: int) -> None:
    layer, _ = trained_layer()
    parameters = layer.parameters()
    grad = parameters[which].grad
    assert grad is not None
    grad.flat[-1] = bad
    before = [p.master.copy() for p in parameters]
    sgd = Sgd()
    assert not sgd.step(parameters, 0.1)
    assert all(np.array_equal(b, p.master) for b, p in zip(before, parameters, strict=True))
    assert not sgd.velocity


def test_copies_follow_the_new_master() -> None:
    layer, ctx = trained_layer()
    assert Sgd(decay=2e-4).step(layer.parameters(), 0.5)
    old = layer.weight.ff
    prepare(layer, ctx)
    assert layer.weight.ff is not None and old is not None
    assert not np.array_equal(layer.weight.ff.values, old.values)
    kept = layer.weight.ff.values != 0
    assert np.array_equal(layer.weight.ff.values[kept], layer.weight.master.astype(np.float16)[kept])


def test_weight_decay_spares_the_bias() -> None:
    layer, _ = trained_layer()
    assert layer.bias is not None
    layer.bias.master = np.ones(16, np.float32)
    for p in layer.parameters():
        p.grad = np.zeros(p.master.shape, np.float16)
    w = layer.weight.master.copy()
    Sgd(weight_decay=0.5).step(layer.parameters(), 1.0)
    assert (layer.bias.master == 1).all()
    assert np.array_equal(layer.weight.master, w - 0.5 * w)


def test_errors_name_the_value() -> None:
    with pytest.raises(ValueError, match="25"):
        SgdConstants(0.1, shift=25)
    layer = Linear("l", 2, 2, np.random.default_rng(0))
    with pytest.raises(RuntimeError, match=r"l\.weight"):
        Sgd().step(layer.parameters(), 0.1)
