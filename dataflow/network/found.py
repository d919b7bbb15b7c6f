"""What a network turned out to be once it was built or read: its layers, its batch, and what had to be decided."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nmsat.dataflow.network.layers import Layer


@dataclass(frozen=True)
class FoundModel:
    """Layers of a network, the batch that they are for (None if a file's inputs do not agree), notes of a reader."""

    layers: list[Layer]
    batch: int | None
    notes: tuple[str, ...] = ()
