"""Training methods: which operand of which product is N:M sparse, along which axis.

A method of one's own takes one file and one call of `register` (docs/training.md, "A method of your own").
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from nmsat.algorithms.core.vocabulary import METHODS, check_decay, method_facts
from nmsat.algorithms.methods.base import Masks, Method
from nmsat.algorithms.methods.chosen import Chosen
from nmsat.algorithms.methods.gradients import Mvue, Sdgp
from nmsat.algorithms.methods.masks import BiMask, Transposable
from nmsat.algorithms.methods.weights import WeightMagnitude

if TYPE_CHECKING:
    from collections.abc import Mapping

    from nmsat.algorithms.core.tape import Pattern
    from nmsat.algorithms.core.vocabulary import MethodFacts
    from nmsat.algorithms.methods.chosen import Choose

__all__ = [
    "METHODS",
    "BiMask",
    "Chosen",
    "Masks",
    "Method",
    "Mvue",
    "Sdgp",
    "Transposable",
    "WeightMagnitude",
    "make_method",
    "prunes_by_magnitude",
    "register",
    "unregister",
]

_CHOICES: Final[dict[str, Choose]] = {}
"""How registered methods choose what stays of a weight."""


def register(name: str, facts: MethodFacts, choose: Choose) -> None:
    """Add a method that prunes weights: from then on everything that takes the name of a method takes this one.

    name: lower-case letters, digits, '-' and '+', of no other method; facts: what it prunes (weights alone), its decay,
    and what the cycles of SAT do not hold; choose: see `methods.chosen`. Raises ValueError for what does not fit,
    TypeError for what is no function.
    """
    if not callable(choose):
        raise TypeError(f"choose of method {name!r} is {choose!r}; it must be a function of (w, n, m, axis)")
    plain = name.replace("-", "").replace("+", "")
    if not (plain.isascii() and plain.isalnum() and name == name.lower()):
        raise ValueError(f"name of a method is {name!r}; it must be of lower-case letters, digits, '-' and '+'")
    if name in METHODS:
        raise ValueError(f"method {name!r} is there already; choose another name")
    if not (facts.ff_weights or facts.bp_weights) or facts.bp_gradient or facts.wu_gradient:
        raise ValueError(f"method {name!r} must prune weights, in FF, BP or both, and no gradient")
    _CHOICES[name] = choose
    METHODS[name] = replace(facts, own=True)


def unregister(name: str) -> None:
    """Take a registered method away again; ValueError for any other."""
    if name not in _CHOICES:
        raise ValueError(f"method {name!r} was not registered")
    del _CHOICES[name], METHODS[name]


def make_method(
    name: str,
    pattern: Pattern | None = None,
    decay: float | None = None,
    *,
    from_master: bool = False,
    own: Mapping[str, tuple[Pattern | None, Pattern | None]] | None = None,
) -> Method:
    """Return a method by name.

    pattern: needed by every method but 'dense'; decay: lambda of the SR-STE term, None for the method's own;
    ValueError for one below 0 and for a method without the term; from_master, own: see `WeightMagnitude`, which alone
    can do it (ValueError otherwise).
    """
    facts = method_facts(name)
    check_decay(name, decay)
    if own and not _from_weights_alone(facts):
        raise ValueError(f"method {name!r} cannot have patterns of single layers; {_able()} can")
    if not facts.prunes:
        return Method(name)
    if pattern is None:
        raise ValueError(f"method {name!r} has no pattern; give N:M such as 2:8")
    if from_master and not _from_weights_alone(facts):
        raise ValueError(f"method {name!r} cannot prune from the masters; {_able()} can")
    chosen_decay = facts.decay if decay is None else decay
    if facts.own:
        sides = {"forward": facts.ff_weights, "backward": facts.bp_weights}
        return Chosen(name, pattern, _CHOICES[name], **sides, decay=chosen_decay)
    return _make(name, facts, pattern, chosen_decay, from_master=from_master, own=own)


def prunes_by_magnitude(name: str) -> bool:
    """Tell whether a method prunes weights by magnitude and nothing else, so that layers may differ in pattern."""
    return _from_weights_alone(method_facts(name))


def _able() -> str:
    return ", ".join(name for name, facts in METHODS.items() if _from_weights_alone(facts))


def _make(
    name: str,
    facts: MethodFacts,
    pattern: Pattern,
    decay: float,
    *,
    from_master: bool,
    own: Mapping[str, tuple[Pattern | None, Pattern | None]] | None,
) -> Method:
    if facts.masks == "bi-mask":
        return BiMask(pattern, decay=decay)
    if facts.masks == "transposable":
        return Transposable(pattern, decay=decay)
    if facts.bp_gradient:
        return Sdgp(pattern)
    weights = None
    if facts.ff_weights or facts.bp_weights:
        sides = {"forward": facts.ff_weights, "backward": facts.bp_weights}
        weights = WeightMagnitude(name, pattern, **sides, decay=decay, from_master=from_master, own=own)
    return Mvue(name, pattern, weights) if weights is None or facts.wu_gradient else weights


def _from_weights_alone(facts: MethodFacts) -> bool:
    """Whether a method prunes weights by magnitude and nothing else."""
    weights = facts.ff_weights or facts.bp_weights
    plain = facts.masks == "magnitude" and not facts.own
    return weights and plain and not (facts.bp_gradient or facts.wu_gradient)
