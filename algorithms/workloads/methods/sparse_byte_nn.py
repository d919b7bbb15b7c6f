"""SparseByteNN: MobileNet-v1 with pruned kernel groups in its pointwise layers.

Source: H. Xu et al., "SparseByteNN: A Novel Mobile Inference Acceleration Framework Based on Fine-Grained Group
Sparsity", arXiv 2310.19509.
Known: read was the abstract; its repository holds no code. The rest is rebuilt from 1xN pruning (`kernel_groups`) and
is a reconstruction:

    s[c, b] = sum |W[c, block b of G outputs]|; per group of outputs the best (1 - s) k inputs stay     (balanced)

before that, outputs are sorted by L1 norm, and that order is carried through normalisation, depthwise layers and the
inputs of the next pointwise layer; then fine-tuning with fixed masks.
Faithful: to that reconstruction. Sparse are the pointwise layers (95 % of the multiply-adds), 30 %; stem, depthwise
layers and classifier are dense.
On SAT: one step of fine-tuning. A group of outputs reads its own inputs: a dense product of fewer inputs, gathered
along k, G columns wide. In the input gradient every input meets its own groups, so that product runs by cover or dense;
the weight gradient is wanted where the mask is. Depthwise layers (3 %) are the host's: as products of one column they
would take 16 million cycles of `vcu1525` in the forward pass, all pointwise layers 4.
Assumed: G is the 32 columns of the array, the batch is 8 and the kept inputs are drawn.
Ours (`nm`): 6 of each 8 consecutive inputs, the same for all outputs of a group (25 %); native 6:8.
Study: groups against single weights whose cover spends no more multiply-adds on the array, both fine-tuned alike, and
against the dense network; accuracy on digits, three seeds.
Found here: at equal multiply-adds (0.69 of the dense ones, so at most 1.45 times as fast; `nm` 0.75) single weights
stay more accurate (0.931 against 0.910 beside `nm`): no. Reductions of 16 to 32 hold one or two groups of 16, so a
cover of single weights is nearly free in this small network (64 % kept at the price of 69 %, 71 % at that of 75 %); it
is over the 512 inputs of MobileNet that it is not.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Final

import numpy as np

from nmsat.algorithms.core.tape import Pattern
from nmsat.algorithms.training.data import digits
from nmsat.algorithms.workloads.engine import ops
from nmsat.algorithms.workloads.engine.images import depthwise_by_host
from nmsat.algorithms.workloads.engine.networks import normalised
from nmsat.algorithms.workloads.engine.products import conv2d, linear
from nmsat.algorithms.workloads.engine.program import Program
from nmsat.algorithms.workloads.engine.registry import Study, Variant, Workload, register
from nmsat.algorithms.workloads.engine.training import LOSS_SCALE, sgd
from nmsat.algorithms.workloads.methods.kernel_groups import (
    Use,
    along_inputs,
    balanced,
    by_norm,
    carried,
    cover,
    scores,
    threshold,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from nmsat.algorithms.training.data import Dataset
    from nmsat.algorithms.workloads.engine.parameters import Parameter
    from nmsat.algorithms.workloads.engine.program import Tensor

PATTERN: Final = Pattern(6, 8)


@dataclass(frozen=True, kw_only=True)
class Size:
    """A depthwise-separable network on image x image x channels inputs.

    stem, stem_stride: of the first convolution; blocks: outputs and stride of each depthwise and pointwise pair; group:
    outputs of a kernel group; sparsity: share of blocks that is pruned.
    """

    batch: int
    image: int
    channels: int
    classes: int
    stem: int
    stem_stride: int
    blocks: tuple[tuple[int, int], ...]
    group: int
    sparsity: float = 0.3


def run(p: Program, size: Size, variant: Variant) -> None:
    """Record one step of fine-tuning with fixed masks."""
    data = _data() if p.values else None
    shape = (size.batch, size.image, size.image, size.channels)
    x = p.input(shape, lambda: _data().x_train[: size.batch])
    prune(p, size, variant)
    p.backward(ops.cross_entropy(network(p, size, x), None if data is None else data.y_train[: size.batch]), LOSS_SCALE)


def network(p: Program, size: Size, x: Tensor) -> Tensor:
    """Return the logits."""
    w = p.weight("stem", (9 * size.channels, size.stem))
    h = ops.relu(normalised(p, "stem", conv2d("stem", x, w, 3, size.stem_stride)))
    for index, (width, stride) in enumerate(size.blocks):
        n = h.shape[-1]
        h = depthwise_by_host(f"dw{index}", h, _kernels(p, f"dw{index}", n), stride)
        h = ops.relu(normalised(p, f"dw{index}", h))
        w = p.weight(f"pw{index}", (n, width), masked_gradient=True)
        h = ops.relu(normalised(p, f"pw{index}", conv2d(f"pw{index}", h, w, 1)))
    h = ops.mean(h, (1, 2))
    w = p.weight("classifier", (h.shape[-1], size.classes))
    return linear("classifier", h, w, p.vector("classifier.bias", (size.classes,)))


def _kernels(p: Program, name: str, channels: int) -> Tensor:
    """Return the kernels [9, channels] of a depthwise layer."""
    w = p.vector(name, (9, channels))
    if p.values and not w.array.any():
        w.array[...] = p.rng.standard_normal(w.shape) * np.sqrt(2 / 9)
    return w


def prune(p: Program, size: Size, variant: Variant) -> None:
    """Give the pointwise layers their masks, unless they have them."""
    inputs = size.stem
    for index, (width, _) in enumerate(size.blocks):
        w = p.weight(f"pw{index}", (inputs, width), masked_gradient=True)
        if variant == "nm":
            if w.ff is None and inputs >= PATTERN.m:
                w.ff = PATTERN
                if w.value is not None:
                    mask_nm(w, size.group)
        else:
            present = p.statistic(f"pw{index}.blocks", lambda w=w: blocks_of(w, size), lambda w=w: _drawn(p, w, size))
            w.mask_blocks(present, 1, size.group)
        inputs = width


def kept_inputs(inputs: int, size: Size) -> int:
    """Return how many inputs a group of outputs keeps."""
    return max(1, round((1 - size.sparsity) * inputs))


def blocks_of(w: Parameter, size: Size) -> NDArray[np.bool_]:
    """Return the blocks of a layer that are present: those it has, or the best by score."""
    if w.blocks is not None:
        return w.blocks.keep
    return balanced(scores(w.array, size.group), kept_inputs(w.shape[0], size))


def mask_nm(w: Parameter, group: int) -> None:
    """Keep 6 of each 8 consecutive inputs of a group of outputs."""
    keep = along_inputs(scores(w.array, group), PATTERN)
    w.mask(np.repeat(keep, group, axis=1)[:, : w.shape[1]])


def _drawn(p: Program, w: Parameter, size: Size) -> NDArray[np.bool_]:
    return balanced(p.rng.random((w.shape[0], -(-w.shape[1] // size.group))), kept_inputs(w.shape[0], size))


def rearranged(tensors: dict[str, NDArray], size: Size) -> dict[str, NDArray]:
    """Return the network with the outputs of every pointwise layer sorted by norm; it computes the same."""
    last = len(size.blocks) - 1
    for index in range(len(size.blocks)):
        uses = [Use(f"pw{index}", 1), Use(f"pw{index}.gain", 0), Use(f"pw{index}.bias", 0)]
        if index == last:
            uses.append(Use("classifier", 0))
        else:
            beyond = f"dw{index + 1}"
            uses += [Use(beyond, 1), Use(f"{beyond}.gain", 0), Use(f"{beyond}.bias", 0), Use(f"pw{index + 1}", 0)]
        tensors = carried(tensors, uses, by_norm(tensors[f"pw{index}"]))
    return tensors


@lru_cache(maxsize=1)
def _data() -> Dataset:
    return digits()


def train(store: dict[str, Parameter], size: Size, steps: int, rate: float, seed: int) -> None:
    """Train with momentum SGD and a cosine schedule; masks stay."""
    data, rng = _data(), np.random.default_rng(seed)
    for step in range(steps):
        pick = rng.integers(0, len(data.x_train), size.batch)
        p = Program(store=store, rng=np.random.default_rng(seed))
        x = p.input((size.batch, size.image, size.image, size.channels), data.x_train[pick])
        p.backward(ops.cross_entropy(network(p, size, x), data.y_train[pick]))
        sgd(store.values(), rate * 0.5 * (1 + np.cos(np.pi * step / steps)), decay=4e-5)


def accuracy(store: dict[str, Parameter], size: Size) -> float:
    """Return the accuracy on the digits that were held out."""
    images = _data().x_test
    p = Program(store=store)
    logits = network(p, replace(size, batch=len(images)), p.input(images.shape, images)).array
    return float(np.mean(logits.argmax(axis=1) == _data().y_test))


def share(inputs: int, size: Size, variant: Variant) -> float:
    """Return the share of a layer's inputs that a group of outputs keeps, and with it of its multiply-adds."""
    return PATTERN.n / PATTERN.m if variant == "nm" else kept_inputs(inputs, size) / inputs


def pruned(store: dict[str, Parameter], size: Size, how: Variant | str, beside: Variant) -> dict[str, Parameter]:
    """Return a pruned copy: kernel groups ('faithful', 'nm', both rearranged; 'plain': in place), or single weights.

    'single': the largest of each layer, as many as a cover may have that spends no more multiply-adds than the groups
    of the variant `beside`.
    """
    values = {name: w.array.copy() for name, w in store.items()}
    if how in ("faithful", "nm"):
        values = rearranged(values, size)
    found = {name: replace(w, value=values[name], state={}, grad=None) for name, w in store.items()}
    for index in range(len(size.blocks)):
        w = found[f"pw{index}"]
        if how == "nm":
            mask_nm(w, size.group)
            w.ff = PATTERN
        elif how == "single":
            w.mask(_as_quick(w.array, share(w.shape[0], size, beside)))
        else:
            w.mask_blocks(blocks_of(w, size), 1, size.group)
    return found


def _as_quick(w: NDArray, budget: float) -> NDArray[np.bool_]:
    """Return the densest mask of the largest weights whose cover spends at most `budget` of the multiply-adds."""
    size = np.abs(w)
    low, high = 0, w.size
    while low + 1 < high:
        middle = (low + high) // 2
        low, high = (middle, high) if cover(threshold(size, middle)) <= budget else (low, middle)
    return threshold(size, max(low, 1))


def spent(store: dict[str, Parameter], size: Size) -> float:
    """Return which share of the pointwise layers' multiply-adds the array spends in the forward pass.

    Blocks are gathered, N:M is native, single weights run by cover: its inverse bounds the speed-up.
    """
    whole = least = 0.0
    side, inputs = size.image // size.stem_stride, size.stem
    for index, (width, stride) in enumerate(size.blocks):
        w, side = store[f"pw{index}"], side // stride
        work = side * side * inputs * width
        if w.keep is None:
            raise ValueError(f"layer {w.name!r} has no mask; only pruned networks have a share")
        packed = w.blocks is not None or w.ff is not None
        whole, least, inputs = whole + work, least + work * (w.density if packed else cover(w.keep)), width
    return least / whole


def study(variant: Variant) -> Study:
    """Prune three trained networks by groups and by single weights of the same cost on SAT, fine-tune both."""
    measured: dict[str, float | int | str] = {}
    found: dict[str, list[float]] = {"dense": [], "groups": [], "plain": [], "single": []}
    for seed in range(3):
        store: dict[str, Parameter] = {}
        train(store, TOY, 120, 0.1, seed)
        found["dense"].append(accuracy(store, TOY))
        for name in ("groups", "plain", "single"):
            copy = pruned(store, TOY, variant if name == "groups" else name, variant)
            if name == "plain":  # how much is lost in place, without the order of the channels
                found[name].append(accuracy(copy, TOY))
                continue
            measured[f"accuracy_{name}_untuned_seed{seed}"] = accuracy(copy, TOY)
            train(copy, TOY, 40, 0.01, 100 + seed)
            found[name].append(accuracy(copy, TOY))
            measured[f"spent_{name}_seed{seed}"] = spent(copy, TOY)
            measured[f"density_{name}_seed{seed}"] = float(
                np.mean([np.mean(copy[f"pw{i}"].keep) for i in range(len(TOY.blocks))])  # type: ignore[arg-type]
            )
    names = {"plain": "groups_in_place_untuned"}
    for name, values in found.items():
        measured |= {f"accuracy_{names.get(name, name)}_seed{seed}": value for seed, value in enumerate(values)}
        measured[f"accuracy_{names.get(name, name)}"] = float(np.mean(values))
    holds = float(measured["accuracy_groups"]) > float(measured["accuracy_single"])
    claim = "kernel groups are more accurate than single weights at equal multiply-adds on the array"
    return Study(claim, holds, measured, {})


SMALL: Final = Size(
    batch=2,
    image=8,
    channels=1,
    classes=10,
    stem=8,
    stem_stride=1,
    blocks=((8, 1), (16, 2), (16, 1)),
    group=4,
)
TOY: Final = replace(SMALL, batch=32, stem=16, blocks=((32, 1), (32, 2), (64, 1)))
MOBILENET: Final = Size(
    batch=8,
    image=224,
    channels=3,
    classes=1000,
    stem=32,
    stem_stride=2,
    blocks=((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *((512, 1),) * 5, (1024, 2), (1024, 1)),
    group=32,
)

register(
    Workload(
        name="sparse-byte-nn",
        title="SparseByteNN",
        source="Xu et al., arXiv 2310.19509 (abstract; rebuilt from 1xN pruning)",
        sparse="weights, 1 x G blocks of the pointwise layers, 30 % pruned",
        variants={
            "faithful": "kept inputs of each group of outputs gathered along k",
            "nm": "ours: 6 of 8 consecutive inputs per group of outputs, native 6:8",
        },
        quoted="MobileNet-v1 at 30 %: 1.27x over dense on a Snapdragon 855, 0.224 points of accuracy lost (abstract)",
        sizes={"small": SMALL, "paper": MOBILENET},
        run=run,
        study=study,
        about=__doc__,
    )
)
