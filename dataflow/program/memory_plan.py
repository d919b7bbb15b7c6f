"""What the tensors of a step take in external memory, laid out as its programs read them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from nmsat.algorithms.core.tape import AGAIN, Stage
from nmsat.dataflow.contract.isa import BEAT_BYTES
from nmsat.dataflow.network.step import inference, layer_of
from nmsat.dataflow.program.jobs import ProductJob, UpdateJob, step_jobs
from nmsat.dataflow.program.lower import INPUTS, RESULTS, Form, place_product
from nmsat.dataflow.program.tensors import Layout, Rows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from nmsat.dataflow.contract.config import SatConfig
    from nmsat.dataflow.network.step import Step
    from nmsat.dataflow.program.jobs import Job

CAPACITY: Final = 64 << 30
"""Bytes of external memory of a VCU1525: four DDR4 modules of 16 GiB."""

NUMBER: Final = 4
"""Bytes of a master weight or momentum of a tensor that the host updates."""

TensorBytes = tuple[str, str, int]
"""Name of a tensor, its kind, its bytes."""


@dataclass(frozen=True)
class Batches:
    """What other batches a step can have, for what to advise when it does not fit.

    size: images of the step, None if unknown. unit: all batches are multiples of it, as where a file fixes its own; 0
    where there is no other. at: returns the step of another batch, by which an advice is tried; may raise ValueError.
    """

    size: int | None = None
    unit: int = 1
    at: Callable[[int], Step] | None = None


def memory_plan(
    step: Step, config: SatConfig, capacity: int = CAPACITY, batches: Batches | None = None
) -> dict[str, int]:
    """Return the bytes of a training step's tensors by kind.

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
            advice = _Advice(step, config, capacity, total - activations, activations, batches or Batches())
            raise ValueError(
                f"memory plan does not fit: at {kind} of {name!r} it passes the capacity of {capacity} bytes; all "
                f"tensors need {total} bytes, {total - capacity} too many; {advice.text()}"
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


@dataclass(frozen=True)
class _Advice:
    """What would make a step fit; weights, activations: bytes of what the batch leaves alone, and of the rest."""

    step: Step
    config: SatConfig
    capacity: int
    weights: int
    activations: int
    batches: Batches

    def text(self) -> str:
        """Return it with the figures that say so."""
        size, unit = self.batches.size, self.batches.unit
        room = self.capacity - self.weights
        share = room / self.activations if room > 0 else 0.0
        if share and size is None and unit:
            return f"a batch of at most {share:.0%} of this one would fit"
        images = int(share * (size or 0))
        if unit and (largest := self._tried(images // unit * unit)):
            return f"a batch of at most {largest} would fit"
        held = (
            f"weights and what the update keeps beside them take {self.weights} bytes, tensors between the layers "
            f"{self.activations}"
        )
        if images and unit != 1:
            own = f", that of the file: {unit}" if unit else ""
            return f"{held}: there is no smaller batch{own}; the network exported with a batch of {images} may fit"
        way = "only fewer layers at a time" + (", or the forward pass alone," if self._forward_fits() else "")
        if share and unit and (size or unit) > unit:
            return f"{held}: not even a batch of {unit} fits; {way} would fit"
        if share:
            return f"{held}: there is no smaller batch{'' if size is None else f' than {size}'}; {way} would fit"
        return f"no batch fits: {held}; {way} would fit"

    def _tried(self, largest: int) -> int:
        """Return the largest batch up to this one that fits, 0 if there is none; not all tensors grow with it."""
        if self.batches.at is None or largest == 0 or self._fits(largest):
            return largest
        fits, fails, unit = 0, largest, self.batches.unit
        while fails - fits > unit:
            middle = (fits + fails) // 2 // unit * unit
            fits, fails = (middle, fails) if self._fits(middle) else (fits, middle)
        return fits

    def _fits(self, batch: int) -> bool:
        assert self.batches.at is not None
        try:
            step = self.batches.at(batch)
        except ValueError:  # a file may refuse a batch
            return False
        return _needs(step, self.config) <= self.capacity

    def _forward_fits(self) -> bool:
        return _has_gradients(self.step) and _needs(inference(self.step), self.config) <= self.capacity


def _needs(step: Step, config: SatConfig) -> int:
    """Return the bytes of all tensors of a step."""
    return sum(size for _, _, size in _regions(step, config, step_jobs(step)))


def _has_gradients(step: Step) -> bool:
    return any(product.stage is not Stage.FF for product in step.products)
