"""What there is to say about a configuration: fields, sizes that follow from them, block RAM, what is built."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from nmsat.dataflow.contract.dies import DIES, die
from nmsat.dataflow.contract.legal import check_machine
from nmsat.dataflow.contract.machine_file import MACHINE_FIELDS, values
from nmsat.dataflow.contract.ranges import Range
from nmsat.dataflow.cycles.buffers import block_totals, buffer_counts
from nmsat.hw.release.devices import DEVICES, device
from nmsat.reports.work.area import machine_area, row_area

if TYPE_CHECKING:
    from nmsat.dataflow.contract.config import SatConfig
    from nmsat.dataflow.contract.dies import Die

LUT_SHARE: Final = 0.8
"""Most of a device's LUTs that a machine may take to count as fitting: what is fuller rarely routes at its clock."""

ESTIMATE_NOTE: Final = (
    "LUTs, flip-flops and DSPs by a table of leaves that Yosys has mapped for UltraScale+; nothing was placed or routed"
)


def die_of(board: str) -> Die:
    """Return the device of a board; ValueError lists the known boards."""
    part = device(board).part
    return die(next((name for name in DIES if part.startswith(name)), part))


def board_of(config: SatConfig, asked: str | None) -> str:
    """Return the board that a machine is told for: the one that was asked for, the one it is called after, vcu1525."""
    named = (board for board in DEVICES if re.fullmatch(rf"{re.escape(board)}(?:[- ].*)?", config.name))
    return asked or next(named, "vcu1525")


def machine_record(config: SatConfig, board: str) -> dict[str, Any]:
    """Return everything as plain values for JSON."""
    part = die_of(board)
    counts = buffer_counts(config, part)
    area = machine_area(config)
    used = {**block_totals(counts), "lut": area.lut, "flip_flops": area.flip_flops, "dsp": area.dsp}
    has = {**part.blocks, "lut": part.luts, "flip_flops": part.flip_flops, "dsp": part.dsp}
    return {
        "config": config.name,
        "fields": [_field(name, value) for name, value in values(config).items()],
        "derived": derived(config),
        "planned": list(config.planned),
        "refused": refusal(config),
        "memory_planned": list(config.memory.planned),
        "buffers": [vars(count) | {"kbit": count.memories * count.entries * count.bits / 1024} for count in counts],
        "device": board,
        "part": part.name,
        "uses": used,
        "has": has,
        "fits": all(used[kind] <= _most(kind, has[kind]) for kind in used),
        "estimate_note": ESTIMATE_NOTE,
    }


def misfits(config: SatConfig, board: str) -> list[str]:
    """Return in words, by the estimate, why the machine is too large for a board or its rows for an SLR; [] if neither.

    What is beside the rows in an SLR is not counted, so that one which is told is too full whatever lies beside them.
    """
    from nmsat.hw.release.xilinx import shares

    values = machine_record(config, board)
    found = []
    if not values["fits"]:
        over = [
            f"{values['uses'][kind]:,} of {values['has'][kind]:,} {kind}"
            for kind in values["uses"]
            if values["uses"][kind] > _most(kind, values["has"][kind])
        ]
        found.append(
            f"machine {config.name!r} does not fit {board}: {', '.join(over)} by the estimate "
            f"(of lut at most {LUT_SHARE:.0%}); nmsat config check --device {board} has all"
        )
    target, part = device(board), die_of(board)
    rows = max(map(len, shares(config, target)))
    used, has = row_area(config).lut * rows, part.luts // target.slrs
    if config.row_slices and target.slrs > 1 and used > has:
        found.append(
            f"row_slices {list(config.row_slices)} put {rows} rows in one SLR of {board}: {used:,} of {has:,} lut by "
            "the estimate; slices that deal the rows evenly make it emptier"
        )
    return found


def _most(kind: str, has: int) -> float:
    """Return what a machine may take of a device's resource to count as fitting."""
    return has * (LUT_SHARE if kind == "lut" else 1)


def refusal(config: SatConfig) -> str:
    """Return in words why machine and RTL refuse a configuration, '' if they take it."""
    try:
        check_machine(config)
    except ValueError as error:
        return str(error)
    return ""


def derived(config: SatConfig) -> dict[str, Any]:
    """Return the sizes that follow from the fields, name -> value; the names tell the units."""
    peak = config.memory.bytes_per_second * config.ports
    port = config.port_bits // 8 * config.ports
    return {
        "elements": config.elements,
        "dense_gmac_per_second": config.elements * config.clock_mhz / 1e3,
        "activations_of_a_bank": config.act_bank,
        "pairs_of_a_bank": config.weight_bank,
        "port_bytes_per_cycle": port,
        "port_gb_per_second": port * config.clock_mhz / 1e3,
        "memory_gb_per_second": peak * config.memory.efficiency / 1e9,
        "memory_latency_cycles": config.memory.latency_ns * config.clock_mhz / 1e3,
    }


def _field(name: str, value: Any) -> dict[str, Any]:
    field = MACHINE_FIELDS[name]
    record: dict[str, Any] = {"name": name, "value": value, "what": field.what, "allowed": field.allowed}
    if isinstance(field, Range):
        record |= {"unit": field.unit, "low": field.low, "high": field.high}
        record["built"] = list(field.built) if field.built else None
    return record
