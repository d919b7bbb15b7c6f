"""What the checker of programs takes an instruction to touch is what the second implementation touches in carrying it
out (`tests.machine.oracle`, which shares nothing with it), beat by beat, for random instructions of every kind."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from nmsat.dataflow.contract.config import SatConfig
from nmsat.dataflow.contract.isa import OFFSET_BITS, Instruction, Opcode, Side
from nmsat.dataflow.contract.legal import check
from nmsat.dataflow.program.touches import Touch, touches, update_sizes
from tests.machine.oracle import BEAT, Oracle

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.random import Generator

MACHINE = SatConfig(name="wide", rows=16, columns=16, act_depth=4096, weight_depth=4096, stage_depth=512)
"""So large that a row of a LOAD_ACT of either kind, or of a STORE, may have several beats."""

REGION, SIDE_REGION = 1, 2
FAR = 1 << 24
"""Beats between tensors of an UPDATE."""


class Endless:
    """A region of the oracle without end, of zeros: notes the beats that are read and written, in order of time."""

    def __init__(self) -> None:
        self.read: list[int] = []
        self.written: list[int] = []

    def __getitem__(self, places: slice) -> bytes:
        self.read.append(self._beat(places))
        return bytes(places.stop - places.start)

    def __setitem__(self, places: slice, value: bytes) -> None:
        assert len(value) == places.stop - places.start
        self.written.append(self._beat(places))

    def _beat(self, places: slice) -> int:
        assert places.start // BEAT == (places.stop - 1) // BEAT
        return places.start // BEAT


def carried_out(f: Instruction) -> list[Endless]:
    """Return the regions after an instruction; what buffers held before is 0."""
    regions = [Endless() for _ in range(4)]
    size = (MACHINE.rows, MACHINE.columns, MACHINE.act_lanes, MACHINE.stage_depth)
    oracle = Oracle(*size, regions, capture=defaultdict(int), sums=defaultdict(int))
    oracle.stage = {place: [0] * 32 for place in range(MACHINE.stage_depth)}
    oracle.run(f.opcode.name, f.values())
    return regions


def whole(rng: Generator, low: int, high: int) -> int:
    return int(rng.integers(low, high + 1))


def chosen(rng: Generator, *values: int) -> int:
    return values[whole(rng, 0, len(values) - 1)]


def anywhere(rng: Generator) -> int:
    """Return an offset, one in four so close to the last one that loads go on at 0."""
    return (1 << OFFSET_BITS) - whole(rng, 1, 40) if rng.random() < 1 / 4 else whole(rng, FAR, 1 << OFFSET_BITS - 1)


def walk(rng: Generator, prefix: str = "") -> dict[str, int]:
    """Return where a walk begins and its steps, small enough that rows meet now and then."""
    names = (prefix + name for name in ("at", "line_at", "image_at"))
    places = {name: whole(rng, FAR, 1 << OFFSET_BITS - 1) for name in names}
    return places | {prefix + name: whole(rng, -9, 9) for name in ("x_step", "y_step", "image_step")}


def picture(rng: Generator) -> dict[str, int]:
    width, height = whole(rng, 0, 5), whole(rng, 1, 4)
    return {"width": width, "height": height, "x0": whole(rng, 0, max(width - 1, 0)), "y0": whole(rng, 0, height - 1)}


def load_act(rng: Generator) -> dict[str, int]:
    mode, log2_m, log2_a = whole(rng, 0, 2), whole(rng, 0, 3), whole(rng, 0, 3)
    most = (160, MACHINE.rows << log2_a) if mode < 2 else (MACHINE.rows * (2 << log2_m), 60)
    shape = {"mode": mode, "log2_m_less_1": log2_m, "log2_a": log2_a, "staged": int(rng.random() < 0.1)}
    shape |= {"k": whole(rng, 1, most[0]), "rows": whole(rng, 1, most[1]), "windowed": whole(rng, 0, 1)}
    inside = {name: whole(rng, -2, 2) for name in ("ix0", "iy0", "ix_line", "iy_image")}
    inside |= {name: whole(rng, 0, 4) for name in ("ix_step", "iy_step", "in_width", "in_height")}
    return {"region": REGION, **shape, **walk(rng), **picture(rng), **inside, "at": anywhere(rng)}


def load_wgt(rng: Generator) -> dict[str, int]:
    dense = whole(rng, 0, 1)
    shape = {"blocks": 1 if dense else whole(rng, 1, 8), "inner": whole(rng, 1, 8), "outer": whole(rng, 1, 12)}
    shape |= {"dense": dense, "log2_a": whole(rng, 0, 3), "log2_m_less_1": whole(rng, 0, 3), "pad": whole(rng, 0, 4)}
    steps = {name: whole(rng, -40, 40) for name in ("inner_step", "outer_step", "block_step")}
    return {"region": REGION, "at": anywhere(rng), **shape, **steps, "lane": chosen(rng, 0, 0, 16)}


def stage(rng: Generator) -> dict[str, int]:
    shape = {"inner": whole(rng, 1, 30), "outer": whole(rng, 1, 15), "outer_step": whole(rng, -40, 40)}
    return {"region": REGION, "at": anywhere(rng), "base": whole(rng, 0, 511), **shape}


def compute(rng: Generator) -> dict[str, int]:
    return {"windows": 1, "log2_a": 3, "ws": whole(rng, 0, 1), "seed": whole(rng, 0, 1), "keep": whole(rng, 0, 1)}


def store(rng: Generator) -> dict[str, int]:
    log2_a, ws = whole(rng, 0, 3), whole(rng, 0, 1)
    shape = {"log2_a": log2_a, "ws": ws, "rows": whole(rng, 1, 40), "columns": whole(rng, 1, 128 >> log2_a)}
    shape |= {"lane": chosen(rng, 0, 16), "to_half": whole(rng, 0, 1), "relu": whole(rng, 0, 1)}
    side = {"side": whole(rng, 0, 3), "side_region": SIDE_REGION}
    return {"region": REGION, **shape, **side, **walk(rng), **walk(rng, "side_"), **picture(rng)}


def update(rng: Generator) -> dict[str, int]:
    fields = {"k": whole(rng, 1, 40), "n": whole(rng, 1, 50), "g_step": whole(rng, 0, 5), "region": REGION}
    for prefix in ("ff_", "bp_"):
        log2_m = whole(rng, 0, 3)
        fields |= {f"{prefix}log2_m_less_1": log2_m, f"{prefix}n_less_1": whole(rng, 0, (2 << log2_m) - 1)}
    fields |= {name: whole(rng, 0, 1) for name in ("use_mask", "use_bp")}
    return fields | {name: place * FAR for name, place in zip(PLACES, rng.permutation(5) + 1, strict=True)}


PLACES = ("g_at", "w_at", "mask_at", "ff_at", "bp_at")

KINDS: dict[Opcode, tuple[Callable[[Generator], dict[str, int]], int]] = {
    Opcode.LOAD_ACT: (load_act, 60),
    Opcode.LOAD_WGT: (load_wgt, 60),
    Opcode.STAGE: (stage, 20),
    Opcode.COMPUTE: (compute, 3),
    Opcode.STORE: (store, 60),
    Opcode.UPDATE: (update, 16),
    Opcode.END: (lambda _: {}, 1),
}
"""Fields of a random instruction of a kind, legal or not, and how many legal ones are looked at."""


def legal(opcode: Opcode, seed: int) -> list[Instruction]:
    """Return random legal instructions."""
    draw, count = KINDS[opcode]
    rng, found = np.random.default_rng([19, opcode, seed]), list[Instruction]()
    while len(found) < count:
        f = Instruction(opcode, {name: int(value) for name, value in draw(rng).items()})
        try:
            check(f, MACHINE)
        except ValueError:
            continue
        found.append(f)
    return found


def beats(found: tuple[Touch, ...], region: int, *, write: bool) -> list[int]:
    return [int(at) for touch in found if (touch.region, touch.write) == (region, write) for at in touch.beats]


def test_every_kind_of_instruction_is_looked_at() -> None:
    assert set(KINDS) == set(Opcode)


@pytest.mark.parametrize("opcode", Opcode, ids=lambda opcode: opcode.name)
def test_beats_are_those_that_are_touched(opcode: Opcode) -> None:
    met = defaultdict[str, set[Any]](set)
    for f in legal(opcode, 0):
        regions, found = carried_out(f), touches(f)
        for number, region in enumerate(regions):
            assert set(beats(found, number, write=False)) == set(region.read), f
            assert set(beats(found, number, write=True)) == set(region.written), f
        for name in ("mode", "staged", "windowed", "dense", "ws", "side", "to_half", "use_mask", "use_bp"):
            met[name].add(f[name])
    wanted = {
        Opcode.LOAD_ACT: {"mode": 3, "staged": 2, "windowed": 2},
        Opcode.LOAD_WGT: {"dense": 2},
        Opcode.STORE: {"ws": 2, "side": 4, "to_half": 2},
        Opcode.UPDATE: {"use_mask": 2, "use_bp": 2},
    }
    for name, count in wanted.get(opcode, {}).items():
        assert len(met[name]) == count, name


def test_beats_of_loads_are_touched_as_often_as_they_are_read() -> None:
    for opcode in (Opcode.LOAD_ACT, Opcode.LOAD_WGT, Opcode.STAGE):
        for f in legal(opcode, 1)[:15]:
            assert sorted(beats(touches(f), REGION, write=False)) == sorted(carried_out(f)[REGION].read), f


def test_rows_of_a_store_are_those_that_touch_the_beat() -> None:
    """Each row has as many elements as columns: of those that are touched, one behind the other, row follows row."""
    shared = 0
    for f in legal(Opcode.STORE, 2):
        regions = carried_out(f)
        for touch in touches(f):
            region = regions[touch.region]
            told = region.written if touch.write else region.read
            assert touch.row is not None
            pairs = list(zip(touch.row.tolist(), touch.beats.tolist(), strict=True))
            assert pairs == sorted({(number // f["columns"], beat) for number, beat in enumerate(told)}), f
            assert touch.field == ("at" if touch.write else "side_at")
            shared += len(set(touch.beats.tolist())) < len(pairs)
        assert len(touches(f)) == 1 + (f["side"] != Side.NONE)
    assert shared > 5


def test_tensors_of_an_update_are_where_their_fields_say() -> None:
    for f in legal(Opcode.UPDATE, 3):
        region, last = carried_out(f)[REGION], dict[str, int]()
        for write, told in ((False, region.read), (True, region.written)):
            wanted = defaultdict[str, set[int]](set)
            for beat in told:
                field = max((name for name in PLACES if f[name] <= beat), key=lambda name: f[name])
                wanted[field].add(beat)
                last[field] = max(last.get(field, 0), beat - f[field])
            found = {touch.field: touch.beats.tolist() for touch in touches(f) if touch.write == write}
            assert {name: set(members) for name, members in found.items()} == wanted, f
            assert all(len(members) == len(set(members)) for name, members in found.items() if name != "g_at"), f
        assert update_sizes(f) == {name: beat + 1 for name, beat in last.items()}, f
