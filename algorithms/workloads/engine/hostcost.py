"""What an operation of the host costs: scalar operations and words moved per element, as in
`dataflow.network.layers`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

WORD_BYTES: Final = 2
"""Bytes of an activation or gradient in memory (binary16)."""


@dataclass(frozen=True)
class Cost:
    """Per element of the larger tensor: operations and words of the forward and of the backward pass.

    A transcendental function counts as one operation.
    """

    operations: int
    words: int
    back_operations: int = 0
    back_words: int = 0


COSTS: Final[dict[str, Cost]] = {
    "Add": Cost(1, 3, 0, 2),
    "Sub": Cost(1, 3, 1, 2),
    "Mul": Cost(1, 3, 2, 5),
    "Relu": Cost(1, 2, 1, 3),
    "Gelu": Cost(5, 2, 8, 3),
    "Sigmoid": Cost(1, 2, 2, 3),
    "Swish": Cost(3, 2, 5, 3),
    "Softmax": Cost(5, 3, 4, 4),
    "LayerNormalization": Cost(5, 3, 9, 5),
    "BatchNormalization": Cost(5, 3, 9, 5),
    "LpNormalization": Cost(5, 3, 9, 5),
    "RMSNormalization": Cost(5, 3, 9, 5),
    "GroupNormalization": Cost(5, 3, 9, 5),
    "Pad": Cost(0, 2, 0, 2),
    "Resize": Cost(0, 2, 0, 2),
    # Results of products at overlapping places, added up; the gradient is gathered.
    "Col2Im": Cost(1, 2, 0, 2),
    # Four neighbours, each with a weight.
    "GridSample": Cost(8, 5, 12, 6),
    "Softplus": Cost(1, 2, 2, 3),
    # Exponential, two logarithms, powers, products.
    "FocalLoss": Cost(12, 2, 12, 3),
    "AbsoluteError": Cost(3, 2, 2, 3),
    # Difference, magnitude, comparison, square.
    "SmoothL1": Cost(4, 2, 2, 3),
    # Three sums of products over the channels; backward two scaled tensors and their difference.
    "CosineDistance": Cost(6, 2, 4, 3),
    # Eight corners, each with a weight; the gradient is added to each.
    "GridLookup": Cost(16, 9, 16, 17),
    # Per sample and colour of three: thickness, two exponentials, weight, sums of colour, depth and opacity.
    "VolumeRendering": Cost(5, 2, 5, 3),
    "ReduceMean": Cost(1, 1, 1, 1),
    "ReduceSum": Cost(1, 1, 1, 1),
    "ArgMin": Cost(1, 2),
    "Abs": Cost(1, 2, 2, 3),
    "MaxPool": Cost(1, 1, 1, 1),
    "Transpose": Cost(0, 2, 0, 2),
    "Expand": Cost(0, 2, 0, 2),
    "Concat": Cost(0, 2, 0, 2),
    "Slice": Cost(0, 2, 0, 2),
    "Gather": Cost(0, 2, 0, 2),
    "ScatterElements": Cost(0, 2, 0, 2),
    "SoftmaxCrossEntropyLoss": Cost(6, 2, 2, 2),
    # Not in ONNX. Rotation of pairs: 2 products, 1 sum per element. Shift of relative positions: a move.
    "RotaryEmbedding": Cost(3, 3, 3, 3),
    "RelativeShift": Cost(0, 2, 0, 2),
    # Difference, square, sum.
    "SquaredError": Cost(3, 2, 2, 3),
    # Two softmaxes with their logarithms, two differences, product, sum.
    "SymmetricDivergence": Cost(15, 2, 16, 4),
    # Magnitude, subtraction, maximum, sign, and the gradient step before it (2).
    "SoftThreshold": Cost(6, 4),
    # Square, sum with 1, logarithm, sum.
    "LogSquare": Cost(4, 1, 4, 3),
    # Compare with a bound while walking the row once.
    "MaskedFill": Cost(1, 2, 1, 2),
    # Per tag and token, three tags: sum, exponential and sum over each tag before (9), logarithm, emission; backward
    # the other direction, marginals of tags (2) and of pairs (9).
    "LinearChainCRF": Cost(11, 3, 22, 5),
    # First and second moment (3 + 4), bias correction, root, division, step; 5 words of 4 bytes read, 3 written.
    "Adam": Cost(13, 16),
}
"""Costs by kind; names follow ONNX where it has one."""


def cost(kind: str) -> Cost:
    """Return the cost of a kind; ValueError lists the known ones."""
    try:
        return COSTS[kind]
    except KeyError:
        raise ValueError(f"kind of host work is {kind!r}; known kinds: {', '.join(sorted(COSTS))}") from None


def sort_operations(rows: int, length: int) -> int:
    """Comparisons of sorting `rows` rows of `length` elements: length * ceil(log2 length) each."""
    return rows * length * max(1, (length - 1).bit_length())
