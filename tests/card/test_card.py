"""The driver of a card on the register model, on PYNQ's interface by a stand-in, and on the RTL."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pytest

import nmsat
from nmsat.dataflow.contract.config import preset
from nmsat.dataflow.contract.isa import ErrorCode
from nmsat.dataflow.contract.registers import REGISTERS, Access, Command, Status, configuration
from nmsat.dataflow.cycles.memory import MemoryTiming, memory_timing
from nmsat.reports.work.card import TIMELESS, RtlCard, open_card, validate
from nmsat.sim.card.driver import Card, CardError
from nmsat.sim.card.model import Model, ModelBuffer
from nmsat.sim.card.pynq import Pynq
from nmsat.sim.sat import Sat, launch
from nmsat.tb.machine.fuzz import fuzzed_job
from nmsat.tb.machine.jobs import random_job
from tests.source import ROOT

if TYPE_CHECKING:
    from pathlib import Path

TINY: Final = preset("tiny")
STUB: Final = ROOT / "tests" / "release" / "xrt_stub"
SLOW: Final = MemoryTiming(**{**vars(memory_timing(TINY)), "latency": 90})


# ------------------------------------------------------------------------------------------------ register model


@pytest.mark.parametrize("seed", range(4))
def test_the_driver_runs_programs_as_the_simulator_does(seed: int) -> None:
    drawn, expected = random_job(TINY, seed), random_job(TINY, seed)
    report = Sat(TINY).run(launch(expected.image.regions, expected.place), expected.image.regions)
    card = Card(TINY, Model(TINY))
    assert card.run(launch(drawn.image.regions, drawn.place), drawn.image.regions) == report
    for mine, theirs in zip(drawn.image.regions, expected.image.regions, strict=True):
        assert np.array_equal(mine, theirs)


def test_the_driver_says_that_memory_never_answered() -> None:
    """A run that was given up is told as such; the next is refused, as the card still waits."""
    job, card = random_job(TINY, 9), Card(TINY, Model(TINY), timeout_s=0.01)
    settings = replace(launch(job.image.regions, job.place), watchdog=1)
    assert card.run(settings, job.image.regions).error is ErrorCode.TIMEOUT
    with pytest.raises(CardError, match="still waits for its memory"):
        card.run(settings, job.image.regions)


def test_the_driver_tells_how_a_damaged_program_ended() -> None:
    card, ends = Card(TINY, Model(TINY)), set()
    for seed in range(6):
        drawn, expected = fuzzed_job(TINY, seed), fuzzed_job(TINY, seed)
        report = Sat(TINY).run(launch(expected.image.regions, expected.place), expected.image.regions)
        assert card.run(launch(drawn.image.regions, drawn.place), drawn.image.regions) == report
        ends.add(report.error.name)
    assert len(ends) > 2


def test_counters_called_timeless_do_not_depend_on_the_memory() -> None:
    for seed in range(3):
        jobs = [random_job(TINY, seed) for _ in range(2)]
        quick, slow = (
            Card(TINY, Model(TINY, timing)).run(launch(job.image.regions, job.place), job.image.regions)
            for job, timing in zip(jobs, (None, SLOW), strict=True)
        )
        assert quick.cycles < slow.cycles
        assert [quick.counters[name] for name in TIMELESS] == [slow.counters[name] for name in TIMELESS]


def test_the_model_has_the_registers_of_the_circuit() -> None:
    """As `tb.machine.bench_sat.registers` asks of the RTL."""
    model = Model(TINY)
    rng = np.random.default_rng(1)
    for name, value in configuration(TINY).items():
        assert model.read(REGISTERS[name].address) == value
    for name, register in REGISTERS.items():
        if register.access is Access.READ:
            with pytest.raises(OSError, match=f"register {name!r}"):
                model.write(register.address, 1)
        elif register.access is Access.SETTING:
            kept = ((1 << register.bits) - 1) << register.low
            value = int(rng.integers(1 << 32)) & kept
            model.write(register.address, value)
            for bit in range(32):
                if not kept >> bit & 1:
                    with pytest.raises(OSError, match=f"register {name!r} is written with .*; bits .* must be 0"):
                        model.write(register.address, value ^ kept | 1 << bit)
            assert model.read(register.address) == value, name
    with pytest.raises(OSError, match="register 'command'"):
        model.write(REGISTERS["command"].address, 4)
    for offset in (0x3C, 0x200, 0xFFC):
        with pytest.raises(OSError, match="there is no register at"):
            model.read(offset)
    assert model.read(REGISTERS["command"].address) == 0
    assert model.read(REGISTERS["status"].address) == Status.IDLE


def test_another_machine_is_refused() -> None:
    with pytest.raises(CardError, match="register 'rows' of the card is 4; configuration 'small' has 8"):
        Card(preset("small"), Model(TINY))


class Busy(Model):
    """A card that still runs what another host has started: it drops all but a reset, as a link without SLVERR shows.

    looks: without a reset that run ends, with `done`, by so many looks at the status; 0: neither time nor reset helps.
    """

    def __init__(self, looks: int) -> None:
        super().__init__(TINY)
        self.looks, self.ended, self.writes = looks, False, list[int]()

    def read(self, offset: int) -> int:
        if offset == REGISTERS["status"].address and not self.ended:
            self.looks -= 1
            if self.looks:
                return 0
            self.ended, self._status = True, Status.IDLE | Status.DONE
        return super().read(offset)

    def write(self, offset: int, value: int) -> None:
        self.writes.append(offset)
        if self.ended:
            super().write(offset, value)
        elif offset == REGISTERS["command"].address and value & Command.RESET and self.looks > 0:
            self.ended = True


def test_a_card_that_still_runs_is_reset_before_anything_is_written(caplog: pytest.LogCaptureFixture) -> None:
    link = Busy(looks=3)
    caplog.set_level("WARNING", "nmsat.sim")
    drawn, expected = random_job(TINY, 2), random_job(TINY, 2)
    report = Sat(TINY).run(launch(expected.image.regions, expected.place), expected.image.regions)
    assert Card(TINY, link).run(launch(drawn.image.regions, drawn.place), drawn.image.regions) == report
    assert link.writes[0] == REGISTERS["command"].address
    assert [record.getMessage() for record in caplog.records] == [
        "the card still runs what another host has started; it is reset"
    ]
    for mine, theirs in zip(drawn.image.regions, expected.image.regions, strict=True):
        assert np.array_equal(mine, theirs)


def test_a_card_that_no_reset_ends_is_refused() -> None:
    link, job = Busy(looks=0), random_job(TINY, 2)
    before = [region.copy() for region in job.image.regions]
    with pytest.raises(CardError, match="still waits for its memory after a reset; load it anew"):
        Card(TINY, link, timeout_s=0.01).run(launch(job.image.regions, job.place), job.image.regions)
    assert link.writes == [REGISTERS["command"].address]
    assert all(map(np.array_equal, job.image.regions, before))


class Stuck(Model):
    """A card that never ends a run."""

    resets = 0

    def write(self, offset: int, value: int) -> None:
        if offset == REGISTERS["command"].address:
            self.resets += bool(value & Command.RESET)
        else:
            super().write(offset, value)


def test_a_run_that_does_not_end_is_reset() -> None:
    link, job = Stuck(TINY), random_job(TINY, 1)
    card = Card(TINY, link, timeout_s=0.01)
    with pytest.raises(CardError, match=r"has not ended within 0\.01 s; the machine was reset"):
        card.run(launch(job.image.regions, job.place), job.image.regions)
    assert link.resets == 1


# ---------------------------------------------------------------------------------------------------------- PYNQ


class _Memory(np.ndarray):
    """An array of `pynq.allocate`: what the card sees is another array until it is synchronised."""

    device_address: int
    buffer: Any

    def sync_to_device(self) -> None:
        self.buffer.data[:] = self

    def sync_from_device(self) -> None:
        self[:] = self.buffer.data

    def freebuffer(self) -> None:
        self.buffer = None


def fake_pynq(model: Model) -> SimpleNamespace:
    def allocate(shape: tuple[int], dtype: type) -> _Memory:
        memory = np.zeros(shape, dtype).view(_Memory)
        memory.buffer = model.buffer(memory.size, 0)
        memory.device_address = memory.buffer.address
        return memory

    return SimpleNamespace(Overlay=lambda _: SimpleNamespace(sat=model), allocate=allocate)


def test_pynq_runs_the_same_programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynq", fake_pynq(Model(TINY)))
    card = open_card("pynq", TINY, image=tmp_path / "sat_zynq.bit")
    assert isinstance(card, Card)
    found = validate(card, TINY, programs=3, steps=0, seed=4, exact=True)
    assert [check.wrong for check in found] == [""] * 6
    card.close()


def test_pynq_that_is_not_installed_is_an_import_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynq", None)
    with pytest.raises(ImportError, match="pynq"):
        Pynq(tmp_path / "sat.bit")


# ----------------------------------------------------------------------------------------------------- validation


class Wrong(Model):
    """A card that flips a bit of what it computed."""

    def write(self, offset: int, value: int) -> None:
        super().write(offset, value)
        if offset == REGISTERS["command"].address and value & Command.START:
            self._buffers[2].data[64] ^= 1


def test_validation_finds_a_wrong_bit() -> None:
    found = validate(Card(TINY, Wrong(TINY)), TINY, programs=1, steps=0, seed=0, exact=True)
    assert [bool(check.wrong) for check in found[:3]] == [True] * 3
    assert found[0].wrong == "1 values differ from NumPy"


class Gone(Model):
    """A card that answers no more once a program has run."""

    def read(self, offset: int) -> int:
        if offset == REGISTERS["windows"].address and self._status & Status.DONE:
            raise OSError("the card has fallen off the bus")
        return super().read(offset)


def test_a_card_that_stops_answering_is_a_check_that_failed() -> None:
    found = validate(Card(TINY, Gone(TINY)), TINY, programs=1, steps=0, seed=0, exact=True)
    assert [check.wrong for check in found] == ["the card has fallen off the bus"] * 4


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--backend xrt", "image is not given; backend 'xrt' loads an xclbin or a bitstream"),
        ("--backend xrt --image x.xclbin", "library is not given; backend 'xrt' needs libsat_host.so"),
        ("--backend xrt --image x.xclbin --library ./gone.so", "gone.so: cannot open shared object"),
        ("--backend pynq --image x.bit", "Python package 'pynq' is not installed"),
        ("--backend board", "invalid choice: 'board'"),
    ],
)
def test_what_a_backend_needs_is_asked_for(words: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert nmsat.main(["card", "validate", *words.split()]) == 2
    assert message in capsys.readouterr().err


def test_command_tells_each_check(capsys: pytest.CaptureFixture[str]) -> None:
    assert nmsat.main(["card", "validate", "--programs", "2", "--steps", "0", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["backend"], found["wrong"], len(found["checks"])) == ("sim", 0, 5)


@pytest.mark.rtl
@pytest.mark.long
def test_the_same_checks_hold_on_the_rtl() -> None:
    card = open_card("rtl", TINY)
    assert isinstance(card, RtlCard)
    found = validate(card, TINY, programs=4, steps=1, seed=0, exact=True)
    assert [check.wrong for check in found] == [""] * 8


def test_regions_lie_in_the_memory_of_their_master() -> None:
    config = preset("tiny-2")
    model, asked = Model(config), []
    plain = model.buffer

    def buffer(size: int, port: int) -> ModelBuffer:
        asked.append(port)
        return plain(size, port)

    model.buffer = buffer  # type: ignore[method-assign]
    card, job, expected = Card(config, model), random_job(config, 3), random_job(config, 3)
    settings = launch(job.image.regions, job.place, ports=2)
    assert card.run(settings, job.image.regions) == Sat(config).run(settings, expected.image.regions)
    assert asked == [region.port for region in settings.regions if region is not None]
    assert set(asked) == {0, 1}
    for mine, theirs in zip(job.image.regions, expected.image.regions, strict=True):
        assert np.array_equal(mine, theirs)
    with pytest.raises(CardError, match="register 'ports' of the card is 2"):
        Card(preset("tiny-4"), model)
