"""What a register trace shows: scopes, names and widths as in the Verilog, and how the stepped gear's registers read.

A signal is one variable per place. Vectors have the bits of `dataflow.contract.links`, first field at bit 0; of a
window only what a valid one carries is shown, else 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from nmsat.dataflow.contract.codes import codes
from nmsat.dataflow.contract.links import (
    ACTIVATION,
    FILLER_CODE,
    SUM,
    TOKEN,
    WEIGHT,
    WEIGHT_OFFSET,
    control,
    keep_request,
    seed_request,
    weight_request,
)
from nmsat.sim.array.row_port import RowControl

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from nmsat.dataflow.contract.config import SatConfig
    from nmsat.dataflow.contract.fields import WordLayout
    from nmsat.sim.array.head import Token
    from nmsat.sim.array.stce import Stce


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
    """Return binary16 numbers (as float32) in the form of the links: `ACTIVATION`, or `WEIGHT` with index 0."""
    frac, code, sign = _widened(x, weight)
    if weight:
        return _word(WEIGHT, frac=frac, code=code, sign=sign, index=np.zeros_like(frac))
    return _word(ACTIVATION, frac=frac, code=code, sign=sign)


def _widened(x: NDArray[np.float32], weight: bool) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Return fraction, exponent code and sign of each number."""
    bits = x.astype(np.float16).view(np.uint16).astype(np.int64)
    sign, exponent, fraction = bits >> 15, bits >> 10 & 31, bits & 1023
    top = np.frexp(fraction.astype(np.float64))[1]  # one more than the place of the highest one, 0 for 0
    code = np.where(exponent == 0, top, exponent + 10)
    frac = np.where(exponent == 0, fraction << (11 - top) & 1023, fraction)
    if weight:
        code = np.where(code == 0, 0, code + WEIGHT_OFFSET)
    special = exponent == 31
    code = np.where(special, (WEIGHT if weight else ACTIVATION).by_name["code"].high, code)
    return np.where(special, (fraction != 0) * 0x200, frac), code, sign


def _word(layout: WordLayout, **fields: NDArray[Any]) -> NDArray[np.int64]:
    """Return the words with the given fields, one field of each layout in an array."""
    word, at = np.zeros(1, np.int64), 0
    for field in layout.fields:
        word = word | fields[field.name].astype(np.int64) << at
        at += field.bits
    return word


def _token(token: Token | None) -> int:
    if token is None:
        return 0
    coded = {"valid": 1, **codes(n=token.n, m=token.m, a=token.a)}
    return TOKEN.pack(**{name: coded.get(name, getattr(token, name, 0)) for name in TOKEN.by_name})


def _head(config: SatConfig) -> Iterator[Signal]:
    """The edge of the array: what the head does, which columns give a result."""
    yield Signal([""], "token_valid", 1, lambda e: np.array([e.head.token is not None], np.int64))
    yield Signal([""], "token_compute", 1, lambda e: np.array([bool(e.head.token and e.head.token.compute)], np.int64))
    yield Signal([""], "idle", 1, lambda e: np.array([e.head.idle], np.int64))
    yield Signal([""], "out_valid", config.columns, _out_valid)
    yield Signal(["head"], "token", TOKEN.bits, lambda e: np.array([_token(e.head.token)], np.int64))


def _out_valid(engine: Stce) -> NDArray[np.int64]:
    """The valid bits of all columns as one number, of any size."""
    bits = sum(1 << int(c) for c in np.nonzero(engine.columns.out()[1])[0])
    return np.array([bits], object)


def _rows(config: SatConfig) -> Iterator[Signal]:
    """Row ports: the row link with its fields, the window and the turn to drain on their way down."""
    ports = [f"row_{r}.port" for r in range(config.rows)]
    for field in control(config).fields:

        def values(e: Stce, name: str = field.name) -> NDArray[np.int64]:
            return np.array([getattr(row.ctl, name) for row in e.rows], np.int64)

        yield Signal([f"{port}.ctl" for port in ports], field.name, field.bits, values)
    yield Signal(
        ports, "act", ACTIVATION.bits * config.act_lanes, lambda e: _lanes(np.array([row.act for row in e.rows]))
    )
    tokens = TOKEN.bits
    yield Signal(ports, "token_o", tokens, lambda e: np.array([_token(row.token) for row in e.rows], np.int64))
    yield Signal(ports, "drain_o", 1, lambda e: np.array([row.drain for row in e.rows], np.int64))
    yield Signal(ports, "ended", 1, lambda e: np.array([row.event for row in e.rows], np.int64))


def _columns(config: SatConfig) -> Iterator[Signal]:
    """Column ports: requests from the left, weights and seeds into row 0, sums from the last row, results."""
    ports = [f"column_{c}" for c in range(config.columns)]
    requests = {"weight_i": weight_request, "seed_i": seed_request, "keep_i": keep_request}
    for i, (name, layout) in enumerate(requests.items()):

        def request(e: Stce, i: int = i) -> NDArray[np.int64]:
            flag, address = e.columns.requests[i]
            return flag | address << 1

        yield Signal(ports, name, layout(config).bits, request)

    def weights(e: Stce) -> NDArray[np.int64]:
        ports = e.columns
        return _weight(ports.wgt_value, np.asarray(ports.wgt_index, np.uint8), np.asarray(ports.wgt_filler, np.bool_))

    yield Signal(ports, "wgt", WEIGHT.bits, weights)
    yield Signal(ports, "sum_top", SUM.bits, lambda e: e.columns.seed.astype(np.int64))
    yield Signal(ports, "sum_bottom", SUM.bits, lambda e: _sum(e.elements.sum_bottom, e.elements.sum_bottom_valid))
    yield Signal(ports, "out", SUM.bits, lambda e: _sum(*e.columns.out()))


def _elements(config: SatConfig) -> Iterator[Signal]:
    """Elements: what they hand to the right and down."""
    places = [f"row_{r}.element_{c}" for r in range(config.rows) for c in range(config.columns)]
    layout = control(config)
    yield Signal(places, "act_o", ACTIVATION.bits * config.act_lanes, lambda e: _lanes(e.elements.outputs().act))

    def controls(e: Stce) -> NDArray[np.int64]:
        return _word(layout, **dict(zip(RowControl._fields, e.elements.outputs().control, strict=True)))

    yield Signal(places, "ctl_o", layout.bits, controls)

    def weights(e: Stce) -> NDArray[np.int64]:
        out = e.elements.outputs()
        return _weight(out.weight, out.index, out.filler)

    def sums(e: Stce) -> NDArray[np.int64]:
        out = e.elements.outputs()
        return _sum(out.total, out.valid)

    yield Signal(places, "wgt_o", WEIGHT.bits, weights)
    yield Signal(places, "sum_o", SUM.bits, sums)


def _lanes(act: NDArray[np.float32]) -> NDArray[np.int64]:
    """Join the lanes of a beat, lane 0 at bit 0."""
    wide = widened(act)
    word = wide[..., 0]
    for lane in range(1, wide.shape[-1]):
        word = word | wide[..., lane] << ACTIVATION.bits * lane
    return word


def _weight(value: NDArray[np.float32], index: NDArray[np.integer], filler: NDArray[np.bool_]) -> NDArray[np.int64]:
    frac, code, sign = _widened(value, weight=True)
    code = np.where(filler, FILLER_CODE, code)
    return _word(WEIGHT, frac=np.where(filler, 0, frac), code=code, sign=np.where(filler, 0, sign), index=index)


def _sum(value: NDArray[np.uint32], valid: NDArray[np.bool_]) -> NDArray[np.int64]:
    return _word(SUM, value=value, valid=valid)
