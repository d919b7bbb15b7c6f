"""A step as programs of the machine: nothing missing, nothing twice."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from nmsat.algorithms.core.tape import ConvShape, Pattern, Stage
from nmsat.algorithms.core.vocabulary import PAPER_NETWORKS
from nmsat.algorithms.training.recipes import recipe
from nmsat.dataflow.contract.config import preset
from nmsat.dataflow.network.layers import ConvLayer, LinearLayer, MatMulLayer
from nmsat.dataflow.network.models import load_model
from nmsat.dataflow.network.readers.masks import LayerMask
from nmsat.dataflow.network.readers.recorded import recorded_step, run_steps
from nmsat.dataflow.network.step import training_products
from nmsat.dataflow.program.jobs import JobRun, ProductJob, Switches, UpdateJob, UpdateRun, job_estimate, step_jobs
from nmsat.dataflow.program.lower import Form
from nmsat.dataflow.program.tensors import DENSE, Layout
from nmsat.dataflow.program.update import slices
from nmsat.sim.work.timed import Timer


@pytest.mark.parametrize("network", PAPER_NETWORKS)
@pytest.mark.parametrize("method", ["dense", "bdwp", "sdgp"])
def test_all_products_are_in_programs_once(network: str, method: str) -> None:
    step = training_products(load_model(network, 2), method, Pattern(2, 8))
    jobs = step_jobs(step)
    products = [p for job in jobs for p in job.products]
    assert sorted(map(id, products)) == sorted(map(id, step.products))
    assert sum(p.macs_kept for p in products) == step.macs_kept
    updates = [job for job in jobs if isinstance(job, UpdateJob)]
    assert {job.name for job in updates} == {p.name for p in step.products if p.stage is Stage.WU}
    assert sum(job.elements for job in updates) == sum(u.elements for u in step.updates if u.name in step_names(step))
    assert jobs[-len(updates) :] == tuple(updates)


def step_names(step) -> set[str]:
    return {p.name for p in step.products if p.stage is Stage.WU}


def test_parts_of_an_input_gradient_belong_together() -> None:
    shape = ConvShape(2, 8, 8, 16, 32, (3, 3), (2, 2), (1, 1))
    step = training_products([ConvLayer(name="c", shape=shape)], "bdwp", Pattern(2, 8), first_and_last_dense=False)
    back = [job for job in step_jobs(step) if isinstance(job, ProductJob) and job.stage == "bp"]
    assert [(job.name, len(job.products)) for job in back] == [("c", 4)]
    runs = back[0].runs(preset("small"))
    assert [len(run.cuts) for run in runs] == [1, 1, 1, 1]
    assert len({run.cuts[0].code.name for run in runs}) == 4


def test_a_layer_without_input_gradient_needs_no_copy_for_one() -> None:
    """Three channels then take 3 rows of W per tap, in windows that the host lays out, else 16."""
    shape = ConvShape(1, 8, 8, 3, 16, (3, 3), (1, 1), (1, 1))
    rows = {}
    for gradient in (False, True):
        layers = [ConvLayer(name="c", shape=shape, input_gradient=gradient), linear("fc", 16)]
        jobs = step_jobs(training_products(layers, "dense"))
        rows[gradient] = next(job for job in jobs if isinstance(job, UpdateJob) and job.name == "c")
    assert (rows[False].k, rows[False].backward) == (27, False)
    assert (rows[True].k, rows[True].backward) == (144, True)


def linear(name: str, features: int, *, bias: bool = False) -> LinearLayer:
    return LinearLayer(name=name, rows=4, features_in=features, features_out=features, bias=bias)


def test_biases_are_added_by_the_machine_and_updated_by_the_host() -> None:
    jobs = step_jobs(training_products([linear("a", 16), linear("b", 16, bias=True)], "dense"))
    assert [(job.name, job.bias) for job in jobs if isinstance(job, ProductJob) and job.stage == "ff"] == [
        ("a", False),
        ("b", True),
    ]
    assert {job.name for job in jobs if isinstance(job, UpdateJob)} == {"a", "b"}


def test_copies_of_a_small_product_share_programs() -> None:
    job = step_jobs(training_products([MatMulLayer(name="s", m=5, k=16, n=5, count=5000)], "dense"))[0]
    assert isinstance(job, ProductJob)
    runs = job.runs(preset("small"))
    assert sum(run.times * len(run.cuts) for run in runs) == 5000
    assert len(runs[0].cuts) > 1000


def test_heads_are_turned_before_the_first_product() -> None:
    """A product right behind its own turn would wait for it."""
    products = training_products([MatMulLayer(name="s", m=9, k=16, n=9, count=3)], "dense")
    job = next(job for job in step_jobs(products) if isinstance(job, ProductJob) and job.form is Form.TURNED)
    (run,) = job.runs(preset("small"))
    names = [cut.code.name for cut in run.cuts]
    assert [name.endswith("/turn") for name in names] == [True] * 3 + [False] * 3
    rooms = {cut.code.sink.tensor.at for cut in run.cuts[:3]}
    assert len(rooms) == 3


def test_windows_of_groups_that_run_across_taps_are_laid_out_by_the_host() -> None:
    shape = ConvShape(1, 8, 8, 3, 16, (3, 3), (1, 1), (1, 1))
    layers = [ConvLayer(name="c", shape=shape, input_gradient=False), linear("fc", 16)]
    jobs = step_jobs(training_products(layers, "bdwp", Pattern(2, 8), first_and_last_dense=False))
    first = [job for job in jobs if isinstance(job, ProductJob) and job.name == "c"]
    assert [(job.stage, job.products[0].conv) for job in first] == [("ff", None), ("wu", None)]
    assert all(job.runs(preset("small")) for job in jobs)
    assert next(job.k for job in jobs if isinstance(job, UpdateJob) and job.name == "c") == 27


def test_recorded_attention_lies_as_it_is_recorded() -> None:
    jobs = step_jobs(recorded_step("vit-small", "bdwp", Pattern(2, 4), 2))
    forms = Counter(job.form for job in jobs if isinstance(job, ProductJob))
    assert forms[Form.TURNED] == forms[Form.PLAIN] == forms[Form.TRANSPOSED] == 4


@pytest.mark.parametrize(
    ("method", "decay", "reads"),
    [("bdwp", None, True), ("bdwp", 0.0, False), ("sr-ste", None, True), ("ste", None, False)],
)
def test_the_step_of_a_run_updates_as_its_method_does(method: str, decay: float | None, reads: bool) -> None:
    """The SR-STE term reads the mask of W_ff: a step that is recorded costs what the listed one does."""
    step, dense = run_steps(recipe("mlp").replace(method=method, pattern="2:8", decay=decay, batch=8))
    jobs, listed = (step_jobs(found) for found in (step, recorded_step("mlp", method, Pattern(2, 8), 8)))
    assert {job.decays for job in jobs if isinstance(job, UpdateJob)} == {reads}
    assert not any(job.decays for job in step_jobs(dense) if isinstance(job, UpdateJob))
    if decay is None:
        assert [job.facts for job in jobs] == [job.facts for job in listed]


@pytest.mark.parametrize(
    ("switches", "held"),
    [(Switches(dataflow="ws"), ("ws", None)), (Switches(rectangle=1), (None, 1)), (Switches(), (None, None))],
)
def test_switches_leave_cuts_out(switches: Switches, held: tuple[str | None, int | None]) -> None:
    config, step = preset("small"), training_products([linear("a", 64), linear("b", 64)], "dense")
    for job in step_jobs(step, switches):
        for run in job.runs(config):
            if isinstance(run, JobRun) and job.stage == "ff":  # gradients have no cut in WS
                assert all(held[0] in (None, cut.mapping.name) for cut in run.cuts)
                assert all(held[1] in (None, cut.mapping.a) for cut in run.cuts)


def test_without_pregeneration_each_copy_takes_a_pass() -> None:
    step = training_products([linear("a", 16), linear("b", 16)], "dense")
    updates = [job for job in step_jobs(step, Switches(pregenerate=False)) if isinstance(job, UpdateJob)]
    assert [(job.name, job.count, job.backward) for job in updates] == [
        ("a", 2, False),
        ("a", 1, True),
        ("b", 2, False),
        ("b", 1, True),
    ]


def test_parts_that_a_mask_cuts_are_programs_of_their_own() -> None:
    """Each with the channels and the pattern of its cover; all of them have a cut."""
    shape = ConvShape(2, 8, 8, 64, 32, (3, 3), (2, 2), (1, 1))
    keep = np.random.default_rng(0).random((1, 9, 64, 32)) < np.linspace(0.02, 0.4, 64)[None, None, :, None]
    layers = [ConvLayer(name="c", shape=shape)]
    step = training_products(layers, "bdwp", Pattern(2, 8), masks={"c": LayerMask("c", keep, 8)})
    jobs = step_jobs(step)
    back = [job for job in jobs if isinstance(job, ProductJob) and job.stage == "bp"]
    assert len(back) == sum(p.stage is Stage.BP for p in step.products) > 4
    assert {job.form for job in back} == {Form.MASKED}
    assert len({p.pattern for job in back for p in job.products}) > 1
    config = preset("small")
    for job in back:
        (run,) = job.runs(config)
        assert isinstance(run, JobRun)
        (product,) = job.products
        assert (run.cuts[0].code.m, run.cuts[0].code.n) == (product.m, product.n)
    assert sum(p.macs_kept for job in jobs for p in job.products) == step.macs_kept


@pytest.mark.parametrize(("ff", "bp"), [(Pattern(2, 8), Pattern(2, 8)), (DENSE, DENSE), (Pattern(2, 4), DENSE)])
def test_an_update_is_estimated_by_its_beats(ff: Pattern, bp: Pattern) -> None:
    for k, n, backward in ((64, 64, True), (200, 40, False), (96, 10, True)):
        job = UpdateJob("w", k, n, 1, ff, bp, backward, decays=False, elements=k * n)
        exact = Timer(preset("small")).time(job).cycles
        assert abs(job_estimate(job, preset("small")) - exact) <= 16


@pytest.mark.parametrize(("k", "n"), [(64, 65_472), (8, 128_256), (2_000_000, 8), (65_536, 65_536), (65_504, 32_736)])
def test_a_matrix_that_no_update_spans_is_updated_in_slices(k: int, n: int) -> None:
    """Each slice fits the instruction; together they have its elements and the beats of its copies."""
    job = UpdateJob("w", k, n, 3, Pattern(2, 8), Pattern(2, 8), backward=True, decays=True, elements=k * n)
    config = preset("tiny")
    runs = job.runs(config)
    assert sum(run.times * run.job.k * run.job.n for run in runs if isinstance(run, UpdateRun)) == 3 * k * n
    assert all(run.assemble(config).instructions[0].encode() for run in runs)
    assert (len(runs) == 1) == ((k, n) in ((64, 65_472), (65_504, 32_736)))  # of one size: two equal halves, one whole
    whole, parts = (
        [Layout().weights("w", 1, *size, Pattern(2, 8), Pattern(2, 8), backward=True) for size in sizes]
        for sizes in ([(k, n)], slices(k, n).elements())
    )
    for name in ("master", "ff_place", "bp_place", "mask"):
        beats = [sum(getattr(w, name).beats for w in group) for group in (whole, parts)]
        assert beats[0] == beats[1]
