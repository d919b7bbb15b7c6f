"""A number that two views share stands in dataflow/contract: none is written down by hand on both sides."""

from __future__ import annotations

import ast
import operator
from typing import TYPE_CHECKING, Any, Final

import pytest

from nmsat.algorithms.core.ranges import GROUP_SIZES
from nmsat.dataflow.contract.isa import OFFSET_BITS
from nmsat.dataflow.contract.limits import MAX_BURST, PAGE_BYTES
from nmsat.dataflow.contract.links import FILLER_PAIR, PAIR, PAIR_BITS
from nmsat.dataflow.contract.ranges import MEMORY_RANGES
from tests.source import ROOT, tree

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

COMMON: Final = {0, 1}
"""Defaults of parameters that say nothing."""

VIEWS: Final = ("hw", "sim")
FOLDERS: Final = ("hw", "sim", "dataflow", "tb")

_OPERATORS: Final[dict[type[ast.operator], Callable[[Any, Any], Any]]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.LShift: operator.lshift,
    ast.Pow: operator.pow,
}


def by_hand(node: ast.expr | None) -> int | None:
    """Return the whole number that an expression of literals alone stands for; None for any other expression."""
    if isinstance(node, ast.Constant) and type(node.value) is int:
        return node.value
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        left, right = by_hand(node.left), by_hand(node.right)
        return None if left is None or right is None else _OPERATORS[type(node.op)](left, right)
    return None


def numbers(file: ast.Module) -> Iterator[tuple[str, int]]:
    """Yield (name, value) of the constants of a module, and of the defaults of parameters, written by hand."""
    for node in file.body:
        if isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            value = by_hand(node.value)
            yield from ((t.id.lstrip("_"), value) for t in targets if isinstance(t, ast.Name) and value is not None)
    for node in ast.walk(file):
        if isinstance(node, ast.FunctionDef):
            names = [*node.args.posonlyargs, *node.args.args]
            pairs = zip(reversed(names), reversed(node.args.defaults), strict=False)
            found = [*pairs, *zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True)]
            values = ((name.arg, by_hand(default)) for name, default in found)
            yield from ((name, value) for name, value in values if value is not None and value not in COMMON)


def enums(file: ast.Module) -> Iterator[tuple[str, int]]:
    """Yield (name, 0) of the enumerations of a module, whatever their values."""
    for node in file.body:
        if isinstance(node, ast.ClassDef) and any(ast.unparse(base).endswith(("Enum", "Flag")) for base in node.bases):
            yield node.name, 0


def stated(root: Path, *folders: str) -> dict[tuple[str, int], list[str]]:
    """Return (name, value) -> files below `folders` of `root` that state it by hand."""
    found: dict[tuple[str, int], list[str]] = {}
    for path in (path for folder in folders for path in sorted((root / folder).rglob("*.py"))):
        for pair in {*numbers(tree(path)), *enums(tree(path))}:
            found.setdefault(pair, []).append(path.relative_to(root).as_posix())
    return found


def twins(root: Path) -> list[str]:
    """Return what both hw and sim state by hand, and what any view states that the contract states, too."""
    hardware, model = (stated(root, view) for view in VIEWS)
    contract = stated(root, "dataflow/contract", "algorithms/core")
    both = [(pair, hardware[pair] + model[pair]) for pair in hardware.keys() & model.keys()]
    views = stated(root, *VIEWS, "algorithms/training", *(f"dataflow/{room}" for room in ("cycles", "program")))
    again = [(pair, contract[pair] + views[pair]) for pair in contract.keys() & views.keys()]
    return sorted(f"{name} is {value}: {', '.join(files)}" for (name, value), files in both + again)


def test_no_number_stands_in_two_views() -> None:
    assert twins(ROOT) == []


@pytest.mark.parametrize(
    ("hardware", "model", "found"),
    [
        ("IDLE = 255", "from typing import Final\n_IDLE: Final = (1 << 8) - 1", "IDLE is 255"),
        ("def f(a, add_stages: int = 4): ...", "class A:\n    def g(self, *, add_stages=4): ...", "add_stages is 4"),
        ("class Wait(enum.Enum, shape=3):\n    NONE = 0", "class Wait(IntEnum):\n    NO = 0", "Wait is 0"),
        ("IDLE = 255", "IDLE = 254", None),
        ("def f(low=0): ...", "def g(low=0): ...", None),
        ("from c import LANES\nUNITS = LANES * 2", "UNITS = 32", None),
    ],
)
def test_a_twin_is_found(hardware: str, model: str, found: str | None, tmp_path: Path) -> None:
    for folder, text in (("hw", hardware), ("sim", model)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "part.py").write_text(text)
    assert twins(tmp_path) == ([f"{found}: hw/part.py, sim/part.py"] if found else [])


def test_a_number_of_the_contract_is_not_stated_again(tmp_path: Path) -> None:
    for folder in ("dataflow/contract", "algorithms/training"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "part.py").write_text("MAX_SHIFT = 24")
    assert twins(tmp_path) == ["MAX_SHIFT is 24: dataflow/contract/part.py, algorithms/training/part.py"]


def test_the_wrap_of_offsets_is_not_written_by_hand() -> None:
    """`OFFSET_MASK` is the only place where the bits of an offset become a mask."""
    places = [
        path.relative_to(ROOT).as_posix()
        for folder in FOLDERS
        for path in sorted((ROOT / folder).rglob("*.py"))
        for node in ast.walk(tree(path))
        if isinstance(node, ast.BinOp)
        and isinstance(node.op, ast.Sub)
        and ast.unparse(node.left).strip("()") in (f"1 << {OFFSET_BITS}", "1 << OFFSET_BITS")
    ]
    assert places == ["dataflow/contract/isa.py"]


def test_the_sizes_of_groups_are_not_written_by_hand() -> None:
    """`GROUP_SIZES` is the only place where the legal M stand: algorithm, contract and benches read it."""
    places = [
        path.relative_to(ROOT).as_posix()
        for folder in ("algorithms", *FOLDERS)
        for path in sorted((ROOT / folder).rglob("*.py"))
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Tuple | ast.List | ast.Set)
        and [by_hand(element) for element in node.elts] == list(GROUP_SIZES)
    ]
    assert places == ["algorithms/core/ranges.py"]


def test_what_is_stored_fits_its_place() -> None:
    """A pair as it lies in memory, and the longest burst of a memory: numbers that two tables derive apart."""
    assert PAIR.bits <= PAIR_BITS == 32
    assert FILLER_PAIR == 1 << 20
    longest = next(field for field in MEMORY_RANGES if field.name == "burst_bytes")
    assert longest.high == PAGE_BYTES == 4096
    assert MAX_BURST * 64 <= PAGE_BYTES
