"""Patterns by layer, as runs of training have them, for a network that is known by its layers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nmsat.algorithms.methods.patterns import REST
from nmsat.dataflow.network.layers import ConvLayer, LinearLayer

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from nmsat.dataflow.network.layers import Layer
    from nmsat.dataflow.network.step import Own


def layer_patterns(patterns: Mapping[str, Own], layers: Sequence[Layer], *, ends: bool = False) -> dict[str, Own]:
    """Return what each layer has of its own; patterns: by name, 'rest' for those that are not named.

    ends: the first and the last weight layer may be pruned, too. ValueError for a name of no layer that may be.
    """
    weighted = [layer.name for layer in layers if isinstance(layer, ConvLayer | LinearLayer)]
    known = weighted if ends else weighted[1:-1]
    unknown = [name for name in patterns if name != REST and name not in known]
    if unknown:
        raise ValueError(f"patterns names layer {unknown[0]!r}; layers that may be pruned: {', '.join(known)}")
    if REST not in patterns:
        return dict(patterns)
    return {name: patterns.get(name, patterns[REST]) for name in known}
