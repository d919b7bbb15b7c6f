"""SeqBoat (sparse modular activation): a state-space layer decides which tokens also pass the gated attention unit.

Source: L. Ren et al., "Sparse Modular Activation for Efficient Sequence Modeling", NeurIPS 2023, arXiv 2306.11197, and
the code of its authors (their stand-alone layer).
Known: all equations from that code; rates of activation in the paper were not read. x[L, D], h = 2 D, z: width of
queries and keys, window w:

    X = silu(k * norm(x) + omega norm(x))     k: moving averages of 16 states (`seqboat_ema`), causal
    [u | s] = X W_hx;  pi = softmax(u / tau), tau learnt;  a token is active if pi_1 > pi_0, its confidence is pi_1
    [Z | r | v] = silu(Xc W_mx)               Xc: active tokens alone, one after the other
    q = Z g1 + b1,  k = Z g2 + b2;  A = softmax(q k^T / sqrt(z) + bias of the distance in the text), the last w tokens
    o = confidence ((A v) r) W_h;  y = silu(s + o + x)

The mask carries no gradient, there is no loss of load.
Faithful: all of it, with softmax (not squared ReLU), causal alone, always compressed and padded to the longest sequence
of the batch, here in whole blocks. Norms before the layer.
On SAT: rows of W_mx and W_h that are not active are left out (gather); W_hx reads all. Blocks of w queries see their
own and the block before, dense: what is outside of the exact window is computed and masked. The tables count rows left
out of W_mx and W_h; the shorter attention has fewer blocks and stands there as it is. Moving averages are the host's.
Assumed: enwik8, one sequence of 8192, half of the tokens active, as at the start.
Ours (`nm`): W_hx, W_mx and W_h are 2:8 along k, and along n in the input gradient.
Study: learnt choice against full and no attention on planted recall, where a quarter of the tokens is needed; loss,
accuracy, and which tokens are active; two seeds of 300 steps. The learnt choice must come within 0.05 nats of full
attention with each seed and leave tokens alone that nothing depends on.
Found here: no. With one seed the learnt choice comes within 0.08 nats of full attention with 98 % of the tokens active
where a quarter is needed; with the other almost none are, and it learns no more than without attention. What is active
is no likelier to be needed: nothing in the loss rewards fewer tokens. With `nm` one seed is below full attention with
every token active, the other 0.4 nats above it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from nmsat.algorithms.workloads.engine import ops
from nmsat.algorithms.workloads.engine.registry import Variant, Workload, register
from nmsat.algorithms.workloads.engine.training import LOSS_SCALE
from nmsat.algorithms.workloads.methods.seqboat_model import SMALL, Size, forward
from nmsat.algorithms.workloads.methods.seqboat_study import study

if TYPE_CHECKING:
    from nmsat.algorithms.workloads.engine.program import Program


def run(p: Program, size: Size, variant: Variant) -> None:
    """Record one training step."""
    rows = size.batch * size.tokens
    ids = np.random.default_rng(0).integers(0, size.vocabulary, rows + 1) if p.values else None
    logits, _ = forward(p, size, None if ids is None else ids[:-1], variant)
    p.backward(ops.cross_entropy(logits, None if ids is None else ids[1:]), LOSS_SCALE)
    learnt = sum(w.size for w in p.store.values() if not w.frozen)
    p.host("update", "Adam", 13 * learnt, 32 * learnt)


ENWIK8: Final = Size(batch=1, tokens=8192, layers=14, width=616, narrow=128, window=1024, vocabulary=256)

register(
    Workload(
        name="seqboat",
        title="SeqBoat, sparse modular activation",
        source="Ren et al., NeurIPS 2023, arXiv 2306.11197",
        sparse="tokens that pass the gated attention unit, half (assumed)",
        variants={
            "faithful": "active tokens gathered; dense, shorter products",
            "nm": "ours: W_hx, W_mx and W_h 2:8 along k and along n besides",
        },
        quoted="enwik8 about 1.02 bits per byte (README of its repository)",
        sizes={"small": SMALL, "paper": ENWIK8},
        run=run,
        study=study,
        about=__doc__,
    )
)
