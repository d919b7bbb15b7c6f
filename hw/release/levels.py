"""Levels of logic and fan-outs of mapped leaves, across the leaves that they hold.

A level is a lookup table, or the read of a distributed RAM; a multiplexer behind tables (MUXF7 to 9) and a carry block
are a tenth of one. Inverters are free: they go into tables and pins. Wires are not counted. Paths begin and end at
registers, at block RAM, UltraRAM and DSP48E2 (Vivado takes the registers beside a DSP48E2 into it) and, of a leaf by
itself, at its ports.

A leaf is seen from outside as a `LeafModel`: what its ports' paths take inside, and how many pins a port's net has
there.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from typing import TYPE_CHECKING, TypeAlias

from nmsat.hw.release.cells import (
    CLOCKED_PINS,
    CLOCKS,
    LEVEL,
    OUTPUT_PINS,
    SEQUENTIAL,
    address_of,
    bits_of,
    cell_arcs,
    ends_at,
    is_ram,
    pin_kind,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from nmsat.hw.release.netlist import Bit, Cell, Netlist

Pin: TypeAlias = tuple[str, int]
"""A port and its bit."""

_Graph: TypeAlias = "dict[int, list[tuple[int, int]]]"


@dataclass
class LeafModel:
    """A leaf from outside.

    out: bit of an output -> tenths of levels from registers to it; into: bit of an input -> those from it to
    registers; through: bits of an input and an output, and the tenths between them; same: bits of an input and an
    output that are one net; sinks: bit of an input -> kind of pin ('reset', 'enable', 'data') -> pins on its net.
    """

    out: dict[Pin, int] = field(default_factory=dict)
    into: dict[Pin, int] = field(default_factory=dict)
    through: dict[Pin, list[tuple[Pin, int]]] = field(default_factory=dict)
    same: dict[Pin, list[Pin]] = field(default_factory=dict)
    sinks: dict[Pin, Counter[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Path:
    """The longest path of a leaf: levels, and the names of the nets where it begins and ends."""

    levels: float
    begin: str
    end: str


@dataclass(frozen=True)
class Net:
    """A net that a leaf drives; sinks: kind of pin -> pins, those in the leaves below it too."""

    name: str
    sinks: dict[str, int]

    @property
    def fanout(self) -> int:
        """All pins."""
        return sum(self.sinks.values())


@dataclass(frozen=True)
class Analysis:
    """What `analyse` finds. path: None if nothing has an end; nets: those above the fan-out asked for, highest first"""

    path: Path | None
    nets: tuple[Net, ...]
    model: LeafModel


class LoopError(ValueError):
    """A leaf has a loop without a register."""


def analyse(netlist: Netlist, models: Mapping[str, LeafModel], above: int) -> Analysis:
    """Return longest path, nets with more than `above` pins, and the model of a leaf.

    models: of the leaves that it holds. LoopError for a loop, ValueError for a cell that is not known.
    """
    graph = _graph(netlist, models)
    order = _order(graph, netlist)
    starts, ends = _starts(netlist, models), _ends(netlist, models)
    inputs = {bit: (port, i) for port, i, bit in bits_of(netlist.inputs)}
    outputs: defaultdict[int, list[Pin]] = defaultdict(list)
    for port, i, bit in bits_of(netlist.outputs):
        outputs[bit].append((port, i))
    before = _longest(graph, order, starts)
    after = _longest(_reversed(graph), order[::-1], ends)
    sinks = _sinks(netlist, models)
    model = LeafModel(
        out={pin: before[bit] for bit, pins in outputs.items() if bit in before for pin in pins},
        into={pin: after[bit] for bit, pin in inputs.items() if bit in after},
        through=_through(graph, order, inputs, outputs),
        same={pin: outputs[bit] for bit, pin in inputs.items() if bit in outputs},
        sinks={pin: sinks[bit] for bit, pin in inputs.items() if bit in sinks},
    )
    driven = {bit: found for bit, found in sinks.items() if bit not in inputs and found.total() > above}
    nets = sorted((Net(_name(netlist, bit), dict(sorted(found.items()))) for bit, found in driven.items()), key=_rank)
    path = _worst(netlist, graph, order, {**dict.fromkeys(inputs, 0), **starts}, {**dict.fromkeys(outputs, 0), **ends})
    return Analysis(path, tuple(nets), model)


def _rank(net: Net) -> tuple[int, str]:
    return -net.fanout, net.name


def _graph(netlist: Netlist, models: Mapping[str, LeafModel]) -> _Graph:
    """Return net -> nets that depend on it at once, and the tenths to them."""
    graph: defaultdict[int, list[tuple[int, int]]] = defaultdict(list)
    for cell in netlist.cells:
        if (model := models.get(cell.kind)) is None:
            for bit, to, weight in cell_arcs(cell):
                graph[bit].append((to, weight))
            continue
        for port, i, bit in bits_of(cell.pins):
            for (out, j), weight in model.through.get((port, i), ()):
                if (to := _net(cell, out, j)) is not None:
                    graph[bit].append((to, weight))
    return graph


def _net(cell: Cell, port: str, place: int) -> int | None:
    """Return the net at a bit of a leaf's output; None if nothing is connected there."""
    bits = cell.pins.get(port, ())
    return bit if place < len(bits) and isinstance(bit := bits[place], int) else None


def _reversed(graph: _Graph) -> _Graph:
    found: defaultdict[int, list[tuple[int, int]]] = defaultdict(list)
    for bit, arcs in graph.items():
        for to, weight in arcs:
            found[to].append((bit, weight))
    return found


def _order(graph: _Graph, netlist: Netlist) -> list[int]:
    before: defaultdict[int, set[int]] = defaultdict(set)
    for bit, arcs in graph.items():
        for to, _ in arcs:
            before[to].add(bit)
    try:
        return list(TopologicalSorter(before).static_order())
    except CycleError as error:
        names = " -> ".join(_name(netlist, bit) for bit in error.args[1])
        raise LoopError(f"module {netlist.module!r} has a loop without a register: {names}") from None


def _starts(netlist: Netlist, models: Mapping[str, LeafModel]) -> dict[int, int]:
    """Return net -> tenths after a register, of nets that registers and leaves drive."""
    found: dict[int, int] = {}
    for cell in netlist.cells:
        model = models.get(cell.kind)
        for port, i, bit in bits_of(cell.pins):
            if model is not None:
                if (port, i) in model.out:
                    found[bit] = model.out[port, i]
            elif cell.kind in SEQUENTIAL:
                if CLOCKED_PINS.fullmatch(port):
                    found[bit] = 0
            elif is_ram(cell) and address_of(cell, port) is not None:
                found[bit] = LEVEL if cell.kind.startswith("RAM") else 0
    return found


def _ends(netlist: Netlist, models: Mapping[str, LeafModel]) -> dict[int, int]:
    """Return net -> tenths to a register, of nets that end at registers and in leaves."""
    found: dict[int, int] = {}
    for cell in netlist.cells:
        model = models.get(cell.kind)
        for port, i, bit in bits_of(cell.pins):
            if model is not None:
                if (port, i) in model.into:
                    found[bit] = max(found.get(bit, 0), model.into[port, i])
            elif port not in CLOCKS and ends_at(cell, port):
                found.setdefault(bit, 0)
    return found


def _longest(graph: _Graph, order: Iterable[int], starts: Mapping[int, int]) -> dict[int, int]:
    """Return net -> tenths of the longest path to it from `starts`, which tell how long it is there."""
    found = dict(starts)
    for bit in order:
        if bit in found:
            here = found[bit]
            for to, weight in graph.get(bit, ()):
                if found.get(to, -1) < here + weight:
                    found[to] = here + weight
    return found


def _through(
    graph: _Graph, order: list[int], inputs: Mapping[int, Pin], outputs: Mapping[int, list[Pin]]
) -> dict[Pin, list[tuple[Pin, int]]]:
    """Return bit of an input -> bits of outputs that depend on it, and the tenths between them."""
    leads = _longest(_reversed(graph), order[::-1], dict.fromkeys(outputs, 0))
    place = {bit: i for i, bit in enumerate(order)}
    found: dict[Pin, list[tuple[Pin, int]]] = {}
    for start, pin in inputs.items():
        if start not in leads:
            continue
        cone, todo = {start}, [start]
        while todo:
            for to, _ in graph.get(todo.pop(), ()):
                if to in leads and to not in cone:
                    cone.add(to)
                    todo.append(to)
        reached = _longest(graph, sorted(cone, key=lambda bit: place.get(bit, 0)), {start: 0})
        found[pin] = [(out, reached[bit]) for bit in cone if bit in outputs for out in outputs[bit]]
    return found


def _sinks(netlist: Netlist, models: Mapping[str, LeafModel]) -> dict[int, Counter[str]]:
    """Return net -> kind of pin -> pins on it, here and below; nets that pass through a leaf are one with what follows.

    Clock pins are left out.
    """
    here: defaultdict[int, Counter[str]] = defaultdict(Counter)
    follows: defaultdict[int, list[int]] = defaultdict(list)
    for cell in netlist.cells:
        model = models.get(cell.kind)
        for port, i, bit in bits_of(cell.pins):
            if model is not None:
                here[bit] += model.sinks.get((port, i), Counter())
                nets = (_net(cell, out, j) for out, j in model.same.get((port, i), ()))
                follows[bit] += [to for to in nets if to is not None]
            elif port not in CLOCKS and not OUTPUT_PINS.fullmatch(port):
                here[bit][pin_kind(cell, port)] += 1
    found: dict[int, Counter[str]] = {}

    def total(bit: int) -> Counter[str]:
        if bit not in found:
            found[bit] = here[bit].copy()
            for to in follows.get(bit, ()):
                found[bit] += total(to)
        return found[bit]

    later = {to for bits in follows.values() for to in bits}
    return {bit: total(bit) for bit in list(here) if bit not in later}


def _worst(
    netlist: Netlist, graph: _Graph, order: list[int], starts: Mapping[int, int], ends: Mapping[int, int]
) -> Path | None:
    """Return the longest path from `starts` to `ends`."""
    before = _longest(graph, order, starts)
    reached = [bit for bit in ends if bit in before]
    if not reached:
        return None
    last = max(reached, key=lambda bit: (before[bit] + ends[bit], -bit))
    back, bit = _reversed(graph), last
    while starts.get(bit, -1) != before[bit]:
        bit = next(earlier for earlier, weight in back[bit] if before.get(earlier, -1) + weight == before[bit])
    held: dict[Bit, Bit] = {
        cell.pins["D"][0]: cell.pins["Q"][0] for cell in netlist.cells if "D" in cell.pins and "Q" in cell.pins
    }
    end = held.get(last) if last not in netlist.names else last  # the register that it ends at may have a name
    return Path(
        (before[last] + ends[last]) / LEVEL, _name(netlist, bit), _name(netlist, end if isinstance(end, int) else last)
    )


def _name(netlist: Netlist, bit: int) -> str:
    return netlist.names.get(bit, f"net {bit}")
