"""SAT: engines, sequencer, memory ports, control; AXI4 masters, one AXI4-Lite slave (docs/machine/index.md)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from amaranth.hdl import Cat, ClockDomain, ClockSignal, DomainRenamer, Module, Mux, ResetSignal, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from nmsat.dataflow.contract.isa import REGIONS, Queue
from nmsat.dataflow.contract.legal import check_machine
from nmsat.dataflow.contract.limits import READERS, WRITERS
from nmsat.dataflow.contract.registers import QUEUE_NAMES, WAIT_CAUSES
from nmsat.hw.array.compute import ComputeEngine
from nmsat.hw.control.axi_lite import LiteChannels
from nmsat.hw.control.host import RESETS, Control
from nmsat.hw.control.sequencer import Sequencer
from nmsat.hw.load.loader import Loader
from nmsat.hw.memory.axi import LOG2_BEAT, ReadChannels, WriteChannels, master, region_layout
from nmsat.hw.memory.read_port import ReadPort
from nmsat.hw.memory.steer import ReadSteer, WriteSteer
from nmsat.hw.memory.write_port import WritePort
from nmsat.hw.parts.verilog import place
from nmsat.hw.store.store import Store
from nmsat.hw.update.update import Updater

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from nmsat.dataflow.contract.config import SatConfig

INCREMENT: Final = 1
"""AXI burst type: the address grows from beat to beat."""

CACHE: Final = 0b0011
"""AXI cache type: normal memory, may be buffered."""

_CONSTANTS: Final = {"id": (1, 0), "size": (3, LOG2_BEAT), "burst": (2, INCREMENT), "cache": (4, CACHE), "prot": (3, 0)}
"""What `_constants` returns for beats of 64 bytes."""


def _constants(config: SatConfig) -> dict[str, tuple[int, int]]:
    """Return name after `ar` or `aw` -> (width, value) of what is the same in all bursts of a machine."""
    return {**_CONSTANTS, "size": (3, LOG2_BEAT - config.parts.bit_length() + 1)}


_REGION: Final = tuple(region_layout().members)
"""What a port knows of a region."""

_LOAD: Final = ("act_load_en", "act_load_addr", "act_load_data", "wgt_load_en", "wgt_load_addr", "wgt_load_data")
"""From the loader to the buffers of the array."""


class Sat(wiring.Component):
    """The accelerator.

    Parameters: config; ValueError unless it can be a machine (`dataflow.contract.legal.check_machine`).
    With `config.port_bits` below 512 data and strobes of m_axi are as narrow, a beat is 512 / `port_bits` transfers,
    which arlen and awlen count, and arsize and awsize are theirs.
    Members, beside clk and rst (synchronous); m_axi: AXI4 master, bursts of at most 16 beats within 4 KiB, one ID:

    m_axi_arid : Out(1), 0.
    m_axi_arvalid : Out(1), a burst to read is asked for.
    m_axi_arready : In(1), memory takes the request.
    m_axi_araddr : Out(64), address of its first byte, a multiple of 64.
    m_axi_arlen : Out(8), its beats less 1, at most 15.
    m_axi_arsize : Out(3), 6: beats of 64 bytes.
    m_axi_arburst : Out(2), 1: the address grows from beat to beat.
    m_axi_arcache : Out(4), 3: normal memory, may be buffered.
    m_axi_arprot : Out(3), 0: data, secure, unprivileged.
    m_axi_rid : In(1), ignored.
    m_axi_rvalid : In(1), a beat read is there.
    m_axi_rready : Out(1), it is taken; always 1.
    m_axi_rdata : In(512), the beat, byte 0 at bit 0.
    m_axi_rresp : In(2), 0 or 1: good; 2 or 3: an error, which ends the run.
    m_axi_rlast : In(1), it is the last of its burst.
    m_axi_awid : Out(1), 0.
    m_axi_awvalid : Out(1), a burst to write is asked for.
    m_axi_awready : In(1), memory takes the request.
    m_axi_awaddr : Out(64), address of its first byte, a multiple of 64.
    m_axi_awlen : Out(8), its beats less 1, at most 15.
    m_axi_awsize : Out(3), 6: beats of 64 bytes.
    m_axi_awburst : Out(2), 1: the address grows from beat to beat.
    m_axi_awcache : Out(4), 3: normal memory, may be buffered.
    m_axi_awprot : Out(3), 0: data, secure, unprivileged.
    m_axi_wvalid : Out(1), a beat to write is there.
    m_axi_wready : In(1), memory takes it.
    m_axi_wdata : Out(512), the beat, byte 0 at bit 0.
    m_axi_wstrb : Out(64), its bytes that are written.
    m_axi_wlast : Out(1), it is the last of its burst.
    m_axi_bid : In(1), ignored.
    m_axi_bvalid : In(1), a burst has been written.
    m_axi_bready : Out(1), the answer is taken; always 1.
    m_axi_bresp : In(2), 0 or 1: good; 2 or 3: an error, which ends the run.
    s_axi_control_awvalid : In(1), the host writes a register (dataflow/contract/registers.py).
    s_axi_control_awready : Out(1), its address is taken.
    s_axi_control_awaddr : In(12), byte address of the register.
    s_axi_control_wvalid : In(1), data to write are there.
    s_axi_control_wready : Out(1), they are taken.
    s_axi_control_wdata : In(32), the data.
    s_axi_control_wstrb : In(4), bytes that are written; less than all of them is an error.
    s_axi_control_bvalid : Out(1), the write is answered.
    s_axi_control_bready : In(1), the host takes the answer.
    s_axi_control_bresp : Out(2), 0: written; 2: an error, nothing is written.
    s_axi_control_arvalid : In(1), the host reads a register.
    s_axi_control_arready : Out(1), its address is taken.
    s_axi_control_araddr : In(12), byte address of the register.
    s_axi_control_rvalid : Out(1), the read is answered.
    s_axi_control_rready : In(1), the host takes the answer.
    s_axi_control_rdata : Out(32), what the register holds; 0 after an error.
    s_axi_control_rresp : Out(2), 0: read; 2: an error.
    interrupt : Out(1), high while `done` stands and is enabled.

    Of `config.ports` masters the others have the same members, from m1_axi on.

    Timing: docs/machine/index.md; `sim.sat` predicts every cycle. All but the registers is held in reset between runs,
    and from the second cycle of `rst` on.
    Numerics: docs/arithmetic.md.
    """

    m_axi_rready: Signal
    interrupt: Signal

    def __init__(self, config: SatConfig) -> None:
        check_machine(config)
        self._config = config
        members: dict[str, Any] = {"interrupt": Out(1)}
        for bus in map(master, range(config.ports)):
            members |= {f"{bus}_rid": In(1), f"{bus}_bid": In(1)}
            for signature in (ReadChannels(config.parts), WriteChannels(config.parts)):
                members |= {f"{bus}_{name}": member for name, member in signature.members.items()}
            for channel in ("ar", "aw"):
                members |= {f"{bus}_{channel}{name}": Out(width) for name, (width, _) in _constants(config).items()}
        lite = LiteChannels().flip()
        members |= {f"s_axi_control_{name}": member for name, member in lite.members.items()}
        super().__init__(members)

    def elaborate(self, platform: object) -> Module:
        config = self._config
        m = Module()
        control = Control(config)
        sequencer = Sequencer(config)
        reads = [ReadPort(len(READERS), config.parts) for _ in range(config.ports)]
        writes = [WritePort(len(WRITERS), config.parts) for _ in range(config.ports)]
        loader, compute, store, update = engines = (
            Loader(config),
            ComputeEngine(config),
            Store(config),
            Updater(config),
        )
        m.submodules.control = place(control, "sat_control", platform, parameters=config)
        for i, name in enumerate(RESETS):
            m.domains += ClockDomain(name, local=True)
            m.d.comb += [ClockSignal(name).eq(ClockSignal()), ResetSignal(name).eq(control.clear[i])]
        inner = DomainRenamer(RESETS[0])
        m.submodules.sequencer = inner(place(sequencer, "sat_sequencer", platform, parameters=config))
        for kind, ports in (("read", reads), ("write", writes)):
            for i, port in enumerate(ports):
                m.submodules[f"{kind}_port{i or ''}"] = inner(place(port, f"sat_{kind}_port", platform))
        for name, engine in zip(RESETS[1:], engines, strict=True):
            m.submodules[name] = DomainRenamer(name)(place(engine, f"sat_{name}", platform, parameters=config))
        self._outside(m, control, reads, writes)
        for port, engine in zip(sequencer.work, engines, strict=True):
            wiring.connect(m, port, engine.work)
        readers = {None: sequencer.read, Queue.LOAD: loader.read, Queue.STORE: store.side, Queue.UPDATE: update.read}
        writers = {Queue.STORE: store.write, Queue.UPDATE: update.write}
        for i, queue in enumerate(READERS):
            self._client(m, platform, f"read_steer{i}", readers[queue], [port.clients[i] for port in reads], control)
        for i, queue in enumerate(WRITERS):
            self._client(m, platform, f"write_steer{i}", writers[queue], [port.clients[i] for port in writes], control)
        m.d.comb += [getattr(compute, name).eq(getattr(loader, name)) for name in _LOAD]
        m.d.comb += [
            compute.read_en.eq(store.read_en),
            compute.read_addr.eq(store.read_addr),
            store.read_data.eq(compute.read_data),
            update.hold.eq(store.special),
        ]
        self._run(m, control, sequencer, reads, writes)
        self._events(m, control, sequencer, compute, {"read": reads, "write": writes})
        m.d.comb += [control.special.eq(store.special), control.overflow.eq(update.overflow)]
        return m

    def _client(
        self, m: Module, platform: object, name: str, client: Any, ports: Sequence[Any], control: Control
    ) -> None:
        """Connect what an engine reads or writes with the ports of the masters."""
        if len(ports) == 1:
            wiring.connect(m, ports[0], client)
            return
        steer = (ReadSteer if name.startswith("read") else WriteSteer)(len(ports))
        m.submodules[name] = DomainRenamer(RESETS[0])(place(steer, f"sat_{name[:-1]}", platform))
        m.d.comb += [steer.ports[i].eq(control.regions[i].port) for i in range(REGIONS)]
        wiring.connect(m, steer.client, client)
        for inside, port in zip(steer.masters, ports, strict=True):
            wiring.connect(m, port, inside)

    def _outside(self, m: Module, control: Control, reads: Sequence[ReadPort], writes: Sequence[WritePort]) -> None:
        """Connect the ports of the machine."""
        parts = self._config.parts
        for i, (read, write) in enumerate(zip(reads, writes, strict=True)):
            for axi, signature in ((read.axi, ReadChannels(parts)), (write.axi, WriteChannels(parts))):
                for name, member in signature.members.items():
                    port = getattr(self, f"{master(i)}_{name}")
                    _join(m, port, getattr(axi, name), outwards=member.flow is wiring.Out)
        for name, member in LiteChannels().members.items():
            port, inside = getattr(self, f"s_axi_control_{name}"), getattr(control.axi, name)
            _join(m, port, inside, outwards=member.flow is wiring.In)
        for bus in map(master, range(self._config.ports)):
            for channel in ("ar", "aw"):
                for name, (_, value) in _constants(self._config).items():
                    m.d.comb += getattr(self, f"{bus}_{channel}{name}").eq(value)
        m.d.comb += self.interrupt.eq(control.interrupt)

    def _run(
        self,
        m: Module,
        control: Control,
        sequencer: Sequencer,
        reads: Sequence[ReadPort],
        writes: Sequence[WritePort],
    ) -> None:
        """Connect the control of a run."""
        m.d.comb += [
            sequencer.run.eq(control.run),
            sequencer.region.eq(control.region),
            sequencer.at.eq(control.at),
            sequencer.count.eq(control.count),
            sequencer.read_error.eq(_first_error(reads)),
            sequencer.write_error.eq(_first_error(writes)),
            control.finished.eq(sequencer.finished),
            control.failure.eq(sequencer.failure),
            control.ports_idle.eq(_all_idle([*reads, *writes])),
            control.gives_up.eq(Cat(port.gives_up for port in (*reads, *writes)).any()),
        ]
        for port in (port for pair in zip(reads, writes, strict=True) for port in pair):
            m.d.comb += [port.halt.eq(control.halt), port.watchdog.eq(control.watchdog)]
            if len(reads) == 1:
                m.d.comb += port.regions.eq(control.regions)
                continue
            for seen, held in zip(port.regions, control.regions, strict=True):
                m.d.comb += [getattr(seen, name).eq(getattr(held, name)) for name in _REGION]

    def _events(
        self,
        m: Module,
        control: Control,
        sequencer: Sequencer,
        compute: ComputeEngine,
        ports: Mapping[str, Sequence[Any]],
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
        for name, kind in ports.items():
            m.d.comb += [
                events[f"{name}_bursts"].eq(_sum([port.bursts for port in kind])),
                events[f"{name}_beats"].eq(_sum([port.beats for port in kind])),
            ]
        busy = sequencer.busy[QUEUE_NAMES.index("compute")]
        for code, cause in WAIT_CAUSES.items():
            m.d.comb += events[f"wait_{cause}"].eq(busy & (compute.cause == code))


def _first_error(ports: Sequence[Any]) -> Value:
    """Return the error of the first port that shows one."""
    *front, found = [Value.cast(port.error) for port in ports]
    for error in reversed(front):
        found = Mux(error[0], error, found)  # valid is its lowest bit
    return found


def _all_idle(ports: Sequence[Any]) -> Value:
    found = ports[0].idle
    for port in ports[1:]:
        found &= port.idle
    return found


def _sum(events: Sequence[Value]) -> Value:
    found = events[0]
    for event in events[1:]:
        found = found + event
    return found


def _join(m: Module, port: Value, inside: Value, *, outwards: bool) -> None:
    """Connect a port of the machine with the same port of a part."""
    m.d.comb += port.eq(inside) if outwards else inside.eq(port)
