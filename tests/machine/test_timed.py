"""What a step takes on the machine: the quick gear's sums are the exact gear's, and nothing is timed twice."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import pytest

from nmsat.algorithms.core.tape import ConvShape, Pattern
from nmsat.dataflow.contract.config import preset
from nmsat.dataflow.contract.isa import ErrorCode
from nmsat.dataflow.contract.registers import Launch, open_regions
from nmsat.dataflow.network.layers import ConvLayer, LinearLayer, MatMulLayer
from nmsat.dataflow.network.step import Step, training_products
from nmsat.dataflow.program.jobs import JobRun, UpdateJob, UpdateRun, step_jobs
from nmsat.dataflow.program.tensors import DENSE
from nmsat.reports.work import timings
from nmsat.reports.work.program import gradient_program, matrix_program, run_on_simulator
from nmsat.sim.api import gemm
from nmsat.sim.quick.gear import Quick
from nmsat.sim.sat import Sat
from nmsat.sim.work import rhythm, timed
from nmsat.sim.work.machine import machine_step
from nmsat.sim.work.timed import Timer, time_run

if TYPE_CHECKING:
    from pathlib import Path

SMALL = preset("small")
LAYERS = [
    ConvLayer(name="stem", shape=ConvShape(2, 8, 8, 3, 16, (3, 3), (1, 1), (1, 1)), input_gradient=False),
    ConvLayer(name="down", shape=ConvShape(2, 8, 8, 16, 32, (3, 3), (2, 2), (1, 1))),
    ConvLayer(name="side", shape=ConvShape(2, 4, 4, 32, 32, (1, 1), (2, 2))),
    MatMulLayer(name="scores", m=4, k=32, n=4, count=3),
    LinearLayer(name="fc", rows=8, features_in=32, features_out=10, bias=True),
]


@pytest.fixture(scope="module")
def step() -> Step:
    return training_products(LAYERS, "bdwp", Pattern(2, 8))


def test_a_step_is_the_sum_of_what_the_exact_gear_runs(step: Step) -> None:
    result = machine_step(step, Timer(SMALL))
    exact: Counter[str] = Counter()
    for job in step_jobs(step):
        for run in job.runs(SMALL):
            words = [instruction.encode() for instruction in run.assemble(SMALL).instructions]
            counters = Sat(SMALL).time(Launch(open_regions(1), 0, 0, len(words)), words).counters
            exact.update({name: run.times * count for name, count in counters.items()})
    assert result.counters == dict(exact)
    assert sum(row.cycles for row in result.rows) == sum(result.causes.values()) == result.cycles == exact["cycles"]
    assert all(min(row.causes.values()) >= 0 and sum(row.causes.values()) == row.cycles for row in result.rows)
    assert all(sum(result.by(key).values()) == result.cycles for key in ("stage", "layer", "name", "cause"))
    assert result.macs == step.macs_kept
    assert list(result.by("stage")) == ["ff", "bp", "wu", "update"]
    assert [row.start for row in result.rows][1:] == [row.start + row.cycles for row in result.rows][:-1]


@pytest.mark.parametrize(("pattern", "stage"), [("2:8", "ff"), (None, "ff"), (None, "wu")])
def test_a_product_takes_what_nmsat_program_says(pattern: str | None, stage: str) -> None:
    m, k, n = 48, 64, 40
    product = gemm(m, k, n, pattern, stage=stage)
    single = Step("products", (product,), (), (), (), product.macs_full, frozen=(product.name,))
    (job,) = step_jobs(single)
    if stage == "wu":
        program = gradient_program(SMALL, (m, k, n), None, 0)
    else:
        program = matrix_program(SMALL, (m, k, n), product.pattern, None, 0)
    assert Timer(SMALL).time(job).counters == run_on_simulator(SMALL, program).counters


def test_many_small_tiles_raise_no_semaphore_beyond_its_end() -> None:
    """The buffer would hold 512 tiles, and the array be 388 of them ahead of the load that waits for it."""
    config = preset("tiny").replace(act_depth=8192)
    product = gemm(16 * 900, 2, 4)
    (job,) = step_jobs(Step("products", (product,), (), (), (), product.macs_full, frozen=(product.name,)))
    (run,) = job.runs(config)
    assert isinstance(run, JobRun)
    assert len(run.cuts[0].rows) == 900
    assert run.cuts[0].act_words(run.cuts[0].rows[0], run.cuts[0].parts[0]) == 16
    assert time_run(Quick(config), run).error is ErrorCode.NONE


def test_what_was_timed_is_found_again(step: Step, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NMSAT_BUILD_DIR", str(tmp_path / "caches"))
    jobs = step_jobs(step)[-6:]
    first = timings.timer(SMALL).all(jobs)

    def never(*_: object) -> None:
        raise AssertionError("timed again")

    with monkeypatch.context() as patch:
        patch.setattr(timed, "time_run", never)
        assert timings.timer(SMALL.replace(name="another name")).all(jobs) == first
        for change in (SMALL.replace(act_depth=2048), SMALL.replace(memory=SMALL.memory.__class__(latency_ns=130.0))):
            with pytest.raises(AssertionError, match="timed again"):
                timings.timer(change).time(jobs[0])
        patch.setattr(timings, "version", lambda: "another")
        with pytest.raises(AssertionError, match="timed again"):
            timings.timer(SMALL).time(jobs[0])
    kept = next((tmp_path / "caches" / "timed").iterdir())
    kept.write_text("{ damaged", encoding="utf-8")
    assert timings.timer(SMALL).all(jobs) == first


def test_a_cache_that_cannot_be_written_is_no_obstacle(
    step: Step, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("NMSAT_BUILD_DIR", str(tmp_path / "file" / "caches"))
    assert timings.timer(SMALL).time(step_jobs(step)[-1]).cycles > 0


@pytest.mark.parametrize(
    ("config", "pattern", "k", "n"),
    [
        ("vcu1525", Pattern(2, 8), 1152, 128),
        ("tiny", Pattern(2, 8), 8100, 8),
        pytest.param("vcu1525", Pattern(2, 8), 34_880, 8, marks=pytest.mark.long),
        pytest.param("small", Pattern(2, 4), 10_305, 40, marks=pytest.mark.long),
        pytest.param("vcu1525", Pattern(2, 16), 1536, 192, marks=pytest.mark.long),
        pytest.param("vcu1525", Pattern(2, 4), 512, 832, marks=pytest.mark.long),
        pytest.param("small", Pattern(2, 4), 1152, 192, marks=pytest.mark.long),
        pytest.param("small", DENSE, 768, 256, marks=pytest.mark.long),
    ],
)
def test_a_long_update_is_a_line_of_shorter_ones(
    config: str, pattern: Pattern, k: int, n: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    gear = Quick(preset(config))
    walked: list[tuple[int, int]] = []

    def walk(job: UpdateJob) -> dict[str, int]:
        walked.append((job.k, job.n))
        return time_run(gear, UpdateRun(1, job)).counters

    job = UpdateJob("w", k, n, 1, pattern, pattern, backward=True, decays=True, elements=k * n)
    monkeypatch.setattr(rhythm, "WALKED", 0)
    found = rhythm.update_counters(job, walk)
    assert (k, n) not in walked
    assert found == walk(job)
