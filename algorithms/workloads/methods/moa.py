"""MoA (mixture of attention spans): every head has its own sliding window, which grows with the length of the input.

Source: T. Fu et al., "MoA: Mixture of Sparse Attention for Automatic Large Language Model Compression", arXiv
2406.14909 (COLM 2025), and the code of its authors.
Known: all equations from that code; its figures from the abstract.

    span of head h at length L       S_h(L) = alpha_h + beta_h L, in whole blocks; the first block (sink) is always seen
    influence of a pair              E = -A (G - rowsum(G A)) / (1 - A), G = dLoss / dA; the first row -G A
    cost of a rule                   sum of block influences |E| outside its causal mask, per length
    choice                           one rule per head, at most 2 per layer, mean span between 0.9 and 1 of the budget
                                     at every length: a mixed-integer program; Pareto set over the lengths by the
                                     epsilon constraint; the plan with the least loss at a length not profiled

Loss: cross entropy against the dense model's own answers (`algorithms.workloads.methods.moa_plan`).
Faithful: rule grid, influence, program, masks; a window of w blocks includes the sink, as at the run time of the
authors (their optimizer counts one block more).
On SAT: the forward pass of a prompt. Blocks of q k^T that no head sees are never issued, and A v leaves them out along
k (skip); projections and feed-forward layers are dense. Softmax, positions and the program are the host's.
Assumed: half of the heads 1024 + 0 L, half 0 + 0.875 L, the extremes of the published plan, which give its densities
(0.5 of the cache, about 0.61 of the prefill blocks).
Ours (`nm`): the projections are 2:4 along k besides.
Study: the plan against a uniform window of the same budget, and against full attention, on retrieval lines at three
lengths, one of them not profiled; accuracy of the answers; one seed.
Found here: the plan answers all, as full attention does, the uniform window 51 to 66 %: yes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from nmsat.algorithms.workloads.engine.registry import Variant, Workload, register
from nmsat.algorithms.workloads.methods import moa_plan
from nmsat.algorithms.workloads.methods.moa_model import SMALL, Rule, Size, forward

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from nmsat.algorithms.workloads.engine.program import Program, Tensor

VICUNA_7B: Final = Size(
    batch=1,
    tokens=8192,
    layers=32,
    width=4096,
    heads=32,
    kv=32,
    head=128,
    hidden=11008,
    vocabulary=32000,
    block=64,
    plan=((Rule(1024, 0), 16), (Rule(0, 0.875), 16)),
)


def run(p: Program, size: Size, variant: Variant) -> None:
    """Record the prefill of a prompt."""
    rng = np.random.default_rng(0)
    if size.inputs:
        shape = (size.batch, size.tokens, size.inputs)
        x: Tensor | NDArray | None = p.input(shape, lambda: rng.standard_normal(shape))
    else:
        x = rng.integers(0, size.vocabulary, size.batch * size.tokens) if p.values else None
    forward(p, size, x, [size.plan] * size.layers, variant)


register(
    Workload(
        name="moa",
        title="MoA",
        source="Fu et al., arXiv 2406.14909, COLM 2025",
        sparse="attention, causal bands with sink, span per head",
        variants={
            "faithful": "blocks of q k^T and A v outside the bands skipped, projections dense",
            "nm": "ours: besides, projections 2:4 along k",
        },
        quoted="3.9x longer effective context at equal span; decode 6.6 to 8.2x against FlashAttention-2 (abstract)",
        sizes={"small": SMALL, "paper": VICUNA_7B},
        run=run,
        study=moa_plan.study,
        about=__doc__,
    )
)
