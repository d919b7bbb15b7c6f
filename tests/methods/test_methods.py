"""The methods: what each prunes, along which axis, and the bound that its own products give."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nmsat.algorithms.core.arithmetic import CONTRACT, FAST
from nmsat.algorithms.core.nm import mask, pack, prune
from nmsat.algorithms.core.numeric import ordered_dot_packed, to_half
from nmsat.algorithms.core.tape import Pattern, Product, Stage, Tape
from nmsat.algorithms.layers.base import Context, prepare
from nmsat.algorithms.layers.products import Conv2d, Linear
from nmsat.algorithms.methods import METHODS, BiMask, Sdgp, Transposable, make_method
from nmsat.algorithms.methods.gradients import inclusion, mvue, sample
from nmsat.algorithms.methods.masks import transposable_mask

FF, BP, WU = Stage.FF, Stage.BP, Stage.WU
SPARSE_STAGES = {
    "dense": set(),
    "ste": {FF},
    "sr-ste": {FF},
    "sdgp": {BP},
    "sdwp": {BP},
    "bdwp": {FF, BP},
    "bi-mask": {FF, BP},
    "transposable": {FF, BP},
    "mvue": {WU},
    "bdwp+mvue": {FF, BP, WU},
}
PATTERNS = [Pattern(*p) for p in [(1, 2), (2, 4), (2, 8), (4, 8), (1, 8), (2, 16), (3, 16)]]


def rng(seed: int = 11) -> np.random.Generator:
    return np.random.default_rng(seed)


def step(name: str, pattern: Pattern, layer: Conv2d | Linear) -> tuple[list[Product], Context]:
    ctx = Context(CONTRACT, make_method(name, pattern), Tape(values=True), rng=rng())
    prepare(layer, ctx)
    shape = (2, 4, 4, 16) if isinstance(layer, Conv2d) else (32, 16)
    y = layer.forward(to_half(rng().standard_normal(shape).astype(np.float32)), ctx)
    layer.backward(to_half(rng().standard_normal(y.shape).astype(np.float32)), ctx)
    assert ctx.tape is not None
    return ctx.tape.products, ctx


def test_every_method_is_covered() -> None:
    assert set(SPARSE_STAGES) == set(METHODS)


@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("kind", ["conv", "linear", "strided"])
def test_products_bounds_and_values(name: str, pattern: Pattern, kind: str) -> None:
    layer = {
        "conv": lambda: Conv2d("c", 16, 32, 3, rng(), padding=1),
        "linear": lambda: Linear("l", 16, 32, rng()),
        "strided": lambda: Conv2d("c", 16, 32, 3, rng(), stride=2, padding=1),
    }[kind]()
    products, ctx = step(name, pattern, layer)
    assert {p.stage for p in products if p.pattern} == SPARSE_STAGES[name]
    for p in products:
        assert p.a is not None and p.w is not None and p.y is not None
        if p.pattern is None:
            continue
        keep = p.w != 0
        groups = np.concatenate([keep, np.zeros((-p.k % p.pattern.m, p.n), bool)]).reshape(-1, p.pattern.m, p.n)
        assert groups.sum(axis=1).max() <= p.pattern.n
        # What the tape holds is enough to repeat the product to the bit.
        again = ordered_dot_packed(p.a, pack(p.w, p.pattern.n, p.pattern.m))
        assert np.array_equal(again.view(np.uint32), p.y.view(np.uint32))
    if kind == "conv":  # the three products are equal in size, 16 and 32 are multiples of every M
        share = pattern.n / pattern.m
        assert ctx.tape is not None
        assert ctx.tape.bound == pytest.approx(3 / (3 - len(SPARSE_STAGES[name]) * (1 - share)))


@pytest.mark.parametrize("name", METHODS)
def test_gradients_agree_with_the_float_mode(name: str) -> None:
    """Contract and float32 differ by rounding only: same masks, same samples."""
    grads = []
    for arithmetic in (CONTRACT, FAST):
        layer = Conv2d("c", 16, 16, 3, rng(), padding=1)
        layer.weight.master = to_half(layer.weight.master).astype(np.float32)
        ctx = Context(arithmetic, make_method(name, Pattern(2, 8)), rng=rng())
        prepare(layer, ctx)
        x = arithmetic.narrow(to_half(rng(1).standard_normal((2, 4, 4, 16)).astype(np.float32)).astype(np.float32))
        y = layer.forward(x, ctx)
        dy = arithmetic.narrow(to_half(rng(2).standard_normal(y.shape).astype(np.float32)).astype(np.float32))
        grads.append((y, layer.backward(dy, ctx), layer.weight.grad))
    for exact, fast in zip(*grads, strict=True):
        assert exact is not None and fast is not None
        scale = np.abs(fast).max()
        assert np.abs(exact.astype(np.float32) - fast).max() <= 2e-3 * scale


def test_sdgp_prunes_each_pixel_along_its_channels_and_keeps_channel_sums() -> None:
    dy = rng().standard_normal((3, 4, 4, 16)).astype(np.float32)
    plain = Sdgp(Pattern(2, 8), rescale=False).backward_gradient(dy)
    assert np.array_equal(plain, prune(dy, 2, 8, axis=3))
    scaled = Sdgp(Pattern(2, 8)).backward_gradient(dy)
    kept = plain != 0
    assert np.array_equal(scaled != 0, kept)
    before, after = np.abs(dy).sum(axis=(1, 2)), np.abs(scaled).sum(axis=(1, 2))
    alive = kept.any(axis=(1, 2))
    assert np.allclose(before[alive], after[alive], rtol=1e-5)


def best_variance(x: np.ndarray, n: int) -> float:
    """Minimum of sum x^2 (1/pi - 1), 0 < pi <= 1, sum pi = n, by trying every set of certain elements."""
    best = np.inf
    for certain in itertools.chain.from_iterable(itertools.combinations(range(len(x)), s) for s in range(n + 1)):
        rest = [i for i in range(len(x)) if i not in certain]
        left = n - len(certain)
        if left == 0:
            value = 0.0 if not np.any(x[rest]) else np.inf
        else:
            pi = left * x[rest] / x[rest].sum()
            value = np.inf if (pi > 1 + 1e-12).any() else float((x[rest] ** 2 * (1 / pi - 1)).sum())
        best = min(best, value)
    return best


@given(st.lists(st.floats(0.01, 100), min_size=8, max_size=8), st.integers(1, 7))
@settings(max_examples=200, deadline=None)
def test_inclusion_probabilities_are_optimal(values: list[float], n: int) -> None:
    x = np.array(values)
    pi = inclusion(x[None, :, None], n)[0, :, 0]
    assert pi.sum() == pytest.approx(n)
    assert (pi <= 1).all()
    assert (x**2 * (1 / pi - 1)).sum() == pytest.approx(best_variance(x, n), rel=1e-9, abs=1e-9)


def test_inclusion_with_few_non_zeros_keeps_them_all() -> None:
    x = np.array([0.0, 3.0, 0.0, 1.0])[None, :, None]
    assert inclusion(x, 2)[0, :, 0].tolist() == [0, 1, 0, 1]
    assert inclusion(x, 3)[0, :, 0].tolist() == [0, 1, 0, 1]
    assert inclusion(np.zeros((1, 4, 1)), 2).sum() == 0


@pytest.mark.parametrize(("n", "m"), [(1, 2), (2, 4), (2, 8), (3, 16)])
def test_samples_have_fixed_size_and_the_right_frequencies(n: int, m: int) -> None:
    x = np.abs(rng().standard_normal((1, m, 1))) ** 2
    pi = inclusion(x, n)
    kept = sample(np.broadcast_to(pi, (20000, m, 1)).copy(), rng())
    assert (kept.sum(axis=1) == n).all()
    frequency = kept.mean(axis=0)[:, 0]
    error = np.sqrt(pi[0, :, 0] * (1 - pi[0, :, 0]) / 20000)
    assert (np.abs(frequency - pi[0, :, 0]) <= 5 * error + 1e-12).all()


def test_mvue_is_unbiased_and_keeps_n_of_m() -> None:
    dy = rng().standard_normal((10, 3)).astype(np.float32)  # one full group of 8 and a short one
    draws = np.stack([mvue(dy, 2, 8, np.random.default_rng(seed)) for seed in range(4000)]).astype(np.float64)
    assert (np.count_nonzero(draws[:, :8], axis=1) == 2).all()
    assert np.array_equal(draws[:, 8:], np.broadcast_to(dy[8:], draws[:, 8:].shape))
    spread = draws.std(axis=0) / np.sqrt(4000)
    assert (np.abs(draws.mean(axis=0) - dy) <= 5 * spread + 1e-6).all()


@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
def test_mvue_hands_on_infinities_and_nans(bad: float) -> None:
    dy = rng().standard_normal((16, 2)).astype(np.float16)
    dy[3, 0] = bad
    out = mvue(dy, 2, 8, rng())
    assert not np.isfinite(out[3, 0])
    assert np.isfinite(out[8:]).all() and np.isfinite(out[:, 1]).all()


def test_mvue_of_large_gradients_is_finite_and_unbiased() -> None:
    """Eight equal gradients of 30,000 at 2:8: 120,000 twice, which binary16 holds only scaled down."""
    dy = np.full((8, 1), 30000, np.float16)
    method = make_method("mvue", Pattern(2, 8))
    drawn = [method.update_gradient(dy, np.random.default_rng(seed)) for seed in range(400)]
    kept = np.stack([each for each in drawn if each is not None])
    assert method.update_shift(dy) == 1
    assert set(np.unique(kept)) == {0, 60000}
    assert kept.astype(np.float64).mean() * 2 == 30000
    assert method.update_shift(np.full((8, 1), 16376, np.float16)) == 0  # four times that is the largest number
    assert method.update_shift(np.array([[np.inf], [np.nan]], np.float16)) == 0
    layer, ctx = Linear("l", 16, 8, rng()), Context(method=method)
    prepare(layer, ctx)
    layer.forward(np.full((8, 16), 0.25, np.float16), ctx)
    layer.backward(np.full((8, 8), 30000, np.float16), ctx)
    assert layer.weight.grad is not None
    assert (layer.weight.grad == 60000).all()  # the exact gradient: eight times 30,000 / 4


@pytest.mark.parametrize("method", ["dense", "sdwp", "sdgp", "mvue"])
def test_decay_is_refused_where_there_is_no_term(method: str) -> None:
    pattern = None if method == "dense" else Pattern(2, 8)
    with pytest.raises(ValueError, match=f"decay is 0.5; method '{method}' prunes no weight in the forward product"):
        make_method(method, pattern, 0.5)
    assert make_method(method, pattern, 0.0).decay == 0


@pytest.mark.parametrize("decay", [-1e-4, float("nan"), 1001.0])
def test_decay_out_of_range_is_refused(decay: float) -> None:
    with pytest.raises(ValueError, match=r"decay is .*; it must be from 0 to 1000"):
        make_method("bdwp", Pattern(2, 8), decay)


def slow_transposable(block: np.ndarray, n: int) -> np.ndarray:
    keep = np.zeros(block.shape, bool)
    for flat in np.argsort(-np.abs(block).ravel().astype(np.float64), kind="stable"):
        i, j = divmod(int(flat), block.shape[1])
        if keep[i].sum() < n and keep[:, j].sum() < n:
            keep[i, j] = True
    return keep


@pytest.mark.parametrize(("n", "m"), [(1, 2), (2, 4), (2, 8), (5, 8), (2, 16)])
def test_transposable_masks_are_the_greedy_ones(n: int, m: int) -> None:
    w = rng().standard_normal((2 * m + 3, 3 * m)).astype(np.float16)
    got = transposable_mask(w, n, m)
    for i, j in itertools.product(range(0, w.shape[0], m), range(0, w.shape[1], m)):
        block = w[i : i + m, j : j + m]
        assert np.array_equal(got[i : i + m, j : j + m], slow_transposable(block, n))
    assert got[: 2 * m].reshape(2, m, -1).sum(axis=1).max() <= n


def test_transposable_masks_hold_for_their_interval() -> None:
    layer, method = Linear("l", 16, 16, rng()), Transposable(Pattern(2, 8), interval=3)
    seen = []
    for _ in range(5):
        layer.weight.refresh(CONTRACT, method)
        seen.append(layer.weight.mask_ff)
        layer.weight.master = rng(len(seen)).standard_normal((16, 16)).astype(np.float32)
    assert seen[0] is seen[1] is seen[2]
    assert seen[3] is seen[4]
    assert not np.array_equal(seen[2], seen[3])


def test_bi_mask_is_a_subset_grouped_in_its_own_order() -> None:
    layer, method = Linear("l", 32, 24, rng()), BiMask(Pattern(2, 8), decay=2e-4, draws=20)
    layer.weight.refresh(CONTRACT, method)
    masks = layer.weight.masks
    assert masks is not None and masks.ff is not None and masks.bp is not None and masks.order is not None
    assert sorted(masks.order.tolist()) == list(range(24))
    assert not (masks.bp & ~masks.ff).any()
    assert masks.bp[:, masks.order].reshape(32, 3, 8).sum(axis=2).max() <= 2
    plain = mask(np.where(masks.ff, layer.weight.half, np.float16(0)), 2, 8, axis=1) & masks.ff
    assert masks.bp.sum() >= plain.sum() * 0.95


def test_bi_mask_backward_uses_the_masked_weights() -> None:
    layer = Conv2d("c", 16, 16, 3, rng(), padding=1)
    products, ctx = step("bi-mask", Pattern(2, 8), layer)
    assert layer.weight.masks is not None and layer.weight.masks.bp is not None
    reference = Conv2d("c", 16, 16, 3, rng(), padding=1)
    reference.weight.master = np.where(layer.weight.masks.bp, layer.weight.master, np.float32(0))
    dense = Context(FAST)
    prepare(reference, dense)
    dy = rng(3).standard_normal((2, 4, 4, 16)).astype(np.float16)
    reference.forward(np.zeros((2, 4, 4, 16), np.float32), dense)
    want = reference.backward(dy.astype(np.float32), dense)
    ctx.tape = None
    assert np.allclose(layer.backward(dy, ctx).astype(np.float32), want, atol=2e-2)
    assert products[-1].stage is BP


@pytest.mark.parametrize("name", ["bi-mask", "transposable"])
def test_the_state_of_a_method_continues_it(name: str) -> None:
    layer, first = Linear("l", 16, 16, rng()), make_method(name, Pattern(2, 8))
    for _ in range(3):
        layer.weight.refresh(CONTRACT, first)
    second = make_method(name, Pattern(2, 8))
    second.load(first.state())
    layer.weight.refresh(CONTRACT, second)  # makes the copies of the last update again
    layer.weight.master = rng(5).standard_normal((16, 16)).astype(np.float32)
    layer.weight.refresh(CONTRACT, first)
    want = layer.weight.masks
    layer.weight.refresh(CONTRACT, second)
    got = layer.weight.masks
    assert want is not None and got is not None
    assert np.array_equal(want.ff, got.ff) and np.array_equal(want.bp, got.bp)  # type: ignore[arg-type]


def test_methods_without_state_refuse_one() -> None:
    with pytest.raises(ValueError, match="bdwp"):
        make_method("bdwp", Pattern(2, 8)).check_state({"kept/x": np.zeros(1)}, [], None)


def test_the_sr_ste_coefficient_can_be_chosen() -> None:
    assert make_method("bdwp", Pattern(2, 8)).decay == 2e-4
    assert make_method("bdwp", Pattern(2, 8), decay=0.0).decay == 0.0
    assert make_method("ste", Pattern(2, 8)).decay == 0.0
