"""External memory: the stepped model against its rule and its rates; what buffers and tensors of a step take."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nmsat.algorithms.core.tape import Pattern
from nmsat.dataflow.contract.config import MemoryConfig, preset
from nmsat.dataflow.cycles.buffers import buffer_counts, check_buffers
from nmsat.dataflow.cycles.memory import MemoryTiming, memory_timing
from nmsat.dataflow.network.layers import LinearLayer
from nmsat.dataflow.network.models import load_model
from nmsat.dataflow.network.step import training_products
from nmsat.dataflow.program.memory_plan import memory_plan
from nmsat.sim.memory.channel import Channel
from tests.memory.transfers import run_transfer

timings = st.builds(
    MemoryTiming,
    channels=st.integers(1, 4),
    outstanding=st.integers(1, 9),
    latency=st.integers(0, 40),
    burst_beats=st.just(16),
    beat_cycles=st.fractions(1, 4, max_denominator=25),
)
transfers = st.lists(st.tuples(st.integers(0, 60), st.integers(1, 16)), max_size=4)


def by_rule(timing: MemoryTiming, bursts: list[tuple[int, int]]) -> int:
    """Return the cycles of a transfer by the rule of docs/timing.md, on the channel that is dealt the most."""
    done = [0]
    for number, beats in bursts:
        for _ in range(-(-number // timing.channels)):
            before = done[-timing.outstanding] if len(done) > timing.outstanding else 0
            done.append(max(done[-1], before + timing.latency) + timing.hold(beats))
    return done[-1]


@settings(max_examples=300, deadline=None)
@given(timings, transfers)
def test_the_stepped_memory_keeps_the_rule(timing: MemoryTiming, bursts: list[tuple[int, int]]) -> None:
    assert by_rule(timing, bursts) == run_transfer(timing, bursts)


@settings(max_examples=30, deadline=None)
@given(timings, st.integers(1, 16))
def test_a_long_stream_runs_at_the_least_of_the_rates(timing: MemoryTiming, beats: int) -> None:
    hold = timing.hold(beats)
    rounds = 20
    cycles = run_transfer(timing, [(rounds * timing.outstanding * timing.channels, beats)])
    each = max(timing.outstanding * hold, timing.latency + hold)
    assert abs(cycles - rounds * each) <= timing.latency + timing.outstanding * hold


def test_the_presets_memory_in_cycles() -> None:
    machine = preset("vcu1525")
    timing = memory_timing(machine)
    # 19.2 GB/s x 0.68 is 65.28 bytes a cycle; a 512-bit port carries 64 of them.
    assert (timing.latency, timing.burst_beats, timing.beat_cycles) == (24, 64, 1)
    assert timing.bytes_per_cycle == 256
    slow = memory_timing(machine.replace(name="slow", memory=MemoryConfig(efficiency=0.34)))
    assert slow.beat_cycles == Fraction(64 * 100, 192 * 17)  # 19.2 x 0.34 / 0.2 = 32.64 bytes a cycle


def test_a_channel_gives_each_beat_once_and_in_order() -> None:
    channel = Channel(MemoryTiming(1, 2, 5, 4, Fraction(3, 2)))
    assert channel.request(4, "a")
    assert channel.request(2, "b")
    assert not channel.request(1, "c")
    beats = [channel.tick() for _ in range(20)]
    seen = [(cycle, beat.tag, beat.number, beat.last) for cycle, beat in enumerate(beats) if beat]
    assert seen == [
        (6, "a", 0, False),
        (7, "a", 1, False),
        (9, "a", 2, False),
        (10, "a", 3, True),
        (12, "b", 0, False),
        (13, "b", 1, True),
    ]
    with pytest.raises(ValueError, match="beats is 5"):
        channel.request(5)


def test_the_buffers_fit_the_device() -> None:
    counts = {count.name: count for count in buffer_counts(preset("vcu1525"))}
    assert counts["weights"].blocks == 32 * 8  # 32768 entries in 4096-entry UltraRAM
    assert check_buffers(preset("vcu1525")) == {"bram36": 256, "uram": 336}
    with pytest.raises(ValueError, match="weights"):
        check_buffers(preset("vcu1525").replace(rows=128, columns=128))


def test_a_plan_holds_what_the_programs_read_and_write() -> None:
    """Three layers of whole beats: nothing is padded."""
    layers = [LinearLayer(name=name, rows=512, features_in=256, features_out=256) for name in "abc"]
    plan = memory_plan(training_products(layers, "bdwp", Pattern(2, 8)), preset("vcu1525"))
    one = 256 * 256
    assert plan == {
        "weights": 3 * 4 * one,
        "momentum": 3 * 4 * one,
        "gradient": 3 * 2 * one,
        # two layers dense: W_ff and W_bp in pairs of 4 bytes, a mask of 64 bytes for 4 x 16 weights; one 2:8, 8 x 16
        "copies": 2 * (4 + 4 + 1) * one + (1 + 1) * one + one // 2,
        "input": 3 * 512 * 256 * 2,
        "result": 2 * 512 * 256 * 2,
    }


def test_a_plan_that_does_not_fit_says_where_and_by_how_much() -> None:
    step = training_products(load_model("resnet50", 4096), "dense")
    with pytest.raises(ValueError, match=r"input of 'layer\d.*too many; a batch of at most \d+%"):
        memory_plan(step, preset("vcu1525"))
