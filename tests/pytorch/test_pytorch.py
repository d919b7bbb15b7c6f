"""The PyTorch extra against the NumPy reference. Left out where PyTorch is not installed: it is an optional extra."""

# pyright: reportMissingImports=false
# PyTorch is an optional extra: the type checker runs without it.

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import numpy as np
import pytest

from nmsat.algorithms.core.arithmetic import FloatArithmetic
from nmsat.algorithms.core.nm import mask
from nmsat.algorithms.core.tape import Pattern, Stage, Tape
from nmsat.algorithms.core.tape_file import read_tape
from nmsat.algorithms.core.vocabulary import MethodFacts
from nmsat.algorithms.layers.attention import Attention
from nmsat.algorithms.layers.base import Context, Layer, prepare
from nmsat.algorithms.layers.loss import softmax_cross_entropy
from nmsat.algorithms.layers.norm import BatchNorm, LayerNorm
from nmsat.algorithms.layers.parameter import Parameter
from nmsat.algorithms.layers.pointwise import Gelu
from nmsat.algorithms.layers.pooling import GlobalAveragePool, MaxPool2d
from nmsat.algorithms.layers.products import Conv2d, Linear
from nmsat.algorithms.methods import METHODS, make_method, register, unregister
from nmsat.algorithms.methods import gradients as reference
from nmsat.algorithms.training.optim import Adam, Sgd

torch = pytest.importorskip("torch")

from nmsat.algorithms.pytorch import export_masks, nm_layers, record_step, sparsify  # noqa: E402 # after importorskip
from nmsat.algorithms.pytorch.selection import inclusion, mvue, nm_mask  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

CONVOLUTIONS = [
    {"kernel": 3, "padding": 1},
    {"kernel": 3, "stride": 2, "padding": 1},
    {"kernel": 1},
    {"kernel": 3, "dilation": 2, "padding": 2},
]


def rng(seed: int = 3) -> np.random.Generator:
    return np.random.default_rng(seed)


def specials(shape: tuple[int, ...]) -> np.ndarray:
    """Values with many ties, zeros of both signs, subnormals, infinities and NaNs."""
    values = np.array([0.0, -0.0, 6e-8, -6e-8, 1.0, -1.0, 1.0001, 65504.0, 1e6, -np.inf, np.nan, 0.5], np.float32)
    return values[rng().integers(0, len(values), shape)]


@pytest.mark.parametrize("pattern", [(1, 2), (2, 4), (2, 8), (3, 16)])
@pytest.mark.parametrize("dim", [0, 1, 2])
def test_masks_are_the_reference(pattern: tuple[int, int], dim: int) -> None:
    for w in (specials((21, 19, 5)), rng().standard_normal((21, 19, 5)).astype(np.float32)):
        got = nm_mask(torch.from_numpy(w), *pattern, dim).numpy()
        assert np.array_equal(got, mask(w, *pattern, axis=dim))


@pytest.mark.parametrize("pattern", [(1, 2), (2, 4), (2, 8), (5, 16)])
def test_sampling_is_the_reference(pattern: tuple[int, int]) -> None:
    n, m = pattern
    dy = rng().standard_normal((37, 6)).astype(np.float32)
    dy[4:8] = 0
    x = np.abs(dy[: 32 // m * m]).astype(np.float64).reshape(-1, m, 6)
    assert np.allclose(inclusion(torch.from_numpy(x), n).numpy(), reference.inclusion(x, n), rtol=1e-12)
    u = rng(9).random((-(-37 // m), 1, 6))
    got = mvue(torch.from_numpy(dy), n, m, torch.from_numpy(u)).numpy()
    assert np.allclose(got, reference.mvue(dy, n, m, rng(9)), rtol=1e-6)


def by_stage(tape: Tape) -> list[tuple[object, ...]]:
    """Return the facts of the products, those of one stage in their order."""
    return [p.facts() for stage in Stage for p in tape.of(stage)]


def numpy_step(
    layer: Conv2d | Linear, method: str, x: np.ndarray, dy: np.ndarray
) -> tuple[dict[str, np.ndarray], Tape]:
    ctx = Context(FloatArithmetic(np.float64), make_method(method, Pattern(2, 8)), Tape(), rng=rng(9))
    for p in layer.parameters():
        p.master = p.master.astype(np.float64)
    prepare(layer, ctx)
    y = layer.forward(x, ctx)
    dx = layer.backward(dy, ctx)
    assert ctx.tape is not None and layer.weight.grad is not None and layer.bias is not None
    assert layer.bias.grad is not None
    grad, decay = layer.weight.grad, ctx.method.decay
    if layer.weight.mask_ff is not None:  # what the optimizer adds in the reference is in the gradient here
        grad = grad + decay * np.where(layer.weight.mask_ff, 0, layer.weight.master)
    return {"y": y, "dx": dx, "dw": grad, "db": layer.bias.grad}, ctx.tape


def same_uniforms(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let PyTorch draw the numbers that the reference draws."""
    draws = rng(9)
    monkeypatch.setattr(torch, "rand", lambda shape, **_: torch.from_numpy(draws.random(shape)))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("options", CONVOLUTIONS, ids=str)
def test_convolutions_are_the_reference(
    method: str, options: dict, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ours = Conv2d("0", 16, 24, rng=rng(), bias=True, **options)
    assert ours.bias is not None
    ours.bias.master = rng(1).standard_normal(24).astype(np.float32)
    theirs = torch.nn.Conv2d(
        16, 24, options["kernel"], *(options.get(k, d) for k, d in [("stride", 1), ("padding", 0)])
    )
    theirs.dilation = (options.get("dilation", 1),) * 2
    theirs = theirs.double()
    kernel = ours.weight.master.reshape(*ours.shape.kernel, 16, 24).transpose(3, 2, 0, 1)
    with torch.no_grad():
        theirs.weight.copy_(torch.from_numpy(kernel.copy()))
        theirs.bias.copy_(torch.from_numpy(ours.bias.master))
    model = sparsify(torch.nn.Sequential(theirs), method, dense=[])
    x = rng(4).standard_normal((3, 7, 8, 16))
    tx = torch.from_numpy(x.transpose(0, 3, 1, 2).copy()).requires_grad_()
    shape = model(tx).shape
    dy = rng(5).standard_normal((shape[0], shape[2], shape[3], shape[1]))
    want, tape = numpy_step(ours, method, x, dy)
    same_uniforms(monkeypatch)
    got = {}

    def step() -> None:
        got["y"] = model(tx)
        got["y"].backward(torch.from_numpy(dy.transpose(0, 3, 1, 2).copy()))

    recorded = record_step(step, tmp_path / "step.tape")
    assert np.allclose(got["y"].detach().numpy().transpose(0, 2, 3, 1), want["y"], atol=1e-9)
    assert np.allclose(tx.grad.numpy().transpose(0, 2, 3, 1), want["dx"], atol=1e-9)
    dw = theirs.weight.grad.numpy().transpose(2, 3, 1, 0).reshape(want["dw"].shape)
    assert np.allclose(dw, want["dw"], atol=1e-9)
    assert np.allclose(theirs.bias.grad.numpy(), want["db"], atol=1e-9)
    assert by_stage(recorded) == by_stage(tape)
    assert by_stage(read_tape(tmp_path / "step.tape")) == by_stage(tape)


@pytest.mark.parametrize("method", METHODS)
def test_linear_layers_are_the_reference(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = Linear("0", 19, 21, rng())
    theirs = torch.nn.Linear(19, 21).double()
    assert ours.bias is not None
    ours.bias.master = rng(1).standard_normal(21).astype(np.float32)
    with torch.no_grad():
        theirs.weight.copy_(torch.from_numpy(ours.weight.master.T.copy()))
        theirs.bias.copy_(torch.from_numpy(ours.bias.master))
    model = sparsify(torch.nn.Sequential(theirs), method, dense=[])
    x, dy = rng(4).standard_normal((3, 4, 19)), rng(5).standard_normal((3, 4, 21))
    want, tape = numpy_step(ours, method, x, dy)
    same_uniforms(monkeypatch)
    tx = torch.from_numpy(x).requires_grad_()
    recorded = record_step(lambda: model(tx).backward(torch.from_numpy(dy)))
    assert np.allclose(tx.grad.numpy(), want["dx"], atol=1e-9)
    assert np.allclose(theirs.weight.grad.numpy(), want["dw"].T, atol=1e-9)
    assert np.allclose(theirs.bias.grad.numpy(), want["db"], atol=1e-9)
    assert by_stage(recorded) == by_stage(tape)


def test_a_registered_method_is_the_reference(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def far_from_zero_column(w: np.ndarray, n: int, m: int, axis: int) -> np.ndarray:
        del n, m
        size = np.abs(w.astype(np.float32))
        return size / (1 + size.mean(axis=axis, keepdims=True))

    register("own", MethodFacts(ff_weights=True, bp_weights=True, decay=1e-3), far_from_zero_column)
    try:
        test_linear_layers_are_the_reference("own", monkeypatch)
        test_convolutions_are_the_reference("own", CONVOLUTIONS[0], monkeypatch, tmp_path)
        model = sparsify(torch.nn.Sequential(torch.nn.Linear(16, 16)), "own", dense=[])
        x = torch.randn(2, 16)
        assert torch.equal(torch.compile(model, backend="eager")(x), model(x))
        with pytest.raises(NotImplementedError, match="computed in NumPy; it cannot run under"):
            torch.func.vmap(lambda w: torch.func.functional_call(model, {"0.weight": w}, torch.ones(2, 16)))(
                torch.ones(3, 16, 16)
            )
    finally:
        unregister("own")


def small():  # a PyTorch module, whose type the checker does not know
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Conv2d(1, 16, 3, padding=1),
        torch.nn.ReLU(),
        torch.nn.Conv2d(16, 16, 3, padding=1),
        torch.nn.ReLU(),
        torch.nn.Flatten(),
        torch.nn.Linear(16 * 64, 10),
    )


def test_parameters_keep_identity_and_ends_stay_dense() -> None:
    model = small()
    before, state = list(model.parameters()), copy.deepcopy(model.state_dict())
    assert sparsify(model) is model
    assert all(a is b for a, b in zip(before, model.parameters(), strict=True))
    assert list(model.state_dict()) == list(state)
    assert {name: layer.rule.method.name for name, layer in nm_layers(model).items()} == {
        "0": "dense",
        "2": "bdwp",
        "5": "dense",
    }


def test_a_dense_conversion_changes_nothing() -> None:
    plain, converted = small(), sparsify(small(), "dense")
    x = torch.randn(4, 1, 8, 8)
    for model in (plain, converted):
        model(x).square().sum().backward()
    for p, q in zip(plain.parameters(), converted.parameters(), strict=True):
        assert torch.allclose(p.grad, q.grad, rtol=1e-4, atol=1e-4)


def test_training_learns() -> None:
    model = sparsify(small(), "bdwp+mvue", "2:8")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    x, y = torch.randn(64, 1, 8, 8), torch.randint(0, 10, (64,))
    losses = []
    for _ in range(40):
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.2 * losses[0]


def test_the_decay_term_follows_the_loss_scale() -> None:
    grads = []
    for scale in (1.0, 1024.0):
        model = sparsify(small(), "bdwp", "2:8", decay=0.5, scaler=lambda scale=scale: scale)
        (model(torch.ones(2, 1, 8, 8)).sum() * scale).backward()
        grads.append(nm_layers(model)["2"].weight.grad / scale)
    assert torch.allclose(*grads, rtol=1e-3, atol=1e-4)


def test_autocast_runs_in_both_directions() -> None:
    model = sparsify(small(), "bdwp", "2:8")
    x = torch.randn(4, 1, 8, 8, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        model(x).float().square().mean().backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in model.parameters())
    assert x.grad is not None


def test_exported_masks_have_the_layout_of_pytorch(tmp_path: Path) -> None:
    model = sparsify(small(), "bdwp", "2:8")
    export_masks(model, tmp_path / "masks.npz")
    with np.load(tmp_path / "masks.npz") as file:
        assert file.files == ["2.weight"]
        keep = file["2.weight"]
    weight = model[2].weight.detach().numpy()
    assert np.array_equal(keep, mask(weight, 2, 8, axis=1))  # 16 input channels: groups do not cross taps
    with pytest.raises(ValueError, match="nothing to export"):
        export_masks(sparsify(small(), "sdgp"), tmp_path / "none.npz")


def refuse_unknown_layer() -> None:
    sparsify(small(), dense=["7"])


def refuse_pattern() -> None:
    sparsify(small(), "bdwp", "9:8")


def refuse_empty_step() -> None:
    record_step(lambda: torch.ones(3).sum())


@pytest.mark.parametrize(
    ("action", "match"),
    [
        (refuse_unknown_layer, "'7'"),
        (refuse_pattern, "9:8"),
        (refuse_empty_step, "no matrix product"),
    ],
)
def test_bad_requests_are_named(action: Callable[[], None], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        action()


def test_sparse_stages_of_the_tape() -> None:
    model = sparsify(small(), "bdwp+mvue", "2:4")
    tape = record_step(lambda: model(torch.randn(2, 1, 8, 8)).sum().backward())
    assert {(p.name, p.stage) for p in tape.products if p.pattern} == {("2", s) for s in (Stage.FF, Stage.BP, Stage.WU)}
    assert [(p.name, p.stage.value) for p in tape.products if p.name == "0"] == [("0", "ff"), ("0", "wu")]


def in_double(layer: Layer) -> Context:
    ctx = Context(FloatArithmetic(np.float64))
    for p in layer.parameters():
        p.master = p.master + 0.3 * rng(8).standard_normal(p.master.shape)
    prepare(layer, ctx)
    return ctx


def same_gradients(layer: Layer, theirs: Callable, x: np.ndarray, pairs: Callable[[], list[tuple]]) -> None:
    """Compare output, input gradient and parameter gradients; theirs reads and writes channels last."""
    ctx = in_double(layer)
    ours = layer.forward(x, ctx)
    for parameter, tensor in pairs():
        with torch.no_grad():
            tensor.copy_(torch.from_numpy(parameter.master.T.copy()))
    tx = torch.from_numpy(x).requires_grad_()
    y = theirs(tx)
    dy = rng(5).standard_normal(ours.shape)
    y.backward(torch.from_numpy(dy))
    assert np.allclose(ours, y.detach().numpy(), atol=1e-9)
    assert np.allclose(layer.backward(dy, ctx), tx.grad.numpy(), atol=1e-9)
    for parameter, tensor in pairs():
        assert np.allclose(parameter.grad, tensor.grad.numpy().T, atol=1e-9)


def test_batch_norm_is_pytorch() -> None:
    ours, theirs = BatchNorm("n", 6), torch.nn.BatchNorm2d(6).double()
    x = rng(4).standard_normal((3, 4, 5, 6)) * 2 + 1
    pairs = lambda: [(ours.gain, theirs.weight), (ours.offset, theirs.bias)]  # noqa: E731 # a pair of names
    same_gradients(ours, lambda t: theirs(t.permute(0, 3, 1, 2)).permute(0, 2, 3, 1), x, pairs)
    assert np.allclose(ours.mean, theirs.running_mean.numpy())


def test_layer_norm_and_gelu_are_pytorch() -> None:
    ours, theirs = LayerNorm("n", 6), torch.nn.LayerNorm(6).double()
    x = rng(4).standard_normal((3, 4, 6)) * 2 + 1
    same_gradients(ours, theirs, x, lambda: [(ours.gain, theirs.weight), (ours.offset, theirs.bias)])
    same_gradients(Gelu(), torch.nn.GELU(approximate="tanh"), x, list)


@pytest.mark.parametrize("causal", [False, True])
def test_attention_is_pytorch(causal: bool) -> None:
    ours, theirs = Attention("a", 8, 2, rng(), causal=causal), torch.nn.MultiheadAttention(8, 2, batch_first=True)
    theirs = theirs.double()
    hidden = torch.triu(torch.ones(5, 5, dtype=torch.bool), 1) if causal else None

    def pairs() -> list[tuple]:
        project, out = ours.project, ours.out
        return [
            (project.weight, theirs.in_proj_weight),
            (project.bias, theirs.in_proj_bias),
            (out.weight, theirs.out_proj.weight),
            (out.bias, theirs.out_proj.bias),
        ]

    same_gradients(ours, lambda t: theirs(t, t, t, attn_mask=hidden)[0], rng(4).standard_normal((3, 5, 8)), pairs)


def test_pooling_and_loss_are_pytorch() -> None:
    nchw = lambda f: lambda t: f(t.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)  # noqa: E731
    x = rng(4).standard_normal((3, 5, 6, 2))
    same_gradients(MaxPool2d(2), nchw(torch.nn.MaxPool2d(2)), x, list)
    same_gradients(GlobalAveragePool(), lambda t: t.mean(dim=(1, 2)), x, list)
    logits, labels = rng(4).standard_normal((7, 5)), rng().integers(0, 5, 7)
    loss, grad = softmax_cross_entropy(logits, labels, FloatArithmetic(np.float64))
    t = torch.from_numpy(logits).requires_grad_()
    want = torch.nn.functional.cross_entropy(t, torch.from_numpy(labels))
    want.backward()
    assert loss == pytest.approx(want.item())
    assert np.allclose(grad, t.grad.numpy())


@pytest.mark.parametrize("kind", ["sgd", "adam"])
def test_optimizers_are_pytorch(kind: str) -> None:
    p = Parameter("p", rng().standard_normal(9))
    t = torch.nn.Parameter(torch.from_numpy(p.master.copy()))
    ours = Sgd(0.9, 0.1) if kind == "sgd" else Adam(weight_decay=0.1)
    theirs = (
        torch.optim.SGD([t], lr=0.05, momentum=0.9, weight_decay=0.1)
        if kind == "sgd"
        else torch.optim.AdamW([t], lr=0.05, weight_decay=0.1)
    )
    for step in range(5):
        p.grad = rng(step).standard_normal(9)
        t.grad = torch.from_numpy(p.grad.copy())
        assert ours.step([p], 0.05)
        theirs.step()
        assert np.allclose(p.master, t.detach().numpy(), rtol=1e-6)
