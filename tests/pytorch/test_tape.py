"""Recordings of PyTorch steps: every product, the same table as from ONNX, and what is left out is said."""

# pyright: reportMissingImports=false
# PyTorch is an optional extra: the type checker runs without it.

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from nmsat.algorithms.core.tape import Pattern, Stage
from nmsat.algorithms.core.tape_file import read_tape
from nmsat.dataflow.contract.config import preset
from nmsat.dataflow.network.layers import ConvLayer
from nmsat.dataflow.network.readers.onnx import read_onnx, read_onnx_model
from nmsat.dataflow.network.readers.tape import tape_step
from nmsat.dataflow.network.step import training_products
from nmsat.sim.work.machine import machine_step
from nmsat.sim.work.timed import Estimator
from tests.pytorch.models import mlp, step_of

torch = pytest.importorskip("torch")

from torch.utils.flop_counter import FlopCounterMode  # noqa: E402 # after importorskip

from nmsat.algorithms.pytorch import export_onnx, record_step, sparsify  # noqa: E402
from tests.pytorch.mobilenet import mobilenet  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from nmsat.algorithms.core.tape import Product
    from tests.conftest import Outcome

P28 = Pattern(2, 8)
OFF = Pattern(8, 8)
"""A pattern that prunes nothing."""


def quiet(model: Any, method: str = "bdwp", pattern: str = "2:8", **options: Any) -> Any:
    return sparsify(model, method, pattern, show=False, **options)


def products(step: Any) -> Counter[tuple[object, ...]]:
    return Counter((p.stage, p.m, p.k, p.n, p.count, p.pattern) for p in step.products)


def updates(step: Any) -> Counter[tuple[object, ...]]:
    return Counter((u.k, u.n, u.count, u.ff, u.bp) for u in step.updates)


def onnx_layers(model: Any, x: Any, path: Path) -> list[Any]:
    """Return the layers of a model as ONNX has them, normalisation not folded."""
    export_onnx(model, (x,), path, dynamo=False, training=torch.onnx.TrainingMode.TRAINING)
    return read_onnx(path)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("depth", [3, 11])
def test_mobilenet_by_tape_and_by_onnx_is_the_same_step(depth: int, tmp_path: Path) -> None:
    model, x = quiet(mobilenet(depth)), torch.randn(2, 3, 32, 32)
    tape = record_step(step_of(model, x))
    assert not tape.left_out
    layers = onnx_layers(model, x, tmp_path / "m.onnx")
    # The PyTorch side leaves depthwise convolutions dense.
    narrow = [
        replace(layer, pattern=OFF) if isinstance(layer, ConvLayer) and layer.features_in < 8 else layer
        for layer in layers
    ]
    for dense in (True, False):
        ours = tape_step(tape, dense=dense)
        theirs = training_products(layers, "dense") if dense else training_products(narrow, "bdwp", P28)
        assert products(ours) == products(theirs)
        assert updates(ours) == updates(theirs)
        assert ours.macs_dense == theirs.macs_dense
        if depth == 3:
            cycles = [machine_step(step, Estimator(preset("small"))).cycles for step in (ours, theirs)]
            assert cycles[0] == cycles[1]


class Attending(torch.nn.Module):
    """Self-attention of plain products, layer norm and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = torch.nn.Linear(12, 32)
        self.norm = torch.nn.LayerNorm(32)
        self.qkv, self.out, self.head = torch.nn.Linear(32, 96), torch.nn.Linear(32, 32), torch.nn.Linear(32, 5)

    def forward(self, x: Any) -> Any:
        x = self.embed(x)
        q, k, v = (t.unflatten(2, (4, 8)).transpose(1, 2) for t in self.qkv(self.norm(x)).chunk(3, dim=-1))
        mixed = torch.softmax(q @ k.transpose(-2, -1) * 8**-0.5, dim=-1) @ v
        return self.head(x + self.out(mixed.transpose(1, 2).flatten(2)))


@pytest.mark.filterwarnings("ignore")
def test_the_command_gives_one_table_for_tape_and_onnx(
    tmp_path: Path, call: Callable[[str], Outcome], capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    model, x = quiet(Attending()), torch.randn(8, 6, 12)
    record_step(step_of(model, x), tmp_path / "m.tape")
    export_onnx(model, (x,), tmp_path / "m.onnx", dynamo=False, do_constant_folding=True)
    capsys.readouterr()
    tape = json.loads(call(f"model {tmp_path / 'm.tape'} --config small --json").out)
    onnx = json.loads(call(f"model {tmp_path / 'm.onnx'} --config small --json").out)
    same = ("cycles", "dense_cycles", "speedup", "bound", "utilization", "bytes")
    assert {key: tape[key] for key in same} == {key: onnx[key] for key in same}
    assert tape["left_out"] == []


def test_multiply_adds_are_those_of_pytorchs_counter() -> None:
    torch.manual_seed(0)
    layer = torch.nn.TransformerEncoderLayer(32, 4, 64, dropout=0.0, batch_first=True)
    for model, x in ((layer, torch.randn(2, 5, 32)), (Attending(), torch.randn(8, 6, 12)), (mlp(), torch.randn(4, 16))):
        quiet(model)
        tape = record_step(step_of(model, x))
        counter = FlopCounterMode(display=False)
        with counter, torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
            step_of(model, x)()
        assert 2 * tape.macs_dense == counter.get_total_flops()
        assert not tape.left_out


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_recurrent_layers_are_recorded_step_by_step(kind: str, tmp_path: Path) -> None:
    gates = {"LSTM": 4, "GRU": 3, "RNN": 1}[kind]
    model = getattr(torch.nn, kind)(16, 32)
    x = torch.randn(10, 4, 16)
    tape = record_step(lambda: model(x)[0].square().sum().backward(), tmp_path / "r.tape")
    forward = sum(p.macs_dense for p in tape.of(Stage.FF))
    assert forward == 10 * 4 * (16 + 32) * 32 * gates
    step = tape_step(read_tape(tmp_path / "r.tape"))
    weights = {u.name: u.elements for u in step.updates if "weight" in u.name}
    assert weights == {"weight_ih_l0": 16 * 32 * gates, "weight_hh_l0": 32 * 32 * gates}
    assert step.update_elements == sum(p.numel() for p in model.parameters())
    assert not step.left_out


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_a_recurrent_layer_is_the_same_by_tape_and_by_onnx(kind: str, tmp_path: Path) -> None:
    """Two layers and a head: the same products in the same order, one weight gradient over all steps of each."""

    class Tagger(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.e, self.r = torch.nn.Linear(8, 16), getattr(torch.nn, kind)(16, 24, num_layers=2, batch_first=True)
            self.g = torch.nn.Linear(24, 5)

        def forward(self, x: Any) -> Any:
            return self.g(self.r(self.e(x))[0][:, -1])

    model, x = Tagger(), torch.randn(3, 4, 8)
    tape = tape_step(record_step(step_of(model, x)))
    export_onnx(model, (x,), tmp_path / "r.onnx", dynamo=False)
    file = training_products(read_onnx_model(tmp_path / "r.onnx").layers, "dense")

    def shown(products: Iterable[Product]) -> list[tuple[Any, ...]]:
        return [(p.stage, p.m, p.k, p.n, p.count) for p in products]

    assert shown(tape.products) == shown(file.products)
    assert tape.macs_dense == file.macs_dense
    assert tape.update_elements == file.update_elements == sum(p.numel() for p in model.parameters())
    assert sorted(u.elements for u in tape.updates if "weight" in u.name and "r." in u.name) == sorted(
        p.numel() for name, p in model.named_parameters() if "r.weight" in name
    )


def test_each_call_of_a_recurrent_layer_has_a_weight_gradient(tmp_path: Path) -> None:
    model, x = torch.nn.GRU(16, 32), torch.randn(10, 4, 16)

    def step() -> None:
        (model(x)[0].sum() + model(x[:5])[0].sum()).backward()

    record_step(step, tmp_path / "r.tape")
    read = tape_step(read_tape(tmp_path / "r.tape"))
    gradients = [(p.m, p.k, p.n) for p in read.products if p.stage is Stage.WU and "hh" in p.name]
    assert sorted(gradients) == [(32, 20, 96), (32, 40, 96)]


def test_a_recurrent_layer_is_no_longer_missing_beside_pruned_ones(
    tmp_path: Path, call: Callable[[str], Outcome]
) -> None:
    class Tagger(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.e, self.lstm = torch.nn.Linear(32, 32), torch.nn.LSTM(32, 64, batch_first=True)
            self.f, self.g = torch.nn.Linear(64, 64), torch.nn.Linear(64, 10)

        def forward(self, x: Any) -> Any:
            return self.g(self.f(self.lstm(self.e(x))[0]))

    with pytest.warns(UserWarning, match="LSTM"):
        model = quiet(Tagger())
    record_step(step_of(model, torch.randn(4, 6, 32)), tmp_path / "t.tape")
    values = json.loads(call(f"model {tmp_path / 't.tape'} --config small --json").out)
    assert values["left_out"] == []
    assert {"lstm.weight_ih_l0", "lstm.weight_hh_l0/run#6"} <= {row["name"] for row in values["layers"]}


def test_functional_products_and_experts_are_recorded() -> None:
    class Functional(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.experts = torch.nn.Parameter(torch.randn(3, 8, 16))
            self.table = torch.nn.Embedding(20, 16)

        def forward(self, x: Any) -> Any:
            y = torch.einsum("ebi,eio->ebo", x, self.experts)
            gram = y @ y.transpose(1, 2)
            return torch.nn.functional.linear(gram @ y, self.table.weight)

    model = Functional()
    tape = record_step(step_of(model, torch.randn(3, 4, 8, requires_grad=True)))
    forward = {p.name: (p.m, p.k, p.n, p.count, p.weight) for p in tape.of(Stage.FF)}
    assert forward == {
        "experts": (4, 8, 16, 3, "experts"),
        "matmul": (4, 16, 4, 3, ""),
        "matmul/run#2": (4, 4, 16, 3, ""),
        "table": (12, 16, 20, 1, "table.weight"),
    }
    step = tape_step(tape)
    assert {(u.name, u.elements) for u in step.updates} == {("experts", 384), ("table", 320)}
    assert step.macs_kept == 3 * sum(p.macs_dense for p in tape.of(Stage.FF))


def test_a_square_product_tells_its_gradients_apart() -> None:
    model = torch.nn.Linear(16, 16, bias=False)
    for need in (True, False):
        x = torch.randn(16, 16, requires_grad=need)
        tape = record_step(lambda x=x: model(x).sum().backward())
        assert Counter(p.stage for p in tape.products) == Counter([Stage.FF, Stage.WU, *([Stage.BP] if need else [])])


def test_frozen_layers_have_no_weight_gradient_and_no_update() -> None:
    model = quiet(mlp(), dense=["0"])
    model[2].requires_grad_(False)
    model[4].requires_grad_(False)
    tape = record_step(step_of(model, torch.randn(4, 16)))
    assert {(p.name, p.stage) for p in tape.products if p.stage is not Stage.FF} == {
        ("4", Stage.BP), ("2", Stage.BP), ("0", Stage.WU)
    }  # fmt: skip
    step = tape_step(tape)
    assert [u.name for u in step.updates] == ["0", "0.bias"]
    assert [p.pattern for p in step.products if p.name == "2"] == [P28, P28]


def test_shared_weights_are_updated_once() -> None:
    model = mlp()
    model[4] = torch.nn.Linear(32, 32)
    model[4].weight = model[2].weight
    quiet(model, dense=["0"])
    step = tape_step(record_step(lambda: model[4](model(torch.randn(4, 16))).sum().backward()))
    assert [p.name for p in step.products if p.stage is Stage.FF] == ["0", "2", "4", "4/run#2"]
    assert {u.name: u.elements for u in step.updates} == {
        "0": 512, "2": 1024, "0.bias": 32, "2.bias": 32, "4.bias": 32
    }  # fmt: skip


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointing_repeats_forward_products(reentrant: bool) -> None:
    from torch.utils.checkpoint import checkpoint

    model = quiet(mlp(), dense=["0"])
    x = torch.randn(4, 16, requires_grad=True)
    tape = record_step(lambda: checkpoint(model, x, use_reentrant=reentrant).sum().backward())
    counts = Counter(p.stage for p in tape.products)
    assert counts == {Stage.FF: 6, Stage.BP: 3, Stage.WU: 3}
    step, dense = tape_step(tape), tape_step(tape, dense=True)
    assert len([u for u in step.updates if "bias" not in u.name]) == 3
    assert not any(p.pattern for p in dense.products)
    assert sum(p.pattern == P28 for p in step.products) == 3 * 2  # FF, BP, and FF again


def test_a_compiled_model_is_recorded_uncompiled() -> None:
    torch._dynamo.reset()
    model = quiet(mlp())
    x = torch.randn(4, 16)
    want = record_step(step_of(model, x))
    got = record_step(step_of(torch.compile(model, backend="eager"), x))
    assert [p.facts() for p in got.products] == [p.facts() for p in want.products]
    assert got.learnt == want.learnt


def test_autocast_keeps_weights_weights() -> None:
    model, x = quiet(mlp()), torch.randn(4, 16)

    def step() -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y = model(x)
        y.float().square().sum().backward()

    want, got = record_step(step_of(model, x)), record_step(step)
    key = lambda p: (p.name, p.stage, p.m, p.k, p.n, p.pattern, p.weight)  # noqa: E731 # a sort key
    assert sorted(map(key, got.products), key=str) == sorted(map(key, want.products), key=str)


@pytest.mark.filterwarnings("ignore:.*nested tensors.*")
def test_an_encoder_in_evaluation_is_recorded_as_it_trains() -> None:
    torch.manual_seed(0)
    layer = torch.nn.TransformerEncoderLayer(32, 4, 64, dropout=0.0, batch_first=True)
    model, x = quiet(torch.nn.TransformerEncoder(layer, 2)), torch.randn(2, 5, 32)
    trained = record_step(step_of(model, x))
    with torch.no_grad():
        evaluated = record_step(lambda: model.eval()(x))
    assert [p.facts() for p in evaluated.products] == [p.facts() for p in trained.of(Stage.FF)]


def test_what_cannot_be_taken_apart_is_left_out_by_name(tmp_path: Path, call: Callable[[str], Outcome]) -> None:
    @torch.library.custom_op("nmsat_test::fused", mutates_args=())
    def fused(x: torch.Tensor) -> torch.Tensor:  # type: ignore[valid-type] # PyTorch reads it
        return x @ x.t()

    class Odd(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = torch.nn.Linear(8, 8)

        def forward(self, x: Any) -> Any:
            y = self.fc(x)
            torch.fft.fft(y.detach())
            fused(y.detach())
            torch.nn.functional.interpolate(y[None], scale_factor=2, mode="linear")
            return y + torch.linalg.solve(torch.eye(8), y.detach())

    model = torch.nn.Sequential(Odd())
    tape = record_step(step_of(model, torch.randn(8, 8)), tmp_path / "odd.tape")
    left = {(x.name, x.kind.partition("::")[2]) for x in tape.left_out}
    assert {("0", "fused"), ("0", "_fft_r2c")} <= left
    assert any("solve" in kind for _, kind in left)
    assert not any("upsample" in kind for _, kind in left)
    assert [p.name for p in tape.of(Stage.FF)] == ["0.fc"]
    text = call(f"model {tmp_path / 'odd.tape'} --config tiny").out
    assert "left out      0 (nmsat_test::fused, 1 calls)" in text


def test_grouped_three_dimensional_and_transposed_convolutions() -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Conv1d(16, 32, 3, padding=1, groups=2), torch.nn.Unflatten(2, (2, 2, 2)),
        torch.nn.Conv3d(32, 16, 2, padding=1), torch.nn.Flatten(3), torch.nn.ConvTranspose2d(16, 16, 2, stride=2),
    )  # fmt: skip
    quiet(model, dense=[])
    tape = record_step(step_of(model, torch.randn(2, 16, 8)))
    forward = {p.name: (p.m, p.k, p.n, p.count, p.pattern) for p in tape.of(Stage.FF)}
    assert forward == {
        "0": (2 * 8, 3 * 8, 16, 2, P28),
        "2": (2 * 27, 8 * 32, 16, 1, P28),
        "4": (2 * 27, 16, 4 * 16, 1, P28),
    }
    step = tape_step(tape)
    assert {u.name: u.elements for u in step.updates if "bias" not in u.name} == {
        name: model[int(name)]._parameters["weight"].numel() for name in ("0", "2", "4")
    }
    plain = record_step(step_of(sparsify(model, "dense", show=False), torch.randn(2, 16, 8)))
    strip = lambda t: Counter((p.name, p.stage, p.m, p.k, p.n, p.count) for p in t.products)  # noqa: E731 # a projection
    assert strip(plain) == strip(tape)


def test_attention_is_recorded_with_its_projections() -> None:
    torch.manual_seed(0)
    model = quiet(torch.nn.ModuleDict({"attn": torch.nn.MultiheadAttention(32, 4, batch_first=True)}), dense=[])
    x, c = torch.randn(2, 5, 32), torch.randn(2, 7, 32)
    attn = model["attn"]
    for q, k, v, names in (
        (x, x, x, {"in_proj"}),
        (x, c, c, {"in_proj.q", "in_proj.kv"}),
        (c, x, c[:, :5], {"in_proj.q", "in_proj.k", "in_proj.v"}),
    ):
        tape = record_step(lambda q=q, k=k, v=v: attn(q, k, v)[0].sum().backward())
        forward = {p.name: p.pattern for p in tape.of(Stage.FF)}
        assert {name for name, pattern in forward.items() if pattern} == {*names, "out_proj"}
        assert len(forward) == len(names) + 3
        step = tape_step(tape)
        assert sum(u.elements for u in step.updates) == sum(p.numel() for p in model.parameters())


def test_recordings_do_not_nest_and_are_not_empty() -> None:
    model, x = mlp(), torch.randn(4, 16)
    with pytest.raises(RuntimeError, match="under way"):
        record_step(lambda: record_step(step_of(model, x)))
    with pytest.raises(ValueError, match="ran no matrix product"):
        record_step(lambda: torch.ones(3).sum())
    assert len(record_step(step_of(model, x)).of(Stage.FF)) == 3  # and a failed one leaves nothing behind
