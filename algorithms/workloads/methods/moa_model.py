"""The decoder of MoA: attention heads with a sliding window each, whose width follows a rule of the length."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Final

import numpy as np

from nmsat.algorithms.core.sparsity import Blocks
from nmsat.algorithms.core.tape import Pattern
from nmsat.algorithms.workloads.engine import ops
from nmsat.algorithms.workloads.engine.products import matmul
from nmsat.algorithms.workloads.engine.transformer import causal, dense, embedding, merge, split, turn

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from nmsat.algorithms.workloads.engine.program import Program, Tensor
    from nmsat.algorithms.workloads.engine.registry import Variant

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
