"""The AXI4 master of the machine: signatures of its channels, layouts of regions and errors."""

from __future__ import annotations

from typing import Final

from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from nmsat.dataflow.contract.isa import BEAT_BYTES, OFFSET_BITS, REGIONS
from nmsat.dataflow.contract.limits import PAGE_BITS

ADDRESS_BITS: Final = 64
DATA_BITS: Final = 8 * BEAT_BYTES
LOG2_BEAT: Final = BEAT_BYTES.bit_length() - 1


def master(port: int) -> str:
    """Return the name of an AXI4 master of the machine, by its number."""
    return f"m{port or ''}_axi"


class ReadChannels(wiring.Signature):
    """AR and R of AXI4; what is constant for all bursts is left to the top.

    Parameters: parts: transfers that are a beat of 64 bytes.
    Members, as the master has them:

    arvalid : Out(1), a burst is asked for.
    arready : In(1), memory takes the request.
    araddr : Out(64), address of its first byte, a multiple of 64.
    arlen : Out(8), its transfers less 1, at most 16 parts - 1.
    rvalid : In(1), a beat is there.
    rready : Out(1), it is taken.
    rdata : In(512 // parts), the beat or a part of it, byte 0 at bit 0.
    rresp : In(2), 0 or 1: good; 2 or 3: an error of memory.
    rlast : In(1), it is the last of its burst.
    """

    def __init__(self, parts: int = 1) -> None:
        super().__init__(
            {
                "arvalid": Out(1),
                "arready": In(1),
                "araddr": Out(ADDRESS_BITS),
                "arlen": Out(8),
                "rvalid": In(1),
                "rready": Out(1),
                "rdata": In(DATA_BITS // parts),
                "rresp": In(2),
                "rlast": In(1),
            }
        )


class WriteChannels(wiring.Signature):
    """AW, W and B of AXI4.

    Parameters: parts: transfers that are a beat of 64 bytes.
    Members, as the master has them:

    awvalid : Out(1), a burst is asked for.
    awready : In(1), memory takes the request.
    awaddr : Out(64), address of its first byte, a multiple of 64.
    awlen : Out(8), its transfers less 1, at most 16 parts - 1.
    wvalid : Out(1), a beat is there.
    wready : In(1), memory takes it.
    wdata : Out(512 // parts), the beat or a part of it, byte 0 at bit 0.
    wstrb : Out(64 // parts), its bytes that are written.
    wlast : Out(1), it is the last of its burst.
    bvalid : In(1), a burst has been written.
    bready : Out(1), the answer is taken.
    bresp : In(2), 0 or 1: good; 2 or 3: an error of memory.
    """

    def __init__(self, parts: int = 1) -> None:
        super().__init__(
            {
                "awvalid": Out(1),
                "awready": In(1),
                "awaddr": Out(ADDRESS_BITS),
                "awlen": Out(8),
                "wvalid": Out(1),
                "wready": In(1),
                "wdata": Out(DATA_BITS // parts),
                "wstrb": Out(BEAT_BYTES // parts),
                "wlast": Out(1),
                "bvalid": In(1),
                "bready": Out(1),
                "bresp": In(2),
            }
        )


def written_layout() -> data.StructLayout:
    """A beat on W: its data, its bytes that are written, whether it is the last of its burst."""
    return data.StructLayout({"data": DATA_BITS, "strobe": BEAT_BYTES, "last": 1})


def region_layout(masters: int = 1) -> data.StructLayout:
    """A region: pages of 4 KiB in front of it, beats in it, whether it is open and may be written; of several masters
    the one behind which it lies."""
    port = {"port": (masters - 1).bit_length()} if masters > 1 else {}
    fields = {"page": ADDRESS_BITS - PAGE_BITS, "size": OFFSET_BITS, "open": 1, "writable": 1}
    return data.StructLayout({**fields, **port})


def regions_layout(masters: int = 1) -> data.ArrayLayout:
    """All regions of a run."""
    return data.ArrayLayout(region_layout(masters), REGIONS)


def error_layout(clients: int) -> data.StructLayout:
    """An error for one cycle: `dataflow.contract.isa.ErrorCode`, and the client it belongs to."""
    return data.StructLayout({"valid": 1, "code": 4, "client": range(max(2, clients))})
