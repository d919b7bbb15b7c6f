"""What a proof is: its name, what it says, how far, and which faults of the hardware it must see."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from nmsat.tb.formal.harness import Harness


@dataclass(frozen=True)
class Fault:
    """A fault to plant: in `file` the text `old`, which stands there once, becomes `new`."""

    name: str
    file: str
    old: str
    new: str


@dataclass(frozen=True, kw_only=True)
class Proof:
    """One proof.

    claim: what holds, in a sentence; make: builds its circuit; unbounded: by induction over `depth` cycles, for runs of
    every length, else for the first `depth` cycles after reset; reach: cycles within which all covers are reached and
    the faults are seen; smaller: what is smaller than in the machine, or assumed of its surroundings; faults: at least
    one.
    """

    name: str
    claim: str
    make: Callable[[], Harness]
    unbounded: bool
    depth: int
    reach: int
    smaller: str
    faults: tuple[Fault, ...]
    sample: Callable[[], Harness] | None = None

    def __post_init__(self) -> None:
        if not self.faults:
            raise ValueError(f"proof {self.name!r} has no fault; one that nothing can fail proves nothing")

    @property
    def extent(self) -> str:
        """For how long the claim is proved."""
        return "runs of every length" if self.unbounded else f"the first {self.depth} cycles"
