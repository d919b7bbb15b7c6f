"""The Verilated machine of a configuration: its Verilog kept, what it holds many of compiled once.

Writing the Verilog of a large array takes minutes, and its front end takes longer still if it sees every element.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from nmsat.dataflow.contract.legal import check_machine
from nmsat.hw.parts.cache import kept_json
from nmsat.hw.parts.verilog import emit
from nmsat.hw.release.kept import VERILOG_ROOM, verilog_key
from nmsat.hw.sat import Sat
from nmsat.tb.run.runner import build

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from nmsat.dataflow.contract.config import SatConfig
    from nmsat.tb.run.runner import Built

TOP: Final = "sat"
"""Module of the machine."""

MOST_IN_ONE_PIECE: Final = 64
"""Elements of the largest machine that is compiled as one piece: it runs faster, and larger ones do not compile."""

REPEATED: Final = ("sat_row", "sat_column_port", "sat_wuve_lane", "sat_sore_lane", "sat_epilogue_lane")
"""What a machine has 16 of and more, by the start of the module's name: a block each, unless it is a part of one."""


def build_sat(config: SatConfig) -> Built:
    """Return the Verilated machine, built if need be: a machine that was built before is only looked up.

    Raises as `tb.run.runner.build`, and ValueError unless `config` can be a machine.
    """
    return build_verilog(config, sat_verilog(config))


def build_verilog(config: SatConfig, files: Mapping[str, str]) -> Built:
    """Return the Verilated machine from its Verilog, built if need be."""
    return build(files, TOP, blocks=blocks_of(files) if config.elements > MOST_IN_ONE_PIECE else ())


def blocks_of(modules: Iterable[str]) -> tuple[str, ...]:
    """Return the names, of files or modules, that are compiled as blocks, without `.v`."""
    names = sorted(name.removesuffix(".v") for name in modules)
    return tuple(name for name in names if any(_is_a(name, kind) for kind in REPEATED))


def sat_verilog(config: SatConfig) -> dict[str, str]:
    """Return file name -> Verilog of the machine, written unless the same sources have written it before."""
    check_machine(config)  # refused here, kept or not
    return kept_json(VERILOG_ROOM, verilog_key(config, TOP), lambda: emit(Sat(config), TOP))


def _is_a(name: str, kind: str) -> bool:
    """Whether a name is that of the kind, or that and the numbers it was built from."""
    return all(part.isdigit() for part in name.removeprefix(kind).split("_") if part) and name.startswith(kind)
