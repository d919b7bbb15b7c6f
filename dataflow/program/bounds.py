"""What a step may hold, checked before its memory is made and while its programs are assembled."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

_SMALLER: Final = "choose a smaller batch or network"


@dataclass(frozen=True)
class Bounds:
    """Most beats of 64 bytes that tensors and programs take together, most instructions of all programs."""

    beats: float = math.inf
    instructions: float = math.inf

    def check_beats(self, beats: Iterable[int]) -> None:
        """Raise ValueError if the regions are too large together; beats: of each, as dealt out so far."""
        found = sum(beats)
        if found > self.beats:
            told = f"the step takes {found} beats of 64 bytes and more"
            raise ValueError(f"{told}; the limit is {self.beats}; {_SMALLER}")

    def check_instructions(self, found: int) -> None:
        """Raise ValueError if the programs have too many instructions; found: assembled so far."""
        if found > self.instructions:
            told = f"the step takes {found} instructions and more"
            raise ValueError(f"{told}; the limit is {self.instructions}; {_SMALLER}")


NO_BOUNDS: Final = Bounds()
