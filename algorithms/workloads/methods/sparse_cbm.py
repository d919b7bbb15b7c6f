"""Sparse-CBM: images are scored against named concepts, and a sparse layer of concepts decides the class.

Source: A. Semenov et al., "Sparse Concept Bottleneck Models: Gumbel Tricks in Contrastive Learning", arXiv 2404.03323,
and the code of its authors.
Known: equations from that code, the paper's Gumbel form second-hand (of the paper its beginning alone was read).

    psi = s norm(x) norm(C)^T      x, C: embeddings of images and concepts by frozen CLIP towers, s = 100
    z = psi Wc,  y = z Wf          Wc[D, D] the bottleneck, Wf[D, classes] the head, no biases
    L = cross entropy(y) + bottleneck loss of z or Wc:
      gumbel       mean over k of -log g_kk, along both axes; g = softmax((z + noise) / tau), tau = 1 (the paper)
      flat         mean of -log g over all entries: what the authors' code computes; least for constant z
      contrastive  as gumbel without noise
      l1           lambda sum |Wc| / D, lambda = 1e-3, plain gradient: small weights, no zeros
    CMS: V = cos(images, concepts), T = cos(classes, concepts), class = argmax cos(V_i, T_c); nothing is trained

k runs over min(batch, D) pairs: image k of the batch goes with concept k, as in that code. Both losses are one backward
pass, Adam.
Faithful: all of it but the loss that compares columns of psi and z. Ours: the head learns (the released code never
updates it); weights of Wc below a threshold are dropped after training.
On SAT: image tower, a training step of the bottleneck, the forward pass with the dropped weights (cover), and CMS; all
but the dropped weights is dense. Concept and class embeddings are inputs: the authors' code runs the text tower over
all of them in every step, to equal results.
Assumed: a density of Wc of 10 %, which is in no source.
Ours (`nm`): Wc is 2:8 along k and along n from the start.
Study: the Gumbel bottleneck against the l1 bottleneck of as many concepts, beside the other forms and CMS, on images
made of planted concepts; accuracy, and how much of the named concepts is planted; three seeds.
Found here: no. All bottlenecks are as accurate, and CMS is without training; since image k has nothing to do with
concept k, the entries of z name no concept more often than by chance, while psi itself names three quarters.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from nmsat.algorithms.workloads.engine import ops
from nmsat.algorithms.workloads.engine.products import linear
from nmsat.algorithms.workloads.engine.registry import Variant, Workload, register
from nmsat.algorithms.workloads.engine.training import LOSS_SCALE
from nmsat.algorithms.workloads.methods.sparse_cbm_model import (
    SCALE,
    SMALL,
    Size,
    Tower,
    bottleneck,
    concept_matrix_search,
    dropped,
    image_tower,
    pair_loss,
    unit,
    unit_columns,
)
from nmsat.algorithms.workloads.methods.sparse_cbm_study import study

if TYPE_CHECKING:
    from nmsat.algorithms.workloads.engine.program import Program


def run(p: Program, size: Size, variant: Variant) -> None:
    """Record one training step, a forward pass with the weights that are left, and Concept Matrix Search."""
    rng, t = np.random.default_rng(0), size.tower
    shape = (size.images, t.tokens - 1, size.inputs)
    x = unit(image_tower(p, t, p.input(shape, lambda: rng.standard_normal(shape))))
    c = p.weight("concepts", (t.out, size.concepts), value=lambda: unit_columns(rng, t.out, size.concepts), frozen=True)
    scores = linear("scores", x, c)
    psi = ops.scale(scores, SCALE)
    z, y = bottleneck(p, psi, size.classes, variant)
    labels = rng.integers(0, size.classes, size.images) if p.values else None
    loss = ops.add(ops.cross_entropy(y, labels), pair_loss(z, "gumbel", rng))
    p.backward(loss, LOSS_SCALE)
    learnt = sum(w.size for w in p.store.values() if not w.frozen)
    p.host("update", "Adam", 13 * learnt, 32 * learnt)
    linear("used.head", linear("used.bottleneck", psi, dropped(p, variant)), p.store["head"])
    names = p.input((size.classes, t.out), lambda: unit_columns(rng, t.out, size.classes).T)
    concept_matrix_search(scores, linear("cms.classes", names, c))


IMAGENET: Final = Size(
    images=32,
    inputs=588,
    tower=Tower(tokens=257, width=1024, layers=24, heads=16, hidden=4096, out=768),
    concepts=4751,
    classes=1000,
)
TEXT_L: Final = Tower(tokens=77, width=768, layers=12, heads=12, hidden=3072, out=768)
"""The text tower beside ViT-L/14."""

register(
    Workload(
        name="sparse-cbm",
        title="Sparse-CBM and Concept Matrix Search",
        source="Semenov et al., arXiv 2404.03323",
        sparse="weights of the concept bottleneck, unstructured after training (10 % assumed)",
        variants={
            "faithful": "towers and training dense; bottleneck as used by lossless cover",
            "nm": "ours: bottleneck 2:8 along k and along n, in training too",
        },
        quoted="ImageNet, ViT-L/14: Sparse-CBM 71.61 %, l1 71.02, contrastive 70.22, CMS 77.82 (README)",
        sizes={"small": SMALL, "paper": IMAGENET},
        run=run,
        study=study,
        about=__doc__,
    )
)
