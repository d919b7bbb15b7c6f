"""What the tensors of a step take in external memory, laid out as its programs read them."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from nmsat.algorithms.core.tape import AGAIN, Stage
from nmsat.dataflow.contract.isa import BEAT_BYTES
from nmsat.dataflow.network.step import layer_of
from nmsat.dataflow.program.jobs import ProductJob, UpdateJob, step_jobs
from nmsat.dataflow.program.lower import INPUTS, RESULTS, Form, place_product
from nmsat.dataflow.program.tensors import Layout, Rows

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from nmsat.dataflow.contract.config import SatConfig
    from nmsat.dataflow.network.step import Step
    from nmsat.dataflow.program.jobs import Job

CAPACITY: Final = 64 << 30
"""Bytes of external memory of a VCU1525: four DDR4 modules of 16 GiB."""

NUMBER: Final = 4
"""Bytes of a master weight or momentum of a tensor that the host updates."""

TensorBytes = tuple[str, str, int]
"""Name of a tensor, its kind, its bytes."""


def memory_plan(step: Step, config: SatConfig, capacity: int = CAPACITY, batch: int | None = None) -> dict[str, int]:
    """Return the bytes of a training step's tensors by kind; batch: that of the step if known, for what to advise.

    Kept for the whole step: masters, momenta, gradients and copies of every weight matrix; the input of every product,
    which the weight gradient reads again. Shared: two buffers for results on their way to the host and back. Raises
    ValueError when they need more than `capacity` bytes: by how much, at which tensor, and what would help.
    """
    wanted = list(_regions(step, config, step_jobs(step)))
    total, used = sum(size for _, _, size in wanted), 0
    for name, kind, size in wanted:
        used += size
        if used > capacity:
            activations = sum(size for _, kind, size in wanted if kind in ("input", "result"))
            raise ValueError(
                f"memory plan does not fit: at {kind} of {name!r} it passes the capacity of {capacity} bytes; all "
                f"tensors need {total} bytes, {total - capacity} too many; "
                f"{_advice(step, total, activations, capacity, batch)}"
            )
    by_kind: Counter[str] = Counter()
    for _, kind, size in wanted:
        by_kind[kind] += size
    return dict(by_kind)


def _regions(step: Step, config: SatConfig, jobs: Sequence[Job]) -> Iterator[TensorBytes]:
    updated = {job.name for job in jobs if isinstance(job, UpdateJob)}
    for job in jobs:
        if isinstance(job, UpdateJob):
            yield from _weights(job)
    for update in step.updates:
        if update.name not in updated:
            yield update.name, "weights", update.elements * NUMBER
            yield update.name, "momentum", update.elements * NUMBER
    kept, largest = [], 0
    for job in jobs:
        if not isinstance(job, ProductJob):
            continue
        inputs, weights, results = _placed(job, config)
        if job.stage != Stage.WU:
            largest = max(largest, results)
        if job.stage == Stage.FF:
            kept.append((job.name, "input", inputs))
            if layer_of(job.name) in step.frozen and AGAIN not in job.name:
                yield layer_of(job.name), "weights", weights
    # Without gradients nothing reads an input again: room for the largest serves all.
    yield from kept if _has_gradients(step) else sorted(kept, key=lambda region: -region[2])[:1]
    for i in range(2):
        yield f"results {i}", "result", largest


def _weights(job: UpdateJob) -> Iterator[TensorBytes]:
    w = Layout().weights("w", 0, job.k, job.n, job.ff, job.bp, backward=job.backward)
    state = job.count * w.master.beats * BEAT_BYTES // 2
    copies = w.ff_place.beats + w.mask.beats + (w.bp_place.beats if w.bp_place else 0)
    yield job.name, "weights", state
    yield job.name, "momentum", state
    yield job.name, "gradient", job.count * w.gradient.beats * BEAT_BYTES
    yield job.name, "copies", job.count * copies * BEAT_BYTES


def _placed(job: ProductJob, config: SatConfig) -> tuple[int, int, int]:
    """Return the bytes of a job's inputs, of its weights as they are read, and of its results, all copies."""
    product = job.products[0]
    placed = place_product(config, replace(product, a=None, w=None), job.form, bias=job.bias, backward=job.backward)
    beats = placed.layout.beats
    # heads and groups are placed all together; copies of a plain product one by one
    times = 1 if product.conv is not None or job.form not in (Form.WEIGHTS, Form.PACKED) else job.count
    weights = 0
    if not isinstance(placed.b, Rows):
        weights = job.count * placed.b.ff_place.beats
    return times * beats[INPUTS] * BEAT_BYTES, weights * BEAT_BYTES, times * beats[RESULTS] * BEAT_BYTES


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


def _has_gradients(step: Step) -> bool:
    return any(product.stage is not Stage.FF for product in step.products)
