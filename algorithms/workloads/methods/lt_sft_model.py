"""The encoder of LT-SFT (`algorithms.workloads.methods.lt_sft`): masked words, tags, and differences beside it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, NamedTuple, TypeAlias

import numpy as np

from nmsat.algorithms.core.sparsity import Unstructured
from nmsat.algorithms.core.tape import Pattern
from nmsat.algorithms.workloads.engine import ops
from nmsat.algorithms.workloads.engine.encoder import EncoderSize, embedded, encoder
from nmsat.algorithms.workloads.engine.parameters import Parameter, kept_count
from nmsat.algorithms.workloads.engine.products import linear
from nmsat.algorithms.workloads.engine.transformer import dense, norm

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from nmsat.algorithms.workloads.engine.encoder import Layer
    from nmsat.algorithms.workloads.engine.program import Program, Tensor

Kind: TypeAlias = Literal["matrix", "vector", "table", "norm"]

PATTERN: Final = Pattern(1, 16)
LANGUAGE_SHARE: Final = 13 * 768**2 / 177.3e6
TASK_SHARE: Final = 24 * 768**2 / 177.3e6
"""Shares of the parameters of multilingual BERT that a difference moves: its authors' K, 4.3 and 8.0 %."""


@dataclass(frozen=True, kw_only=True)
class Size:
    """An encoder with a head for masked words and one for tags.

    language, task: sentences and tokens of a batch of each fine-tuning; tags: classes of a token.
    """

    network: EncoderSize
    language: tuple[int, int]
    task: tuple[int, int]
    tags: int


class Part(NamedTuple):
    """A tensor of the encoder."""

    name: str
    shape: tuple[int, ...]
    kind: Kind


def parts(size: EncoderSize, name: str, *, masked: bool = False) -> list[Part]:
    """Return the tensors of the encoder called `name`; masked: also those of its head for masked words."""
    d = size.width
    tables = (("words", size.vocabulary), ("positions", size.positions), ("segments", size.segments))
    out = [Part(f"{name}.{table}", (rows, d), "table") for table, rows in tables if rows]
    out += _norm(f"{name}.norm", d)
    for index in range(size.layers):
        at = f"{name}.l{index}"
        for label in "qkvo":
            out += _dense(f"{at}.{label}", d, d)
        out += [*_norm(f"{at}.norm1", d), *_dense(f"{at}.up", d, size.hidden), *_dense(f"{at}.down", size.hidden, d)]
        out += _norm(f"{at}.norm2", d)
    return [*out, *_dense(f"{name}.transform", d, d), *_norm(f"{name}.last", d)] if masked else out


def masked_words(
    p: Program, name: str, size: EncoderSize, ids: NDArray[np.integer] | None, shape: tuple[int, int]
) -> Tensor:
    """Return the logits [batch, tokens, vocabulary] of ids[batch, tokens]."""
    h = encoder(p, name, size, embedded(p, name, size, ids, *shape))
    h = norm(p, f"{name}.last", ops.gelu(dense(p, f"{name}.transform", h, size.width)))
    return dense(p, f"{name}.decoder", h, size.vocabulary)


def tags(
    p: Program,
    name: str,
    size: Size,
    ids: NDArray[np.integer] | None,
    shape: tuple[int, int],
    layer: Layer | None = None,
) -> Tensor:
    """Return the logits [batch, tokens, tags] of ids[batch, tokens]; layer: multiplies by a matrix of a name."""
    h = encoder(p, name, size.network, embedded(p, name, size.network, ids, *shape), layer=layer)
    return dense(p, f"{name}.tag", h, size.tags)


def beside(p: Program, differences: Sequence[str], pattern: Pattern) -> Layer:
    """Return what multiplies by a frozen matrix and, in products of their own, by N:M differences from it."""

    def layer(name: str, x: Tensor, n: int) -> Tensor:
        y = dense(p, name, x, n, frozen=True)
        for label in differences:
            at = f"{name}.{label}"
            if at not in p.store:
                shape = (x.shape[-1], n)
                value = 0.1 * p.rng.standard_normal(shape).astype(p.dtype) if p.values else None
                p.store[at] = Parameter(at, shape, value, ff=pattern, frozen=True)
            y = ops.add(y, linear(at, x, p.store[at]))
        return y

    return layer


def start_tuning(
    p: Program, name: str, found: Sequence[Part], share: float, pattern: Pattern | None, like: str = ""
) -> int:
    """Make the tensors of a network in its second phase, so that a share of each learns; return how many elements do.

    pattern: of the elements of matrices instead of random ones; like: network whose values it begins with. Norms are
    frozen. Tensors that are in the store stay as they are.
    """
    total = 0
    for part in found:
        if part.name not in p.store:
            _make(p, part, share, pattern, p.store.get(like + part.name.removeprefix(name)) if like else None)
        w = p.store[part.name]
        if part.kind == "norm":
            continue
        count = p.statistic(f"{part.name}.learnt", lambda w=w: _count(w), lambda p=part: _assumed(p, share, pattern))
        w.learnt = w.learnt if p.values else Unstructured("y", count)
        total += count
    return total


def _make(p: Program, part: Part, share: float, pattern: Pattern | None, like: Parameter | None) -> None:
    """Make a tensor whose learning elements are random ones."""
    frozen = part.kind == "norm"
    if part.kind == "matrix":
        w = p.weight(part.name, part.shape, gain=1.0)
    else:
        p.vector(part.name, part.shape, 1.0 if part.name.endswith(".gain") else 0.0, frozen=frozen)
        w = p.store[part.name]
    if not p.values:
        return
    if like is not None:
        w.value = like.array.copy()
    elif part.kind == "table":
        w.value = (0.5 * p.rng.standard_normal(part.shape)).astype(p.dtype)
    if not frozen:
        count = _assumed(part, share, pattern)
        keep = np.zeros(w.size, np.bool_)
        if pattern is not None and part.kind == "matrix":
            rows = np.argsort(p.rng.random((part.shape[0] // pattern.m, pattern.m, part.shape[1])), axis=1)
            keep = (rows < pattern.n).reshape(part.shape)
        else:
            keep[p.rng.permutation(w.size)[:count]] = True
        w.learnt = Unstructured("y", count, keep.reshape(part.shape))


def _count(w: Parameter) -> int:
    return w.size if w.learnt is None else w.learnt.nonzeros


def _assumed(part: Part, share: float, pattern: Pattern | None) -> int:
    size = int(np.prod(part.shape))
    if pattern is None:
        return round(share * size)
    return kept_count(part.shape, pattern) if part.kind == "matrix" else size * pattern.n // pattern.m


def _dense(name: str, k: int, n: int) -> list[Part]:
    return [Part(name, (k, n), "matrix"), Part(f"{name}.bias", (n,), "vector")]


def _norm(name: str, width: int) -> list[Part]:
    return [Part(f"{name}.gain", (width,), "norm"), Part(f"{name}.bias", (width,), "norm")]


SMALL: Final = Size(
    network=EncoderSize(layers=1, width=32, heads=2, hidden=64, vocabulary=103, positions=12),
    language=(4, 12),
    task=(4, 12),
    tags=6,
)
