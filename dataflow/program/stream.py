"""A product's program by what repeats in it: few forms of instructions, and where each instruction lies.

A command is told by what it meets: whether its operands stand in the buffers, for whom it has to wait, which kind of
tile it is. Commands that meet the same have the same instructions but for places (`emit.fill`), so each kind is
emitted once. What places are not kept for: time does not depend on those in buffers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

import numpy as np

from nmsat.dataflow.contract.isa import OFFSET_MASK, QUEUE_OF, Instruction, Opcode, Queue
from nmsat.dataflow.program.assembler import LINKS, Assembler, Block, Node, Room
from nmsat.dataflow.program.emit import Rooms, fill, find_rooms, next_operand

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from nmsat.dataflow.contract.config import SatConfig
    from nmsat.dataflow.program.product import Cut
    from nmsat.dataflow.program.sources import DepthRange, Fields, RowTile

_PLACES: Final = ("at", "line_at", "image_at")
_SIDE_PLACES: Final = ("side_at", "side_line_at", "side_image_at")
_BUFFERS: Final = ("base", "act_base", "wgt_base", "capture")

LOAD, COMPUTE, STORE, _ = Queue
_OP_LOAD_ACT, _OP_LOAD_WGT, _OP_COMPUTE, _OP_STORE = Opcode.LOAD_ACT, Opcode.LOAD_WGT, Opcode.COMPUTE, Opcode.STORE
"""Here once: looking up a member of an enumeration takes long, and this goes through all commands of a network."""

_LOADED: Final = LINKS[Queue.LOAD, Queue.COMPUTE]
_FREED: Final = LINKS[Queue.COMPUTE, Queue.LOAD]
_STORED: Final = LINKS[Queue.STORE, Queue.COMPUTE]

_START: Final = 1 << 32
"""Instructions of each queue in front of a command that is emitted for itself."""

ACTS, WEIGHTS, RESULT, NOTHING = range(4)
"""Whose offsets an instruction's are."""

_WHOSE: Final = {
    Opcode.LOAD_ACT: ACTS,
    Opcode.STAGE: ACTS,
    Opcode.LOAD_WGT: WEIGHTS,
    Opcode.STORE: RESULT,
    Opcode.COMPUTE: NOTHING,
}
_SIGNALLING: Final = [int(pair[0]) for pair in LINKS]
_NONE: Final[Fields] = {}
_Ints: TypeAlias = "NDArray[np.int64]"


@dataclass(frozen=True)
class InstructionForm:
    """Instructions that are alike but for places. fields: with `wait`, without `signal`, as they are for offset 0.

    whose: ACTS, WEIGHTS, RESULT or NOTHING.
    """

    opcode: Opcode
    fields: Fields
    whose: int

    def instruction(self, beats: int, side: int, signal: int) -> Instruction:
        """Return an instruction that takes the time of the one that lies so many beats behind."""
        fields = {**self.fields, "signal": signal}
        if not self.fields.get("staged"):
            for names, shift in ((_PLACES, beats), (_SIDE_PLACES, side)):
                fields |= {name: fields[name] + shift & OFFSET_MASK for name in names if name in fields}
        return Instruction(self.opcode, fields)


@dataclass(frozen=True)
class Stream:
    """A program. of: number of each instruction's form; beats, side: how far behind it lies; signal: its mask."""

    forms: tuple[InstructionForm, ...]
    of: _Ints
    beats: _Ints
    side: _Ints
    signal: _Ints

    def __len__(self) -> int:
        return len(self.of)

    def instruction(self, index: int) -> Instruction:
        """Return an instruction that takes the time of instruction `index` of the program."""
        form = self.forms[self.of[index]]
        return form.instruction(int(self.beats[index]), int(self.side[index]), int(self.signal[index]))


def stream(config: SatConfig, cut: Cut) -> Stream | None:
    """Return the program of a product and END; None where it must be assembled to be known.

    That is one that reads what it writes, and one with an instruction that is not legal.
    """
    code = cut.code
    read = {place.key for place in (*code.act.places(), *code.wgt.places(), *code.sink.places())}
    if code.sink.tensor.key in read:
        return None
    try:
        return _Streamer(config, cut).stream()
    except ValueError:
        return None


class _Kind(NamedTuple):
    """What commands of one kind have in common; places of instructions count in their queue, from the command on.

    forms: of its instructions; counts: how many each queue gets; signals: (queue, place, mask); waited: (link, place of
    the last one waited for); weights, acts: places of the last load of either; held: runs that it leaves in the staging
    buffer, -1 if nothing is staged for it; ahead: those are of the operands that are loaded next.
    """

    forms: list[int]
    counts: tuple[int, ...]
    signals: list[tuple[int, int, int]]
    waited: list[tuple[int, int]]
    weights: int
    acts: int
    held: int
    ahead: bool


class _Command(NamedTuple):
    """A command, where its operands and results are in the buffers, and how many instructions back those are for which
    it has to wait: 0 for none. beats: of its operands, its result and what is read beside it; ahead: whose activations
    are loaded next."""

    tile: RowTile
    columns: tuple[int, int]
    part: DepthRange
    rooms: Rooms
    weights: int
    acts: int
    capture: int
    beats: tuple[int, int, int, int]
    ahead: tuple[RowTile, DepthRange] | None


class _Streamer:
    """Goes through the commands of one product."""

    def __init__(self, config: SatConfig, cut: Cut) -> None:
        self._config, self._cut = config, cut
        self._out = Assembler(config)  # of which the buffers are kept
        self._counts = [0] * len(Queue)
        self._waited = [-1] * len(LINKS)
        self._staged: tuple[RowTile, DepthRange, int] | None = None  # the last tile with a STAGE, the runs it left
        self._numbers: dict[tuple[Any, ...], int] = {}
        self._kinds: list[_Kind] = []
        self._forms: dict[tuple[Any, ...], int] = {}
        self._made: list[InstructionForm] = []

    def stream(self) -> Stream:
        """Return the program."""
        cut = self._cut
        kinds: list[int] = []
        beats: list[tuple[int, ...]] = []
        starts: list[tuple[int, ...]] = []
        for tile, column, part in cut.commands():
            starts.append(tuple(self._counts))
            number, places = self._command(tile, (column, min(cut.width, cut.code.n - column)), part)
            kinds.append(number)
            beats.append(places)
        return self._joined(np.array(kinds), np.array(beats), np.array(starts))

    def _command(self, tile: RowTile, columns: tuple[int, int], part: DepthRange) -> tuple[int, tuple[int, ...]]:
        """Pass a command; return the number of its kind, and where it lies."""
        cut, code = self._cut, self._cut.code
        rooms = find_rooms(self._out, cut, tile, columns[0], part)
        acts, act_beats = code.act.alike(tile, part)
        weights, wgt_beats = code.wgt.alike(cut.mapping, *columns, part)
        result, beats, side = code.sink.alike(tile, *columns)
        capture = rooms.capture
        command = _Command(
            *(tile, columns, part, rooms, self._needs(rooms.weights), self._needs(rooms.acts)),
            self._back(capture.after, _OP_STORE, _STORED) if capture else 0,
            (act_beats, wgt_beats, beats, side),
            next_operand(self._out, cut, tile, columns[0], part, rooms),
        )
        key = (
            *(tile.rows, part.size, part.first > 0, command.weights, command.acts, command.capture),
            weights if rooms.weights.fresh else None,
            (acts, *self._standing(act_beats), *self._behind(command.ahead, act_beats)) if rooms.acts.fresh else None,
            result if capture else None,
        )
        number = self._numbers.get(key)
        if number is None:
            number = self._numbers[key] = len(self._kinds)
            self._kinds.append(self._emit(command))
        self._pass(command, self._kinds[number])
        return number, command.beats

    def _needs(self, room: Room) -> int:
        """Return how many instructions back the last one is that an operand has to wait for."""
        if room.fresh:
            return self._back(room.after, _OP_COMPUTE, _FREED)
        filled = room.block.filled
        return self._back([filled], filled.opcode, _LOADED) if filled else 0

    def _back(self, nodes: list[Node], opcode: Opcode, link: int) -> int:
        """Return how many back the last of the nodes of an opcode is; 0 if there is none or it is waited for."""
        last = -1
        for node in nodes:
            if node.opcode is opcode and node.number > last:
                last = node.number
        return self._counts[_SIGNALLING[link]] - last if last > self._waited[link] else 0

    def _standing(self, act_beats: int) -> tuple[Any, ...]:
        """Return what stands in the staging buffer, seen from a tile that lies there."""
        if self._staged is None:
            return ()
        tile, part, runs = self._staged
        key, beats = self._cut.code.act.alike(tile, part)
        return key, runs, act_beats - beats

    def _behind(self, ahead: tuple[RowTile, DepthRange] | None, act_beats: int) -> tuple[Any, ...]:
        """Return what is loaded next, seen from a tile that lies there."""
        if ahead is None:
            return ()
        key, beats = self._cut.code.act.alike(*ahead)
        return key, beats - act_beats

    def _emit(self, command: _Command) -> _Kind:
        """Emit a command for itself, in the last places of the buffers: what is legal there is legal everywhere."""
        out, c = Assembler(self._config), command
        out.counts = dict.fromkeys(Queue, _START)
        if self._staged is not None:
            tile, part, runs = self._staged
            out.staging.held = {**self._stages(tile, part)[-1], "outer": runs}
        weights = _shadow(c.rooms.weights, out.weight.depth, _OP_COMPUTE, c.weights)
        acts = _shadow(c.rooms.acts, out.act.depth, _OP_COMPUTE, c.acts)
        capture = c.rooms.capture and _shadow(c.rooms.capture, out.capture.depth, _OP_STORE, c.capture)
        fill(out, self._cut, c.tile, c.columns, c.part, Rooms(weights, acts, capture), c.ahead)
        front = [node for room in (weights, acts, capture) if room for node in (*room.after, room.block.filled) if node]
        nodes = {id(node): node for node in (*front, *out.nodes)}.values()
        return _Kind(
            [self._form(node, c.beats) for node in out.nodes],
            tuple(out.counts[queue] - _START for queue in Queue),
            [(node.queue, node.number - _START, node.signal) for node in nodes if node.signal],
            [(LINKS[link], number - _START) for link, number in out.waited.items() if number >= 0],
            weights.block.filled.number - _START if weights.block.filled else 0,
            acts.block.filled.number - _START if acts.block.filled else 0,
            *self._runs(out, c),
        )

    def _runs(self, out: Assembler, command: _Command) -> tuple[int, bool]:
        """Return `held` and `ahead` of a kind."""
        held = out.staging.held
        staged = command.rooms.acts.fresh and self._stages(command.tile, command.part)
        if not staged or held is None:
            return -1, False
        later = command.ahead and self._stages(*command.ahead)
        ahead = bool(later) and all(held[name] == later[-1][name] for name in ("at", "base"))
        return held["outer"], ahead

    def _stages(self, tile: RowTile, part: DepthRange) -> list[Fields]:
        """Return what is wanted in the staging buffer for a tile."""
        loads = self._cut.code.act.loads(self._config, self._cut.mapping, tile, part)
        return [fields for opcode, fields in loads if opcode is Opcode.STAGE]

    def _pass(self, command: _Command, kind: _Kind) -> None:
        """Note who fills and uses the buffers, and go on behind the command."""
        counts, rooms = self._counts, command.rooms
        weights, acts = rooms.weights.block, rooms.acts.block
        if rooms.weights.fresh:
            weights.filled = Node(_OP_LOAD_WGT, _NONE, counts[LOAD] + kind.weights, "")
        if rooms.acts.fresh:
            acts.filled = Node(_OP_LOAD_ACT, _NONE, counts[LOAD] + kind.acts, "")
            if kind.held >= 0:
                whose = command.ahead if kind.ahead and command.ahead else (command.tile, command.part)
                self._staged = *whose, kind.held
        weights.used = acts.used = Node(_OP_COMPUTE, _NONE, counts[COMPUTE], "")
        if rooms.capture:
            rooms.capture.block.used = Node(_OP_STORE, _NONE, counts[STORE], "")
        for link, place in kind.waited:
            self._waited[link] = counts[_SIGNALLING[link]] + place
        self._counts = [count + more for count, more in zip(counts, kind.counts, strict=True)]

    def _form(self, node: Node, beats: tuple[int, int, int, int]) -> int:
        """Return the number of an instruction's form."""
        whose = _WHOSE[node.opcode]
        fields = {name: value for name, value in node.fields.items() if name not in _BUFFERS}
        if node.opcode is _OP_LOAD_ACT and not fields.get("windowed"):
            fields = {name: value for name, value in fields.items() if name not in _PLACES[1:]}
        if fields.get("staged"):  # pairs of beats look at odd places
            fields |= {name: fields[name] & 1 for name in _PLACES if name in fields}
        else:
            shift = (*beats[:3], 0)[whose]
            fields |= {name: fields[name] - shift & OFFSET_MASK for name in _PLACES if name in fields}
            fields |= {name: fields[name] - beats[3] & OFFSET_MASK for name in _SIDE_PLACES if name in fields}
        fields["wait"] = node.wait
        key = (node.opcode, *sorted(fields.items()))
        number = self._forms.get(key)
        if number is None:
            number = self._forms[key] = len(self._made)
            self._made.append(InstructionForm(node.opcode, fields, whose))
        return number

    def _joined(self, kinds: _Ints, beats: _Ints, starts: _Ints) -> Stream:
        """Return the instructions of all commands, one behind the other."""
        end = len(self._made)
        made = (*self._made, InstructionForm(Opcode.END, {}, NOTHING))
        command, forms = _spread(kinds, [kind.forms for kind in self._kinds])
        of = np.append(forms, end)
        whose = np.array([form.whose for form in made])[of]
        queue = np.array([QUEUE_OF.get(form.opcode, -1) for form in made])[of]
        command = np.append(command, 0)
        places = np.column_stack((beats[:, :3], np.zeros(len(beats), int)))[command, whose]
        side = np.where(whose == RESULT, beats[command, 3], 0)
        signal = np.zeros(len(of), int)
        positions = [np.flatnonzero(queue == number) for number in Queue]
        for number in Queue:
            part = [[(place, mask) for q, place, mask in kind.signals if q == number] for kind in self._kinds]
            at, place = _spread(kinds, [[place for place, _ in signals] for signals in part])
            _, mask = _spread(kinds, [[mask for _, mask in signals] for signals in part])
            np.bitwise_or.at(signal, positions[number][starts[at, number] + place], mask)
        return Stream(made, of, places, side, signal)


def _shadow(room: Room, depth: int, opcode: Opcode, back: int) -> Room:
    """Return a room as large in the last places of a buffer, behind an instruction so many back; 0: behind none."""
    first = depth - (room.block.end - room.block.first)
    if room.fresh:
        return Room(Block(None, first, depth), True, [Node(opcode, _NONE, _START - back, "")] if back else [])
    filled = Node(_OP_LOAD_ACT, _NONE, _START - back, "") if back else None
    return Room(Block(None, first, depth, filled), False, [])


def _spread(kinds: _Ints, rows: list[list[int]]) -> tuple[_Ints, _Ints]:
    """Return the rows of the kinds one behind the other: the place of the kind that each number belongs to, numbers."""
    sizes = np.array([len(row) for row in rows], dtype=int)
    flat = np.array([number for row in rows for number in row], dtype=int)
    first = np.cumsum(sizes) - sizes
    each = sizes[kinds]
    at = np.repeat(np.arange(len(kinds)), each)
    inside = np.arange(len(at)) - np.repeat(np.cumsum(each) - each, each)
    return at, flat[first[kinds][at] + inside]
