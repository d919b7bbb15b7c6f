"""The quick gear against the exact one: cycles, every counter, errors; and that what is known is not walked again."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from nmsat.algorithms.core.tape import Pattern, Stage
from nmsat.dataflow.contract.config import preset
from nmsat.dataflow.contract.isa import ErrorCode, Instruction, Opcode
from nmsat.dataflow.contract.registers import Launch
from nmsat.dataflow.program.assembler import Assembler
from nmsat.dataflow.program.emit import assemble, choose
from nmsat.dataflow.program.product import cuts
from nmsat.dataflow.program.stream import stream
from nmsat.sim.control.fetch import Words
from nmsat.sim.quick.gear import Quick
from nmsat.sim.quick.product import time_product
from nmsat.sim.sat import Sat, launch, program_words
from nmsat.tb.machine.fuzz import fuzzed_job
from nmsat.tb.machine.jobs import random_job
from nmsat.tb.machine.layers import OPEN, LayerProduct

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from nmsat.dataflow.contract.config import SatConfig
    from nmsat.sim.sat import Report
    from nmsat.tb.machine.jobs import MachineJob

TINY, SMALL, LARGE = preset("tiny"), preset("small"), preset("vcu1525")
TWO_LANES = TINY.replace(name="two-lanes", columns=8, act_lanes=2, row_slices=(2,), column_slices=(4,))
"""What `vcu1525` has and the small presets have not: two activations per cycle, register slices."""


def ends(report: Report) -> tuple[object, ...]:
    return report.counters, report.error, report.error_index


def check_jobs(gear: Quick, jobs: Iterable[MachineJob]) -> tuple[int, set[ErrorCode]]:
    """Run programs in both gears, in the quick one twice; return how many the quick gear took, and all errors."""
    taken, errors = 0, set[ErrorCode]()
    for job in jobs:
        settings = launch(job.image.regions, job.place)
        words = program_words(job.image.regions, settings)
        exact = Sat(gear.sat.config).time(settings, words)
        first, second = gear.time(settings, words), gear.time(settings, words)
        assert ends(first.report) == ends(second.report) == ends(exact), f"seed {job.seed}: {job.what}"
        if first.exact:
            continue
        taken += 1
        if exact.error is ErrorCode.NONE:
            assert second.walked == 0, f"seed {job.seed} is walked again"
        errors.add(exact.error)
    return taken, errors


def check_product(gear: Quick, product: LayerProduct, dataflow: str | None = None) -> float:
    """Run a product in both gears, in the quick one assembled and told by forms; return cycles / cycles walked."""
    settings, instructions = product.program(gear.sat.config, dataflow)
    exact = gear.sat.time(settings, [instruction.encode() for instruction in instructions])
    quick = gear.time_code(settings, instructions)
    assert not quick.exact
    assert ends(quick.report) == ends(exact)
    told = stream(gear.sat.config, choose(gear.sat.config, product.code(dataflow)))
    assert told is not None
    again = gear.time_stream(told)
    assert again is not None
    assert ends(again.report) == ends(exact)
    return exact.cycles / quick.walked


@pytest.mark.parametrize(
    ("config", "make", "seeds"),
    [
        (TINY, random_job, range(6)),
        (SMALL, random_job, range(100, 103)),
        (TWO_LANES, random_job, range(200, 205)),
        (TWO_LANES, fuzzed_job, range(300, 310)),
    ],
    ids=["tiny", "small", "two-lanes", "damaged"],
)
def test_random_programs_take_what_they_take_in_the_exact_gear(
    config: SatConfig, make: Callable[[SatConfig, int], MachineJob], seeds: range
) -> None:
    taken, _ = check_jobs(Quick(config, step=8), (make(config, seed) for seed in seeds))
    assert taken == len(seeds) or (make is fuzzed_job and taken >= len(seeds) // 4)


@pytest.mark.long
@pytest.mark.parametrize("step", [5, 64])
@pytest.mark.parametrize("config", [TINY, SMALL, TWO_LANES], ids=lambda config: config.name)
def test_two_thousand_programs(config: SatConfig, step: int) -> None:
    gear = Quick(config, step=step)
    taken, _ = check_jobs(gear, (random_job(config, seed) for seed in range(1000 * step, 1000 * step + 250)))
    assert taken == 250
    taken, errors = check_jobs(gear, (fuzzed_job(config, seed) for seed in range(1000 * step, 1000 * step + 100)))
    assert taken >= 25
    assert ErrorCode.DEADLOCK in errors


@pytest.mark.parametrize(("stage", "kernel", "batch"), [(Stage.FF, 3, 64), (Stage.BP, 3, 64), (Stage.WU, 1, 320)])
def test_what_repeats_is_walked_once(stage: Stage, kernel: int, batch: int) -> None:
    """Tiles in FF and BP; in WU the beats of long loads."""
    product = LayerProduct(stage, 4, (16, 16), kernel, batch=batch, pattern=Pattern(2, 8))
    assert check_product(Quick(SMALL, step=16), product) > 1.5


def test_a_product_is_timed_by_its_program_and_cut() -> None:
    product = LayerProduct(Stage.FF, 4, (16, 16), 3, batch=3, pattern=Pattern(2, 8))
    gear = Quick(SMALL)
    for cut in (None, *cuts(SMALL, product.code())):
        out = Assembler(SMALL)
        assemble(out, product.code(), cut)
        words = [instruction.encode() for instruction in out.finish().instructions]
        exact = Sat(SMALL).time(Launch((OPEN,) * 4, 0, 0, len(words)), words)
        assert ends(time_product(gear, product.code(), cut)) == ends(exact)


@pytest.mark.long
@pytest.mark.parametrize("dataflow", ["os", "ws"])
@pytest.mark.parametrize("pattern", [None, Pattern(2, 4), Pattern(2, 8), Pattern(2, 16)], ids=str)
@pytest.mark.parametrize(
    ("stage", "pixels", "channels", "kernel", "stride", "batch"),
    [
        (Stage.FF, 56, (64, 64), 1, 1, 16),
        (Stage.BP, 56, (64, 64), 3, 1, 4),
        (Stage.FF, 28, (128, 128), 3, 1, 8),
        (Stage.BP, 28, (256, 256), 3, 2, 8),
        (Stage.WU, 28, (64, 64), 1, 1, 32),
        (Stage.WU, 14, (128, 64), 3, 1, 32),
    ],
)
def test_products_of_the_networks(
    stage: Stage, pixels: int, channels: tuple[int, int], kernel: int, stride: int, batch: int,
    pattern: Pattern | None, dataflow: str,
) -> None:  # fmt: skip
    product = LayerProduct(stage, pixels, channels, kernel, stride, batch, pattern)
    if dataflow == "ws" and (stage is Stage.WU or not product.plain):
        with pytest.raises(ValueError, match="output stationary"):
            product.program(LARGE, dataflow)
        return
    assert check_product(Quick(LARGE), product, dataflow) >= 1


def test_a_state_is_complete() -> None:
    """A machine that takes the state of another in mid-run ends as that one does."""
    for config, seed in ((TINY, 3), (TWO_LANES, 7), (SMALL, 12), (TINY, 7)):
        job = random_job(config, seed)
        settings = launch(job.image.regions, job.place)
        gear = Quick(config)
        words = program_words(job.image.regions, settings)
        instructions = [Instruction.decode(word) for word in words]
        symbols = gear.symbols.program(instructions, settings)
        assert symbols is not None
        program = [(ErrorCode.NONE, symbol) for symbol in symbols]
        settings = Launch((OPEN,) * 4, 0, settings.program_at, settings.program_count)
        run, count = gear.new(settings, program), 0
        while not run.over:
            run.cycle()
            count += 1
            if count % 61 == 0 and not run.ending:
                key, counts, loaded = run.key(), run.counts(), run.sequencer.fetch.loaded
                run = gear.new(settings, program)
                run.restore(key, loaded)
                run.count(counts)
        exact = Sat(config).time(launch(job.image.regions, job.place), words)
        assert ends(run.report()) == ends(exact)
        assert count > 61


def test_what_may_meet_an_error_of_memory_is_for_the_exact_gear() -> None:
    job = random_job(TINY, 25)
    settings = launch(job.image.regions, job.place)
    words = program_words(job.image.regions, settings)
    at = next(i for i, word in enumerate(words) if word & 15 == Opcode.STORE)
    store = Instruction.decode(words[at])
    words[at] = Instruction(store.opcode, {**store.fields, "at": 1 << 20}).encode()
    gear = Quick(TINY)
    found = gear.time(settings, words)
    assert found.exact
    assert found.report.error is ErrorCode.REGION
    assert ends(found.report) == ends(Sat(TINY).time(settings, words))


@pytest.mark.parametrize(("watchdog", "error"), [(4, ErrorCode.TIMEOUT), (10_000, ErrorCode.NONE)])
def test_a_run_with_a_watchdog_is_for_the_exact_gear(watchdog: int, error: ErrorCode) -> None:
    job = random_job(TINY, 25)
    settings = replace(launch(job.image.regions, job.place), watchdog=watchdog)
    words = program_words(job.image.regions, settings)
    found = Quick(TINY).time(settings, words)
    assert found.exact
    assert found.report.error is error
    assert ends(found.report) == ends(Sat(TINY).time(settings, words))


def test_a_gear_that_forgets_is_as_exact() -> None:
    product = LayerProduct(Stage.FF, 4, (16, 16), 1, batch=24, pattern=Pattern(2, 8))
    gear = Quick(SMALL, step=16, kept=3)
    check_product(gear, product)
    assert gear.states <= 3


def test_what_is_not_legal_or_not_there_is_for_the_exact_gear() -> None:
    job = random_job(TINY, 0)
    settings = launch(job.image.regions, job.place)
    words = program_words(job.image.regions, settings)
    for changed, code in (([*words[:1], 0, *words[2:]], ErrorCode.OPCODE), (words[:-1], ErrorCode.NO_END)):
        short = Launch(settings.regions, settings.program_region, settings.program_at, len(changed))
        found = Quick(TINY).time(short, changed)
        assert found.report.error is code
        assert ends(found.report) == ends(Sat(TINY).time(short, changed))


def test_a_run_without_end_is_given_up() -> None:
    job = random_job(TINY, 1)
    settings = launch(job.image.regions, job.place)
    with pytest.raises(RuntimeError, match="not ended after 100 cycles"):
        Quick(TINY).time(settings, program_words(job.image.regions, settings), limit=100)


def test_words_are_checked_once() -> None:
    end = Instruction(Opcode.END, {}).encode()
    words = Words(TINY, [end, 0, end])
    assert [code for code, _ in words] == [ErrorCode.NONE, ErrorCode.OPCODE, ErrorCode.NONE]
    assert words[0] is words[2]
