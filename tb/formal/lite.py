"""Proofs of the register port: the rules of AXI4-Lite (ARM IHI 0022, B1), no answer lost or invented, settings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from amaranth.hdl import Cat, Mux, Signal, Value

from nmsat.dataflow.contract.config import preset
from nmsat.dataflow.contract.limits import RESET_STAGES
from nmsat.hw.control.host import Control
from nmsat.tb.formal.harness import Harness, implies, inside, opened, source
from nmsat.tb.formal.proof import Fault, Proof

if TYPE_CHECKING:
    from collections.abc import Mapping

    from nmsat.hw.control.axi_lite import LiteSlave

SLVERR: Final = 2
COMMAND, COUNT, BASE = 0x00, 0x4C, 0x80
"""Addresses of the command, of the setting that is followed, 32 bits, and of a base (docs/registers.md)."""

WITHIN_BITS: Final = 12
"""Bits of a base that must be 0."""

ANSWER: Final = {"aw": "b", "w": "b", "ar": "r"}
PAYLOAD: Final = {
    **dict.fromkeys(("aw", "ar"), ("addr",)),
    "w": ("data", "strb"),
    "b": ("resp",),
    "r": ("data", "resp"),
}


def registers() -> Harness:
    """The registers of a machine behind a host that keeps its side of the rules; all else is free."""
    proof = Harness()
    control = proof.add(Control(preset("tiny")))
    axi = control.axi
    slave = opened(control).submodules.slave
    taken = {name: getattr(axi, f"{name}valid") & getattr(axi, f"{name}ready") for name in PAYLOAD}
    for channel, names in PAYLOAD.items():
        payload = Cat(getattr(axi, channel + name) for name in names)
        holds = proof.stable(channel, getattr(axi, f"{channel}valid"), getattr(axi, f"{channel}ready"), payload)
        if channel in ANSWER:
            proof.assume(holds)
        else:
            proof.check(holds, f"{channel} stands until it is taken")
            code = getattr(axi, f"{channel}resp")
            answered = getattr(axi, f"{channel}valid")
            proof.check(implies(answered, (code == 0) | (code == SLVERR)), f"{channel} answers 0 or 2")
    _answers(proof, axi, slave, taken)
    _settings(proof, control, slave, taken)
    return proof


def _answers(proof: Harness, axi: Any, slave: LiteSlave, taken: Mapping[str, Value]) -> None:
    """As many answers as accesses, and soon."""
    m = proof.m
    open_ = {name: Signal(8, name=f"open_{name}") for name in ANSWER}
    for name, count in open_.items():
        m.d.sync += count.eq(count + taken[name] - taken[ANSWER[name]])
        answered = getattr(axi, f"{ANSWER[name]}valid")
        proof.check(implies(answered, count != 0), f"nothing is answered that was not asked on {name}")
    inner = opened(slave)
    has_address, has_data = source(inner, slave.axi.awready), source(inner, slave.axi.wready)
    proof.check(open_["aw"] == has_address + axi.bvalid, "an address is held or answered")
    proof.check(open_["w"] == has_data + axi.bvalid, "data are held or answered")
    proof.check(open_["ar"] == slave.reads + axi.rvalid, "a read is in work or answered")
    asked = (open_["aw"] != 0) & (open_["w"] != 0) & ~axi.bvalid
    proof.check(implies(proof.before("asked_b", asked), axi.bvalid), "a write is answered a cycle after all is there")
    asked = (open_["ar"] != 0) & ~axi.rvalid
    proof.check(implies(proof.before("asked_r", asked), axi.rvalid), "a read is answered in the second cycle")
    proof.cover(proof.before("stalled", axi.bvalid & ~axi.bready) & taken["b"] & axi.bresp.any(), "a refusal waits")
    proof.cover(proof.before("stalled_r", axi.rvalid & ~axi.rready) & taken["r"] & axi.rdata.any(), "data wait")
    proof.cover(taken["r"] & (axi.rresp == SLVERR), "a read is refused")
    proof.cover(open_["aw"] == 2, "a write waits behind an answer")


def _settings(proof: Harness, control: Any, slave: LiteSlave, taken: Mapping[str, Value]) -> None:
    """A setting is what was last written whole while idle; nothing else starts a run but its command."""
    m, axi = proof.m, control.axi
    address, data, strobe = Signal(12, name="address"), Signal(32, name="data"), Signal(4, name="strobe")
    with m.If(taken["aw"]):
        m.d.sync += address.eq(axi.awaddr)
    with m.If(taken["w"]):
        m.d.sync += [data.eq(axi.wdata), strobe.eq(axi.wstrb)]
    proof.check(
        (slave.write_at == address[2:]) & (slave.write_data == data) & (inside(opened(slave), "strobe") == strobe),
        "the slave holds what it took",
    )
    answers = axi.bvalid & ~proof.before("bvalid_before", axi.bvalid)
    resting = inside(opened(control), "idle")
    idle = proof.before("idle_before", resting)
    whole = strobe.all()
    mine = answers & (address[2:] == COUNT >> 2)
    good = axi.bresp == 0
    setting, expected = Signal(32, name="setting"), Signal(32, name="expected")
    m.d.comb += expected.eq(Mux(mine & idle & whole, data, setting))
    m.d.sync += setting.eq(expected)
    proof.check(control.count == expected, "a setting is what was written last, all bytes, while idle")
    proof.check(implies(mine, good == (idle & whole)), "a write that changes nothing is told")
    answer = answers & whole & (address[2:] == BASE >> 2)
    within = data[:WITHIN_BITS].any()
    page, before = control.regions[0].page, proof.before("page_before", control.regions[0].page)
    proof.check(implies(answer, good == (idle & ~within)), "a base within a page is refused")
    proof.check(implies(answer & ~good, page == before), "what is refused changes no base")
    _waking(proof, control, idle & ~resting)
    command = answers & (address[2:] == COMMAND >> 2) & whole & (data[:2] == 1)
    proof.check(implies(idle & ~resting, command), "only the command ends a rest")
    told = answers & (address[2:] == COMMAND >> 2) & whole
    late = data[0] & ~data[1] & ~idle
    proof.check(implies(told, good == ~(late | data[2:].any())), "a start during a run is refused")
    proof.cover(told & late, "a start comes during a run")
    proof.cover(answer & within & idle, "a base within a page is written")
    proof.cover(mine & ~idle & whole, "a setting is written during a run")
    proof.cover(mine & idle & whole & data.any(), "a setting is written")


def _waking(proof: Harness, control: Any, woken: Value) -> None:
    """A run starts some cycles behind the end of a rest, when all is out of reset. woken: the first cycle behind it."""
    inner = opened(control)
    resting, waking = inside(inner, "idle"), inside(inner, "waking")
    starts = control.run & ~proof.before("run_before", control.run)
    for stage in range(RESET_STAGES):
        proof.check(implies(waking[stage], woken), f"stage {stage} of a start follows the end of a rest")
        woken = proof.before(f"woken_{stage}", woken)
    proof.check(implies(starts, woken), "a run starts so many cycles behind the end of a rest, and then only")
    proof.check(implies(control.run | waking.any(), ~resting), "nothing runs while idle")
    held = (~proof.before("works_before", ~resting)).replicate(len(control.clear))
    proof.check(control.clear == held, "all is in reset a cycle behind idle, and only then")
    proof.check(implies(control.run, ~control.clear.any() & ~control.halt), "engines and ports are free during a run")
    proof.cover(starts, "a run starts")


PROOFS: Final = (
    Proof(
        name="axi_lite",
        claim="The register port keeps the rules of AXI4-Lite: answers stand until taken, none is lost or invented, a "
        "write is answered one cycle after its second part, a read in its second cycle; a setting changes by whole "
        "writes while idle only, and what changes nothing is told, a base within a page and a start during a run too; "
        "nothing but its command starts a run.",
        make=registers,
        unbounded=True,
        depth=3,
        reach=8,
        smaller="configuration tiny; the host keeps what it offers until it is taken",
        faults=(
            Fault(
                "bvalid falls without bready",
                "hw/control/axi_lite.py",
                "        with m.Elif(axi.bready):\n",
                "        with m.Else():\n",
            ),
            Fault(
                "rvalid falls without rready",
                "hw/control/axi_lite.py",
                "        with m.Elif(axi.rready):\n",
                "        with m.Else():\n",
            ),
            Fault(
                "a read is taken while an answer stands",
                "hw/control/axi_lite.py",
                "axi.arready.eq(~self.reads & ~axi.rvalid)",
                "axi.arready.eq(~self.reads)",
            ),
            Fault(
                "strobes are not looked at",
                "hw/control/axi_lite.py",
                "whole.eq(strobe.all())",
                "whole.eq(strobe.any())",
            ),
            Fault(
                "a start during a run is answered well",
                "hw/control/host.py",
                'early if name == "command" else 0',
                "0",
            ),
            Fault(
                "the lowest bit of a base is not looked at",
                "hw/control/host.py",
                "(data & register.spare) == 0",
                "(data & register.spare & ~1) == 0",
            ),
            Fault(
                "settings can be written during a run",
                "hw/control/host.py",
                "settings[name].eq(Mux(idle, data >> register.low, settings[name]))",
                "settings[name].eq(data >> register.low)",
            ),
        ),
    ),
)
