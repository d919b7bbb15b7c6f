"""tb.run.runner: builds, the cache, jobs and results, failures that say what failed."""

from __future__ import annotations

import multiprocessing
import shutil
from pathlib import Path

import numpy as np
import pytest
from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from nmsat.hw.parts.verilog import emit
from nmsat.tb.run import jobs, runner
from nmsat.tb.run.runner import BuildError, Built, MissingToolError, SimulationError, build, run

pytestmark = pytest.mark.rtl

BENCH = "nmsat.tb.run.bench_runner"


class Accumulator(wiring.Component):
    """`total` grows by twice `value` in each cycle with `enable`."""

    enable: Signal
    value: Signal
    total: Signal

    def __init__(self) -> None:
        super().__init__({"enable": In(1), "value": In(16), "total": Out(32)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        doubled = Signal(17)
        m.d.comb += doubled.eq(self.value << 1)
        with m.If(self.enable):
            m.d.sync += self.total.eq(self.total + doubled)
        return m


@pytest.fixture(scope="module")
def sources() -> dict[str, str]:
    return emit(Accumulator(), "accumulator")


@pytest.fixture(scope="module")
def built(sources: dict[str, str]) -> Built:
    return build(sources, "accumulator")


def test_job_reaches_the_bench_and_its_answer_comes_back(built: Built) -> None:
    values = np.arange(1, 50, dtype=np.int64)
    results = run(built, BENCH, ["accumulate"], job={"values": values, "scale": 0.5}, seed=99).check()
    assert results.saved["totals"] == (2 * np.cumsum(values)).tolist()
    assert results.saved["scale"] == 0.5
    np.testing.assert_array_equal(results.saved["values"], values)
    (outcome,) = results.outcomes
    assert (outcome.name, outcome.passed, outcome.failure) == ("accumulate", True, "")
    assert outcome.sim_ns == pytest.approx(10 * len(values) + 1, abs=10)
    assert not results.log.exists()


def test_seed_makes_a_run_repeatable(built: Built) -> None:
    seeds = [run(built, BENCH, ["hidden"], seed=seed).check().saved["seed"] for seed in (7, 7, 8)]
    assert seeds[0] == seeds[1] != seeds[2]


def test_failed_test_is_reported_with_its_text_seed_and_log(built: Built, tmp_path: Path) -> None:
    results = run(built, BENCH, ["wrong"], seed=5, directory=tmp_path / "run")
    assert not results.passed
    assert "total is 0, expected 77" in results.outcomes[0].failure
    assert "wrong" in results.log.read_text()
    with pytest.raises(SimulationError, match=r"1 of 1 tests failed \(seed 5, log .*\)\nwrong: (?s:.*)expected 77"):
        results.check()


def test_no_test_selected_is_not_a_pass(built: Built, tmp_path: Path) -> None:
    with pytest.raises(SimulationError):
        run(built, BENCH, ["no_such_test"], directory=tmp_path).check()


def test_missing_bench_is_an_error_with_the_log(built: Built, tmp_path: Path) -> None:
    with pytest.raises(SimulationError, match="no_such_bench"):
        run(built, "tb.no_such_bench", directory=tmp_path)


def test_endless_simulation_is_stopped(built: Built, tmp_path: Path) -> None:
    with pytest.raises(SimulationError, match=r"exceeded 5\.0 s"):
        run(built, BENCH, ["endless"], timeout_s=5.0, directory=tmp_path)


def test_simulator_prints_nothing(built: Built, capfd: pytest.CaptureFixture[str]) -> None:
    run(built, BENCH, ["hidden"]).check()
    assert capfd.readouterr() == ("", "")


def test_only_the_ports_are_visible_unless_probed(built: Built, sources: dict[str, str]) -> None:
    assert run(built, BENCH, ["hidden"]).saved["visible"] is False
    probed = build(sources, "accumulator", probes=[("accumulator", "doubled")])
    assert probed.directory != built.directory
    assert run(probed, BENCH, ["hidden"]).saved["visible"] is True


WAVED = """
module leaf(input clk, input rst, input enable, input [15:0] value, output reg [31:0] total);
  always @(posedge clk) if (rst) total <= 0; else if (enable) total <= total + {15'd0, value, 1'b0};
endmodule
module accumulator(input clk, input rst, input enable, input [15:0] value, output [31:0] total);
  wire [31:0] other;
  leaf one(.clk(clk), .rst(rst), .enable(enable), .value(value), .total(total));
  leaf two(.clk(clk), .rst(rst), .enable(enable), .value(16'd0), .total(other));
  wire unused = &{1'b0, other};
endmodule
"""


@pytest.mark.long
@pytest.mark.parametrize("blocks", [(), ("leaf",)])
def test_waves_are_recorded_and_said(
    blocks: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WAVES", "1")
    built = build({"accumulator.v": WAVED}, "accumulator", blocks=blocks)
    run(built, BENCH, ["hidden"]).check()
    out, err = capfd.readouterr()
    label, _, path = err.rstrip("\n").rpartition(": ")
    assert (out, label) == ("", f"nmsat: waves of {BENCH}")
    assert Path(path).name == f"dump.{built.waves}"
    assert Path(path).stat().st_size > 0
    if built.waves == "vcd":
        assert " two " in Path(path).read_text() or " leaf " in Path(path).read_text()


def test_waves_asks_for_a_model_with_waves(
    sources: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Built] = []
    monkeypatch.setenv("NMSAT_BUILD_DIR", str(tmp_path))
    monkeypatch.setattr(runner, "_compile", lambda built, *_: asked.append(built))
    for value, waves in ((None, False), ("", False), ("0", False), ("1", True), ("yes", True)):
        if value is None:
            monkeypatch.delenv("WAVES", raising=False)
        else:
            monkeypatch.setenv("WAVES", value)
        assert (build(sources, "accumulator").waves is not None) is waves
    assert len({built.directory for built in asked}) == 2  # with waves it is a build of its own


@pytest.mark.parametrize("waves", [None, "vcd", "fst"])
def test_a_run_says_where_its_waves_lie_and_keeps_them(
    waves: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def simulate(*given: object) -> None:
        (Path(str(given[-1])) / "results.xml").write_text(
            '<r><testcase name="t" time="1"><properties><property name="sim_time_duration" value="1"/></properties>'
            "</testcase></r>"
        )

    monkeypatch.setenv("NMSAT_BUILD_DIR", str(tmp_path))
    monkeypatch.setattr(runner, "_simulate", simulate)
    run(Built("top", tmp_path, waves), BENCH).check()
    out, err = capfd.readouterr()
    kept = list((tmp_path / "runs").iterdir())
    assert out == ""
    if waves is None:
        assert (err, kept) == ("", [])
    else:
        (place,) = kept
        assert err == f"nmsat: waves of {BENCH}: {place / f'dump.{waves}'}\n"


def test_equal_designs_share_a_build_and_others_do_not(built: Built, sources: dict[str, str]) -> None:
    before = (built.directory / "accumulator").stat()
    assert build(dict(sources), "accumulator") == built
    assert (built.directory / "accumulator").stat().st_mtime_ns == before.st_mtime_ns
    changed = {"accumulator.v": sources["accumulator.v"].replace("endmodule", "// changed\nendmodule")}
    assert build(changed, "accumulator").directory != built.directory


def _build_into(folder: str, sources: dict[str, str]) -> tuple[str, int]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NMSAT_BUILD_DIR", folder)
        built = build(sources, "accumulator")
    return str(built.directory), (built.directory / "accumulator").stat().st_mtime_ns


def test_two_processes_build_a_model_once(built: Built, sources: dict[str, str], tmp_path: Path) -> None:
    # Verilator's own library takes most of the time of a build and is not what this test is about.
    for library in built.directory.parent.glob("library-*"):
        shutil.copytree(library, tmp_path / "verilated" / library.name)
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        first, second = pool.starmap(_build_into, [(str(tmp_path), sources)] * 2)
    assert first == second
    models = [path for path in (tmp_path / "verilated").iterdir() if path.is_dir()]
    assert sorted(path.name for path in models if not path.name.startswith("library")) == [Path(first[0]).name]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("module accumulator(clk);\n  input clk;\n  assign nowhere = ;\nendmodule\n", "syntax error"),
        ("module accumulator(a, y);\n  input [7:0] a;\n  output [3:0] y;\n  assign y = a;\nendmodule\n", "WIDTHTRUNC"),
    ],
)
def test_errors_and_warnings_of_verilator_stop_the_build(text: str, message: str) -> None:
    with pytest.raises(BuildError, match=rf"building 'accumulator' failed \(verilator\):(?s:.*){message}"):
        build({"accumulator.v": text}, "accumulator")


def test_unknown_top_is_an_error(sources: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="top is 'other'; no source defines such a module"):
        build(sources, "other")


def test_missing_compiler_is_an_error_that_says_what_to_install(
    sources: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(MissingToolError, match=r"no C\+\+ compiler found \(looked for no-such-compiler in PATH\)"):
        build(sources, "accumulator")
    monkeypatch.delenv("CXX")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(MissingToolError, match=r"looked for g\+\+, c\+\+, clang\+\+ in PATH\); install g\+\+"):
        build(sources, "accumulator")


def test_missing_python_library_is_an_error_that_says_what_to_install(
    sources: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LIBPYTHON_LOC", raising=False)
    monkeypatch.setattr("find_libpython.find_libpython", lambda: None)
    with pytest.raises(MissingToolError, match=r"shared library of Python not found.*Debian: libpython3\.\d+\)"):
        build(sources, "accumulator")


def test_job_file_keeps_values_and_refuses_what_it_cannot_hold(tmp_path: Path) -> None:
    path = tmp_path / "job.npz"
    values = {"x": np.array([1.5, np.nan], np.float16), "n": np.int64(3), "name": "tiny", "list": [1, None, {"a": 2.5}]}
    jobs.write(path, values)
    back = jobs.read(path)
    np.testing.assert_array_equal(back.pop("x"), values.pop("x"))
    assert back == values
    refused: list[tuple[object, type[Exception]]] = [({1, 2}, TypeError), (np.array([object()]), TypeError)]
    for value, kind in refused:
        with pytest.raises(kind):
            jobs.write(path, {"value": value})
    np.testing.assert_array_equal(jobs.read(path)["x"], np.array([1.5, np.nan], np.float16))
    with pytest.raises(ValueError, match="name of an array"):
        jobs.write(path, {"json": np.zeros(1)})


def test_results_outside_a_simulation_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(jobs.RESULT_VARIABLE, raising=False)
    monkeypatch.delenv(jobs.JOB_VARIABLE, raising=False)
    assert jobs.load_job() == {}
    with pytest.raises(RuntimeError, match="works inside a test started by"):
        jobs.save_result(a=1)


def test_only_objects_that_fit_every_model_are_kept(tmp_path: Path) -> None:
    objects = tmp_path / "obj"
    objects.mkdir()
    for name in ("verilator.o", "verilated.o", "verilated_vpi.o", "Vtop__ALL.o", "Vtop___024root__0.o"):
        (objects / name).touch()
    for _ in range(2):
        runner._keep_library(objects, tmp_path / "library")
    assert {path.name for path in (tmp_path / "library").iterdir()} == {"verilated.o", "verilated_vpi.o"}
