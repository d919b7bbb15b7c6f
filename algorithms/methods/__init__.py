"""Training methods: which operand of which product is N:M sparse, along which axis."""

from __future__ import annotations

from typing import TYPE_CHECKING

from algorithms.methods.base import Masks, Method
from algorithms.methods.weights import WeightMagnitude

if TYPE_CHECKING:
    from collections.abc import Callable

    from algorithms.tape import Pattern

__all__ = ["METHODS", "Masks", "Method", "WeightMagnitude", "make_method"]

SR_STE_DECAY = 2e-4
"""lambda of SR-STE's term (Zhou et al., ICLR 2021, section 4: 0.0002)."""

METHODS: dict[str, Callable[[Pattern | None], Method]] = {
    "dense": lambda _: Method("dense"),
    "ste": lambda p: WeightMagnitude("ste", p, forward=True),
    "sr-ste": lambda p: WeightMagnitude("sr-ste", p, forward=True, decay=SR_STE_DECAY),
    "sdwp": lambda p: WeightMagnitude("sdwp", p, backward=True),
    "bdwp": lambda p: WeightMagnitude("bdwp", p, forward=True, backward=True, decay=SR_STE_DECAY),
}


def make_method(name: str, pattern: Pattern | None = None) -> Method:
    """Return the method of that name; every method but 'dense' needs a pattern."""
    if name not in METHODS:
        raise ValueError(f"method is {name!r}; known methods: {', '.join(METHODS)}")
    if name != "dense" and pattern is None:
        raise ValueError(f"method {name!r} has no pattern; give N:M such as 2:8")
    return METHODS[name](pattern)
