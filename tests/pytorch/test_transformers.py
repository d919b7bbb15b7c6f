"""Hugging Face's networks, tiny and with random weights, by both exporters: multiply-adds and weights by hand."""

# pyright: reportMissingImports=false
# PyTorch is an optional extra: the type checker runs without it.

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from nmsat.dataflow.network.readers.onnx import read_onnx_model
from nmsat.dataflow.network.step import parameters
from tests.network.macs import forward_macs

torch = pytest.importorskip("torch")

pytestmark = [pytest.mark.long, pytest.mark.filterwarnings("ignore")]

if TYPE_CHECKING:
    from pathlib import Path

B, S, C, WORDS, WIDE = 2, 16, 32, 50, 64
"""Samples, words of each, width, words there are, width of the feed-forward part of those that are not GPT-2."""

SIDE = 32
"""Height and width of images: 16 patches of 8 x 8 for ViT, 16 x 16 of 2 x 2 for Swin."""

TOKENS = B * S
ATTENTION = 2 * 2 * B * S * S * C
"""Scores and sums of two layers, all heads, queries and keys of the whole width."""

MACS = {
    "gpt2": 2 * TOKENS * 12 * C * C + ATTENTION + TOKENS * C * WORDS,
    # as many keys as half of the heads: two projections of half the width
    "llama": 2 * TOKENS * (3 * C * C + 3 * C * WIDE) + ATTENTION + TOKENS * C * WORDS,
    "bert": 2 * TOKENS * (4 * C * C + 2 * C * WIDE) + ATTENTION + B * C * C + B * C * 2,
    "vit": B * 16 * C * 3 * 64 + 2 * B * 17 * (4 * C * C + 2 * C * WIDE) + 2 * 2 * B * 17 * 17 * C + B * C * 2,
    # two blocks of 256 tokens of width 16, patches merged, two of 64 tokens of width 32; windows of 4 x 4
    "swin": (
        B * 256 * 16 * 3 * 4
        + 2 * B * 256 * (12 * 16 * 16 + 2 * 16 * 16)
        + B * 64 * 64 * 32
        + 2 * B * 64 * (12 * 32 * 32 + 2 * 16 * 32)
        + B * 32 * 2
    ),
}

BUFFERS = {"llama": C // 4 // 2}
"""Rates of rotation of a head: a buffer, which no file tells from what is learnt."""

DYNAMO_ONLY = ("gpt2", "llama")
"""The masks of these hold an operator that the TorchScript exporter does not know."""


class Called(torch.nn.Module):
    """A network with one input and its first output."""

    def __init__(self, model: Any, name: str, **options: Any) -> None:
        super().__init__()
        self.model, self.input, self.options = model, name, options

    def forward(self, x: Any) -> Any:
        return self.model(**{self.input: x}, **self.options, return_dict=True)[0]


def network(transformers: Any, name: str) -> tuple[Any, Any]:
    """Return a network and an input."""
    small: dict[str, Any] = {"hidden_size": C, "num_hidden_layers": 2, "num_attention_heads": 4}
    small |= {"intermediate_size": WIDE}
    words = {"vocab_size": WORDS, "max_position_embeddings": 2 * S}
    made: dict[str, tuple[Any, dict[str, Any]]] = {
        "gpt2": (transformers.GPT2LMHeadModel, {"vocab_size": WORDS, "n_positions": 32, "n_embd": C, "n_layer": 2}),
        "llama": (transformers.LlamaForCausalLM, {**small, **words, "num_key_value_heads": 2}),
        "bert": (transformers.BertForSequenceClassification, {**small, **words}),
        "vit": (transformers.ViTForImageClassification, {**small, "image_size": SIDE, "patch_size": 8}),
        "swin": (
            transformers.SwinForImageClassification,
            {"image_size": SIDE, "patch_size": 2, "embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4]},
        ),
    }
    kind, given = made[name]
    given |= {"gpt2": {"n_head": 4}, "swin": {"window_size": 4}}.get(name, {})
    torch.manual_seed(1)
    model = kind._from_config(kind.config_class(**given), attn_implementation="eager")
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter)
    image = name in ("vit", "swin")
    x = torch.randn(B, 3, SIDE, SIDE) if image else torch.randint(0, WORDS, (B, S))
    options = {"use_cache": False} if name in DYNAMO_ONLY else {}
    return Called(model, "pixel_values" if image else "input_ids", **options).eval(), x


def export(model: Any, x: Any, path: Path, *, dynamo: bool, dynamic: bool) -> Path:
    """Export as it is traced: what an exporter folds would count as learnt."""
    names = {0: "batch"} if x.dim() == 4 else {0: "batch", 1: "seq"}
    if dynamo:
        dims = {at: torch.export.Dim(name, min=2, max=32) for at, name in names.items()}
        options: dict[str, Any] = {"optimize": False, "verbose": False, "external_data": False}
        options |= {"dynamic_shapes": (dims,)} if dynamic else {}
    else:
        options = {"opset_version": 17, "do_constant_folding": False}
        options |= {"dynamic_axes": {"x": names}} if dynamic else {}
    torch.onnx.export(model, (x,), str(path), dynamo=dynamo, input_names=["x"], output_names=["y"], **options)
    return path


def check(transformers: Any, tmp_path: Path, name: str, *, dynamo: bool, dynamic: bool) -> None:
    model, x = network(transformers, name)
    path = export(model, x, tmp_path / "m.onnx", dynamo=dynamo, dynamic=dynamic)
    opened = {"seq": S} if dynamic and x.dim() == 2 else None
    read = read_onnx_model(path, B if dynamic else None, opened)
    assert forward_macs(read.layers) == MACS[name]
    assert read.batch == B
    assert parameters(read.layers) == sum(p.numel() for p in model.parameters()) + BUFFERS.get(name, 0)


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("name", [name for name in MACS if name not in DYNAMO_ONLY])
def test_exports_by_torchscript(transformers: Any, tmp_path: Path, name: str, dynamic: bool) -> None:
    check(transformers, tmp_path, name, dynamo=False, dynamic=dynamic)


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("name", MACS)
def test_exports_by_dynamo(transformers: Any, tmp_path: Path, name: str, dynamic: bool) -> None:
    check(transformers, tmp_path, name, dynamo=True, dynamic=dynamic)
