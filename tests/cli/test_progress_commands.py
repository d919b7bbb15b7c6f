"""Every command that takes long tells what it does: all of it with --verbose, a line in a while without."""

from __future__ import annotations

import json
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from nmsat.algorithms.training.study import cells
from nmsat.reports.work import progress, study, verify

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from nmsat.algorithms.training.study import Cell
    from tests.conftest import Outcome

    Call = Callable[[str], Outcome]


def told(call: Call, line: str) -> list[str]:
    """Return what a command says with --verbose; without, no line must come before ten seconds are over."""
    said = call(f"{line} --verbose")
    assert said.code == 0
    assert call(f"{line} --quiet").err == ""
    return said.err.splitlines()


def test_model_counts_to_the_end(call: Call, advances: list[tuple[int, int | None]]) -> None:
    assert call("model resnet9 --batch 1 --config tiny --ablation").code == 0
    done, total = advances[-1]
    assert 14 < done <= (total or 0)


def test_model_names_each_program(call: Call) -> None:
    lines = told(call, "model resnet9 --batch 1 --config tiny --ablation")
    assert lines.count("nmsat: resnet9: narrow.conv bp") == 2  # of the step, of the dense one
    assert lines.count("nmsat: resnet9, ablation: narrow.conv bp") > 4


def test_rtl_names_each_top(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from nmsat.hw.release import tops as release

    tops = {name: (lambda _: None) for name in ("sat_sore", "sat_epilogue")}
    text = "module {0}(clk);\n  input clk;\nendmodule\n"
    monkeypatch.setattr(release, "TOPS", tops)
    monkeypatch.setattr(release, "emit", lambda _, name, __: {f"{name}.v": text.format(name)})
    monkeypatch.setenv("NMSAT_BUILD_DIR", str(tmp_path / "caches"))
    monkeypatch.setattr("nmsat.hw.release.package.package_files", lambda _, __, verilog: dict(verilog))
    lines = told(call, f"rtl --out {tmp_path / 'rtl'}")
    assert [line for line in lines if "sat_" in line] == [f"nmsat: writing Verilog: {name}" for name in tops]


@pytest.mark.usefixtures("little_to_measure")
@pytest.mark.parametrize(
    ("line", "words"),
    [
        (
            "gemm 64 64 64 --config tiny",
            ["simulating the product: begins", "computing the values of the product: begins"],
        ),
        ("program 8 8 8", ["running the program on the simulator: begins"]),
        ("train --network mlp --steps 1", ["mlp-bdwp-2of8-seed0: begins"]),
        ("workload run sora --scale paper", ["sora: recording and scheduling its products"]),
        ("bench --no-rtl --rounds 1", ["bench: the gears", "bench: contract arithmetic"]),
    ],
)
def test_others_tell_what_they_do(call: Call, line: str, words: list[str]) -> None:
    lines = told(call, line)
    for text in words:
        assert f"nmsat: {text}" in lines


def test_study_counts_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def run_cells(
        wanted: list[Cell], *_: object, progress: Callable[[Cell, int, int], None], **__: object
    ) -> list[Any]:
        for number, cell in enumerate(wanted, 1):
            progress(cell, number, len(wanted))
        time.sleep(0.5)
        return []

    monkeypatch.setattr(progress, "INTERVAL", 0.05)
    monkeypatch.setattr(study, "run_cells", run_cells)
    progress.speak(progress.Voice.NORMAL)
    study.run_study(cells(["mlp"], ["dense"], seeds=[0, 1]), tmp_path, 1)
    lines = capsys.readouterr().err.splitlines()
    assert any(line.startswith("nmsat: study, 2 of 2 runs, ") and "last mlp-dense-seed1" in line for line in lines)


@pytest.mark.parametrize(
    ("line", "labels"),
    [
        ("verify --jobs 3", ["random programs on the RTL", "random programs on the RTL, random memory"]),
        ("verify fuzz --programs 3", ["damaged programs on the RTL"]),
    ],
)
def test_verify_counts_programs(call: Call, line: str, labels: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    done: dict[str, int] = {}
    honest = progress.Task.advance

    def advance(self: progress.Task, *given: Any, **named: Any) -> None:
        honest(self, *given, **named)
        done[self.label] = self.done

    def run(_: object, __: object, job: dict[str, Any], *___: object) -> SimpleNamespace:
        with open(job["progress"], "a", encoding="utf-8") as file:  # noqa: PTH123 # as the bench does
            file.writelines(f"{json.dumps(seed)}\n" for seed in range(job["count"]))
        saved = {"wrong": "[]", "mismatches": 0, "cycles": 5, "programs": job["count"], "compared": 1, "ends": "{}"}
        return SimpleNamespace(saved=saved)

    monkeypatch.setattr(verify, "build_machine", lambda _: None)
    monkeypatch.setattr(verify, "_run", run)
    monkeypatch.setattr(progress.Task, "advance", advance)
    lines = told(call, line)
    assert [label for label in labels if f"nmsat: {label}: begins" in lines] == labels
    assert done[labels[0]] == 3


def test_engines_names_each_unit(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    from nmsat.reports.commands import engines

    unit = SimpleNamespace(name="a unit", vector="vectors", check=lambda count, seed: count + seed)
    report = SimpleNamespace(luts=1, flip_flops=1, dsp=1)
    monkeypatch.setattr("nmsat.tb.engines.UNITS", (unit,))
    monkeypatch.setattr("nmsat.hw.release.tops.synthesis_tops", lambda _: {"the element": lambda: None})
    monkeypatch.setattr("nmsat.hw.release.synth.synthesise", lambda *_: report)
    monkeypatch.setattr("nmsat.hw.parts.verilog.emit", lambda *_: {})
    monkeypatch.setattr(engines.dataclasses, "asdict", vars)
    monkeypatch.setattr(engines, "_text", lambda *_: "")
    lines = told(call, "engines")
    for text in ("simulating products: 2:8", "synthesising: the element", "running units on the RTL: a unit"):
        assert f"nmsat: {text}" in lines
