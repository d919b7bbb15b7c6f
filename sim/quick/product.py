"""What one product takes on the machine: assembled, and run by the quick gear without values."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nmsat.dataflow.contract.registers import Launch, open_regions
from nmsat.dataflow.program.assembler import Assembler
from nmsat.dataflow.program.emit import assemble, choose
from nmsat.dataflow.program.stream import stream
from nmsat.sim.sat import LIMIT

if TYPE_CHECKING:
    from nmsat.dataflow.program.product import Cut, ProductCode
    from nmsat.sim.parts.outcome import Report
    from nmsat.sim.quick.gear import Quick


def time_product(gear: Quick, code: ProductCode, cut: Cut | None = None, *, limit: int = LIMIT) -> Report:
    """Return cycles and all counters of the program that runs one product and nothing else, its END included.

    cut: how it is cut; by default as the chooser does. Raises ValueError if the machine has no way to run it,
    RuntimeError after `limit` cycles.
    """
    config = gear.sat.config
    cut = cut or choose(config, code)
    program = stream(config, cut)
    found = None if program is None else gear.time_stream(program, limit=limit)
    if found is None:
        out = Assembler(config)
        assemble(out, code, cut)
        instructions = out.finish().instructions
        found = gear.time_code(Launch(open_regions(config.ports), 0, 0, len(instructions)), instructions, limit=limit)
    return found.report
