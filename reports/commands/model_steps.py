"""What `nmsat model` simulates: the steps of a network known by its layers, of one that trains here, or of a tape."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from nmsat.algorithms.core.vocabulary import METHODS, TRAINED_NETWORKS
from nmsat.reports.commands.model_options import asked_file, asked_layers, choice, pattern_of_all
from nmsat.reports.work.text import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from nmsat.dataflow.network.layers import Layer
    from nmsat.dataflow.network.readers.masks import LayerMask
    from nmsat.dataflow.network.step import Own, Step
    from nmsat.dataflow.program.memory_plan import Batches


@dataclass(frozen=True)
class Steps:
    """A step and its dense step.

    masks: of its layers; layers: None where the network is not known by layers; own: patterns that the user gave single
    layers; batch: images, None if unknown; notes: what reading the file decided; batches: what others it can
    have, None if that is not known.
    """

    step: Step
    dense: Step
    masks: dict[str, LayerMask] = field(default_factory=dict)
    layers: list[Layer] | None = None
    own: dict[str, Own] = field(default_factory=dict)
    batch: int | None = None
    notes: tuple[str, ...] = ()
    batches: Batches | None = None


def step_pattern(options: argparse.Namespace) -> Any:
    """Return the pattern that the method uses: 2:8 unless given, none for dense training."""
    from nmsat.algorithms.core.tape import Pattern

    return None if options.method == "dense" else pattern_of_all(options) or Pattern(2, 8)


def tape_steps(options: argparse.Namespace) -> Steps:
    """Return the step of a tape and the same step without its patterns; its run decided what is sparse: no masks."""
    from nmsat.dataflow.network.readers.tape import read_step

    given = {
        "--batch": options.batch,
        "--method": options.method,
        "--pattern": options.pattern or None,
        "--masks": options.masks,
    }
    asked = [name for name, value in given.items() if value is not None]
    if options.first_last:
        asked.append("--first-last")
    asked += [name for name in (asked_layers(options), asked_file(options)) if name]
    if asked:
        raise InputError(f"{options.model} is a tape, which holds batch, method and patterns; leave out {asked[0]}")
    try:
        return _whole_or_forward(options, Steps(read_step(options.model), read_step(options.model, dense=True)))
    except (ValueError, OSError) as error:
        raise InputError(str(error)) from None


def steps(options: argparse.Namespace) -> Steps:
    """Return the step of a network, its dense step, and the masks of its layers."""
    name = options.method or "bdwp"
    weights = METHODS[name].ff_weights or METHODS[name].bp_weights
    if options.masks and not weights:
        able = ", ".join(other for other, facts in METHODS.items() if facts.ff_weights or facts.bp_weights)
        raise InputError(f"method {name!r} prunes no weights, so --masks has nothing to do; use one of {able}")
    pattern_of_all(options)
    try:
        trains = options.model in TRAINED_NETWORKS
        return _whole_or_forward(options, _recorded_steps(options, name) if trains else _shaped_steps(options))
    except (ValueError, OSError) as error:
        raise InputError(str(error)) from None


def _at(options: argparse.Namespace, batch: int) -> Step:
    """Return the step of a network that is known by its layers, for another batch."""
    other = argparse.Namespace(**{**vars(options), "batch": batch})
    return _whole_or_forward(other, _shaped_steps(other)).step


def without(options: argparse.Namespace, found: Steps, slower: Mapping[str, None]) -> Step:
    """Return the step with some layers left dense besides what the user asked for."""
    from nmsat.dataflow.network.step import inference

    step = _sparse_step(options, found, {**found.own, **slower})
    return inference(step) if options.inference else step


def _own_patterns(options: argparse.Namespace) -> Mapping[str, Own]:
    """Return the patterns of --layer-patterns; ValueError for a method that cannot have them."""
    from nmsat.algorithms.methods import make_method
    from nmsat.algorithms.methods.patterns import parse_patterns

    found = parse_patterns(options.layer_patterns)
    make_method(options.method or "bdwp", step_pattern(options), own=found)
    return found


def _sparse_step(options: argparse.Namespace, found: Steps, own: Mapping[str, Own]) -> Step:
    """Return the step of a method; own: patterns of single layers, None for dense."""
    from nmsat.dataflow.network.step import training_products

    return training_products(
        found.layers or [],
        options.method or "bdwp",
        step_pattern(options),
        first_and_last_dense=not options.first_last,
        masks=found.masks,
        own=own,
    )


def _whole_or_forward(options: argparse.Namespace, found: Steps) -> Steps:
    from nmsat.dataflow.network.step import inference

    if not options.inference:
        return found
    return replace(found, step=inference(found.step), dense=inference(found.dense))


def _shaped_steps(options: argparse.Namespace) -> Steps:
    """Return the steps of a network that is known by its layers."""
    from nmsat.dataflow.network.models import find_model, is_onnx
    from nmsat.dataflow.network.own import layer_patterns
    from nmsat.dataflow.network.readers.masks import read_masks
    from nmsat.dataflow.network.step import training_products
    from nmsat.dataflow.program.memory_plan import Batches

    asked = asked_file(options)
    if asked and not is_onnx(options.model):
        raise ValueError(f"{asked} is for ONNX files; {options.model!r} is none")
    sizes = dict(options.size)
    found = find_model(options.model, options.batch, sizes, batch_dim=options.batch_dim, strict=options.strict)
    masks = read_masks(options.masks, found.layers, options.mask_layout) if options.masks else {}
    dense = training_products(found.layers, "dense")
    own: dict[str, Own] = {**choice(options).of(found.layers)}
    if options.layer_patterns:
        own = {**layer_patterns(_own_patterns(options), found.layers, ends=options.first_last), **own}
    batches = Batches(found.batch, found.unit, lambda batch: _at(options, batch))
    unpruned = Steps(dense, dense, masks, found.layers, own, found.batch, found.notes, batches)
    return replace(unpruned, step=_sparse_step(options, unpruned, own))


def _recorded_steps(options: argparse.Namespace, method: str) -> Steps:
    """Return the steps of a network that trains here."""
    from nmsat.algorithms.training.recipes import RECIPES
    from nmsat.dataflow.network.readers.recorded import recorded_step

    if options.masks:
        raise ValueError(
            f"--masks is {str(options.masks)!r}; the masks of {options.model} are those of its training run"
        )
    asked = asked_layers(options)
    asked = "" if asked == "--layer-patterns" else asked
    if asked := asked or asked_file(options):
        raise ValueError(f"{asked} is for networks that are known by their layers; {options.model} trains here")
    name, batch, edges = options.model, options.batch, not options.first_last
    own = options.layer_patterns or ""
    step = recorded_step(name, method, step_pattern(options), batch, first_and_last_dense=edges, patterns=own)
    return Steps(step, recorded_step(name, "dense", None, batch), batch=batch or RECIPES[name].batch)
