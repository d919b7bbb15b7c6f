"""The networks of the paper: cost and bounds against published arithmetic, parameters against sums by hand."""

from __future__ import annotations

import pytest

from nmsat.algorithms.core.tape import Pattern
from nmsat.dataflow.network.layers import HostLayer, LinearLayer, MatMulLayer
from nmsat.dataflow.network.models import MODELS, load_model
from nmsat.dataflow.network.models.cnn import resnet18
from nmsat.dataflow.network.models.vit import vit
from nmsat.dataflow.network.step import parameters, training_products
from tests.network.macs import forward_macs

# Forward and training GMAC per image; bounds of SR-STE 2:8 and of BDWP 2:4, 2:8, 2:16, first layer and classifier
# dense, no input gradient for the first layer, products of attention dense.
COSTS = {
    "resnet9": ("1.162", "3.482", "1.33", "1.50", "2.00", "2.39"),
    "vgg19": ("0.398", "1.193", "1.33", "1.50", "1.99", "2.39"),
    "resnet18": ("2.222", "6.658", "1.33", "1.50", "2.00", "2.39"),
    "resnet18-7x7": ("0.148", "0.435", "1.31", "1.47", "1.91", "2.26"),
    "resnet50": ("4.089", "12.150", "1.32", "1.49", "1.96", "2.33"),
    "vit": ("1.420", "4.260", "1.32", "1.48", "1.95", "2.31"),
}


@pytest.mark.parametrize("name", MODELS)
def test_cost_and_bounds(name: str) -> None:
    layers = load_model(name, 128)
    dense = training_products(layers, "dense")
    bounds = [
        training_products(layers, method, Pattern(2, m)).bound
        for method, m in (("sr-ste", 8), ("bdwp", 4), ("bdwp", 8), ("bdwp", 16))
    ]
    found = (f"{forward_macs(layers) / 128e9:.3f}", f"{dense.macs_dense / 128e9:.3f}", *(f"{b:.2f}" for b in bounds))
    assert found == COSTS[name]
    assert dense.macs_kept == dense.macs_dense


def test_cost_of_resnet18_on_imagenet() -> None:
    layers = resnet18(128, size=224, classes=1000, stem=7)
    assert f"{forward_macs(layers) / 128e9:.3f}" == "1.814"
    assert f"{training_products(layers, 'dense').macs_dense / 128e9:.3f}" == "5.324"


def test_weights_of_resnet50() -> None:
    assert f"{parameters(load_model('resnet50', 1)) / 1e6:.1f}" == "25.6"


def norm_conv(kernel: int, c_in: int, c_out: int) -> int:
    return kernel * kernel * c_in * c_out + 2 * c_out


def test_parameters_by_hand() -> None:
    nine = norm_conv(3, 3, 128) + norm_conv(5, 128, 256) + 2 * norm_conv(3, 256, 256) + norm_conv(3, 256, 512)
    nine += 2 * norm_conv(3, 512, 512) + norm_conv(3, 512, 256) + 256 * 10
    assert parameters(load_model("resnet9", 1)) == nine

    stages = [norm_conv(3, c, c) * 3 + norm_conv(3, c // 2, c) + norm_conv(1, c // 2, c) for c in (128, 256, 512)]
    eighteen = norm_conv(3, 3, 64) + 4 * norm_conv(3, 64, 64) + sum(stages) + 512 * 200 + 200
    assert parameters(load_model("resnet18", 1)) == eighteen
    assert parameters(load_model("resnet18-7x7", 1)) == eighteen + 40 * 3 * 64

    widths = [64] * 2 + [128] * 2 + [256] * 4 + [512] * 8
    pairs = zip([3, *widths], widths, strict=False)
    assert parameters(load_model("vgg19", 1)) == sum(norm_conv(3, i, o) + o for i, o in pairs) + 512 * 100 + 100

    d = 384
    block = 4 * d * d + 4 * d + 2 * 4 * d * d + 5 * d + 4 * d
    assert parameters(load_model("vit", 1)) == 48 * d + d + d + 65 * d + 12 * block + 2 * d + 100 * d + 100


def test_structure_of_vit() -> None:
    layers = vit(batch=8, depth=2)
    scores = [layer for layer in layers if isinstance(layer, MatMulLayer)]
    assert [(s.m, s.k, s.n, s.count) for s in scores] == [(65, 64, 65, 48), (65, 65, 64, 48)] * 2
    tokens = [layer.rows for layer in layers if isinstance(layer, LinearLayer)]
    assert tokens == [8 * 65] * 8 + [8]
    kinds = {layer.kind for layer in layers if isinstance(layer, HostLayer)}
    assert kinds == {"Concat", "Add", "LayerNormalization", "Mul", "Softmax", "Gelu", "SoftmaxCrossEntropyLoss"}
    with pytest.raises(ValueError, match="patch is 5"):
        vit(1, patch=5)


def test_convolution_after_the_first_only_needs_input_gradients() -> None:
    for name in MODELS:
        weighted = [layer for layer in load_model(name, 1) if layer.parameters and not isinstance(layer, HostLayer)]
        assert [layer.input_gradient for layer in weighted if not isinstance(layer, MatMulLayer)] == [
            False,
            *[True] * (len(weighted) - 1),
        ]


def test_load_model_explains_what_it_knows() -> None:
    with pytest.raises(ValueError, match=r"'resnet34'; known names: resnet9, vit, vgg19.*\.onnx, \.csv"):
        load_model("resnet34")
    with pytest.raises(FileNotFoundError, match=r"gone\.onnx"):
        load_model("gone.onnx")
    with pytest.raises(ValueError, match="batch is -1"):
        load_model("resnet9", -1)
    assert load_model("vgg19") == load_model("vgg19", 512)
