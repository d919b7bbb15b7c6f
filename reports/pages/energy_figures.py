"""Figures of modelled energy, and of throughput and efficiency beside other accelerators for training on FPGAs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from nmsat.reports.pages.drawing import Dot, dot_panels, stacked
from nmsat.reports.pages.figure import Figure, field, number, table_of, take_picture
from nmsat.reports.pages.style import BLUE, DENSE_COLOR, GREEN, VERMILLION, style
from nmsat.reports.work.figure_rows import ENERGY_PARTS, Rows, energy_rows, throughput_rows
from nmsat.reports.work.paper import mean
from nmsat.reports.work.peers import MARKS, OURS, PAPER_CLAIMS, PEERS, Mark, Precision
from nmsat.reports.work.standing import Basis, Standing
from nmsat.reports.work.step_runs import DENSE
from nmsat.sim.results.energy import SOURCES, EnergyTable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from nmsat.reports.work.peers import Peer, Quoted
    from nmsat.reports.work.step_runs import NetworkRuns

CONVENTION: Final = (
    "A multiply-add counts as two operations. Dense equivalent: the operations of the dense step in the time of the "
    "sparse one, skipped ones included; carried out: only what the array multiplied."
)

_COLORS: Final = dict(zip(ENERGY_PARTS, (BLUE, VERMILLION, GREEN, DENSE_COLOR), strict=True))


def energy_figure(found: Sequence[NetworkRuns], basis: Basis, pattern: str) -> Figure:
    """Return the modelled energy of each step by where it goes."""
    rows = energy_rows(found)
    rest, watts = ENERGY_PARTS["rest_joule"], EnergyTable().rest_watts
    bars = {
        f"{row['network']} {row['pattern']}": {name: row[part] for part, name in ENERGY_PARTS.items()}
        for row in rows
        if row["pattern"] in (DENSE, pattern)
    }
    totals = {name: f"{sum(parts.values()):.1f} J" for name, parts in bars.items()}
    colors = {name: _COLORS[part] for part, name in ENERGY_PARTS.items()}
    title = "Energy of a step, modelled"
    caption = (
        f"Joule. The hatched part is an estimate without a source: {watts:g} W of device and board at rest, for as "
        "long as the step takes. Nothing here was measured; buffers on chip and host are not in it."
    )
    words = "; ".join(f"{name} {text}, {bars[name][rest]:.1f} J of it at rest" for name, text in totals.items())
    with style():
        drawing = stacked(bars, colors, "joule, modelled", totals, hatched=(rest,))
        picture = take_picture(drawing, "energy", title, f"{caption} {words}.")
    columns = {
        "step": lambda row: f"{row['network']} {row['pattern']}",
        "all, J": number("total_joule", ".2f"),
        f"{rest}, J": number("rest_joule", ".2f"),
        **{f"{ENERGY_PARTS[part]}, J": number(part, ".2f") for part in ENERGY_PARTS if part != "rest_joule"},
        "seconds": number("seconds", ".3f"),
        "watt": number("watts", ".1f"),
    }
    standing = (Standing.MODELLED, "operations and bytes times a table, seconds at the clock of the configuration")
    notes = (f"The table of energies. {'; '.join(SOURCES)}.",)
    table = table_of("Energy of a step by where it goes", columns, rows)
    return Figure("energy", title, caption, picture, table, rows, basis.origin(standing), notes)


def peer_figures(found: Sequence[NetworkRuns], basis: Basis, pattern: str) -> list[Figure]:
    """Return throughput and efficiency beside other accelerators, by class of precision."""
    rows = peer_rows(throughput_rows(found))
    return [
        _peer_figure(rows, basis, pattern, ("throughput", "Throughput", "GOPS, of floating point GFLOPS", "GOPS")),
        _peer_figure(rows, basis, pattern, ("efficiency", "Energy efficiency", "GOPS per watt", "GOPS/W")),
    ]


def peer_rows(ours: Rows) -> Rows:
    """Return this machine's steps and what others report, one row each, in the order of the classes.

    throughput: GOPS, efficiency: GOPS per watt; of this machine both are dense equivalent, `done` those carried out.
    """
    precision, arithmetic = OURS
    rows = [
        _peer_row(
            f"nmsat, {row['network']} {row['pattern']}",
            precision,
            arithmetic,
            {
                "network": row["network"],
                "pattern": row["pattern"],
                "standing": row["standing"],
                "throughput": row["gflops_dense_equivalent"],
                "throughput_done": row["gflops_done"],
                "efficiency": row["gflops_per_watt_dense_equivalent"],
                "efficiency_done": row["gflops_per_watt_done"],
            },
        )
        for row in ours
    ]
    for kind in Precision:
        rows += [_quoted_row(peer) for peer in PEERS if peer.precision is kind]
    return tuple(rows)


def _quoted_row(peer: Peer) -> dict[str, Any]:
    known = {
        "network": peer.network,
        "device": peer.device,
        "source": peer.source,
        "standing": Standing.QUOTED,
        **_quoted("throughput", peer.throughput),
        **_quoted("efficiency", peer.efficiency),
    }
    return _peer_row(peer.name, peer.precision, peer.arithmetic, known)


def _quoted(name: str, found: Quoted | None) -> dict[str, Any]:
    return {} if found is None else {name: found.value, f"{name}_mark": found.mark}


def _peer_row(name: str, precision: Precision, arithmetic: str, known: Mapping[str, Any]) -> dict[str, Any]:
    empty: dict[str, Any] = dict.fromkeys(
        (
            *("network", "pattern", "device", "source", "standing", "throughput", "throughput_done"),
            *("throughput_mark", "efficiency", "efficiency_done", "efficiency_mark"),
        )
    )
    return {"name": name, "precision": precision, "arithmetic": arithmetic, **empty, **known}


def _peer_figure(rows: Rows, basis: Basis, pattern: str, what: tuple[str, str, str, str]) -> Figure:
    """Return a figure of one quantity. what: its key, its title, its unit, the unit short."""
    key, name, unit, short = what
    title = f"{name} beside other FPGA trainers"
    classes = {str(kind): _dots(rows, kind, key, pattern) for kind in Precision}
    classes = {kind: dots for kind, dots in classes.items() if dots}
    caption = (
        f"{unit}. Each class of precision has an axis of its own; classes are not comparable, and within one devices, "
        "networks and batches differ. Diamonds: this machine, mean over the networks, modelled; ring: not confirmed "
        "or dense equivalent; dot: read in its source."
    )
    words = "; ".join(f"{kind}: {_told(dots)}" for kind, dots in classes.items())
    with style():
        form = "{:,.0f}" if key == "throughput" else "{:.1f}"
        picture = take_picture(dot_panels(classes, unit, form), key, title, f"{caption} {words}.")
    columns = {
        "accelerator": field("name"),
        short: number(key, ",.1f"),
        "mark": lambda row: str(row[f"{key}_mark"] or row["standing"]),
        "class": field("precision"),
        "carried out": number(f"{key}_done", ",.1f"),
        "arithmetic": field("arithmetic"),
        "device": lambda row: row["device"] or "as the machine",
        "network": field("network"),
        "source": lambda row: row["source"] or "this page",
    }
    shown = [row for row in rows if row[key] is not None and row["pattern"] in (None, DENSE, pattern)]
    standing = (
        (Standing.MODELLED, "this machine: exact work, at a clock and with an energy that nobody has measured"),
        (Standing.QUOTED, "all others; what is not marked was read in the abstract of its source"),
    )
    marks = "; ".join(f"{mark}: {MARKS[mark]}" for mark in Mark)
    table = table_of(f"{name}, {unit}", columns, shown)
    notes = (CONVENTION, f"Marks. {marks}.", PAPER_CLAIMS)
    return Figure(key, title, caption, picture, table, rows, basis.origin(*standing), notes)


def _dots(rows: Rows, kind: Precision, key: str, pattern: str) -> list[Dot]:
    dots = []
    if kind is OURS[0]:
        for name in (DENSE, pattern):
            value = mean([row[key] for row in rows if row["pattern"] == name])
            dots.append(Dot(f"this, {name}", value, sure=name == DENSE, ours=True))
    quoted = [row for row in rows if row["precision"] is kind and row["standing"] is Standing.QUOTED]
    known = [row for row in quoted if row[key] is not None]
    return dots + [Dot(row["name"], row[key], row[f"{key}_mark"] is Mark.READ) for row in known]



def _told(dots: Sequence[Dot]) -> str:
    return ", ".join(f"{dot.name} {dot.value:.4g}" for dot in dots)
