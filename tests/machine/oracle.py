"""What instructions do to memory, once more: plain loops over Python's numbers, written from docs/machine alone.

Nothing of `sim`, `algorithms` or NumPy is used; of the contract only the fields of an instruction by name. Numbers are
kept as bits; sums are computed in binary64 and rounded to binary32, which rounds as one operation does (53 >= 2 * 24 +
2).
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

NAN16, NAN32 = 0x7E00, 0x7FC00000
Pair = tuple[int, int, bool]
FILLER: Pair = (0, 0, True)
BEAT = 64


class Memory(Protocol):
    """A region: bytes by their places, as of a bytearray."""

    def __getitem__(self, places: slice, /) -> bytes | bytearray:
        """Return the bytes of consecutive places."""
        ...

    def __setitem__(self, places: slice, value: bytes, /) -> None:
        """Write the bytes of consecutive places."""
        ...


def taken(memory: Memory, start: int, size: int) -> int:
    """Return the number of `size` bytes from a place on."""
    return int.from_bytes(memory[start : start + size], "little")


def laid(memory: Memory, start: int, size: int, value: int) -> None:
    """Write a number of `size` bytes from a place on."""
    memory[start : start + size] = value.to_bytes(size, "little")


def f16(bits: int) -> float:
    return struct.unpack("<e", struct.pack("<H", bits))[0]


def f32(bits: int) -> float:
    return struct.unpack("<f", struct.pack("<I", bits))[0]


def to16(value: float) -> int:
    if math.isnan(value):
        return NAN16
    try:
        return struct.unpack("<H", struct.pack("<e", value))[0]
    except OverflowError:
        return 0xFC00 if value < 0 else 0x7C00


def to32(value: float) -> int:
    if math.isnan(value):
        return NAN32
    try:
        return struct.unpack("<I", struct.pack("<f", value))[0]
    except OverflowError:
        return 0xFF800000 if value < 0 else 0x7F800000


def add(a: int, b: int) -> int:
    return to32(f32(a) + f32(b))


def multiply(a: int, b: int) -> int:
    return to32(f32(a) * f32(b))


def minus(a: int, b: int) -> int:
    return to32(f32(a) - f32(b))


def walk(f: Mapping[str, int], prefix: str, steps: int, windowed: bool) -> Iterator[tuple[int, bool]]:
    """Yield offset and whether it is inside the input, step by step (docs/machine/load.md, "The walk")."""
    at, line_at, image_at = f[prefix + "at"], f[prefix + "line_at"], f[prefix + "image_at"]
    x, y = f["x0"], f["y0"]
    ix, iy = f.get("ix0", 0), f.get("iy0", 0)
    for _ in range(steps):
        inside = "ix0" not in f or not windowed or (0 <= ix < f["in_width"] and 0 <= iy < f["in_height"])
        yield at % 2**34, inside
        at, x, ix = at + f[prefix + "x_step"], x + 1, ix + f.get("ix_step", 0)
        if windowed and x == f["width"]:
            line_at += f[prefix + "y_step"]
            x, y, at = 0, y + 1, line_at
            ix, iy = f.get("ix_line", 0), iy + f.get("iy_step", 0)
            if y == f["height"]:
                image_at += f[prefix + "image_step"]
                at = line_at = image_at
                y, iy = 0, f.get("iy_image", 0)


@dataclass
class Oracle:
    """A machine of R x C elements; regions: changed in place."""

    rows: int
    columns: int
    lanes: int
    stage_depth: int
    regions: Sequence[Memory]
    special: bool = False
    overflow: bool = False
    act: dict[tuple[int, int], int] = field(default_factory=dict)
    wgt: dict[tuple[int, int], tuple[int, int, bool]] = field(default_factory=dict)
    capture: dict[tuple[int, int], int] = field(default_factory=dict)
    sums: dict[tuple[int, int], int] = field(default_factory=dict)
    stage: dict[int, list[int]] = field(default_factory=dict)

    def run(self, name: str, f: Mapping[str, int]) -> None:
        """Carry out an instruction: its opcode's name and all its fields."""
        actions = {"STAGE": self._stage, "END": self._end} | {
            action.__name__.upper(): action
            for action in (self.load_act, self.load_wgt, self.compute, self.store, self.update)
        }
        actions[name](f)

    def halves(self, region: int, beat: int) -> list[int]:
        return list(struct.unpack("<32H", self.regions[region][beat * BEAT : beat * BEAT + BEAT]))

    def words(self, region: int, beat: int) -> list[int]:
        return list(struct.unpack("<16I", self.regions[region][beat * BEAT : beat * BEAT + BEAT]))

    def _end(self, f: Mapping[str, int]) -> None:
        """Nothing."""

    def load_act(self, f: Mapping[str, int]) -> None:
        m, a, base = 2 << f["log2_m_less_1"], 1 << f["log2_a"], f["base"] * self.lanes
        wide = -(-f["k"] // m) * m  # k up to a multiple of M

        def beat(offset: int, inside: bool) -> list[int]:
            if not inside:
                return [0] * 32
            return self.stage[offset % self.stage_depth] if f["staged"] else self.halves(f["region"], offset % 2**34)

        if f["mode"] == 1:
            for x, (offset, inside) in enumerate(walk(f, "", wide, bool(f["windowed"]))):
                for q in range(-(-f["rows"] // 32)):
                    values = beat(offset + q, inside) if x < f["k"] else [0] * 32
                    for e in range(32):
                        t = 32 * q + e
                        if t < a * self.rows:
                            place = base + x // m * a * m + t // self.rows * m + x % m
                            self.act[t % self.rows, place] = values[e]
            return
        tile = f["rows"] if f["mode"] == 2 else a * self.rows
        for t, (offset, inside) in enumerate(walk(f, "", tile, bool(f["windowed"]))):
            held: list[int] = []
            for q in range(-(-f["k"] // 32)):
                held += beat(offset + q, inside and t < f["rows"])
            for x in range(wide):
                if f["mode"] == 2:
                    self.act[x // m, base + t * m + x % m] = held[x]
                else:
                    self.act[t % self.rows, base + x // m * a * m + t // self.rows * m + x % m] = held[x]

    def _stage(self, f: Mapping[str, int]) -> None:
        place = f["base"]
        for o in range(f["outer"]):
            for i in range(f["inner"]):
                offset = (f["at"] + o * f["outer_step"] + i) % 2**34
                self.stage[place % self.stage_depth] = self.halves(f["region"], offset)
                place += 1

    def load_wgt(self, f: Mapping[str, int]) -> None:
        b = 8 >> f["log2_a"]
        wide = 32 if f["dense"] else 16
        used = min(wide, b * self.columns)
        for q in range(f["inner"] if f["dense"] else f["blocks"]):
            slots: list[list[Pair]] = []
            for o in range(f["outer"]):
                if f["dense"]:
                    offset = (f["at"] + o * f["outer_step"] + q * f["inner_step"]) % 2**34
                    index = o % (2 << f["log2_m_less_1"])
                    slots.append([(value, index, False) for value in self.halves(f["region"], offset)])
                    continue
                for i in range(f["inner"]):
                    offset = (f["at"] + q * f["block_step"] + o * f["outer_step"] + i * f["inner_step"]) % 2**34
                    words = self.words(f["region"], offset)
                    slots.append([(word & 0xFFFF, word >> 16 & 15, bool(word >> 20 & 1)) for word in words])
            slots += [[FILLER] * wide for _ in range(f["pad"])]
            for s, pairs in enumerate(slots):
                for p in range(used):
                    column = wide * q + p
                    place = f["base"] + s * b + column // self.columns
                    self.wgt[column % self.columns, place] = pairs[f["lane"] + p]

    def compute(self, f: Mapping[str, int]) -> None:
        n, m, a = f["n_less_1"] + 1, 2 << f["log2_m_less_1"], 1 << f["log2_a"]
        b, base = 8 // a, f["act_base"] * self.lanes

        def chain(c: int, j: int, i: int, place: int, steps: list[tuple[int, int, int]]) -> int:
            """Return a sum; steps: array row, window and group of weights of what is multiplied, in order."""
            total = self.sums[c, place] if f["seed"] else 0
            for r, window, group in steps:
                for s in range(n):
                    value, index, filler = self.wgt.get((c, f["wgt_base"] + (group * n + s) * b + j), FILLER)
                    if not filler:
                        act = self.act.get((r, base + (window * a + i) * m + index % m), NAN16)
                        total = add(total, to32(f16(act) * f16(value)))
            return total

        for c in range(self.columns):
            place = 0
            for first in range(f["windows"] if f["ws"] else self.rows):  # block or array row
                for j in range(b):
                    for i in range(a):
                        if f["ws"]:
                            steps = [(r, first, r) for r in range(self.rows)]
                        else:
                            steps = [(first, g, g) for g in range(f["windows"])]
                        result = chain(c, j, i, place, steps)
                        if f["keep"]:
                            self.sums[c, place] = result
                        else:
                            self.capture[c, f["capture"] + place] = result
                        place += 1

    def store(self, f: Mapping[str, int]) -> None:
        a, size = 1 << f["log2_a"], 2 if f["to_half"] else 4
        paths = (walk(f, prefix, f["rows"], f["width"] > 0) for prefix in ("", "side_"))
        for t, ((offset, _), (side_offset, _)) in enumerate(zip(*paths, strict=True)):
            first = t // a * 8 + t % a if f["ws"] else t % self.rows * 8 + t // self.rows
            for column in range(f["columns"]):
                x = self.capture[column % self.columns, f["capture"] + first + column // self.columns * a]
                at = f["lane"] + column
                side = 0
                if f["side"]:
                    width = 4 if f["side"] == 3 else 2
                    side = taken(self.regions[f["side_region"]], side_offset * BEAT + at * width, width)
                if f["side"] == 2:
                    x = add(x, to32(f16(side)))
                elif f["side"] == 3:
                    x = add(x, side)
                value = f32(x)
                if f["to_half"]:
                    x = to16(value)
                    value = f16(x)
                if (f["relu"] and value <= 0) or (f["side"] == 1 and f16(side) <= 0):
                    x, value = 0, 0.0
                self.special |= bool(f["watch"]) and not math.isfinite(value)
                laid(self.regions[f["region"]], offset * BEAT + at * size, size, x)

    def update(self, f: Mapping[str, int]) -> None:
        k, n, memory = f["k"], f["n"], self.regions[f["region"]]
        blocks, m = -(-n // 16), 2 << f["ff_log2_m_less_1"]
        hold, half = self.special, [[0] * n for _ in range(k)]

        def half_at(beat: int, place: int) -> int:
            return taken(memory, beat * BEAT + 2 * place, 2)

        for block in range(blocks):
            for row in range(k):
                beat = block * k + row
                for lane in range(16):
                    places = [(f["w_at"] + part * blocks * k + beat) * BEAT + 4 * lane for part in (0, 1)]
                    w, v = (taken(memory, place, 4) for place in places)
                    column = 16 * block + lane
                    if column >= n:
                        w = v = 0
                    else:
                        g = half_at(f["g_at"] + row * f["g_step"] + block // 2, 16 * (block % 2) + lane)
                        mask_at = f["mask_at"] + block * -(-k // m) + row // m
                        kept = not f["use_mask"] or bool(half_at(mask_at, lane) >> row % m & 1)
                        w, v = self._step(f, w, v, g, kept, hold)
                        half[row][column] = to16(f32(w))
                    for place, value in zip(places, (w, v), strict=True):
                        laid(memory, place, 4, value)
        self._forward(f, memory, half, m)
        if f["use_bp"]:
            self._backward(f, memory, half)

    def _step(self, f: Mapping[str, int], w: int, v: int, g16: int, kept: bool, hold: bool) -> tuple[int, int]:
        bad = not math.isfinite(f16(g16))
        self.overflow |= bad
        g = to32(f16(g16) * 2.0 ** -f["shift"])
        t2 = 0 if kept else multiply(f["lam"], w)
        g2 = add(add(g, multiply(f["wd"], w)), t2)
        new_v = add(multiply(f["mu"], v), g2)
        if bad or hold:
            return add(w, 0x80000000), v
        return minus(w, multiply(f["lr"], new_v)), new_v

    def _forward(self, f: Mapping[str, int], memory: Memory, half: list[list[int]], m: int) -> None:
        k, n, keeps = len(half), len(half[0]), f["ff_n_less_1"] + 1
        groups = -(-k // m)
        for column in range(-(-n // 16) * 16):
            block, lane = divmod(column, 16)
            for group in range(groups):
                rows = range(group * m, min(k, group * m + m)) if column < n else range(0)
                pairs = pruned([half[row][column] for row in rows], keeps)
                mask = sum(1 << index for _, index, filler in pairs if not filler)
                beat = block * groups + group
                laid(memory, (f["mask_at"] + beat) * BEAT + 2 * lane, 2, mask)
                laid(memory, (f["mask_at"] + beat) * BEAT + 32 + 2 * lane, 2, 0)
                for slot, pair in enumerate(pairs):
                    put(memory, f["ff_at"] + beat * keeps + slot, lane, pair)

    def _backward(self, f: Mapping[str, int], memory: Memory, half: list[list[int]]) -> None:
        k, n, keeps, m = len(half), len(half[0]), f["bp_n_less_1"] + 1, 2 << f["bp_log2_m_less_1"]
        beat = f["bp_at"]
        for first in range(0, n, 16):
            for row in range(0, k, 16):
                for group in range(first, min(n, first + 16), m):
                    for lane in range(16):
                        line = half[row + lane][group : group + m] if row + lane < k else []
                        for slot, pair in enumerate(pruned(line, keeps)):
                            put(memory, beat + slot, lane, pair)
                    beat += keeps


def pruned(values: list[int], keeps: int) -> list[tuple[int, int, bool]]:
    """Return the pairs of a group: the largest without sign, ties to the lower index, fillers behind."""
    order = sorted(range(len(values)), key=lambda index: (-(values[index] & 0x7FFF), index))
    kept = sorted(order[:keeps])
    return [(values[index], index, False) for index in kept] + [FILLER] * (keeps - len(kept))


def put(memory: Memory, beat: int, lane: int, pair: tuple[int, int, bool]) -> None:
    """Write a pair: value 16 bits, index 4, filler 1."""
    value, index, filler = pair
    laid(memory, beat * BEAT + 4 * lane, 4, value | index << 16 | int(filler) << 20)
