"""Masks of PyTorch layers follow the weights, whatever changes them, and the schedules count real updates."""

# pyright: reportMissingImports=false
# PyTorch is an optional extra: the type checker runs without it.

from __future__ import annotations

import copy
import io
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from nmsat.algorithms.core.tape import Pattern
from nmsat.algorithms.methods import make_method
from tests.pytorch.models import close, forward_mask, kept, mlp, same, train

torch = pytest.importorskip("torch")

from nmsat.algorithms.pytorch import bake, sparsify, strip  # noqa: E402 # after importorskip
from nmsat.algorithms.pytorch.memory import fingerprint  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable

OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.5),
    "sgd fused": lambda p: torch.optim.SGD(p, lr=0.5, fused=True),
    "adam": lambda p: torch.optim.Adam(p, lr=0.05),
    "adam fused": lambda p: torch.optim.Adam(p, lr=0.05, fused=True),
    "adamw fused": lambda p: torch.optim.AdamW(p, lr=0.05, fused=True),
    "adagrad fused": lambda p: torch.optim.Adagrad(p, lr=0.5, fused=True),
    "adamw foreach": lambda p: torch.optim.AdamW(p, lr=0.05, foreach=True),
}


def master(layer: Any) -> Any:
    return layer._parameters["weight"]


def quiet(model: Any, method: str = "bdwp", pattern: str = "2:8", **options: Any) -> Any:
    return sparsify(model, method, pattern, show=False, **options)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_masks_follow_every_optimizer(name: str) -> None:
    model = quiet(mlp(), dense=[])
    before = forward_mask(model[2])
    train(model, OPTIMIZERS[name](model.parameters()), steps=20)
    assert (forward_mask(model[2]) != before).any()
    assert np.array_equal(forward_mask(model[2]), kept(master(model[2])))


def write_data(w: Any, new: Any) -> None:
    w.data.copy_(new)


def add_data(w: Any, new: Any) -> None:
    w.data.add_(new - w.data)


def swap_data(w: Any, new: Any) -> None:
    w.data = new


def write_numpy(w: Any, new: Any) -> None:
    w.detach().numpy()[...] = new.numpy()


@pytest.mark.parametrize("change", [write_data, add_data, swap_data, write_numpy])
@pytest.mark.parametrize("mode", ["train", "eval"])
def test_masks_follow_writes_past_autograd(change: Callable[[Any, Any], None], mode: str) -> None:
    model = quiet(mlp(), dense=[]).train(mode == "train")
    model(torch.randn(2, 16))
    new = torch.randn(32, 32)
    change(master(model[2]), new)
    assert np.array_equal(forward_mask(model[2]), kept(new))


def test_masks_follow_loaded_weights() -> None:
    model, other = quiet(mlp(), dense=[]), quiet(mlp(), dense=[])
    train(other, torch.optim.SGD(other.parameters(), lr=0.5), steps=5)
    model(torch.randn(2, 16))
    model.load_state_dict(other.state_dict())
    assert np.array_equal(forward_mask(model[2]), forward_mask(other[2]))
    model.load_state_dict(mlp().state_dict(), assign=True)
    assert np.array_equal(forward_mask(model[2]), kept(mlp()[2].weight))


@pytest.mark.parametrize("method", ["bdwp", "bi-mask", "transposable"])
def test_averages_of_buffers_keep_the_pattern(method: str) -> None:
    model = quiet(mlp(), method, dense=[])
    average = torch.optim.swa_utils.AveragedModel(model, use_buffers=True)
    for _ in range(3):
        train(model, torch.optim.SGD(model.parameters(), lr=0.5), steps=3)
        average.update_parameters(model)
    mask = forward_mask(average.module[2])
    assert mask.mean() <= 0.25
    if method != "transposable":
        assert np.array_equal(mask, kept(master(average.module[2])))
    # averaged masks are none, so they are made anew, from the averaged weights
    again = quiet(mlp(), method, dense=[])
    again.load_state_dict(parameters_of(average.module), strict=False)
    assert np.array_equal(mask, forward_mask(again[2]))


def parameters_of(model: Any) -> dict[str, Any]:
    """Return the parameters of a model alone: what remembers starts anew from them."""
    return {name: p.detach() for name, p in model.named_parameters()}


@pytest.mark.parametrize("method", ["bdwp", "sdgp", "bi-mask", "transposable"])
def test_checkpoints_for_a_plain_model(method: str) -> None:
    model = quiet(mlp(), method, dense=[])
    train(model, torch.optim.SGD(model.parameters(), lr=0.5), steps=3)
    plain, x = mlp(), torch.randn(3, 16)
    if method in ("bi-mask", "transposable"):
        with pytest.raises(RuntimeError, match="nm_weight_"):
            plain.load_state_dict(model.state_dict())
    else:
        plain.load_state_dict(model.state_dict())
        assert all(torch.equal(p, q) for p, q in zip(plain.parameters(), model.parameters(), strict=True))
    plain.load_state_dict(strip(model).state_dict())
    assert all(torch.equal(p, q) for p, q in zip(plain.parameters(), model.parameters(), strict=True))
    plain.load_state_dict(bake(model).state_dict())
    assert close(plain(x), model.eval()(x))
    model.load_state_dict(mlp().state_dict())
    assert torch.equal(master(model[2]), mlp()[2].weight)


def test_averages_and_copies_prune_their_own_weights() -> None:
    model = quiet(mlp(), dense=[])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    average = torch.optim.swa_utils.AveragedModel(model)
    for _ in range(4):
        train(model, optimizer, steps=3)
        average.update_parameters(model)
    inner = average.module[2]
    assert not torch.equal(master(inner), master(model[2]))
    assert np.array_equal(forward_mask(inner), kept(master(inner)))
    twin = copy.deepcopy(model)
    train(twin, torch.optim.SGD(twin.parameters(), lr=0.5), steps=3)
    assert np.array_equal(forward_mask(twin[2]), kept(master(twin[2])))
    assert np.array_equal(forward_mask(model[2]), kept(master(model[2])))
    assert not torch.equal(master(twin[2]), master(model[2]))


def test_masks_of_equal_weights_are_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model = quiet(mlp(), dense=["0", "4"])
    rule, calls = model[2].rule, []
    choose = rule.masks
    monkeypatch.setattr(rule, "masks", lambda matrices: calls.append(1) or choose(matrices))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    for updates in range(3):
        train(model, optimizer, micro=3)
        assert len(calls) == updates + 1


def numpy_masks(method: str, weights: list[Any]) -> list[Any]:
    """Return the masks of the NumPy reference for a weight [out, in] after each of its updates."""
    reference = make_method(method, Pattern(2, 8))

    class View:
        name = "2.weight"
        half = np.empty(0)

    found = []
    for weight in weights:
        View.half = np.ascontiguousarray(weight.numpy().T.astype(np.float16))
        masks = reference.masks(View)  # type: ignore[arg-type] # reads name and half
        assert masks is not None
        found.append((masks.ff, masks.bp))
    return found


@pytest.mark.parametrize("method", ["transposable", "bi-mask"])
@pytest.mark.parametrize("micro", [1, 3])
def test_schedules_count_updates(method: str, micro: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model = quiet(mlp(), method, dense=["0", "4"])
    layer = model[2]
    monkeypatch.setattr(layer.rule.weights, "interval", 5)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05, fused=True)
    weights, seen = [], []
    for step in range(12):
        weights.append(master(layer).detach().clone())
        optimizer.zero_grad()
        for _ in range(micro):
            model(torch.randn(4, 16, generator=torch.Generator().manual_seed(step))).square().sum().backward()
        ff, bp = layer.nm["weight"].masks(layer, master(layer))
        seen.append((ff.t().numpy(), bp.t().numpy()))
        with torch.no_grad():  # evaluation between updates counts nothing
            model.eval()(torch.randn(2, 16))
            model.train()(torch.randn(2, 16))
        optimizer.step()
    assert int(layer.nm_weight_calls) == 12
    short = make_method(method, Pattern(2, 8))
    monkeypatch.setattr(type(short), "__init__", _short_init(type(short)))
    for (ff, bp), (want_ff, want_bp) in zip(seen, numpy_masks(method, weights), strict=True):
        assert np.array_equal(ff, want_ff)
        assert np.array_equal(bp, want_bp)


def _short_init(cls: Any) -> Callable[..., None]:
    original = cls.__init__

    def init(self: Any, pattern: Pattern, **options: Any) -> None:
        original(self, pattern, **options, interval=5)

    return init


@pytest.mark.parametrize("method", ["transposable", "bi-mask", "bdwp"])
def test_a_resumed_run_is_the_uninterrupted_one(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    cls = type(make_method(method, Pattern(2, 8)))
    if method != "bdwp":
        monkeypatch.setattr(cls, "__init__", _short_init(cls))

    def fresh() -> tuple[Any, Any]:
        model = quiet(mlp(), method, dense=["0", "4"])
        return model, torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9)

    whole, optimizer = fresh()
    train(whole, optimizer, steps=13)
    first, optimizer = fresh()
    train(first, optimizer, steps=7)
    file = io.BytesIO()
    torch.save((first.state_dict(), optimizer.state_dict()), file)
    file.seek(0)
    second, optimizer = fresh()
    states = torch.load(file)
    second.load_state_dict(states[0])
    optimizer.load_state_dict(states[1])
    for step in range(7, 13):
        optimizer.zero_grad()
        x = torch.randn(4, 16, generator=torch.Generator().manual_seed(step))
        second(x).square().mean().backward()
        optimizer.step()
    assert same(whole, second)
    if method != "bdwp":
        assert {"2.nm_weight_calls", "2.nm_weight_kept", "2.nm_weight_seen"} <= set(second.state_dict())


def test_a_plain_checkpoint_begins_the_schedule_anew() -> None:
    model = quiet(mlp(), "transposable", dense=["0", "4"])
    train(model, torch.optim.SGD(model.parameters(), lr=0.5), steps=3)
    torch.manual_seed(5)
    plain = torch.nn.Sequential(*(copy.deepcopy(layer) for layer in mlp()))
    for p in plain.parameters():
        p.data.normal_()
    assert not model.load_state_dict(plain.state_dict()).missing_keys
    fresh = quiet(plain, "transposable", dense=["0", "4"])
    assert np.array_equal(forward_mask(model[2]), forward_mask(fresh[2]))


def test_checkpoints_of_another_pattern_are_refused() -> None:
    state = quiet(mlp(), "transposable", "4:8", dense=["0", "4"]).state_dict()
    with pytest.raises(RuntimeError, match=r"2.nm_weight_form is \[4, 8\]; the model is pruned \[2, 8\]"):
        quiet(mlp(), "transposable", "2:8", dense=["0", "4"]).load_state_dict(state)


def test_averaged_masks_are_made_anew() -> None:
    model = quiet(mlp(), "transposable", dense=["0", "4"])
    for value in model.state_dict().values():  # an average over whole numbers and bools
        value.copy_(value * 0.4)
    weight = master(model[2])
    assert np.array_equal(forward_mask(model[2]), forward_mask(quiet(mlp(), "transposable", dense=["0", "4"])[2]))
    assert weight.abs().sum() > 0


def test_fingerprints_tell_every_bit_and_place() -> None:
    torch.manual_seed(0)
    w = torch.randn(50, 100).half()
    prints = {fingerprint(w)}
    for place in range(0, 5000, 7):
        changed = w.clone().view(torch.int16).reshape(-1)
        changed[place] ^= 1
        prints.add(fingerprint(changed.view(torch.float16)))
    prints |= {fingerprint(w.flip(0)), fingerprint(-w), fingerprint(w.t().contiguous()), fingerprint(w[:-1])}
    assert len(prints) == 1 + len(range(0, 5000, 7)) + 4


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("method", ["bdwp", "transposable", "bi-mask"])
def test_activation_checkpointing_changes_nothing(method: str, reentrant: bool) -> None:
    from torch.utils.checkpoint import checkpoint

    def run(whole: bool) -> Any:
        model = quiet(mlp(), method, dense=["0", "4"])
        optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
        for step in range(6):
            optimizer.zero_grad()
            x = torch.randn(4, 16, generator=torch.Generator().manual_seed(step)).requires_grad_()
            y = model(x) if whole else checkpoint(model, x, use_reentrant=reentrant)
            y.square().sum().mul(0.01).backward()
            optimizer.step()
        return model

    assert same(run(True), run(False))


def test_data_parallel_copies_compute_what_the_model_does() -> None:
    model = quiet(mlp(), dense=[], decay=0.1)
    x = torch.randn(4, 16)
    want = model(x)
    want.square().sum().backward()
    grads = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    # As torch.nn.parallel.replicate does it: copies of the modules, parameters that are no leaves.
    replica = torch.nn.Sequential()
    for name, layer in model.named_children():
        twin = layer._replicate_for_data_parallel()
        for key, value in layer._parameters.items():
            setattr(twin, key, value * 1)
        replica.add_module(name, twin)
    y = replica(x)
    y.square().sum().backward()
    assert close(y, want)
    assert all(close(p.grad, g) for p, g in zip(model.parameters(), grads, strict=True))


@pytest.mark.parametrize("zero", [True, False])
@pytest.mark.parametrize("micro", [1, 4])
def test_the_decay_is_added_once_per_update(micro: int, zero: bool) -> None:
    grads = []
    for decay in (0.0, 0.5):
        model = quiet(mlp(), dense=[], decay=decay)
        for _ in range(2):  # the second time gradients are there already, zero or None
            model.zero_grad(set_to_none=not zero)
            for _ in range(micro):
                model(torch.ones(2, 16)).sum().backward()
        grads.append(master(model[2]).grad)
    weight = master(model[2]).detach()
    term = torch.where(torch.from_numpy(kept(weight)), 0, 0.5 * weight)
    assert close(grads[1] - grads[0], term, 1e-4)


@pytest.mark.parametrize("where", ["deepcopy", "assign", "set", "frozen", "pickle", "again"])
def test_the_decay_finds_replaced_parameters(where: str) -> None:
    model = quiet(mlp(), dense=[], decay=0.5)
    if where == "deepcopy":
        model = copy.deepcopy(model)
    elif where == "assign":
        model.load_state_dict({k: v.clone() for k, v in model.state_dict().items()}, assign=True)
        model.requires_grad_(True)
    elif where == "set":
        model[2].weight = torch.nn.Parameter(torch.randn(32, 32))
    elif where == "frozen":
        frozen = mlp()
        frozen.requires_grad_(False)
        model = quiet(frozen, dense=[], decay=0.5).requires_grad_(True)
    elif where == "pickle":
        file = io.BytesIO()
        torch.save(model, file)
        file.seek(0)
        model = torch.load(file, weights_only=False)
    elif where == "again":
        model = quiet(model, dense=[], decay=0.5)
    model(torch.zeros(2, 16)).sum().mul(0).backward()
    weight = master(model[2]).detach()
    assert close(master(model[2]).grad, torch.where(torch.from_numpy(kept(weight)), 0, 0.5 * weight), 1e-6)


def test_the_decay_leaves_with_its_method() -> None:
    model = quiet(quiet(mlp(), dense=[], decay=0.5), "sdgp", dense=[])
    model(torch.zeros(2, 16)).sum().mul(0).backward()
    assert not master(model[2]).grad.any()


class Twice(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = torch.nn.Linear(16, 16)

    def forward(self, x: Any) -> Any:
        return self.fc(self.fc(x))


def test_a_layer_that_runs_twice_gets_one_decay() -> None:
    model = quiet(Twice(), dense=[], decay=0.5)
    model(torch.zeros(2, 16)).sum().mul(0).backward()
    weight = master(model.fc).detach()
    assert close(master(model.fc).grad, torch.where(torch.from_numpy(kept(weight)), 0, 0.5 * weight), 1e-6)


def test_a_computed_weight_gets_one_decay_per_update() -> None:
    def gradient(twice: bool, micro: int) -> Any:
        torch.manual_seed(0)
        model = Twice()
        torch.nn.utils.parametrizations.weight_norm(model.fc)
        model = quiet(model, dense=[], decay=0.5)
        for _ in range(micro):
            (model if twice else model.fc)(torch.zeros(2, 16)).sum().mul(0).backward()
        return model.fc.parametrizations.weight.original1.grad

    want = gradient(twice=False, micro=1)
    assert want.abs().sum() > 0
    assert close(gradient(twice=True, micro=1), want, 1e-6)
    assert close(gradient(twice=True, micro=3), want, 1e-6)
