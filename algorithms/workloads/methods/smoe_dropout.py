"""SMoE-Dropout: experts behind a random frozen router, more of them as training goes on.

Source: T. Chen et al., "Sparse MoE as the New Dropout: Scaling Dense and Self-Slimmable Transformers", ICLR 2023, arXiv
2303.01610, and the code of its authors.
Known: all equations from that code. The feed-forward layer d -> D -> d is cut into E experts of width D / E:

    logits = x W_r + b_r           W_r normal(0, 0.02), never trained
    gates  = softmax over the k largest logits of a token
    y      = sum over those experts e of gate_e (W2_e relu(W1_e x + b1_e) + b2_e)
    k(t)   = round((k_max - k_min) t / T) + k_min, k_min = E / 2, k_max = E

At test time any k works. The model is a Transformer-XL (Dai et al., ACL 2019): relative positions, memory of the
segment before, post-norm.
Faithful: router, gates, schedule. The head is a matrix of its own here, not the transposed table. Left out: dropout,
clipped gradients.
On SAT: every expert's matrix is one product of the tokens that chose it, gathered; all else is dense. Full, as "dense"
in the tables, means all tokens through all experts. Routing and softmax are the host's.
Assumed: the recorded step is one at k = 3 E / 4, the mean of the schedule, with even loads.
Ours (`nm`): the experts' matrices are 2:8 along k and along n.
Study: the method against the dense network evaluated with as many experts, at every k from 1 to 8, bits per character
of library text; three seeds of 150 steps.
Found here: up to k = 6 of 8 experts the mean is below that of the dense network with as many (3.81 against 3.89 bits
at k = 2), at k = 7 and 8 above it, and the eighth expert does not always help: no. With 2:8 experts it is below it at k
= 1 to 3, 5 and 6 by less.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from nmsat.algorithms.core.tape import Pattern
from nmsat.algorithms.workloads.engine import ops
from nmsat.algorithms.workloads.engine.hostcost import sort_operations
from nmsat.algorithms.workloads.engine.products import experts, linear, matmul
from nmsat.algorithms.workloads.engine.program import Program
from nmsat.algorithms.workloads.engine.registry import Study, Variant, Workload, register
from nmsat.algorithms.workloads.engine.text import library_text
from nmsat.algorithms.workloads.engine.training import LOSS_SCALE, adam, clear
from nmsat.algorithms.workloads.engine.transformer import causal, dense, embedding, merge, norm, split, top_k, turn

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from nmsat.algorithms.workloads.engine.parameters import Parameter
    from nmsat.algorithms.workloads.engine.program import Tensor

PATTERN: Final = Pattern(2, 8)


@dataclass(frozen=True, kw_only=True)
class Size:
    """A Transformer-XL with experts.

    target, memory: tokens of the segment and before it; experts: E; expert: width of one; active: k of the recorded
    step.
    """

    batch: int
    target: int
    memory: int
    layers: int
    width: int
    heads: int
    head: int
    experts: int
    expert: int
    active: int
    vocabulary: int

    @property
    def tokens(self) -> int:
        """Tokens of a step."""
        return self.batch * self.target


def active_experts(step: int, steps: int, least: int, most: int) -> int:
    """Return k(t) of the linear schedule."""
    return round((most - least) * step / steps) + least


def run(p: Program, size: Size, variant: Variant) -> None:
    """Record one training step."""
    rng = np.random.default_rng(0)
    ids = rng.integers(0, size.vocabulary, size.tokens + 1) if p.values else None
    shape = (size.batch, size.memory, size.width)
    memory = [rng.standard_normal(shape) if p.values else None for _ in range(size.layers)]
    tokens, labels = (None, None) if ids is None else (ids[:-1], ids[1:])
    logits, _ = forward(p, size, tokens, memory, size.active, variant)
    p.backward(ops.cross_entropy(logits, labels), LOSS_SCALE)
    learnt = sum(w.size for w in p.store.values() if not w.frozen)
    p.host("update", "Adam", 13 * learnt, 32 * learnt)


def forward(
    p: Program,
    size: Size,
    tokens: NDArray[np.integer] | None,
    memory: Sequence[NDArray | None],
    active: int,
    variant: Variant = "faithful",
    *,
    learned: bool = False,
) -> tuple[Tensor, list[Tensor]]:
    """Return logits [tokens, vocabulary] and the inputs of the layers, the memory of the next segment.

    memory: per layer [batch, memory, width]; active: k; learned: train the router (a baseline, not the method).
    """
    h = embedding(p, "table", tokens, (size.vocabulary, size.width), size.tokens)
    h = ops.reshape(h, (size.batch, size.target, size.width))
    states = []
    for index, before in enumerate(memory):
        name = f"l{index}"
        states.append(h)
        past = p.input((size.batch, size.memory, size.width), before)
        h = norm(p, f"{name}.norm1", ops.add(h, _attention(p, size, name, h, past)))
        flat = ops.reshape(h, (size.tokens, size.width))
        y = mixture(p, size, f"{name}.moe", flat, active, variant, learned=learned)
        h = norm(p, f"{name}.norm2", ops.add(h, ops.reshape(y, h.shape)))
    return dense(p, "head", ops.reshape(h, (size.tokens, size.width)), size.vocabulary), states


def mixture(
    p: Program, size: Size, name: str, x: Tensor, active: int, variant: Variant, *, learned: bool = False
) -> Tensor:
    """Return the mixture of each token's `active` experts; x: [tokens, width]."""
    count, tokens, width = size.experts, x.shape[0], size.width
    router = p.weight(f"{name}.router", (width, count), gain=0.02**2 * width, frozen=not learned)
    logits = linear(f"{name}.router", x, router)
    keep = top_k(logits.data, active) if logits.data is not None else None
    p.host(f"{name}.top", "TopK", sort_operations(tokens, count), tokens * count * 2)
    gates = ops.softmax(ops.mask_fill(logits, keep, active / count), active / count)
    loads = p.statistic(
        f"{name}.loads",
        lambda: tuple(int(c) for c in (keep if keep is not None else np.zeros((1, count))).sum(axis=0)),
        lambda: balanced(tokens * active, count),
    )
    owner, place = (None, None) if keep is None else np.nonzero(keep.T)
    rows = tokens * active
    pattern = PATTERN if variant == "nm" else None
    first = p.weight(f"{name}.w1", (count, width, size.expert), ff=pattern, bp=pattern)
    second = p.weight(f"{name}.w2", (count, size.expert, width), ff=pattern, bp=pattern)
    h = experts(f"{name}.w1", ops.gather(x, place, rows), first, loads, tokens)
    h = ops.relu(ops.add(h, ops.gather(p.vector(f"{name}.b1", (count, size.expert)), owner, rows)))
    y = experts(f"{name}.w2", h, second, loads, tokens)
    y = ops.add(y, ops.gather(p.vector(f"{name}.b2", (count, width)), owner, rows))
    which = None if owner is None or place is None else place * count + owner
    gate = ops.gather(ops.reshape(gates, (tokens * count, 1)), which, rows)
    return ops.scatter_add(ops.mul(y, gate), place, tokens)


def balanced(rows: int, count: int) -> tuple[int, ...]:
    """Return loads that differ by at most 1 and add up to `rows`: assumed where no token is there to choose."""
    return tuple(rows // count + (expert < rows % count) for expert in range(count))


def _attention(p: Program, size: Size, name: str, h: Tensor, past: Tensor) -> Tensor:
    """Return the attention over memory and segment with relative positions."""
    heads, width, keys = size.heads, size.head, size.memory + size.target
    inner = heads * width
    both = dense(p, f"{name}.qkv", ops.concat([past, h], 1), 3 * inner, bias=False)
    q = split(ops.part(ops.part(both, 2, 0, inner), 1, size.memory, keys), heads)
    k, v = (split(ops.part(both, 2, i * inner, (i + 1) * inner), heads) for i in (1, 2))
    distance = p.input((1, keys, size.width), lambda: sinusoids(keys, size.width)[None])
    r = split(dense(p, f"{name}.pos", distance, inner, bias=False), heads)
    r = ops.expand(r, (size.batch, *r.shape[1:]))
    u, w = (p.vector(f"{name}.{label}", (1, heads, 1, width)) for label in ("u", "w"))
    content = matmul(f"{name}.ac", ops.add(q, u), turn(k))
    position = ops.relative_shift(matmul(f"{name}.bd", ops.add(q, w), turn(r)))
    scores = ops.scale(ops.add(content, position), width**-0.5)
    a = ops.softmax(ops.mask_fill(scores, causal(size.target, keys)))
    return dense(p, f"{name}.out", merge(matmul(f"{name}.av", a, v)), size.width, bias=False)


def sinusoids(keys: int, width: int) -> NDArray[np.float64]:
    """Return the embeddings of the distances keys - 1 .. 0."""
    angle = np.arange(keys - 1, -1, -1)[:, None] * 10000.0 ** (-np.arange(0, width, 2) / width)
    return np.concatenate([np.sin(angle), np.cos(angle)], axis=1)[:, :width]


def train(size: Size, steps: int, variant: Variant, kind: str, seed: int = 0) -> dict[str, Parameter]:
    """Train on library text; kind: 'smoe' (the method), 'dense' (all experts always), 'learned' (router trained, k =
    E / 2 always)."""
    stream, store = library_text(size.vocabulary)[0], {}
    rng = np.random.default_rng(seed)
    memory = _no_memory(size)
    starts = rng.integers(0, len(stream) - steps * size.target - 1, size.batch)
    for step in range(1, steps + 1):
        active = {"dense": size.experts, "learned": size.experts // 2}.get(kind)
        if active is None:
            active = active_experts(step, steps, size.experts // 2, size.experts)
        p = Program(store=store, rng=np.random.default_rng(seed + 1))
        tokens, labels = _segment(stream, starts + (step - 1) * size.target, size.target)
        logits, states = forward(p, size, tokens, memory, active, variant, learned=kind == "learned")
        p.backward(ops.cross_entropy(logits, labels))
        adam(store.values(), 4e-3 * min(1.0, 1.2 - step / steps), step)
        clear(store.values())
        memory = _next_memory(size, states)
    return store


def bits_per_character(
    size: Size, store: dict[str, Parameter], active: int, variant: Variant, segments: int = 12
) -> float:
    """Return the bits per character on text not trained on, with `active` experts."""
    stream = library_text(size.vocabulary)[1]
    starts = np.linspace(0, len(stream) - segments * size.target - 2, size.batch).astype(int)
    memory, losses = _no_memory(size), []
    for segment in range(segments):
        p = Program(store=store)
        tokens, labels = _segment(stream, starts + segment * size.target, size.target)
        logits, states = forward(p, size, tokens, memory, active, variant)
        losses.append(float(ops.cross_entropy(logits, labels).array))
        memory = _next_memory(size, states)
    return float(np.mean(losses[1:]) / np.log(2))


def study(variant: Variant) -> Study:
    """Train the method and the dense network on library text, three seeds; evaluate both at every k."""
    seeds, counts = range(SEEDS), range(1, SMALL.experts + 1)
    bits: dict[str, NDArray[np.float64]] = {}
    store: dict[str, Parameter] = {}
    for kind in ("smoe", "dense"):
        rows = []
        for seed in seeds:
            trained = train(SMALL, STEPS, variant, kind, seed)
            rows.append([bits_per_character(SMALL, trained, k, variant, SEGMENTS) for k in counts])
            store = store or trained
        bits[kind] = np.array(rows)
    measured: dict[str, float | int | str] = {"seeds": SEEDS, "steps": STEPS}
    for kind, rows in bits.items():
        measured |= {f"bpc_{kind}_k{k}": float(rows[:, k - 1].mean()) for k in counts}
    measured["router_std"] = float(store["l0.moe.router"].array.std())
    lower = (bits["smoe"] < bits["dense"]).sum(axis=0)
    measured["seeds_lower_at_k"] = ", ".join(str(int(n)) for n in lower)
    falls = bool((np.diff(bits["smoe"], axis=1) < 0).all())
    measured["falls_with_k"] = str(falls)
    holds = falls and bool((bits["smoe"].mean(axis=0) < bits["dense"].mean(axis=0)).all())
    claim = "trained with growing k, more experts are always better, and every k is better than in a dense network"
    return Study(claim, holds, measured, store)


def _segment(
    stream: NDArray[np.int64], starts: NDArray[np.int64], length: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    window = stream[starts[:, None] + np.arange(length + 1)]
    return window[:, :-1].ravel(), window[:, 1:].ravel()


def _no_memory(size: Size) -> list[NDArray]:
    return [np.zeros((size.batch, size.memory, size.width), np.float32) for _ in range(size.layers)]


def _next_memory(size: Size, states: list[Tensor]) -> list[NDArray]:
    return [state.array[:, -size.memory :] for state in states]


SEEDS: Final = 3
STEPS: Final = 150
SEGMENTS: Final = 5
SMALL: Final = Size(
    batch=16,
    target=32,
    memory=32,
    layers=1,
    width=32,
    heads=2,
    head=16,
    experts=8,
    expert=16,
    active=6,
    vocabulary=97,
)
ENWIK8: Final = Size(
    batch=22,
    target=512,
    memory=512,
    layers=4,
    width=256,
    heads=8,
    head=64,
    experts=16,
    expert=512,
    active=12,
    vocabulary=204,
)

register(
    Workload(
        name="smoe-dropout",
        title="SMoE-Dropout",
        source="Chen et al., ICLR 2023, arXiv 2303.01610",
        sparse="experts, k of 16 per token (8 to 16 in training; recorded at 12), router random and frozen",
        variants={
            "faithful": "tokens gathered per expert, dense experts",
            "nm": "ours: experts 2:8 along k and along n besides",
        },
        quoted="enwik8 1.1776 bits per character at k = N / 2, 1.1486 at k = N; up to 37 % of training time saved",
        sizes={"small": SMALL, "paper": ENWIK8},
        run=run,
        study=study,
        about=__doc__,
    )
)
