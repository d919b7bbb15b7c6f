"""One product as instructions: tiles loaded, computed and stored beside each other."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nmsat.dataflow.contract.isa import Compute, Opcode
from nmsat.dataflow.program.estimate import estimate_cycles
from nmsat.dataflow.program.product import cuts

if TYPE_CHECKING:
    from nmsat.dataflow.contract.config import SatConfig
    from nmsat.dataflow.program.assembler import Assembler, Block, Node
    from nmsat.dataflow.program.product import Cut, ProductCode
    from nmsat.dataflow.program.sources import DepthRange, RowTile


def choose(config: SatConfig, code: ProductCode) -> Cut:
    """Return the cut that the estimate finds fastest."""
    return min(cuts(config, code), key=estimate_cycles)


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


def emit_command(out: Assembler, cut: Cut, tile: RowTile, columns: tuple[int, int], part: DepthRange) -> None:
    """Append a command with its loads, and its STORE if its results leave. columns: the first and how many."""
    code, mapping = cut.code, cut.mapping
    leaves = part.first + part.size == code.k
    weights = _weights(out, cut, columns, part)
    acts = _activations(out, cut, tile, part)
    after: list[Node] = [weights.filled[-1], acts.filled[-1]]
    capture = None
    if leaves:
        capture, free = out.capture.take(object(), cut.results(tile))
        after += free
    compute = Compute(
        ws=mapping.ws,
        n=mapping.n,
        m=mapping.m,
        a=mapping.a,
        windows=cut.windows(tile, part),
        act_base=acts.first,
        wgt_base=weights.first,
        seed=part.first > 0,
        keep=not leaves,
        capture=capture.first if capture else 0,
    )
    node = out.emit(Opcode.COMPUTE, compute.fields(), code.name, after=after)
    weights.users.append(node)
    acts.users.append(node)
    if capture is None:
        return
    capture.filled.append(node)
    store = code.sink.fields(mapping, tile, *columns)
    reads, writes = code.sink.places(), (code.sink.tensor,)
    # stores overlap; one whose second operand a store in front may still be writing has to wait for it
    store |= {"capture": capture.first, "beside": int(bool(reads) and not any(map(out.stored, reads)))}
    capture.users.append(out.emit(Opcode.STORE, store, code.name, after=[node], reads=reads, writes=writes))


def _weights(out: Assembler, cut: Cut, columns: tuple[int, int], part: DepthRange) -> Block:
    """Return the block of the weight buffer that holds the operand, loaded now if it does not stand there."""
    code = cut.code
    key = (code.name, columns[0], part)
    block = out.weight.find(key)
    if block is not None:
        return block
    block, after = out.weight.take(key, cut.pairs(part))
    for fields in code.wgt.loads(out.config, cut.mapping, *columns, part):
        placed = {**fields, "base": fields["base"] + block.first}
        block.filled.append(out.emit(Opcode.LOAD_WGT, placed, code.name, after=after, reads=code.wgt.places()))
    return block


def _activations(out: Assembler, cut: Cut, tile: RowTile, part: DepthRange) -> Block:
    """The same for the activation buffer."""
    code = cut.code
    key = (code.name, tile, part)
    block = out.act.find(key)
    if block is not None:
        return block
    block, after = out.act.take(key, cut.act_words(tile, part))
    for opcode, fields in out.staging.loads(code.act.loads(out.config, cut.mapping, tile, part)):
        loads = opcode is Opcode.LOAD_ACT
        placed = {**fields, "base": fields["base"] + block.first} if loads else fields
        reads = () if fields.get("staged") else code.act.places()
        block.filled.append(out.emit(opcode, placed, code.name, after=after if loads else (), reads=reads))
    return block
