"""Benches of the circuit in Amaranth's own simulator: slower than a Verilator model, but there is nothing to build.

A bench is a coroutine of cocotb that awaits edges of the clock; here an edge is a tick, and what it reads and writes
are the members of the component itself.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

import cocotb
import pytest
from amaranth.hdl import ResetInserter, Signal, Value
from amaranth.sim import Simulator

from nmsat.hw.parts.verilog import CLOCK, RESET
from nmsat.tb.drive import lockstep

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Mapping, Sequence
    from types import ModuleType

    from amaranth.lib.wiring import Component

EDGES: Final = ("RisingEdge", "FallingEdge")
TRIGGERS: Final = (*EDGES, "ReadOnly", "Timer")


class Trigger:
    """Stands in for a trigger of cocotb; edge: the clock passes one."""

    def __init__(self, *, edge: bool) -> None:
        self.edge = edge

    def __call__(self, *_: object) -> Trigger:
        return self

    def start(self) -> None:
        """Do nothing: the clock of the simulator runs."""

    def __await__(self) -> Generator[Trigger, None, None]:
        yield self


class Handle:
    """A port as benches see it."""

    def __init__(self, dut: Dut, value: Value) -> None:
        self._dut, self._value = dut, value

    def __len__(self) -> int:
        return len(self._value)

    @property
    def value(self) -> int:
        """What stands there."""
        return self._dut.ctx.get(self._value)

    @value.setter
    def value(self, number: int) -> None:
        self._dut.ctx.set(self._value, int(number) & (1 << len(self._value)) - 1)


class Dut:
    """A component as benches see it: its ports by name, clock and reset among them."""

    def __init__(self, component: Component) -> None:
        self.ctx: Any = None
        self._clock, reset = Signal(name=CLOCK), Signal(name=RESET)
        self.circuit = ResetInserter(reset)(component)
        members = {"__".join(map(str, path)): value for path, _, value in component.signature.flatten(component)}
        ports = {**members, CLOCK: self._clock, RESET: reset}
        self._handles = {name: Handle(self, Value.cast(value)) for name, value in ports.items()}

    def __getattr__(self, name: str) -> Handle:
        try:
            return self.__dict__["_handles"][name]
        except KeyError:
            raise AttributeError(name) from None

    async def play(self, ctx: Any, test: Any) -> None:
        """Run a test of a bench; an edge passes where it awaits one, and where it has set the clock itself."""
        self.ctx = ctx
        bench = test(self)
        while True:
            try:
                trigger = bench.send(None)
            except StopIteration:
                return
            driven = bool(ctx.get(self._clock))
            if driven:
                ctx.set(self._clock, 0)
            if trigger.edge or driven:
                await ctx.tick()


@contextmanager
def replaced(modules: tuple[ModuleType, ...], values: Mapping[str, object]) -> Iterator[None]:
    """Replace names of modules that have them."""
    with pytest.MonkeyPatch.context() as patch:
        for module in modules:
            for name, value in values.items():
                if hasattr(module, name):
                    patch.setattr(module, name, value)
        yield


def run(
    component: Component, module: str, job: Mapping[str, Any], seed: int, test: str = "against_model"
) -> dict[str, Any]:
    """Run a bench on a component; return what it saves. job: as the bench has it."""
    bench, saved, dut = import_module(module), dict[str, Any](), Dut(component)

    async def play(ctx: Any) -> None:
        await dut.play(ctx, getattr(bench, test).func)

    stand_in: dict[str, object] = {name: Trigger(edge=name in EDGES) for name in TRIGGERS}
    stand_in |= {"Clock": Trigger(edge=False), "load_job": lambda: job, "save_result": saved.update}
    with replaced((bench, lockstep), stand_in), pytest.MonkeyPatch.context() as patch:
        patch.setattr(cocotb, "RANDOM_SEED", seed, raising=False)
        patch.setattr(cocotb, "start_soon", lambda _: None)
        simulator = Simulator(dut.circuit)
        simulator.add_clock(1e-9)
        simulator.add_testbench(play)
        simulator.run()
    return saved


@dataclass(frozen=True)
class Outcome:
    """What a run gave, as `tb.run.runner.Results` has it."""

    saved: dict[str, Any]

    def check(self) -> Outcome:
        """Return it: what goes wrong is raised already."""
        return self


@contextmanager
def in_amaranth(name: str) -> Iterator[None]:
    """Let a module that builds circuits and runs benches, of this name, run them in Amaranth's simulator."""

    def play(
        built: Component, bench: str, testcases: Sequence[str] | None = None, *, job: Any = None, seed: int = 1
    ) -> Outcome:
        return Outcome(run(built, bench, job or {}, seed, next(iter(testcases or ()), "against_model")))

    with replaced((import_module(name),), {"emit": lambda it, _: it, "build": lambda it, _, **__: it, "run": play}):
        yield
