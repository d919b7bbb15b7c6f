"""The part of SparseFusion behind the candidates: frames, self-attention over both sensors, heads, loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from nmsat.algorithms.workloads.engine import ops
from nmsat.algorithms.workloads.methods.candidates import absolute, attend, focal, matched
from nmsat.algorithms.workloads.methods.radiance import sigmoid

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from nmsat.algorithms.workloads.engine.program import Program, Tensor
    from nmsat.algorithms.workloads.methods.branches import Branch
    from nmsat.algorithms.workloads.methods.fusion_sizes import FusionSize

NUMBERS: Final = {"centre": 2, "height": 1, "size": 3, "yaw": 2, "velocity": 2}
"""Numbers of a box by head; yaw as sine and cosine."""

BOX: Final = sum(NUMBERS.values())
RARE: Final = -2.19
"""First bias of the classes: a chance of 0.1, as the code begins with (Lin et al., "Focal Loss", section 4.1)."""


class Found(NamedTuple):
    """What heads say of candidates: boxes [B, N, BOX], logits [B, N, classes]."""

    boxes: Tensor
    logits: Tensor


@dataclass(frozen=True, eq=False)
class Truth:
    """Known objects of B scenes: classes[B, k], boxes[B, k, BOX]."""

    classes: NDArray[np.int64]
    boxes: NDArray[np.float64]


def heads(net: Branch, q: Tensor, classes: int, places: Tensor | None = None) -> Found:
    """Return boxes and logits of candidates q[B, N, width]; every head has a hidden layer of half the width.

    places: where the candidates were found, [B, N, 2]; the centre is told from there.
    """
    half = q.shape[-1] // 2
    parts = [net.hidden(f"head.{name}", q, half, count) for name, count in NUMBERS.items()]
    parts[0] = parts[0] if places is None else ops.add(parts[0], places)
    return Found(ops.concat(parts, -1), net.hidden("head.class", q, half, classes, RARE))


def fused(net: Branch, size: FusionSize, *sets: Tensor) -> Tensor:
    """Return all candidates [B, N, width] behind one layer of self-attention over all sets."""
    q = sets[0] if len(sets) == 1 else ops.concat(sets, 1)
    q = net.layer_norm("self", ops.add(q, attend(net, "self", q, q, size.heads)))
    return net.layer_norm("ff", ops.add(q, net.hidden("ff", q, size.hidden, size.width)))


def in_frame(
    p: Program, net: Branch, q: Tensor, found: Found, cameras: NDArray | None, views: int
) -> tuple[Tensor, Tensor]:
    """Return camera candidates in the LiDAR frame and their places there [1, N, 2]; cameras: [views, 4, 4] to it.

    Features are g(box there) + h(q m(camera)). Of a box nine numbers are read, those of the centre turned into the
    frame; no gradient flows through them.
    """
    _, count, width = q.shape
    each = -(-count // views)

    def which() -> NDArray:
        if cameras is None:
            raise RuntimeError("a run with values needs cameras")
        return cameras[np.arange(count) // each]

    def boxes() -> NDArray:
        box = found.boxes.array.astype(np.float64)
        centre = np.concatenate([box[..., :3], np.ones((1, count, 1))], axis=2)
        turned = np.einsum("nij,bnj->bni", which(), centre)[..., :3]
        return np.concatenate([turned, box[..., 3:9]], axis=2)

    p.host("frame", "Projection", 32 * count, 100 * count)
    place = p.input((1, count, 9), boxes)
    gate = sigmoid(net.hidden("frame.m", p.input((1, count, 16), lambda: which().reshape(1, count, 16)), width, width))
    told = ops.add(net.hidden("frame.g", place, width, width), net.dense("frame.h", ops.mul(q, gate), width))
    return told, ops.part(place, -1, 0, 2)


def detection_loss(p: Program, found: Found, truth: Truth | None, objects: int) -> Tensor:
    """Return the focal loss of all candidates and 0.25 L1 of those that are given an object; objects: of each scene."""
    batch, count, classes = found.logits.shape
    logits, boxes = ops.reshape(found.logits, (batch * count, classes)), ops.reshape(found.boxes, (batch * count, BOX))
    index = target = known = None
    picks = []
    for scene in range(batch):
        rows = slice(scene * count, (scene + 1) * count)
        one = (logits, boxes) if batch == 1 else (_rows(logits, rows), _rows(boxes, rows))
        pair = (None, None) if truth is None else (truth.classes[scene], truth.boxes[scene])
        picks.append(matched(p, *one, *pair, objects))
    if truth is not None:
        index = np.concatenate([ops.given(pick) + scene * count for scene, pick in enumerate(picks)])
        target = np.zeros((batch * count, classes), np.bool_)
        target[index, truth.classes.reshape(-1)] = True
        known = truth.boxes.reshape(-1, BOX)
    near = absolute(ops.gather(boxes, index, batch * objects), known, 0.25 * BOX)
    return ops.add(focal(logits, target), near)


def _rows(x: Tensor, rows: slice) -> Tensor:
    """Return rows of a tensor as a constant."""
    return x.program.input((rows.stop - rows.start, x.shape[1]), lambda: x.array[rows])
