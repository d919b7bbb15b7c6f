"""Random load instructions, and what they write, computed from the tables of docs/machine/load.md alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from nmsat.dataflow.contract.isa import HALVES, LANES, REGIONS, ActMode, Instruction, Opcode
from nmsat.dataflow.contract.legal import check
from nmsat.dataflow.contract.links import FILLER_PAIR

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from nmsat.dataflow.contract.config import SatConfig

REGION_BEATS = 4096
"""Beats of a region in a bench; offsets wrap, so that any program reads something."""

Writes = dict[tuple[int, int], int]
"""(array row, element) or (array column, pair) -> what is written there."""


class Memory:
    """Random memory: beats uint16[region, beat, 32]; staged: what stands in the staging buffer, uint16[beat, 32]."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.staged: NDArray[np.uint16] = np.zeros((0, HALVES), np.uint16)
        self.beats: NDArray[np.uint16] = rng.integers(0, 1 << 16, (REGIONS, REGION_BEATS, HALVES), dtype=np.uint16)

    def beat(self, region: int, offset: int) -> NDArray[np.uint16]:
        """Return one beat."""
        return self.beats[region, offset % REGION_BEATS]

    def word(self, region: int, offset: int) -> int:
        """Return one beat as a number."""
        return int.from_bytes(self.beat(region, offset).tobytes(), "little")


def random_loads(rng: np.random.Generator, config: SatConfig, count: int) -> list[Instruction]:
    """Return legal loads of a few hundred beats at most; the first fills the staging buffer.

    Staged loads that read nothing of the last STAGE are mostly `beside`.
    """
    inner = 1 << int(rng.integers(1, 6))
    found = [_random_stage(rng, config.stage_depth // inner, inner, 0)]
    kinds = (_random_weights, _random_weights, _random_act, _random_act, _random_act, _random_part, _random_rows)
    while len(found) < count:
        kind = kinds[int(rng.integers(len(kinds)))]
        times = _upto(rng, 5) if kind is _random_rows else 1  # rows that follow each other overlap
        found += [kind(rng, config) for _ in range(times)]
    found = _beside(rng, config, found[:count])
    for instruction in found:
        check(instruction, config)
    return found


def _beside(rng: np.random.Generator, config: SatConfig, loads: list[Instruction]) -> list[Instruction]:
    """Return loads of which some run beside a STAGE; most parts are made to lie where the load behind reads nothing."""
    depth, found = config.stage_depth, list[Instruction]()
    brought = set(range(depth))
    for number, load in enumerate(loads):
        fields = load.fields
        if load.opcode is Opcode.STAGE and number:
            behind = next((other for other in loads[number:] if other["staged"]), None)
            free = sorted(set(range(depth)) - (places_read(behind, depth) if behind else set()))
            if free and rng.random() < 0.8:
                base = free[int(rng.integers(len(free)))]
                room = next((n for n in range(depth) if (base + n) % depth not in free), depth)
                inner = min(load["inner"], room)
                fields = {**fields, "base": base, "inner": inner, "outer": min(load["outer"], room // inner)}
        if load.opcode is Opcode.STAGE:
            brought = {(fields["base"] + i) % depth for i in range(fields["outer"] * fields["inner"])}
        elif load["staged"] and rng.random() < 0.9:
            fields = {**fields, "beside": int(not places_read(load, depth) & brought)}
        found.append(Instruction(load.opcode, fields))
    return found


def places_read(load: Instruction, depth: int) -> set[int]:
    """Return the places of the staging buffer that a LOAD_ACT reads."""
    columns = load["mode"] == ActMode.OS_COLUMNS
    steps, across = (load["k"], load["rows"]) if columns else (load["rows"], load["k"])
    offsets = [pixel(load, step) for step in range(steps)]
    return {(at + q) % depth for at in offsets if at is not None for q in range(-(-across // HALVES))}


def _random_part(rng: np.random.Generator, config: SatConfig) -> Instruction:
    inner = _upto(rng, 32)
    outer = _upto(rng, config.stage_depth // inner)
    return _random_stage(rng, outer, inner, int(rng.integers(config.stage_depth)))


def _random_stage(rng: np.random.Generator, outer: int, inner: int, base: int) -> Instruction:
    far = 1 << 20
    fields = {"region": int(rng.integers(REGIONS)), "at": int(rng.integers(1 << 33)), "outer": outer, "inner": inner}
    step = _one_of(rng, inner, 0, int(rng.integers(-far, far)))
    return Instruction(Opcode.STAGE, {**fields, "outer_step": step, "base": base})


def _one_of(rng: np.random.Generator, *values: int) -> int:
    return int(values[rng.integers(len(values))])


def _upto(rng: np.random.Generator, most: int) -> int:
    """Return a number from 1 to `most`, small ones more often, now and then `most`."""
    return most if rng.random() < 0.1 else 1 + int(most * rng.random() ** 3)


def _random_act(rng: np.random.Generator, config: SatConfig) -> Instruction:
    return _act(rng, config, int(rng.integers(3)), 0.4)


def _random_rows(rng: np.random.Generator, config: SatConfig) -> Instruction:
    """Return a load of rows, mostly staged and of an even number of beats, so that they are read in pairs."""
    found = _act(rng, config, int(ActMode.OS_ROWS), 0.9)
    fields, group = found.fields, 2 << found["log2_m_less_1"]
    most = ((config.act_depth - fields["base"]) * config.act_lanes >> fields["log2_a"]) // group * group
    pairs = min(most, 256) // (2 * HALVES)
    if pairs:
        fields["k"] = _upto(rng, pairs) * 2 * HALVES - int(rng.integers(HALVES))
    return Instruction(found.opcode, fields)


def _act(rng: np.random.Generator, config: SatConfig, mode: int, share: float) -> Instruction:
    lanes = config.act_lanes
    log2_m = int(rng.integers(4))
    log2_a = _one_of(rng, *(a for a in range(4) if (2 << log2_m << a) <= config.act_bank))
    group = 2 << log2_m
    base = int(rng.integers(config.act_depth // 2))
    room = (config.act_depth - base) * lanes
    if mode == ActMode.WS_ROWS:
        rows, k = _upto(rng, min(120, room // group)), int(rng.integers(config.rows * group)) + 1
    else:
        k = _upto(rng, min(400, (room >> log2_a) // group * group))
        rows = _upto(rng, config.rows << log2_a)
    beats = -(-(rows if mode == ActMode.OS_COLUMNS else k) // HALVES)
    walk = _random_walk(rng, beats)
    staged = int(rng.random() < share)
    if staged and rng.random() < 0.8:  # so that rows of an even number of beats are read in pairs
        walk |= {name: value & ~1 for name, value in walk.items() if name.endswith(("at", "x_step", "y_step"))}
        walk["image_step"] &= ~1
        walk |= {"ix_step": _one_of(rng, 1, 2), "in_width": 12, "in_height": 12}
    shape = {"mode": mode, "log2_m_less_1": log2_m, "log2_a": log2_a, "base": base, "rows": rows, "k": k}
    return Instruction(Opcode.LOAD_ACT, {**shape, "staged": staged, **walk})


def _random_walk(rng: np.random.Generator, beats: int) -> dict[str, int]:
    far = 1 << 20
    steps = {name: _one_of(rng, beats, 1, 0, -1, int(rng.integers(-far, far))) for name in ("x_step", "y_step")}
    width, height = int(rng.integers(9)), int(rng.integers(1, 5))
    if rng.random() < 0.4:  # images end within a load
        width, height = int(rng.integers(1, 3)), int(rng.integers(1, 3))
    walk = {
        "windowed": int(rng.random() < 0.6),
        "region": int(rng.integers(REGIONS)),
        **steps,
        **{name: int(rng.integers(1 << 33)) for name in ("at", "line_at", "image_at")},
        "image_step": int(rng.integers(-far, far)),
        "width": width,
        "height": height,
        "x0": int(rng.integers(max(1, width))),
        "y0": int(rng.integers(height)),
        **{name: int(rng.integers(-3, 9)) for name in ("ix0", "iy0", "ix_line", "iy_image")},
        **{name: int(rng.integers(4)) for name in ("ix_step", "iy_step")},
        **{name: int(rng.integers(12)) for name in ("in_width", "in_height")},
    }
    if rng.random() < 0.3:
        walk.update(ix0=-4096, in_width=4095, ix_step=15)
    return walk


def _random_weights(rng: np.random.Generator, config: SatConfig) -> Instruction:
    dense, log2_a = int(rng.integers(2)), int(rng.integers(4))
    beat, tile = (LANES, HALVES)[dense], config.columns << 3 - log2_a
    base = int(rng.integers(config.weight_depth // 2))
    across = _upto(rng, max(1, tile // beat))
    rows = _upto(rng, min(120 // across, (config.weight_depth - base) >> 3 - log2_a))
    pad = int(rng.integers(rows)) if rng.random() < 0.4 else 0
    inner = _upto(rng, rows - pad)
    shape = {"blocks": across, "inner": inner, "outer": (rows - pad) // inner}
    if dense:
        shape = {"blocks": 1, "inner": across, "outer": rows - pad}
    far = 1 << 20
    return Instruction(
        Opcode.LOAD_WGT,
        {
            "dense": dense,
            "log2_a": log2_a,
            "log2_m_less_1": int(rng.integers(4)),
            "base": base,
            **shape,
            "lane": int(rng.integers(beat // tile)) * tile if tile < beat else 0,
            "pad": pad,
            "region": int(rng.integers(REGIONS)),
            "at": int(rng.integers(1 << 33)),
            "inner_step": _one_of(rng, 1, 1, 0, -1, int(rng.integers(-far, far))),
            **{name: int(rng.integers(-far, far)) for name in ("outer_step", "block_step")},
        },
    )


def expected(config: SatConfig, instruction: Instruction, memory: Memory) -> tuple[Writes, Writes]:
    """Return what a load writes into the activation buffers and into the weight buffers, and nothing else."""
    if instruction.opcode == Opcode.LOAD_WGT:
        return {}, _weights(config, instruction, memory)
    if instruction.opcode == Opcode.STAGE:
        _fill(config, instruction, memory)
        return {}, {}
    mode, rows, k = instruction["mode"], instruction["rows"], instruction["k"]
    m, a = 2 << instruction["log2_m_less_1"], 1 << instruction["log2_a"]
    base = instruction["base"] * config.act_lanes
    padded = -(-k // m) * m
    columns = mode == ActMode.OS_COLUMNS
    tile = {0: a * config.rows, 1: min(a * config.rows, -(-rows // HALVES) * HALVES), 2: rows}[mode]
    writes: Writes = {}
    for t in range(tile):
        for x in range(padded):
            step, place = (x, t) if columns else (t, x)
            offset = pixel(instruction, step) if step < (k if columns else rows) else None
            value = 0
            if offset is not None:
                value = int(_source(instruction, memory, offset + place // HALVES)[place % HALVES])
            if mode == ActMode.WS_ROWS:
                writes[x // m, base + t * m + x % m] = value
            else:
                element = base + (x // m) * a * m + (t // config.rows) * m + x % m
                writes[t % config.rows, element] = value
    return writes, {}


def _fill(config: SatConfig, fields: Instruction, memory: Memory) -> None:
    """Carry out a STAGE."""
    if len(memory.staged) != config.stage_depth:
        memory.staged = np.zeros((config.stage_depth, HALVES), np.uint16)
    for number in range(fields["outer"] * fields["inner"]):
        run, i = divmod(number, fields["inner"])
        beat = memory.beat(fields["region"], fields["at"] + run * fields["outer_step"] + i)
        memory.staged[(fields["base"] + number) % config.stage_depth] = beat


def _source(fields: Instruction, memory: Memory, offset: int) -> NDArray[np.uint16]:
    """Return a beat of a LOAD_ACT."""
    return memory.staged[offset % len(memory.staged)] if fields["staged"] else memory.beat(fields["region"], offset)


def pixel(fields: Instruction, step: int) -> int | None:
    """Return the offset of a step of the walk in closed form, None outside the input."""
    if not fields["windowed"]:
        return fields["at"] + step * fields["x_step"]
    across = fields["x0"] + step
    lines, x = divmod(across, fields["width"]) if fields["width"] else (0, across)
    images, y = divmod(fields["y0"] + lines, fields["height"])
    if not lines:
        offset, ix = fields["at"] + step * fields["x_step"], fields["ix0"] + step * fields["ix_step"]
        images = 0
    else:
        offset, ix = x * fields["x_step"], fields["ix_line"] + x * fields["ix_step"]
        offset += y * fields["y_step"] if images else lines * fields["y_step"]
        offset += fields["image_at"] + images * fields["image_step"] if images else fields["line_at"]
    iy = fields["iy_image"] + y * fields["iy_step"] if images else fields["iy0"] + lines * fields["iy_step"]
    return offset if 0 <= ix < fields["in_width"] and 0 <= iy < fields["in_height"] else None


def _weights(config: SatConfig, fields: Instruction, memory: Memory) -> Writes:
    b, dense = 8 >> fields["log2_a"], fields["dense"]
    beat = (LANES, HALVES)[dense]
    used = min(beat, b * config.columns)
    rows = fields["outer"] * (1 if dense else fields["inner"])
    writes: Writes = {}
    for q in range(fields["inner"] if dense else fields["blocks"]):
        for s in range(rows + fields["pad"]):
            block, run, i = (0, s, q) if dense else (q, *divmod(s, fields["inner"]))
            offset = fields["at"] + run * fields["outer_step"] + i * fields["inner_step"]
            offset += block * fields["block_step"]
            for p in range(used):
                j, c = divmod(beat * q + p, config.columns)
                pair = FILLER_PAIR
                if s < rows:
                    pair = _pair(fields, memory.beat(fields["region"], offset), fields["lane"] + p, s)
                writes[c, fields["base"] + s * b + j] = pair
    return writes


def _pair(fields: Instruction, beat: NDArray[np.uint16], lane: int, row: int) -> int:
    if fields["dense"]:
        return int(beat[lane]) | row % (2 << fields["log2_m_less_1"]) << 16
    return (int(beat[2 * lane]) | int(beat[2 * lane + 1]) << 16) & ((1 << 21) - 1)


def as_act_writes(config: SatConfig, enable: int, address: int, data: int) -> Writes:
    """Return what one write of the activation port puts where."""
    lanes = config.act_lanes
    return {
        (r, address * lanes + lane): data >> 16 * (r * lanes + lane) & 0xFFFF
        for r in range(config.rows)
        if enable >> r & 1
        for lane in range(lanes)
    }


def as_weight_writes(config: SatConfig, enable: int, address: int, data: int) -> Writes:
    """Return what one write of the weight port puts where."""
    return {(c, address): data >> 21 * c & 0x1FFFFF for c in range(config.columns) if enable >> c & 1}


def compare(number: int, instruction: Instruction, found: Writes, wanted: Writes) -> None:
    """Raise AssertionError with the first place at which the writes of an instruction are not those of the table."""
    for place in sorted(found.keys() | wanted.keys()):
        got, right = found.get(place), wanted.get(place)
        assert got == right, (
            f"instruction {number}, {instruction}: (row or column, place) {place} holds "
            f"{_text(got)}, the table says {_text(right)}"
        )


def _text(value: int | None) -> str:
    return "nothing" if value is None else hex(value)


def as_dict(config: SatConfig) -> dict[str, Any]:
    """Return the sizes of a configuration for a job; `SatConfig(**...)` restores it."""
    names = ("name", "rows", "columns", "act_lanes", "act_depth", "weight_depth", "stage_depth")
    return {name: getattr(config, name) for name in names}
