"""How the whole machine is built for Verilator: which modules are blocks, and what is written once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from nmsat.dataflow.contract.config import preset
from nmsat.hw.release import kept
from nmsat.tb.machine import model

if TYPE_CHECKING:
    from pathlib import Path

TINY = preset("tiny")
LARGE = preset("vcu1525")


@pytest.fixture
def writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """An empty cache folder, and a writer that takes no time: what it was called with."""
    called: list[str] = []

    def write(_: object, name: str) -> dict[str, str]:
        called.append(name)
        return {f"{name}.v": f"module {name} ();\nendmodule\n", "sat_row.v": "", "sat_row_port.v": ""}

    monkeypatch.setenv("NMSAT_BUILD_DIR", str(tmp_path / "caches"))
    monkeypatch.setattr(model, "emit", write)
    return called


def test_blocks_are_what_there_are_many_of() -> None:
    found = ["sat.v", "sat_row.v", "sat_row_port.v", "sat_wuve_lane_4_4_2.v", "sat_sore_lane_1.v", "sat_sore.v"]
    assert model.blocks_of(found) == ("sat_row", "sat_sore_lane_1", "sat_wuve_lane_4_4_2")


def test_verilog_is_written_once(writes: list[str]) -> None:
    first = model.sat_verilog(TINY)
    assert model.sat_verilog(TINY) == first
    assert writes == ["sat"]
    model.sat_verilog(TINY.replace(act_depth=1024))
    assert writes == ["sat", "sat"]


def test_other_sources_write_anew(writes: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    model.sat_verilog(TINY)
    monkeypatch.setattr(kept, "VERILOG_SOURCES", (*kept.VERILOG_SOURCES, "tb/run"))
    model.sat_verilog(TINY)
    assert writes == ["sat", "sat"]


def test_what_is_no_machine_is_refused(writes: list[str]) -> None:
    with pytest.raises(ValueError, match="rows"):
        model.sat_verilog(TINY.replace(rows=3))
    assert writes == []


def test_large_machines_are_built_as_blocks(writes: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[Any] = []
    monkeypatch.setattr(model, "build", lambda files, top, *, blocks: built.append((sorted(files), top, blocks)))
    model.build_sat(TINY)
    model.build_sat(LARGE)
    files = ["sat.v", "sat_row.v", "sat_row_port.v"]
    assert built == [(files, "sat", ()), (files, "sat", ("sat_row",))]
