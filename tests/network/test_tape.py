"""Tapes of training runs as steps on SAT: those of NumPy runs, and a file that PyTorch wrote."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from nmsat.algorithms.core.arithmetic import FAST
from nmsat.algorithms.core.sparsity import Unstructured
from nmsat.algorithms.core.tape import Learnt, LeftOut, Pattern, Product, Stage, Tape
from nmsat.algorithms.core.tape_file import read_tape, write_tape
from nmsat.algorithms.layers.base import Context, prepare
from nmsat.algorithms.layers.products import Conv2d, Linear
from nmsat.algorithms.methods import make_method
from nmsat.algorithms.training.recipes import RECIPES
from nmsat.algorithms.training.train import Trainer
from nmsat.dataflow.contract.config import preset
from nmsat.dataflow.network.readers.tape import read_step, tape_step
from nmsat.dataflow.network.step import Prune, Update
from nmsat.dataflow.program.jobs import ProductJob, UpdateJob, step_jobs
from nmsat.dataflow.program.lower import Form
from nmsat.sim.work.machine import machine_step
from nmsat.sim.work.timed import Estimator

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.conftest import Outcome

# Written by algorithms.pytorch.record_step: two convolutions (stride 2 in the second), a 1 x 1 convolution and two
# linear layers on a batch of 32 x 3 x 8 x 8, 'bdwp+mvue' 2:8, the ends dense.
PYTORCH = Path(__file__).parent.parent / "data" / "pytorch.tape"
P28 = Pattern(2, 8)


def tape_of(network: str, method: str) -> Tape:
    tape = Tape()
    Trainer(RECIPES[network].replace(method=method, pattern="2:8")).run_step(tape)
    return tape


@pytest.mark.parametrize("method", ["dense", "sdgp", "bi-mask", "bdwp+mvue"])
def test_a_step_makes_the_products_of_its_tape(method: str) -> None:
    tape = tape_of("resnet18-small", method)
    step, dense = tape_step(tape), tape_step(tape, dense=True)
    sizes = [Counter((p.name, p.stage, p.m, p.k, p.n, p.pattern, p.count) for p in x.products) for x in (step, tape)]
    assert sizes[0] == sizes[1]
    assert (step.macs_kept, step.macs_dense) == (tape.macs_kept, tape.macs_dense)
    assert step.bound == tape.bound
    assert dense.macs_kept == dense.macs_dense == step.macs_dense
    assert dense.bound == 1
    assert not dense.prunes


def test_copies_and_pruning_follow_the_method() -> None:
    found = {}
    for method in ("dense", "sr-ste", "sdgp", "sdwp", "bdwp", "mvue"):
        step = tape_step(tape_of("mlp", method))
        hidden = next(update for update in step.updates if update.name == "fc2")
        found[method] = (hidden.ff, hidden.bp, list(step.prunes))
        assert [update.name for update in step.updates] == ["fc1", "fc2", "fc3"]
    # 'fc2' is square, 128 rows on 128 features: its shape alone does not say which operand is sparse.
    batch = RECIPES["mlp"].batch
    assert batch == 128
    assert found == {
        "dense": (None, None, []),
        "sr-ste": (P28, None, []),
        "sdgp": (None, None, [Prune("fc2", Stage.BP, batch, 128, P28)]),
        "sdwp": (None, P28, []),
        "bdwp": (P28, P28, []),
        "mvue": (None, None, [Prune("fc2", Stage.WU, 128, batch, P28)]),
    }


def test_products_of_activations_stay_as_they_are() -> None:
    tape = tape_of("vit-small", "bdwp")
    step = tape_step(tape)
    names = {"block1.attn.scores", "block1.attn.mix", "block1.attn.dq", "block1.attn.dk", "block1.attn.dv"}
    recorded = {p.name: p for p in tape.products}
    kept = {p.name: p for p in step.products}
    assert all(kept[name] is recorded[name] for name in names)
    assert not names & {update.name for update in step.updates}


def test_every_run_of_a_product_of_activations_lies_alike() -> None:
    tape = Tape()
    for run in ("matmul", "matmul/run#2"):
        tape.record(Product(run, Stage.FF, 8, 16, 24, count=2))
        tape.record(Product(f"{run}.da", Stage.BP, 8, 24, 16, count=2))
        tape.record(Product(f"{run}.db", Stage.BP, 16, 8, 24, count=2))
    forms = [job.form for job in step_jobs(tape_step(tape)) if isinstance(job, ProductJob)]
    assert forms == [Form.PLAIN, Form.TURNED, Form.TRANSPOSED] * 2


def test_a_tape_says_whether_updates_add_the_decay_term(tmp_path: Path) -> None:
    tape = read_tape(PYTORCH)
    for decays in (False, True):
        tape.decays = decays
        write_tape(tmp_path / "d.tape", tape)
        for dense in (False, True):
            updates = [
                job for job in step_jobs(read_step(tmp_path / "d.tape", dense=dense)) if isinstance(job, UpdateJob)
            ]
            assert updates
            assert {job.decays for job in updates} == {decays and not dense}
    (tmp_path / "d.tape").write_text('{"tape": 2, "decays": "yes"}\n')
    with pytest.raises(ValueError, match="decays is 'yes'; it must be true or false"):
        read_tape(tmp_path / "d.tape")


def test_a_pytorch_tape_runs_on_sat() -> None:
    tape, step = read_tape(PYTORCH), read_step(PYTORCH)
    assert [p.name for p in step.products][:5] == ["stem", "down", "mix", "hidden", "head"]
    assert sum(p.name.startswith("down/phase") for p in step.products) == 4
    assert step.bound == tape.bound
    assert Update("down", 144, 32, 1, 9, P28, P28) in step.updates
    assert {(p.name, p.stage) for p in step.prunes} == {(name, Stage.WU) for name in ("down", "mix", "hidden")}
    cycles = [machine_step(s, Estimator(preset("vcu1525"))).cycles for s in (step, read_step(PYTORCH, dense=True))]
    assert 1.5 < cycles[1] / cycles[0] < step.bound


def test_large_batches_are_split_at_the_border() -> None:
    rng = np.random.default_rng(0)
    layer = Conv2d("c", 16, 16, 3, rng)  # no padding: the corner of dX meets one tap of nine
    for batch, parts in ((64, 1), (128, 25)):
        ctx = Context(FAST, make_method("bdwp", P28), Tape())
        prepare(layer, ctx)
        y = layer.forward(rng.standard_normal((batch, 6, 6, 16)).astype(np.float32), ctx)
        layer.backward(y, ctx)
        assert ctx.tape is not None
        step = tape_step(ctx.tape)
        assert len([p for p in step.products if p.stage is Stage.BP]) == parts
        assert (step.macs_kept < ctx.tape.macs_kept) == (parts > 1)  # the parts leave padding out


def products(*which: str) -> Tape:
    tape = Tape()
    for p in read_tape(PYTORCH).products:
        if p.name in which:
            tape.record(p)
    return tape


def test_frozen_layers_have_no_update() -> None:
    tape = products("hidden")
    tape.products = [p for p in tape.products if p.stage is not Stage.WU]
    step = tape_step(tape)
    assert not step.updates
    assert [p.stage for p in step.products] == [Stage.FF, Stage.BP]


def test_inference_alone_is_a_step_without_updates() -> None:
    tape = Tape()
    tape.products = [p for p in read_tape(PYTORCH).products if p.stage is Stage.FF]
    step = tape_step(tape)
    assert not step.updates
    assert step.macs_kept == tape.macs_kept
    assert machine_step(step, Estimator(preset("tiny"))).cycles > 0


def test_what_is_no_step_is_refused() -> None:
    with pytest.raises(ValueError, match="no products"):
        tape_step(Tape())
    twice = products("hidden")
    twice.products *= 2
    with pytest.raises(ValueError, match="'hidden' runs 2 times on the tape"):
        tape_step(twice)
    wrong = products("hidden")
    wrong.products[1] = replace(wrong.products[1], k=33)
    with pytest.raises(ValueError, match="'hidden' wu is 32 x 33 x 64"):
        tape_step(wrong)
    other = Tape()
    other.record(Product("p", Stage.FF, 4, 4, 4, sparsity=Unstructured("w", 7)))
    with pytest.raises(ValueError, match="'p' has sparsity beside"):
        tape_step(other)


def test_model_reads_a_tape(call: Callable[[str], Outcome]) -> None:
    values = json.loads(call(f"model {PYTORCH} --json").out)
    assert (values["method"], values["pattern"], values["batch"]) == ("tape", "2:8", None)
    assert values["bound"] == read_step(PYTORCH).bound
    assert 1.5 < values["speedup"] < values["bound"]
    text = call(f"model {PYTORCH}").out
    assert "batch as recorded, tape 2:8" in text
    assert "A tape holds no host operators" in text
    assert [item["kind"] for item in values["left_out"]] == ["unknown, the tape is an older one"]
    assert "left out      layers that were not converted, attention, recurrent layers (unknown" in text


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (f"{PYTORCH} --method bdwp", "leave out --method"),
        (f"{PYTORCH} --batch 8", "leave out --batch"),
        (f"{PYTORCH} --first-last", "leave out --first-last"),
        ("nowhere.tape", "nowhere.tape"),
    ],
)
def test_model_refuses_what_a_tape_decides(call: Callable[[str], Outcome], options: str, words: str) -> None:
    outcome = call(f"model {options}")
    assert outcome.code == 2
    assert words in outcome.err


def test_model_names_the_line_of_a_broken_tape(call: Callable[[str], Outcome], tmp_path: Path) -> None:
    for name, text in (("a", '{"name": 1}\n'), ("b", "x\n"), ("c", "")):
        (tmp_path / f"{name}.tape").write_text(text)
    (tmp_path / "d.tape").write_bytes(b"\xff\xfe\xfa")
    words = {"a": "line 1 is not a product", "b": "line 1 is not a product", "c": "no products", "d": "not a tape"}
    for name, part in words.items():
        outcome = call(f"model {tmp_path / name}.tape")
        assert outcome.code == 2
        assert part in outcome.err


def test_what_was_pruned_within_the_step_is_marked() -> None:
    rng = np.random.default_rng(0)
    for method, marked in (("bdwp", set()), ("sdgp", {Stage.BP}), ("bdwp+mvue", {Stage.WU})):
        for layer, x in ((Linear("l", 16, 16, rng), (16, 16)), (Conv2d("c", 16, 16, 3, rng, padding=1), (2, 4, 4, 16))):
            ctx = Context(tape=Tape(), method=RECIPES["mlp"].replace(method=method).make_method())
            prepare(layer, ctx)
            y = layer.forward(rng.standard_normal(x).astype(np.float16), ctx)
            layer.backward(rng.standard_normal(y.shape).astype(np.float16), ctx)
            assert ctx.tape is not None
            assert {p.stage for p in ctx.tape.products if p.online} == marked


def layer(name: str, *, weight: str, pattern: Pattern | None = P28) -> list[Product]:
    """Return the products of a linear layer 32 -> 16 on 8 rows."""
    return [
        Product(name, Stage.FF, 8, 32, 16, pattern, weight=weight),
        Product(name, Stage.WU, 32, 8, 16, weight=weight),
        Product(name, Stage.BP, 8, 16, 32, pattern, weight=weight),
    ]


def test_a_weight_is_updated_once_however_often_it_is_used() -> None:
    tape = Tape()
    tape.products = [*layer("a", weight="w"), *layer("a/run#2", weight="w"), *layer("b", weight="w", pattern=None)]
    step = tape_step(tape)
    assert step.updates == (Update("a", 32, 16, 1, 1, P28, P28, shared=("b",)),)
    assert [p.name for p in step.products if p.stage is Stage.FF] == ["a", "a/run#2", "b"]
    assert step.macs_dense == 3 * 3 * 8 * 32 * 16
    timer = Estimator(preset("tiny"))
    assert machine_step(step, timer).cycles > machine_step(tape_step(single()), timer).cycles


def single() -> Tape:
    tape = Tape()
    tape.products = layer("a", weight="w")
    return tape


def test_a_run_repeated_for_checkpointing_has_a_forward_product_alone() -> None:
    tape = single()
    tape.products.append(Product("a/run#2", Stage.FF, 8, 32, 16, P28, weight="w"))
    step, dense = tape_step(tape), tape_step(tape, dense=True)
    assert len(step.updates) == 1
    assert [p.pattern for p in step.products if p.name == "a/run#2"] == [P28]
    assert not any(p.pattern for p in dense.products)
    assert step.macs_dense == dense.macs_kept == 4 * 8 * 32 * 16


def test_what_learns_beside_weights_is_updated_and_what_is_missing_is_passed_on() -> None:
    tape = single()
    tape.learnt.append(Learnt("a.bias", 16))
    tape.left_out.append(LeftOut("attn", "mylib::fused", 3))
    step = tape_step(tape)
    assert step.updates[1:] == (Update("a.bias", 16, 1),)
    assert step.left_out == (LeftOut("attn", "mylib::fused", 3),)


def test_model_says_what_a_recording_left_out(call: Callable[[str], Outcome], tmp_path: Path) -> None:
    tape = single()
    tape.left_out.append(LeftOut("attn", "mylib::fused", 3))
    write_tape(tmp_path / "x.tape", tape)
    assert "left out      attn (mylib::fused, 3 calls)" in call(f"model {tmp_path / 'x.tape'} --config tiny").out
    values = json.loads(call(f"model {tmp_path / 'x.tape'} --config tiny --json").out)
    assert values["left_out"] == [{"name": "attn", "kind": "mylib::fused", "calls": 3}]
    tape.left_out.clear()
    write_tape(tmp_path / "y.tape", tape)
    assert "left out" not in call(f"model {tmp_path / 'y.tape'} --config tiny").out


def test_input_gradients_come_before_weight_gradients() -> None:
    assert [p.stage for p in tape_step(single()).products] == [Stage.FF, Stage.BP, Stage.WU]
