"""The law of the house: imports run one way, sibling rooms never meet, rooms have one name everywhere, no circles.

Type hints count: an import for the type checker alone is an import here.
"""

from __future__ import annotations

import ast
from functools import cache
from typing import TYPE_CHECKING, Final

import pytest

from tests.source import ROOT, imported, modules, own_files, prefixes, tree, under

if TYPE_CHECKING:
    from pathlib import Path

CONTRACT: Final = "dataflow.contract"
CORE: Final = "algorithms.core"

LAW: Final[dict[str, tuple[str, ...]]] = {
    # What is computed. Knows nothing of hardware.
    CORE: (),
    "algorithms.methods": (CORE,),
    "algorithms.layers": (CORE, "algorithms.methods"),
    "algorithms.training": (CORE, "algorithms.methods", "algorithms.layers"),
    "algorithms.pytorch": (CORE, "algorithms.methods"),
    "algorithms.workloads.engine": (CORE, "algorithms.methods"),
    "algorithms.workloads.methods": (CORE, "algorithms.methods", "algorithms.training", "algorithms.workloads.engine"),
    # How it is cut, said and timed: a ladder.
    CONTRACT: ("algorithms.core.ranges",),  # how a number is refused, in one wording
    "dataflow.cycles": (CONTRACT,),
    "dataflow.mapping": (CORE, CONTRACT, "dataflow.cycles"),
    "dataflow.network": ("algorithms", CONTRACT, "dataflow.cycles", "dataflow.mapping"),
    "dataflow.program": ("algorithms", CONTRACT, "dataflow.cycles", "dataflow.mapping", "dataflow.network"),
    "dataflow.schedule": (CORE, "dataflow"),
    # The circuit. It sees the contract and nothing else of the project.
    "hw.parts": (CONTRACT,),
    "hw.fp": (CONTRACT, "hw.parts"),
    "hw.memory": (CONTRACT, "hw.parts"),
    **{
        f"hw.{room}": (CONTRACT, "hw.parts", "hw.fp", "hw.memory")
        for room in ("array", "load", "store", "update", "control")
    },
    "hw.sat": (CONTRACT, "hw"),
    "hw.release": (CONTRACT, "hw"),
    # The machine. The same rooms.
    "sim.parts": (CORE, CONTRACT),
    "sim.memory": (CORE, CONTRACT, "dataflow.cycles", "sim.parts"),
    **{
        f"sim.{room}": ("algorithms", CONTRACT, "dataflow.cycles", "dataflow.mapping", "sim.parts", "sim.memory")
        for room in ("load", "store", "update", "control")
    },
    "sim.array": ("algorithms", CONTRACT, "dataflow.cycles", "dataflow.mapping", "sim.parts", "sim.results"),
    "sim.trace": (CORE, "dataflow", "sim.array", "sim.parts"),
    "sim.values": (CORE, CONTRACT, "sim.update"),
    "sim.results": (CORE, "dataflow"),
    "sim.run": (
        CONTRACT,
        "dataflow.cycles",
        *(f"sim.{room}" for room in ("array", "load", "store", "update", "control", "memory", "parts")),
    ),
    "sim.sat": ("dataflow", "sim.run", "sim.control", "sim.values", "sim.results"),
    "sim.quick": (
        CONTRACT,
        "dataflow.cycles",
        "sim.load",
        "sim.store",
        "sim.control",
        "sim.parts",
        "sim.run",
        "sim.sat",
    ),
    "sim.schedule": ("algorithms", "dataflow", "sim.array", "sim.results"),
    "sim.work": (
        "algorithms",
        "dataflow",
        "sim.array",
        "sim.results",
        "sim.schedule",
        "sim.sat",
        "sim.trace",
        "sim.values",
    ),
    "sim.api": ("algorithms", "dataflow", "sim"),
    # The proof.
    "tb.run": (CORE, "hw.parts"),
    "tb.drive": ("dataflow", "hw", "sim", "tb.run"),
    **{
        f"tb.{room}": ("algorithms", "dataflow", "hw", "sim", "tb.run", "tb.drive", "tb.fp")
        for room in ("array", "fp", "load", "store", "update", "memory", "control")
    },
    "tb.machine": ("algorithms", "dataflow", "hw", "sim", "tb.run", "tb.drive"),
    "tb.engines": ("algorithms", "dataflow", "hw", "sim", "tb"),
    # What people read.
    "reports.version": (),
    "reports.work": ("reports.version", "algorithms", "dataflow", "hw", "sim", "tb"),
    "reports.pages": ("reports.version", "algorithms", "dataflow", "hw", "sim", "tb", "reports.work"),
    "reports.commands": (
        "reports.version",
        "algorithms",
        "dataflow",
        "hw",
        "sim",
        "tb",
        "reports.work",
        "reports.pages",
    ),
    "nmsat": ("hw", "tb", "reports"),
    "reports.start": ("nmsat", "reports"),
}
"""Room -> what it may import of this project beside itself."""

ENGINES: Final = {"array", "load", "store", "update", "memory", "control"}
"""The machine's parts: a room of that name in hw/, sim/, tb/ and tests/."""


def room_of(module: str) -> str | None:
    """Return the room of a module; None for the bare packages above the rooms."""
    return next((room for room in LAW if under(module, room)), None)


@cache
def arrows() -> list[tuple[str, str]]:
    """Return (module, module it imports) inside the project; names imported from a module count as that module."""
    files = modules()
    found: set[tuple[str, str]] = set()
    for module, path in files.items():
        for name in imported(path, module):
            target = next(
                (name.rsplit(".", i)[0] for i in range(name.count(".") + 1) if name.rsplit(".", i)[0] in files), None
            )
            if target is not None and target != module:
                found.add((module, target))
    return sorted(found)


def test_every_module_has_a_room() -> None:
    bare = {module for module in modules() if room_of(module) is None}
    assert bare == {"algorithms", "algorithms.workloads", "dataflow", "sim", "hw", "tb", "reports"}


def test_imports_run_one_way_and_siblings_never_meet() -> None:
    wrong = [
        f"{module} imports {target}"
        for module, target in arrows()
        if (room := room_of(module)) is not None
        and not under(target, room)
        and target not in ("dataflow", "sim", "hw", "tb", "reports", "algorithms")
        and not any(under(target, allowed) for allowed in LAW[room])
    ]
    assert wrong == []


def test_no_two_rooms_import_each_other() -> None:
    """Circles of type hints included: whoever reads a room reads only rooms below it."""
    graph: dict[str, set[str]] = {room: set() for room in LAW}
    for module, target in arrows():
        here, there = room_of(module), room_of(target)
        if here is not None and there is not None and here != there:
            graph[here].add(there)
    while free := [room for room, needs in graph.items() if not needs & graph.keys()]:
        for room in free:
            del graph[room]
    assert graph == {}


def test_no_module_imports_itself_in_a_circle() -> None:
    files = modules()
    graph = {
        module: (
            {other for name in imported(path, module, at_run_time=True) for other in prefixes(name)} & files.keys()
        )
        - {module}
        - {module.rpartition(".")[0]}
        for module, path in files.items()
    }
    while free := [module for module, needs in graph.items() if not needs & graph.keys()]:
        for module in free:
            del graph[module]
    assert graph == {}


@pytest.mark.parametrize("folder", ["hw", "sim", "tb", "tests"])
def test_a_part_of_the_machine_has_one_name_everywhere(folder: str) -> None:
    assert {path.name for path in (ROOT / folder).iterdir()} >= ENGINES


def test_everything_is_imported_under_one_name() -> None:
    """`import sim` works in the repository, too, and would load every module a second time."""
    tops = {"algorithms", "dataflow", "sim", "hw", "tb", "reports"}
    files = [*modules().values(), *sorted((ROOT / "tests").rglob("*.py"))]
    wrong = [
        f"{path.relative_to(ROOT)}: {name}"
        for path in files
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in ([alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""])
        if name.split(".")[0] in tops
    ]
    assert wrong == []


def borrowings(files: dict[str, Path], known: dict[str, Path]) -> list[str]:
    """Return which of some files import a bench or a test; known: all modules that there are."""
    closed = {name for name in known if name.rpartition(".")[2].startswith(("bench_", "test_"))}
    return [
        f"{module} imports {target}"
        for module, path in files.items()
        for target in sorted({part for name in imported(path, module) for part in prefixes(name)} & closed)
    ]


def test_benches_and_tests_cannot_be_mistaken() -> None:
    """cocotb modules are bench_*.py, pytest modules test_*.py; what both use lies in neither."""
    assert [path.name for path in sorted((ROOT / "tb").rglob("test_*.py"))] == []
    files = own_files()
    assert borrowings(files, files) == []


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("from nmsat.tb.memory.bench_ports import Bench", ["tests.x imports tb.memory.bench_ports"]),
        ("def f():\n    import nmsat.tb.memory.bench_ports as b", ["tests.x imports tb.memory.bench_ports"]),
        ("from nmsat.tb.memory import bench_ports", ["tests.x imports tb.memory.bench_ports"]),
        ("from tests.test_readme import ROOT", ["tests.x imports tests.test_readme"]),
        ("from nmsat.tb.array.products import bench_config", []),
        ("BENCH = 'nmsat.tb.memory.bench_ports'", []),
    ],
)
def test_a_borrowed_bench_is_found(text: str, found: list[str], tmp_path: Path) -> None:
    (tmp_path / "x.py").write_text(text)
    assert borrowings({"tests.x": tmp_path / "x.py"}, own_files()) == found


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("import nmsat.sim.stce", {"sim.stce"}),
        ("from nmsat.sim import stce, head", {"sim.stce", "sim.head"}),
        ("def f():\n    from ..sim import stce", {"a.sim.stce"}),
        ("if TYPE_CHECKING:\n    from nmsat.sim.stce import Stce", {"sim.stce.Stce"}),
    ],
)
def test_reader_of_imports_sees_every_form(text: str, names: set[str], tmp_path: Path) -> None:
    (tmp_path / "x.py").write_text(text)
    assert imported(tmp_path / "x.py", "a.b.x") == names
    assert imported(tmp_path / "x.py", "a.b.x", at_run_time=True) == (set() if "\n" in text else names)
