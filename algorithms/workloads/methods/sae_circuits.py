"""SAE circuits: heads of a transformer are found by discrete codes of their outputs, learnt from a handful of prompts.

Source: C. O'Neill and T. Bui, "Sparse Autoencoders Enable Scalable and Reliable Circuit Identification in Language
Models", arXiv 2405.12522, and the code of its authors.
Known: equations from that code; of the paper its beginning alone was read. x: output of a head (after W_O), mean over
the tokens of a prompt:

    f = relu((x - b) We + be),  x^ = f Wd + b        features: 200; b tied, 0 at the start
    L = mean (x^ - x)^2 + lambda mean sum f          lambda = 0.02, Adam 1e-3, 500 steps on all vectors of 10 prompts
    code c[prompt, head] = argmax f                  0 if all f are 0
    score of a head = codes it has on positive prompts and never on negative ones, over all its codes (the union)

Each column of We and Wd[:, i] has length 1 after every step and its gradient no part along itself; of Wd the code of
the authors takes the inputs, not the atoms, as here.
Faithful: one autoencoder for all heads, codes, node scores (edge scores: pairs of codes, `edge_scores`).
On SAT: the outputs of GPT-2 small are captured for 10 prompts, one training step of the autoencoder, then the codes
of those prompts and their sparse reconstruction. The result of each head is a product of its own (64 x 768). The
decoder reads x^^T = Wd^T f^T with f^T as the weight operand: a lossless cover. Training computes it dense. The other
490 prompts and 499 steps are the same products.
Assumed: prompts of 20 tokens and 10 features per code (5 %).
Ours (`nm`): 2 of each 8 consecutive features stay, in training too; the reconstruction is native.
Study: codes against two baselines of magnitude from the same ten prompts: the length of a head's mean output, and of
the difference of its means; precision (and recall: as many are named as are planted) and area under ROC for eight
planted heads of 32; three seeds.
Found here: the codes reach areas of 0.93 to 0.97, far above the lengths of the outputs (0.36 to 0.55), but the length
of the difference of both means reaches 0.97 to 1: no.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from nmsat.algorithms.workloads.engine import ops
from nmsat.algorithms.workloads.engine.registry import Variant, Workload, register
from nmsat.algorithms.workloads.engine.training import LOSS_SCALE
from nmsat.algorithms.workloads.methods.sae_circuits_model import (
    SMALL,
    Size,
    decode_sparse,
    encode,
    head_outputs,
    loss,
)
from nmsat.algorithms.workloads.methods.sae_circuits_study import study

if TYPE_CHECKING:
    from nmsat.algorithms.workloads.engine.program import Program


def run(p: Program, size: Size, variant: Variant) -> None:
    """Record the capture, one training step and the reconstruction from codes."""
    rng = np.random.default_rng(0)
    ids = rng.integers(0, size.vocabulary, size.prompts * size.tokens) if p.values else None
    x = ops.reshape(head_outputs(p, size, ids), (size.vectors, size.width))
    p.backward(loss(p, x, size.features, variant), LOSS_SCALE)
    learnt = sum(w.size for w in p.store.values() if not w.frozen)
    p.host("update", "Adam", 13 * learnt, 32 * learnt)
    p.host("unit", "LpNormalization", 2 * 5 * 2 * size.features * size.width, 2 * 6 * 2 * size.features * size.width)
    f = encode(p, x, size.features, "codes.encode")
    p.host("codes", "ArgMax", f.size, 2 * f.size)
    if variant == "nm":
        p.host("best", "TopK", 2 * 3 * f.size, 2 * 2 * f.size)
    decode_sparse(p, f, size.width, variant)


GPT2_SMALL: Final = Size(
    prompts=10, tokens=20, layers=12, width=768, heads=12, hidden=3072, vocabulary=50257, features=200
)

register(
    Workload(
        name="sae-circuits",
        title="SAE circuits",
        source="O'Neill and Bui, arXiv 2405.12522",
        sparse="codes of the autoencoder, 5 % of 200 features (assumed)",
        variants={
            "faithful": "reconstruction from codes by lossless cover; capture and training dense",
            "nm": "ours: 2 of each 8 consecutive features, reconstruction native",
        },
        quoted="area under ROC (nodes): IOI 0.868, greater-than 0.855, docstring 0.869 (results of its repository)",
        sizes={"small": SMALL, "paper": GPT2_SMALL},
        run=run,
        study=study,
        about=__doc__,
    )
)
