"""The law of the house: imports run one way, sibling rooms never meet, rooms have one name everywhere, no circles.

Type hints count: an import for the type checker alone is an import here.
"""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING, Final

import pytest

from tests.source import ROOT, imported, modules, own_files, prefixes, tree, under

if TYPE_CHECKING:
    from pathlib import Path

CONTRACT: Final = "dataflow.contract"
CORE: Final = "algorithms.core"

LONGEST: Final = 400
"""Lines of a file."""

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
    # how a number is refused, in one wording; how a file of settings is held to its schema
    CONTRACT: ("algorithms.core.ranges", "algorithms.core.schema"),
    "dataflow.cycles": (CONTRACT,),
    "dataflow.mapping": (CORE, CONTRACT, "dataflow.cycles"),
    "dataflow.network": ("algorithms", CONTRACT, "dataflow.cycles", "dataflow.mapping"),
    "dataflow.program": ("algorithms", CONTRACT, "dataflow.cycles", "dataflow.mapping", "dataflow.network"),
    # The circuit. It sees the contract and nothing else of the project.
    "hw.parts": (CONTRACT, "algorithms.core.caches"),  # where caches lie: one place for compiled models and kernel
    "hw.fp": (CONTRACT, "hw.parts"),
    "hw.memory": (CONTRACT, "hw.parts"),
    **{
        f"hw.{room}": (CONTRACT, "hw.parts", "hw.fp", "hw.memory")
        for room in ("array", "load", "store", "update", "control")
    },
    "hw.sat": (CONTRACT, "hw"),
    "hw.release": (CONTRACT, "hw"),
    # The machine. The same rooms.
    "sim.parts": (CORE, CONTRACT, "dataflow.cycles"),
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
    "sim.compiled": (CORE,),
    "sim.sat": ("dataflow", *(f"sim.{room}" for room in ("run", "control", "values", "results", "parts", "compiled"))),
    "sim.card": (CONTRACT, "dataflow.cycles", "dataflow.program", "sim.sat", "sim.results"),
    "sim.quick": (
        CONTRACT,
        "dataflow.cycles",
        "dataflow.program",
        "sim.load",
        "sim.store",
        "sim.control",
        "sim.parts",
        "sim.run",
        "sim.sat",
        "sim.compiled",
    ),
    "sim.work": (
        "algorithms",
        "dataflow",
        "sim.array",
        "sim.results",
        "sim.quick",
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
    "tb.formal": (CONTRACT, "hw"),
    "tb.machine": ("algorithms", "dataflow", "hw", "sim", "tb.run", "tb.drive"),
    "tb.engines": ("algorithms", "dataflow", "hw", "sim", "tb"),
    "tb.coverage": ("dataflow", "tb"),
    "tb.icarus": ("algorithms", "dataflow", "hw", "tb"),
    "tb.placed": ("dataflow", "hw"),
    # What people read.
    "reports.version": (),
    "reports.ending": (),
    "reports.work": ("reports.version", "reports.ending", "algorithms", "dataflow", "hw", "sim", "tb"),
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


def target_of(name: str, files: dict[str, Path]) -> str | None:
    """Return the module that an imported name is or lies in; None if it is none of the project's."""
    return next((part for part in reversed(prefixes(name)) if part in files), None)


def arrows(files: dict[str, Path]) -> list[tuple[str, str]]:
    """Return (module, module it imports) inside the project; names imported from a module count as that module."""
    found = {
        (module, target)
        for module, path in files.items()
        for name in imported(path, module)
        if (target := target_of(name, files)) is not None and target != module
    }
    return sorted(found)


def trespasses(files: dict[str, Path]) -> list[str]:
    """Return the imports that `LAW` does not allow."""
    return [
        f"{module} imports {target}"
        for module, target in arrows(files)
        if (room := room_of(module)) is not None
        and not under(target, room)
        and not any(under(target, allowed) for allowed in LAW[room])
    ]


def circles(graph: dict[str, set[str]]) -> dict[str, set[str]]:
    """Return what is left of a graph of needs when all is taken out that needs nothing any more: {} without circles."""
    left = dict(graph)
    while free := [name for name, needs in left.items() if not needs & left.keys()]:
        for name in free:
            del left[name]
    return left


def circular_modules(files: dict[str, Path]) -> set[str]:
    """Return the modules in circles, and those that need them; a package counts for each that imports from in it."""
    graph: dict[str, set[str]] = {module: set() for module in files}
    for module, path in files.items():
        for name in imported(path, module):
            around = {part for part in prefixes(name) if not under(module, part)} & files.keys()
            graph[module] |= ({target_of(name, files) or module} | around) - {module}
    return set(circles(graph))


def misnamed(folder: Path) -> list[str]:
    """Return what is wrong with the rooms of hw/, sim/, tb/ or tests/: engines without a module, rooms of other names.

    folder: of that name. Folders without Python files, caches for example, do not count.
    """
    start = {"tests": "test_", "tb": "bench_"}.get(folder.name, "")
    found = {path.name: [file.name for file in path.glob("*.py")] for path in folder.iterdir() if path.is_dir()}
    rooms = {name: files for name, files in found.items() if files}
    known = {part for room in LAW for part in room.split(".")[1:]} | (
        {"cli", "tb"} if folder.name == "tests" else set()
    )
    empty = [
        f"{folder.name}/{name} has no {start or 'module'}"
        for name in sorted(ENGINES)
        if not any(file.startswith(start) and file != "__init__.py" for file in rooms.get(name, []))
    ]
    return empty + [f"{folder.name}/{name} is named like no room" for name in sorted(rooms.keys() - known)]


def test_every_module_has_a_room() -> None:
    bare = {module for module in modules() if room_of(module) is None}
    assert bare == {"algorithms", "algorithms.workloads", "dataflow", "sim", "hw", "tb", "reports"}


def test_imports_run_one_way_and_siblings_never_meet() -> None:
    assert trespasses(modules()) == []


def test_no_two_rooms_import_each_other() -> None:
    """Circles of type hints included: whoever reads a room reads only rooms below it."""
    graph: dict[str, set[str]] = {room: set() for room in LAW}
    for module, target in arrows(modules()):
        here, there = room_of(module), room_of(target)
        if here is not None and there is not None and here != there:
            graph[here].add(there)
    assert circles(graph) == {}


def test_no_module_imports_itself_in_a_circle() -> None:
    """Neither while it runs nor for its type hints."""
    assert circular_modules(modules()) == set()


@pytest.mark.parametrize("folder", ["hw", "sim", "tb", "tests"])
def test_a_part_of_the_machine_has_one_name_everywhere(folder: str) -> None:
    assert misnamed(ROOT / folder) == []


@pytest.mark.parametrize(
    ("module", "text", "found"),
    [
        ("hw.fp.f32", "import nmsat.sim", ["hw.fp.f32 imports sim"]),
        ("hw.fp.f32", "from nmsat import tb", ["hw.fp.f32 imports tb"]),
        ("hw.fp.f32", "import nmsat.hw.parts\nX = nmsat.sim.array.head.Head", ["hw.fp.f32 imports sim.array.head"]),
        ("hw.fp.f32", "from nmsat.sim import *", ["hw.fp.f32 imports sim"]),
        ("hw.store.__init__", "from ..update import sore", ["hw.store imports hw.update.sore"]),
        ("hw.store.__init__", "from . import epilogue", []),
        ("hw.store.epilogue", "from ..update import sore", ["hw.store.epilogue imports hw.update.sore"]),
        ("hw.fp.f32", "from nmsat.hw import parts", []),
    ],
)
def test_a_trespass_is_found(module: str, text: str, found: list[str], tmp_path: Path) -> None:
    file = tmp_path / f"{module.rpartition('.')[2]}.py"
    file.write_text(text)
    assert trespasses(modules() | {module.removesuffix(".__init__"): file}) == found


@pytest.mark.parametrize(
    ("first", "second", "found"),
    [
        ("from {b} import B", "from {a} import A", True),
        ("from {b} import B", "if TYPE_CHECKING:\n    from {a} import A", True),
        ("if TYPE_CHECKING:\n    from {b} import B", "if TYPE_CHECKING:\n    from . import axi", True),
        ("def f():\n    from {b} import B", "from {a} import A", True),
        ("from {b} import B", "", False),
    ],
)
def test_a_circle_inside_a_room_is_found(first: str, second: str, found: bool, tmp_path: Path) -> None:
    names = {"a": "nmsat.hw.memory.axi", "b": "nmsat.hw.memory.read_port"}
    (tmp_path / "axi.py").write_text(first.format(**names))
    (tmp_path / "read_port.py").write_text(second.format(**names))
    files = modules() | {f"hw.memory.{name}": tmp_path / f"{name}.py" for name in ("axi", "read_port")}
    assert ({"hw.memory.axi", "hw.memory.read_port"} <= circular_modules(files)) is found


def test_a_room_of_another_name_is_found(tmp_path: Path) -> None:
    folder = tmp_path / "tests"
    for name in ENGINES:
        (folder / name).mkdir(parents=True)
        (folder / name / f"test_{name}.py").touch()
    assert misnamed(folder) == []
    (folder / "load" / "test_load.py").unlink()
    (folder / "loading").mkdir()
    (folder / "loading" / "test_loader.py").touch()
    assert misnamed(folder) == ["tests/load has no test_", "tests/loading is named like no room"]


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


def test_no_file_is_longer_than_a_reader_holds() -> None:
    files = [*own_files().values(), ROOT / "setup.py", *(ROOT / ".ci").rglob("*.py")]
    lengths = {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8").count("\n") for path in files}
    assert len(lengths) > 300
    assert {name: length for name, length in lengths.items() if length > LONGEST} == {}


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


def public_names(path: Path) -> set[str]:
    """Return the classes, functions and constants that a module defines for others."""
    found: set[str] = set()
    for node in tree(path).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            found.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found |= {target.id for target in targets if isinstance(target, ast.Name)}
    return {name for name in found if not name.startswith("_")}


def ambiguous(files: dict[str, Path]) -> dict[str, list[str]]:
    """Return the names that modules of dataflow, hw and sim define twice, but for twins.

    Twins are circuit and model of one part: one definition in hw, one in sim, in the room of the same name. T is a type
    variable.
    """
    found: dict[str, list[str]] = {}
    for module, path in files.items():
        if module.split(".")[0] in ("dataflow", "hw", "sim"):
            for name in public_names(path) - {"T"}:
                found.setdefault(name, []).append(module)
    return {name: sorted(places) for name, places in found.items() if len(places) > 1 and not _are_twins(places)}


def _are_twins(places: list[str]) -> bool:
    rooms = {place.split(".")[1] for place in places}
    return len(places) == 2 and {place.split(".")[0] for place in places} == {"hw", "sim"} and len(rooms) == 1


def test_a_name_means_one_thing() -> None:
    assert ambiguous(modules()) == {}


@pytest.mark.parametrize(
    ("module", "text", "found"),
    [
        ("hw.store.new", "class Loader: ...", ["hw.load.loader", "hw.store.new", "sim.load.loader"]),
        ("sim.array.new", "def simulate(): ...", ["sim.api", "sim.array.new"]),
        ("dataflow.program.new", "LANES = 3", ["dataflow.contract.isa", "dataflow.program.new"]),
        ("sim.parts.new", "_LANES = 3", None),
    ],
)
def test_a_second_meaning_is_found(module: str, text: str, found: list[str] | None, tmp_path: Path) -> None:
    (tmp_path / "new.py").write_text(text)
    assert next(iter(ambiguous(modules() | {module: tmp_path / "new.py"}).values()), None) == found
