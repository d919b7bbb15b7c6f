"""Layouts of the links between elements and ports of the array; fields from bit 0 upwards (docs/machine/array.md)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from amaranth.lib import data

if TYPE_CHECKING:
    from nmsat.dataflow.contract.config import SatConfig


def activation_layout() -> data.StructLayout:
    """One widened activation: fraction 10, exponent code 6, sign 1."""
    return data.StructLayout({"frac": 10, "code": 6, "sign": 1})


def weight_layout() -> data.StructLayout:
    """One widened weight with its index in the group: fraction 10, exponent code 7, sign 1, index 4."""
    return data.StructLayout({"frac": 10, "code": 7, "sign": 1, "index": 4})


def sum_layout() -> data.StructLayout:
    """One binary32 sum on its way down, and whether it is a result."""
    return data.StructLayout({"value": 32, "valid": 1})


def control_layout(config: SatConfig) -> data.StructLayout:
    """Control of one row for one cycle; the meaning of each field stands in docs/machine/array.md."""
    return data.StructLayout(
        {
            "t4": 4,
            "awe": 1,
            "arb": 1,
            "v": 1,
            "first": 1,
            "last": 1,
            "ibits": 3 + config.act_lanes,
            "ws": 1,
            "wwe": 1,
            "wrb": 1,
            "wra": 4,
            "dre": 1,
            "dra": 3,
        }
    )


def pair_layout() -> data.StructLayout:
    """One packed weight as stored: binary16 value, index in its group, and whether it is a filler."""
    return data.StructLayout({"value": 16, "index": 4, "filler": 1})


def token_layout() -> data.StructLayout:
    """One window, as the head hands it to row 0 and each row hands it on (docs/machine/array.md, head)."""
    return data.StructLayout(
        {
            "valid": 1,
            "ws": 1,
            "n_less_1": 4,
            "log2_m_less_1": 2,
            "log2_a": 2,
            "compute": 1,
            "first": 1,
            "last": 1,
            "fetch": 1,
            "rebase": 1,
            "base": 16,
            "wload": 1,
            "wflip": 1,
        }
    )


def weight_control_layout(config: SatConfig) -> data.StructLayout:
    """Request for one pair of the weight buffers."""
    return data.StructLayout({"read": 1, "addr": (config.weight_depth - 1).bit_length()})


def seed_layout(config: SatConfig) -> data.StructLayout:
    """Request for one seed of the result buffers; without `read` the seed is +0."""
    return data.StructLayout({"read": 1, "addr": (config.sum_depth - 1).bit_length()})


def keep_layout(config: SatConfig) -> data.StructLayout:
    """Whether the result at the bottom of a column stays, and where."""
    return data.StructLayout({"keep": 1, "addr": (config.sum_depth - 1).bit_length()})
