"""What tests read of the project's own source: its modules, and what each of them imports."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent


@cache
def tree(path: Path) -> ast.Module:
    """Return the syntax of a file, read once."""
    return ast.parse(path.read_text(encoding="utf-8"))


def modules() -> dict[str, Path]:
    """Return dotted name -> file of all modules of the project, tests left out; empty packages do not count."""
    files = [ROOT / "nmsat.py"]
    for package in sorted(path.parent for path in ROOT.glob("*/__init__.py") if path.parent.name != "tests"):
        files += sorted(package.rglob("*.py"))
    names = (".".join(path.relative_to(ROOT).with_suffix("").parts) for path in files)
    return {name.removesuffix(".__init__"): path for name, path in zip(names, files, strict=True)}


@cache
def imported(path: Path, module: str, *, at_run_time: bool = False) -> frozenset[str]:
    """Return the dotted names that a file imports, relative ones resolved, `nmsat.` in front left out.

    `nmsat.sim.array` in an expression counts: `import nmsat.sim.parts` lets a file write it.

    at_run_time: only what is imported when the module is: not inside functions, not for type checkers.
    """
    found: set[str] = set()
    pending: list[ast.AST] = [tree(path)]
    while pending:
        node = pending.pop()
        if at_run_time and (isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or _is_type_checking(node)):
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = ".".join([*_package(path, module, node.level), *([node.module] if node.module else [])])
            found |= {f"{base}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Attribute) and _root(node) == "nmsat":
            found.add(ast.unparse(node))
            continue
        pending += ast.iter_child_nodes(node)
    return frozenset(name.removeprefix("nmsat.") for name in found)


def _package(path: Path, module: str, level: int) -> list[str]:
    """Return the package at which an import with so many dots in front starts; of `__init__.py` one dot is itself."""
    parts = module.split(".")
    dropped = level - (path.name == "__init__.py")
    return parts[: len(parts) - dropped] if level else []


def _root(node: ast.expr) -> str | None:
    """Return the name at which a chain of attributes starts."""
    while isinstance(node, ast.Attribute):
        node = node.value
    return node.id if isinstance(node, ast.Name) else None


def _is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def under(name: str, prefix: str) -> bool:
    """Whether dotted `name` is `prefix` or inside it."""
    return name == prefix or name.startswith(f"{prefix}.")


def own_files() -> dict[str, Path]:
    """Return dotted name -> file of all modules of the project, those of the tests included."""
    tests = sorted((ROOT / "tests").rglob("*.py"))
    return modules() | {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in tests}


def prefixes(name: str) -> list[str]:
    """Return a dotted name and all that it lies in."""
    parts = name.split(".")
    return [".".join(parts[:i]) for i in range(1, len(parts) + 1)]
