"""Plain model of one element, cycle by cycle, written from docs/machine/array.md alone; words are whole numbers."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from nmsat.dataflow.contract.config import INTERLEAVE
from nmsat.hw.parts.links import activation_layout, control_layout, sum_layout, weight_layout

if TYPE_CHECKING:
    from amaranth.lib import data

    from nmsat.dataflow.contract.config import SatConfig

RESET_FIELDS: Final = ("v", "awe", "wwe", "dre")
"""Fields of the control link that a reset clears; all other link bits keep moving."""


class Words(NamedTuple):
    """One word of each link: activations (lane 0 lowest), control, weight, sum."""

    act: int
    ctl: int
    wgt: int
    sum: int


class _Step(NamedTuple):
    """What stands in a pipeline register: operands, then (from the adder on) the sum."""

    valid: bool
    output: int
    first: bool
    last: bool
    ws: bool
    act: int = 0
    wgt: int = 0
    total: int = 0


def pack(layout: data.StructLayout, **fields: int) -> int:
    """Return a word of a layout; fields not given are 0, a name unknown to the layout is a KeyError."""
    word = 0
    for name, value in fields.items():
        field = layout[name]
        if not 0 <= value < 1 << field.width:
            raise ValueError(f"{name} is {value!r}; it must be from 0 to {(1 << field.width) - 1}")
        word |= value << field.offset
    return word


def unpack(layout: data.StructLayout, word: int) -> dict[str, int]:
    """Return the fields of a word."""
    return {name: word >> field.offset & (1 << field.width) - 1 for name, field in layout}


def multiply_add(act: int, wgt: int, x: int) -> int:
    """Return x + act * wgt rounded to binary32 (bits); widened operands, canonical NaN, fillers leave x alone."""
    a, w = unpack(activation_layout(), act), unpack(weight_layout(), wgt)
    if w["code"] == 1:
        return x
    with np.errstate(all="ignore"):
        product = np.float32(_number(a, 25, 63)) * np.float32(_number(w, 102, 127))
        total = np.uint32(x).view(np.float32) + product
    return 0x7FC00000 if np.isnan(total) else int(total.view(np.uint32))


def _number(fields: dict[str, int], offset: int, special: int) -> float:
    sign = -1.0 if fields["sign"] else 1.0
    if fields["code"] == special:
        return sign * (np.nan if fields["frac"] else np.inf)
    if fields["code"] == 0:
        return sign * 0.0
    return sign * np.ldexp(1 + fields["frac"] / 1024, fields["code"] - offset)


class UspeModel:
    """Registers and memories of one element; `tick` ends a cycle."""

    def __init__(self, config: SatConfig) -> None:
        self._lanes, self._stages = config.act_lanes, config.adder_stages
        self._ctl = control_layout(config)
        self._weights = [0] * 32
        self._acts = [[0] * 32 for _ in range(self._lanes)]
        self._sums, self._results = [0] * INTERLEAVE, [0] * INTERLEAVE
        idle = _Step(valid=False, output=0, first=False, last=False, ws=False)
        self._operands, self._product = idle, idle
        self._adder = deque([idle] * self._stages)
        self.links = Words(0, 0, 0, 0)

    def tick(self, links: Words, *, reset: bool) -> Words:
        """Take the words on the incoming links in this cycle, return those on the outgoing links in the next."""
        ctl: Any = unpack(self._ctl, links.ctl)
        total = unpack(sum_layout(), links.sum)
        operands = self._read(ctl)
        added = self._add(total["value"])
        drained = self._results[ctl["dra"]]
        self._write(ctl, links)
        self._adder.append(added)
        self._operands, self._product = operands, self._operands
        if reset:
            ctl |= dict.fromkeys(RESET_FIELDS, 0)
            self._operands, self._product = (s._replace(valid=False) for s in (self._operands, self._product))
            self._adder = deque(s._replace(valid=False) for s in self._adder)
        value = drained if unpack(self._ctl, links.ctl)["dre"] else total["value"]
        valid = not reset and bool(ctl["dre"] or (total["valid"] and not ctl["ws"]))
        word = pack(sum_layout(), value=value, valid=int(valid))
        self.links = Words(links.act, pack(self._ctl, **ctl), links.wgt, word)
        return self.links

    def _read(self, ctl: dict[str, int]) -> _Step:
        """Cycle t."""
        pair = self._weights[16 * ctl["wrb"] + ctl["wra"]]
        place = unpack(weight_layout(), pair)["index"] | ctl["ibits"]
        act = self._acts[place % self._lanes][16 * ctl["arb"] + place // self._lanes]
        flags = {name: bool(ctl[name]) for name in ("first", "last", "ws")}
        return _Step(bool(ctl["v"]), ctl["t4"] % INTERLEAVE, **flags, act=act, wgt=pair)

    def _add(self, above: int) -> _Step:
        """Cycle t + 2."""
        step = self._product
        seed = above if step.ws else 0
        x = seed if step.first else self._sums[step.output]
        return step._replace(total=multiply_add(step.act, step.wgt, x))

    def _write(self, ctl: dict[str, int], links: Words) -> None:
        done = self._adder.popleft()
        if done.valid:
            self._sums[done.output] = done.total
            if done.last:
                self._results[done.output] = done.total
        if ctl["wwe"]:
            self._weights[16 * (1 - ctl["wrb"]) + ctl["wra"]] = links.wgt
        if ctl["awe"]:
            width = activation_layout().size
            for lane, memory in enumerate(self._acts):
                memory[16 * (1 - ctl["arb"]) + ctl["t4"]] = links.act >> width * lane & (1 << width) - 1
