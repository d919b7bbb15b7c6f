"""Networks of torchvision, exported here: multiply-adds and weights are those that PyTorch itself counts."""

# pyright: reportMissingImports=false
# PyTorch is an optional extra: the type checker runs without it.

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from nmsat.dataflow.network.layers import ConvLayer, LinearLayer
from nmsat.dataflow.network.readers.onnx import read_onnx_model
from tests.network.macs import forward_macs

torch = pytest.importorskip("torch")
from torch.utils.flop_counter import FlopCounterMode  # noqa: E402 # after importorskip

if TYPE_CHECKING:
    from pathlib import Path


def made(zoo: Any, name: str, **options: Any) -> Any:
    """Return a network with random weights, whose initialisation takes no time."""
    torch.manual_seed(0)
    with torch.device("meta"):
        model = zoo.get_model(name, weights=None, **options)
    model = model.to_empty(device="cpu").eval()
    for parameter in model.parameters():
        torch.nn.init.uniform_(parameter, -0.1, 0.1)
    for buffer in model.buffers():
        buffer.fill_(1 if buffer.is_floating_point() else 0)
    return model


def weights_of(model: Any) -> int:
    """Return the elements of the weights that multiply."""
    kinds = (torch.nn.Linear, torch.nn.modules.conv._ConvNd)
    found = {id(m.weight): m.weight.numel() for m in model.modules() if isinstance(m, kinds)}
    found |= {id(m.in_proj_weight): m.in_proj_weight.numel() for m in model.modules() if hasattr(m, "in_proj_weight")}
    return sum(found.values())


BACKBONE = {"weights_backbone": None}
HEADLESS = {"aux_logits": False, "init_weights": False}

NETWORKS = [
    *((name, (64, 64), {}) for name in ("resnet18", "squeezenet1_1", "mobilenet_v3_small", "shufflenet_v2_x0_5")),
    *(
        pytest.param(name, size, options, marks=pytest.mark.long)
        for name, size, options in (
            ("densenet121", (64, 64), {}),
            ("efficientnet_b0", (64, 64), {}),
            ("googlenet", (64, 64), HEADLESS),
            ("inception_v3", (80, 80), HEADLESS),
            ("mnasnet0_5", (64, 64), {}),
            ("convnext_tiny", (64, 64), {}),
            ("swin_t", (64, 64), {}),
            ("swin_v2_t", (64, 64), {}),
            ("vit_b_16", (32, 32), {"image_size": 32}),
            ("lraspp_mobilenet_v3_large", (64, 64), BACKBONE),
            ("r3d_18", (8, 32, 32), {}),
        )
    ),
]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("name", "size", "options"), NETWORKS)
def test_networks(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    zoo: Any,
    name: str,
    size: tuple[int, ...],
    options: dict[str, Any],
) -> None:
    model, x = made(zoo, name, **options), torch.zeros(2, 3, *size)
    counter = FlopCounterMode(display=False)
    monkeypatch.setattr(
        torch.backends.mha, "get_fastpath_enabled", lambda: False
    )  # one operator, which it cannot count
    with torch.no_grad(), torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH), counter:
        model(x)
    for axes in (None, {"x": {0: "batch"}}):
        path = tmp_path / "m.onnx"
        torch.onnx.export(model, (x,), str(path), dynamo=False, opset_version=17, input_names=["x"], dynamic_axes=axes)
        found = read_onnx_model(path, 2, strict=True)
        assert (2 * forward_macs(found.layers), found.batch) == (counter.get_total_flops(), 2)
        layers = {layer.weight: layer.weights for layer in found.layers if isinstance(layer, ConvLayer | LinearLayer)}
        assert sum(layers.values()) == weights_of(model)
