"""The compute engine: commands into the array, results captured (docs/machine/array.md, "Compute")."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import data, fifo, wiring
from amaranth.lib.wiring import In, Out

from nmsat.dataflow.contract.isa import COMMAND, INSTRUCTIONS, Opcode
from nmsat.dataflow.contract.limits import COMMANDS_IN_FLIGHT
from nmsat.dataflow.contract.timing import last_column
from nmsat.hw.array.head import command_layout
from nmsat.hw.array.stce import Stce
from nmsat.hw.parts.buffer import buffer_memory
from nmsat.hw.parts.clients import WorkPort
from nmsat.hw.parts.links import pair_layout
from nmsat.hw.parts.verilog import place

if TYPE_CHECKING:
    from nmsat.dataflow.contract.config import SatConfig


class CaptureBuffer(wiring.Component):
    """Results of one column, `sum_depth` of them, until the store engine has taken them.

    Members:

    write_en : In(1), a result is written.
    write_addr : In(range(sum_depth)), where.
    write_data : In(32), the result, binary32.
    read_en : In(1), a place is read.
    read_addr : In(range(sum_depth)), which.
    read_data : Out(32), what it holds.

    Timing: data one cycle after the address, held until the next read.
    """

    write_en: Signal
    write_addr: Signal
    write_data: Signal
    read_en: Signal
    read_addr: Signal
    read_data: Signal

    def __init__(self, config: SatConfig) -> None:
        self._config = config
        place_in_buffer = range(config.sum_depth)
        super().__init__(
            {
                "write_en": In(1),
                "write_addr": In(place_in_buffer),
                "write_data": In(32),
                "read_en": In(1),
                "read_addr": In(place_in_buffer),
                "read_data": Out(32),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        memory = m.submodules.memory = buffer_memory("results", self._config, platform)
        write, read = memory.write_port(), memory.read_port()
        m.d.comb += [
            write.en.eq(self.write_en),
            write.addr.eq(self.write_addr),
            write.data.eq(self.write_data),
            read.en.eq(self.read_en),
            read.addr.eq(self.read_addr),
            self.read_data.eq(read.data),
        ]
        return m


class ComputeEngine(wiring.Component):
    """The array with its commands and capture buffers.

    Members:

    work : In(`WorkPort`), instructions COMPUTE, and when they are done.
    act_load_en : In(R), a word of this row's activation buffer is written.
    act_load_addr : In(range(act_depth)), where, the same for all rows.
    act_load_data : In(16 * act_lanes * R), words of binary16, row 0 at bit 0.
    wgt_load_en : In(C), a pair of this column's weight buffer is written.
    wgt_load_addr : In(range(weight_depth)), where, the same for all columns.
    wgt_load_data : In(21 * C), pairs (`pair_layout`), column 0 at bit 0.
    read_en : In(1), one place of all capture buffers is read.
    read_addr : In(range(sum_depth)), which.
    read_data : Out(32 * C), what they hold, binary32, column 0 at bit 0.
    cause : Out(3), why no window starts in this cycle (`dataflow.contract.registers.Wait`).
    token_valid : Out(1), a window starts.
    token_compute : Out(1), beside `token_valid`: it computes; otherwise it only loads.
    steps : Out(8), multiply-adds that each element does in the window that starts in this cycle; 0 without one.

    Timing: an instruction stands before the array one cycle after its start; commands follow one another as in
    docs/machine/array.md. A result at the output of a column is in its buffer in the next cycle; `done` rises one cycle
    after the last result of the last column stood at its output, kept ones alike. Read data come one cycle after the
    address.
    Numerics: docs/arithmetic.md; results are captured as they leave.
    """

    work: Any
    act_load_en: Signal
    act_load_addr: Signal
    act_load_data: Signal
    wgt_load_en: Signal
    wgt_load_addr: Signal
    wgt_load_data: Signal
    read_en: Signal
    read_addr: Signal
    read_data: Signal
    cause: Signal
    token_valid: Signal
    token_compute: Signal
    steps: Signal

    def __init__(self, config: SatConfig) -> None:
        self._config = config
        super().__init__(
            {
                "work": In(WorkPort()),
                "act_load_en": In(config.rows),
                "act_load_addr": In(range(config.act_depth)),
                "act_load_data": In(16 * config.act_lanes * config.rows),
                "wgt_load_en": In(config.columns),
                "wgt_load_addr": In(range(config.weight_depth)),
                "wgt_load_data": In(pair_layout().size * config.columns),
                "read_en": In(1),
                "read_addr": In(range(config.sum_depth)),
                "read_data": Out(32 * config.columns),
                "cause": Out(3),
                "token_valid": Out(1),
                "token_compute": Out(1),
                "steps": Out(8),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        stce = Stce(self._config)
        m.submodules.stce = place(stce, "sat_stce", platform, parameters=self._config)
        for name in ("act_load_en", "act_load_addr", "act_load_data", "wgt_load_en", "wgt_load_addr", "wgt_load_data"):
            m.d.comb += getattr(stce, name).eq(getattr(self, name))
        m.d.comb += [
            self.cause.eq(stce.cause),
            self.token_valid.eq(stce.token_valid),
            self.token_compute.eq(stce.token_compute),
            self.steps.eq(Mux(stce.token_valid & stce.token_compute, (stce.token_n_less_1 + 1) << 3, 0)),
        ]
        base = self._commands(m, stce)
        self._capture(m, stce, base, platform)
        return m

    def _commands(self, m: Module, stce: Stce) -> Signal:
        """Offer instructions one by one; return the first capture place of the command whose results arrive."""
        fields = data.View(data.StructLayout(INSTRUCTIONS[Opcode.COMPUTE].widths()), self.work.start.payload)
        command = Signal(command_layout())
        held = Signal()
        capture = Signal(range(self._config.sum_depth))
        taken, noted = stce.commands.valid & stce.commands.ready, Signal()
        # a cycle behind the head: results come later still, and `capture` stays at least as long.
        # the tail takes no more commands than this, beside them stand one in the head and one that has just ended
        under_way = fifo.SyncFIFO(width=len(capture), depth=2 * COMMANDS_IN_FLIGHT)
        m.submodules.under_way = under_way
        m.d.comb += [
            self.work.start.ready.eq(~held),
            stce.commands.valid.eq(held),
            stce.commands.payload.eq(command),
            under_way.w_en.eq(noted),
            under_way.w_data.eq(capture),
            under_way.r_en.eq(stce.ended),
        ]
        m.d.sync += noted.eq(taken)
        with m.If(self.work.start.valid & ~held):
            m.d.sync += [held.eq(1), capture.eq(fields.capture)]
            m.d.sync += [command[name].eq(fields[name]) for name in COMMAND.widths()]
        with m.Elif(taken):
            m.d.sync += held.eq(0)
        return under_way.r_data

    def _capture(self, m: Module, stce: Stce, base: Signal, platform: object) -> None:
        """Write what leaves the columns: each column at the place of column 0, as much later as its results are."""
        config = self._config
        number = Signal(range(config.sum_depth))  # of the result in its command
        address = Signal(range(config.sum_depth))
        m.d.comb += address.eq(base + number)
        with m.If(stce.ended):
            m.d.sync += number.eq(0)
        with m.Elif(stce.out_valid[0]):
            m.d.sync += number.eq(number + 1)
        buffers = [CaptureBuffer(config) for _ in range(config.columns)]
        at: Value = address
        for c, buffer in enumerate(buffers):
            if c:
                at = _later(m, f"place_{c}", at, 2 if c in config.column_slices else 1)
            m.submodules[f"capture_{c}"] = place(buffer, "sat_capture", platform, parameters=config)
            m.d.comb += [
                buffer.write_en.eq(stce.out_valid[c]),
                buffer.write_addr.eq(at),
                buffer.write_data.eq(stce.out_value.word_select(c, 32)),
                buffer.read_en.eq(self.read_en),
                buffer.read_addr.eq(self.read_addr),
            ]
        m.d.comb += self.read_data.eq(Cat(buffer.read_data for buffer in buffers))
        m.d.comb += self.work.done.eq(_later(m, "done", stce.ended, last_column(config) + 1))


def _later(m: Module, name: str, value: Value, cycles: int) -> Value:
    """Return the value so many cycles later, through registers with reset."""
    for cycle in range(cycles):
        register = Signal(len(value), name=f"{name}_{cycle}")
        m.d.sync += register.eq(value)
        value = register
    return value
