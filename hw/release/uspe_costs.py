"""What each feature of the element costs, against the element without it (`python -m nmsat.hw.release.uspe_costs`
prints a table).

Mapping is heuristic: differences below some ten tables say "next to nothing", whatever their sign.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from amaranth.hdl import Const, Module
from amaranth.lib import data, wiring

from nmsat.dataflow.contract.config import preset
from nmsat.dataflow.contract.ranges import MAX_ADDER_STAGES
from nmsat.hw.array.uspe import Uspe
from nmsat.hw.parts.verilog import emit
from nmsat.hw.release.synth import Resources, synthesise

if TYPE_CHECKING:
    from collections.abc import Mapping

    from nmsat.dataflow.contract.config import SatConfig


class Tied(wiring.Component):
    """An element with some fields of its links tied to constants.

    Parameters: fields: (link, field) -> value. A back end removes what serves these fields only.
    Members: those of `hw.array.uspe.Uspe`.
    Timing: as `Uspe`.
    """

    def __init__(self, config: SatConfig, fields: Mapping[tuple[str, str], int]) -> None:
        self._inner = Uspe(config)
        self._fields = dict(fields)
        super().__init__(self._inner.signature)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.inner = self._inner
        for name, member in self.signature.members.items():
            inner, outer = getattr(self._inner, name), getattr(self, name)
            if member.flow is wiring.Out:
                m.d.comb += outer.eq(inner)
            elif isinstance(outer, data.View):
                for field, _ in outer.shape():
                    tied = self._fields.get((name, field))
                    m.d.comb += inner[field].eq(outer[field] if tied is None else Const(tied, len(inner[field])))
            else:
                m.d.comb += inner.eq(outer)
        return m


@dataclass(frozen=True)
class Cost:
    """A variant of the element: its name, what it takes, and whether it is the element less a feature."""

    name: str
    resources: Resources
    less: bool = False


def element(config: SatConfig) -> Resources:
    """Return what the element of a configuration takes."""
    return synthesise(emit(Uspe(config), "sat_uspe"), "sat_uspe")


def costs() -> list[Cost]:
    """Return the element with one lane and 4 adder stages, then features taken away, then other configurations."""
    config = preset("vcu1525").replace(act_lanes=1, adder_stages=4)
    without = {"seeds from above (WS)": {("ctl_i", "ws"): 0}, "index of N:M": {("wgt_i", "index"): 0}}
    rows = [Cost("element, 1 lane, 4 stages", element(config))]
    for name, fields in without.items():
        sources = emit(Tied(config, fields), "sat_uspe")
        rows.append(Cost(name, synthesise(sources, "sat_uspe"), less=True))
    rows.append(Cost("2 lanes", element(config.replace(act_lanes=2))))
    for stages in range(1, MAX_ADDER_STAGES + 1):
        rows.append(Cost(f"{stages} adder stages", element(config.replace(adder_stages=stages))))
    return rows


def table(rows: list[Cost]) -> str:
    """Return the costs as text; a difference is against the first row."""
    full = rows[0].resources
    lines = [f"{'':34}{'LUT':>5}{'logic':>7}{'RAM':>5}{'SRL':>5}{'FF':>5}{'DSP':>5}{'LUT diff':>10}{'FF diff':>9}"]
    for row in rows:
        r = row.resources
        difference = r - full
        name = f"without {row.name}" if row.less else row.name
        lines.append(
            f"{name:34}{r.luts:5}{r.logic:7}{r.ram_luts:5}{r.shift_luts:5}{r.flip_flops:5}{r.dsp:5}"
            f"{difference.luts:+10}{difference.flip_flops:+9}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    print(table(costs()))
