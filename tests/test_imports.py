"""Imports run one way: algorithms <- dataflow <- sim, hw beside them, tb and reports on top, and never in a circle."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).resolve().parent.parent

ALLOWED: Final[dict[str, tuple[str, ...]]] = {
    "algorithms": ("algorithms",),
    "dataflow": ("dataflow", "algorithms"),
    "sim": ("sim", "dataflow", "algorithms"),
    # The circuit shares sizes, latencies and word layouts with the schedule, nothing else.
    "hw": (
        "hw",
        "dataflow.config",
        "dataflow.isa",
        "dataflow.legal",
        "dataflow.registers",
        "dataflow.timing",
        "dataflow.words",
    ),
    "tb": ("tb", "hw", "sim", "dataflow", "algorithms"),
    "reports": ("reports", "tb", "hw", "sim", "dataflow", "algorithms"),
    "nmsat": ("nmsat_start", "reports", "tb", "hw", "sim", "dataflow", "algorithms"),
    "nmsat_start": ("nmsat", "reports"),
}
"""Package -> what it may import of this project."""


def modules() -> dict[str, Path]:
    """Return dotted name -> file of all modules of the project, tests left out."""
    files = [ROOT / "nmsat.py", ROOT / "nmsat_start.py"]
    for package in sorted(path.parent for path in ROOT.glob("*/__init__.py") if path.parent.name != "tests"):
        files += sorted(package.rglob("*.py"))
    names = (".".join(path.relative_to(ROOT).with_suffix("").parts) for path in files)
    return {name.removesuffix(".__init__"): path for name, path in zip(names, files, strict=True)}


def imported(path: Path, module: str, *, at_run_time: bool = False) -> set[str]:
    """Return the dotted names that a file imports, relative ones resolved.

    at_run_time: only what is imported when the module is: not inside functions, not for type checkers.
    """
    found: set[str] = set()
    pending: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"))]
    while pending:
        node = pending.pop()
        if at_run_time and (isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or _is_type_checking(node)):
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            package = module.split(".")[: -node.level] if node.level else []
            base = ".".join([*package, *([node.module] if node.module else [])])
            found |= {f"{base}.{alias.name}" for alias in node.names}
        pending += ast.iter_child_nodes(node)
    return found


def _is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def under(name: str, prefix: str) -> bool:
    """Whether dotted `name` is `prefix` or inside it."""
    return name == prefix or name.startswith(f"{prefix}.")


def test_every_package_has_a_rule() -> None:
    assert {name.split(".")[0] for name in modules()} == set(ALLOWED)


@pytest.mark.parametrize("package", ALLOWED)
def test_imports_run_one_way(package: str) -> None:
    own = set(ALLOWED) | {"tests"}
    wrong = [
        f"{module} imports {name}"
        for module, path in modules().items()
        if under(module, package)
        for name in sorted(imported(path, module))
        if name.split(".")[0] in own and not any(under(name, allowed) for allowed in ALLOWED[package])
    ]
    assert wrong == []


def test_no_module_imports_itself_in_a_circle() -> None:
    files = modules()
    graph = {
        module: {other for name in imported(path, module, at_run_time=True) for other in files if under(name, other)}
        - {module}
        - {module.rpartition(".")[0]}
        for module, path in files.items()
    }
    while free := [module for module, needs in graph.items() if not needs & graph.keys()]:
        for module in free:
            del graph[module]
    assert graph == {}


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("import sim.stce", {"sim.stce"}),
        ("from sim import stce, head", {"sim.stce", "sim.head"}),
        ("def f():\n    from ..sim import stce", {"a.sim.stce"}),
        ("if TYPE_CHECKING:\n    from sim.stce import Stce", {"sim.stce.Stce"}),
    ],
)
def test_reader_of_imports_sees_every_form(text: str, names: set[str], tmp_path: Path) -> None:
    (tmp_path / "x.py").write_text(text)
    assert imported(tmp_path / "x.py", "a.b.x") == names
    assert imported(tmp_path / "x.py", "a.b.x", at_run_time=True) == (set() if "\n" in text else names)
