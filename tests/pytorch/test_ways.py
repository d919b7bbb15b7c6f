"""Converted models under torch.compile, autocast, torch.func, channels_last and half formats."""

# pyright: reportMissingImports=false
# PyTorch is an optional extra: the type checker runs without it.

from __future__ import annotations

import copy
import shutil
from typing import Any

import numpy as np
import pytest

from tests.pytorch.models import close, kept, mlp, same, train

torch = pytest.importorskip("torch")

from torch.func import functional_call, grad, vmap  # noqa: E402 # after importorskip

from nmsat.algorithms.pytorch import nm_layers, sparsify  # noqa: E402

INDUCTOR = [pytest.mark.long, pytest.mark.skipif(shutil.which("g++") is None, reason="inductor compiles C++")]
"""Takes about half a minute each; make test-torch runs it."""

LONG = pytest.mark.long
"""Of what is compiled, one of each kind runs in CI; compiling takes most of the time of these tests."""

pytestmark = pytest.mark.filterwarnings("ignore:.*(TF32|cpp_wrapper).*")


def quiet(model: Any, method: str = "bdwp", pattern: str = "2:8", **options: Any) -> Any:
    return sparsify(model, method, pattern, show=False, **options)


def image_model() -> Any:
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Conv2d(8, 16, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv2d(16, 16, 3, stride=2, groups=2),
        torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(64, 16),
    )  # fmt: skip


def gradients(model: Any, x: Any, run: Any = None) -> list[Any]:
    """Return output, input gradient and the gradients of all parameters."""
    model.zero_grad()
    t = x.clone().requires_grad_()
    y = (model if run is None else run)(t)
    y.float().square().sum().backward()
    return [y, t.grad, *(p.grad.clone() for p in model.parameters())]


@pytest.fixture
def fresh() -> Any:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.usefixtures("fresh")
@pytest.mark.parametrize(
    ("method", "backend"),
    [
        ("bdwp", "aot_eager"),
        pytest.param("bdwp", "eager", marks=LONG),
        pytest.param("sdgp", "eager", marks=LONG),
        pytest.param("sdgp", "aot_eager", marks=LONG),
        pytest.param("bdwp", "inductor", marks=INDUCTOR),
        pytest.param("sdgp", "inductor", marks=INDUCTOR),
    ],
)
def test_compiled_models_compute_the_same(backend: str, method: str) -> None:
    model = quiet(image_model(), method, dense=["0"], decay=0.5 if method == "bdwp" else None)
    x = torch.randn(2, 8, 6, 6)
    want = gradients(model, x)
    got = gradients(model, x, torch.compile(model, backend=backend, fullgraph=True))
    for ours, theirs in zip(got, want, strict=True):
        assert close(ours, theirs, 1e-4)


@pytest.mark.usefixtures("fresh")
@pytest.mark.parametrize("backend", ["eager", pytest.param("aot_eager", marks=LONG)])
def test_compiled_attention_computes_the_same(backend: str) -> None:
    torch.manual_seed(0)
    layer = torch.nn.TransformerEncoderLayer(32, 4, 64, dropout=0.0, batch_first=True)
    model = quiet(layer, dense=[])
    x = torch.randn(2, 5, 32)
    want = gradients(model, x)
    got = gradients(model, x, torch.compile(model, backend=backend, fullgraph=True))
    for ours, theirs in zip(got, want, strict=True):
        assert close(ours, theirs, 1e-4)


@pytest.mark.usefixtures("fresh")
@pytest.mark.parametrize("method", ["bdwp", "transposable", pytest.param("bi-mask", marks=LONG)])
def test_compiled_training_is_the_uncompiled_one(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    models = []
    for compiled in (False, True):
        model = quiet(mlp(), method, decay=0.01)
        if method != "bdwp":
            monkeypatch.setattr(model[2].rule.weights, "interval", 3)
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, fused=True)
        run = torch.compile(model, backend="aot_eager") if compiled else model
        train(run, optimizer, steps=7, micro=2)
        models.append(model)
    if method != "bdwp":
        assert int(models[1][2].nm_weight_calls) == 7
    for p, q in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert close(p, q, 1e-4)


@pytest.mark.usefixtures("fresh")
def test_compiled_computed_weights_name_what_cannot_be_compiled() -> None:
    model = mlp()
    torch.nn.utils.parametrizations.weight_norm(model[2])
    quiet(model, dense=[])
    x = torch.randn(2, 16)
    with pytest.raises(Exception, match="SR-STE term once per update cannot be compiled"):
        torch.compile(model, backend="eager", fullgraph=True)(x)
    torch._dynamo.reset()
    quiet(model, dense=[], decay=0.0)
    assert close(torch.compile(model, backend="eager")(x), model(x))


@pytest.mark.parametrize("method", ["bdwp", "sdgp", "bdwp+mvue", "transposable"])
def test_autocast_multiplies_in_bfloat16_with_the_masks_of_the_masters(method: str) -> None:
    model = quiet(image_model(), method, dense=[])
    x = torch.randn(2, 8, 6, 6)
    whole = gradients(model, x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = model(x)
        assert y.dtype == torch.bfloat16
        assert model[0](x).dtype == torch.bfloat16
    got = gradients(model, x, lambda t: _cast(model, t))
    assert all(g.dtype == torch.float32 for g in got[1:])
    assert close(got[0], whole[0], 0.05)
    if method != "bdwp+mvue":
        for ours, theirs in zip(got[1:], whole[1:], strict=True):
            assert (ours - theirs).norm() < 0.15 * theirs.norm() + 1e-3


def _cast(model: Any, x: Any) -> Any:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return model(x).float()


def test_autocast_leaves_float16_scaled_gradients_alone() -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    model = quiet(mlp(), dense=[], decay=0.5, scaler=scaler.get_scale)
    scaler.scale(model(torch.zeros(2, 16)).sum().mul(0)).backward()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    scaler.unscale_(optimizer)
    weight = model[2]._parameters["weight"]
    assert close(weight.grad, torch.where(torch.from_numpy(kept(weight)), 0, 0.5 * weight.detach()), 1e-5)


@pytest.mark.parametrize("method", ["bdwp", "transposable"])
def test_a_scaler_that_skips_a_step_changes_nothing(method: str) -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    model = quiet(mlp(), method, dense=[], decay=0.1, scaler=scaler.get_scale)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for at, scale in enumerate((1.0, float("inf"), 1.0)):
        before = copy.deepcopy(list(model.parameters()))
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = model(torch.ones(2, 16)).square().sum()
        scaler.scale(loss * scale).backward()
        scaler.step(optimizer)
        scaler.update()
        kept_still = all(torch.equal(p, q) for p, q in zip(before, model.parameters(), strict=True))
        assert kept_still is (at == 1)
    assert scaler.get_scale() == 512.0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_models_of_other_formats(dtype: Any) -> None:
    model = quiet(mlp(), dense=[]).to(dtype)
    y = model(torch.randn(4, 16, dtype=dtype))
    y.sum().backward()
    assert y.dtype == dtype
    weight = model[2]._parameters["weight"]
    assert weight.grad.dtype == dtype
    assert np.array_equal(model[2].weight.detach().float().numpy() != 0, kept(weight))


@pytest.mark.parametrize("method", ["bdwp", "sdgp", "bi-mask"])
def test_channels_last_computes_the_same(method: str) -> None:
    model = quiet(image_model(), method, dense=[])
    x = torch.randn(2, 8, 6, 6)
    want = gradients(model, x)
    model.to(memory_format=torch.channels_last)
    last = x.to(memory_format=torch.channels_last)
    got = gradients(model, last)
    for ours, theirs in zip(got, want, strict=True):
        assert close(ours, theirs, 1e-4)
    assert model[0](last).is_contiguous(memory_format=torch.channels_last)


def plain_parameters(model: Any) -> dict[str, Any]:
    return {name: p.detach().clone().requires_grad_() for name, p in model.named_parameters()}


@pytest.mark.parametrize("method", ["bdwp", "sr-ste", "sdgp"])
def test_functional_call_uses_the_given_weights(method: str) -> None:
    model = quiet(mlp(), method, dense=[])
    other = quiet(mlp(), method, dense=[])
    train(other, torch.optim.SGD(other.parameters(), lr=0.5), steps=3)
    x = torch.randn(3, 16)
    before = copy.deepcopy(model.state_dict())
    given = plain_parameters(other)
    other.zero_grad()
    other(x).square().sum().backward()
    y = functional_call(model, given, (x,))
    y.square().sum().backward()
    assert close(y, other(x))
    for name, p in other.named_parameters():
        assert close(given[name].grad, p.grad, 1e-4)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert close(model(x), functional_call(model, plain_parameters(model), (x,)))


def test_function_transforms_get_the_decay_too() -> None:
    model = quiet(mlp(), dense=[], decay=0.5)
    given = {name: p.detach() for name, p in model.named_parameters()}
    x = torch.randn(4, 16)

    def loss(p: Any, t: Any) -> Any:
        return functional_call(model, p, (t,)).square().sum()

    model(x).square().sum().backward()
    got = grad(loss)(given, x)
    for name, p in model.named_parameters():
        assert close(got[name], p.grad, 1e-4)
    single = [grad(loss)(given, row[None]) for row in x]
    rows = vmap(grad(loss), (None, 0))(given, x[:, None])
    for name in given:
        assert close(rows[name], torch.stack([s[name] for s in single]), 1e-4)
    # weights that are computed (a step of meta learning) are no leaves: the term is in the graph
    leaf = {name: v.clone().requires_grad_() for name, v in given.items()}
    loss({name: v * 1 for name, v in leaf.items()}, x).backward()
    for name, p in model.named_parameters():
        assert close(leaf[name].grad, p.grad, 1e-4)


def test_ensembles_of_weights_are_vmapped() -> None:
    models = [quiet(mlp(), dense=[]) for _ in range(2)]
    train(models[1], torch.optim.SGD(models[1].parameters(), lr=0.5), steps=3)
    parameters, buffers = torch.func.stack_module_state(models)
    x = torch.randn(3, 16)
    y = vmap(lambda p, b: functional_call(models[0], (p, b), (x,)))(parameters, buffers)
    assert close(y, torch.stack([m(x) for m in models]))


def test_methods_with_a_memory_refuse_transforms() -> None:
    model = quiet(mlp(), "transposable", dense=[])
    given = {name: p.detach() for name, p in model.named_parameters()}
    with pytest.raises(NotImplementedError, match="'transposable' remembers its masks"):
        grad(lambda p: functional_call(model, p, (torch.randn(2, 16),)).sum())(given)
    assert close(functional_call(model, given, (torch.ones(2, 16),)), model(torch.ones(2, 16)))


def test_frozen_layers_have_no_gradient_and_the_rest_trains() -> None:
    model = quiet(mlp(), dense=[])
    model[2].requires_grad_(False)
    before = copy.deepcopy(model)
    train(model, torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1), steps=2)
    assert same(model[2], before[2])
    assert not same(model[0], before[0])
    assert model[2]._parameters["weight"].grad is None


def test_inference_mode_runs() -> None:
    model = quiet(mlp(), dense=[])
    x = torch.randn(2, 16)
    with torch.inference_mode():
        y = model(x)
    assert close(y, model(x))
    assert len(nm_layers(model)) == 3
