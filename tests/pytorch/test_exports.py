"""Exports of PyTorch networks, with fixed and with open sizes, against multiply-adds by hand and by onnx alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import onnx
import pytest

from nmsat.dataflow.network.readers.onnx import read_onnx
from nmsat.dataflow.network.step import parameters
from tests.network.macs import forward_macs
from tests.network.onnx_oracle import multiply_adds

torch = pytest.importorskip("torch")
from tests.pytorch import exported  # noqa: E402

if TYPE_CHECKING:
    from pathlib import Path

B, S, C = 3, 12, exported.WIDTH

IDS = {0: "batch", 1: "seq"}
IMAGE = {0: "batch"}

LAYER = B * S * 4 * C * C + 2 * B * S * S * C
"""Projections and attention of a layer with as many heads of keys as of queries."""

CASES = {
    "bert": (exported.Bert, ("ids", "mask"), LAYER + 2 * B * S * C * 64 + B * C * 3),
    "gpt": (exported.Gpt, ("ids",), LAYER + 8 * B * S * C * C + B * S * C * exported.WORDS),
    "llama": (
        exported.Llama,
        ("ids",),
        B * S * 3 * C * C + 2 * B * S * S * C + 3 * B * S * C * 88 + B * S * C * exported.WORDS,
    ),
    "lstm": (exported.Words, ("ids",), B * S * 2 * 4 * 24 * (16 + 24) + B * 48 * 5),
    "unet": (exported.UNet, ("image",), B * (256 * 16 * 27 + 64 * 32 * 144 + 64 * 32 * 64 + 256 * 4 * 288)),
    "swin": (
        exported.Swin,
        ("image",),
        B * (64 * C * 48 + 64 * 4 * C * C + 2 * 64 * 16 * C + 16 * 8 * C * C + 2 * C * 10),
    ),
}


SIDE = dict.fromkeys(CASES, 16) | {"swin": 32}
"""Height and width of images."""


def inputs(names: tuple[str, ...], size: int) -> tuple[Any, ...]:
    if names == ("image",):
        return (torch.zeros(B, 3, size, size),)
    return tuple(torch.ones(B, S, dtype=torch.int64) for _ in names)


def random(name: str) -> Any:
    """Return a network with random weights: exporters store equal tensors once."""
    torch.manual_seed(1)
    network = CASES[name][0]().eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter)
    return network


def export(path: Path, name: str, *, dynamic: bool) -> Path:
    names, network = CASES[name][1], random(name)
    axes = {each: IMAGE if each == "image" else IDS for each in names} if dynamic else None
    torch.onnx.export(
        network,
        inputs(names, SIDE[name]),
        str(path),
        dynamo=False,
        opset_version=17,
        input_names=list(names),
        output_names=["out"],
        dynamic_axes=axes,
        do_constant_folding=False,
    )
    return path


def has_open_words(name: str) -> bool:
    """Whether the number of words can be open: this exporter fixes the steps of an LSTM."""
    return CASES[name][1] != ("image",) and name != "lstm"


def export_dynamo(path: Path, name: str, *, dynamic: bool) -> Path:
    """Export by torch.export, as it is traced: optimize=True would store what it folds as if it were learnt."""
    names = CASES[name][1]
    batch, seq = torch.export.Dim("batch", min=2, max=64), torch.export.Dim("seq", min=2, max=64)
    sizes = tuple({0: batch, 1: seq} if has_open_words(name) else {0: batch} for _ in names)
    options = {"dynamic_shapes": sizes} if dynamic else {}
    torch.onnx.export(
        random(name), inputs(names, SIDE[name]), str(path), dynamo=True, optimize=False, verbose=False,
        input_names=list(names), external_data=False, **options,
    )  # fmt: skip
    return path


@pytest.mark.long
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_exports_of_the_other_exporter(tmp_path: Path, name: str, dynamic: bool) -> None:
    path = export_dynamo(tmp_path / "m.onnx", name, dynamic=dynamic)
    layers = read_onnx(path, B, {"seq": S} if dynamic and has_open_words(name) else None)
    assert forward_macs(layers) == CASES[name][2]
    assert parameters(layers) == sum(p.numel() for p in CASES[name][0]().parameters())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", CASES)
def test_exports_with_fixed_and_open_sizes(tmp_path: Path, name: str) -> None:
    expected = CASES[name][2]
    fixed = export(tmp_path / "fixed.onnx", name, dynamic=False)
    layers = read_onnx(fixed, strict=True)
    assert forward_macs(layers) == expected
    assert multiply_adds(onnx.load(fixed), [x.numpy() for x in inputs(CASES[name][1], SIDE[name])]) == expected
    opened = read_onnx(
        export(tmp_path / "open.onnx", name, dynamic=True), B, {"seq": S} if "image" not in CASES[name][1] else None
    )
    assert forward_macs(opened) == expected
    learnt = sum(p.numel() for p in CASES[name][0]().parameters())
    assert parameters(layers) == learnt
