"""Conversion: again, whole or not at all, unknown methods, the table; plain copies and ONNX files."""

# pyright: reportMissingImports=false
# PyTorch is an optional extra: the type checker runs without it.

from __future__ import annotations

import copy
import io
import json
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnx.numpy_helper
import onnx.reference
import pytest

from nmsat.algorithms import methods
from nmsat.algorithms.core.nm import mask
from nmsat.algorithms.core.tape import Pattern
from nmsat.algorithms.methods import Method
from tests.pytorch.models import close, forward_mask, kept, mlp, same, train

torch = pytest.importorskip("torch")

from nmsat.algorithms.pytorch import (  # noqa: E402 # after importorskip
    bake,
    export_masks,
    export_onnx,
    memory,
    nm_layers,
    sparsify,
    strip,
    table_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.conftest import Outcome


def quiet(model: Any, method: str = "bdwp", pattern: str = "2:8", **options: Any) -> Any:
    return sparsify(model, method, pattern, show=False, **options)


def test_a_second_conversion_changes_pattern_and_method() -> None:
    model = quiet(mlp(), "bdwp", "2:8", dense=[])
    master = model[2]._parameters["weight"]
    quiet(model, "bdwp", "2:4", dense=[])
    assert np.array_equal(forward_mask(model[2]), kept(master, 2, 4))
    quiet(model, "transposable", "2:8", dense=[])
    assert "2.nm_weight_kept" in model.state_dict()
    quiet(model, "sdgp", dense=["0"])
    assert list(model.state_dict()) == list(mlp().state_dict())
    assert forward_mask(model[2]).all()
    quiet(model, "dense")
    assert same(model, mlp())
    assert model[2]._parameters["weight"] is master


def test_an_error_midway_leaves_the_model_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    start, calls = memory.start, []

    def fails(*args: Any) -> None:
        calls.append(1)
        start(*args)
        if len(calls) == 2:
            raise MemoryError("no room")

    for model in (mlp(), quiet(mlp(), "bdwp", "2:4", dense=[], decay=0.5)):
        calls.clear()
        monkeypatch.setattr(memory, "start", fails)
        x = torch.randn(3, 16)
        before = model(x)
        classes, keys = [type(m) for m in model.modules()], list(model.state_dict())
        with pytest.raises(MemoryError, match="no room"):
            quiet(model, "bi-mask", dense=[])
        monkeypatch.setattr(memory, "start", start)
        assert [type(m) for m in model.modules()] == classes
        assert list(model.state_dict()) == keys
        assert torch.equal(model(x), before)
        if not nm_layers(model):
            assert not any(name.startswith("nm") for m in model.modules() for name in vars(m))
        for layer in nm_layers(model).values():  # hooks are back as well
            model.zero_grad()
            model(torch.zeros(2, 16)).sum().mul(0).backward()
            weight = layer._parameters["weight"]
            assert close(weight.grad, torch.where(torch.from_numpy(kept(weight, 2, 4)), 0, 0.5 * weight.detach()), 1e-6)


def test_a_refused_request_changes_nothing() -> None:
    model = quiet(mlp(), "bdwp", "2:4", dense=[])
    requests: list[dict[str, Any]] = [{"pattern": "9:8"}, {"dense": ["9"]}, {"method": "magic"}]
    for options in requests:
        with pytest.raises(ValueError):
            quiet(model, **options)
    assert np.array_equal(forward_mask(model[2]), kept(model[2]._parameters["weight"], 2, 4))


def test_an_unknown_method_is_refused_not_trained_dense(monkeypatch: pytest.MonkeyPatch) -> None:
    class Novel(Method):
        pass

    monkeypatch.setitem(methods.METHODS, "novel", methods.METHODS["ste"])
    monkeypatch.setattr(methods, "_make", lambda name, _facts, pattern, *_, **__: Novel(name, pattern))
    assert isinstance(methods.make_method("novel", Pattern(2, 8)), Novel)
    with pytest.raises(ValueError, match=r"'novel' \(Novel\) is not known to algorithms.pytorch"):
        quiet(mlp(), "novel")


def test_the_table_says_what_became_of_every_weight(capsys: pytest.CaptureFixture[str]) -> None:
    model = torch.nn.Sequential(
        torch.nn.Embedding(10, 16), torch.nn.Linear(16, 32), torch.nn.Linear(32, 32), torch.nn.LSTM(32, 8),
        torch.nn.Linear(8, 4),
    )  # fmt: skip
    with pytest.warns(UserWarning, match="LSTM"):
        assert sparsify(model, "bdwp", "2:8") is model
    out = capsys.readouterr().out
    rows = {row.layer: row for row in table_of(model).rows}
    assert (rows["1"].why, rows["2"].method, rows["2"].stages) == ("first layer", "bdwp 2:8", "FF BP")
    assert (rows["0"].why, rows["4"].why) == ("multiplies nothing", "last layer")
    total = 160 + 512 + 1024 + 32 * 32 + 32 * 8 + 32
    assert (table_of(model).pruned, table_of(model).total) == (1024, total)
    assert f"1024 of {total} weights ({1024 / total:.1%})" in out
    assert "LSTM has no converted form" in out
    quiet(model, "dense")
    assert capsys.readouterr().out == ""
    with pytest.raises(ValueError, match="was not converted"):
        table_of(torch.nn.Linear(3, 3))


def test_a_tied_head_that_is_pruned_counts_as_pruned() -> None:
    class Tied(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.head = torch.nn.Embedding(40, 32), torch.nn.Linear(32, 40, bias=False)
            self.head.weight = self.words.weight

        def forward(self, ids: Any) -> Any:
            return self.head(self.words(ids))

    table = table_of(quiet(Tied(), dense=[]))
    assert [(row.layer, row.why, row.shared) for row in table.rows] == [
        ("words", "multiplies nothing", ""),
        ("head", "", "words"),
    ]
    assert (table.pruned, table.total) == (40 * 32, 40 * 32)


def test_shared_weights_count_once() -> None:
    model = mlp()
    model[4] = torch.nn.Linear(32, 32)
    model[4].weight = model[2].weight
    quiet(model, dense=["0"])
    rows = {row.layer: row for row in table_of(model).rows}
    assert (rows["4"].shared, rows["4"].weights) == ("2", 0)
    assert table_of(model).total == 16 * 32 + 32 * 32
    x = torch.randn(3, 16)
    assert close(bake(model)(x), model(x))
    with pytest.raises(ValueError, match="'2' and '4' share a weight and prune it differently"):
        bake(quiet(model, dense=["4"]))


METHODS = ("bdwp", "sr-ste", "sdgp", "bi-mask", "transposable", "mvue")


@pytest.mark.parametrize("method", METHODS)
def test_bake_and_strip_give_plain_models(method: str) -> None:
    model = quiet(mlp(), method)
    train(model, torch.optim.SGD(model.parameters(), lr=0.3), steps=3)
    x = torch.randn(4, 16)
    model.eval()
    baked, plain = bake(model), strip(model)
    for made in (baked, plain):
        assert [type(m) for m in made.modules()] == [type(m) for m in mlp().modules()]
        assert list(made.state_dict()) == list(mlp().state_dict())
        fresh = mlp()
        fresh.load_state_dict(made.state_dict())
        assert close(fresh(x), made(x))
        assert not any("nm" in name for m in made.modules() for name in vars(m))
    assert torch.equal(baked(x), model(x))
    assert all(torch.equal(p, q) for p, q in zip(plain.parameters(), model.parameters(), strict=True))
    with torch.no_grad():
        plain[2].weight.zero_()
    assert model[2]._parameters["weight"].any()  # a copy
    torch.save(baked, io.BytesIO())


def small(channels: int = 16) -> Any:
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, channels, 3, padding=1), torch.nn.BatchNorm2d(channels), torch.nn.ReLU(),
        torch.nn.Conv2d(channels, 16, 3, padding=1), torch.nn.ReLU(), torch.nn.Flatten(2),
        torch.nn.Linear(36, 32), torch.nn.ReLU(), torch.nn.Linear(32, 10),
    )  # fmt: skip


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("dynamo", [False, True])
def test_onnx_files_hold_pruned_weights_and_fit_the_masks(
    dynamo: bool, tmp_path: Path, call: Callable[[str], Outcome], capsys: pytest.CaptureFixture[str]
) -> None:
    if dynamo:
        pytest.importorskip("onnxscript")
    model = quiet(small()).eval()
    x = torch.randn(2, 3, 6, 6)
    path = tmp_path / "model.onnx"
    export_onnx(model, (x,), path, dynamo=dynamo, **({"external_data": False} if dynamo else {}))
    export_masks(model, tmp_path / "masks.npz")
    capsys.readouterr()
    loaded = onnx.load(path)
    weights = {t.name: onnx.numpy_helper.to_array(t) for t in loaded.graph.initializer}
    with np.load(tmp_path / "masks.npz") as masks:
        assert set(masks.files) == {"3.weight", "6.weight"}
        for name in masks.files:
            assert np.array_equal(weights[name] != 0, masks[name])
    session = onnx.reference.ReferenceEvaluator(loaded)
    (got,) = session.run(None, {loaded.graph.input[0].name: x.numpy()})
    assert np.allclose(got, model(x).detach().numpy(), atol=1e-4)
    values = json.loads(call(f"model {path} --masks {tmp_path / 'masks.npz'} --config tiny --json").out)
    assert len(values["masks"]) == 2


@pytest.mark.filterwarnings("ignore")
def test_a_converted_model_is_not_exported_by_itself(tmp_path: Path) -> None:
    model, x = quiet(small()).eval(), torch.randn(2, 3, 6, 6)
    with pytest.raises(RuntimeError, match="export_onnx"):
        torch.onnx.export(model, (x,), str(tmp_path / "a.onnx"), dynamo=False)
    with pytest.raises(Exception, match="export_onnx"):
        torch.export.export(model, (x,))
    with pytest.raises(RuntimeError, match="export_onnx"):
        torch.jit.trace(model, (x,))


def test_masks_of_attention_and_groups_have_pytorchs_layout(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = torch.nn.ModuleDict({
        "attn": torch.nn.MultiheadAttention(16, 2), "conv": torch.nn.Conv1d(32, 32, 3, groups=2),
    })  # fmt: skip
    quiet(model, dense=["attn.out_proj"])
    export_masks(model, tmp_path / "masks.npz")
    with np.load(tmp_path / "masks.npz") as file:
        arrays = dict(file)
    assert set(arrays) == {"attn.in_proj_weight", "conv.weight"}
    dense = model["attn"]._parameters["in_proj_weight"].detach().numpy()
    assert np.array_equal(arrays["attn.in_proj_weight"], mask(dense, 2, 8, axis=1))
    assert arrays["conv.weight"].shape == (32, 16, 3)


def test_copies_and_pickles_go_on_training() -> None:
    model = quiet(mlp(), "bi-mask")
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    for twin in (copy.deepcopy(model), torch.load(file, weights_only=False)):
        original = copy.deepcopy(model)
        for made in (twin, original):
            train(made, torch.optim.SGD(made.parameters(), lr=0.3), steps=3)
        assert same(twin, original)
        assert type(twin[2]) is type(model[2])
