"""The whole training step: sums that open, slots against a stepped machine, programs there and back, ablations."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nmsat.algorithms.core.tape import Pattern, Product, Stage
from nmsat.dataflow.contract.config import MemoryConfig, SatConfig, preset
from nmsat.dataflow.cycles.array import product_duration
from nmsat.dataflow.mapping.tiling import Tiling, legal_mappings
from nmsat.dataflow.network.models import load_model
from nmsat.dataflow.network.step import Step, depends, training_products
from nmsat.dataflow.schedule.pipeline import Edge, Piped, piped_cycles
from nmsat.dataflow.schedule.plan import Switches, schedule_product
from nmsat.dataflow.schedule.program import ProductRun, Program, disassemble, load_record
from nmsat.dataflow.schedule.step_program import step_program, update_bytes
from nmsat.dataflow.schedule.traffic import Order, product_traffic
from nmsat.sim.results.energy import step_energy
from nmsat.sim.results.rows import roofline
from nmsat.sim.schedule.machine import run_program
from nmsat.sim.schedule.step import simulate_step
from nmsat.sim.work.ablation import ablations
from nmsat.sim.work.timeline import trace_events
from tests.memory.transfers import run_transfer

SMALL = preset("tiny").replace(act_depth=64, weight_depth=64)


TWO_OF_EIGHT = Pattern(2, 8)


def step_of(name: str, method: str = "bdwp", pattern: Pattern | None = TWO_OF_EIGHT, batch: int = 32) -> Step:
    return training_products(load_model(name, batch), method, pattern)


def stepped(piped: Piped, edge: Edge) -> tuple[int, int]:
    """Run the slots one by one, memory cycle by cycle; return the cycles of the slots and their number."""
    timing = replace(piped.timing, channels=1)
    a, w, y = piped.shares
    work = piped.duration.total - piped.duration.fill - piped.duration.finish
    total = 0
    for slot in range(piped.slots):
        array = work // piped.slots + (slot < work % piped.slots)
        load = edge.after if slot == piped.slots - 1 else (a.at(slot + 1), w.at(slot + 1))
        store = edge.before if slot == 0 else (y.at(slot - 1),)
        bursts = [burst for burst in (*load, *store) if burst[0]]
        # a burst of `each` beats holds the channel `each` cycles at one beat a cycle
        memory = run_transfer(timing, bursts)
        total += max(array, memory + piped.tiling.window if bursts else 0)
    return total, piped.slots


@settings(max_examples=150, deadline=None)
@given(
    st.tuples(*(st.integers(1, 90) for _ in range(3))),
    st.sampled_from([None, Pattern(2, 8), Pattern(2, 4), Pattern(1, 2)]),
    st.integers(0, 1 << 30),
    st.integers(2, 8),
    st.integers(1, 60),
)
def test_kinds_of_slots_are_the_slots_one_by_one(
    shape: tuple[int, int, int], pattern: Pattern | None, choice: int, outstanding: int, latency: int
) -> None:
    memory = MemoryConfig(channels=1, outstanding=outstanding, latency_ns=latency * 5.0, burst_bytes=1024)
    machine = SMALL.replace(memory=memory)
    mappings = legal_mappings(machine, pattern)
    product = Product("layer", Stage.FF, *shape, pattern)
    tiling = Tiling(machine, mappings[choice % len(mappings)], *shape)
    traffic = product_traffic(product, tiling, list(Order)[choice % 2], weights=bool(choice & 4))
    slots = min(tiling.commands * tiling.windows, max(traffic.refills, choice % 23 + 1))
    piped = Piped(tiling, Order.COLUMNS, traffic, slots)
    edge = Edge(before=((choice % 3, 2),), after=((choice % 5, 1), (choice % 2, 4)))
    kinds = list(piped.kinds(edge))
    assert sum(slot.count for slot in kinds) == slots
    assert sum(slot.count * slot.cycles for slot in kinds) == stepped(piped, edge)[0]
    assert sum(slot.count * slot.array for slot in kinds) + piped.duration.fill + piped.duration.finish == (
        product_duration(tiling).total
    )
    assert all(min(slot.bandwidth, slot.latency, slot.busy) >= 0 for slot in kinds)


@pytest.mark.parametrize("name", ["resnet9", "vit", "resnet18"])
@pytest.mark.parametrize("method", ["dense", "sr-ste", "sdgp", "sdwp", "bdwp", "bdwp+mvue"])
def test_every_total_is_a_sum_that_opens(name: str, method: str) -> None:
    result = simulate_step(step_of(name, method), preset("vcu1525"))
    rows = result.table()
    assert result.cycles == sum(result.causes.values()) == sum(result.by("stage").values())
    assert result.cycles == sum(result.by("name").values()) == sum(span.cycles for span in result.run.spans)
    at = 0
    for span, row in zip(result.run.spans, rows, strict=True):
        assert span.start == at
        assert row["cycles"] == sum(span.causes.values())
        assert min(span.causes.values()) >= 0
        assert 0 <= span.memory_busy <= span.cycles
        at += span.cycles
    moved = sum(result.bytes.values())
    products = sum(run.a.bytes + run.w.bytes + run.y.bytes for run in (s.run for s in result.run.spans) if run)
    assert moved == products + sum(update.bytes for update in result.run.updates)
    assert result.macs == step_of(name, method).macs_kept
    assert 0 < result.utilization <= 1
    assert all(0 <= v.start < v.end <= result.cycles for v in result.run.updates if v.beats)


def test_a_step_is_never_quicker_than_its_products_on_chip_or_its_bytes() -> None:
    machine = preset("vcu1525")
    for channels in (1, 2, 4):
        config = machine.replace(memory=replace(machine.memory, channels=channels))
        result = simulate_step(step_of("vgg19", batch=64), config)
        on_chip = sum(span.piped.duration.total for span in result.run.spans if span.piped)
        assert result.cycles >= on_chip
        assert result.cycles * 64 * channels >= sum(result.bytes.values())


def test_slow_memory_is_charged_to_memory() -> None:
    machine = preset("vcu1525")
    slow = machine.replace(memory=replace(machine.memory, bytes_per_second=2e8))
    quick, waiting = (simulate_step(step_of("vgg19", batch=8), config) for config in (machine, slow))
    assert waiting.causes["bandwidth"] > 0.5 * waiting.cycles > quick.causes["bandwidth"]


@pytest.mark.parametrize("method", ["bdwp", "sdgp"])
def test_a_program_read_back_is_the_program_and_takes_the_same_cycles(method: str) -> None:
    machine = preset("vcu1525")
    program = step_program(step_of("resnet18", method), machine, Switches(pregenerate=False))
    words = program.assemble()
    again = disassemble(machine, words, program.names)
    assert again == program
    assert load_record(machine, program.record()) == program
    assert run_program(again).cycles == run_program(program).cycles
    listed = [line.split()[1] for line in program.listing().splitlines()]
    assert listed == [f"{word:032x}" for word in words]


@pytest.mark.parametrize("name", ["resnet9", "vit", "vgg19", "resnet18", "resnet50"])
def test_every_network_disassembles_to_the_listing_that_ran(name: str) -> None:
    result = simulate_step(step_of(name, batch=512), preset("vcu1525"))
    program = result.program
    again = disassemble(program.config, program.assemble(), program.names)
    assert again.listing() == program.listing()
    ran = [(span.name, span.stage, span.run) for span in result.run.spans if span.run is not None]
    assert ran == [(run.name, run.stage.value, run) for run in again.instructions if isinstance(run, ProductRun)]
    beside = [run for run in again.instructions if not isinstance(run, ProductRun)]
    assert sorted(v.name for v in result.run.updates) == sorted(run.name for run in beside)


def test_broken_programs_are_refused_with_the_place() -> None:
    machine = preset("tiny")
    program = step_program(step_of("resnet9", batch=1), machine)
    words, names = program.assemble(), program.names
    with pytest.raises(ValueError, match="without an end word"):
        disassemble(machine, words[:-1], names)
    with pytest.raises(ValueError, match="word 0 has opcode 0"):
        disassemble(machine, [0], names)
    with pytest.raises(ValueError, match="word 0 is a shape word outside"):
        disassemble(machine, words[1:], names)
    with pytest.raises(ValueError, match="word 1 is a operand word"):
        disassemble(machine, [words[0], words[2], *words[2:]], names)
    with pytest.raises(ValueError, match="names label 0"):
        disassemble(machine, words, [])
    with pytest.raises(ValueError, match="1 words after its end"):
        disassemble(machine, [*words, words[-1]], names)
    with pytest.raises(ValueError, match="must be 0"):
        disassemble(machine, [words[-1] | 1 << 100], names)
    with pytest.raises(ValueError, match="configuration 'tiny'"):
        load_record(preset("small"), program.record())


@settings(max_examples=25, deadline=None)
@given(st.tuples(*(st.integers(1, 400) for _ in range(3))), st.sampled_from([None, Pattern(2, 8), Pattern(2, 16)]))
def test_the_search_misses_the_exhaustive_best_by_no_more_than_its_tolerance(
    shape: tuple[int, int, int], pattern: Pattern | None
) -> None:
    machine = preset("small").replace(act_depth=256, weight_depth=256)
    product = Product("layer", Stage.FF, *shape, pattern)
    chosen = piped_cycles(schedule_product(machine, product, weights=True))
    best = None
    for mapping in legal_mappings(machine, pattern):
        tiling = Tiling(machine, mapping, *shape)
        for order in Order:
            traffic = product_traffic(product, tiling, order, weights=True)
            most = tiling.commands * tiling.windows
            for slots in {min(most, traffic.refills), min(most, max(traffic.refills, tiling.commands))}:
                cycles = piped_cycles(Piped(tiling, order, traffic, slots))
                best = cycles if best is None else min(best, cycles)
    assert best is not None
    assert best <= chosen <= best * 1.002


def test_scheduling_is_deterministic() -> None:
    first = step_program(step_of("resnet18"), preset("vcu1525"))
    from nmsat.dataflow.schedule import plan

    plan.forget()
    assert step_program(step_of("resnet18"), preset("vcu1525")) == first


def test_switching_something_off_is_never_a_gain() -> None:
    rows = ablations(step_of("resnet18"), step_of("resnet18", "dense", None), preset("vcu1525"))
    built = rows[0]
    assert built.name == "all on"
    # the search prefers fewer bytes within its tolerance of 1/2048, so an ablation may be that much quicker
    assert all(row.cycles >= built.cycles * (1 - 1 / 2048) for row in rows)
    by_name = {row.name: row.cycles for row in rows}
    assert by_name["no interleave"] > 4 * built.cycles
    assert by_name["fixed rectangle 1x8"] > 1.5 * built.cycles
    assert by_name["no pre-generation"] > built.cycles


def test_what_depends_on_what() -> None:
    def product(name: str, stage: Stage) -> Product:
        return Product(name, stage, 1, 1, 1)

    ff, bp, wu = (product("a", stage) for stage in (Stage.FF, Stage.BP, Stage.WU))
    assert not depends(ff, None)
    assert depends(product("b", Stage.FF), ff)
    assert depends(bp, ff)
    assert depends(wu, product("b", Stage.BP))
    assert not depends(wu, bp)
    assert not depends(product("b", Stage.BP), wu)
    assert depends(product("b", Stage.BP), bp)
    assert not depends(product("a/phase1", Stage.BP), product("a/phase0", Stage.BP))


def test_update_bytes_are_nineteen_per_weight() -> None:
    step = step_of("resnet50", batch=1)
    largest = max(step.updates, key=lambda update: update.elements if update.ff and update.bp else 0)
    # state 18 bytes; two copies of 2 in 8 elements at 20 bits: 1.25
    assert update_bytes(largest) == largest.elements * (18 + 2 * 2 / 8 * 2.5)
    assert update_bytes(largest, pregenerate=False) == largest.elements * 20


def test_roofline_and_energy_and_timeline() -> None:
    machine = preset("vcu1525")
    assert roofline(machine, 100, 100) == (1.0, 256.0, "memory")
    assert roofline(machine, 100_000, 100)[1:] == (1024, "array")
    step = step_of("resnet9")
    result = simulate_step(step, machine)
    energy = step_energy(result, step.update_elements)
    parts = [energy.macs, energy.update, energy.buffers, energy.memory, energy.rest]
    assert min(parts) > 0
    assert energy.record()["total_joule"] == pytest.approx(sum(parts))
    assert "modelled" in str(energy.record()["kind"])
    events = [event for event in trace_events(result) if event["ph"] == "X"]
    array = [event for event in events if event["tid"] == 1]
    assert sum(event["dur"] for event in array) == pytest.approx(result.cycles / machine.clock_mhz)


def test_an_empty_program_takes_no_time() -> None:
    assert run_program(Program(preset("tiny"), ())).cycles == 0


def test_refusals() -> None:
    with pytest.raises(ValueError, match="dataflow is 'xs'"):
        Switches(dataflow="xs")
    with pytest.raises(ValueError, match="rectangle is 3"):
        Switches(rectangle=3)
    with pytest.raises(ValueError, match="key is 'loop'"):
        simulate_step(step_of("resnet9", batch=1), preset("tiny")).by("loop")


def test_the_figures_of_the_project() -> None:
    machine: SatConfig = preset("vcu1525")
    speedups, used = [], []
    for name in ("resnet9", "vit", "vgg19", "resnet18", "resnet50"):
        dense = simulate_step(step_of(name, "dense", None, 512), machine)
        used.append(dense.utilization)
        for text, least in (("2:4", 0.98), ("2:8", 0.97), ("2:16", 0.93)):
            step = step_of(name, "bdwp", Pattern.parse(text), 512)
            speedup = dense.cycles / simulate_step(step, machine).cycles
            assert least * step.bound <= speedup <= step.bound
            if text == "2:8":
                speedups.append(speedup)
    assert sum(speedups) / 5 >= 1.90
    assert sum(used) / 5 >= 0.93
