"""Attention as one operator (opset 23 and `com.microsoft`): two products of activations and a softmax."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

from nmsat.dataflow.network.layers import Layer, LinearLayer, MatMulLayer, host_layer
from nmsat.dataflow.network.readers.onnx_ask import attributes

if TYPE_CHECKING:
    from onnx import NodeProto

    from nmsat.dataflow.network.readers.onnx_state import ReaderState


def standard_attention(reader: ReaderState, node: NodeProto) -> tuple[Layer, ...]:
    """Return Attention of opset 23: Q, K, V [B, heads, S, D] or [B, S, heads * D]; keys that are kept go before."""
    given = attributes(node)
    q, k, v = (reader.shape(node, node.input[at]) for at in range(3))
    heads, shared = given.get("q_num_heads", 0), given.get("kv_num_heads", 0)
    if len(q) == 3 and not heads:
        raise reader.error(node, "has inputs of three dimensions and no q_num_heads")
    q, k, v = _by_head(q, heads), _by_head(k, shared or heads), _by_head(v, shared or heads)
    return _products(reader, node, reader.name(node), q, k, v, past=_past(reader, node, 4))


def multi_head_attention(reader: ReaderState, node: NodeProto) -> tuple[Layer, ...]:
    """Return MultiHeadAttention and GroupQueryAttention: queries, keys and values in tensors of their own."""
    given = attributes(node)
    if any(len(node.input) <= at or not node.input[at] for at in (1, 2)):
        raise reader.error(node, "has its queries, keys and values in one tensor, which is not supported")
    q, k, v = (reader.shape(node, node.input[at]) for at in range(3))
    if len(q) != 3 or len(k) == 5:
        raise reader.error(node, f"has queries {q} and keys {k}; only tensors of their own are supported")
    heads = given.get("num_heads", 0)
    shared = given.get("kv_num_heads", heads)
    grouped = node.op_type == "GroupQueryAttention"
    past = _past(reader, node, 3 if grouped else 6)
    sizes = (_by_head(q, heads), _by_head(k, shared), _by_head(v, shared))
    return _products(reader, node, reader.name(node), *sizes, past=past)


def fused_attention(reader: ReaderState, node: NodeProto) -> tuple[Layer, ...]:
    """Return Attention of `com.microsoft`: the projections of queries, keys and values in one weight."""
    given = attributes(node)
    x, w = reader.shape(node, node.input[0]), reader.shape(node, node.input[1])
    if len(x) != 3 or len(w) != 2 or x[2] != w[0]:
        raise reader.error(node, f"has input {x} and weights {w}, which do not fit each other")
    sizes = given.get("qkv_hidden_sizes") or [w[1] // 3] * 3
    name = reader.name(node)
    bias = reader.bias(node, 2)
    projection = LinearLayer(
        name=f"{name}.projection",
        rows=x[0] * x[1],
        features_in=w[0],
        features_out=w[1],
        bias=bool(bias),
        bias_name=bias,
        input_gradient=node.input[0] in reader.graded,
        weight=reader.need_weight(node, node.input[1]),
    )
    q, k, v = (_by_head((x[0], x[1], int(size)), given.get("num_heads", 1)) for size in sizes)
    past = len(node.input) > 4 and node.input[4]
    kept = reader.shape(node, node.input[4])[3] if past else 0
    return (projection, *_products(reader, node, name, q, k, v, past=kept, graded=(True, True, True)))


def _by_head(shape: tuple[int, ...], heads: int) -> tuple[int, ...]:
    """Return [B, heads, S, D] of [B, S, heads * D]."""
    if len(shape) == 4 or heads < 1 or shape[-1] % heads:
        return shape
    return (shape[0], heads, shape[1], shape[2] // heads)


def _past(reader: ReaderState, node: NodeProto, at: int) -> int:
    """Return how many keys are kept from before."""
    if len(node.input) <= at or not node.input[at]:
        return 0
    shape = reader.tensors.shapes.get(node.input[at])
    if shape is None or len(shape) != 4:
        raise reader.error(node, f"keeps keys {node.input[at]!r} of shape {shape}; four known sizes are needed")
    return shape[2]


def _products(
    reader: ReaderState,
    node: NodeProto,
    name: str,
    q: tuple[int, ...],
    k: tuple[int, ...],
    v: tuple[int, ...],
    *,
    past: int,
    graded: tuple[bool, bool, bool] | None = None,
) -> tuple[Layer, ...]:
    if not len(q) == len(k) == len(v) == 4 or q[3] != k[3] or k[2] != v[2] or q[1] % k[1]:
        raise reader.error(node, f"has queries {q}, keys {k} and values {v}, which do not fit each other")
    by_q, by_k, by_v = graded or tuple(node.input[at] in reader.graded for at in range(3))
    batch, heads, rows, depth = q
    keys = k[2] + past
    scores = MatMulLayer(
        name=f"{name}.scores", m=rows, k=depth, n=keys, count=batch * heads, gradient_a=by_q, gradient_b=by_k
    )
    context = MatMulLayer(
        name=f"{name}.context", m=rows, k=keys, n=v[3], count=batch * heads, gradient_a=by_q or by_k, gradient_b=by_v
    )
    softmax = host_layer("Softmax", f"{name}.softmax", prod((batch, heads, rows, keys)))
    return (scores, softmax, context)
