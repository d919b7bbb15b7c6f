"""Operators that onnx itself has no shapes for: the fused ones of `com.microsoft`, and a few without inference."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from nmsat.dataflow.network.readers.onnx_ask import MICROSOFT, attributes, is_standard

if TYPE_CHECKING:
    from collections.abc import Sequence

    from onnx import NodeProto

    from nmsat.dataflow.network.readers.onnx_ask import TensorShape
SAME_AS_INPUT: Final[dict[str, str]] = {
    **dict.fromkeys(("Gelu", "FastGelu", "BiasGelu", "QuickGelu"), "Gelu"),
    **dict.fromkeys(("SkipLayerNormalization", "LayerNormalization"), "LayerNormalization"),
    **dict.fromkeys(("SkipSimplifiedLayerNormalization", "SimplifiedLayerNormalization"), "RMSNormalization"),
    "BiasSoftmax": "Softmax",
    "BiasDropout": "Dropout",
    "BiasAdd": "Add",
    "GroupNorm": "GroupNormalization",
    "RotaryEmbedding": "RotaryEmbedding",
    **dict.fromkeys(("QuantizeLinear", "DequantizeLinear"), "QuantizeLinear"),
    **dict.fromkeys(("QLinearSigmoid", "QLinearLeakyRelu"), "Sigmoid"),
    "QLinearSoftmax": "Softmax",
    "Inverse": "Inverse",
}
"""Fused operators of `com.microsoft` whose first output has the shape of the first input -> the operator whose work
they do on the host."""

BROADCAST: Final[dict[str, tuple[str, int]]] = {"QLinearAdd": ("Add", 3), "QLinearMul": ("Mul", 3)}
"""Fused operators of two tensors -> operator whose work they do, and the place of the second tensor."""

PLAIN_SAME: Final = frozenset({"GroupNormalization", "MeanVarianceNormalization", "SimplifiedLayerNormalization"})
"""Operators of the default domain that keep the shape of their first input and whose schema may not say so."""


def fused_shape(node: NodeProto, inputs: Sequence[TensorShape | None]) -> tuple[TensorShape | None, ...] | None:
    """Return shapes of the outputs of an operator that has its rule here, None for all others.

    inputs: shapes of the inputs, None where unknown or left out. An output may still be unknown.
    """
    first = inputs[0] if inputs else None
    if is_standard(node):
        return (first,) if node.op_type in PLAIN_SAME and first is not None else None
    if node.domain != MICROSOFT:
        return None
    kind = node.op_type
    if kind in SAME_AS_INPUT:
        return (first,) if not kind.startswith("Skip") else (first, None, None, first)
    if kind in BROADCAST:
        second = inputs[BROADCAST[kind][1]] if len(inputs) > BROADCAST[kind][1] else None
        return (_broadcast(first, second),)
    rule = {
        "FusedMatMul": _matmul,
        "MatMulIntegerToFloat": _matmul,
        "DynamicQuantizeMatMul": _matmul,
        "FusedGemm": _matmul,
        "MatMulNBits": _bits,
        "Attention": _attention,
        "MultiHeadAttention": _multi_head,
        "GroupQueryAttention": _multi_head,
        "EmbedLayerNormalization": _embed,
    }.get(kind)
    return rule(node, inputs) if rule is not None else None


def swapped(shape: TensorShape, flag: int) -> TensorShape:
    """Return a shape with its last two dimensions exchanged if the flag is set."""
    return (*shape[:-2], shape[-1], shape[-2]) if flag and len(shape) > 1 else shape


def _broadcast(a: TensorShape | None, b: TensorShape | None) -> TensorShape | None:
    if a is None or b is None:
        return None
    length = max(len(a), len(b))
    wide = [(1,) * (length - len(shape)) + shape for shape in (a, b)]
    return tuple(max(pair) for pair in zip(*wide, strict=True))


def _matmul(node: NodeProto, inputs: Sequence[TensorShape | None]) -> tuple[TensorShape | None, ...]:
    a, b = inputs[0], inputs[1]
    if a is None or b is None or len(a) < 2 or len(b) < 2:
        return (None,)
    given = attributes(node)
    a, b = swapped(a, given.get("transA", 0)), swapped(b, given.get("transB", 0))
    lead = _broadcast(a[:-2], b[:-2])
    return ((*(lead or ()), a[-2], b[-1]),)


def _bits(node: NodeProto, inputs: Sequence[TensorShape | None]) -> tuple[TensorShape | None, ...]:
    first = inputs[0]
    return ((*first[:-1], int(attributes(node).get("N", 0))) if first else None,)


def _attention(node: NodeProto, inputs: Sequence[TensorShape | None]) -> tuple[TensorShape | None, ...]:
    x, w = inputs[0], inputs[1]
    sizes = attributes(node).get("qkv_hidden_sizes")
    if x is None or w is None:
        return (None,)
    return ((*x[:-1], sizes[2] if sizes else w[-1] // 3),)


def _multi_head(node: NodeProto, inputs: Sequence[TensorShape | None]) -> tuple[TensorShape | None, ...]:
    query = inputs[0]
    value = inputs[2] if len(inputs) > 2 else None
    if query is None or len(query) != 3 or value is None:
        return (None,)
    if node.op_type == "GroupQueryAttention":
        return (query,)
    return ((*query[:-1], value[-1] if len(value) == 3 else value[1] * value[3]),)


def _embed(node: NodeProto, inputs: Sequence[TensorShape | None]) -> tuple[TensorShape | None, ...]:
    ids, words = inputs[0], inputs[2] if len(inputs) > 2 else None
    del node
    return ((*ids, words[-1]) if ids is not None and words is not None else None,)
