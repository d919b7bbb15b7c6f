"""Layouts of the links between elements and ports of the array; fields stand from bit 0 upwards (docs/array.md)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from amaranth.lib import data

if TYPE_CHECKING:
    from dataflow.config import SatConfig


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
    """Control of one row for one cycle; the meaning of each field stands in docs/array.md."""
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
