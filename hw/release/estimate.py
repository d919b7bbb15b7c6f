"""What a machine takes and how deep its logic is, as Yosys estimates it: leaf by leaf, times the instances.

Every leaf of `hw.release.tops.rtl_files` is mapped once, with the leaves that it holds as black boxes; paths and
fan-outs are followed across the leaves. What Vivado would merge, pack tighter or move over a boundary is not seen.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from graphlib import TopologicalSorter
from typing import TYPE_CHECKING, Any, Final

from nmsat.dataflow.contract.dies import DEFAULT_DIE
from nmsat.hw.release.levels import Net, Path, analyse
from nmsat.hw.release.netlist import Declared, declared_memories, map_leaf
from nmsat.hw.release.package import module_bodies, name_map
from nmsat.hw.release.synth import Mapped, Runs, mapped_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from nmsat.hw.release.netlist import Netlist

MACHINE: Final = "sat"
"""The module that is estimated."""

MAPPED_AT_ONCE: Final = 2
"""Leaves that are mapped at once; Yosys takes up to a gigabyte for one."""

FANOUT: Final = 1000
"""Nets with more pins than this are told."""

_RAM_CELL: Final = re.compile(r"(.+?)\.\d+\.\d+(?:\..*)?")


@dataclass(frozen=True)
class LeafMemory:
    """A memory of a leaf: as it is declared (None if no declaration has the name), and type of cell -> cells."""

    name: str
    declared: Declared | None
    cells: dict[str, int]


@dataclass(frozen=True)
class LeafEstimate:
    """A leaf without the leaves that it holds. path: the longest; None if it has no logic of its own."""

    module: str
    instances: int
    takes: Mapped
    path: Path | None
    nets: tuple[Net, ...]
    memories: tuple[LeafMemory, ...]


@dataclass(frozen=True)
class Estimate:
    """leaves: by name; engines: module in the top, and the top itself -> what all its instances take; total."""

    leaves: dict[str, LeafEstimate]
    engines: dict[str, Mapped]
    total: Mapped


def estimate(
    verilog: Mapping[str, str], *, family: str = DEFAULT_DIE.family, told: Callable[[str], None] | None = None
) -> Estimate:
    """Return the estimate of a machine.

    verilog: of `rtl_files`; family: of the part (`dataflow.contract.dies`); told: called with each leaf that has been
    mapped.

    Raises SynthesisError, CacheError, and ValueError if the logic has a loop without a register.
    """
    held = held_leaves(verilog)
    netlists = _map_all(verilog, held, family, told)
    found = {}
    for name in TopologicalSorter(held).static_order():
        found[name] = analyse(netlists[name], {below: found[below].model for below in held[name]}, FANOUT)
    takes = {name: mapped_of(netlist.counts) for name, netlist in netlists.items()}
    instances = _below(MACHINE, held)
    leaves = {
        name: LeafEstimate(
            name, instances[name], takes[name], found[name].path, found[name].nets, _memories(netlists[name], verilog)
        )
        for name in sorted(held)
    }
    engines = {MACHINE: takes[MACHINE]}
    for name, count in sorted(held[MACHINE].items()):
        engines[name] = _sum({below: count * n for below, n in _below(name, held).items()}, takes)
    return Estimate(leaves, engines, _sum(instances, takes))


def held_leaves(verilog: Mapping[str, str]) -> dict[str, Counter[str]]:
    """Return leaf -> leaves that it holds itself, and how often, for `MACHINE` and all below it."""
    modules: Mapping[str, Any] = name_map(verilog)["modules"]
    found: dict[str, Counter[str]] = {}
    todo = [MACHINE]
    while todo:
        leaf = todo.pop()
        if leaf in found:
            continue
        found[leaf] = _held(leaf, leaf, modules)
        todo += found[leaf]
    return found


def _held(module: str, leaf: str, modules: Mapping[str, Any]) -> Counter[str]:
    """Return the leaves in a module that stands in the file of `leaf`, with those in its parts there."""
    found: Counter[str] = Counter()
    for inner in modules[module]["instances"].values():
        if inner in modules and modules[inner]["file"] == f"{leaf}.v":
            found += _held(inner, leaf, modules)
        elif inner in modules:
            found[inner] += 1
    return found


def _below(top: str, held: Mapping[str, Counter[str]]) -> Counter[str]:
    """Return leaf -> instances in one `top`, itself among them."""
    found = Counter({top: 1})
    for name, count in held[top].items():
        for below, n in _below(name, held).items():
            found[below] += count * n
    return found


def _sum(instances: Mapping[str, int], takes: Mapping[str, Mapped]) -> Mapped:
    return Mapped(
        **{
            field.name: sum(getattr(takes[name], field.name) * count for name, count in instances.items())
            for field in fields(Mapped)
        }
    )


def _map_all(
    verilog: Mapping[str, str],
    held: Mapping[str, Counter[str]],
    family: str,
    told: Callable[[str], None] | None,
) -> dict[str, Netlist]:
    """Map all leaves, the largest first; an error or a signal ends what is under way."""
    runs = Runs()

    def mapped(name: str) -> Netlist:
        below = {inner: verilog[f"{inner}.v"] for inner in held[name]}
        netlist = map_leaf(name, verilog[f"{name}.v"], below, runs, family)
        if told is not None:
            told(name)
        return netlist

    names = sorted(held, key=lambda name: (-len(verilog[f"{name}.v"]), name))
    with ThreadPoolExecutor(MAPPED_AT_ONCE) as pool:
        try:
            return dict(zip(names, pool.map(mapped, names), strict=True))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            runs.end()
            raise


def _memories(netlist: Netlist, verilog: Mapping[str, str]) -> tuple[LeafMemory, ...]:
    cells: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for cell in netlist.cells:
        if cell.kind.startswith(("RAM", "URAM")):
            match = _RAM_CELL.fullmatch(cell.name)
            cells[match[1] if match else cell.name][cell.kind] += 1
    declared = dict(_declared(netlist.module, module_bodies(verilog[f"{netlist.module}.v"])))
    names = sorted({*declared, *cells})
    return tuple(LeafMemory(name, declared.get(name), dict(sorted(cells[name].items()))) for name in names)


def _declared(module: str, bodies: Mapping[str, tuple[str, Mapping[str, str]]], place: str = "") -> dict[str, Declared]:
    """Return path -> memory of a module and of its parts in the same file."""
    body, instances = bodies[module]
    found = {f"{place}{name}": memory for name, memory in declared_memories(body).items()}
    for instance, inner in instances.items():
        if inner in bodies:
            found |= _declared(inner, bodies, f"{place}{instance}.")
    return found
