"""LT-SFT: sparse differences of languages and tasks, fine-tuned on lottery tickets, added to one pretrained encoder.

Source: A. Ansell, E. M. Ponti, A. Korhonen, I. Vulic, "Composable Sparse Fine-Tuning for Cross-Lingual Transfer", ACL
2022, arXiv 2110.07560, and the code of its authors.
Known: equations from that code; headline figures are second-hand; the length of 256 tokens is from memory.

    theta1 = fine-tuning of all from theta0; mask = the K largest |theta1 - theta0| over all tensors
    theta2 = fine-tuning from theta0 again, gradients times the mask;     phi = theta2 - theta0
    loss + lambda sum |theta - theta0| / (number of parameters), lambda = 0.1 for languages, 0 for tasks
    task: trained on theta0 + phi_source;     used: theta0 + phi_task + phi_target, heads stored whole

Faithful: both phases, one iteration of selection (their default); norms frozen, the decoder of masked words too (a
matrix of its own here, theirs is the table); heads never masked.
On SAT: a step of the second phase of a language (masked words), one of a task (tags), and tags of a target language by
the composed network. Products with W are dense, weight gradients are wanted at the mask alone, which the array cannot
skip.
Assumed: multilingual BERT, of which 4.3 and 8.0 % learn (their K), in equal shares of all tensors; 17 tags.
Ours (`nm`): the largest 1 of each 16 along k learns, of tables and biases as large a share. The composed network then
keeps W resident, x W + x phi_task + x phi_target with native 1:16 products beside the dense one: work for 2 / 16 more
multiply-adds, so that no matrix is written for a language or task. "Dense" in the tables is that with full differences.
Study: tags of three generated languages without labels by composed differences, against the task alone, the language
alone, and full differences composed; accuracy, and the loss of hidden words that a second difference adds
(interference); three seeds. Pretraining saw a tenth of each language.
Found here: a language's difference guesses its hidden words better, and full differences interfere two to eight times
more than sparse ones, with every seed; yet the task alone tags the targets a little better than both composed (73
against 70 %): no.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from nmsat.algorithms.workloads.engine import ops
from nmsat.algorithms.workloads.engine.encoder import EncoderSize
from nmsat.algorithms.workloads.engine.hostwork import elementwise
from nmsat.algorithms.workloads.engine.registry import Variant, Workload, register
from nmsat.algorithms.workloads.engine.training import LOSS_SCALE
from nmsat.algorithms.workloads.methods.lt_sft_model import (
    LANGUAGE_SHARE,
    PATTERN,
    SMALL,
    TASK_SHARE,
    Size,
    beside,
    masked_words,
    parts,
    start_tuning,
    tags,
)
from nmsat.algorithms.workloads.methods.lt_sft_study import study

if TYPE_CHECKING:
    from nmsat.algorithms.workloads.engine.program import Program, Tensor


def run(p: Program, size: Size, variant: Variant) -> None:
    """Record a step of a language, a step of a task, and a batch of the composed network."""
    rng, pattern, network = np.random.default_rng(0), PATTERN if variant == "nm" else None, size.network
    moved = start_tuning(p, "language", parts(network, "language", masked=True), LANGUAGE_SHARE, pattern)
    p.weight("language.decoder", (network.width, network.vocabulary), gain=1.0, frozen=True)
    p.vector("language.decoder.bias", (network.vocabulary,), frozen=True)
    ids = rng.integers(0, network.vocabulary, size.language) if p.values else None
    hidden = None if ids is None else np.where(rng.random(ids.shape) < 0.15, ids, -1)
    logits = masked_words(p, "language", network, ids, size.language)
    _step(p, "language", ops.cross_entropy(logits, hidden), pulled=True)

    moved += start_tuning(p, "task", parts(network, "task"), TASK_SHARE, pattern, like="language")
    ids = rng.integers(0, network.vocabulary, size.task) if p.values else None
    wanted = rng.integers(0, size.tags, size.task) if p.values else None
    _step(p, "task", ops.cross_entropy(tags(p, "task", size, ids, size.task), wanted), pulled=False)

    start_tuning(p, "zero", parts(network, "zero"), 1.0, None, like="task")
    for name, w in p.store.items():
        if name.startswith("zero."):
            w.frozen, w.learnt = True, None
    if variant == "nm":
        tags(p, "zero", size, ids, size.task, beside(p, ("task", "language"), PATTERN))
        return
    p.host("compose", "ScatterElements", *elementwise(moved, 1, 4))
    tags(p, "zero", size, ids, size.task)


def _step(p: Program, name: str, loss: Tensor, *, pulled: bool) -> None:
    p.backward(loss, LOSS_SCALE)
    learning = sum(w.size for w in p.store.values() if w.name.startswith(f"{name}.") and not w.frozen)
    if pulled:
        p.host("pull", "Sign", *elementwise(learning, 4, 4))
    p.host("mask", "Mul", *elementwise(learning, 1, 3))
    p.host("update", "Adam", 13 * learning, 32 * learning)


MBERT: Final = EncoderSize(layers=12, width=768, heads=12, hidden=3072, vocabulary=119_547, positions=512, segments=2)

register(
    Workload(
        name="lt-sft",
        title="LT-SFT, composable sparse fine-tuning",
        source="Ansell, Ponti, Korhonen, Vulic, ACL 2022, arXiv 2110.07560",
        sparse="differences from a pretrained network, 4.3 % of it for a language and 8.0 % for a task",
        variants={
            "faithful": "dense products, weight gradients wanted at the mask; differences added into the matrices",
            "nm": "ours: differences 1:16 along k, composed as native products beside the dense ones",
        },
        quoted="zero-shot transfer, up to 3.7 points above MAD-X adapters (dependency parsing, second-hand)",
        sizes={"small": SMALL, "paper": Size(network=MBERT, language=(4, 256), task=(8, 256), tags=17)},
        run=run,
        study=study,
        about=__doc__,
    )
)
