"""What `nmsat model` simulates: the steps of a network known by its layers, of one that trains here, or of a tape."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nmsat.algorithms.core.vocabulary import METHODS, TRAINED_NETWORKS
from nmsat.reports.work.text import InputError

if TYPE_CHECKING:
    import argparse

    from nmsat.dataflow.network.readers.masks import LayerMask
    from nmsat.dataflow.network.step import Step


def step_pattern(options: argparse.Namespace) -> Any:
    """Return the pattern that the method uses: 2:8 unless given, none for dense training."""
    from nmsat.algorithms.core.tape import Pattern

    return None if options.method == "dense" else options.pattern or Pattern(2, 8)


def tape_steps(options: argparse.Namespace) -> tuple[Step, Step, dict[str, LayerMask]]:
    """Return the step of a tape and the same step without its patterns; its run decided what is sparse: no masks."""
    from nmsat.dataflow.network.readers.tape import read_step

    given = {
        "--batch": options.batch,
        "--method": options.method,
        "--pattern": options.pattern,
        "--masks": options.masks,
    }
    asked = [name for name, value in given.items() if value is not None]
    if options.first_last:
        asked.append("--first-last")
    if asked:
        raise InputError(f"{options.model} is a tape, which holds batch, method and patterns; leave out {asked[0]}")
    try:
        return read_step(options.model), read_step(options.model, dense=True), {}
    except (ValueError, OSError) as error:
        raise InputError(str(error)) from None


def steps(options: argparse.Namespace) -> tuple[Step, Step, dict[str, LayerMask]]:
    """Return the step of a network, its dense step, and the masks of its layers."""
    name = options.method or "bdwp"
    weights = METHODS[name].ff_weights or METHODS[name].bp_weights
    if options.masks and not weights:
        able = ", ".join(other for other, facts in METHODS.items() if facts.ff_weights or facts.bp_weights)
        raise InputError(f"method {name!r} prunes no weights, so --masks has nothing to do; use one of {able}")
    try:
        if options.model in TRAINED_NETWORKS:
            return _recorded_steps(options, name)
        return _shaped_steps(options, name)
    except (ValueError, OSError) as error:
        raise InputError(str(error)) from None


def _shaped_steps(options: argparse.Namespace, method: str) -> tuple[Step, Step, dict[str, LayerMask]]:
    """Return the steps of a network that is known by its layers."""
    from nmsat.dataflow.network.models import load_model
    from nmsat.dataflow.network.readers.masks import read_masks
    from nmsat.dataflow.network.step import training_products

    layers = load_model(options.model, options.batch)
    masks = read_masks(options.masks, layers, options.mask_layout) if options.masks else {}
    edges = not options.first_last
    step = training_products(layers, method, step_pattern(options), first_and_last_dense=edges, masks=masks)
    return step, training_products(layers, "dense"), masks


def _recorded_steps(options: argparse.Namespace, method: str) -> tuple[Step, Step, dict[str, LayerMask]]:
    """Return the steps of a network that trains here."""
    from nmsat.dataflow.network.readers.recorded import recorded_step

    if options.masks:
        raise ValueError(
            f"--masks is {str(options.masks)!r}; the masks of {options.model} are those of its training run"
        )
    name, batch, edges = options.model, options.batch, not options.first_last
    step = recorded_step(name, method, step_pattern(options), batch, first_and_last_dense=edges)
    return step, recorded_step(name, "dense", None, batch), {}
