"""The work behind `nmsat patterns`: cycles of each layer under each pattern, harm of it, and the choice."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product as combinations
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from nmsat.algorithms.core.tape import Pattern
from nmsat.algorithms.core.vocabulary import METHODS, TRAINED_NETWORKS
from nmsat.algorithms.layers.parameter import Weight
from nmsat.algorithms.layers.products import initial
from nmsat.algorithms.methods.allocate import Option, check_weights, frontier, lost
from nmsat.algorithms.methods.patterns import write_patterns
from nmsat.algorithms.methods.weights import WEIGHT_SUFFIX
from nmsat.algorithms.training.recipes import recipe
from nmsat.algorithms.training.train import Trainer
from nmsat.dataflow.network.layers import ConvLayer, LinearLayer
from nmsat.dataflow.network.models import find_model
from nmsat.dataflow.network.own import layer_patterns
from nmsat.dataflow.network.readers.masks import read_weights
from nmsat.dataflow.network.readers.recorded import recorded_step
from nmsat.dataflow.network.step import layer_of, training_products
from nmsat.reports.work.progress import task
from nmsat.reports.work.timings import Wanted, distinct, time_all

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from nmsat.dataflow.contract.config import SatConfig
    from nmsat.dataflow.network.step import Step
    from nmsat.sim.results.machine import MachineResult

INITIAL_SEED: Final = 0
"""Seed of the weights of a network of which there are none: as training draws them before its first step."""

Pair = tuple[Pattern | None, Pattern | None]


@dataclass(frozen=True)
class Asked:
    """What a choice is made for.

    network: a name or a file; method: one that prunes weights by magnitude; budget: share of the dense step's cycles,
    or a pattern, for as many as it takes in all layers; choices: patterns that a copy may get, None for dense; same:
    both copies of a layer get the same one; machine, batch, estimate, processes: as in `nmsat model`; epochs: dense
    training before the weights are looked at, of a network that trains here; weights, layout: a file of weights, of any
    other; data: named ones that a network that trains here learns, in place of its own.
    """

    network: str
    machine: SatConfig
    budget: float | Pattern
    method: str = "bdwp"
    choices: tuple[Pattern | None, ...] = (None, Pattern(2, 4), Pattern(2, 8), Pattern(2, 16))
    same: bool = False
    batch: int | None = None
    epochs: int = 1
    weights: Path | None = None
    layout: str = "oi"
    estimate: bool = False
    processes: int = 1
    data: str = ""


@dataclass(frozen=True, eq=False)
class _Network:
    """A network: its step for pairs of patterns by layer, its dense step, W[k, n] of what may be pruned, their origin.
    """

    step: Callable[[Mapping[str, Pair]], Step]
    dense: Step
    weights: dict[str, NDArray[Any]]
    origin: str


def choose_patterns(asked: Asked) -> dict[str, Any]:
    """Return the patterns of the least harm within the budget, and what they cost, as plain values.

    Raises ValueError for a network without layers to prune and for a budget below what the options allow.
    """
    facts = METHODS[asked.method]
    pairs = _pairs(asked, ff=facts.ff_weights, bp=facts.bp_weights)
    _check_budget(asked, pairs)
    found = _trained(asked) if asked.network in TRAINED_NETWORKS else _shaped(asked)
    if not found.weights:
        raise ValueError(f"network is {asked.network!r}; it has no layer between its first and its last to prune")
    _check(found, pairs)
    steps = [found.step(dict.fromkeys(found.weights, pair)) for pair in pairs]
    timed = _timed(asked, [found.dense, *steps])
    dense = timed[0].cycles
    layers, fixed = _options(found, pairs, timed[1:])
    budget = _budget(asked, pairs, timed)
    best = frontier(list(layers.values()), fixed)
    try:
        picks = best.within(budget)
    except ValueError:
        least = best.cycles[0] / dense
        raise ValueError(
            f"budget is {budget / dense:.4f} of the dense step; these patterns need {least:.4f} of it at least"
        ) from None
    chosen = {name: options[pick] for (name, options), pick in zip(layers.items(), picks, strict=True)}
    (result,) = _timed(asked, [found.step({name: (o.ff, o.bp) for name, o in chosen.items()})])
    expected = fixed + sum(option.cycles for option in chosen.values())
    if result.cycles != expected:
        raise RuntimeError(f"the step takes {result.cycles} cycles, its layers alone {expected}: they are not additive")
    uniform = [
        {"patterns": _told(pair), "cycles": one.cycles, "harm": sum(_harm(found.weights[n], pair) for n in layers)}
        for pair, one in zip(pairs, timed[1:], strict=True)
    ]
    return {
        "network": asked.network,
        "method": asked.method,
        "patterns": write_patterns({name: (option.ff, option.bp) for name, option in chosen.items()}),
        "budget": asked.budget if isinstance(asked.budget, float) else str(asked.budget),
        "dense_cycles": dense,
        "cycles": result.cycles,
        "share": result.cycles / dense,
        "speedup": dense / result.cycles,
        "harm": sum(option.harm for option in chosen.values()),
        "exact": best.exact,
        "weights": found.origin,
        "config": asked.machine.name,
        "source": str(result.source),
        "planned": list(asked.machine.planned),
        "layers": [
            {"name": n, "ff": _text(o.ff), "bp": _text(o.bp), "cycles": o.cycles, "harm": o.harm}
            for n, o in chosen.items()
        ],
        "uniform": uniform,
    }


def _budget(asked: Asked, pairs: Sequence[Pair], timed: Sequence[MachineResult]) -> int:
    """Return the cycles that a step may take; timed: the dense step, then that of each pair in all layers."""
    if not isinstance(asked.budget, Pattern):
        return int(asked.budget * timed[0].cycles)
    return timed[1 + pairs.index(_everywhere(asked, asked.budget))].cycles


def _check_budget(asked: Asked, pairs: Sequence[Pair]) -> None:
    """Raise ValueError for a budget of a pattern that is none of the choices, before anything is trained or timed."""
    if isinstance(asked.budget, Pattern) and _everywhere(asked, asked.budget) not in pairs:
        raise ValueError(f"budget is pattern {asked.budget}; it must be among --choices")


def _everywhere(asked: Asked, pattern: Pattern) -> Pair:
    """Return a pattern in both copies, as far as the method prunes them."""
    facts = METHODS[asked.method]
    return (pattern if facts.ff_weights else None, pattern if facts.bp_weights else None)


def _pairs(asked: Asked, *, ff: bool, bp: bool) -> list[Pair]:
    """Return the pairs of patterns that a layer may get, dense in a copy that the method does not prune."""
    choices = tuple(dict.fromkeys(asked.choices))
    if asked.same:
        both: list[Pair] = [(one if ff else None, one if bp else None) for one in choices]
    else:
        both = list(combinations(choices if ff else (None,), choices if bp else (None,)))
    return list(dict.fromkeys(both))


def _options(
    found: _Network, pairs: Sequence[Pair], timed: Sequence[MachineResult]
) -> tuple[dict[str, list[Option]], int]:
    """Return the options of each layer, and the cycles of everything else."""
    layers: dict[str, list[Option]] = {name: [] for name in found.weights}
    fixed = set()
    for pair, result in zip(pairs, timed, strict=True):
        cycles = dict.fromkeys(layers, 0)
        rest = 0
        for row in result.rows:
            name = layer_of(row.name)
            if name in cycles:
                cycles[name] += row.cycles
            else:
                rest += row.cycles
        fixed.add(rest)
        for name, options in layers.items():
            if _fits(found.weights[name], pair):
                options.append(Option(*pair, cycles[name], _harm(found.weights[name], pair)))
    if len(fixed) != 1:
        raise RuntimeError(f"what no pattern changes takes {sorted(fixed)} cycles with different patterns")
    return layers, fixed.pop()


def _check(found: _Network, pairs: Sequence[Pair]) -> None:
    """Raise ValueError, which names the layer, for weights that cannot be pruned, before anything is timed."""
    for name, w in found.weights.items():
        check_weights(w, f"layer {name!r}: ")
        if not any(_fits(w, pair) for pair in pairs):
            raise ValueError(f"layer {name!r} of {w.shape} weights fits no pattern; add dense to --choices")


def _fits(w: NDArray[Any], pair: Pair) -> bool:
    """Tell whether both reductions are whole groups."""
    return all(one is None or length % one.m == 0 for one, length in zip(pair, w.shape, strict=True))


def _harm(w: NDArray[Any], pair: Pair) -> float:
    """Return the share of squared magnitude that FF loses, plus the one that BP loses."""
    return lost(w, pair[0], 0) + lost(w, pair[1], 1)


def _timed(asked: Asked, steps: Sequence[Step]) -> list[MachineResult]:
    wanted = [Wanted(step) for step in steps]
    with task(f"{asked.network}, patterns", distinct(asked.machine, wanted), "program") as running:
        return time_all(
            asked.machine, wanted, lambda _: running.advance(), asked.processes, estimate=asked.estimate
        )


def _trained(asked: Asked) -> _Network:
    """Return a network that trains here, with the weights of a dense run."""
    config = recipe(asked.network, asked.data).replace(method="dense", epochs=max(1, asked.epochs))
    trainer = Trainer(config)
    if asked.epochs:
        with task(f"{asked.network}, dense", trainer.steps, "step") as running:
            while trainer.step < trainer.steps:
                trainer.run_step()
                running.advance()
    weights = {
        parameter.name.removesuffix(WEIGHT_SUFFIX): parameter.master
        for parameter in trainer.model.parameters()
        if isinstance(parameter, Weight) and parameter.sparse
    }
    length = f"{asked.epochs} epoch{'s' if asked.epochs > 1 else ''}"
    origin = f"after {length} of dense training" if asked.epochs else "of the first step"

    def step(own: Mapping[str, Pair]) -> Step:
        own_patterns = write_patterns(own)
        return recorded_step(
            asked.network, asked.method, Pattern(2, 8), asked.batch, patterns=own_patterns, data=asked.data
        )

    dense = recorded_step(asked.network, "dense", None, asked.batch, data=asked.data)
    return _Network(step, dense, weights, origin)


def _shaped(asked: Asked) -> _Network:
    """Return a network that is known by its layers, with the weights of a file or those that training begins with."""
    layers = find_model(asked.network, asked.batch).layers
    weighted = [layer for layer in layers if isinstance(layer, ConvLayer | LinearLayer)]
    given = read_weights(asked.weights, layers, "kn" if asked.layout == "kn" else "oi") if asked.weights else None
    rng = np.random.default_rng(INITIAL_SEED)
    weights = {}
    for layer in weighted[1:-1]:
        shape = layer.taps * layer.features_in, layer.features_out * layer.count
        if given is None:
            weights[layer.name] = initial(rng, shape, shape[0])
        elif layer.name in given:
            weights[layer.name] = given[layer.name]
        else:
            raise ValueError(f"weights are {str(asked.weights)!r}; they hold none of layer {layer.name!r}")

    def step(own: Mapping[str, Pair]) -> Step:
        return training_products(layers, asked.method, Pattern(2, 8), own=layer_patterns(own, layers))

    origin = "of the first step, drawn at random" if given is None else f"of {asked.weights}"
    return _Network(step, training_products(layers, "dense"), weights, origin)


def _text(pattern: Pattern | None) -> str:
    return "dense" if pattern is None else str(pattern)


def _told(pair: Pair) -> str:
    return _text(pair[0]) if pair[0] == pair[1] else f"{_text(pair[0])}~{_text(pair[1])}"
