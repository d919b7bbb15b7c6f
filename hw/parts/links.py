"""The links of the array as structures of the circuit (`dataflow.contract.links`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from amaranth.lib import data

from nmsat.dataflow.contract import links

if TYPE_CHECKING:
    from nmsat.dataflow.contract.config import SatConfig


def activation_layout() -> data.StructLayout:
    """One widened activation."""
    return data.StructLayout(links.ACTIVATION.widths())


def weight_layout() -> data.StructLayout:
    """One widened weight with its index in the group."""
    return data.StructLayout(links.WEIGHT.widths())


def sum_layout() -> data.StructLayout:
    """One binary32 sum on its way down, and whether it is a result."""
    return data.StructLayout(links.SUM.widths())


def control_layout(config: SatConfig) -> data.StructLayout:
    """Control of one row for one cycle."""
    return data.StructLayout(links.control(config).widths())


def pair_layout() -> data.StructLayout:
    """One packed weight as stored."""
    return data.StructLayout(links.PAIR.widths())


def token_layout() -> data.StructLayout:
    """One window, as the head hands it to row 0 and each row hands it on (docs/machine/array.md, head)."""
    return data.StructLayout(links.TOKEN.widths())


def weight_control_layout(config: SatConfig) -> data.StructLayout:
    """Request for one pair of the weight buffers."""
    return data.StructLayout(links.weight_request(config).widths())


def seed_layout(config: SatConfig) -> data.StructLayout:
    """Request for one seed of the result buffers."""
    return data.StructLayout(links.seed_request(config).widths())


def keep_layout(config: SatConfig) -> data.StructLayout:
    """Whether the result at the bottom of a column stays, and where."""
    return data.StructLayout(links.keep_request(config).widths())
