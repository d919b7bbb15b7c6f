"""Rules of the buses: each fires on a trace that breaks it, and none on one that does not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from nmsat.tb.drive.protocol import CONSTANTS, Axi4, AxiLite, ProtocolError

if TYPE_CHECKING:
    from collections.abc import Sequence

Cycle = dict[str, int]
ALWAYS = {f"{channel}{name}": value for channel in ("ar", "aw") for name, value in CONSTANTS.items()}


def feed(bus: Axi4 | AxiLite, cycles: Sequence[Cycle]) -> None:
    for cycle in cycles:
        bus.tick(lambda name, cycle=cycle: {**ALWAYS, **cycle}.get(name, 0))
    bus.finish()


def ar(address: int = 0x1000, beats: int = 2, ready: int = 1, **more: int) -> Cycle:
    return {"arvalid": 1, "araddr": address, "arlen": beats - 1, "arready": ready, **more}


def aw(address: int = 0x1000, beats: int = 2, ready: int = 1, **more: int) -> Cycle:
    return {"awvalid": 1, "awaddr": address, "awlen": beats - 1, "awready": ready, **more}


def w(last: int, data: int = 7, ready: int = 1, strobe: int = 1) -> Cycle:
    return {"wvalid": 1, "wdata": data, "wstrb": strobe, "wlast": last, "wready": ready}


def r(last: int) -> Cycle:
    return {"rvalid": 1, "rready": 1, "rlast": last}


B = {"bvalid": 1, "bready": 1}
READ, WRITE = [ar(), r(0), r(1)], [aw(), w(0), w(1), B]


@pytest.mark.parametrize(
    "cycles",
    [
        [],
        READ,
        WRITE,
        [ar(ready=0), ar(ready=0), {**ar(), **aw(ready=0)}, {**r(0), **aw()}, r(1), w(0, ready=0), w(0), w(1), B],
        [w(0), w(1), aw(), B],  # data in front of the address
        [w(1), {**aw(beats=1, ready=0), **w(0)}, {**aw(beats=1), **w(1)}, {**aw(), **B}, B],
        [ar(beats=1, address=0x1FC0), ar(beats=16, address=0x1C00), r(1), *[r(0)] * 15, r(1)],
    ],
)
def test_what_is_allowed(cycles: list[Cycle]) -> None:
    feed(Axi4(), cycles)


@pytest.mark.parametrize(
    ("rule", "cycles"),
    [
        ("stability", [ar(ready=0), {}]),
        ("stability", [ar(ready=0), ar(address=0x2000)]),
        ("stability", [ar(ready=0), ar(beats=1)]),
        ("stability", [aw(ready=0), {}]),
        ("stability", [aw(ready=0), aw(address=0x2000)]),
        ("stability", [aw(), w(0, ready=0), w(0, data=8)]),
        ("stability", [aw(), w(0, ready=0), w(0, strobe=3)]),
        ("stability", [aw(), w(0, ready=0), w(1)]),
        ("stability", [aw(), w(0, ready=0), {}]),
        ("stability", [ar(), {**r(0), "rready": 0}, {}]),
        ("stability", [aw(), w(0), w(1), {**B, "bready": 0}, {}]),
        ("4 KiB", [ar(address=0x1FC0)]),
        ("4 KiB", [aw(address=0x1FC0, ready=0)]),
        ("alignment", [ar(address=0x1020)]),
        ("alignment", [aw(address=0x1001)]),
        ("length", [ar(beats=17)]),
        *(("constant", [ar(**{f"ar{name}": value ^ 1})]) for name, value in CONSTANTS.items()),
        *(("constant", [aw(**{f"aw{name}": value ^ 1})]) for name, value in CONSTANTS.items()),
        ("last", [aw(), w(1)]),
        ("last", [aw(), w(0), w(0)]),
        ("last", [w(1), aw()]),
        ("last", [ar(), r(1)]),
        ("last", [ar(), r(0), r(0)]),
        ("strobe", [aw(), w(0, strobe=0)]),
        ("response", [r(0)]),
        ("response", [*READ, r(0)]),
        ("response", [B]),
        ("response", [*WRITE, B]),
        ("response", [aw(), w(0), B]),
        ("response", [aw(), w(0), B, w(1)]),
        ("response", [w(0), w(1), B]),
        ("response", [ar(), r(0)]),  # lost
        ("response", [aw(), w(0), w(1)]),
        ("response", [aw(), w(0)]),
        ("response", [aw(ready=0)]),
        ("under way", [ar()] * 17),
        ("under way", [x for _ in range(17) for x in (aw(beats=1), w(1))]),
    ],
)
def test_each_rule_of_axi4_fires(rule: str, cycles: list[Cycle]) -> None:
    with pytest.raises(ProtocolError, match=f"^{rule}: .*cycle"):
        feed(Axi4(), cycles)


LITE_AW, LITE_W = {"awvalid": 1, "awready": 1}, {"wvalid": 1, "wready": 1}
LITE_AR, LITE_R = {"arvalid": 1, "arready": 1}, {"rvalid": 1, "rready": 1}


@pytest.mark.parametrize(
    "cycles", [[], [LITE_AW, LITE_W, {"bvalid": 1}, B], [LITE_W | LITE_AR, LITE_AW | LITE_R, {**B, "bresp": 2}]]
)
def test_what_registers_may_do(cycles: list[Cycle]) -> None:
    feed(AxiLite(), cycles)


@pytest.mark.parametrize(
    ("rule", "cycles"),
    [
        ("stability", [LITE_AW | LITE_W, {"bvalid": 1}, {}]),
        ("stability", [LITE_AW | LITE_W, {"bvalid": 1}, {**B, "bresp": 2}]),
        ("stability", [LITE_AR, {"rvalid": 1}, {}]),
        ("stability", [LITE_AR, {"rvalid": 1}, {**LITE_R, "rdata": 1}]),
        ("stability", [{"awvalid": 1}, {}]),
        ("stability", [{"wvalid": 1}, {"wvalid": 1, "wstrb": 3}]),
        ("response", [LITE_AW, B]),
        ("response", [LITE_W, B]),
        ("response", [LITE_AW | LITE_W, B, B]),
        ("response", [LITE_R]),
        ("response", [LITE_AR, LITE_R, LITE_R]),
        ("response", [LITE_AR]),
        ("response", [LITE_AW | LITE_W]),
        ("code", [LITE_AW | LITE_W, {**B, "bresp": 3}]),
        ("code", [LITE_AR, {**LITE_R, "rresp": 1}]),
    ],
)
def test_each_rule_of_axi_lite_fires(rule: str, cycles: list[Cycle]) -> None:
    with pytest.raises(ProtocolError, match=f"^{rule}: .*cycle"):
        feed(AxiLite(), cycles)


@pytest.mark.parametrize(("channel", "bus"), [("ar", Axi4()), ("w", Axi4()), ("b", AxiLite())])
def test_nothing_is_valid_in_reset(channel: str, bus: Axi4 | AxiLite) -> None:
    bus.reset(lambda _: 0, (channel,))
    with pytest.raises(ProtocolError, match=r"^reset: "):
        bus.reset(lambda name: int(name == f"{channel}valid"), (channel,))
