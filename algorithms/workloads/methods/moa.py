"""MoA (mixture of attention spans): every head has its own sliding window, which grows with the length of the input.

Source: T. Fu et al., "MoA: Mixture of Sparse Attention for Automatic Large Language Model Compression", arXiv
2406.14909 (COLM 2025), and the code of its authors.

    span of head h at length L       S_h(L) = alpha_h + beta_h L, in whole blocks; the first block (sink) is always seen
    influence of a pair              E = -A (G - rowsum(G A)) / (1 - A), G = dLoss / dA; the first row -G A
    cost of a rule                   sum of block influences |E| outside its causal mask, per length
    choice                           one rule per head, at most 2 per layer, mean span between 0.9 and 1 of the budget
                                     at every length: a mixed-integer program; Pareto set over the lengths by the
                                     epsilon constraint; the plan with the least loss at a length not profiled

Loss: cross entropy against the dense model's own answers (`algorithms.workloads.methods.moa_plan`). Faithful: rule
grid, influence, program, masks; a window of w blocks includes the sink, as at the run time of the authors (their
optimizer counts one block more). The plan at the scale of the paper is assumed: half of the heads 1024 + 0 L, half 0 +
0.875 L, the extremes of the published plan, which give its densities (0.5 of the cache, about 0.61 of the prefill
blocks). Ours (`nm`): the projections are 2:4 along k besides.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Final

import numpy as np

from nmsat.algorithms.core.sparsity import Blocks
from nmsat.algorithms.core.tape import Pattern
from nmsat.algorithms.workloads.engine import ops
from nmsat.algorithms.workloads.engine.products import matmul
from nmsat.algorithms.workloads.engine.registry import Study, Variant, Workload, register
from nmsat.algorithms.workloads.engine.transformer import causal, dense, embedding, merge, split, turn

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from nmsat.algorithms.workloads.engine.program import Program, Tensor

PATTERN: Final = Pattern(2, 4)


@dataclass(frozen=True)
class Rule:
    """S(L) = alpha + beta L, in tokens."""

    alpha: float
    beta: float

    def span(self, length: int) -> float:
        """Tokens seen at a length."""
        return self.alpha + self.beta * length

    def blocks(self, length: int, block: int) -> int:
        """Blocks seen at a length, the sink included: at least 2 where there are as many, at most all."""
        total = -(-length // block)
        return max(min(2, total), min(total, -(-round(self.span(length)) // block)))


FULL: Final = Rule(0, 1)


@dataclass(frozen=True, kw_only=True)
class Size:
    """A decoder that reads a prompt (prefill).

    heads: query heads; kv: key and value heads, repeated to `heads`; plan: rules of the groups of heads of each layer,
    (rule, heads) in the order in which the heads are laid out; inputs: features of a token, 0 for a vocabulary that is
    looked up; all_tokens: logits for every token instead of the last.
    """

    batch: int
    tokens: int
    layers: int
    width: int
    heads: int
    kv: int
    head: int
    hidden: int
    vocabulary: int
    block: int
    plan: tuple[tuple[Rule, int], ...]
    inputs: int = 0
    all_tokens: bool = False


def run(p: Program, size: Size, variant: Variant) -> None:
    """Record the prefill of a prompt."""
    rng = np.random.default_rng(0)
    if size.inputs:
        shape = (size.batch, size.tokens, size.inputs)
        x: Tensor | NDArray | None = p.input(shape, lambda: rng.standard_normal(shape))
    else:
        x = rng.integers(0, size.vocabulary, size.batch * size.tokens) if p.values else None
    forward(p, size, x, [size.plan] * size.layers, variant)


def forward(
    p: Program,
    size: Size,
    x: Tensor | NDArray | None,
    plan: Sequence[tuple[tuple[Rule, int], ...]],
    variant: Variant = "faithful",
    attentions: list[Tensor] | None = None,
) -> Tensor:
    """Return the logits. plan: per layer; attentions: collects the attention of each group of heads."""
    pattern = PATTERN if variant == "nm" else None

    def layer(name: str, value: Tensor, n: int) -> Tensor:
        return dense(p, name, value, n, bias=False, ff=pattern)

    if size.inputs and x is not None and not isinstance(x, np.ndarray):
        h = dense(p, "embed", x, size.width, bias=False)
    else:
        rows = size.batch * size.tokens
        table = embedding(p, "table", None if x is None else np.asarray(x), (size.vocabulary, size.width), rows)
        h = ops.reshape(table, (size.batch, size.tokens, size.width))
    for index, groups in enumerate(plan):
        name = f"l{index}"
        y = ops.rms_norm(h, p.vector(f"{name}.norm1", (size.width,), 1.0))
        qkv = (
            ops.rotary(split(layer(f"{name}.q", y, size.heads * size.head), size.heads)),
            ops.rotary(split(layer(f"{name}.k", y, size.kv * size.head), size.kv)),
            split(layer(f"{name}.v", y, size.kv * size.head), size.kv),
        )
        h = ops.add(h, layer(f"{name}.o", merge(_attention(size, name, qkv, groups, attentions)), size.width))
        y = ops.rms_norm(h, p.vector(f"{name}.norm2", (size.width,), 1.0))
        gate = ops.mul(ops.silu(layer(f"{name}.gate", y, size.hidden)), layer(f"{name}.up", y, size.hidden))
        h = ops.add(h, layer(f"{name}.down", gate, size.width))
    h = ops.rms_norm(h, p.vector("norm", (size.width,), 1.0))
    h = h if size.all_tokens else ops.part(h, 1, size.tokens - 1, size.tokens)
    return dense(p, "head", h, size.vocabulary, bias=False)


def _attention(
    size: Size,
    name: str,
    qkv: tuple[Tensor, Tensor, Tensor],
    groups: tuple[tuple[Rule, int], ...],
    attentions: list[Tensor] | None,
) -> Tensor:
    """Return the attention of all heads [B, heads, N, d], group by group of equal span."""
    q, k, v = (_repeated(t, size.heads) for t in qkv)
    total, start, out = size.tokens, 0, []
    for index, (rule, heads) in enumerate(groups):
        label, keep = f"{name}.g{index}", band(-(-total // size.block), rule.blocks(total, size.block))
        part = [ops.part(t, 1, start, start + heads) for t in (q, k, v)]
        scores = matmul(f"{label}.qk", part[0], turn(part[1]), sparsity=Blocks("y", size.block, size.block, keep))
        seen = token_mask(keep, total, size.block) if q.program.values else None
        share = float(keep.mean())
        scores = ops.mask_fill(ops.scale(scores, size.head**-0.5, share), seen, share)
        a = ops.softmax(scores, share)
        if attentions is not None:
            attentions.append(a)
        out.append(matmul(f"{label}.av", a, part[2], sparsity=Blocks("a", size.block, size.block, keep)))
        start += heads
    return ops.concat(out, 1)


def _repeated(x: Tensor, heads: int) -> Tensor:
    """Repeat key and value heads so that each query head has one."""
    batch, kv, tokens, width = x.shape
    if kv == heads:
        return x
    wide = ops.expand(ops.reshape(x, (batch, kv, 1, tokens, width)), (batch, kv, heads // kv, tokens, width))
    return ops.reshape(wide, (batch, heads, tokens, width))


@lru_cache(maxsize=256)
def band(blocks: int, width: int) -> NDArray[np.bool_]:
    """Return which blocks are seen, bool[blocks, blocks]: the sink and the last width - 1 blocks up to the diagonal."""
    i, j = np.indices((blocks, blocks))
    keep = (j <= i) & ((i - j < max(1, width - 1)) | (j == 0))
    keep.setflags(write=False)
    return keep


def token_mask(keep: NDArray[np.bool_], tokens: int, block: int) -> NDArray[np.bool_]:
    """Return which tokens are seen: the causal part of the blocks, bool[tokens, tokens]."""
    place = np.arange(tokens) // block
    return keep[np.ix_(place, place)] & causal(tokens, tokens)


SMALL: Final = Size(
    batch=2,
    tokens=64,
    layers=1,
    width=32,
    heads=4,
    kv=4,
    head=8,
    hidden=64,
    vocabulary=16,
    block=4,
    plan=((Rule(0, 0.375), 3), (Rule(0, 0.875), 1)),
    inputs=20,
    all_tokens=True,
)
VICUNA_7B: Final = Size(
    batch=1,
    tokens=8192,
    layers=32,
    width=4096,
    heads=32,
    kv=32,
    head=128,
    hidden=11008,
    vocabulary=32000,
    block=64,
    plan=((Rule(1024, 0), 16), (Rule(0, 0.875), 16)),
)


def study(variant: Variant) -> Study:
    """See `algorithms.workloads.methods.moa_plan.study`."""
    from nmsat.algorithms.workloads.methods import moa_plan

    return moa_plan.study(variant)


register(
    Workload(
        name="moa",
        title="MoA",
        source="Fu et al., arXiv 2406.14909, COLM 2025",
        sparse="attention, causal bands with sink, span per head",
        variants={
            "faithful": "blocks of q k^T and A v outside the bands skipped, projections dense",
            "nm": "ours: besides, projections 2:4 along k",
        },
        quoted="3.9x longer effective context at equal span; decode 6.6 to 8.2x against FlashAttention-2 (abstract)",
        sizes={"small": SMALL, "paper": VICUNA_7B},
        run=run,
        study=study,
    )
)
