"""Where everything stands: tensors of a step in external memory, buffers in the block RAM of the device.

External memory: regions aligned to the longest burst, so that no burst crosses a 4 KiB boundary. A tensor is dealt to
the channels run by run (a pixel, a row of a matrix), each channel holding its share contiguously, so that bursts of any
reader go round the channels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from nmsat.algorithms.core.tape import AGAIN, Stage
from nmsat.dataflow.cycles.memory import BEAT_BYTES
from nmsat.dataflow.network.step import layer_of
from nmsat.dataflow.schedule.traffic import PAIR_BITS, STAGING_BYTES, WORD, packed_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nmsat.algorithms.core.tape import Product
    from nmsat.dataflow.contract.config import SatConfig
    from nmsat.dataflow.network.step import Step, Update

CAPACITY: Final = 64 << 30
"""Bytes of external memory of a VCU1525: four DDR4 modules of 16 GiB."""

DEVICE: Final = {"bram36": 2160, "uram": 960}
"""Block RAM of the XCVU9P (AMD UltraScale+ FPGA product table)."""

BRAM_SHAPES: Final = ((1024, 36), (2048, 18), (4096, 9))
"""Entries x bits of a BRAM36 as a simple dual-port memory."""

URAM_SHAPE: Final = (4096, 72)
"""Entries x bits of an UltraRAM block."""


@dataclass(frozen=True)
class Region:
    """A stretch of external memory: what stands there, first byte, bytes."""

    name: str
    kind: str
    base: int
    bytes: int


@dataclass(frozen=True)
class MemoryPlan:
    """All regions of a step, ascending, without overlap."""

    regions: tuple[Region, ...]

    @property
    def bytes(self) -> int:
        """First byte behind the last region."""
        return max((region.base + region.bytes for region in self.regions), default=0)

    def by_kind(self) -> dict[str, int]:
        """Bytes by kind of tensor."""
        total: dict[str, int] = {}
        for region in self.regions:
            total[region.kind] = total.get(region.kind, 0) + region.bytes
        return total


def memory_plan(step: Step, config: SatConfig, capacity: int = CAPACITY, batch: int | None = None) -> MemoryPlan:
    """Return the regions of a training step; batch: that of the step where it is known, for what to advise.

    Kept for the whole step: weights, momentum, gradients and copies of every tensor; the input of every product, which
    the weight gradient reads again. Shared: two buffers for results on their way to the host operators and back.
    Raises ValueError when they need more than `capacity` bytes: by how much, at which tensor, and what would help.
    """
    regions, base = [], 0
    wanted = [*(part for update in step.updates for part in _update_regions(update)), *_activation_regions(step)]
    for name, kind, size in wanted:
        regions.append(Region(name, kind, base, size))
        base += -(-size // config.memory.burst_bytes) * config.memory.burst_bytes
        if base > capacity:
            total = sum(size for _, _, size in wanted)
            activations = sum(size for _, kind, size in wanted if kind in ("input", "result"))
            raise ValueError(
                f"memory plan does not fit: at {kind} of {name!r} it passes the capacity of {capacity} bytes; all "
                f"tensors need {total} bytes, {total - capacity} too many; "
                f"{_advice(step, total, activations, capacity, batch)}"
            )
    return MemoryPlan(tuple(regions))


def _advice(step: Step, total: int, activations: int, capacity: int, batch: int | None) -> str:
    """Return what would make a step fit, with the figures that say so."""
    room = capacity - (total - activations)
    share = room / activations if activations else 0.0
    largest = None if batch is None else int(max(0.0, share) * batch)
    if share > 0 and largest is None:
        return f"a batch of at most {share:.0%} of this one would fit"
    if largest:
        return f"a batch of at most {largest} would fit"
    held = (
        f"weights and what the update keeps beside them take {total - activations} bytes, tensors between the layers "
        f"{activations}"
    )
    way = "only fewer layers at a time" + (", or the forward pass alone," if _has_gradients(step) else "")
    if share > 0:
        return f"{held}: there is no smaller batch than {batch}; {way} would fit"
    return f"no batch fits: {held}; {way} would fit"


@dataclass(frozen=True)
class BufferCount:
    """Block RAM of one kind of buffer: how many memories of entries x bits, and the blocks that they take."""

    name: str
    memories: int
    entries: int
    bits: int
    block: str
    blocks: int


def buffer_counts(config: SatConfig) -> tuple[BufferCount, ...]:
    """Return what the buffers take on an UltraScale+ device, every memory mapped for itself, no packing of words.

    Memories of a whole UltraRAM or more go there, smaller ones into BRAM36.
    """
    lanes = 16 * config.act_lanes
    beat = BEAT_BYTES * 8
    return (
        _count("activations", config.rows, config.act_depth, lanes),
        _count("weights", config.columns, config.weight_depth, PAIR_BITS),
        _count("sums", config.columns, config.sum_depth, 32, block="bram36"),
        _count("staging", 2, STAGING_BYTES // BEAT_BYTES, beat),
        _count("results", 2, config.rows * config.columns * 16 // BEAT_BYTES, beat, block="bram36"),
    )


def check_buffers(config: SatConfig) -> dict[str, int]:
    """Return the blocks by kind; ValueError names the largest buffer if they are more than the device has."""
    counts = buffer_counts(config)
    total = {kind: sum(c.blocks for c in counts if c.block == kind) for kind in DEVICE}
    for kind, used in total.items():
        if used > DEVICE[kind]:
            worst = max((c for c in counts if c.block == kind), key=lambda c: c.blocks)
            raise ValueError(
                f"buffers of {config.name!r} need {used} {kind}, {used - DEVICE[kind]} more than the XCVU9P has; the "
                f"largest is {worst.name} with {worst.memories} x {worst.entries} x {worst.bits} bits; halve its depth"
            )
    return total


def _count(name: str, memories: int, entries: int, bits: int, block: str = "") -> BufferCount:
    deep, wide = URAM_SHAPE
    if not block:
        block = "uram" if entries >= deep else "bram36"
    if block == "uram":
        each = -(-entries // deep) * -(-bits // wide)
    else:
        each = min(-(-entries // depth) * -(-bits // width) for depth, width in BRAM_SHAPES)
    return BufferCount(name, memories, entries, bits, block, memories * each)


def _update_regions(update: Update) -> Iterator[tuple[str, str, int]]:
    yield update.name, "weights", update.elements * 4
    yield update.name, "momentum", update.elements * 4
    yield update.name, "gradient", update.elements * WORD
    if update.ff is None or update.bp is None:
        yield update.name, "copy", update.elements * WORD
    if update.ff:
        yield update.name, "packed ff", update.count * packed_bytes(update.k, update.n, update.ff.n, update.ff.m)
    if update.bp:
        yield update.name, "packed bp", update.count * packed_bytes(update.n, update.k, update.bp.n, update.bp.m)


def _activation_regions(step: Step) -> Iterator[tuple[str, str, int]]:
    placed = step.weight_layers - set(step.frozen)
    kept: list[tuple[str, str, int]] = []
    for product in (product for product in step.products if product.stage is Stage.FF):
        kept.append((product.name, "input", _input_bytes(product)))
        layer = layer_of(product.name)
        if layer in step.frozen:
            if AGAIN not in product.name:
                yield layer, "weights", _weight_bytes(product)
        elif layer not in placed:
            kept.append((product.name, "input", product.k * product.n * product.count * WORD))
    # Without gradients nothing reads an input again: room for the largest serves all.
    yield from kept if _has_gradients(step) else sorted(kept, key=lambda region: -region[2])[:1]
    largest = max((p.m * p.n * p.count * WORD for p in step.products if p.stage is not Stage.WU), default=0)
    for i in range(2):
        yield f"results {i}", "result", largest


def _has_gradients(step: Step) -> bool:
    return any(product.stage is not Stage.FF for product in step.products)


def _weight_bytes(product: Product) -> int:
    """Return the bytes of the weights of a forward product, packed where they are pruned."""
    if product.pattern is None:
        return product.k * product.n * product.count * WORD
    return product.count * packed_bytes(product.k, product.n, product.pattern.n, product.pattern.m)


def _input_bytes(product: Product) -> int:
    shape = product.conv
    if shape is None:
        return product.m * product.k * product.count * WORD
    return shape.batch * shape.height * shape.width * shape.channels_in * WORD
