"""`nmsat model` FILE: single layers, slow layers, the forward pass alone, open sizes, and what is called a bound."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

from nmsat.algorithms.core.tape import Pattern
from nmsat.dataflow.contract.config import preset
from nmsat.dataflow.network.layers import ConvLayer, LinearLayer, scale_batch
from nmsat.dataflow.network.step import training_products
from nmsat.dataflow.program.memory_plan import Batches, memory_plan
from nmsat.reports.commands import model
from nmsat.reports.commands.model_advice import slower_layers
from nmsat.reports.work.bounds import speedup_bound
from nmsat.reports.work.timings import Wanted, time_all
from tests.network.networks import networks
from tests.network.onnx_files import ints, save, weight

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from nmsat.dataflow.network.step import Step
    from tests.conftest import Outcome


def values(outcome: Outcome) -> dict[str, Any]:
    assert outcome.code == 0, outcome.err
    return json.loads(outcome.out)


def products(path: Path, count: int = 4, size: int = 256) -> Path:
    path.write_text("Layer,M,N,K,\n" + "".join(f"fc{at},{size},{size},{size},\n" for at in range(count)))
    return path


@pytest.mark.usefixtures("estimated")
def test_patterns_of_single_layers(call: Callable[[str], Outcome], tmp_path: Path) -> None:
    table, wishes = products(tmp_path / "t.csv"), tmp_path / "wishes.toml"
    line = f"model {table} --config small --json --prune-all"
    plain = values(call(line))
    dense = values(call(f"{line} --dense fc1"))
    mixed = values(call(f"{line} --pattern 2:8 --pattern fc1=1:16 --pattern fc[0]=2:4"))
    assert plain["macs"] < dense["macs"]
    one = 256**3
    # FF and BP of two layers at 2:8, two dense layers whole; the first needs no input gradient.
    assert plain["macs"] == one * (2 * (1 / 4 + 1 / 4 + 1) + 2 + 3)
    assert dense["macs"] == one * ((1 / 4 + 1 / 4 + 1) + 3 + 2 + 3)
    assert mixed["macs"] == one * ((1 / 2 + 1) + (2 / 16 + 1) + (1 / 4 + 1 / 4 + 1) + 3)
    wishes.write_text('dense = ["fc*"]\n[pattern]\nfc1 = "1:16"\n"fc[0]" = "2:4"\nfc2 = "2:8"\n')
    assert values(call(f"{line} --layers {wishes}"))["macs"] == mixed["macs"]
    wishes.write_text('pattern = "2:8"\n')
    for flags, words in (
        ("--dense gone", "no weight layer is called 'gone'; layers: fc0, fc1"),
        ("--pattern 2:8 --pattern 2:4", "2 times without the name of a layer"),
        ("--pattern fc1=2:7", "2:7"),
        (f"--layers {wishes}", "pattern is '2:8'; it must be a table"),
        (f"--layers {tmp_path / 'gone.toml'}", "gone.toml"),
        ("--size seq=3", "--size is for ONNX files"),
        ("--batch-dim 1", "--batch-dim is for ONNX files"),
    ):
        refused = call(f"{line} {flags}")
        assert refused.code == 2
        assert words in refused.err
        assert refused.err.count("\n") == 1


@pytest.mark.usefixtures("estimated")
def test_layers_that_groups_make_slower_stay_dense(
    call: Callable[[str], Outcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model, "slower_layers", lambda *_: ["fc1"])
    line = f"model {products(tmp_path / 't.csv')} --config small --json"
    advised = call(line)
    found, dense, everything = values(advised), values(call(f"{line} --dense fc1")), values(call(f"{line} --prune-all"))
    assert (found["kept_dense"], everything["kept_dense"]) == (["fc1"], [])
    assert "kept dense, since N:M makes them slower here: fc1 " in advised.err
    assert found["cycles"] == dense["cycles"] > everything["cycles"]


def test_a_layer_is_slower_by_the_cycles_of_its_products() -> None:
    layers = [LinearLayer(name=name, rows=8, features_in=64, features_out=64) for name in "abcd"]
    step = training_products(layers, "bdwp", Pattern(2, 8))

    def ran(**cycles: int) -> Any:
        rows = [SimpleNamespace(name=name, shape=(8, 64, 64, 1), cycles=count) for name, count in cycles.items()]
        return SimpleNamespace(rows=[*rows, SimpleNamespace(name="c", shape=None, cycles=1000)])

    assert slower_layers(step, ran(a=9, b=5, c=5), ran(a=1, b=4, c=6), set()) == ["b"]  # a is dense, c quicker
    assert slower_layers(step, ran(b=5, c=7), ran(b=4, c=6), {"b"}) == ["c"]


@pytest.mark.usefixtures("estimated")
def test_forward_pass_alone(call: Callable[[str], Outcome], tmp_path: Path) -> None:
    line = f"model {products(tmp_path / 't.csv')} --config small --json"
    step, forward = values(call(line)), values(call(f"{line} --inference"))
    assert forward["forward_macs"] == step["forward_macs"] == 4 * 256**3
    assert forward["macs"] == 256**3 * (2 + 2 / 4)
    assert "update" not in forward["stages"]
    assert forward["cycles"] < step["cycles"]
    assert set(forward["memory_plan_bytes"]) == {"weights", "input", "result"}


def test_what_is_called_a_bound_is_never_exceeded() -> None:
    def ran(cycles: int, macs: int, updates: int = 0) -> Any:
        rows = [SimpleNamespace(shape=(8, 64, 64, 1), cycles=cycles - updates, macs=macs)]
        rows.append(SimpleNamespace(shape=None, cycles=updates, macs=0))
        used = macs / (16 * cycles)
        return SimpleNamespace(rows=rows, cycles=cycles, config=SimpleNamespace(elements=16), utilization=used)

    full = ran(1000, 8000)
    step: Any = SimpleNamespace(bound=2.0, macs_dense=8000, macs_kept=4000)
    assert speedup_bound(step, ran(520, 4000), full) == (2.0, "")
    bound, note = speedup_bound(step, ran(480, 4000), full)
    assert bound == 4.0
    assert "dense step uses only 50.0% of the array; the bound" in note
    # Updates take what they take, however quick the products are.
    assert speedup_bound(step, ran(480, 4000, updates=150), full)[0] == 2.5
    padded: Any = SimpleNamespace(bound=1.9, macs_dense=8000, macs_kept=4000)
    assert (
        "50.0% of the array and multiplies padding in its input gradients;"
        in speedup_bound(padded, ran(520, 4000), full)[1]
    )


@settings(max_examples=6, deadline=None)
@given(networks(), st.sampled_from((Pattern(2, 4), Pattern(2, 8))), st.sampled_from((1, 3, 130)))
def test_no_estimate_exceeds_what_is_called_its_bound(
    layers: list[ConvLayer | LinearLayer], pattern: Pattern, batch: int
) -> None:
    scaled, config = [scale_batch(layer, batch) for layer in layers], preset("tiny")
    step, dense = (training_products(scaled, name, pattern, False) for name in ("bdwp", "dense"))
    result, full = time_all(config, [Wanted(step), Wanted(dense)], lambda job: None, 1, estimate=True)
    bound, note = speedup_bound(step, result, full)
    assert full.cycles / result.cycles <= bound
    assert note or bound <= pattern.m / pattern.n


@pytest.mark.usefixtures("estimated")
def test_open_sizes_on_the_command_line(call: Callable[[str], Outcome], tmp_path: Path) -> None:
    nodes = [helper.make_node("Conv", ["x", "w"], ["y"], "conv", pads=[1, 1, 1, 1])]
    path = save(
        tmp_path / "o.onnx", nodes, {"x": ["n", 4, "H", "W"]}, {"y": ["n", 8, "H", "W"]}, [weight("w", 8, 4, 3, 3)]
    )
    refused = call(f"model {path} --size H=32")
    assert refused.code == 2
    assert "is open ('W'); give its size: --size W=N" in refused.err
    found = values(call(f"model {path} --size H=32 --size W=16 --batch 2 --config tiny --json"))
    assert (found["forward_macs"], found["batch"], found["parameters"]) == (2 * 512 * 8 * 36, 2, 288)
    for flag in ("--size H", "--size H=0", "--size =3"):
        assert call(f"model {path} {flag}").code == 2


@pytest.mark.parametrize("batch", [1, 600])
def test_memory_advice_names_a_batch_only_if_there_is_one(
    call: Callable[[str], Outcome], tmp_path: Path, batch: int
) -> None:
    table = tmp_path / "large.csv"
    rows = 16_000_000 if batch == 1 else 100_000
    table.write_text("Layer,M,N,K,\n" + "".join(f"l{at},{rows},1024,1024,\n" for at in range(6)))
    outcome = call(f"model {table} --batch {batch}")
    assert outcome.code == 2
    assert ("there is no smaller batch than 1" in outcome.err) is (batch == 1)
    assert ("a batch of at most 41 would fit" in outcome.err) is (batch == 600)
    assert batch == 1 or call(f"model {table} --batch 42").code == 2


def expanded(path: Path, batch: int | str, rows: int) -> Path:
    """Write a network of two layers, the second one on `rows` copies of the first one's result."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"], "one"),
        helper.make_node("Expand", ["a", "shape"], ["b"], "copies"),
        helper.make_node("MatMul", ["b", "v"], ["y"], "two"),
    ]
    shape = ints("shape", 1 if isinstance(batch, str) else batch, rows, 64)
    weights = [weight("w", 64, 64), weight("v", 64, 64), shape]
    return save(path, nodes, {"x": [batch, 1, 64]}, {"y": [batch, rows, 64]}, weights)


def advice(outcome: Outcome) -> str:
    assert outcome.code == 2
    assert len(outcome.err.splitlines()) == 1
    return outcome.err.partition("too many; ")[2]


def test_no_batch_is_advised_that_a_file_does_not_allow(call: Callable[[str], Outcome], tmp_path: Path) -> None:
    # 16 images of 2^26 rows of 64 numbers of 2 bytes, two results and an input: 3 x 128 GiB; capacity 64 GiB
    fixed = expanded(tmp_path / "fixed.onnx", 16, 1 << 26)
    said = advice(call(f"model {fixed}"))
    assert "no smaller batch, that of the file: 16; the network exported with a batch of 2 may fit" in said
    # Two times the batch of the file do not fit, one does: that is a batch to advise.
    two = expanded(tmp_path / "four.onnx", 2, 1 << 26)
    assert advice(call(f"model {two} --batch 8")).startswith("a batch of at most 2 would fit")
    # No batch fits: none is advised, nor the forward pass alone, which does not fit either.
    large = advice(call(f"model {expanded(tmp_path / 'large.onnx', 'n', 1 << 29)}"))
    assert "not even a batch of 1 fits; only fewer layers at a time would fit" in large


def test_an_advised_batch_has_been_tried() -> None:
    """Tensors that stay as they are make the share of the batch wrong; the advice knows."""
    config = preset("tiny")

    def at(batch: int) -> Step:
        rows = {"grows": 64 * batch, "stays": 6400}
        layers = [LinearLayer(name=name, rows=n, features_in=64, features_out=64) for name, n in rows.items()]
        return training_products(layers, "dense")

    needs = {batch: sum(memory_plan(at(batch), config).values()) for batch in (10, 11, 100)}
    assert needs[10] < needs[11] < needs[100]
    with pytest.raises(ValueError, match="a batch of at most 10 would fit"):
        memory_plan(at(100), config, needs[11] - 1, Batches(100, 1, at))
