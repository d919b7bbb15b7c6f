"""Every kind of layer that is converted, against plain PyTorch operators on the masks of the NumPy reference."""

# pyright: reportMissingImports=false
# PyTorch is an optional extra: the type checker runs without it.

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest

from nmsat.algorithms.core.nm import mask
from tests.pytorch.models import close, kept, kept_backward

torch = pytest.importorskip("torch")

from torch.nn.utils import prune  # noqa: E402 # after importorskip

from nmsat.algorithms.pytorch import bake, nm_layers, sparsify, table_of  # noqa: E402


def quiet(model: Any, method: str = "bdwp", pattern: str = "2:8", **options: Any) -> Any:
    return sparsify(model, method, pattern, show=False, **options)


def conv(axes: int, *args: Any, **options: Any) -> Any:
    return (torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Conv3d)[axes - 1](*args, **options)


def transposed(axes: int, *args: Any, **options: Any) -> Any:
    kinds = (torch.nn.ConvTranspose1d, torch.nn.ConvTranspose2d, torch.nn.ConvTranspose3d)
    return kinds[axes - 1](*args, **options)


LAYERS = {
    "1d": (lambda: conv(1, 16, 24, 3, stride=2, padding=1), 1),
    "2d": (lambda: conv(2, 16, 24, 3, dilation=2), 2),
    "3d": (lambda: conv(3, 16, 8, 2, stride=2), 3),
    "groups": (lambda: conv(2, 32, 48, 3, padding=1, groups=2), 2),
    "odd outputs": (lambda: conv(2, 16, 12, 3, padding=1), 2),
    "reflect": (lambda: conv(2, 16, 16, 3, padding=1, padding_mode="reflect"), 2),
    "circular": (lambda: conv(1, 16, 16, 3, padding=2, padding_mode="circular", bias=False), 1),
    "same": (lambda: conv(2, 16, 16, (2, 3), padding="same"), 2),
    "valid": (lambda: conv(2, 16, 16, 3, padding="valid"), 2),
    "t1d": (lambda: transposed(1, 16, 24, 4, stride=2, padding=1), 1),
    "t2d": (lambda: transposed(2, 16, 24, 2, stride=2), 2),
    "t2d groups": (lambda: transposed(2, 32, 16, 3, stride=2, output_padding=1, groups=2, bias=False), 2),
    "t3d": (lambda: transposed(3, 16, 8, 2), 3),
}


def masks_of(layer: Any) -> tuple[Any, Any]:
    """Return both masks of a convolution by the reference, group by group, from the definition."""
    w = layer.weight.detach().float().numpy()
    ff, bp = np.zeros(w.shape, bool), np.zeros(w.shape, bool)
    turned = layer.transposed
    size = w.shape[0] // layer.groups
    for group in range(layer.groups):
        part = w[group * size : (group + 1) * size]
        at = slice(group * size, (group + 1) * size)
        if turned:  # [in, out, taps]: FF along in, BP along out, tap by tap
            ff[at], bp[at] = mask(part, 2, 8, axis=0), mask(part, 2, 8, axis=1)
            continue
        last = np.moveaxis(part, 1, -1)  # [out, taps, in]: FF along taps and in
        flat = mask(last.reshape(size, -1), 2, 8, axis=1).reshape(last.shape)
        ff[at], bp[at] = np.moveaxis(flat, -1, 1), mask(part, 2, 8, axis=0)
    return torch.from_numpy(ff), torch.from_numpy(bp)


@pytest.mark.parametrize("name", LAYERS)
def test_convolutions_of_every_kind(name: str) -> None:
    make, axes = LAYERS[name]
    torch.manual_seed(0)
    plain = make().double()
    ff, bp = masks_of(plain)
    ours = quiet(torch.nn.Sequential(copy.deepcopy(plain)), dense=[], decay=0.0)[0]
    forward, backward = copy.deepcopy(plain), copy.deepcopy(plain)
    forward.weight.data[~ff] = 0
    backward.weight.data[~bp] = 0
    x = torch.randn(2, plain.in_channels, *[6, 5, 4][:axes], dtype=torch.float64)
    tx, bx = x.clone().requires_grad_(), x.clone().requires_grad_()
    y, want = ours(tx), forward(x)
    dy = torch.randn_like(y)
    y.backward(dy)
    want.backward(dy)
    backward(bx).backward(dy)
    assert close(y, want)
    assert close(tx.grad, bx.grad)  # with the backward weights
    assert close(ours._parameters["weight"].grad, forward.weight.grad)  # dense, straight through
    if plain.bias is not None:
        assert close(ours.bias.grad, forward.bias.grad)
    assert close(bake(ours)(x), want)
    assert close(ours(x[0]), want[0])  # without a batch


def test_linear_subclasses_without_a_forward_of_their_own_are_converted() -> None:
    class Named(torch.nn.Linear):
        pass

    class Own(torch.nn.Linear):
        def forward(self, input: Any) -> Any:  # noqa: A002 # PyTorch's name
            return torch.nn.functional.linear(input, self.weight * 2, self.bias)

    model = torch.nn.Sequential(Named(16, 16), Own(16, 16), torch.nn.Bilinear(16, 16, 16))
    with pytest.warns(UserWarning, match=r"1 \(Own has a forward of its own\), 2 \(Bilinear has no converted form\)"):
        quiet(model, dense=[])
    assert list(nm_layers(model)) == ["0"]
    assert isinstance(model[0], Named)
    x = torch.randn(2, 16)
    assert close(model[1](x), x @ (2 * model[1].weight.t()) + model[1].bias)


def test_hugging_face_conv1d(transformers: Any) -> None:
    utils = transformers.pytorch_utils
    torch.manual_seed(0)
    layer = utils.Conv1D(24, 16)  # 16 inputs, 24 outputs
    torch.nn.init.normal_(layer.weight)
    dense = layer.weight.detach().clone()
    model = quiet(torch.nn.Sequential(layer), dense=[], decay=0.0)
    ff, bp = (torch.from_numpy(mask(dense.numpy(), 2, 8, axis=axis)) for axis in (0, 1))
    x = torch.randn(2, 5, 16, requires_grad=True)
    y = model(x)
    dy = torch.randn_like(y)
    y.backward(dy)
    assert close(y, x @ torch.where(ff, dense, 0))
    assert close(x.grad, dy @ torch.where(bp, dense, 0).t())
    assert close(layer._parameters["weight"].grad, x.flatten(0, 1).t() @ dy.flatten(0, 1), 1e-4)


def test_a_hugging_face_model_is_converted(transformers: Any) -> None:
    config = transformers.GPT2Config(vocab_size=40, n_positions=16, n_embd=32, n_layer=2, n_head=4)
    torch.manual_seed(0)
    model = transformers.GPT2LMHeadModel(config)
    quiet(model)
    assert {type(layer).__name__ for layer in nm_layers(model).values()} == {"NmConv1D", "NmLinear"}
    rows = {row.layer: row for row in table_of(model).rows}
    assert rows["lm_head"].shared == "transformer.wte"  # tied: counted once
    ids = torch.randint(0, 40, (2, 8))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(8):
        optimizer.zero_grad()
        loss = model(ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    with torch.no_grad():
        assert close(model.eval()(ids).logits, bake(model)(ids).logits)


@pytest.mark.parametrize("kind", ["weight_norm", "spectral_norm", "orthogonal"])
def test_parametrised_layers_prune_the_computed_weight(kind: str) -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(16, 16))
    getattr(torch.nn.utils.parametrizations, kind)(model[0])
    model.eval()
    dense = model[0].weight.detach().clone()
    quiet(model, dense=[], decay=0.0)
    x = torch.randn(3, 16, requires_grad=True)
    y = model(x)
    assert close(y, x @ torch.where(torch.from_numpy(kept(dense)), dense, 0).t() + model[0].bias)
    dy = torch.randn_like(y)
    y.backward(dy)
    assert close(x.grad, dy @ torch.where(torch.from_numpy(kept_backward(dense)), dense, 0))
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())
    plain = bake(model)
    assert close(plain(x), y)
    assert type(plain[0]) is torch.nn.Linear
    assert [row.layer for row in table_of(model).rows] == ["0"]


def test_weights_made_by_hooks_are_left_with_a_reason() -> None:
    model = torch.nn.Sequential(*(torch.nn.Linear(16, 16) for _ in range(3)))
    prune.identity(model[0], "weight")
    with pytest.warns(FutureWarning):
        torch.nn.utils.weight_norm(model[1])
    with pytest.warns(UserWarning, match=r"layers left dense: 0.weight_orig \(its weight is made by a hook"):
        quiet(model, dense=[])
    assert list(nm_layers(model)) == ["2"]
    model(torch.randn(2, 16)).sum().backward()


def test_lazy_layers_are_left_until_they_have_run() -> None:
    model = torch.nn.Sequential(torch.nn.LazyLinear(16), torch.nn.Linear(16, 16))
    with pytest.warns(UserWarning, match="it is lazy: run the model once first"):
        quiet(model, dense=[])
    model(torch.randn(2, 8))
    quiet(model, dense=[])
    assert list(nm_layers(model)) == ["0", "1"]


def test_recurrent_layers_are_named() -> None:
    model = torch.nn.ModuleDict({"rnn": torch.nn.GRU(16, 16), "fc": torch.nn.Linear(16, 16)})
    with pytest.warns(UserWarning, match=r"rnn.weight_ih_l0 \(GRU has no converted form\)"):
        quiet(model, dense=[])
    assert {row.layer for row in table_of(model).left} == {"rnn.weight_ih_l0", "rnn.weight_hh_l0"}


def test_narrow_layers_stay_dense_unless_asked_for() -> None:
    def model() -> Any:
        return torch.nn.Sequential(
            torch.nn.Conv2d(3, 16, 3), torch.nn.Conv2d(16, 16, 3, groups=16), torch.nn.Conv2d(16, 16, 1),
            torch.nn.Conv2d(16, 16, 1),
        )  # fmt: skip

    assert [name for name, layer in nm_layers(quiet(model())).items() if not layer.rule.dense] == ["2"]
    asked = quiet(model(), dense=[])
    assert [name for name, layer in nm_layers(asked).items() if not layer.rule.dense] == ["0", "1", "2", "3"]
    rows = {row.layer: row for row in table_of(asked).rows}
    assert rows["1"].stages == "FF"  # 9 taps in FF, one output channel in BP
    assert quiet(model(), dense=["2"])[2].rule.dense


def test_the_gradient_of_a_gradient_passes() -> None:
    torch.manual_seed(0)
    model = quiet(torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Tanh(), torch.nn.Linear(8, 8)).double(), dense=[],
                  decay=0.0)  # fmt: skip
    x = torch.randn(2, 8, dtype=torch.float64, requires_grad=True)
    (dx,) = torch.autograd.grad(model(x).square().sum(), x, create_graph=True)
    dx.square().sum().backward()
    assert all(layer._parameters["weight"].grad.abs().sum() > 0 for layer in nm_layers(model).values())
