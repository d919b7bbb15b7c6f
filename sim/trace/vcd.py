"""Register traces: the stepped gear in every cycle as a VCD file, under the signal names of `hw.array.stce`.

Scopes and names follow the Verilog (`row_0.element_1.sum_o`, `column_1.sum_bottom`, `row_0.port.ctl.t4`); a link with
fields is one vector with the bits of `dataflow.contract.links`. Operands stand as the widened codes that travel between
elements (docs/machine/array.md). Values are those after the rising edge of a cycle.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from vcd import VCDWriter

from nmsat.dataflow.cycles.array import product_duration
from nmsat.sim.array.stce import Stce
from nmsat.sim.array.stepped import place_operands, run_stepped
from nmsat.sim.trace.signals import signals

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path
    from typing import TextIO

    from numpy.typing import NDArray
    from vcd.writer import Variable

    from nmsat.algorithms.core.packed import Packed
    from nmsat.dataflow.contract.config import SatConfig
    from nmsat.dataflow.contract.isa import Compute
    from nmsat.dataflow.contract.registers import Wait
    from nmsat.dataflow.mapping.tiling import Tiling
    from nmsat.sim.array.stce import Trace

MAX_ELEMENT_CYCLES: Final = 1 << 20
"""Most cycles x elements of a trace: about a minute, and a few ten MB."""

TOP: Final = "sat_stce"

COMMENT: Final = "nmsat: stepped gear of the simulator"
"""What every trace says of itself."""


def check_size(tiling: Tiling) -> None:
    """Raise ValueError if the trace of a product would be too large: by how much, and what would help."""
    cycles, elements = product_duration(tiling).total, tiling.config.elements
    if cycles * elements > MAX_ELEMENT_CYCLES:
        raise ValueError(
            f"a register trace of {cycles} cycles of {elements} elements is too large: {cycles * elements} element "
            f"cycles, at most {MAX_ELEMENT_CYCLES}; choose a smaller product or a smaller configuration"
        )


def write_vcd(path: Path, a: np.ndarray, packed: Packed, tiling: Tiling, about: str = "") -> tuple[np.ndarray, Trace]:
    """Run a product in the stepped gear and write its registers; return Y (float32[m, n]) and what the run did.

    a: float16[m, k]; packed: W packed for the tiling's mapping; about: one line of ASCII for the comment of the file.
    Raises ValueError when the trace would be too large or the operands do not fit the buffers, OSError when the file
    cannot be written.
    """
    check_size(tiling)
    place_operands(a, packed, tiling)  # complains before the file is there
    comment = f"{COMMENT}; {about}" if about else COMMENT
    with path.open("w", encoding="ascii") as file, _Writer(file, tiling.config, comment) as writer:
        engine = _Recorded(tiling.config, writer)
        result = run_stepped(a, packed, tiling, engine=engine)
        engine.last()
        return result


class _Recorded(Stce):
    """The array with a recorder at its registers."""

    def __init__(self, config: SatConfig, writer: _Writer) -> None:
        super().__init__(config)
        self._writer = writer

    def tick(self, command: Compute | None) -> tuple[bool, Wait]:
        self._show()
        taken, wait = super().tick(command)
        self._writer.end(cause=int(wait), offered=int(command is not None), taken=int(taken))
        return taken, wait

    def last(self) -> None:
        """Record the cycle in which the run ended: that of the last result."""
        self._show()
        self._writer.end()

    def _show(self) -> None:
        self.columns.present(self.head.weight, self.head.seed, self.tail.control)
        self._writer.registers(self)


@dataclass
class _Probe:
    """Signals that are read together: one variable for each value that `read` returns, and what they were last."""

    variables: Sequence[Variable]
    read: Callable[[Stce], NDArray[np.int64]]
    last: NDArray[np.int64]


class _Writer:
    """Writes changes of all signals, cycle by cycle."""

    def __init__(self, file: TextIO, config: SatConfig, comment: str) -> None:
        self._period = round(1e6 / config.clock_mhz)
        self._vcd = VCDWriter(file, timescale="1 ps", date="", comment=comment)
        self._time = 0
        self._clock = self._variable("", "clk", 1)
        self._decisions = {name: self._variable("", name, size) for name, size in DECISIONS.items()}
        self._probes = []
        for signal in signals(config):
            variables = [self._variable(scope, signal.name, signal.size) for scope in signal.scopes]
            self._probes.append(_Probe(variables, signal.read, np.zeros(len(variables), np.int64)))

    def __enter__(self) -> _Writer:
        return self

    def __exit__(self, *error: object) -> None:
        self._vcd.change(self._clock, self._time, 1)  # ends the last cycle
        self._vcd.close(self._time)

    def _variable(self, scope: str, name: str, size: int) -> Variable:
        return self._vcd.register_var(f"{TOP}.{scope}" if scope else TOP, name, "wire", size=size, init=0)

    def registers(self, engine: Stce) -> None:
        """Write what changed at the clock edge that begins this cycle."""
        for probe in self._probes:
            values = probe.read(engine).ravel()
            for i in np.nonzero(values != probe.last)[0]:
                self._vcd.change(probe.variables[i], self._time, int(values[i]))
            probe.last = values
        self._vcd.change(self._clock, self._time, 1)

    def end(self, **decisions: int) -> None:
        """Write what the head decided in this cycle (`DECISIONS`), and end it."""
        for name, value in decisions.items():
            self._vcd.change(self._decisions[name], self._time, value)
        self._vcd.change(self._clock, self._time + self._period // 2, 0)
        self._time += self._period


DECISIONS: Final = {"cause": 3, "offered": 1, "taken": 1}
"""Signals of the edge that are known when a cycle ends: why no window starts (`Wait`), commands."""
