"""The paper's networks that train against those that are scheduled: the same layers, the same multiply-adds."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np
import pytest

from nmsat.algorithms.core.arithmetic import FloatArithmetic, Operand
from nmsat.algorithms.core.tape import Pattern, Stage, Tape
from nmsat.algorithms.core.vocabulary import PAPER_NETWORKS
from nmsat.algorithms.layers.base import Context, prepare
from nmsat.algorithms.layers.networks import make_network
from nmsat.algorithms.layers.parameter import Weight
from nmsat.algorithms.layers.pooling import GlobalMaxPool, OverlappingMaxPool
from nmsat.algorithms.layers.sample import Sample
from nmsat.algorithms.methods.patterns import parse_patterns
from nmsat.dataflow.network.layers import ConvLayer, LinearLayer
from nmsat.dataflow.network.models import MODELS
from nmsat.dataflow.network.own import layer_patterns
from nmsat.dataflow.network.readers.tape import tape_step
from nmsat.dataflow.network.step import Step, layer_of, training_products

if TYPE_CHECKING:
    from nmsat.algorithms.core.windows import Windows

SAMPLES = {
    "resnet9": Sample((32, 32, 3), 10),
    "vit": Sample((32, 32, 3), 100),
    "vgg19": Sample((32, 32, 3), 20),
    "resnet18": Sample((64, 64, 3), 200),
    "resnet50": Sample((224, 224, 3), 50),
}
QUICK = ("resnet9", "vgg19", "resnet18")


class Shapes(FloatArithmetic):
    """Products of the right shape and no value: which ones there are is asked, not what comes out."""

    def dot(self, a: np.ndarray | Windows, w: Operand) -> np.ndarray:
        return np.zeros((a.shape[0], w.values.shape[1]), np.float32)

    def dot_batched(self, a: np.ndarray, w: np.ndarray) -> np.ndarray:
        return np.zeros((len(a), a.shape[1], w.shape[2]), np.float32)


@pytest.mark.parametrize("name", PAPER_NETWORKS)
def test_weights_have_the_names_and_sizes_of_the_schedule(name: str) -> None:
    model = make_network(name, np.random.default_rng(0), SAMPLES[name])
    trained = {p.name: p.master.shape for p in model.parameters() if isinstance(p, Weight)}
    layers = MODELS[name](1, classes=SAMPLES[name].classes)
    weighted = [layer for layer in layers if isinstance(layer, ConvLayer | LinearLayer)]
    assert trained == {f"{x.name}.weight": (x.taps * x.features_in, x.features_out) for x in weighted}
    elements = sum(p.master.size for p in model.parameters())
    assert elements == sum(update.elements for update in training_products(layers, "dense").updates)
    sparse = [p.name for p in model.parameters() if isinstance(p, Weight) and p.sparse]
    assert sparse == [f"{layer.name}.weight" for layer in weighted[1:-1] if layer.name in {n[:-7] for n in sparse}]
    assert len(sparse) == len(weighted) - 2


@pytest.mark.parametrize("name", QUICK)
def test_a_step_multiplies_what_the_schedule_does(name: str) -> None:
    model = make_network(name, np.random.default_rng(0), SAMPLES[name])
    ctx = Context(Shapes(np.float32))
    prepare(model, ctx)
    ctx.tape = Tape()
    x = np.ones((1, *SAMPLES[name].shape), np.float32)
    y = model.forward(x, ctx)
    assert y.shape == (1, SAMPLES[name].classes)
    model.backward(np.ones_like(y), ctx)
    layers = MODELS[name](1, classes=SAMPLES[name].classes)
    assert macs(tape_step(ctx.tape)) == macs(training_products(layers, "dense"))


def macs(step: Step) -> Counter[tuple[str, Stage]]:
    found: Counter[tuple[str, Stage]] = Counter()
    for product in step.products:
        found[layer_of(product.name), product.stage] += product.macs_dense
    return found


def test_layers_have_patterns_of_their_own_in_both_directions() -> None:
    layers = MODELS["resnet9"](1)
    own = layer_patterns(parse_patterns("wide.conv@2:4~2:16+narrow.conv@dense+rest@dense~2:8"), layers)
    step = training_products(layers, "bdwp", Pattern(2, 8), own=own)
    found = {(p.name, p.stage): str(p.pattern or "dense") for p in step.products if p.stage is not Stage.WU}
    assert (found["wide.conv", Stage.FF], found["wide.conv", Stage.BP]) == ("2:4", "2:16")
    assert (found["narrow.conv", Stage.FF], found["narrow.conv", Stage.BP]) == ("dense", "dense")
    assert (found["res1.0.conv", Stage.FF], found["res1.0.conv", Stage.BP]) == ("dense", "2:8")
    assert found["stem.conv", Stage.FF] == found["fc", Stage.BP] == "dense"  # the ends stay
    update = {update.name: (update.ff, update.bp) for update in step.updates}
    assert update["wide.conv"] == (Pattern(2, 4), Pattern(2, 16))
    same = training_products(layers, "bdwp", Pattern(2, 8), own=layer_patterns(parse_patterns("rest@2:8"), layers))
    plain = training_products(layers, "bdwp", Pattern(2, 8))
    assert [product.facts() for product in same.products] == [product.facts() for product in plain.products]
    assert same.updates == plain.updates
    with pytest.raises(ValueError, match=r"names layer 'stem\.conv'; layers that may be pruned: down\.conv"):
        layer_patterns(parse_patterns("stem.conv@2:4"), layers)
    with pytest.raises(ValueError, match=r"layer 'wide\.conv' has two patterns"):
        training_products(layers, "sdgp", Pattern(2, 8), own={"wide.conv": (Pattern(2, 4), Pattern(2, 8))})


def test_pooling_by_hand() -> None:
    rng = np.random.default_rng(4)
    x = rng.integers(-9, 9, (2, 7, 6, 2)).astype(np.float32)
    ctx = Context(FloatArithmetic(np.float32))
    pool = OverlappingMaxPool()
    y = pool.forward(x, ctx)
    dy = rng.integers(1, 5, y.shape).astype(np.float32)
    dx = np.zeros_like(x)
    assert y.shape == (2, 4, 3, 2)
    for b, i, j, c in np.ndindex(*y.shape):
        window = {
            (r, s): x[b, r, s, c]
            for r in range(2 * i - 1, 2 * i + 2)
            for s in range(2 * j - 1, 2 * j + 2)
            if 0 <= r < 7 and 0 <= s < 6
        }
        first = max(window, key=lambda place: (window[place], [-k for k in place]))
        assert y[b, i, j, c] == window[first]
        dx[b, first[0], first[1], c] += dy[b, i, j, c]
    assert np.array_equal(pool.backward(dy, ctx), dx)
    whole = GlobalMaxPool()
    assert np.array_equal(whole.forward(x, ctx), x.max(axis=(1, 2)))
    back = whole.backward(np.ones((2, 2), np.float32), ctx)
    assert np.array_equal(back.sum(axis=(1, 2)), np.ones((2, 2)))
    assert (x[back > 0] == np.broadcast_to(x.max(axis=(1, 2), keepdims=True), x.shape)[back > 0]).all()
