"""Sparse MeZO: fine-tuning by two forward passes, in which only the small weights are moved.

Source: Y. Liu et al., "Sparse MeZO: Less Parameters for Better Performance in Zeroth-Order LLM Fine-Tuning", arXiv
2402.15751.
Known: equations from the text (GetMask is printed without the absolute value; magnitude is meant); its code could not
be read, figures are second-hand.

    h_l = quantile of |theta_l| at 1 - sparsity, once      m = 1[|theta| <= h_l] in every step
    z ~ N(0, I) from a seed, z^ = m * z                    l+- = L(theta +- eps z^)
    g = (l+ - l-) / (2 eps)                                theta <- theta - eta g z^

MeZO is m = 1, R-MeZO a random m.
Faithful: the perturbed matrices are written by the host, losses are taken in binary64 by the host, as they are nearly
equal. No backward pass.
On SAT: two dense forward passes of a LLaMA decoder (RMSNorm, rotary positions, SwiGLU). Noise, masks, softmax and the
update are the host's.
Assumed: LLaMA-7B, 16 sequences of one length, 256 tokens each; the matrices are moved, the embedding and the gains are
not.
Ours (`nm`): the 2 smallest of each 8 weights along k move. The weights stay as they are: rows of both signs stand in
one dense product with W, and +-eps X (m * Z) is a native 2:8 product beside it.
Study: small weights against all and against a random mask in equal forward passes, each at its best rate (four to a
decade, until the best is inside), with fine-tuning by gradients as the goal; loss on digits transposed, three starts
with three streams of noise each, which do not depend on the rates. Lower means by more than two standard errors of the
paired difference.
Found here: on that task, far from the one that was learnt, the claim does not hold: no. Small weights can only move
until they are no longer small, and stay far behind both controls (a loss of 11.0 against 1.28 and 1.52); those of each
8 are below the random mask and as far as MeZO (1.27 against 1.28, each with an error of 0.05).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Final

import numpy as np

from nmsat.algorithms.core.tape import Pattern
from nmsat.algorithms.training.data import Dataset, digits
from nmsat.algorithms.workloads.engine import ops
from nmsat.algorithms.workloads.engine.hostwork import elementwise
from nmsat.algorithms.workloads.engine.parameters import Parameter
from nmsat.algorithms.workloads.engine.products import linear, matmul
from nmsat.algorithms.workloads.engine.program import Program
from nmsat.algorithms.workloads.engine.registry import Study, Variant, Workload, register
from nmsat.algorithms.workloads.engine.text import library_text
from nmsat.algorithms.workloads.engine.training import adam, bracketed, clear
from nmsat.algorithms.workloads.engine.transformer import (
    TransformerSize,
    causal,
    embedding,
    merge,
    split,
    top_groups,
    turn,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from nmsat.algorithms.workloads.engine.program import Tensor

    Layer = Callable[[str, Tensor, int], Tensor]

PATTERN: Final = Pattern(2, 8)
EPSILON: Final = 1e-3
SELECTED: Final = 0.25
"""Share of the weights that moves: sparsity 0.75."""


@lru_cache(maxsize=1)
def images() -> Dataset:
    """Read the digits once."""
    return digits()


@dataclass(frozen=True, kw_only=True)
class Size(TransformerSize):
    """A LLaMA decoder."""


def threshold(w: NDArray, share: float = SELECTED) -> NDArray:
    """Return h of each matrix w[..., k, n]: the quantile of |w| at `share`, [..., 1, 1]."""
    return np.quantile(np.abs(w), share, axis=(-2, -1), keepdims=True)


def smallest(w: NDArray, pattern: Pattern) -> NDArray[np.bool_]:
    """Return the mask of the N smallest |w| of each M along k (the last axis but one)."""
    return np.swapaxes(top_groups(-np.abs(np.swapaxes(w, -1, -2)), pattern.n, pattern.m), -1, -2)


def descend(
    values: Sequence[NDArray],
    masks: Sequence[NDArray],
    loss: Callable[[list[NDArray]], NDArray],
    noise: Sequence[NDArray],
    lr: NDArray | float,
    epsilon: float = EPSILON,
) -> tuple[list[NDArray], NDArray]:
    """Take one step; returns the new values and g.

    values: tensors, or a stack of several runs [runs, ...] of each; masks: which of their elements move; loss: of the
    values, one number for each run; noise: z of each tensor, N(0, 1); lr: eta, one number or one for each run.
    """
    moves = [m * z for z, m in zip(noise, masks, strict=True)]
    ends = [loss([v + sign * epsilon * z for v, z in zip(values, moves, strict=True)]) for sign in (1, -1)]
    g = np.asarray((ends[0] - ends[1]) / (2 * epsilon))
    rate = np.asarray(lr * g)
    return [
        v - rate.reshape(rate.shape + (1,) * (v.ndim - rate.ndim)) * z for v, z in zip(values, moves, strict=True)
    ], g


def run(p: Program, size: Size, variant: Variant) -> None:
    """Record one step: both forward passes, losses and the update."""
    rng = np.random.default_rng(1)
    text = library_text()[0][: size.batch * size.tokens + 1] if p.values else None
    tokens, labels = (None, None) if text is None else (text[:-1], text[1:])
    noise: dict[str, Parameter] = {}
    if variant == "nm":
        logits = forward(p, size, tokens, _beside(p, noise, rng), 2)
        losses = [_loss(ops.part(logits, 0, i, i + 1), labels) for i in (0, 1)]
    else:
        losses = [_loss(forward(p, size, tokens, _written(p, noise, rng, sign), 1), labels) for sign in (1, -1)]
    elements = sum(w.size for w in noise.values())
    # Compare and multiply; the noise itself once more, from its seed: logarithm, root, sine or cosine, products.
    p.host("mask", "SmallWeights", *elementwise(elements, 3, 2, word=2))
    p.host("noise", "RandomNormal", *elementwise(2 * elements, 6, 1, word=2))
    p.host("update", "MeZO", *elementwise(elements, 2, 3, word=2))
    g = (losses[0] - losses[1]) / (2 * EPSILON)
    for name, z in noise.items():
        if z.value is not None:
            p.store[name].value = (p.store[name].array - 1e-3 * g * z.array).astype(p.dtype)


def forward(p: Program, size: Size, tokens: NDArray[np.integer] | None, layer: Layer, signs: int) -> Tensor:
    """Return the logits [signs, batch * tokens, vocabulary]; layer: multiplies by the matrix of a name."""
    width, rows = size.width, size.batch * size.tokens
    head = width // size.heads
    h = embedding(p, "table", tokens, (size.vocabulary, width), rows, frozen=True)
    h = ops.reshape(h, (1, size.batch, size.tokens, width))
    h = ops.expand(h, (signs, size.batch, size.tokens, width)) if signs > 1 else h
    h = ops.reshape(h, (signs * size.batch, size.tokens, width))
    for index in range(size.layers):
        name = f"l{index}"
        x = _norm(p, f"{name}.norm1", h)
        q, k, v = (split(layer(f"{name}.{c}", x, width), size.heads) for c in "qkv")
        scores = ops.scale(matmul(f"{name}.qk", ops.rotary(q), turn(ops.rotary(k))), head**-0.5)
        a = ops.softmax(ops.mask_fill(scores, causal(size.tokens, size.tokens)))
        h = ops.add(h, layer(f"{name}.o", merge(matmul(f"{name}.av", a, v)), width))
        x = _norm(p, f"{name}.norm2", h)
        gate = ops.silu(layer(f"{name}.gate", x, size.hidden))
        h = ops.add(h, layer(f"{name}.down", ops.mul(gate, layer(f"{name}.up", x, size.hidden)), width))
    return ops.reshape(layer("head", _norm(p, "norm", h), size.vocabulary), (signs, rows, size.vocabulary))


def _written(p: Program, noise: dict[str, Parameter], rng: np.random.Generator, sign: int) -> Layer:
    """Multiply by W + sign eps m Z, which the host writes."""

    def layer(name: str, x: Tensor, n: int) -> Tensor:
        w = p.weight(name, (x.shape[-1], n), gain=1.0, frozen=True)
        z = _drawn(noise, rng, w, lambda: np.abs(w.array) <= threshold(w.array), None)
        value = None if z.value is None else (w.array + sign * EPSILON * z.array).astype(p.dtype)
        p.host("perturb", "Add", *elementwise(w.size, 2, 3, word=2))
        return linear(name, x, Parameter(name, w.shape, value, frozen=True))

    return layer


def _beside(p: Program, noise: dict[str, Parameter], rng: np.random.Generator) -> Layer:
    """Multiply both signs [+ rows, - rows] by W, and by the noise of the small weights beside it."""

    def layer(name: str, x: Tensor, n: int) -> Tensor:
        w = p.weight(name, (x.shape[-1], n), gain=1.0, frozen=True)
        z = _drawn(noise, rng, w, lambda: smallest(w.array, PATTERN), PATTERN)
        both = linear(name, x, w)
        side = linear(f"{name}.noise", x, z)
        half = x.shape[0] // 2
        signs = np.repeat(np.array([EPSILON, -EPSILON]), half).reshape(-1, 1, 1)
        return ops.add(both, ops.mul(side, p.input(signs.shape, signs)))

    return layer


def _drawn(
    noise: dict[str, Parameter],
    rng: np.random.Generator,
    w: Parameter,
    mask: Callable[[], NDArray],
    pattern: Pattern | None,
) -> Parameter:
    """Return m * Z of a matrix, drawn once in a step."""
    if w.name not in noise:
        value = None if w.value is None else (mask() * rng.standard_normal(w.shape)).astype(w.array.dtype)
        noise[w.name] = Parameter(f"{w.name}.noise", w.shape, value, ff=pattern, frozen=True)
    return noise[w.name]


def _norm(p: Program, name: str, x: Tensor) -> Tensor:
    return ops.rms_norm(x, p.vector(name, x.shape[-1:], 1.0, frozen=True))


def _loss(logits: Tensor, labels: NDArray[np.integer] | None) -> float:
    """Return the mean cross entropy in binary64; 0 in a run of shapes."""
    logits.program.host("loss", "SoftmaxCrossEntropyLoss", *elementwise(logits.size, 6, 2))
    if logits.data is None:
        return 0.0
    return float(losses_of(logits.array.reshape(1, -1, logits.shape[-1]), ops.given(labels))[0])


def losses_of(logits: NDArray, labels: NDArray[np.integer]) -> NDArray[np.float64]:
    """Return the mean cross entropy of each of logits[runs, rows, classes], in binary64."""
    v = logits.astype(np.float64)
    v = v - v.max(axis=-1, keepdims=True)
    chosen = np.take_along_axis(v, np.broadcast_to(labels[None, :, None], (len(v), len(labels), 1)), 2)[..., 0]
    return (np.log(np.exp(v).sum(axis=-1)) - chosen).mean(axis=1)


def pretrained(seed: int) -> list[NDArray]:
    """Return the two matrices of a perceptron 64-32-10 that has learnt digits, 300 steps of Adam."""
    data, rng = images(), np.random.default_rng(seed)
    store: dict[str, Parameter] = {}
    x = data.x_train.reshape(-1, 64)
    for step in range(1, 301):
        pick = rng.integers(0, len(x), 64)
        p = Program(store=store, rng=np.random.default_rng(seed))
        p.backward(ops.cross_entropy(_perceptron(p, x[pick]), data.y_train[pick]))
        adam(store.values(), 1e-2, step)
        clear(store.values())
    return [store["fc0"].array, store["fc1"].array]


def finetuned(values: list[NDArray], x: NDArray, labels: NDArray[np.int64], steps: int) -> list[NDArray]:
    """Return the matrices after as many steps of Adam with the true gradient."""
    store = {f"fc{i}": Parameter(f"fc{i}", v.shape, v.copy()) for i, v in enumerate(values)}
    rng = np.random.default_rng(3)
    for step in range(1, steps + 1):
        pick = rng.integers(0, len(x), 64)
        p = Program(store=store)
        p.backward(ops.cross_entropy(_perceptron(p, x[pick]), labels[pick]))
        adam(store.values(), 1e-3, step)
        clear(store.values())
    return [store["fc0"].array, store["fc1"].array]


def tune(kind: str, starts: list[list[NDArray]], steps: int, rates: Sequence[float]) -> NDArray[np.float64]:
    """Fine-tune to transposed digits from several starts with several streams of noise at several rates at once.

    kind: 'all' (MeZO), 'random' (R-MeZO), 'small' (S-MeZO) or 'groups' (ours). Noise, random masks and batches do not
    depend on the rates, so that a rate gives the same losses whatever stands beside it.
    Returns the losses [2, starts * STREAMS, rates] on all training and on the test images; inf where it diverged.
    """
    x, labels, x_test, y_test = transposed()
    runs = STREAMS * len(starts)
    values = [np.repeat(np.stack([s[i] for s in starts]), STREAMS * len(rates), axis=0).astype(float) for i in (0, 1)]
    lr = np.tile(rates, runs)
    batches, drawn, masked = (np.random.default_rng([11, part]) for part in range(3))

    def each(draw: Callable[[tuple[int, ...]], NDArray]) -> list[NDArray]:
        return [np.repeat(draw((runs, *v.shape[1:])), len(rates), axis=0) for v in values]

    fixed = [threshold(v) for v in values]
    random = each(lambda shape: masked.random(shape) < SELECTED)
    choices: dict[str, Callable[[list[NDArray]], list[NDArray]]] = {
        "all": lambda now: [np.ones(v.shape) for v in now],
        "random": lambda _: random,
        "small": lambda now: [np.abs(v) <= h for v, h in zip(now, fixed, strict=True)],
        "groups": lambda now: [smallest(v, PATTERN) for v in now],
    }
    mask = choices[kind]
    for _ in range(steps):
        pick = batches.integers(0, len(x), 64)
        noise = each(drawn.standard_normal)
        with np.errstate(all="ignore"):
            values, _ = descend(values, mask(values), partial(_batch_loss, x[pick], labels[pick]), noise, lr)
    with np.errstate(all="ignore"):
        found = [_stack_loss(values, *pair) for pair in ((x, labels), (x_test, y_test))]
    return np.nan_to_num(np.stack(found), nan=np.inf).reshape(2, runs, len(rates))


def transposed() -> tuple[NDArray, NDArray[np.int64], NDArray, NDArray[np.int64]]:
    """Return digits with rows and columns swapped: the task to fine-tune to."""
    data = images()
    swap = [x[..., 0].transpose(0, 2, 1).reshape(-1, 64) for x in (data.x_train, data.x_test)]
    return swap[0], data.y_train, swap[1], data.y_test


def _stack_loss(values: list[NDArray], x: NDArray, labels: NDArray[np.int64]) -> NDArray[np.float64]:
    return losses_of(np.maximum(x @ values[0], 0) @ values[1], labels)


def _batch_loss(x: NDArray, labels: NDArray[np.int64], values: list[NDArray]) -> NDArray[np.float64]:
    return _stack_loss(values, x, labels)


def _perceptron(p: Program, x: NDArray) -> Tensor:
    h = ops.relu(linear("fc0", p.input(x.shape, x), p.weight("fc0", (64, 32))))
    return linear("fc1", h, p.weight("fc1", (32, 10)))


def study(variant: Variant) -> Study:
    """A perceptron that knows digits learns them transposed: MeZO, random and small mask, each at its best rate."""
    starts = [pretrained(seed) for seed in range(3)]
    x, labels, x_test, y_test = transposed()
    measured: dict[str, float | int | str] = {"steps": STEPS, "seeds": len(starts), "noise_streams": STREAMS}
    stack = [np.stack([s[i] for s in starts]) for i in (0, 1)]
    measured["loss_before"] = float(_stack_loss(stack, x_test, y_test).mean())
    full = [finetuned(s, x, labels, STEPS) for s in starts]
    measured["loss_finetuned"] = float(
        _stack_loss([np.stack([f[i] for f in full]) for i in (0, 1)], x_test, y_test).mean()
    )
    ours, found = "groups" if variant == "nm" else "small", {}
    for kind in ("all", "random", ours):
        rate, found[kind] = best_rate(kind, starts, STEPS)
        spread = found[kind].std(ddof=1) / np.sqrt(found[kind].size)
        measured |= {f"loss_{kind}": float(found[kind].mean()), f"error_{kind}": float(spread), f"rate_{kind}": rate}
    holds = all(clearly_below(found[ours], found[other]) for other in ("all", "random"))
    claim = "moving the small weights alone comes closer to fine-tuning than MeZO and a random mask, in equal passes"
    return Study(claim, holds, measured)


def best_rate(
    kind: str, starts: list[list[NDArray]], steps: int, first: Sequence[int] = range(-10, -4)
) -> tuple[float, NDArray[np.float64]]:
    """Return the rate of least mean training loss, of 10^(i / 4), and the test losses of all runs at it.

    first: the i to begin with; those beyond are tried until the best is not at an edge (`bracketed`).
    """
    found: dict[int, NDArray[np.float64]] = {}

    def losses(exponents: Sequence[int]) -> list[float]:
        both = tune(kind, starts, steps, [10 ** (i / 4) for i in exponents])
        found.update(zip(exponents, np.moveaxis(both, 2, 0), strict=True))
        return [float(found[i][0].mean()) for i in exponents]

    best = bracketed(first, losses, (-24, 8))
    return 10 ** (best / 4), found[best][1]


def clearly_below(ours: NDArray[np.float64], other: NDArray[np.float64]) -> bool:
    """Say whether paired losses are lower by more than two standard errors of their mean difference."""
    gap = other - ours
    return bool(gap.mean() > 2 * gap.std(ddof=1) / np.sqrt(gap.size))


STEPS: Final = 500
STREAMS: Final = 3
"""Streams of noise for each start."""

SMALL: Final = Size(batch=2, tokens=16, layers=1, width=32, heads=2, hidden=64, vocabulary=97)
LLAMA_7B: Final = Size(batch=16, tokens=256, layers=32, width=4096, heads=32, hidden=11008, vocabulary=32000)

register(
    Workload(
        name="sparse-mezo",
        title="Sparse MeZO",
        source="Liu et al., arXiv 2402.15751",
        sparse="perturbation and update, the smallest quarter of the weights",
        variants={
            "faithful": "the host writes the perturbed matrices; two dense forward passes",
            "nm": "ours: the 2 smallest of each 8 along k move, as a native product beside the dense one",
        },
        quoted="LLaMA-7B, mean of six tasks: MeZO 76.6, random mask 76.9, S-MeZO 80.3, fine-tuning 82.9 (second-hand)",
        sizes={"small": SMALL, "paper": LLAMA_7B},
        run=run,
        study=study,
        about=__doc__,
    )
)
