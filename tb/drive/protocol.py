"""Rules of AXI4 and AXI4-Lite, held against both sides of a port in every cycle (ARM IHI 0022, A3 and B1).

`Axi4` and `AxiLite` are fed with the signals of a cycle, as they stand before its clock edge; what breaks a rule is a
`ProtocolError`. Nothing here knows a simulator; `watch` feeds them from cocotb.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, Final

from nmsat.dataflow.contract.config import UNDER_WAY
from nmsat.dataflow.contract.isa import BEAT_BYTES
from nmsat.dataflow.contract.limits import MAX_BURST, PAGE_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Get = Callable[[str], int]

PAYLOAD: Final[dict[str, tuple[str, ...]]] = {
    "ar": ("addr", "len"),
    "aw": ("addr", "len"),
    "w": ("data", "strb", "last"),
    "r": ("data", "resp", "last"),
    "b": ("resp",),
}
"""What stands on a channel of AXI4 beside valid and ready."""

LITE_PAYLOAD: Final[dict[str, tuple[str, ...]]] = {
    **dict.fromkeys(("ar", "aw"), ("addr",)),
    "w": ("data", "strb"),
    "r": ("data", "resp"),
    "b": ("resp",),
}

CONSTANTS: Final = {"size": 6, "burst": 1, "cache": 3, "prot": 0, "id": 0}
"""What the master says in every burst: beats of 64 bytes, ascending, normal memory that may be buffered, data. A
narrower port says its own size."""


class ProtocolError(AssertionError):
    """A rule of the bus was broken; the message begins with the rule's name."""


class _Channels:
    """Channels whose payload must stand until it is taken.

    get: gives a signal of this cycle by its name without prefix ("arvalid").
    """

    def __init__(self, payload: Mapping[str, tuple[str, ...]]) -> None:
        self._payload = payload
        self._standing: dict[str, tuple[int, ...]] = {}
        self.cycle = 0
        self.taken = 0

    def moves(self, get: Get) -> set[str]:
        """Return the channels on which something is taken in this cycle; ProtocolError for what did not stand."""
        found = set()
        for channel, names in self._payload.items():
            standing = self._standing.get(channel)
            if not get(f"{channel}valid"):
                if standing is not None:
                    self.wrong("stability", f"{channel}valid falls before {channel}ready")
                continue
            ready = get(f"{channel}ready")
            if standing is not None or not ready:
                values = tuple(get(channel + name) for name in names)
                if standing is not None and values != standing:
                    self.wrong("stability", f"{channel} changes from {standing} to {values} before {channel}ready")
                self._standing[channel] = values
            if ready:
                self._standing.pop(channel, None)
                found.add(channel)
        self.cycle += 1
        self.taken += len(found)
        return found

    def reset(self, get: Get, driven: tuple[str, ...]) -> None:
        """Begin anew, in a cycle of reset: what this side drives must not be valid."""
        for channel in driven:
            if get(f"{channel}valid"):
                self.wrong("reset", f"{channel}valid is high in reset")
        self._standing.clear()

    def wrong(self, rule: str, what: str) -> None:
        """Raise the error of a rule."""
        raise ProtocolError(f"{rule}: {what} (cycle {self.cycle})")


class Axi4(_Channels):
    """The machine's master, and the memory behind it.

    constants: the port has the signals of `CONSTANTS`; bits: of its data. Beats of 64 bytes never end in the middle of
    a burst, whatever the port; some part of each is written.
    """

    def __init__(self, *, constants: bool = True, bits: int = 8 * BEAT_BYTES) -> None:
        super().__init__(PAYLOAD)
        self._bytes = bits // 8
        self._parts = BEAT_BYTES // self._bytes
        size = self._bytes.bit_length() - 1
        self._constants = {**CONSTANTS, "size": size} if constants else {}
        self._strobes = False  # a part of the beat on W has been written
        self._reads: deque[int] = deque()  # beats still to come, of each burst
        self._writes: deque[int] = (
            deque()
        )  # beats of bursts whose address stands on AW, and whose data have not all left
        self._ahead: deque[int] = deque()  # beats of bursts whose data have left before their address stood on AW
        self._addressed = self._written = self._answered = 0
        self._offered = False  # the burst on AW is among the writes already
        self._beats = 0  # of the burst whose data leave

    def tick(self, get: Get) -> None:
        """Look at a cycle."""
        moves = self.moves(get)
        if "r" in moves:
            self._read(get)
        for channel in ("ar", "aw"):
            if get(f"{channel}valid"):
                self._address(channel, get)
        if get("awvalid") and not self._offered:
            self._offer(get("awlen") + 1)
        if "w" in moves:
            self._data(get)
        if "b" in moves:
            self._answered += 1
            if self._answered > min(self._written, self._addressed):
                self.wrong("response", "B answers a write that memory has not taken whole")
        if "aw" in moves:
            self._addressed += 1
            self._offered = False
        if "ar" in moves:
            self._reads.append(get("arlen") + 1)
        for name, count in (("reads", len(self._reads)), ("writes", self._addressed - self._answered)):
            if count > UNDER_WAY:
                self.wrong("under way", f"{count} {name} are under way; {UNDER_WAY} may be")

    def _address(self, channel: str, get: Get) -> None:
        address, beats = get(f"{channel}addr"), get(f"{channel}len") + 1
        longest = MAX_BURST * self._parts
        if address % BEAT_BYTES:
            self.wrong("alignment", f"{channel}addr is {address:#x}, no multiple of {BEAT_BYTES}")
        if beats > longest:
            self.wrong("length", f"a burst on {channel} has {beats} beats; the longest has {longest}")
        if beats % self._parts:
            self.wrong("length", f"a burst on {channel} has {beats} beats of the port, no multiple of {self._parts}")
        if address % PAGE_BYTES + beats * self._bytes > PAGE_BYTES:
            self.wrong("4 KiB", f"{beats} beats at {address:#x} cross 4 KiB")
        for name, value in self._constants.items():
            if get(channel + name) != value:
                self.wrong("constant", f"{channel}{name} is {get(channel + name)}; it must be {value}")

    def _offer(self, beats: int) -> None:
        self._offered = True
        if not self._ahead:
            self._writes.append(beats)
        elif self._ahead.popleft() != beats:
            self.wrong("last", f"a burst of {beats} beats had other data in front of it")

    def _data(self, get: Get) -> None:
        self._beats += 1
        last = bool(get("wlast"))
        strobe = get("wstrb")
        if strobe >> self._bytes:
            self.wrong("strobe", f"wstrb is {strobe:#x}; the port has {self._bytes} bytes")
        self._strobes = bool(strobe) or self._strobes
        if self._beats % self._parts == 0:
            if not self._strobes:
                self.wrong("strobe", "a beat on W writes nothing")
            self._strobes = False
        if self._writes and last != (self._beats == self._writes[0]):
            self.wrong("last", f"wlast is {int(last)} at beat {self._beats} of {self._writes[0]}")
        if last:
            if self._writes:
                self._writes.popleft()
            else:
                self._ahead.append(self._beats)
            self._beats = 0
            self._written += 1

    def _read(self, get: Get) -> None:
        if not self._reads:
            self.wrong("response", "R has a beat that nobody asked for")
        self._reads[0] -= 1
        if bool(get("rlast")) != (self._reads[0] == 0):
            self.wrong("last", f"rlast is {get('rlast')} with {self._reads[0]} beats to come")
        if not self._reads[0]:
            self._reads.popleft()

    def finish(self) -> None:
        """Look at the end of a run: nothing may be under way."""
        if self._standing or self._reads or self._beats or not self._addressed == self._written == self._answered:
            counts = f"{self._addressed} addressed, {self._written} written, {self._answered} answered"
            self.wrong("response", f"{len(self._reads)} reads are not over; writes: {counts}")


class AxiLite(_Channels):
    """The machine's registers, and the host: one access at a time in each direction."""

    def __init__(self) -> None:
        super().__init__(LITE_PAYLOAD)
        self._asked = {"aw": 0, "w": 0, "ar": 0, "b": 0, "r": 0}

    def tick(self, get: Get) -> None:
        """Look at a cycle."""
        asked = self._asked
        if get("bvalid") and asked["b"] >= min(asked["aw"], asked["w"]):
            self.wrong("response", "B answers a write that nobody has asked for")
        if get("rvalid") and asked["r"] >= asked["ar"]:
            self.wrong("response", "R answers a read that nobody has asked for")
        for channel in ("b", "r"):
            if get(f"{channel}valid") and get(f"{channel}resp") not in (0, 2):
                self.wrong("code", f"{channel}resp is {get(channel + 'resp')}; it must be 0 or 2")
        for channel in self.moves(get):
            asked[channel] += 1

    def finish(self) -> None:
        """Look at the end of a run: all is answered."""
        asked = self._asked
        if self._standing or not (asked["aw"] == asked["w"] == asked["b"] and asked["ar"] == asked["r"]):
            self.wrong("response", f"accesses were not answered: {asked}")


async def watch(dut: Any, prefix: str, bus: Axi4 | AxiLite) -> None:
    """Feed a bus of a cocotb design from now on, for ever; prefix: of its signals ("m_axi_")."""
    from cocotb.triggers import RisingEdge

    handles: dict[str, Any] = {}

    def get(name: str) -> int:
        handle = handles.get(name)
        if handle is None:
            handle = handles[name] = getattr(dut, prefix + name)
        return int(handle.value)

    edge = RisingEdge(dut.clk)
    while True:
        await edge
        if not int(dut.rst.value):
            bus.tick(get)
