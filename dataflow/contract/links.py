"""What travels between elements and ports of the array; fields from bit 0 upwards (docs/machine/array.md)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from nmsat.dataflow.contract.fields import Field, WordLayout

if TYPE_CHECKING:
    from nmsat.dataflow.contract.config import SatConfig

WEIGHT_OFFSET: Final = 77
"""Weight code less activation code of the same finite, nonzero number."""

FILLER_CODE: Final = 1
"""Exponent code of a weight that contributes nothing, whatever it meets."""

ACTIVATION: Final = WordLayout(
    "activation",
    (
        Field("frac", 10, "fraction, normalised; infinity 0, NaN 0x200"),
        Field("code", 6, "0 zero; e + 25: 1.f * 2^e; 63 infinity or NaN"),
        Field("sign", 1, "1 negative"),
    ),
)
"""One widened activation."""

WEIGHT: Final = WordLayout(
    "weight",
    (
        Field("frac", 10, "fraction, normalised; infinity 0, NaN 0x200"),
        Field("code", 7, "0 zero; 1 filler; e + 102: 1.f * 2^e; 127 infinity or NaN"),
        Field("sign", 1, "1 negative"),
        Field("index", 4, "place in its group"),
    ),
)
"""One widened weight."""

PAIR: Final = WordLayout(
    "pair",
    (
        Field("value", 16, "binary16"),
        Field("index", 4, "place in its group"),
        Field("filler", 1, "it contributes nothing"),
    ),
)
"""One packed weight as stored."""

PAIR_BITS: Final = 32
"""Bits of a pair in memory: PAIR at bit 0, zeros above; 16 of them are a beat (`dataflow.contract.isa.LANES`)."""

FILLER_PAIR: Final = PAIR.pack(value=0, index=0, filler=1)
"""A pair that contributes nothing, as it is stored."""

SUM: Final = WordLayout("sum", (Field("value", 32, "binary32"), Field("valid", 1, "it is a result")))
"""One sum on its way down."""

TOKEN: Final = WordLayout(
    "window",
    (
        Field("valid", 1, "there is a window; without it the other fields mean nothing"),
        Field("ws", 1, "0 output stationary, 1 weight stationary"),
        Field("n_less_1", 4, "kept elements of a group, N - 1"),
        Field("log2_m_less_1", 2, "log2 of the group size M, less 1"),
        Field("log2_a", 2, "log2 of the rows a of the interleave rectangle"),
        Field("compute", 1, "its steps multiply; 0: it only loads operands"),
        Field("first", 1, "first of its command: chains start"),
        Field("last", 1, "last of its command: OS chains end"),
        Field("fetch", 1, "it loads the operands of the next window"),
        Field("rebase", 1, "... from `base` on"),
        Field("base", 16, "beat of the activation buffers, with `rebase`"),
        Field("wload", 1, "WS: it carries the weights of the next command"),
        Field("wflip", 1, "WS: the other weight bank is in use from here on"),
    ),
)
"""One window, as the head hands it to row 0 and each row hands it on."""


def control(config: SatConfig) -> WordLayout:
    """Return the control of one row for one cycle."""
    return WordLayout(
        "control",
        (
            Field("t4", 4, "low bits of the step number: the output, and the write address of the activation beat"),
            Field("awe", 1, "write the activation beat into bank ~arb"),
            Field("arb", 1, "activation bank read"),
            Field("v", 1, "step valid"),
            Field("first", 1, "the chain starts from its seed"),
            Field("last", 1, "the result goes to the drain memory"),
            Field("ibits", 3 + config.act_lanes, "i << log2 M"),
            Field("ws", 1, "seed from the link above instead of +0"),
            Field("wwe", 1, "write the incoming pair at wra of bank ~wrb"),
            Field("wrb", 1, "weight bank read"),
            Field("wra", 4, "weight read address"),
            Field("dre", 1, "read the drain memory"),
            Field("dra", 3, "... at this place"),
        ),
    )


def weight_request(config: SatConfig) -> WordLayout:
    """Return the request for one pair of the weight buffers."""
    return _request("weight request", "read", config.weight_depth)


def seed_request(config: SatConfig) -> WordLayout:
    """Return the request for one seed of the result buffers; without `read` the seed is +0."""
    return _request("seed request", "read", config.sum_depth)


def keep_request(config: SatConfig) -> WordLayout:
    """Return whether the result at the bottom of a column stays, and where."""
    return _request("keep request", "keep", config.sum_depth)


def _request(name: str, flag: str, depth: int) -> WordLayout:
    return WordLayout(name, (Field(flag, 1, "there is one"), Field("addr", (depth - 1).bit_length(), "place")))
