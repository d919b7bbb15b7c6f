"""What a network turned out to be once it was built or read: its layers, its batch, and what had to be decided."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from nmsat.dataflow.network.layers import Layer


DEFAULT_BATCH: Final = 512
"""Images per step where neither the user nor a file says."""


@dataclass(frozen=True)
class FoundModel:
    """Layers of a network, the batch that they are for (None if a file's inputs do not agree), notes of a reader.

    unit: other batches are multiples of it, that of a file which fixes one; 0 if there is no other.
    """

    layers: list[Layer]
    batch: int | None
    notes: tuple[str, ...] = ()
    unit: int = 1
