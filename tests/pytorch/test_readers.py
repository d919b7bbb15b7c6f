"""Whoever reads a converted layer's weight gets what the method means: fused paths, attention, functions, writers."""

# pyright: reportMissingImports=false
# PyTorch is an optional extra: the type checker runs without it.

from __future__ import annotations

import copy
import warnings
from typing import Any

import numpy as np
import pytest

from tests.pytorch.models import close, exact_gradients, kept, kept_backward, mlp

torch = pytest.importorskip("torch")

from torch.nn import functional  # noqa: E402 # after importorskip

from nmsat.algorithms.pytorch import bake, nm_layers, sparsify  # noqa: E402


def quiet(model: Any, method: str = "bdwp", pattern: str = "2:8", **options: Any) -> Any:
    return sparsify(model, method, pattern, show=False, **options)


def encoder(**options: Any) -> Any:
    torch.manual_seed(0)
    layer = torch.nn.TransformerEncoderLayer(32, 4, 64, dropout=0.0, batch_first=True, **options)
    return torch.nn.TransformerEncoder(layer, 2)


@pytest.mark.filterwarnings("ignore:.*nested tensors.*")
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("method", ["bdwp", "transposable", "ste"])
def test_a_transformer_encoder_evaluates_with_pruned_weights(method: str, padded: bool) -> None:
    model = quiet(encoder(), method, dense=[])
    x = torch.randn(3, 6, 32)
    hidden = torch.zeros(3, 6, dtype=torch.bool)
    hidden[1, 4:] = padded
    options = {"src_key_padding_mask": hidden} if padded else {}
    trained = model.train()(x, **options)
    with torch.no_grad():
        evaluated = model.eval()(x, **options)
        plain = bake(model)(x, **options)
        dense = encoder().eval()(x, **options)
    rows = ~hidden
    assert close(evaluated[rows], trained[rows])
    assert close(plain[rows], trained[rows])
    assert (evaluated[rows] - dense[rows]).abs().max() > 0.05
    assert not {"self_attn", "linear1", "linear2"} - {name.split(".")[-1] for name in nm_layers(model)}


def attention(**options: Any) -> Any:
    torch.manual_seed(0)
    given = {"dropout": 0.0, "batch_first": True, **options}
    made = torch.nn.MultiheadAttention(32, 4, **given)
    for p in made.parameters():
        torch.nn.init.normal_(p, std=0.3)
    return made


KINDS: list[dict[str, Any]] = [
    {},
    {"batch_first": False},
    {"bias": False},
    {"kdim": 16, "vdim": 24},
    {"add_bias_kv": True},
    {"add_zero_attn": True},
    {"add_bias_kv": True, "add_zero_attn": True, "bias": False},
]


@pytest.mark.parametrize("options", KINDS, ids=str)
@pytest.mark.parametrize("need", [False, True])
def test_attention_without_pruning_is_pytorch(options: dict[str, Any], need: bool) -> None:
    theirs = attention(**options)
    ours = quiet(copy.deepcopy(theirs), dense=["out_proj", ""])
    for slot in ours.nm.values():
        assert slot.rule.dense
    q, k, v = (torch.randn(3, 5, size) for size in (32, options.get("kdim", 32), options.get("vdim", 32)))
    hidden = torch.triu(torch.ones(5, 5, dtype=torch.bool), 1)
    padding = torch.zeros(3, 5, dtype=torch.bool)
    padding[0, 3:] = True
    if not options.get("batch_first", True):
        q, k, v = (t.transpose(0, 1) for t in (q, k, v))
    cases: list[dict[str, Any]] = [{}, {"attn_mask": hidden}, {"key_padding_mask": padding}]
    cases += [{"attn_mask": hidden.float() * -2}, {"attn_mask": hidden, "key_padding_mask": padding}]
    cases += [{"attn_mask": hidden.expand(12, 5, 5)}, {"attn_mask": hidden, "is_causal": True}]
    if need:
        cases.append({"average_attn_weights": False})
    for case in cases:
        for triple in [(q, k, v)] if "kdim" in options else [(q, q, q), (q, k, k), (q, k, v)]:
            y, weights = ours(*triple, need_weights=need, **case)
            want, want_weights = theirs(*triple, need_weights=need, **case)
            assert close(y, want)
            assert (weights is None) == (want_weights is None)
            assert weights is None or close(weights, want_weights)
    if options.get("batch_first", True) and "kdim" not in options:  # one sequence
        y, weights = ours(q[0], k[0], v[0], need_weights=need)
        want, want_weights = theirs(q[0], k[0], v[0], need_weights=need)
        assert close(y, want)
        assert weights is None or close(weights, want_weights)


@pytest.mark.parametrize(
    ("shared", "separate"), [("all", False), ("kv", False), ("none", False), ("kv", True), ("none", True)]
)
def test_attention_projects_with_both_copies(shared: str, separate: bool) -> None:
    """Against the same attention written with plain products by hand."""
    model = attention(kdim=16, vdim=16) if separate else attention()
    reference = copy.deepcopy(model)
    model = quiet(model, dense=["out_proj"], decay=0.0)
    width = 16 if separate else 32
    x, c, d = torch.randn(2, 5, 32), torch.randn(2, 7, width), torch.randn(2, 7, width)
    triple = {"all": (x, x, x), "kv": (x, c, c), "none": (x, c, d)}[shared]
    leaves = [t.clone().requires_grad_() for t in dict.fromkeys(triple)]
    find = dict(zip(dict.fromkeys(triple), leaves, strict=True))
    y, _ = model(*(find[t] for t in triple), need_weights=False)
    dy = torch.randn_like(y)
    y.backward(dy)
    names = ["q_proj_weight", "k_proj_weight", "v_proj_weight"]
    parts = [getattr(reference, n) for n in names] if separate else list(reference.in_proj_weight.chunk(3))
    values = [p.detach().clone().requires_grad_() for p in parts]
    masks = [(torch.from_numpy(kept(p)), torch.from_numpy(kept_backward(p))) for p in values]
    inputs = [t.clone().requires_grad_() for t in dict.fromkeys(triple)]
    again = dict(zip(dict.fromkeys(triple), inputs, strict=True))
    projected = []
    for t, w, (ff, bp), b in zip(triple, values, masks, reference.in_proj_bias.detach().chunk(3), strict=True):
        source = again[t]
        forward = functional.linear(source.detach(), w + (torch.where(ff, w, 0) - w).detach(), b)
        backward = functional.linear(source, torch.where(bp, w, 0).detach())
        projected.append(forward + (backward - backward.detach()))
    q, k, v = (t.unflatten(2, (4, 8)).transpose(1, 2) for t in projected)
    want = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
    want = functional.linear(want, reference.out_proj.weight, reference.out_proj.bias)
    want.backward(dy)
    assert close(y, want)
    for ours, theirs in zip(leaves, inputs, strict=True):
        assert close(ours.grad, theirs.grad, 1e-4)
    own = [model._parameters[n].grad for n in names] if separate else model._parameters["in_proj_weight"].grad.chunk(3)
    for ours, theirs in zip(own, values, strict=True):
        assert close(ours, theirs.grad, 1e-4)


def test_functions_on_the_weight_do_what_the_layer_does() -> None:
    model = quiet(mlp(), dense=[], decay=0.0)
    layer = model[2]
    dense = layer._parameters["weight"]
    x, dy = torch.randn(4, 3, 32), torch.randn(4, 3, 32)
    y, dx, dw = exact_gradients(layer, x, dy, dense, kept(dense), kept_backward(dense))
    for run in (layer, lambda t: functional.linear(t, layer.weight, layer.bias)):
        model.zero_grad()
        t = x.clone().requires_grad_()
        got = run(t)
        got.backward(dy)
        assert close(got, y)
        assert close(t.grad, dx)
        assert close(dense.grad, dw, 1e-4)


def test_convolution_functions_on_the_weight_do_what_the_layer_does() -> None:
    torch.manual_seed(0)
    layer = quiet(torch.nn.Sequential(torch.nn.Conv2d(16, 16, 3, stride=2, padding=1)), dense=[], decay=0.0)[0]
    x = torch.randn(2, 16, 7, 7)
    grads = []
    for run in (layer, lambda t: functional.conv2d(t, layer.weight, layer.bias, 2, padding=1)):
        layer.zero_grad()
        t = x.clone().requires_grad_()
        y = run(t)
        y.square().sum().backward()
        grads.append((y, t.grad, layer._parameters["weight"].grad))
    for ours, theirs in zip(*grads, strict=True):
        assert close(ours, theirs, 1e-4)


def test_reading_is_pruned_and_writing_reaches_the_master() -> None:
    model = quiet(mlp(), dense=[], decay=0.0)
    layer = model[2]
    dense = layer._parameters["weight"]
    assert np.array_equal(layer.weight.detach().numpy() != 0, kept(dense))
    assert np.array_equal(layer.weight.data.numpy() != 0, kept(dense))
    assert layer.weight.shape == (32, 32)
    assert (layer.weight * 2).sum() == layer.weight.sum() * 2
    new = torch.randn(32, 32)
    with torch.no_grad():
        layer.weight.copy_(new)
    assert torch.equal(dense, new)
    layer.weight.data.mul_(2)
    assert torch.equal(dense, new * 2)
    torch.nn.init.constant_(layer.weight, 0.5)
    assert torch.equal(dense, torch.full((32, 32), 0.5))
    layer.weight.data[3, 4] = 7.0
    assert dense[3, 4] == 7
    model(torch.randn(2, 16)).sum().backward()
    assert layer.weight.grad is dense.grad
    layer.weight.requires_grad_(False)
    assert not dense.requires_grad
    layer.weight.requires_grad = True
    assert dense.requires_grad
    with pytest.raises(TypeError, match="cannot assign"):
        layer.weight = torch.zeros(32, 32)


def test_a_penalty_on_the_weight_reaches_the_master() -> None:
    model = quiet(mlp(), dense=[], decay=0.0)
    dense = model[2]._parameters["weight"]
    model[2].weight.square().sum().backward()
    assert close(dense.grad, torch.where(torch.from_numpy(kept(dense)), 2 * dense, 0))


def test_products_that_cannot_be_steered_warn() -> None:
    layer = quiet(mlp(), dense=[])[2]
    with pytest.warns(UserWarning, match="layer '2' goes through T outside"):
        _ = torch.randn(4, 32) @ layer.weight.T
    with pytest.warns(UserWarning, match="layer '2' goes through matmul outside"):
        torch.matmul(layer.weight, torch.randn(32, 4))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with torch.no_grad():
            _ = torch.randn(4, 32) @ layer.weight.T
        functional.linear(torch.randn(4, 32), layer.weight)


def test_dense_layers_read_as_their_parameter() -> None:
    model = quiet(mlp())
    assert model[0].weight is model[0]._parameters["weight"]
    assert isinstance(model[0].weight, torch.nn.Parameter)


def test_a_fault_while_reading_never_gives_the_dense_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = quiet(mlp(), dense=[])[2]

    def broken(*_: Any, **__: Any) -> None:
        raise AttributeError("gone")

    monkeypatch.setattr(layer.nm["weight"], "masks", broken)
    with pytest.raises(RuntimeError, match="weight of NmLinear cannot be read: gone"):
        _ = layer.weight
