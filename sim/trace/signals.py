"""What a register trace shows: scopes, names and widths as in the Verilog, and how the stepped gear's registers read.

A signal is one variable per place. Vectors have the bits of `hw.parts.links`, first field at bit 0; of a window only
what a valid one carries is shown, else 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from nmsat.dataflow.contract.limits import WEIGHT_OFFSET
from nmsat.sim.array.row_port import Control

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from nmsat.dataflow.contract.config import SatConfig
    from nmsat.sim.array.head import Token
    from nmsat.sim.array.stce import Stce

FILLER: Final = 1 << 10
"""A filler: exponent code 1, fraction and sign 0."""


@dataclass(frozen=True)
class Signal:
    """A signal at one or more places: scopes below the top ('' is the top), name, bits, and its values in a cycle."""

    scopes: Sequence[str]
    name: str
    size: int
    read: Callable[[Stce], NDArray[np.int64]]


def signals(config: SatConfig) -> list[Signal]:
    """Return all signals of an array."""
    return [*_head(config), *_rows(config), *_columns(config), *_elements(config)]


def widened(x: NDArray[np.float32], *, weight: bool = False) -> NDArray[np.int64]:
    """Return binary16 numbers (as float32) in the form of the links: fraction 10 bits, code 6 (weight: 7), sign 1."""
    bits = x.astype(np.float16).view(np.uint16).astype(np.int64)
    sign, exponent, fraction = bits >> 15, bits >> 10 & 31, bits & 1023
    top = np.frexp(fraction.astype(np.float64))[1]  # one more than the place of the highest one, 0 for 0
    code = np.where(exponent == 0, top, exponent + 10)
    frac = np.where(exponent == 0, fraction << (11 - top) & 1023, fraction)
    if weight:
        code = np.where(code == 0, 0, code + WEIGHT_OFFSET)
    special = exponent == 31
    code = np.where(special, 127 if weight else 63, code)
    frac = np.where(special, (fraction != 0) * 0x200, frac)
    return frac | code << 10 | sign << (17 if weight else 16)


def control_widths(config: SatConfig) -> dict[str, int]:
    """Return the bits of each field of a row's control (`hw.parts.links.control_layout`)."""
    widths = dict.fromkeys(Control._fields, 1) | {"t4": 4, "ibits": 3 + config.act_lanes, "wra": 4, "dra": 3}
    return {name: widths[name] for name in Control._fields}


TOKEN: Final = {
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
"""Bits of each field of a window (`hw.parts.links.token_layout`)."""


def _packed(fields: Sequence[NDArray[np.int64]], widths: Sequence[int]) -> NDArray[np.int64]:
    """Put fields side by side, the first at bit 0."""
    word, at = np.zeros_like(fields[0], dtype=np.int64), 0
    for values, width in zip(fields, widths, strict=True):
        word = word | values.astype(np.int64) << at
        at += width
    return word


def _token(token: Token | None) -> int:
    if token is None:
        return 0
    special = {
        "valid": 1,
        "n_less_1": token.n - 1,
        "log2_m_less_1": token.m.bit_length() - 2,
        "log2_a": token.a.bit_length() - 1,
    }
    word, at = 0, 0
    for name, width in TOKEN.items():
        word |= int(special[name] if name in special else getattr(token, name)) << at
        at += width
    return word


def _head(config: SatConfig) -> Iterator[Signal]:
    """The edge of the array: what the head does, which columns give a result."""
    yield Signal([""], "token_valid", 1, lambda e: np.array([e.head.token is not None], np.int64))
    yield Signal([""], "token_compute", 1, lambda e: np.array([bool(e.head.token and e.head.token.compute)], np.int64))
    yield Signal([""], "idle", 1, lambda e: np.array([e.head.idle], np.int64))
    yield Signal([""], "out_valid", config.columns, _out_valid)
    yield Signal(["head"], "token", sum(TOKEN.values()), lambda e: np.array([_token(e.head.token)], np.int64))


def _out_valid(engine: Stce) -> NDArray[np.int64]:
    """The valid bits of all columns as one number, of any size."""
    bits = sum(1 << int(c) for c in np.nonzero(engine.columns.out()[1])[0])
    return np.array([bits], object)


def _rows(config: SatConfig) -> Iterator[Signal]:
    """Row ports: the row link with its fields, the window and the turn to drain on their way down."""
    ports = [f"row_{r}.port" for r in range(config.rows)]
    widths = control_widths(config)
    for i, (name, size) in enumerate(widths.items()):

        def field(e: Stce, i: int = i) -> NDArray[np.int64]:
            return np.array([row.ctl[i] for row in e.rows], np.int64)

        yield Signal([f"{port}.ctl" for port in ports], name, size, field)
    yield Signal(ports, "act", 17 * config.act_lanes, lambda e: _lanes(np.array([row.act for row in e.rows])))
    tokens = sum(TOKEN.values())
    yield Signal(ports, "token_o", tokens, lambda e: np.array([_token(row.token) for row in e.rows], np.int64))
    yield Signal(ports, "drain_o", 1, lambda e: np.array([row.drain for row in e.rows], np.int64))
    yield Signal(ports, "ended", 1, lambda e: np.array([row.event for row in e.rows], np.int64))


def _columns(config: SatConfig) -> Iterator[Signal]:
    """Column ports: requests from the left, weights and seeds into row 0, sums from the last row, results."""
    ports = [f"column_{c}" for c in range(config.columns)]
    for i, (name, depth) in enumerate((("weight_i", "weight_depth"), ("seed_i", "sum_depth"), ("keep_i", "sum_depth"))):

        def request(e: Stce, i: int = i) -> NDArray[np.int64]:
            flag, address = e.columns.requests[i]
            return flag | address << 1

        yield Signal(ports, name, 1 + (getattr(config, depth) - 1).bit_length(), request)

    def weights(e: Stce) -> NDArray[np.int64]:
        ports = e.columns
        return _weight(ports.wgt_value, np.asarray(ports.wgt_index, np.uint8), np.asarray(ports.wgt_filler, np.bool_))

    yield Signal(ports, "wgt", 22, weights)
    yield Signal(ports, "sum_top", 33, lambda e: e.columns.seed.astype(np.int64))
    yield Signal(ports, "sum_bottom", 33, lambda e: _sum(e.elements.sum_bottom, e.elements.sum_bottom_valid))
    yield Signal(ports, "out", 33, lambda e: _sum(*e.columns.out()))


def _elements(config: SatConfig) -> Iterator[Signal]:
    """Elements: what they hand to the right and down."""
    places = [f"row_{r}.element_{c}" for r in range(config.rows) for c in range(config.columns)]
    widths = list(control_widths(config).values())
    yield Signal(places, "act_o", 17 * config.act_lanes, lambda e: _lanes(e.elements.outputs().act))
    yield Signal(places, "ctl_o", sum(widths), lambda e: _packed(list(e.elements.outputs().control), widths))

    def weights(e: Stce) -> NDArray[np.int64]:
        out = e.elements.outputs()
        return _weight(out.weight, out.index, out.filler)

    def sums(e: Stce) -> NDArray[np.int64]:
        out = e.elements.outputs()
        return _sum(out.total, out.valid)

    yield Signal(places, "wgt_o", 22, weights)
    yield Signal(places, "sum_o", 33, sums)


def _lanes(act: NDArray[np.float32]) -> NDArray[np.int64]:
    """Join the lanes of a beat, lane 0 at bit 0."""
    wide = widened(act)
    return _packed([wide[..., lane] for lane in range(wide.shape[-1])], [17] * wide.shape[-1])


def _weight(value: NDArray[np.float32], index: NDArray[np.integer], filler: NDArray[np.bool_]) -> NDArray[np.int64]:
    return np.where(filler, FILLER, widened(value, weight=True)) | index.astype(np.int64) << 18


def _sum(value: NDArray[np.uint32], valid: NDArray[np.bool_]) -> NDArray[np.int64]:
    return value.astype(np.int64) | valid.astype(np.int64) << 32
