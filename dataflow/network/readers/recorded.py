"""Steps of the networks that train here: one step runs in NumPy, its tape is the step."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from nmsat.algorithms.core.tape import Tape
from nmsat.algorithms.training.recipes import recipe
from nmsat.algorithms.training.train import Trainer
from nmsat.dataflow.network.readers.tape import tape_step

if TYPE_CHECKING:
    from nmsat.algorithms.core.tape import Pattern
    from nmsat.algorithms.training.config import TrainConfig
    from nmsat.dataflow.network.step import Step


def recorded_tape(config: TrainConfig) -> Tape:
    """Return the tape of one step of a run, shapes and patterns alone, from when its method has taken over."""
    tape = Tape()
    Trainer(config.replace(dense_epochs=0.0)).run_step(tape)
    return tape


def recorded_step(
    network: str,
    method: str,
    pattern: Pattern | None,
    batch: int | None = None,
    *,
    first_and_last_dense: bool = True,
) -> Step:
    """Return one training step of a network that trains here.

    network: one of `algorithms.core.vocabulary.TRAINED_NETWORKS`; method, pattern: as in
    `dataflow.network.step.training_products`; batch: None for that of the network's recipe. Raises ValueError for what
    is unknown or does not fit.
    """
    base = recipe(network)
    # Which products there are does not depend on the arithmetic; binary32 is quick.
    config = base.replace(method=method, sparse_ends=not first_and_last_dense, arithmetic="fast")
    if batch is not None:
        config = config.replace(batch=batch)
    if method != "dense":
        if pattern is None:
            raise ValueError(f"method {method!r} prunes, but pattern is None; give N:M such as 2:8")
        config = config.replace(pattern=str(pattern))
    return replace(tape_step(recorded_tape(config)), method=method)
