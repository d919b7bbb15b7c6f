"""`nmsat program`, `verify`, `verify fuzz` and the backends of `train`: answers and refusals."""

from __future__ import annotations

import hashlib
import json
import re
from typing import TYPE_CHECKING

import numpy as np
import pytest

import nmsat
from nmsat.algorithms.core.nm import pack
from nmsat.algorithms.core.numeric import ordered_dot_packed, to_half
from nmsat.dataflow.contract.config import preset
from nmsat.dataflow.contract.registers import Launch, Region
from nmsat.dataflow.program.bounds import Bounds
from nmsat.dataflow.program.listing import disassemble, listing, read_listing
from nmsat.reports.work.program import matrix_program, run_on_simulator
from nmsat.sim.sat import Sat

if TYPE_CHECKING:
    from pathlib import Path


def answer(capsys: pytest.CaptureFixture[str], *words: str) -> dict:
    assert nmsat.main([*words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_program_of_a_convolution(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    words = ["program", "16", "144", "8", "--pattern", "2:8", "--conv", "1,8,8,16,3,2,1", "--config", "tiny"]
    found = answer(capsys, *words, "--out", str(tmp_path / "p"))
    assert found["cycles"] == found["counters"]["cycles"] > found["macs"] / 16
    program = (tmp_path / "p" / "program.bin").read_bytes()
    text = (tmp_path / "p" / "program.txt").read_text(encoding="utf-8")
    assert read_listing(text).encode() == program
    assert listing(disassemble(program)).count("\n") == found["instructions"]
    assert len(json.loads((tmp_path / "p" / "program.json").read_text(encoding="utf-8"))) == found["instructions"]


def test_a_program_is_written_with_memory_before_the_run(tmp_path: Path) -> None:
    """Whoever runs it finds what it needs and, apart, what must come out; the answer is not in the memory."""
    words = "program 20 16 17 --pattern 2:8 --config tiny --seed 3 --quiet --out"
    assert nmsat.main([*words.split(), str(tmp_path)]) == 0
    found = json.loads((tmp_path / "launch.json").read_text(encoding="utf-8"))
    regions = [np.frombuffer((tmp_path / r["file"]).read_bytes(), np.uint8).copy() for r in found["regions"]]
    for entry, region in zip(found["regions"], regions, strict=True):
        assert (entry["bytes"], 64 * entry["beats"]) == (region.size, region.size)
        assert entry["sha256"] == hashlib.sha256(region.tobytes()).hexdigest()
    assert [entry["writable"] for entry in found["regions"]] == [False, True, True, True]
    assert not regions[2].any()
    (place,) = found["programs"]
    placed = tuple(Region(4096 * 1000 * i, r.size // 64, i != place["region"]) for i, r in enumerate(regions))
    Sat(preset("tiny")).run(Launch(placed, place["region"], place["at"], place["count"]), regions)
    results = {entry["expected"]: regions[entry["region"]] for entry in found["regions"] if "expected" in entry}
    assert list(results) == ["expected/region2.bin"]
    assert [path.name for path in (tmp_path / "expected").iterdir()] == ["region2.bin"]
    assert (tmp_path / "expected" / "region2.bin").read_bytes() == results["expected/region2.bin"].tobytes()
    lines = (tmp_path / "launch.txt").read_text(encoding="utf-8").splitlines()
    lines = [line for line in lines if line.split()[0] not in ("#", "machine")]
    rights = [f"region {r['region']} {'write' if r['writable'] else 'read'} {r['file']}" for r in found["regions"]]
    assert lines == [*rights, f"program {place['region']} {place['at']} {place['count']}"]


@pytest.mark.parametrize("extra", [["--dataflow", "os"], ["--transposed"], ["--dataflow", "ws", "--pattern", "2:4"]])
def test_program_of_a_matrix(capsys: pytest.CaptureFixture[str], extra: list[str]) -> None:
    found = answer(capsys, "program", "20", "16", "17", *extra)
    assert found["counters"]["steps"] > 0
    assert found["dataflow"] == ("ws" if "ws" in extra else "os")


def test_program_computes_the_product() -> None:
    config = preset("small")
    program = matrix_program(config, (30, 40, 20), None, None, 3)
    run_on_simulator(config, program)
    rng = np.random.default_rng(3)
    w, a = (rng.standard_normal(shape).astype(np.float16) for shape in ((40, 20), (30, 40)))
    assert np.array_equal(program.image.read_rows(program.result), to_half(ordered_dot_packed(a, pack(w, 4, 4))))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("program 16 144 8 --conv 1,8,8,16,3,2", "must be B,H,W,C,KERNEL,STRIDE,PADDING"),
        ("program 16 145 8 --conv 1,8,8,16,3,2,1", "M, K are 16, 145; this convolution has 16, 144"),
        (
            "program 16 27 8 --conv 1,8,8,3,3,2,1 --pattern 2:4",
            "3 channels and groups of 4: groups of W_ff run across taps",
        ),
        ("program 8 8 8 --transposed --pattern 2:4", "--transposed reads two dense matrices"),
        ("program 8 8 8 --transposed --dataflow ws", "a transposed operand runs output stationary"),
        ("program 16777216 64 64", "limit is"),
        ("verify --jobs 0", "whole number from 1"),
        ("verify fuzz --programs x", "whole number from 1"),
        ("train --network gpt --backend sim", "optimizer is 'adam'; training on SAT needs 'sgd'"),
        ("train --network vgg19-small --backend sim --arithmetic fast", "training on SAT needs 'contract'"),
        ("program", "M, K and N are missing"),
        ("program 8 8", "M, K and N are missing"),
        ("program 8 8 8 --batch 4 --host-gbs 1", "--batch, --host-gbs: only with --network"),
        ("program 8 8 8 --network mlp", "M, K, N: for a product; --network mlp is a whole step"),
        ("program --network mlp --transposed", "--transposed: for a product"),
        ("program --network mlp --host-gbs 3", "--host-gbs and --host-gops belong together"),
        ("program --network mlp --host-gbs 0 --host-gops 1", "must be a number from 1e-06 to 1,000,000"),
        ("program --network mlp --host-gbs 1e-320 --host-gops 1e-320", "'1e-320'; it must be a number from 1e-06"),
        ("program --network mlp --host-gbs 1 --host-gops inf", "'inf'; it must be a number from 1e-06"),
        ("program --network mlp --method mvue", "SAT runs dense, ste, sr-ste, sdwp and bdwp"),
        ("program --network resnet18", "its small version, which trains, is 'resnet18-small'"),
        ("train --network digits-sat --backend rtl --method mvue", "SAT runs dense, ste, sr-ste, sdwp and bdwp"),
        ("train --network digits-sat --backend gpu", "invalid choice: 'gpu'"),
    ],
)
def test_refusals(capsys: pytest.CaptureFixture[str], words: str, message: str) -> None:
    assert nmsat.main(words.split()) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.strip().count("\n") == 0


def test_program_of_a_convolution_of_three_channels(capsys: pytest.CaptureFixture[str]) -> None:
    found = answer(capsys, "program", "64", "27", "8", "--conv", "1,8,8,3,3,1,1", "--config", "tiny")
    assert found["counters"]["windows"] > 0


def test_program_of_a_step(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    words = ["program", "--network", "digits-cnn", "--batch", "1", "--config", "small", "--out", str(tmp_path)]
    found = answer(capsys, *words, "--host-gbs", "10", "--host-gops", "5")
    assert found["numpy_equal"]
    parts = found["parts"]
    assert found["cycles"] == sum(part["cycles"] for part in parts if part["who"] == "sat")
    host = [part for part in parts if part["who"] == "host"]
    assert [part["name"] for part in host][1] == "ReLU, MaxPool2d"
    assert found["host_operations"] == sum(part["operations"] for part in host) > 0
    assert found["host_bytes"] == sum(part["bytes_read"] + part["bytes_written"] for part in host)
    seconds = found["host_bytes"] / 10e9 + found["host_operations"] / 5e9
    assert found["host_seconds"] == pytest.approx(seconds)
    assert found["seconds"] == pytest.approx(seconds + found["cycles"] / 200e6)
    memory = (tmp_path / "region0.bin").read_bytes()
    for part in parts:
        if part["who"] == "sat":
            program = (tmp_path / f"{part['name']}.bin").read_bytes()
            assert memory[64 * part["at"] : 64 * (part["at"] + part["instructions"])] == program
            assert len(disassemble(program)) == part["instructions"]
    (written,) = host[1]["writes"]
    assert (written["rows"], written["columns"], written["format"]) == (4 * 4, 32, "binary16")
    assert json.loads((tmp_path / "summary.json").read_text(encoding="utf-8"))["cycles"] == found["cycles"]


@pytest.mark.parametrize(
    ("bounds", "message"),
    [
        (Bounds(beats=4000), r"the step takes \d+ beats of 64 bytes and more; the limit is 4000; choose a smaller"),
        (Bounds(instructions=30), r"the step takes \d+ instructions and more; the limit is 30; choose a smaller"),
    ],
    ids=["beats", "instructions"],
)
def test_a_step_too_large_is_refused_before_its_memory_is_made(
    bounds: Bounds, message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr("nmsat.reports.work.step_program.BOUNDS", bounds)
    monkeypatch.setattr("nmsat.dataflow.program.step.Image", None)
    assert nmsat.main(["program", "--network", "digits-sat", "--config", "small", "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert re.search(message, error)
    assert error.strip().count("\n") == 0
    assert not (tmp_path / "out").exists()


@pytest.mark.rtl
def test_program_of_a_step_on_the_rtl(capsys: pytest.CaptureFixture[str]) -> None:
    found = answer(capsys, "program", "--network", "digits-cnn", "--batch", "2", "--config", "tiny", "--rtl")
    assert found["match"]
    assert found["rtl_equal"]
    assert found["cycles_rtl"] == found["cycles"]


def test_training_on_the_simulator_continues(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    words = ["train", "--network", "digits-sat", "--backend", "sim", "--config", "small", "--steps", "1", "--out"]
    first = answer(capsys, *words, str(tmp_path))
    second = answer(capsys, *words, str(tmp_path))
    plain = answer(capsys, "train", "--network", "digits-sat", "--steps", "2")
    assert (first["step"], second["step"]) == (1, 2)
    assert second["weights_sha256"] == plain["weights_sha256"]
    assert second["losses_sha256"] == plain["losses_sha256"]
    assert second["cycles_per_step"] == first["cycles_per_step"] > 0
