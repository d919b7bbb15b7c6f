"""External memory: the closed form against the stepped model, rates, and bytes of products in closed form."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nmsat.algorithms.core.tape import ConvShape, Pattern, Product, Stage
from nmsat.dataflow.contract.config import MemoryConfig, preset
from nmsat.dataflow.contract.isa import BEAT_BYTES
from nmsat.dataflow.cycles.memory import (
    MemoryTiming,
    TensorStream,
    burst_shape,
    memory_timing,
    transfer_bound,
    transfer_cycles,
)
from nmsat.dataflow.mapping.tiling import Mapping, Tiling
from nmsat.dataflow.network.models import load_model
from nmsat.dataflow.network.step import training_products
from nmsat.dataflow.schedule.memory_plan import buffer_counts, check_buffers, memory_plan
from nmsat.dataflow.schedule.traffic import Order, packed_bytes, passes, product_traffic
from nmsat.sim.memory.channel import Channel
from tests.memory.transfers import busiest, run_transfer

timings = st.builds(
    MemoryTiming,
    channels=st.integers(1, 4),
    outstanding=st.integers(1, 9),
    latency=st.integers(0, 40),
    burst_beats=st.just(16),
    beat_cycles=st.fractions(1, 4, max_denominator=25),
)
transfers = st.lists(st.tuples(st.integers(0, 60), st.integers(1, 16)), max_size=4)


@settings(max_examples=300, deadline=None)
@given(timings, transfers)
def test_the_closed_form_is_the_stepped_memory(timing: MemoryTiming, bursts: list[tuple[int, int]]) -> None:
    cycles = transfer_cycles(timing, busiest(timing, bursts))
    assert cycles == run_transfer(timing, bursts)
    assert cycles <= transfer_bound(timing, busiest(timing, bursts))


@given(timings, st.integers(1, 16))
def test_a_long_stream_runs_at_the_least_of_the_rates(timing: MemoryTiming, beats: int) -> None:
    hold = timing.hold(beats)
    rounds = 10_000
    cycles = transfer_cycles(timing, [(rounds * timing.outstanding, hold)])
    each = max(timing.outstanding * hold, timing.latency + hold)
    assert abs(cycles - rounds * each) <= timing.latency + timing.outstanding * hold


def test_the_presets_memory_in_cycles() -> None:
    machine = preset("vcu1525")
    timing = memory_timing(machine.memory, machine.clock_mhz)
    # 19.2 GB/s x 0.68 is 65.28 bytes a cycle; a 512-bit port carries 64 of them.
    assert (timing.latency, timing.burst_beats, timing.beat_cycles) == (24, 64, 1)
    assert timing.bytes_per_cycle == 256
    slow = memory_timing(MemoryConfig(efficiency=0.34), 200.0)
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


def test_runs_become_bursts() -> None:
    timing = MemoryTiming(4, 8, 24, 64, Fraction(1))
    assert burst_shape(timing, TensorStream(1 << 20, 1 << 30)) == (256, 64)
    assert burst_shape(timing, TensorStream(1000, 10)) == (100, 1)
    assert burst_shape(timing, TensorStream(300, 100)) == (3, 2)
    assert burst_shape(timing, TensorStream(40, 1 << 30)) == (1, 64)
    assert burst_shape(timing, TensorStream(0, 8)) == (0, 1)


def linear(m: int, k: int, n: int, pattern: Pattern | None = None) -> Product:
    return Product("layer", Stage.FF, m, k, n, pattern)


def test_bytes_of_a_product_in_both_loop_orders() -> None:
    machine = preset("vcu1525").replace(act_depth=1024, weight_depth=1024)
    product = linear(1024, 256, 1024, Pattern(2, 8))
    tiling = Tiling(machine, Mapping(False, 1, 2, 8), 1024, 256, 1024)
    a, w, y = 1024 * 256 * 2, packed_bytes(256, 1024, 2, 8), 1024 * 1024 * 2
    assert w == 256 // 8 * 2 * 1024 * 5 // 2
    # a tile holds 32 groups x 8 / 2 beats = 128 of 512, and 32 groups x 2 pairs x 8 = 512 of 512: both stay
    for order, times in ((Order.COLUMNS, (4, 1)), (Order.ROWS, (1, 32))):
        traffic = product_traffic(product, tiling, order, weights=True)
        assert (traffic.a.bytes, traffic.w.bytes, traffic.y.bytes) == (a * times[0], w * times[1], y)
    small = Tiling(machine.replace(weight_depth=512), tiling.mapping, 1024, 256, 1024)
    assert passes(small, Order.COLUMNS).w == 32
    large = Tiling(machine.replace(weight_depth=4096), tiling.mapping, 1024, 256, 1024)
    assert passes(large, Order.ROWS).w == 1


def test_a_convolution_reads_its_rows_once_and_not_once_per_tap() -> None:
    shape = ConvShape(4, 16, 16, 64, 64, (3, 3), padding=(1, 1))
    product = Product("conv", Stage.FF, 4 * 256, 9 * 64, 64, Pattern(2, 8), conv=shape)
    tiling = Tiling(preset("vcu1525"), Mapping(False, 4, 2, 8), product.m, product.k, product.n)
    assert product_traffic(product, tiling, Order.COLUMNS, weights=True).a.bytes == 4 * 256 * 64 * 2


def test_a_strided_pointwise_convolution_skips_pixels() -> None:
    shape = ConvShape(4, 16, 16, 64, 64, (1, 1), stride=(2, 2))
    product = Product("conv", Stage.FF, 4 * 64, 64, 64, conv=shape)
    tiling = Tiling(preset("vcu1525"), Mapping(False, 4, 2, 2), product.m, product.k, product.n)
    a = product_traffic(product, tiling, Order.COLUMNS, weights=True).a
    assert (a.bytes, a.run) == (4 * 64 * 64 * 2, 64 * 2)


@settings(max_examples=60, deadline=None)
@given(
    st.tuples(*(st.integers(1, 3000) for _ in range(3))),
    st.sampled_from([None, Pattern(2, 8), Pattern(2, 4)]),
    st.booleans(),
    st.sampled_from(list(Order)),
)
def test_larger_buffers_never_move_more(
    shape: tuple[int, int, int], pattern: Pattern | None, ws: bool, order: Order
) -> None:
    product = linear(*shape, pattern)
    n, m = (pattern.n, pattern.m) if pattern else (2, 2)
    sizes = []
    for depth in (256, 1024, 4096, 16384, 65536):
        machine = preset("vcu1525").replace(act_depth=depth, weight_depth=depth)
        tiling = Tiling(machine, Mapping(ws, 2, n, m), *shape)
        sizes.append(product_traffic(product, tiling, order, weights=True).bytes)
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] >= shape[0] * shape[1] * 2 + shape[0] * shape[2] * 2


def test_the_buffers_fit_the_device() -> None:
    counts = {count.name: count for count in buffer_counts(preset("vcu1525"))}
    assert counts["weights"].blocks == 32 * 8  # 32768 entries in 4096-entry UltraRAM
    assert check_buffers(preset("vcu1525")) == {"bram36": 158, "uram": 336}
    with pytest.raises(ValueError, match="weights"):
        check_buffers(preset("vcu1525").replace(rows=128, columns=128))


def test_regions_are_aligned_and_apart() -> None:
    machine = preset("vcu1525")
    plan = memory_plan(training_products(load_model("resnet18", 8), "bdwp", Pattern(2, 8)), machine)
    end = 0
    for region in plan.regions:
        assert region.base % machine.memory.burst_bytes == 0
        assert region.base >= end
        end = region.base + region.bytes
    assert sum(plan.by_kind().values()) <= plan.bytes == end


def test_a_plan_that_does_not_fit_says_where_and_by_how_much() -> None:
    step = training_products(load_model("resnet50", 4096), "dense")
    with pytest.raises(ValueError, match=r"input of 'layer\d.*too many; a batch of at most \d+%"):
        memory_plan(step, preset("vcu1525"))


def test_refusals() -> None:
    with pytest.raises(ValueError, match="stream is -1"):
        TensorStream(-1, BEAT_BYTES)
