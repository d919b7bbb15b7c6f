"""ViT-S/4 for CIFAR-100 as a list of layers (a guess: the configuration of the paper is not known)."""

from __future__ import annotations

from nmsat.algorithms.core.tape import ConvShape
from nmsat.dataflow.network.layers import ConvLayer, Layer, LinearLayer, MatMulLayer, host_layer


def vit(
    batch: int = 512,
    size: int = 32,
    patch: int = 4,
    dim: int = 384,
    depth: int = 12,
    heads: int = 6,
    hidden: int = 1536,
    classes: int = 100,
) -> list[Layer]:
    """Return a pre-norm vision transformer: patch embedding, class token, positions, `depth` blocks, linear head."""
    if batch < 1:
        raise ValueError(f"batch is {batch!r}; it must be at least 1")
    if size % patch or dim % heads:
        raise ValueError(f"patch is {patch!r} and heads {heads!r}; they must divide size {size} and dim {dim}")
    tokens = (size // patch) ** 2 + 1
    shape = ConvShape(batch, size, size, 3, dim, (patch, patch), (patch, patch))
    layers: list[Layer] = [
        ConvLayer(name="patch_embed", shape=shape, bias=True, input_gradient=False),
        host_layer("Concat", "class_token", batch * tokens * dim, parameters=dim),
        host_layer("Add", "position", batch * tokens * dim, parameters=tokens * dim),
    ]
    for block in range(depth):
        layers += _block(f"blocks.{block}", batch, tokens, dim, heads, hidden)
    layers += [
        host_layer("LayerNormalization", "norm", batch * tokens * dim, parameters=2 * dim),
        LinearLayer(name="head", rows=batch, features_in=dim, features_out=classes, bias=True),
        host_layer("SoftmaxCrossEntropyLoss", "loss", batch * classes),
    ]
    return layers


def _block(name: str, batch: int, tokens: int, dim: int, heads: int, hidden: int) -> list[Layer]:
    rows, width, count = batch * tokens, dim // heads, batch * heads
    scores = count * tokens * tokens

    def linear(part: str, features_in: int, features_out: int) -> LinearLayer:
        return LinearLayer(
            name=f"{name}.{part}", rows=rows, features_in=features_in, features_out=features_out, bias=True
        )

    return [
        host_layer("LayerNormalization", f"{name}.norm1", rows * dim, parameters=2 * dim),
        linear("attn.qkv", dim, 3 * dim),
        MatMulLayer(name=f"{name}.attn.scores", m=tokens, k=width, n=tokens, count=count),
        host_layer("Mul", f"{name}.attn.scale", scores),
        host_layer("Softmax", f"{name}.attn.softmax", scores),
        MatMulLayer(name=f"{name}.attn.context", m=tokens, k=tokens, n=width, count=count),
        linear("attn.proj", dim, dim),
        host_layer("Add", f"{name}.add1", rows * dim),
        host_layer("LayerNormalization", f"{name}.norm2", rows * dim, parameters=2 * dim),
        linear("mlp.fc1", dim, hidden),
        host_layer("Gelu", f"{name}.mlp.gelu", rows * hidden),
        linear("mlp.fc2", hidden, dim),
        host_layer("Add", f"{name}.add2", rows * dim),
    ]
