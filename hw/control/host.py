"""Control: registers of the host, start and safe stop of a run, counters, interrupt
(dataflow/contract/registers.py)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from nmsat.dataflow.contract.isa import OFFSET_BITS, REGIONS, ErrorCode
from nmsat.dataflow.contract.limits import RESET_STAGES, WATCHDOG_BITS
from nmsat.dataflow.contract.registers import COUNTER_BITS, COUNTERS, REGISTERS, Access, configuration, registers
from nmsat.hw.control.axi_lite import LiteChannels, LiteSlave
from nmsat.hw.control.sequencer import failure_layout
from nmsat.hw.memory.axi import regions_layout
from nmsat.hw.parts.clients import INDEX_BITS
from nmsat.hw.parts.steps import COPIED

if TYPE_CHECKING:
    from nmsat.dataflow.contract.config import SatConfig


STEPS_BITS: Final = 8
"""Bits of the steps of a window, 8 N."""


def events_layout(ports: int = 1) -> data.StructLayout:
    """What is added to each counter in this cycle; `cycles` is counted by the control itself. ports: AXI4 masters."""
    moved = dict.fromkeys(("read_bursts", "read_beats", "write_bursts", "write_beats"), ports.bit_length())
    bits = {**moved, "steps": STEPS_BITS}
    return data.StructLayout({name: bits.get(name, 1) for name in COUNTERS if name != "cycles"})


RESETS: Final = ("front", "loader", "compute", "store", "update")
"""What has a reset of its own: sequencer and ports, and each engine."""


class Control(wiring.Component):
    """Everything the host sees.

    A run ends in a safe stop: `run` falls, no burst leaves any more, those under way are finished, then all engines are
    reset. If memory is given up, `done` stands at once, counters stand still, and the rest waits for memory: also if it
    is given up only after `run` has fallen, by an error, whose code stays, or at the end of the program.

    Members:

    axi : In(`LiteChannels`), register access.
    run : Out(1), a run is on.
    halt : Out(1), memory ports accept nothing.
    clear : Out(len(RESETS)), all engines are held in reset: a register for each of `RESETS`, all of one value; it lets
        go `RESET_STAGES` - 1 cycles before `run` rises.
    region : Out(2), setting: region of the program.
    at : Out(34), setting: its first beat in the region.
    count : Out(32), setting: its instructions.
    regions : Out(`regions_layout(config.ports)`), setting: the regions of memory.
    ports_idle : In(1), no burst is under way.
    gives_up : In(1), a port gives memory up, for one cycle, in which `failure` tells of an error.
    watchdog : Out(32), setting: cycles in which memory may move nothing of what it owes; 0: any number.
    finished : In(1), the sequencer has reached END, all engines are done.
    failure : In(`failure_layout`), the sequencer tells of an error.
    special : In(1), flag of the store engine, kept until the next start.
    overflow : In(1), flag of the update engine, kept until the next start.
    events : In(`events_layout(config.ports)`), what is added to the counters in this cycle.
    interrupt : Out(1), `done` stands and the host has enabled interrupts.

    Timing: the first cycle of a run follows the write of `start` by 1 + `RESET_STAGES`; counters lag by two cycles.
    """

    axi: Any
    run: Signal
    halt: Signal
    clear: Signal
    region: Signal
    at: Signal
    count: Signal
    regions: Any
    watchdog: Signal
    ports_idle: Signal
    gives_up: Signal
    finished: Signal
    failure: Any
    special: Signal
    overflow: Signal
    events: Any
    interrupt: Signal

    def __init__(self, config: SatConfig) -> None:
        self._config = config
        self._registers = registers(config.ports)
        super().__init__(
            {
                "axi": In(LiteChannels()),
                "run": Out(1),
                "halt": Out(1),
                "clear": Out(len(RESETS)),
                "region": Out(2),
                "at": Out(OFFSET_BITS),
                "count": Out(INDEX_BITS),
                "regions": Out(regions_layout(config.ports)),
                "watchdog": Out(WATCHDOG_BITS),
                "ports_idle": In(1),
                "gives_up": In(1),
                "finished": In(1),
                "failure": In(failure_layout()),
                "special": In(1),
                "overflow": In(1),
                "events": In(events_layout(config.ports)),
                "interrupt": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.slave = slave = LiteSlave()
        wiring.connect(m, wiring.flipped(self.axi), slave.axi)
        settings = {
            name: Signal(register.bits, name=name)
            for name, register in self._registers.items()
            if register.access is Access.SETTING
        }
        idle, late = Signal(init=1, name="idle"), Signal(name="late")
        self._waking = Signal(RESET_STAGES, name="waking")  # resets let go, stage by stage
        start, reset, acknowledge = self._writes(m, slave, settings, idle)
        seen = self._states(m, idle, late, start, reset, acknowledge)
        seen |= self._counters(m, slave, start, idle, late)
        seen |= {name: Const(value, 32) for name, value in configuration(self._config).items()}
        seen |= {name: signal << self._registers[name].low for name, signal in settings.items()}
        self._reads(m, slave, seen)
        self._outputs(m, settings)
        m.d.comb += self.interrupt.eq(settings["interrupt"] & seen["status"][1])
        return m

    def _writes(
        self, m: Module, slave: LiteSlave, settings: dict[str, Signal], idle: Signal
    ) -> tuple[Signal, Signal, Signal]:
        """Take writes; return start, reset, and that the host has seen `done`."""
        start, reset, acknowledge = Signal(), Signal(), Signal()
        data = slave.write_data
        early = data[0] & ~data[1] & ~idle  # a start while a run is on
        m.d.comb += slave.write_bad.eq(1)
        for name, register in self._registers.items():
            if register.access is Access.READ:
                continue
            mine, fits = Signal(name=f"to_{name}"), Signal(name=f"fits_{name}")
            m.d.comb += [mine.eq(slave.write_at == register.address >> 2), fits.eq((data & register.spare) == 0)]
            late = ~idle if register.access is Access.SETTING else early if name == "command" else 0
            with m.If(mine):
                m.d.comb += slave.write_bad.eq(~fits | late)
            with m.If(mine & fits & slave.writes):
                if name == "command":
                    m.d.comb += [start.eq(data[0] & ~data[1] & idle), reset.eq(data[1])]
                elif name == "status":
                    m.d.comb += acknowledge.eq(data[1])
                else:
                    m.d.sync += settings[name].eq(Mux(idle, data >> register.low, settings[name]))
        return start, reset, acknowledge

    def _states(
        self, m: Module, idle: Signal, late: Signal, start: Signal, reset: Signal, acknowledge: Signal
    ) -> dict[str, Value]:
        """Start and stop; return the registers that tell how it went. late: memory has been given up."""
        run, done, failed, special, overflow, forget = (Signal() for _ in range(6))
        waking = self._waking
        code, index = Signal(4), Signal(INDEX_BITS)
        # A tree: one register, one for each engine, in the array one for the rows between two slices. A run begins when
        # its last registers have let go.
        held = Signal(init=1, name="held")
        resets = [Signal(init=1, name=f"reset_{name}", attrs=COPIED) for name in RESETS]
        m.d.sync += [*(reset.eq(held) for reset in resets), waking.eq(waking << 1)]
        m.d.comb += [self.run.eq(run), self.halt.eq(~run), self.clear.eq(Cat(resets))]
        with m.If(~idle):
            m.d.sync += [special.eq(special | self.special), overflow.eq(overflow | self.overflow)]
        with m.If(acknowledge):
            m.d.sync += done.eq(0)
        with m.If(waking[-1]):
            m.d.sync += run.eq(1)
        with m.If(run):
            with m.If(self.failure.valid):
                m.d.sync += [run.eq(0), failed.eq(1), code.eq(self.failure.code), index.eq(self.failure.index)]
            with m.Elif(self.finished):
                m.d.sync += run.eq(0)
        with m.Elif(~idle & ~waking.any() & self.ports_idle):
            m.d.sync += [idle.eq(1), done.eq(~forget), forget.eq(0), held.eq(1)]
            with m.If(late):  # the host has been told
                m.d.sync += done.eq(done & ~acknowledge)
        with m.If(self.gives_up & ~idle & ~late):  # memory may never end what is under way
            m.d.sync += [late.eq(1), done.eq(~forget)]
            with m.If(~run & ~failed):
                m.d.sync += [failed.eq(1), code.eq(ErrorCode.TIMEOUT), index.eq(self.failure.index)]
        with m.If(reset):
            m.d.sync += [run.eq(0), forget.eq(~idle), done.eq(0), waking.eq(0)]
        with m.If(start | reset | (forget & ~idle)):
            m.d.sync += [failed.eq(0), code.eq(ErrorCode.NONE), index.eq(0), special.eq(0), overflow.eq(0)]
            m.d.sync += late.eq(0)
        with m.If(start):
            m.d.sync += [idle.eq(0), waking.eq(1), done.eq(0), forget.eq(0), held.eq(0)]
        status = Cat(idle, done, failed, special, overflow)
        return {"status": status, "error_code": code, "error_index": index}

    def _counters(
        self, m: Module, slave: LiteSlave, start: Signal, idle: Signal, late: Signal
    ) -> dict[str, Value]:
        """Count, until memory is given up; return the registers of the counters."""
        kept = Signal(COUNTER_BITS - 32)
        seen: dict[str, Value] = {}
        for name in COUNTERS:
            source = Value.cast(Const(1, 1) if name == "cycles" else self.events[name])
            event = Signal(len(source), name=f"{name}_event")
            value = Signal(COUNTER_BITS, name=name)
            m.d.sync += value.eq(value + event)
            m.d.sync += event.eq(Mux(idle | self._waking.any(), 0, source))
            with m.If(late):
                m.d.sync += event.eq(0)
            with m.If(start):
                m.d.sync += value.eq(0)
            with m.If(slave.reads & (slave.read_at == REGISTERS[name].address >> 2)):
                m.d.sync += kept.eq(value[32:])
            seen |= {name: value[:32], f"{name}_high": kept}
        return seen

    def _reads(self, m: Module, slave: LiteSlave, seen: dict[str, Value]) -> None:
        with m.Switch(slave.read_at):
            for name, register in self._registers.items():
                with m.Case(register.address >> 2):
                    m.d.comb += [slave.read_data.eq(seen.get(name, Const(0))), slave.read_bad.eq(0)]
            with m.Default():
                m.d.comb += [slave.read_data.eq(0), slave.read_bad.eq(1)]

    def _outputs(self, m: Module, settings: dict[str, Signal]) -> None:
        m.d.comb += [
            self.region.eq(settings["program_region"]),
            self.at.eq(Cat(settings["program_at"], settings["program_at_high"])),
            self.count.eq(settings["program_count"]),
            self.watchdog.eq(settings["watchdog"]),
        ]
        for i in range(REGIONS):
            part = {key: settings[f"region{i}_{key}"] for key in ("base", "base_high", "size", "size_high", "flags")}
            m.d.comb += [
                self.regions[i].page.eq(Cat(part["base"], part["base_high"])),
                self.regions[i].size.eq(Cat(part["size"], part["size_high"])),
                self.regions[i].open.eq(part["flags"][0]),
                self.regions[i].writable.eq(part["flags"][1]),
            ]
            if self._config.ports > 1:
                m.d.comb += self.regions[i].port.eq(settings[f"region{i}_port"])
