"""Sequences of tensors in an ONNX graph, where it is known what they hold: their operators become such of tensors."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import numpy as np
from onnx import helper

from nmsat.dataflow.network.readers.onnx_ask import attributes, is_standard
from nmsat.dataflow.network.readers.onnx_inner import AXES_AS_INPUT, GraphsInPlace
from nmsat.dataflow.network.readers.onnx_load import MAX_NODES, node_name

if TYPE_CHECKING:
    from collections.abc import Sequence

    from onnx import NodeProto

    from nmsat.dataflow.network.readers.onnx_inner import GraphWalk

SIZES_AS_INPUT: Final = AXES_AS_INPUT
"""Opset from which Split takes its sizes as an input."""

MAKING: Final = ("SplitToSequence", "SequenceConstruct", "SequenceEmpty", "SequenceInsert", "SequenceErase")
"""Operators whose result is a sequence."""

READING: Final = ("SequenceAt", "SequenceLength", "ConcatFromSequence")
"""Operators of a sequence whose result is a tensor."""

SEQUENCES: Final = frozenset((*MAKING, *READING))
"""Operators of sequences that are followed."""


@dataclass
class Sequences:
    """Follows sequences. held: the tensors in each of them, as far as it is known."""

    walk: GraphWalk
    inner: GraphsInPlace
    held: dict[str, list[str]] = field(default_factory=dict)

    def take(self, node: NodeProto, depth: int) -> bool:
        """Take one node; True where tensors stand for all of its results, so that it does not remain."""
        if not is_standard(node):
            return False
        if node.op_type in (*MAKING, "Identity"):
            made = self._made(node, depth)
            if made is not None:
                if len(made) > MAX_NODES:
                    raise ValueError(self._says(node, f"holds {len(made)} tensors; at most {MAX_NODES} are read"))
                self.held[node.output[0]] = made
            # It remains for what is not followed; if nothing of the kind reads it, it reaches no output.
            return False
        if node.op_type in READING and node.input[0] in self.held:
            return self._read(node, self.held[node.input[0]], depth)
        return False

    def _made(self, node: NodeProto, depth: int) -> list[str] | None:
        kind, source = node.op_type, node.input[0] if node.input else ""
        if kind == "SplitToSequence":
            return self._split(node, depth)
        if kind in ("SequenceConstruct", "SequenceEmpty"):
            return list(node.input)
        if source not in self.held:
            return None
        held = list(self.held[source])
        if kind == "Identity":
            return held
        inserts = kind == "SequenceInsert"
        place = self._place(node, 2 if inserts else 1, len(held) + inserts, default=len(held) if inserts else -1)
        if place is None:
            return None
        if inserts:
            held.insert(place, node.input[1])
        else:
            del held[place]
        return held

    def _place(self, node: NodeProto, at: int, length: int, default: int | None = None) -> int | None:
        """Return the place in a sequence that an input says, counted from its start; None where it is not known."""
        name = node.input[at] if len(node.input) > at else ""
        if name and (name not in self.walk.values or self.walk.values[name].size != 1):
            return None
        place = int(self.walk.values[name].item()) if name else default
        if place is None or not -length <= place < length:
            raise ValueError(self._says(node, f"asks for place {place!r} of a sequence; it must be below {length}"))
        return place % length

    def _split(self, node: NodeProto, depth: int) -> list[str] | None:
        """Visit the nodes that cut a tensor, and return their names; None where sizes are not known."""
        source, sizes = (*node.input, "")[:2]
        shape, given = self.walk.shapes.get(source), attributes(node)
        axis = given.get("axis", 0)
        if shape is None or (sizes and sizes not in self.walk.values) or not -len(shape) <= axis < len(shape):
            return None
        length, out = shape[axis], node.output[0]
        if length > MAX_NODES:
            raise ValueError(self._says(node, f"makes {length} tensors at most; at most {MAX_NODES} are read"))
        value = self.walk.values[sizes] if sizes else np.array(1)
        if value.ndim:
            parts = [int(each) for each in value]
        else:
            step = max(1, int(value))
            parts = [min(step, length - start) for start in range(0, length, step)]
        names = [f"{out}/{at}" for at in range(len(parts))]
        name = node_name(node)
        if not sizes and not given.get("keepdims", 1):
            for at, part in enumerate(names):
                self.walk.keep(f"{part}.place", np.array(at, np.int64))
                gather = helper.make_node("Gather", [source, f"{part}.place"], [part], name, axis=axis)
                self.walk.visit(gather, depth + 1)
        elif self.walk.opsets.get("", self.walk.opsets.get("ai.onnx", 0)) < SIZES_AS_INPUT:
            self.walk.visit(helper.make_node("Split", [source], names, name, axis=axis, split=parts), depth + 1)
        else:
            self.walk.keep(f"{out}.sizes", np.array(parts, np.int64))
            self.walk.visit(helper.make_node("Split", [source, f"{out}.sizes"], names, name, axis=axis), depth + 1)
        return names

    def _read(self, node: NodeProto, held: Sequence[str], depth: int) -> bool:
        out = node.output[0]
        if node.op_type == "SequenceLength":
            self.walk.keep(out, np.array(len(held), np.int64))
            return True
        if node.op_type == "SequenceAt":
            place = self._place(node, 1, len(held))
            if place is None:
                return False
            self.walk.visit(helper.make_node("Identity", [held[place]], [out]), depth + 1)
            return True
        given = attributes(node)
        if not held:
            return False
        if given.get("new_axis", 0):
            self.inner.stacked(node, held, out, given["axis"], depth)
        else:
            self.walk.visit(helper.make_node("Concat", held, [out], node_name(node), axis=given["axis"]), depth + 1)
        return True

    def _says(self, node: NodeProto, text: str) -> str:
        return f"{self.walk.where}: node {node_name(node)!r} ({node.op_type}) {text}"
