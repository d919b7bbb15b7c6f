"""`nmsat model` FILE: single layers, slow layers, the forward pass alone, open sizes, and what is called a bound."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from onnx import helper

from tests.network.onnx_files import save, weight

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.conftest import Outcome

HEAD = "Layer name, IFMAP Height, IFMAP Width, Filter Height, Filter Width, Channels, Num Filter, Strides,\n"


def values(outcome: Outcome) -> dict[str, Any]:
    assert outcome.code == 0, outcome.err
    return json.loads(outcome.out)


def products(path: Path, count: int = 4, size: int = 256) -> Path:
    path.write_text("Layer,M,N,K,\n" + "".join(f"fc{at},{size},{size},{size},\n" for at in range(count)))
    return path


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


def test_layers_that_groups_make_slower_stay_dense(call: Callable[[str], Outcome], tmp_path: Path) -> None:
    table = tmp_path / "mobile.csv"
    rows = ["stem,34,34,3,3,3,32,2,", "one,16,16,1,1,32,64,1,"]
    rows += [f"deepDP{at},18,18,3,3,64,1,1,\npoint{at},16,16,1,1,64,64,1," for at in range(2)]
    table.write_text(HEAD + "\n".join([*rows, "head,1,1,1,1,64,10,1,", ""]))
    line = f"model {table} --batch 8 --config small --json --pattern 2:8"
    advised, whole = call(line), call(f"{line} --prune-all")
    found, everything = values(advised), values(whole)
    assert found["kept_dense"]
    assert all(name.startswith("deepDP") for name in found["kept_dense"] if "point" not in name)
    assert "kept dense, since N:M makes them slower here: " in advised.err
    assert found["cycles"] <= everything["cycles"]
    assert everything["kept_dense"] == []
    assert found["speedup"] >= 1


def test_forward_pass_alone(call: Callable[[str], Outcome], tmp_path: Path) -> None:
    line = f"model {products(tmp_path / 't.csv')} --config small --json"
    step, forward = values(call(line)), values(call(f"{line} --inference"))
    assert forward["forward_macs"] == step["forward_macs"] == 4 * 256**3
    assert forward["macs"] == 256**3 * (2 + 2 / 4)
    assert forward["bytes"]["update"] == 0
    assert forward["cycles"] < step["cycles"]
    assert set(forward["memory_plan_bytes"]) == {"weights", "input", "result"}


def test_what_is_called_a_bound_is_never_exceeded(call: Callable[[str], Outcome], tmp_path: Path) -> None:
    table = tmp_path / "thin.csv"
    table.write_text("Layer,M,N,K,\na,8,8,64,\nb,8,8,200000,\nc,8,8,64,\n")
    outcome = call(f"model {table} --config vcu1525 --json")
    found = values(outcome)
    assert found["macs_ratio"] < found["speedup"] <= found["bound"]
    assert f"dense step uses only {found['dense_utilization']:.1%} of the array" in found["bound_note"]
    assert found["bound_note"] in call(f"model {table} --config vcu1525").out
    usual = values(call(f"model {products(tmp_path / 't.csv')} --config small --json"))
    assert usual["bound"] == usual["macs_ratio"] >= usual["speedup"]


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
