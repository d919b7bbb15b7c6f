"""One product as instructions: tiles loaded, computed and stored beside each other."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from nmsat.dataflow.contract.isa import Compute, Opcode
from nmsat.dataflow.program.estimate import fastest
from nmsat.dataflow.program.product import cuts
from nmsat.dataflow.program.staging import stages_once

if TYPE_CHECKING:
    from nmsat.dataflow.contract.config import SatConfig
    from nmsat.dataflow.program.assembler import Assembler, Room
    from nmsat.dataflow.program.product import Cut, ProductCode
    from nmsat.dataflow.program.sources import DepthRange, Fields, RowTile


def choose(config: SatConfig, code: ProductCode) -> Cut:
    """Return the cut that the estimate finds fastest."""
    return fastest(cuts(config, code))


def assemble(out: Assembler, code: ProductCode, cut: Cut | None = None) -> Cut:
    """Append the instructions of a product, cut as given or as the chooser does; return how it was cut.

    Raises ValueError if the program has a product of that name: what stands in the buffers is known by it.
    """
    if code.name in out.products:
        raise ValueError(f"the program has a product {code.name!r} already; names must differ")
    out.products.add(code.name)
    cut = cut or choose(out.config, code)
    out.staging.clear()
    for tile, column, part in cut.commands():
        emit_command(out, cut, tile, (column, min(cut.width, code.n - column)), part)
    return cut


class Rooms(NamedTuple):
    """Where a command finds its operands and leaves its results; capture: None if its sums stay in the array."""

    weights: Room
    acts: Room
    capture: Room | None


def emit_command(out: Assembler, cut: Cut, tile: RowTile, columns: tuple[int, int], part: DepthRange) -> None:
    """Append a command with its loads, and its STORE if its results leave. columns: the first and how many."""
    rooms = find_rooms(out, cut, tile, columns[0], part)
    fill(out, cut, tile, columns, part, rooms, next_operand(out, cut, tile, columns[0], part, rooms))


def find_rooms(out: Assembler, cut: Cut, tile: RowTile, column: int, part: DepthRange) -> Rooms:
    """Return where in the buffers a command works; what does not stand there yet gets room."""
    name = cut.code.name
    key = (name, column, part.first)
    weights = out.weight.find(key) or out.weight.take(key, cut.pairs(part))
    key = (name, tile.first, part.first)
    acts = out.act.find(key) or out.act.take(key, cut.act_words(tile, part))
    leaves = part.first + part.size == cut.code.k
    return Rooms(weights, acts, out.capture.take(None, cut.results(tile)) if leaves else None)


def next_operand(
    out: Assembler, cut: Cut, tile: RowTile, column: int, part: DepthRange, rooms: Rooms
) -> tuple[RowTile, DepthRange] | None:
    """Return whose activations are loaded behind those that a command loads, None if it loads none or they stand."""
    if not rooms.acts.fresh:
        return None
    for other, depth in cut.behind(tile, column, part):
        if out.act.find((cut.code.name, other.first, depth.first)) is None:
            return other, depth
    return None


def fill(
    out: Assembler,
    cut: Cut,
    tile: RowTile,
    columns: tuple[int, int],
    part: DepthRange,
    rooms: Rooms,
    ahead: tuple[RowTile, DepthRange] | None,
) -> None:
    """Append the instructions of a command that works in these rooms. ahead: whose activations are loaded next."""
    code, mapping = cut.code, cut.mapping
    weights, acts, capture = rooms.weights.block, rooms.acts.block, rooms.capture
    if rooms.weights.fresh:
        _load_weights(out, cut, columns, part, rooms.weights)
    if rooms.acts.fresh:
        _load_activations(out, cut, (tile, part), rooms.acts, ahead)
    compute = Compute(
        ws=mapping.ws,
        n=mapping.n,
        m=mapping.m,
        a=mapping.a,
        windows=cut.windows(tile, part),
        act_base=acts.first,
        wgt_base=weights.first,
        seed=part.first > 0,
        keep=capture is None,
        capture=capture.block.first if capture else 0,
    )
    after = [node for node in (weights.filled, acts.filled) if node is not None]
    node = out.emit(Opcode.COMPUTE, compute.fields(), code.name, after=after + capture.after if capture else after)
    weights.used = acts.used = node
    if capture is None:
        return
    capture.block.filled = node
    store = code.sink.fields(mapping, tile, *columns)
    reads, writes = code.sink.places(), (code.sink.tensor,)
    # stores overlap; one whose second operand a store in front may still be writing has to wait for it
    store |= {"capture": capture.block.first, "beside": int(bool(reads) and not any(map(out.stored, reads)))}
    capture.block.used = out.emit(Opcode.STORE, store, code.name, after=[node], reads=reads, writes=writes)


def _load_weights(out: Assembler, cut: Cut, columns: tuple[int, int], part: DepthRange, room: Room) -> None:
    code, block = cut.code, room.block
    for fields in code.wgt.loads(out.config, cut.mapping, *columns, part):
        placed = {**fields, "base": fields["base"] + block.first}
        block.filled = out.emit(Opcode.LOAD_WGT, placed, code.name, after=room.after, reads=code.wgt.places())


def _load_activations(
    out: Assembler, cut: Cut, whose: tuple[RowTile, DepthRange], room: Room, ahead: tuple[RowTile, DepthRange] | None
) -> None:
    """Append the loads of a tile; what the next one stages is staged beside them where both have room."""
    code, block = cut.code, room.block
    wanted = code.act.loads(out.config, cut.mapping, *whose)
    loads = list(out.staging.loads(wanted))
    later: Fields | None = None
    if ahead is not None and stages_once(wanted):
        others = code.act.loads(out.config, cut.mapping, *ahead)
        later = out.staging.ahead(others[0][1]) if stages_once(others) else None
    if later is not None:
        first = loads[0][0] is Opcode.STAGE
        loads[first:] = [(Opcode.STAGE, later), *((opcode, {**f, "beside": 1}) for opcode, f in loads[first:])]
    for opcode, fields in loads:
        act = opcode is Opcode.LOAD_ACT
        placed = {**fields, "base": fields["base"] + block.first} if act else fields
        reads = () if fields.get("staged") else code.act.places()
        block.filled = out.emit(opcode, placed, code.name, after=room.after if act else (), reads=reads)
