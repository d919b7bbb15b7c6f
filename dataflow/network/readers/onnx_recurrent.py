"""LSTM, GRU and RNN of ONNX as layers.

Per direction, with G gates, T steps, B sequences:

    input      [T*B, G*H] = X[T*B, I] W                    one product: no step waits for another
    recurrent  [B, G*H]   = H_t[B, H] R                    T products, each after the one before
    dR         [H, G*H]   = H^T[H, T*B] dGates[T*B, G*H]   over all steps at once, dW alike

Gates and states are host work. The first step multiplies its initial state even where that is zero; where nothing
before it learns, no gradient of it is computed.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from nmsat.dataflow.network.layers import Layer, LinearLayer, host_layer
from nmsat.dataflow.network.readers.onnx_ask import attributes

if TYPE_CHECKING:
    from onnx import NodeProto

    from nmsat.dataflow.network.readers.onnx_state import ReaderState

GATES: Final = {"LSTM": 4, "GRU": 3, "RNN": 1}

DIRECTIONS: Final = {"forward": 1, "reverse": 1, "bidirectional": 2}

MAX_STEPS: Final = 4096
"""Most steps of a recurrent layer: each is a product of its own."""


def recurrent(reader: ReaderState, node: NodeProto) -> tuple[Layer, ...]:
    """Return the two products of a recurrent layer and its gates."""
    x, w, r = (reader.shape(node, node.input[at]) for at in range(3))
    weight, inner = reader.need_weight(node, node.input[1]), reader.need_weight(node, node.input[2])
    given = attributes(node)
    steps, batch = (x[1], x[0]) if given.get("layout", 0) else (x[0], x[1])
    directions, columns, hidden = r
    way = given.get("direction", b"forward").decode()
    if DIRECTIONS.get(way) != directions or given.get("hidden_size", hidden) != hidden:
        raise reader.error(
            node,
            f"has direction {way!r}, hidden_size {given.get('hidden_size', hidden)} and recurrent weights {r}, which "
            f"do not fit each other",
        )
    gates = GATES[node.op_type]
    if columns != gates * hidden or w != (directions, columns, x[2]):
        raise reader.error(node, f"has input {x}, weights {w} and recurrent weights {r}, which do not fit each other")
    if steps > MAX_STEPS:
        raise reader.error(node, f"has {steps} steps; at most {MAX_STEPS} are read")
    name = reader.name(node)
    bias = reader.bias(node, 3)
    whole = steps * batch

    def layer(part: str, features: int, root: str, *, gradient: bool, times: int) -> LinearLayer:
        return LinearLayer(
            name=f"{name}.{part}",
            rows=whole,
            features_in=features,
            features_out=columns,
            count=directions,
            bias=bool(bias),
            bias_name=f"{bias}/{part}" if bias else "",
            input_gradient=gradient,
            weight=root,
            steps=times,
            stored="rows",
        )

    given = layer("input", x[2], weight, gradient=node.input[0] in reader.graded, times=1)
    state, peepholes = (*node.input[5:6], "")[0], (*node.input[7:8], "")[0]
    graded = _learns(reader, state)
    stepped = layer("recurrent", hidden, inner, gradient=steps > 1 or graded, times=steps)
    stepped = replace(stepped, state_gradient=graded)
    beside = [peepholes, *(each for each in node.input[5:7] if _learns(reader, each))]
    # Counted with the gates, the third of these layers.
    reader.learnt[len(reader.layers) + 2] = tuple(reader.static[each] for each in beside if each in reader.static)
    return (given, stepped, host_layer(node.op_type, f"{name}.gates", whole * hidden * directions))


def _learns(reader: ReaderState, state: str) -> bool:
    """Tell an initial state that something learns from one of constants: exporters write the usual zeros out."""
    if state not in reader.graded or state not in reader.static:
        return state in reader.graded
    constants = [reader.weights[name] for name in reader.sources.get(state, {state}) if name in reader.weights]
    return any(each.learnt and not each.held and not each.zero for each in constants)
