"""What `nmsat compare` prints: values for JSON, rows for CSV, tables for people, each difference with its parts."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING, Any, Final

from nmsat.dataflow.cycles.memory import memory_timing
from nmsat.reports.work.compare import NOT_SET_UP, Found, array_of, differences, port_bytes, total
from nmsat.reports.work.compare_names import COMPONENTS, GEARS, LACKS, PACKAGES, REFERENCE
from nmsat.reports.work.peer_env import SETUP
from nmsat.reports.work.text import table
from nmsat.sim.results.provenance import Source, told_lines

if TYPE_CHECKING:
    from nmsat.reports.work.compare import Asked, Compared, LeftOut

SOURCES: Final = {"quick": Source.MACHINE, "exact": Source.MACHINE, "rtl": Source.RTL}
"""Model of nmsat -> what its cycles are."""

SHOWN: Final = 6
"""Most names in a line."""

_OF_LAYER: Final = ("layer", "stage", "times", "m", "k", "n", "count", "pattern", "dataflow")
_OF_MODEL: Final = ("cycles", "ratio", "seconds", "peak_bytes", "bytes_read", "bytes_written")
COLUMNS: Final = (*_OF_LAYER, "model", *_OF_MODEL, *COMPONENTS, "left_out")
"""Columns of the CSV."""


def record(asked: Asked, rows: list[Compared]) -> dict[str, Any]:
    """Return everything that was found, as plain values."""
    models = [model for model in asked.models if any(model in row.results for row in rows)]
    return {
        "config": asked.config.name,
        "planned": list(asked.config.planned),
        "source": {model: SOURCES[model] for model in models if model in SOURCES},
        "setting": setting(asked, rows),
        "components": dict(COMPONENTS),
        "layers": [_layer(row) for row in rows],
        "totals": {model: _totals(rows, model) for model in models},
        "unequal": [f"{gear}, {row.layer.label}" for row in rows for gear in row.unequal],
        "set_up": asked.peers is not None,
    }


def setting(asked: Asked, rows: list[Compared]) -> dict[str, dict[str, str]]:
    """Return what each model is told of the machine, in words: aspect -> model -> text."""
    config = asked.config
    array, timing = array_of(config, "os"), memory_timing(config.memory, config.clock_mhz)
    size, words, port = f"{config.rows} x {config.columns}", array.words, port_bytes(config)
    flows = ", ".join(sorted({row.dataflow for row in rows if row.dataflow})) or "none"
    held = " + ".join(f"{count:,}" for count in array.buffers)
    convs = any(gemm.conv is not None for row in rows for gemm in row.layer.gemms)
    windows = "image of one sample" if convs else "windows laid out"
    peers = {
        "array": (f"{size} elements, 8 results each", f"{size}, one result each", f"{size}, one result each"),
        "dataflow": (flows, "the same for each layer", "the same for each layer, as spatial mapping"),
        "word": ("16 bits; a packed weight 32", "counts words, taken for 16 bits", "16 bits, sums 32"),
        "bandwidth": (
            f"{port} bytes a cycle for all operands",
            f"{words} words a cycle for each operand: a shared port cannot be told",
            f"{8 * port} bits a cycle, shared",
        ),
        "latency": (f"{timing.latency} cycles, {timing.outstanding} bursts under way", "none", "none"),
        "buffers": (f"{held} words of A, W, sums", "as many words, whole KiB", "as many words"),
        "N:M": ("indices beside weights", "the first N of each M in all columns", "none: kept rows of W"),
        "convolution": ("windows read from the image", windows, "windows laid out"),
        "not told": ("", "instructions, stores' order, update", "instructions, fill, drain, update"),
    }
    return {what: dict(zip(("nmsat", *PACKAGES), texts, strict=True)) for what, texts in peers.items()}


def _layer(row: Compared) -> dict[str, Any]:
    layer = row.layer
    gemms = [
        {"m": gemm.m, "k": gemm.k, "n": gemm.n, "count": gemm.count, "pattern": str(gemm.pattern or "dense")}
        for gemm in layer.gemms
    ]
    head = {"name": layer.name, "stage": layer.stage, "times": layer.times, "pattern": layer.pattern}
    results = {model: _result(row, model, found) for model, found in row.results.items()}
    return {**head, "macs": layer.macs, "dataflow": row.dataflow, "products": gemms, "results": results}


def _result(row: Compared, model: str, found: Found | LeftOut) -> dict[str, Any]:
    if not isinstance(found, Found):
        return {"left_out": found.why}
    known = row.found(REFERENCE)
    moved = {"bytes_read": found.read, "bytes_written": found.written}
    out = {"cycles": found.cycles, "ratio": found.cycles / known.cycles if known else None, "seconds": found.seconds}
    out |= {"peak_bytes": found.peak_bytes, "components": found.components, "difference": differences(row, model)}
    return {**out, **{name: count for name, count in moved.items() if count is not None}}


def _totals(rows: list[Compared], model: str) -> dict[str, Any]:
    """Return what a model says of all layers that it was given, and what the machine says of the same."""
    mine = [row for row in rows if row.found(model) is not None]
    parts, ours = total(mine, model), total(mine, REFERENCE)
    found = [result for row in mine if (result := row.found(model)) is not None]
    cycles, known = sum(parts.values()), sum(ours.values())
    return {
        "layers": len(mine),
        "of": len(rows),
        "cycles": cycles,
        "machine_cycles": known,
        "ratio": cycles / known if known else None,
        "seconds": sum(one.seconds for one in found),
        "peak_bytes": max((one.peak_bytes for one in found), default=0),
        "components": parts,
        "difference": {name: parts[name] - ours[name] for name in COMPONENTS},
    }


def csv_text(values: dict[str, Any]) -> str:
    """Return a table in CSV with a row for each layer and model; m, k, n are those of the first product of a layer."""
    out = io.StringIO()
    writer = csv.DictWriter(out, COLUMNS, restval="", extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for layer in values["layers"]:
        first = layer["products"][0] if layer["products"] else {}
        for model, found in layer["results"].items():
            row = {**first, **layer, **found, **found.get("components", {})}
            writer.writerow({**row, "layer": layer["name"], "model": model})
    return out.getvalue()


def text(asked: Asked, values: dict[str, Any]) -> str:
    """Return everything for people."""
    models = list(values["totals"])
    head = f"{values['model']}, configuration {values['config']}"
    parts = ["\n".join([head, *told_lines(Source.MACHINE, values["planned"])])]
    told = (_by_layer(values), _by_component(values), _why(values), _left_out(values), _settings(values, models))
    parts += [part for part in told if part]
    if values["unequal"]:
        parts.append(f"NOT EQUAL to the quick gear: {'; '.join(values['unequal'])}")
    elif equal := [model for model in models if model in GEARS[1:] and values["totals"][model]["layers"]]:
        parts.append(f"equal in every counter: {REFERENCE} and {', '.join(equal)}")
    if not values["set_up"] and any(model in PACKAGES for model in asked.models):
        names = " and ".join(PACKAGES.values())
        parts.append(f"{names} are not set up: {SETUP} makes their environment (77 MB of wheels)")
    return "\n\n".join(parts)


def _by_layer(values: dict[str, Any]) -> str:
    rows = []
    for layer in values["layers"]:
        times = f" x{layer['times']}" if layer["times"] > 1 else ""
        name = f"{layer['name']} {layer['stage']}{times} {layer['pattern']} {layer['dataflow']}".rstrip()
        for model, found in layer["results"].items():
            if "cycles" in found:
                rows.append((name, model, *_figures(found)))
                name = ""
    if len(values["layers"]) > 1:
        for model, found in values["totals"].items():
            if found["layers"]:
                which = "all" if found["layers"] == found["of"] else f"{found['layers']} of {found['of']} layers"
                rows.append((which, model, *_figures(found)))
    return table(("layer", "model", "cycles", "of the machine's", "processor s", "peak MiB"), rows)


def _figures(found: dict[str, Any]) -> tuple[str, ...]:
    return (
        f"{found['cycles']:,}",
        f"{found['ratio']:.3f}",
        f"{found['seconds']:.2f}",
        f"{found['peak_bytes'] / 2**20:.0f}",
    )


def _by_component(values: dict[str, Any]) -> str:
    """Return cycles by component of each model, and of the machine for the same layers."""
    rows = []
    for model, found in values["totals"].items():
        if not found["layers"] or model in GEARS[1:]:
            continue
        rows.append((model, *(f"{found['components'][name]:,}" for name in COMPONENTS), f"{found['cycles']:,}"))
        if model in PACKAGES:
            cells = (f"{found['difference'][name]:+,}" for name in COMPONENTS)
            less = found["cycles"] - found["machine_cycles"]
            rows.append((f"  less {REFERENCE}, the same layers", *cells, f"{less:+,}"))
    return table(("cycles of", *COMPONENTS, "all"), rows)


def _why(values: dict[str, Any]) -> str:
    """Return what makes the difference, the largest part first, with its cycles."""
    lines = []
    for model in PACKAGES:
        found = values["totals"].get(model)
        if not found or not found["layers"]:
            continue
        less = found["cycles"] - found["machine_cycles"]
        lines.append(f"{PACKAGES[model]}: {less:+,} cycles ({less / found['machine_cycles']:+.1%}), which are")
        for name, cycles in sorted(found["difference"].items(), key=lambda item: -abs(item[1])):
            if cycles and name in LACKS[model]:
                lines.append(f"  {cycles:+12,} {name}: {LACKS[model][name]}")
    return "\n".join(lines)


def _left_out(values: dict[str, Any]) -> str:
    """Return what was not run and why, in a line for each reason and model."""
    found: dict[tuple[str, str], list[str]] = {}
    for layer in values["layers"]:
        for model, result in layer["results"].items():
            if result.get("left_out", NOT_SET_UP) != NOT_SET_UP:
                found.setdefault((model, result["left_out"]), []).append(f"{layer['name']} {layer['stage']}")
    return "\n".join(f"not run: {model}, {_some(names)}: {why}" for (model, why), names in found.items())


def _some(names: list[str]) -> str:
    """Return the first of some names, and how many more there are."""
    more = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {more} more" if more > 0 else "")


def _settings(values: dict[str, Any], models: list[str]) -> str:
    shown = [name for name in PACKAGES if name in models and values["totals"][name]["layers"]]
    if not shown:
        return ""
    names = ("nmsat", *shown)
    lines = []
    for what, texts in values["setting"].items():
        told = [f"{name:9} {texts[name]}" for name in names if texts[name]]
        lines += [f"{'' if place else what:12}{line}" for place, line in enumerate(told)]
    return "\n".join(lines)
