"""Which dimension of an input a recurrent layer or attention takes for the batch, whatever lies between the two.

The dimensions of the inputs are followed through the graph, reshapes and the arithmetic of their sizes included. A
recurrent layer says of its tensors which dimension goes through the steps and which one holds the samples; dimensions
that meet element by element are the same one. Attention runs along some dimensions and keeps others apart, so where it
runs along the first, one of the others holds the samples. What cannot be followed says nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from nmsat.dataflow.network.readers.onnx_axis_rules import RULES
from nmsat.dataflow.network.readers.onnx_follow import Follow

if TYPE_CHECKING:
    from collections.abc import Mapping

    from nmsat.dataflow.network.readers.onnx_load import Loaded


@dataclass(frozen=True)
class BatchAxes:
    """What the recurrent layers of a graph say: the dimension of the batch by input; unsure: whether there are such
    layers and no input could be followed to any. attended: inputs along whose first dimension attention runs, with the
    one that it keeps apart, None if that could not be followed."""

    found: Mapping[str, int] = field(default_factory=dict)
    unsure: bool = False
    attended: Mapping[str, int | None] = field(default_factory=dict)


def batch_axes(loaded: Loaded) -> BatchAxes:
    """Return which dimensions of the inputs recurrent layers, scans, loops and attention take for the batch."""
    follow = Follow(loaded, RULES)
    follow.walk(loaded.nodes)
    batch = {follow.root(dim) for dim in follow.batch}
    found: dict[str, int] = {}
    for name, sizes in follow.sizes.items():
        axis = next((at for at in range(len(sizes)) if follow.root((name, at)) in batch), None)
        if axis is not None:
            found[name] = axis
    return BatchAxes(found, follow.recurrent and not found, _attended(follow, found))


def _attended(follow: Follow, found: Mapping[str, int]) -> dict[str, int | None]:
    """Return the inputs along whose first dimension attention runs -> the first of those that it keeps apart."""
    apart, along = ({follow.root(dim) for dim in dims} for dims in (follow.apart, follow.along))
    out: dict[str, int | None] = {}
    for name, sizes in follow.sizes.items():
        roots = [follow.root((name, at)) for at in range(len(sizes))]
        if name not in found and roots and roots[0] in along - apart:
            out[name] = next((at for at, root in enumerate(roots) if root in apart - along), None)
    return out
