"""Steps of training runs: one step runs in NumPy, its tape is the step; the paper's networks are known by layers."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from nmsat.algorithms.core.tape import Pattern, Tape
from nmsat.algorithms.core.vocabulary import METHODS, PAPER_NETWORKS
from nmsat.algorithms.methods.patterns import parse_patterns
from nmsat.algorithms.training.named_data import sample_of
from nmsat.algorithms.training.recipes import recipe
from nmsat.algorithms.training.train import Trainer
from nmsat.dataflow.network.models import MODELS
from nmsat.dataflow.network.own import layer_patterns
from nmsat.dataflow.network.readers.tape import tape_step
from nmsat.dataflow.network.step import training_products

if TYPE_CHECKING:
    from nmsat.algorithms.training.config import TrainConfig
    from nmsat.dataflow.network.step import Step


def recorded_tape(config: TrainConfig) -> Tape:
    """Return the tape of one step of a run, shapes and patterns alone, from when its method has taken over."""
    tape, trainer = Tape(), Trainer(config.replace(dense_epochs=0.0))
    trainer.run_step(tape)
    tape.decays = trainer.method.decay != 0
    return tape


def run_steps(config: TrainConfig) -> tuple[Step, Step]:
    """Return one step of a run, from when its method has taken over, and the dense step of the same."""
    if config.network not in PAPER_NETWORKS:
        tape = recorded_tape(config)
        return tape_step(tape), tape_step(tape, dense=True)
    sample = sample_of(config.data)
    assert sample is not None  # the paper's networks read images alone
    layers = MODELS[config.network](config.batch, classes=sample.classes)
    pattern = Pattern.parse(config.pattern) if METHODS[config.method].prunes else None
    own = layer_patterns(parse_patterns(config.patterns), layers, ends=config.sparse_ends)
    ends = not config.sparse_ends
    step = training_products(layers, config.method, pattern, first_and_last_dense=ends, own=own)
    decay = METHODS[config.method].decay if config.decay is None else config.decay
    return replace(step, decays=decay != 0), training_products(layers, "dense")


def recorded_step(
    network: str,
    method: str,
    pattern: Pattern | None,
    batch: int | None = None,
    *,
    first_and_last_dense: bool = True,
    patterns: str = "",
    data: str = "",
) -> Step:
    """Return one training step of a network that trains here.

    network: one of `algorithms.core.vocabulary.TRAINED_NETWORKS`; method, pattern: as in
    `dataflow.network.step.training_products`; batch: None for that of the network's recipe; patterns: of layers
    (`algorithms.methods.patterns`); data: named ones in place of the network's own, as in `TrainConfig`. Raises
    ValueError for what is unknown or does not fit.
    """
    base = recipe(network, data)
    # Which products there are does not depend on the arithmetic; binary32 is quick.
    config = base.replace(method=method, sparse_ends=not first_and_last_dense, arithmetic="fast")
    if patterns:
        config = config.replace(patterns=patterns)
    if batch is not None:
        config = config.replace(batch=batch)
    if method != "dense":
        if pattern is None:
            raise ValueError(f"method {method!r} prunes, but pattern is None; give N:M such as 2:8")
        config = config.replace(pattern=str(pattern))
    return replace(tape_step(recorded_tape(config)), method=method)
