"""SAT: engines, sequencer, memory ports, control; one AXI4 master, one AXI4-Lite slave (docs/machine/index.md)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from amaranth.hdl import ClockDomain, ClockSignal, DomainRenamer, Module, ResetSignal, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from nmsat.dataflow.contract.legal import check_machine
from nmsat.dataflow.contract.limits import READERS, WRITERS
from nmsat.dataflow.contract.registers import QUEUE_NAMES, WAIT_CAUSES
from nmsat.hw.array.compute import Compute
from nmsat.hw.control.axi_lite import LiteChannels
from nmsat.hw.control.host import Control
from nmsat.hw.control.sequencer import Sequencer
from nmsat.hw.load.loader import Loader
from nmsat.hw.memory.axi import LOG2_BEAT, ReadChannels, WriteChannels
from nmsat.hw.memory.read_port import ReadPort
from nmsat.hw.memory.write_port import WritePort
from nmsat.hw.parts.verilog import place
from nmsat.hw.store.store import Store
from nmsat.hw.update.update import Updater

if TYPE_CHECKING:
    from collections.abc import Mapping

    from nmsat.dataflow.contract.config import SatConfig

INCREMENT: Final = 1
"""AXI burst type: the address grows from beat to beat."""

CACHE: Final = 0b0011
"""AXI cache type: normal memory, may be buffered."""

_CONSTANTS: Final = {"id": (1, 0), "size": (3, LOG2_BEAT), "burst": (2, INCREMENT), "cache": (4, CACHE), "prot": (3, 0)}
"""Name after `ar` or `aw` -> (width, value) of what is the same in all bursts."""

_LOAD: Final = ("act_load_en", "act_load_addr", "act_load_data", "wgt_load_en", "wgt_load_addr", "wgt_load_data")
"""From the loader to the buffers of the array."""


class Sat(wiring.Component):
    """The accelerator.

    Parameters: config; ValueError unless it can be a machine (`dataflow.contract.legal.check_machine`).
    Members: m_axi_*: AXI4 master, 512 bits, bursts of at most 16 beats within 4 KiB, one ID; s_axi_control_*: registers
    (dataflow/contract/registers.py); interrupt: high while `done` stands and is enabled. Ports `clk` and `rst`
    (synchronous). Timing: docs/machine/index.md; `sim.sat` predicts every cycle. All but the registers is held in reset
    between runs.
    """

    m_axi_rready: Signal
    interrupt: Signal

    def __init__(self, config: SatConfig) -> None:
        check_machine(config)
        self._config = config
        members: dict[str, Any] = {"interrupt": Out(1), "m_axi_rid": In(1), "m_axi_bid": In(1)}
        for signature in (ReadChannels(), WriteChannels()):
            members |= {f"m_axi_{name}": member for name, member in signature.members.items()}
        for channel in ("ar", "aw"):
            members |= {f"m_axi_{channel}{name}": Out(width) for name, (width, _) in _CONSTANTS.items()}
        lite = LiteChannels().flip()
        members |= {f"s_axi_control_{name}": member for name, member in lite.members.items()}
        super().__init__(members)

    def elaborate(self, platform: object) -> Module:
        config = self._config
        m = Module()
        m.domains.engine = ClockDomain(local=True)
        control = Control(config)
        sequencer = Sequencer(config)
        read, write = ReadPort(len(READERS)), WritePort(len(WRITERS))
        loader, compute, store, update = engines = (Loader(config), Compute(config), Store(config), Updater(config))
        m.submodules.control = place(control, "sat_control", platform, parameters=config)
        inner = DomainRenamer("engine")
        m.submodules.sequencer = inner(place(sequencer, "sat_sequencer", platform, parameters=config))
        m.submodules.read_port = inner(place(read, "sat_read_port", platform))
        m.submodules.write_port = inner(place(write, "sat_write_port", platform))
        for name, engine in zip(("loader", "compute", "store", "update"), engines, strict=True):
            m.submodules[name] = inner(place(engine, f"sat_{name}", platform, parameters=config))
        m.d.comb += [ClockSignal("engine").eq(ClockSignal()), ResetSignal("engine").eq(ResetSignal() | control.clear)]
        self._outside(m, control, read, write)
        for port, engine in zip(sequencer.work, engines, strict=True):
            wiring.connect(m, port, engine.work)
        for port, client in zip(read.clients, (store.side, sequencer.read, loader.read, update.read), strict=True):
            wiring.connect(m, port, client)
        for port, client in zip(write.clients, (store.write, update.write), strict=True):
            wiring.connect(m, port, client)
        m.d.comb += [getattr(compute, name).eq(getattr(loader, name)) for name in _LOAD]
        m.d.comb += [
            compute.read_en.eq(store.read_en),
            compute.read_addr.eq(store.read_addr),
            store.read_data.eq(compute.read_data),
            update.hold.eq(store.special),
        ]
        self._run(m, control, sequencer, read, write)
        self._events(m, control, sequencer, compute, {"read": read, "write": write})
        m.d.comb += [control.special.eq(store.special), control.overflow.eq(update.overflow)]
        return m

    def _outside(self, m: Module, control: Control, read: ReadPort, write: WritePort) -> None:
        """Connect the ports of the machine."""
        for axi, signature in ((read.axi, ReadChannels()), (write.axi, WriteChannels())):
            for name, member in signature.members.items():
                _join(m, getattr(self, f"m_axi_{name}"), getattr(axi, name), outwards=member.flow is wiring.Out)
        for name, member in LiteChannels().members.items():
            port, inside = getattr(self, f"s_axi_control_{name}"), getattr(control.axi, name)
            _join(m, port, inside, outwards=member.flow is wiring.In)
        for channel in ("ar", "aw"):
            m.d.comb += [getattr(self, f"m_axi_{channel}{name}").eq(value) for name, (_, value) in _CONSTANTS.items()]
        m.d.comb += self.interrupt.eq(control.interrupt)

    def _run(self, m: Module, control: Control, sequencer: Sequencer, read: ReadPort, write: WritePort) -> None:
        """Connect the control of a run."""
        m.d.comb += [
            sequencer.run.eq(control.run),
            sequencer.region.eq(control.region),
            sequencer.at.eq(control.at),
            sequencer.count.eq(control.count),
            sequencer.read_error.eq(read.error),
            sequencer.write_error.eq(write.error),
            control.finished.eq(sequencer.finished),
            control.failure.eq(sequencer.failure),
            control.ports_idle.eq(read.idle & write.idle),
        ]
        for port in (read, write):
            m.d.comb += [port.halt.eq(control.halt), port.regions.eq(control.regions)]

    def _events(
        self, m: Module, control: Control, sequencer: Sequencer, compute: Compute, ports: Mapping[str, Any]
    ) -> None:
        """Connect the counters."""
        events = control.events
        m.d.comb += [
            events.instructions.eq(sequencer.instructions),
            events.windows.eq(compute.token_valid & compute.token_compute),
            events.steps.eq(compute.steps),
        ]
        for q, name in enumerate(QUEUE_NAMES):
            m.d.comb += [
                events[f"{name}_busy"].eq(sequencer.busy[q]),
                events[f"{name}_blocked"].eq(sequencer.blocked[q]),
            ]
        for name, port in ports.items():
            m.d.comb += [events[f"{name}_bursts"].eq(port.bursts), events[f"{name}_beats"].eq(port.beats)]
        busy = sequencer.busy[QUEUE_NAMES.index("compute")]
        for code, cause in enumerate(WAIT_CAUSES, start=1):
            m.d.comb += events[f"wait_{cause}"].eq(busy & (compute.cause == code))


def _join(m: Module, port: Value, inside: Value, *, outwards: bool) -> None:
    """Connect a port of the machine with the same port of a part."""
    m.d.comb += port.eq(inside) if outwards else inside.eq(port)
