"""Training methods: which operand of which product is N:M sparse, along which axis."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from nmsat.algorithms.methods.base import Masks, Method
from nmsat.algorithms.methods.gradients import Mvue, Sdgp
from nmsat.algorithms.methods.masks import BiMask, Transposable
from nmsat.algorithms.methods.weights import WeightMagnitude

if TYPE_CHECKING:
    from collections.abc import Callable

    from nmsat.algorithms.core.tape import Pattern

__all__ = ["METHODS", "BiMask", "Masks", "Method", "Mvue", "Sdgp", "Transposable", "WeightMagnitude", "make_method"]

SR_STE_DECAY: Final = 2e-4
"""lambda of SR-STE's term (Zhou et al., ICLR 2021: 0.0002); Bi-Mask uses the same."""


_WEIGHTS: Final[dict[str, tuple[bool, bool, float]]] = {
    "ste": (True, False, 0.0),
    "sr-ste": (True, False, SR_STE_DECAY),
    "sdwp": (False, True, 0.0),
    "bdwp": (True, True, SR_STE_DECAY),
}
"""Name -> (prunes the forward weights, prunes the backward weights, lambda)."""

_OTHERS: Final[dict[str, tuple[float, Callable[[Pattern, float], Method]]]] = {
    "sdgp": (0.0, lambda p, _: Sdgp(p)),
    "bi-mask": (SR_STE_DECAY, lambda p, d: BiMask(p, decay=d)),
    "transposable": (0.0, lambda p, d: Transposable(p, decay=d)),
    "mvue": (0.0, lambda p, _: Mvue("mvue", p)),
    "bdwp+mvue": (SR_STE_DECAY, lambda p, d: Mvue("bdwp+mvue", p, make_method("bdwp", p, d))),
}
"""Name -> (lambda, builder)."""

METHODS: Final = ("dense", "ste", "sr-ste", "sdgp", "sdwp", "bdwp", "bi-mask", "transposable", "mvue", "bdwp+mvue")
"""Names that `make_method` knows."""


def make_method(
    name: str, pattern: Pattern | None = None, decay: float | None = None, *, from_master: bool = False
) -> Method:
    """Return a method by name.

    pattern: needed by every method but 'dense'; decay: lambda of the SR-STE term, None for the method's own;
    from_master: see `WeightMagnitude`, which alone can do it (ValueError otherwise).
    """
    if name not in METHODS:
        raise ValueError(f"method is {name!r}; known methods: {', '.join(METHODS)}")
    if name == "dense":
        return Method("dense")
    if pattern is None:
        raise ValueError(f"method {name!r} has no pattern; give N:M such as 2:8")
    if name in _WEIGHTS:
        forward, backward, own = _WEIGHTS[name]
        chosen = own if decay is None else decay
        return WeightMagnitude(name, pattern, forward=forward, backward=backward, decay=chosen, from_master=from_master)
    if from_master:
        raise ValueError(f"method {name!r} cannot prune from the masters; {', '.join(_WEIGHTS)} can")
    own, make = _OTHERS[name]
    return make(pattern, own if decay is None else decay)
