"""`nmsat compare`: cycles of others by their formula, components that add up, and what is missing or broken.

The others are recorded runs here (`tests/data/peers`); `tests/cli/test_compare_peers.py` runs them.
"""

from __future__ import annotations

import csv
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from nmsat.algorithms.core.tape import ConvShape, Pattern, Stage
from nmsat.algorithms.training.workers import workers
from nmsat.dataflow.contract.config import preset
from nmsat.dataflow.network.layers import ConvLayer, LinearLayer
from nmsat.dataflow.network.step import training_products
from nmsat.dataflow.program.jobs import ALL_ON
from nmsat.reports.work import compare, compare_gears, peer_env, peer_scalesim, peer_zigzag
from nmsat.reports.work.compare_layers import Gemm, layers_of
from nmsat.reports.work.compare_names import COMPONENTS, LIMITS, MODELS, PACKAGES, STAGES
from nmsat.reports.work.peer_env import Peers
from nmsat.reports.work.peer_scalesim import OVERALL, STALL, TOTAL, Array, ReportError
from nmsat.reports.work.text import InputError
from nmsat.sim.sat import Sat, launch, program_words

if TYPE_CHECKING:
    from collections.abc import Callable

    from nmsat.dataflow.network.layers import Layer
    from tests.conftest import Outcome

    Call = Callable[[str], Outcome]

DATA = Path(__file__).parents[1] / "data" / "peers"
TINY = preset("tiny")
MEASURE = compare_gears.measure
LAYERS: list[Layer] = [
    ConvLayer(name="conv", shape=ConvShape(1, 6, 6, 8, 12, (3, 3), (2, 2), (1, 1))),
    LinearLayer(name="fc", rows=8, features_in=16, features_out=4),
    LinearLayer(name="again", rows=8, features_in=16, features_out=4),
]


def recorded(name: str) -> dict[str, Any]:
    return json.loads((DATA / f"{name}.json").read_text(encoding="utf-8"))


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Gears run here, and no environment is there unless a test puts one."""
    gears = {"quick": compare_gears.quick, "exact": compare_gears.exact}
    monkeypatch.setattr(compare_gears, "measure", lambda model, config, job: gears[model](config, job))
    monkeypatch.setenv("NMSAT_BUILD_DIR", str(tmp_path / "caches"))


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "one.csv"
    path.write_text("Layer, M, N, K,\none,8,4,16,\n", encoding="utf-8")
    return path


def stand_in(path: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Let a shell script stand for the Python of the environment."""
    python = path / "python"
    python.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    python.chmod(0o755)
    monkeypatch.setattr(peer_env, "find_peers", lambda: Peers(python))


@pytest.fixture
def others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let both simulators answer what was recorded of a product of 8 x 16 x 4 on 4 x 4 elements."""
    files = (DATA / "zigzag_dense_os.json", DATA / "scalesim_dense_os.json")
    stand_in(tmp_path, monkeypatch, f"if grep -q zigzag; then cat {files[0]}; else cat {files[1]}; fi")


# ------------------------------------------------------------------------------------------------ SCALE-Sim, by hand


@pytest.mark.parametrize(
    ("name", "flow", "gemm", "by_hand"),
    [
        # 8 x 4 results in 2 folds of 4 x 4; each streams K = 16: 2 (16 + 4 + 4 - 2).
        ("dense_os", "os", Gemm(8, 16, 4), 2 * 22),
        # 20 x 5 weights in 5 x 2 folds; each streams M = 9 behind 4 cycles of weights: the 2R + C + T - 2 as published.
        ("dense_ws", "ws", Gemm(9, 20, 5), 10 * (2 * 4 + 4 + 9 - 2)),
        # 2 of 8, 2 of 8 and 2 of the last 4 rows are left: K = 6; 9 x 5 results in 3 x 2 folds.
        ("sparse_os", "os", Gemm(9, 20, 5, pattern=Pattern(2, 8)), 6 * (6 + 4 + 4 - 2)),
    ],
)
def test_cycles_of_scalesim_are_those_of_its_formula(name: str, flow: str, gemm: Gemm, by_hand: int) -> None:
    array = Array(4, 4, flow, 32, (8192, 8192, 4096))
    found = peer_scalesim.read_reports(recorded(f"scalesim_{name}")["reports"])
    assert peer_scalesim.formula(array, gemm) == by_hand == found[TOTAL] - found[STALL] + 1
    peer_scalesim.check(array, gemm, found)
    parts = peer_scalesim.components(array, gemm, found)
    assert list(parts) == list(COMPONENTS)
    assert sum(parts.values()) == found[OVERALL]
    assert parts["multiply"] == gemm.m * gemm.kept * gemm.n // 16
    with pytest.raises(ReportError, match="folds of the array take"):
        peer_scalesim.check(replace(array, rows=8), gemm, found)


def test_what_scalesim_is_given_is_the_machine_and_the_product() -> None:
    conv = ConvShape(1, 11, 11, 16, 24, (3, 3), (2, 2), (1, 1))
    array = compare.array_of(preset("vcu1525"), "ws")
    job = peer_scalesim.job(array, Gemm(36, 144, 24, pattern=Pattern(2, 8), conv=conv))
    assert job["topology"].splitlines()[1] == "layer,13,13,3,3,16,24,2,2:8,"  # 6 windows reach 5 x 2 + 3
    lines = {"ArrayHeight = 32", "Dataflow = ws", "Bandwidth = 32", "SparsitySupport = true", "IfmapSramSzkB = 512"}
    assert lines <= set(job["config"].splitlines())
    job = peer_scalesim.job(array, Gemm(8, 16, 4))
    assert (job["gemm"], job["topology"].splitlines()[1]) == (True, "layer,8,4,16,1:1,")
    assert "SparsitySupport = false" in job["config"].splitlines()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda r: r.pop("COMPUTE_REPORT.csv"), "there is no COMPUTE_REPORT.csv"),
        (lambda r: r.update({"COMPUTE_REPORT.csv": ""}), "has 0 lines"),
        (lambda r: r.update({"COMPUTE_REPORT.csv": "a\n1\n"}), "column 'Total Cycles (incl. prefetch)' is None"),
        (lambda r: r.update({"DETAILED_ACCESS_REPORT.csv": "DRAM IFMAP Reads\nnan\n"}), "is 'nan'"),
        (lambda r: r.update({"DETAILED_ACCESS_REPORT.csv": "DRAM IFMAP Reads\ninf\n"}), "is 'inf'"),
    ],
)
def test_an_odd_report_is_one_line(change: Callable[[dict[str, str]], object], words: str) -> None:
    reports = recorded("scalesim_dense_os")["reports"]
    change(reports)
    with pytest.raises(ReportError) as error:
        peer_scalesim.read_reports(reports)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_components_of_zigzag_add_up() -> None:
    found = peer_zigzag.read_found(recorded("zigzag_dense_os"))
    parts = peer_zigzag.components(Array(4, 4, "os", 32, (8192, 8192, 4096)), Gemm(8, 16, 4), found)
    assert sum(parts.values()) == found["latency_total2"] == 38
    assert parts["multiply"] == 8 * 16 * 4 // 16
    for answer in ({}, {"found": []}, {"found": [{}, {}]}):
        with pytest.raises(ReportError, match="one was expected"):
            peer_zigzag.read_found(answer)


# --------------------------------------------------------------------------------------------------------- our gears


@pytest.mark.exact
def test_components_of_the_machine_add_up_and_gears_agree() -> None:
    step = training_products(LAYERS, "bdwp", Pattern(2, 8), first_and_last_dense=False)
    layers = layers_of(step, STAGES, (), ALL_ON)
    found = [(one.name, one.stage, one.times) for one in layers if one.gemms and one.name != "conv"]
    assert found == [("fc", "ff", 2), ("again", "bp", 2), ("again", "wu", 2)]
    asked = compare.Asked(TINY, MODELS, {**LIMITS, "rtl": 0})
    for layer in layers:
        row = compare.compare_layer(asked, layer)
        assert row.unequal == []
        for model in ("quick", "exact"):
            found = row.found(model)
            assert found is not None
            assert sum(found.components.values()) == found.cycles > 0
            assert min(found.components.values()) >= 0
            assert found.peak_bytes > 1 << 20
        assert sum(gemm.m * gemm.kept * gemm.n * gemm.count for gemm in layer.gemms) == layer.macs
        assert {model for model in row.results if row.found(model) is None} == {"rtl", *PACKAGES}


@pytest.mark.exact
def test_what_runs_on_the_verilog_takes_the_cycles_of_the_gears() -> None:
    step = training_products(LAYERS, "bdwp", Pattern(2, 8), first_and_last_dense=False)
    ran = 0
    for layer in layers_of(step, STAGES, (), ALL_ON):
        if compare_gears.one_program(TINY, layer.job) is None:
            with pytest.raises(ValueError, match="is not one program"):
                compare_gears.image_of(TINY, layer.job)
            continue
        image, place = compare_gears.image_of(TINY, layer.job)
        settings = launch(image.regions, place)
        report = Sat(TINY).time(settings, program_words(image.regions, settings))
        assert report.counters == compare_gears.exact(TINY, layer.job).counters
        ran += 1
    assert ran >= 4


def test_a_convolution_is_one_where_the_others_can_have_it() -> None:
    shape = ConvShape(1, 6, 6, 8, 12, (3, 3), (2, 2), (1, 1))
    asked = {
        "plain": shape,
        "batch": replace(shape, batch=2),
        "strides": replace(shape, stride=(1, 2)),
        "dilated": replace(shape, dilation=(2, 2)),
    }
    layers: list[Layer] = [ConvLayer(name=name, shape=conv) for name, conv in asked.items()]
    found = layers_of(training_products(layers, "dense"), [Stage.FF], (), ALL_ON)
    assert [layer.name for layer in found if layer.gemms[0].conv is not None] == ["plain"]


# ------------------------------------------------------------------------------------------------------- the command


@pytest.mark.exact
@pytest.mark.usefixtures("others")
def test_all_models_stand_beside_each_other(call: Call, table: Path, tmp_path: Path) -> None:
    file = tmp_path / "out.csv"
    line = f"compare {table} --config tiny --dataflow os --limit rtl=0 --csv {file}"
    values = json.loads(call(f"{line} --json").out)
    (layer,) = values["layers"]
    results = layer["results"]
    assert list(results) == list(MODELS)
    assert results["rtl"]["left_out"].startswith("not asked for (--limit rtl=N)")
    assert (results["scalesim"]["cycles"], results["zigzag"]["cycles"]) == (47, 38)
    assert (results["scalesim"]["bytes_read"], results["scalesim"]["bytes_written"]) == (2 * (128 + 64), 2 * 32)
    for model in PACKAGES:
        assert sum(results[model]["difference"].values()) == results[model]["cycles"] - results["quick"]["cycles"]
    rows = list(csv.DictReader(file.read_text(encoding="utf-8").splitlines()))
    assert [row["model"] for row in rows] == list(MODELS)
    assert all(int(row["cycles"]) == sum(int(row[name]) for name in COMPONENTS) for row in rows if row["cycles"])
    outcome = call(line)
    assert outcome.code == 0
    for words in ("SCALE-Sim: ", "ZigZag: ", "drain: it fills and drains", "equal in every counter", "a cycle"):
        assert words in outcome.out


@pytest.mark.exact
def test_a_layer_beyond_a_limit_is_not_run(call: Call, table: Path) -> None:
    outcome = call(f"compare {table} --config tiny --models quick,exact --limit exact=9")
    assert outcome.code == 0
    assert "not run: exact, one ff: longer than the limit, 9 cycles (--limit exact=N)" in outcome.out


@pytest.mark.exact
def test_a_dataflow_that_a_layer_has_no_program_for_is_told(call: Call, tmp_path: Path) -> None:
    path = tmp_path / "two.csv"
    path.write_text("Layer, M, N, K,\nlong,24,16,40,\nshort,8,4,16,\n", encoding="utf-8")
    outcome = call(f"compare {path} --config tiny --dataflow ws --models quick --json")
    assert [layer["dataflow"] for layer in json.loads(outcome.out)["layers"]] == ["os", "ws"]
    assert "not ws, as there is no such program of them: long ff" in outcome.err


@pytest.mark.exact
def test_without_the_others_a_line_says_how_to_get_them(call: Call, table: Path) -> None:
    outcome = call(f"compare {table} --config tiny --dataflow os --limit rtl=0")
    assert outcome.code == 0
    assert outcome.out.splitlines()[-1].startswith("SCALE-Sim and ZigZag are not set up: nmsat compare --setup makes")
    assert "quick" in outcome.out


@pytest.mark.exact
@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("echo Traceback >&2; echo \"ModuleNotFoundError: No module named 'scalesim'\" >&2; exit 1", "ModuleNotFound"),
        ("echo '{'", "it failed: exit code 0"),
        ('echo \'{"seconds": 1, "peak_bytes": 1, "reports": {}}\'', "there is no COMPUTE_REPORT.csv"),
    ],
)
def test_a_broken_environment_is_one_line(
    call: Call, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, words: str
) -> None:
    stand_in(tmp_path, monkeypatch, script)
    line = f"compare {table} --config tiny --dataflow os --limit rtl=0"
    outcome = call(line)
    assert outcome.code == 0
    (told,) = (line for line in outcome.out.splitlines() if line.startswith("not run: scalesim"))
    assert words in told
    refused = call(f"{line} --models quick,scalesim")
    assert (refused.code, refused.out, refused.err.count("\n")) == (2, "", 1)
    assert words in refused.err


@pytest.mark.exact
def test_gears_that_differ_fail(call: Call, table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = compare_gears.measure

    def measure(model: str, *given: Any) -> compare_gears.Measured:
        found = honest(model, *given)
        return replace(found, counters={**found.counters, "windows": 1}) if model == "exact" else found

    monkeypatch.setattr(compare_gears, "measure", measure)
    outcome = call(f"compare {table} --config tiny --dataflow os --limit rtl=0")
    assert outcome.code == 1
    assert "NOT EQUAL to the quick gear: exact, one ff" in outcome.out


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("compare", "NAME_OR_FILE is missing"),
        ("compare none.csv", "none.csv"),
        ("compare odd.csv --config tiny", "N is '-'; it must be a whole number"),
        ("compare one.csv --models scalesim", "--models names scalesim, which is not set up"),
        ("compare one.csv --models fast", "'fast'"),
        ("compare one.csv --stages xx", "'xx'"),
        ("compare one.csv --only none --config tiny", "leave nothing to compare; the step has one"),
        ("compare one.csv --limit quick=3", "'quick'"),
        ("compare one.csv --limit rtl=-3", "'-3'"),
        ("compare one.csv --csv mine.csv", "was not written by nmsat"),
        ("compare one.csv --csv /", "it is a folder"),
        ("compare one.csv --set rows=3 --config tiny", "rows is 3"),
    ],
)
def test_refusals_are_one_line(
    call: Call, table: Path, monkeypatch: pytest.MonkeyPatch, line: str, words: str
) -> None:
    monkeypatch.chdir(table.parent)
    Path("odd.csv").write_text("Layer, M, N, K,\none,8,-,16,\n", encoding="utf-8")
    Path("mine.csv").write_text("mine", encoding="utf-8")
    outcome = call(line)
    assert (outcome.code, outcome.out) == (2, "")
    assert words in outcome.err
    assert outcome.err.count("\n") == 1
    assert Path("mine.csv").read_text(encoding="utf-8") == "mine"


# --------------------------------------------------------------------------------------------------- the environment


def test_the_environment_is_made_whole_or_not_at_all(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    works, commands = [True], []

    def run(command: list[Any], failed: str) -> None:
        commands.append([str(word) for word in command])
        if "venv" in commands[-1]:
            python = Path(command[-1]) / "bin" / "python"
            python.parent.mkdir(parents=True)
            python.write_text(f"#!/bin/sh\nexit {0 if works[0] else 1}\n", encoding="utf-8")
            python.chmod(0o755)
        elif not works[0]:
            raise InputError(f"{failed}: no wheel")

    monkeypatch.setattr(peer_env, "_run", run)
    assert peer_env.find_peers() is None
    works[0] = False
    with pytest.raises(InputError, match="pip failed: no wheel"):
        peer_env.make_peers()
    room = tmp_path / "caches" / "peers"
    assert list(room.iterdir()) == []
    works[0] = True
    peers, made = peer_env.make_peers()
    assert (made, peer_env.find_peers()) == (True, peers)
    pip = commands[-1]
    assert {"--require-hashes", "--only-binary", "--no-deps", str(peer_env.LOCK)} <= set(pip)
    assert peer_env.make_peers() == (peers, False)
    peers.python.write_text("#!/bin/sh\nexit 1\n", encoding="utf-8")  # a broken one is made anew
    assert peer_env.make_peers() == (peers, True)
    assert len(list(room.iterdir())) == 1


def test_what_fails_in_the_environment_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    script = "echo 'WARNING: old' >&2; echo 'ERROR: no matching distribution' >&2; echo 'WARNING: again' >&2; exit 1"
    with pytest.raises(InputError) as error:
        peer_env._run(["/bin/sh", "-c", script], "pip failed")
    assert str(error.value) == "pip failed: ERROR: no matching distribution; nmsat compare --setup starts anew"
    monkeypatch.setattr(peer_env, "LOCK", tmp_path / "none")
    with pytest.raises(InputError, match="cannot be read"):
        peer_env.find_peers()


def test_a_process_of_a_gear_is_a_copy_that_knows_the_variables_of_now(monkeypatch: pytest.MonkeyPatch) -> None:
    module = compare_gears.__name__
    seen = set()
    for value in ("one", "other"):
        monkeypatch.setenv("NMSAT_TRIED", value)
        with workers(1, [module]) as pool:
            assert pool.submit(os.getenv, "NMSAT_TRIED").result() == value
            seen.add((pool.submit(os.getppid).result(), pool.submit(os.getpid).result()))
    assert len({parent for parent, _ in seen}) == 1
    assert len({child for _, child in seen}) == 2
    assert os.getpid() not in {pid for pair in seen for pid in pair}


def test_a_gear_in_a_process_of_its_own_finds_the_same() -> None:
    (layer, *_) = layers_of(training_products(LAYERS, "dense"), [Stage.FF], (), ALL_ON)
    found, here = MEASURE("quick", TINY, layer.job), compare_gears.quick(TINY, layer.job)
    assert (found.counters, found.schedule) == (here.counters, here.schedule)
    assert 20 << 20 < found.peak_bytes < 500 << 20


@pytest.mark.parametrize(("network", "built"), [("resnet18", [True]), ("mlp", [])])
def test_engines_are_compiled_where_many_layers_pay_for_it(
    call: Call, monkeypatch: pytest.MonkeyPatch, network: str, built: list[bool]
) -> None:
    asked: list[bool] = []
    monkeypatch.setattr("nmsat.sim.compiled.prepare", lambda: asked.append(True))

    def stop(*_: object) -> None:
        raise ValueError("stop")

    monkeypatch.setattr(compare, "compare_layer", stop)
    assert call(f"compare {network} --models quick --config tiny").code == 2
    assert asked == built
