"""Multiply-adds of a network, as its layers count them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nmsat.dataflow.network.layers import Layer


def forward_macs(layers: Sequence[Layer]) -> int:
    """Multiply-adds of the dense forward pass, padding counted as work."""
    return sum(layer.macs for layer in layers)
