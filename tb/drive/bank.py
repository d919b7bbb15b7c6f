"""Several copies of a unit side by side: one clock cycle of a test then carries several vectors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, cast

from amaranth.hdl import Cat, Module, Value
from amaranth.lib import wiring

from nmsat.hw.parts.verilog import emit, place
from nmsat.tb.run.runner import build, run

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np

COPIES: Final = 16


class Bank(wiring.Component):
    """`count` copies of a unit; each port holds the ports of all copies, the first copy at bit 0.

    Members: those of the unit, each `count` times as wide.
    """

    def __init__(self, unit: Callable[[], wiring.Component], count: int) -> None:
        self._units = [unit() for _ in range(count)]
        ports = {
            name: wiring.Member(member.flow, len(Value.cast(getattr(self._units[0], name))) * count)
            for name, member in self._units[0].signature.members.items()
        }
        super().__init__(ports)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        for i, unit in enumerate(self._units):
            m.submodules[f"unit_{i}"] = place(unit, f"sat_{type(unit).__name__.lower()}", platform)
        for name, member in self.signature.members.items():
            parts = Cat(Value.cast(getattr(unit, name)) for unit in self._units)
            port = cast("Value", getattr(self, name))
            m.d.comb += parts.eq(port) if member.flow is wiring.In else port.eq(parts)
        return m


def check(unit: Callable[[], wiring.Component], latency: int, job: dict[str, np.ndarray], output: str = "o") -> int:
    """Stream vectors through `COPIES` copies of a unit (tb/fp/bench_f32.py) and compare each result at its cycle.

    job: one flat array of bit patterns per port that takes part; that of port `output` holds what is expected. What is
    left over after the last full row of `COPIES` vectors is dropped.
    Returns how many vectors ran; raises SimulationError if a result differs.
    """
    rows = len(job[output]) // COPIES
    built = build(emit(Bank(unit, COPIES), "sat_bank"), "sat_bank")
    fields = {
        "latency": latency,
        "copies": COPIES,
        "inputs": [name for name in job if name != output],
        "outputs": [output],
    }
    vectors = {name: values[: rows * COPIES].reshape(rows, COPIES) for name, values in job.items()}
    return run(built, "nmsat.tb.fp.bench_f32", job={**fields, **vectors}).check().saved["vectors"]
