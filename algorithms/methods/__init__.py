"""Training methods: which operand of which product is N:M sparse, along which axis."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from algorithms.methods.base import Masks, Method
from algorithms.methods.gradients import Mvue, Sdgp
from algorithms.methods.masks import BiMask, Transposable
from algorithms.methods.weights import WeightMagnitude

if TYPE_CHECKING:
    from collections.abc import Callable

    from algorithms.tape import Pattern

__all__ = ["METHODS", "BiMask", "Masks", "Method", "Mvue", "Sdgp", "Transposable", "WeightMagnitude", "make_method"]

SR_STE_DECAY: Final = 2e-4
"""lambda of SR-STE's term (Zhou et al., ICLR 2021: 0.0002); Bi-Mask uses the same."""


def _bdwp(pattern: Pattern, decay: float) -> WeightMagnitude:
    return WeightMagnitude("bdwp", pattern, forward=True, backward=True, decay=decay)


_SPARSE: Final[dict[str, tuple[float, Callable[[Pattern, float], Method]]]] = {
    "ste": (0.0, lambda p, d: WeightMagnitude("ste", p, forward=True, decay=d)),
    "sr-ste": (SR_STE_DECAY, lambda p, d: WeightMagnitude("sr-ste", p, forward=True, decay=d)),
    "sdgp": (0.0, lambda p, _: Sdgp(p)),
    "sdwp": (0.0, lambda p, d: WeightMagnitude("sdwp", p, backward=True, decay=d)),
    "bdwp": (SR_STE_DECAY, _bdwp),
    "bi-mask": (SR_STE_DECAY, lambda p, d: BiMask(p, decay=d)),
    "transposable": (0.0, lambda p, d: Transposable(p, decay=d)),
    "mvue": (0.0, lambda p, _: Mvue("mvue", p)),
    "bdwp+mvue": (SR_STE_DECAY, lambda p, d: Mvue("bdwp+mvue", p, _bdwp(p, d))),
}

METHODS: Final = ("dense", *_SPARSE)
"""Names that `make_method` knows."""


def make_method(name: str, pattern: Pattern | None = None, decay: float | None = None) -> Method:
    """Return a method by name.

    pattern: needed by every method but 'dense'; decay: lambda of the SR-STE term, None for the method's own.
    """
    if name not in METHODS:
        raise ValueError(f"method is {name!r}; known methods: {', '.join(METHODS)}")
    if name == "dense":
        return Method("dense")
    if pattern is None:
        raise ValueError(f"method {name!r} has no pattern; give N:M such as 2:8")
    own, make = _SPARSE[name]
    return make(pattern, own if decay is None else decay)
