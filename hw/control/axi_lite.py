"""AXI4-Lite: channels, and a slave that hands single reads and writes to a register file."""

from __future__ import annotations

from typing import Any, Final

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from nmsat.dataflow.contract.registers import REGISTER_BITS

SLVERR: Final = 2
"""Answer to an access that the register does not allow."""


class LiteChannels(wiring.Signature):
    """All five channels of AXI4-Lite, 32 bits of data.

    Members, as the master has them:

    awvalid : Out(1), a write is asked for.
    awready : In(1), its address is taken.
    awaddr : Out(12), byte address of the register; the lowest two bits are ignored.
    wvalid : Out(1), data to write are there.
    wready : In(1), they are taken.
    wdata : Out(32), the data.
    wstrb : Out(4), bytes that are written; less than all of them is an error.
    bvalid : In(1), the write is answered.
    bready : Out(1), the answer is taken.
    bresp : In(2), 0: written; 2: an error, nothing is written.
    arvalid : Out(1), a read is asked for.
    arready : In(1), its address is taken.
    araddr : Out(12), byte address of the register; the lowest two bits are ignored.
    rvalid : In(1), the read is answered.
    rready : Out(1), the answer is taken.
    rdata : In(32), what the register holds; 0 after an error.
    rresp : In(2), 0: read; 2: an error.
    """

    def __init__(self) -> None:
        super().__init__(
            {
                "awvalid": Out(1),
                "awready": In(1),
                "awaddr": Out(REGISTER_BITS),
                "wvalid": Out(1),
                "wready": In(1),
                "wdata": Out(32),
                "wstrb": Out(4),
                "bvalid": In(1),
                "bready": Out(1),
                "bresp": In(2),
                "arvalid": Out(1),
                "arready": In(1),
                "araddr": Out(REGISTER_BITS),
                "rvalid": In(1),
                "rready": Out(1),
                "rdata": In(32),
                "rresp": In(2),
            }
        )


class LiteSlave(wiring.Component):
    """One access at a time in each direction.

    Members:

    axi : In(`LiteChannels`), the accesses.
    writes : Out(1), a register is written in this cycle, all four bytes. A write of fewer is answered with an error and
        not handed on.
    write_at : Out(10), which: byte address / 4.
    write_data : Out(32), what is written.
    write_bad : In(1), register `write_at` may not be written; combinational.
    reads : Out(1), a register is read in this cycle.
    read_at : Out(10), which: byte address / 4.
    read_data : In(32), what it holds; combinational.
    read_bad : In(1), there is none at `read_at`; combinational.

    Timing: answers stand 2 cycles after the request.
    """

    axi: Any
    writes: Signal
    write_at: Signal
    write_data: Signal
    write_bad: Signal
    reads: Signal
    read_at: Signal
    read_data: Signal
    read_bad: Signal

    def __init__(self) -> None:
        super().__init__(
            {
                "axi": In(LiteChannels()),
                "writes": Out(1),
                "write_at": Out(REGISTER_BITS - 2),
                "write_data": Out(32),
                "write_bad": In(1),
                "reads": Out(1),
                "read_at": Out(REGISTER_BITS - 2),
                "read_data": In(32),
                "read_bad": In(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        self._write(m)
        self._read(m)
        return m

    def _write(self, m: Module) -> None:
        axi = self.axi
        has_address, has_data = Signal(), Signal()
        strobe = Signal(4)
        both = Signal()
        whole = Signal()
        m.d.comb += [
            axi.awready.eq(~has_address),
            axi.wready.eq(~has_data),
            both.eq(has_address & has_data & ~axi.bvalid),
            whole.eq(strobe.all()),
            self.writes.eq(both & whole),
        ]
        with m.If(axi.awvalid & axi.awready):
            m.d.sync += [has_address.eq(1), self.write_at.eq(axi.awaddr[2:])]
        with m.If(axi.wvalid & axi.wready):
            m.d.sync += [has_data.eq(1), self.write_data.eq(axi.wdata), strobe.eq(axi.wstrb)]
        with m.If(both):
            bad = self.write_bad | ~whole
            m.d.sync += [has_address.eq(0), has_data.eq(0), axi.bvalid.eq(1), axi.bresp.eq(Mux(bad, SLVERR, 0))]
        with m.Elif(axi.bready):
            m.d.sync += axi.bvalid.eq(0)

    def _read(self, m: Module) -> None:
        axi = self.axi
        m.d.comb += axi.arready.eq(~self.reads & ~axi.rvalid)
        m.d.sync += self.reads.eq(axi.arvalid & axi.arready)
        with m.If(axi.arvalid & axi.arready):
            m.d.sync += self.read_at.eq(axi.araddr[2:])
        with m.If(self.reads):
            m.d.sync += [
                axi.rvalid.eq(1),
                axi.rdata.eq(Mux(self.read_bad, 0, self.read_data)),
                axi.rresp.eq(Mux(self.read_bad, SLVERR, 0)),
            ]
        with m.Elif(axi.rready):
            m.d.sync += axi.rvalid.eq(0)
