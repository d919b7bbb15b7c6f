"""Words for the links of one element: random ones, and the sequences of both dataflows with their results."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from nmsat.dataflow.contract.config import INTERLEAVE
from nmsat.hw.parts.links import activation_layout, control_layout, sum_layout, weight_layout
from nmsat.tb.fp import mac_vectors
from tests.array.uspe_model import Words, pack

if TYPE_CHECKING:
    from nmsat.dataflow.contract.config import SatConfig

FILLER: Final = 1
"""Exponent code of a weight that contributes nothing."""

Pair = tuple[int, int, bool]
"""binary16 bits of a weight, its index in the group, and whether it is a filler."""


class Sequence(NamedTuple):
    """words, rst: one per cycle; results: (cycle, bits) of the sums that `sum_o` shows a cycle later."""

    words: list[Words]
    rst: np.ndarray
    results: list[tuple[int, int]]


def join(sequences: list[Sequence]) -> Sequence:
    """Return the sequences one after the other; each begins with a reset of its own."""
    words: list[Words] = []
    results: list[tuple[int, int]] = []
    for sequence in sequences:
        results += [(len(words) + cycle, bits) for cycle, bits in sequence.results]
        words += sequence.words
    return Sequence(words, np.concatenate([sequence.rst for sequence in sequences]), results)


class Shape(NamedTuple):
    """A pattern n:m and the rows of the interleave rectangle; `lanes` of the configuration bounds a * m."""

    n: int
    m: int
    a: int

    @property
    def columns(self) -> int:
        """Columns of the interleave rectangle."""
        return INTERLEAVE // self.a

    @property
    def log2_m(self) -> int:
        """Place of the row number in an operand address."""
        return self.m.bit_length() - 1


def widen_activation(half: int) -> int:
    """Return the widened form of binary16 bits."""
    code, frac = _normalise(half)
    return pack(activation_layout(), sign=half >> 15, code=63 if code < 0 else code, frac=frac)


def widen_weight(half: int, index: int = 0, *, filler: bool = False) -> int:
    """Return the widened form of binary16 bits with its index, or a filler with that index."""
    if filler:
        return pack(weight_layout(), code=FILLER, index=index)
    code, frac = _normalise(half)
    wide = 127 if code < 0 else code + 77 * (code > 0)
    return pack(weight_layout(), sign=half >> 15, code=wide, frac=frac, index=index)


def _normalise(half: int) -> tuple[int, int]:
    """Return the activation's code (-1: infinity or NaN) and fraction."""
    exponent, fraction = half >> 10 & 31, half & 1023
    if exponent == 31:
        return -1, 0x200 if fraction else 0
    if exponent:
        return exponent + 10, fraction
    length = fraction.bit_length()
    return length, fraction << (11 - length) & 1023


def random_words(config: SatConfig, cycles: int, seed: int) -> Sequence:
    """Return words with every field at random, and a reset now and then."""
    rng = np.random.default_rng(seed)
    lanes = config.act_lanes
    vectors = mac_vectors.make(cycles * lanes, seed)
    width = activation_layout().size
    words: list[Words] = []
    for cycle in range(cycles):
        halves = vectors.a[cycle * lanes : (cycle + 1) * lanes].tolist()
        act = sum(widen_activation(half) << width * lane for lane, half in enumerate(halves))
        fields = {name: int(rng.integers(1 << field.width)) for name, field in control_layout(config)}
        ctl = pack(control_layout(config), **fields)
        wgt = widen_weight(int(vectors.w[cycle]), int(rng.integers(16)), filler=bool(vectors.filler[cycle]))
        total = pack(sum_layout(), value=int(vectors.x[cycle]), valid=int(rng.integers(2)))
        words.append(Words(act, ctl, wgt, total))
    rst = rng.random(cycles) < 0.002
    rst[0] = True
    return Sequence(words, rst, [])


class _Operands(NamedTuple):
    """halves: uint16[windows, a, m]; pairs: (bits, index, filler) by [windows][n][b]."""

    halves: np.ndarray
    pairs: list[list[list[Pair]]]


def _operands(shape: Shape, windows: int, rng: np.random.Generator, *, one_load: bool) -> _Operands:
    """Return random activations and packed weights of moderate size; `one_load` repeats the weights in every window."""
    halves = rng.normal(size=(windows, shape.a, shape.m)).astype(np.float16).view(np.uint16)
    pairs = []
    for window in range(windows):
        if one_load and window:
            pairs.append(pairs[0])
            continue
        columns = []
        for _ in range(shape.columns):
            kept = np.sort(rng.choice(shape.m, shape.n, replace=False)).tolist()
            bits = rng.normal(size=shape.n).astype(np.float16).view(np.uint16).tolist()
            columns.append([(b, k, bool(rng.random() < 0.1)) for b, k in zip(bits, kept, strict=True)])
        pairs.append([[column[s] for column in columns] for s in range(shape.n)])
    return _Operands(halves, pairs)


def _chain(seed: np.float32, terms: list[tuple[int, Pair]]) -> np.float32:
    """Return the ordered binary32 sum of activation bits times pair."""
    total = seed
    for half, (bits, _, filler) in terms:
        if not filler:
            a, w = (np.uint16(v).view(np.float16).astype(np.float32) for v in (half, bits))
            total = np.float32(total + a * w)
    return total


class _Script:
    """Fields and link words by cycle, gathered in any order."""

    def __init__(self, config: SatConfig) -> None:
        self._config = config
        self._ctl: dict[int, dict[str, int]] = {}
        self._links: dict[int, dict[str, int]] = {}

    def control(self, cycle: int, **fields: int) -> None:
        self._ctl.setdefault(cycle, {}).update(fields)

    def link(self, cycle: int, **words: int) -> None:
        self._links.setdefault(cycle, {}).update(words)

    def beats(self, start: int, bank: int, halves: np.ndarray) -> None:
        """Write one window's activations (flat uint16) from cycle `start` on, while `bank` is read."""
        lanes, width = self._config.act_lanes, activation_layout().size
        for beat in range(-(-halves.size // lanes)):
            part = halves.reshape(-1)[beat * lanes : (beat + 1) * lanes].tolist()
            word = sum(widen_activation(half) << width * lane for lane, half in enumerate(part))
            self.control(start + beat, awe=1, arb=bank, t4=beat % 16)
            self.link(start + beat, act=word)

    def sequence(self, results: list[tuple[int, int]]) -> Sequence:
        cycles = max([*self._ctl, *self._links, *(cycle for cycle, _ in results)]) + 2
        words = []
        for cycle in range(cycles):
            links = {"act": 0, "wgt": 0, "sum": 0} | self._links.get(cycle, {})
            ctl = pack(control_layout(self._config), **self._ctl.get(cycle, {}))
            words.append(Words(links["act"], ctl, links["wgt"], links["sum"]))
        rst = np.zeros(cycles, bool)
        rst[0] = True
        return Sequence(words, rst, results)


def output_stationary(config: SatConfig, shape: Shape, windows: int, tiles: int, seed: int) -> Sequence:
    """Tiles of `windows` groups back to back; the results of a tile drain while the next one runs."""
    rng = np.random.default_rng(seed)
    script, results = _Script(config), []
    length = _window(config, shape)
    start, bank = 1 + length, 0
    operands = [_operands(shape, windows, rng, one_load=False) for _ in range(tiles)]
    flat = [(tile, window) for tile in range(tiles) for window in range(windows)]
    script.beats(1, 1 - bank, operands[0].halves[0])
    for place, (tile, window) in enumerate(flat):
        if place + 1 < len(flat):
            following = operands[flat[place + 1][0]].halves[flat[place + 1][1]]
            script.beats(start, bank, following)
        flags = {"first": window == 0, "last": window == windows - 1}
        _os_steps(script, shape, operands[tile].pairs[window], start, bank, flags)
        if flags["last"]:
            drain = start + INTERLEAVE * (shape.n - 1) + 3 + config.adder_stages
            for o in range(INTERLEAVE):
                script.control(drain + o, dre=1, dra=o)
                i, j = o % shape.a, o // shape.a
                terms = [
                    (int(operands[tile].halves[g, i, pair[1]]), pair)
                    for g in range(windows)
                    for pair in (slot[j] for slot in operands[tile].pairs[g])
                ]
                results.append((drain + o, int(_chain(np.float32(0), terms).view(np.uint32))))
        start, bank = start + length, 1 - bank
    return script.sequence(results)


def _os_steps(
    script: _Script,
    shape: Shape,
    pairs: list[list[tuple[int, int, bool]]],
    start: int,
    bank: int,
    flags: dict[str, bool],
) -> None:
    """The steps of one window: each pair arrives one cycle before its step."""
    for t in range(INTERLEAVE * shape.n):
        cycle, o = start + t, t % INTERLEAVE
        bits, index, filler = pairs[t // INTERLEAVE][o // shape.a]
        script.link(cycle - 1, wgt=widen_weight(bits, index, filler=filler))
        script.control(cycle - 1, wwe=1, wrb=1 - cycle % 2, wra=0)
        script.control(cycle, wrb=cycle % 2, wra=0)
        _step(script, shape, cycle, t, bank, first=flags["first"] and t < INTERLEAVE, last=flags["last"], ws=False)


def _step(script: _Script, shape: Shape, cycle: int, t: int, bank: int, *, first: bool, last: bool, ws: bool) -> None:
    final = last and t >= INTERLEAVE * (shape.n - 1)
    script.control(cycle, v=1, t4=t % 16, arb=bank, first=int(first), last=int(final), ws=int(ws))
    script.control(cycle, ibits=(t % INTERLEAVE % shape.a) << shape.log2_m)


def _window(config: SatConfig, shape: Shape) -> int:
    return max(INTERLEAVE * shape.n, shape.a * shape.m // config.act_lanes)


def weight_stationary(config: SatConfig, shape: Shape, windows: int, seed: int) -> Sequence:
    """Row blocks of one command: weights are loaded once, sums come from above and leave after the last slot."""
    rng = np.random.default_rng(seed)
    script, results = _Script(config), []
    length, count = _window(config, shape), shape.n * shape.columns
    operands = _operands(shape, windows, rng, one_load=True)
    start, bank = 1 + max(length, count), 0
    script.beats(1, 1 - bank, operands.halves[0])
    for number in range(count):
        bits, index, filler = operands.pairs[0][number // shape.columns][number % shape.columns]
        script.link(1 + number, wgt=widen_weight(bits, index, filler=filler))
        script.control(1 + number, wwe=1, wrb=1, wra=number)
    for window in range(windows):
        if window + 1 < windows:
            script.beats(start, bank, operands.halves[window + 1])
        for t in range(INTERLEAVE * shape.n):
            script.control(start + t, wrb=0, wra=t // shape.a)
            _step(script, shape, start + t, t, bank, first=t < INTERLEAVE, last=True, ws=True)
        seeds = rng.normal(size=INTERLEAVE).astype(np.float32)
        for o in range(INTERLEAVE):
            script.link(start + o + 2, sum=pack(sum_layout(), value=int(seeds[o].view(np.uint32)), valid=0))
            # As early as the contract allows, so that the link carries seeds of the next window meanwhile.
            drain = start + INTERLEAVE * (shape.n - 1) + o + 3 + config.adder_stages
            script.control(drain, dre=1, dra=o, ws=1)
            i, j = o % shape.a, o // shape.a
            terms = [(int(operands.halves[window, i, slot[j][1]]), slot[j]) for slot in operands.pairs[window]]
            results.append((drain, int(_chain(seeds[o], terms).view(np.uint32))))
        start, bank = start + length, 1 - bank
    return script.sequence(results)
