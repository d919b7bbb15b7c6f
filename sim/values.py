"""What instructions of SAT do to memory and buffers: the values behind `sim.sat`, without time (docs/machine/)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from nmsat.algorithms.core.numeric import canonical, ordered_dot_packed, to_half
from nmsat.algorithms.core.packed import Packed
from nmsat.dataflow.contract.codes import group_size, rectangle_rows
from nmsat.dataflow.contract.config import INTERLEAVE
from nmsat.dataflow.contract.isa import HALVES, LANES, OFFSET_MASK, ActMode, Compute, Opcode, Side
from nmsat.dataflow.contract.walks import walk
from nmsat.sim.update.values import apply_update

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from nmsat.dataflow.contract.config import SatConfig
    from nmsat.dataflow.contract.isa import Instruction
    from nmsat.dataflow.contract.walks import WalkSteps


@dataclass
class State:
    """Memory regions and buffers of a machine.

    regions: uint8 arrays of whole beats; act: uint16[R, act_depth * lanes]; value, index, filler: pairs [C,
    weight_depth]; sums, capture: float32[C, sum_depth]; stage:
    uint16[stage_depth, 32]; special: a watched result was infinite or NaN; overflow: of the
    update engine.
    """

    config: SatConfig
    regions: list[NDArray[np.uint8]]
    special: bool = False
    overflow: bool = False
    act: NDArray[np.uint16] = field(init=False)
    value: NDArray[np.uint16] = field(init=False)
    index: NDArray[np.uint8] = field(init=False)
    filler: NDArray[np.bool_] = field(init=False)
    sums: NDArray[np.float32] = field(init=False)
    capture: NDArray[np.float32] = field(init=False)
    stage: NDArray[np.uint16] = field(init=False)

    def __post_init__(self) -> None:
        c = self.config
        self.act = np.zeros((c.rows, c.act_depth * c.act_lanes), np.uint16)
        self.value = np.zeros((c.columns, c.weight_depth), np.uint16)
        self.index = np.zeros((c.columns, c.weight_depth), np.uint8)
        self.filler = np.zeros((c.columns, c.weight_depth), np.bool_)
        self.sums = np.zeros((c.columns, c.sum_depth), np.float32)
        self.capture = np.zeros((c.columns, c.sum_depth), np.float32)
        self.stage = np.zeros((c.stage_depth, HALVES), np.uint16)

    def halves(self, region: int) -> NDArray[np.uint16]:
        """Return a region as uint16[beats, 32]."""
        return self.regions[region].view(np.uint16).reshape(-1, HALVES)

    def words(self, region: int) -> NDArray[np.uint32]:
        """Return a region as uint32[beats, 16]."""
        return self.regions[region].view(np.uint32).reshape(-1, LANES)


def execute(instruction: Instruction, state: State) -> None:
    """Carry out one instruction. IndexError if it reaches beyond its region."""
    action = _ACTIONS.get(instruction.opcode)
    if action is not None:
        action(instruction, state)


def _load_act(f: Instruction, state: State) -> None:
    config = state.config
    m, a = group_size(f), rectangle_rows(f)
    base = f["base"] * config.act_lanes
    if f["mode"] == ActMode.OS_COLUMNS:
        _load_columns(f, state, m, a, base)
        return
    rows = a * config.rows if f["mode"] == ActMode.OS_ROWS else f["rows"]
    path = walk(f, f["rows"])
    beats = -(-f["k"] // HALVES)
    held = np.zeros((rows, beats * HALVES), np.uint16)
    _gather(f, state, path, held)
    groups = -(-f["k"] // m)
    by_group = held[:, : groups * m].reshape(rows, groups, m)
    if f["mode"] == ActMode.OS_ROWS:
        ordered = by_group.reshape(a, config.rows, groups, m).transpose(1, 2, 0, 3).reshape(config.rows, -1)
        state.act[:, base : base + ordered.shape[1]] = ordered
    else:
        ordered = by_group.transpose(1, 0, 2).reshape(groups, -1)
        state.act[:groups, base : base + ordered.shape[1]] = ordered


def _gather(f: Instruction, state: State, path: WalkSteps, held: NDArray[np.uint16]) -> None:
    """Put the beats of every step that lies inside into its row of held[steps, beats * 32]."""
    inside = np.nonzero(path.inside)[0]
    for q in range(held.shape[1] // HALVES):
        at = path.offset[inside] + q
        beats = state.stage[at % len(state.stage)] if f["staged"] else state.halves(f["region"])[at]
        held[inside, q * HALVES : (q + 1) * HALVES] = beats


def _stage(f: Instruction, state: State) -> None:
    o, i = np.divmod(np.arange(f["outer"] * f["inner"]), f["inner"])
    at = (f["at"] + o * f["outer_step"] + i) & OFFSET_MASK
    places = (f["base"] + np.arange(len(at))) % len(state.stage)
    state.stage[places] = state.halves(f["region"])[at]


def _load_columns(f: Instruction, state: State, m: int, a: int, base: int) -> None:
    rows = state.config.rows
    path = walk(f, f["k"])
    beats = -(-f["rows"] // HALVES)
    used = min(a * rows, beats * HALVES)
    groups = -(-f["k"] // m)
    held = np.zeros((groups * m, beats * HALVES), np.uint16)
    _gather(f, state, path, held)
    # x, (i, r) -> r, g, i, e
    for i in range(-(-used // rows)):
        part = held[:, i * rows : min((i + 1) * rows, used)].T
        for r in range(part.shape[0]):
            places = base + np.arange(groups)[:, None] * (a * m) + i * m + np.arange(m)
            state.act[r, places] = part[r].reshape(groups, m)


def _load_wgt(f: Instruction, state: State) -> None:
    config = state.config
    b = INTERLEAVE // rectangle_rows(f)
    wide = HALVES if f["dense"] else LANES
    used = min(wide, b * config.columns)
    if f["dense"]:
        rows, across, step = f["outer"], f["inner"], f["inner_step"]
        path = np.arange(rows) * f["outer_step"]
    else:
        rows, across, step = f["outer"] * f["inner"], f["blocks"], f["block_step"]
        o, i = np.divmod(np.arange(rows), f["inner"])
        path = o * f["outer_step"] + i * f["inner_step"]
    for q in range(across):
        at = (f["at"] + q * step + path) & OFFSET_MASK
        lanes = slice(f["lane"], f["lane"] + used)
        if f["dense"]:
            value = state.halves(f["region"])[at][:, lanes]
            index = np.broadcast_to((np.arange(rows) % group_size(f))[:, None], value.shape)
            filler = np.zeros(value.shape, np.bool_)
        else:
            word = state.words(f["region"])[at][:, lanes]
            value, index, filler = word & 0xFFFF, (word >> 16) & 15, (word >> 20 & 1).astype(np.bool_)
        blank = np.zeros((f["pad"], used), np.int64)
        value, index = np.concatenate([value, blank]), np.concatenate([index, blank])
        filler = np.concatenate([filler, blank == 0])
        slot = f["base"] + np.arange(rows + f["pad"]) * b
        for lane in range(used):
            j, c = divmod(q * wide + lane, config.columns)
            state.value[c, slot + j] = value[:, lane]
            state.index[c, slot + j] = index[:, lane]
            state.filler[c, slot + j] = filler[:, lane]


def _compute(instruction: Instruction, state: State) -> None:
    config, f = state.config, Compute.of(instruction)
    m, a, b = f.m, f.a, f.b
    packed = _packed(f, state)
    words = f.windows * a * m
    start = f.act_base * config.act_lanes
    held = state.act[:, start : start + words].view(np.float16)
    order: tuple[int, ...]
    if f.ws:  # r, block, i, e -> block, i, r, e; results: block, j, i
        matrix = held.reshape(config.rows, f.windows, a, m).transpose(1, 2, 0, 3).reshape(-1, config.rows * m)
        shape, order = (f.windows, a, b, config.columns), (3, 0, 2, 1)
    else:  # r, g, i, e -> i, r, g, e; results: r, j, i
        matrix = held.reshape(config.rows, f.windows, a, m).transpose(2, 0, 1, 3).reshape(a * config.rows, -1)
        shape, order = (a, config.rows, b, config.columns), (3, 1, 2, 0)
    count = shape[0] * shape[1] * b
    seed = None
    if f.seed:
        back = state.sums[:, :count].reshape(tuple(shape[axis] for axis in order))
        seed = np.ascontiguousarray(back.transpose(np.argsort(order))).reshape(matrix.shape[0], -1)
    y = ordered_dot_packed(np.ascontiguousarray(matrix), packed, seed).reshape(shape)
    results = np.ascontiguousarray(y.transpose(order)).reshape(config.columns, count)
    if f.keep:
        state.sums[:, :count] = results
    else:
        state.capture[:, f.capture : f.capture + count] = results


def _packed(f: Compute, state: State) -> Packed:
    """Return the pairs of a command as packed weights over columns j C + c.

    Columns that are not stored may hold pairs of another product, whose places lie beyond M: they mean nothing.
    """
    n, m, b = f.n, f.m, f.b
    groups = state.config.rows if f.ws else f.windows
    parts = []
    for source in (state.value, state.index, state.filler):
        part = source[:, f.wgt_base : f.wgt_base + groups * n * b]
        # c, g, s, j -> g, s, j, c
        parts.append(np.ascontiguousarray(part.reshape(-1, groups, n, b).transpose(1, 2, 3, 0)).reshape(groups, n, -1))
    return Packed(parts[0].view(np.float16), parts[1] & (m - 1), parts[2], groups * m, n, m)


def _store(f: Instruction, state: State) -> None:
    x = _results(f, state)
    path = walk(f, f["rows"])
    side = Side(f["side"])
    with np.errstate(all="ignore"):
        if side in (Side.TILE16, Side.TILE32):
            x = canonical(x + _side(f, state, side))
        y = to_half(x) if f["to_half"] else x
        if f["relu"]:
            y = np.where(y <= 0, y.dtype.type(0), y)
        if side is Side.MASK:
            y = np.where(_side(f, state, side) <= 0, y.dtype.type(0), y)
    if f["watch"] and not np.isfinite(y).all():
        state.special = True
    width = y.dtype.itemsize
    region = state.regions[f["region"]].view(np.uint16 if width == 2 else np.uint32)
    start = path.offset * (64 // width) + f["lane"]
    places = start[:, None] + np.arange(f["columns"])
    if places.max() >= region.size:
        raise IndexError(
            f"store reaches element {int(places.max())!r} of region {f['region']}, which has {region.size}"
        )
    region[places] = y.view(region.dtype)


def _results(f: Instruction, state: State) -> NDArray[np.float32]:
    """Return the results of a tile, float32[rows, columns], as they lie in the capture buffers."""
    config = state.config
    a = rectangle_rows(f)
    t = np.arange(f["rows"])
    first = (t // a) * INTERLEAVE + t % a if f["ws"] else (t % config.rows) * INTERLEAVE + t // config.rows
    j, c = np.divmod(np.arange(f["columns"]), config.columns)
    return state.capture[c[None, :], f["capture"] + first[:, None] + j[None, :] * a]


def _side(f: Instruction, state: State, side: Side) -> NDArray[np.float32]:
    """Return the second operand of a store, float32[rows, columns]."""
    path = walk(f, f["rows"], "side_")
    per_beat = LANES if side is Side.TILE32 else HALVES
    view = state.regions[f["side_region"]].view(np.float32 if side is Side.TILE32 else np.float16)
    places = path.offset[:, None] * per_beat + f["lane"] + np.arange(f["columns"])
    return view[places].astype(np.float32)


def _update(f: Instruction, state: State) -> None:
    state.overflow |= apply_update(f, state.regions, hold=state.special)


_ACTIONS: dict[Opcode, Callable[[Instruction, State], None]] = {
    Opcode.LOAD_ACT: _load_act,
    Opcode.LOAD_WGT: _load_wgt,
    Opcode.STAGE: _stage,
    Opcode.COMPUTE: _compute,
    Opcode.STORE: _store,
    Opcode.UPDATE: _update,
}
