"""Which beats a load looks at, one by one (hw/load/ask.py)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nmsat.dataflow.contract.codes import group_size, rectangle_rows
from nmsat.dataflow.contract.isa import HALVES, OFFSET_MASK, ActMode, Instruction, Opcode
from nmsat.dataflow.contract.limits import LOAD_CHUNK
from nmsat.dataflow.contract.timing import reads_pairs
from nmsat.sim.load.writers import BeatPlace
from nmsat.sim.parts.walk import Walk

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nmsat.dataflow.contract.config import SatConfig

Slot = tuple[BeatPlace, int, int]
"""A beat of an instruction, its region and its offset."""


def slots(config: SatConfig, instruction: Instruction) -> Iterator[Slot]:
    """Yield the beats of a load in the order in which they are looked at; offsets of zeros mean nothing."""
    if instruction.opcode == Opcode.LOAD_WGT:
        return _weight_slots(instruction)
    if instruction.opcode == Opcode.STAGE:
        return _weight_slots(Instruction(Opcode.LOAD_WGT, {**instruction.fields, "blocks": 1, "inner_step": 1}))
    if instruction["mode"] == ActMode.OS_COLUMNS:
        return _column_slots(instruction)
    steps = instruction["rows"]
    if instruction["mode"] == ActMode.OS_ROWS:
        steps = config.rows * rectangle_rows(instruction)
    return _row_slots(instruction, steps, bool(reads_pairs(config, instruction)))


def _walk(instruction: Instruction) -> Walk:
    fields = instruction.fields
    return Walk(fields if instruction["windowed"] else {**fields, "width": 0})


def _row_slots(instruction: Instruction, steps: int, pairs: bool) -> Iterator[Slot]:
    walk, region, rows = _walk(instruction), instruction["region"], instruction["rows"]
    staged = bool(instruction["staged"])
    beats = -(-instruction["k"] // HALVES)
    at_once = 2 if pairs else 1
    chunk = at_once if pairs else LOAD_CHUNK
    for first in range(0, beats, chunk):
        behind = min(first + chunk, beats)
        walk.start()
        for step in range(steps):
            local = staged or not (step < rows and walk.inside)
            for q in range(first, behind, at_once):
                turn = q + at_once == behind
                end = turn and step == steps - 1
                yield (
                    BeatPlace(local, turn, end, end and behind == beats, pairs),
                    region,
                    (walk.offset + q) & OFFSET_MASK,
                )
            walk.advance()


def _column_slots(instruction: Instruction) -> Iterator[Slot]:
    walk, region, k = _walk(instruction), instruction["region"], instruction["k"]
    staged = bool(instruction["staged"])
    beats = -(-instruction["rows"] // HALVES)
    group = group_size(instruction)
    steps = -(-k // group) * group
    for step in range(steps):
        for q in range(beats):
            turn = q == beats - 1
            end = turn and step == steps - 1
            local = staged or not (step < k and walk.inside)
            yield BeatPlace(local, turn, end, end), region, (walk.offset + q) & OFFSET_MASK
        walk.advance()


def _weight_slots(instruction: Instruction) -> Iterator[Slot]:
    at = instruction["at"]
    steps = {"x_step": "inner_step", "y_step": "outer_step", "image_step": "block_step"}
    sizes = {"width": "inner", "height": "outer"}
    walk = Walk(
        {"at": at, "line_at": at, "image_at": at, **{key: instruction[name] for key, name in (steps | sizes).items()}}
    )
    blocks = instruction["blocks"]
    while blocks:
        blocks -= walk.image_end
        yield BeatPlace(False, walk.image_end, walk.image_end, blocks == 0), instruction["region"], walk.offset
        walk.advance()
