"""The Verilog of a configuration: every engine as a top of its own, every leaf once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from nmsat.dataflow.contract.dies import DEFAULT_DIE
from nmsat.dataflow.contract.legal import check_machine
from nmsat.hw.array.column_port import ColumnPort
from nmsat.hw.array.head import Head
from nmsat.hw.array.row_port import RowPort
from nmsat.hw.array.stce import Stce
from nmsat.hw.array.tail import Tail
from nmsat.hw.array.uspe import Uspe
from nmsat.hw.fp.f32 import F32Add, F32Multiply
from nmsat.hw.parts.verilog import VerilogPlatform, emit
from nmsat.hw.sat import Sat
from nmsat.hw.store.epilogue import EpilogueEngine, EpilogueLane
from nmsat.hw.update.pregen import Pregen
from nmsat.hw.update.sore import Sore, SoreLane
from nmsat.hw.update.wuve import WuveLane

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from amaranth.lib.wiring import Component

    from nmsat.dataflow.contract.config import SatConfig
    from nmsat.dataflow.contract.dies import Die

ENGINES: Final[dict[str, Callable[[SatConfig], Component]]] = {
    "sat_stce": Stce,
    "sat_sore": lambda config: Sore(config.sore_lanes),
    "sat_pregen": lambda config: Pregen(config.sore_lanes, wuve_lanes=config.wuve_lanes),
    "sat_epilogue": lambda config: EpilogueEngine(config.columns),
}
"""Top module of each engine, and the component behind it; `sat_pregen` holds weight update and its pruners."""

REPORTED_DEPTH: Final = 4096
"""Entries of the buffers in resource reports."""


TOPS: Final[dict[str, Callable[[SatConfig], Component]]] = {**ENGINES, "sat": Sat}
"""All tops: the engines, and the machine with its AXI ports around them."""


def rtl_files(
    config: SatConfig,
    tops_wanted: Sequence[str] = tuple(TOPS),
    *,
    die: Die = DEFAULT_DIE,
    told: Callable[[str], None] | None = None,
) -> dict[str, str]:
    """Return file name -> Verilog of tops of `config`, one leaf or top per file, in the order of a file list.

    Leaves are written once, whoever holds them. die: part that they are for, which decides `ram_style` of the buffers;
    told: called with the name of each top before it is written. ValueError when the whole machine is asked for and only
    planned, and when two tops need different modules of one name.
    """
    if "sat" in tops_wanted:
        check_machine(config)
    # The machine first: it holds the other tops as leaves, and a leaf is written as a top of its own.
    known, machine = VerilogPlatform(die), {}
    for name in sorted(tops_wanted, key=lambda name: name != "sat"):
        if told is not None:
            told(name)
        if name not in known.leaves:
            machine |= emit(TOPS[name](config), name, known)
    files = {**{f"{name}.v": leaf.text for name, leaf in sorted(known.leaves.items())}, **machine}
    tops = {f"{name}.v": files.pop(f"{name}.v") for name in tops_wanted}
    return {**files, **tops}


def synthesis_tops(config: SatConfig) -> dict[str, Callable[[], Component]]:
    """Return name -> maker of what resources are reported for: the element first, then the parts around it.

    Buffers have `REPORTED_DEPTH` entries whatever the configuration says: Yosys takes very long over deeper ones, and
    their block RAMs follow from the depth (`dataflow.contract.memories`).
    """
    config = config.replace(act_depth=REPORTED_DEPTH, weight_depth=REPORTED_DEPTH, sum_depth=REPORTED_DEPTH)
    return {
        "element, 1 lane": lambda: Uspe(config.replace(act_lanes=1)),
        "element, 2 lanes": lambda: Uspe(config.replace(act_lanes=2)),
        "row port": lambda: RowPort(config),
        "column port": lambda: ColumnPort(config),
        "head": lambda: Head(config),
        "tail": lambda: Tail(config),
        "SORE lane": lambda: SoreLane(1),
        "WUVE lane": WuveLane,
        "epilogue lane": EpilogueLane,
        "binary32 add": F32Add,
        "binary32 multiply": F32Multiply,
    }
