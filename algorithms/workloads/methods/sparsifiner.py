"""Sparsifiner: attention masks that depend on the image, guessed from low-rank queries and keys.

Source: C. Wei, B. Duke et al., "Sparsifiner: Learning Sparse Instance-Dependent Attention for Efficient Vision
Transformers", CVPR 2023, arXiv 2303.13755, and the code of its authors.
Known: equations from the paper's section 3.2 and the code. Per head, with N tokens:

    q' = q P_q,  k' = k P_k                    d -> d / 2, shared by the heads
    c  = softmax(q' (k'^T D) / sqrt(heads))    basis coefficients over N_r = N / reduce, not for the class token
    A' = c U                                   training: U signed; then |U| above 0.02 and the largest quarter of c
    mask: the ceil(0.25 N) largest of each row of A', everything for the class token
    Y  = softmax(q k^T / sqrt(d) on the mask) v

Faithful: all of it, the scale 1 / sqrt(heads) of the code included; the predictor learns to rebuild the attention of
the dense model, then masks are used. The basis starts near 0 (ours), since what stays of a random start turns into
false pairs under |U|; weights do not decay in the study.
On SAT: A v and c U by cover, with A^T and c^T as the weight operand. q k^T wants only masked results, which a systolic
array cannot skip one by one: dense, as are projections and feed-forward layers. Choice of the pairs and softmax are the
host's.
Assumed: DeiT-S at 224 x 224, one image; of c a quarter, of each row of A a quarter, at random places.
Ours (`nm`): the mask takes the best 2 of each 8 consecutive keys and c the best 2 of each 8, for the class token's row
too, so A v and c U are native 2:8 with A^T and c^T as the weight operand.
Study: masks of the predictor against masks fixed for all images and random ones of the same size, and against dense
attention, all tuned alike; share of the tokens of noisy images that are right, two seeds. At most 0.03 may be lost.
Found here: with masks of the predictor 88 % of the tokens are right, with dense attention that was trained as long 85,
with masks fixed for all images 60, with random ones 53; alike for `nm`: yes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from nmsat.algorithms.workloads.engine.registry import Variant, Workload, register
from nmsat.algorithms.workloads.methods.sparsifiner_model import SMALL, Size, forward, pointer_images
from nmsat.algorithms.workloads.methods.sparsifiner_study import study

if TYPE_CHECKING:
    from nmsat.algorithms.workloads.engine.program import Program


def run(p: Program, size: Size, variant: Variant) -> None:
    """Record one forward pass with sparse attention."""
    data = pointer_images(size, 0)[0] if p.values else None
    forward(p, size, p.input((size.batch, size.patches, size.inputs), data), "sparse", variant)


DEIT_S: Final = Size(
    batch=1, patches=196, inputs=768, width=384, heads=6, layers=12, hidden=1536, classes=1000, reduce=6
)

register(
    Workload(
        name="sparsifiner",
        title="Sparsifiner",
        source="Wei, Duke et al., CVPR 2023, arXiv 2303.13755",
        sparse="attention, 25 % of the pairs, chosen per image, head and layer",
        variants={
            "faithful": "A v by lossless cover of the row masks, q k^T dense",
            "nm": "ours: 2 of each 8 consecutive keys, A v native 2:8",
        },
        quoted="48 to 69 % of the attention's FLOPs removed at up to 0.4 % lower accuracy (paper)",
        sizes={"small": SMALL, "paper": DEIT_S},
        run=run,
        study=study,
        about=__doc__,
    )
)
