"""Training methods: which operand of which product is N:M sparse, along which axis."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nmsat.algorithms.core.vocabulary import METHODS, check_decay, method_facts
from nmsat.algorithms.methods.base import Masks, Method
from nmsat.algorithms.methods.gradients import Mvue, Sdgp
from nmsat.algorithms.methods.masks import BiMask, Transposable
from nmsat.algorithms.methods.weights import WeightMagnitude

if TYPE_CHECKING:
    from nmsat.algorithms.core.tape import Pattern
    from nmsat.algorithms.core.vocabulary import MethodFacts

__all__ = ["METHODS", "BiMask", "Masks", "Method", "Mvue", "Sdgp", "Transposable", "WeightMagnitude", "make_method"]


def make_method(
    name: str, pattern: Pattern | None = None, decay: float | None = None, *, from_master: bool = False
) -> Method:
    """Return a method by name.

    pattern: needed by every method but 'dense'; decay: lambda of the SR-STE term, None for the method's own;
    ValueError for one below 0 and for a method without the term; from_master: see `WeightMagnitude`, which alone can
    do it (ValueError otherwise).
    """
    facts = method_facts(name)
    check_decay(name, decay)
    if not facts.prunes:
        return Method(name)
    if pattern is None:
        raise ValueError(f"method {name!r} has no pattern; give N:M such as 2:8")
    if from_master and not _from_weights_alone(facts):
        able = ", ".join(other for other, found in METHODS.items() if _from_weights_alone(found))
        raise ValueError(f"method {name!r} cannot prune from the masters; {able} can")
    return _make(name, facts, pattern, facts.decay if decay is None else decay, from_master=from_master)


def _make(name: str, facts: MethodFacts, pattern: Pattern, decay: float, *, from_master: bool) -> Method:
    if facts.masks == "bi-mask":
        return BiMask(pattern, decay=decay)
    if facts.masks == "transposable":
        return Transposable(pattern, decay=decay)
    if facts.bp_gradient:
        return Sdgp(pattern)
    weights = None
    if facts.ff_weights or facts.bp_weights:
        sides = {"forward": facts.ff_weights, "backward": facts.bp_weights}
        weights = WeightMagnitude(name, pattern, **sides, decay=decay, from_master=from_master)
    return Mvue(name, pattern, weights) if weights is None or facts.wu_gradient else weights


def _from_weights_alone(facts: MethodFacts) -> bool:
    """Whether a method prunes weights by magnitude and nothing else."""
    weights = facts.ff_weights or facts.bp_weights
    return weights and facts.masks == "magnitude" and not (facts.bp_gradient or facts.wu_gradient)
