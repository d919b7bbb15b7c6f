"""How the weights of PyTorch's layers lie as matrices W[k, n], the form in which methods prune them.

k is what the forward product reduces over (input channels innermost, then taps), n what the backward product reduces
over (output channels). A weight is a stack of such matrices [b, k, n]: one per group of a convolution; for a
transposed convolution, whose forward product reduces over channels alone, one per group and tap.
"""

# pyright: reportMissingImports=false
# PyTorch is an optional extra: the type checker runs without it.

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch

Kind = Literal["linear", "columns", "conv", "transposed"]


@dataclass(frozen=True)
class Layout:
    """Order of the axes of a weight.

    kind: 'linear' [parts * out, in], 'columns' [in, out] (Hugging Face's Conv1D), 'conv' [out, in / groups, taps...],
    'transposed' [in, out / groups, taps...]; groups: of a convolution; parts: matrices stacked in one linear weight.
    """

    kind: Kind
    groups: int = 1
    parts: int = 1

    def matrices(self, weight: torch.Tensor) -> torch.Tensor:
        """Return the weight (or a mask of it) as [b, k, n]."""
        if self.kind == "columns":
            return weight[None]
        if self.kind == "linear":
            return weight.unflatten(0, (self.parts, -1)).transpose(1, 2)
        first, second = weight.shape[:2]
        taps = prod(weight.shape[2:])
        split = weight.reshape(self.groups, first // self.groups, second, taps)
        if self.kind == "conv":
            return split.permute(0, 3, 2, 1).flatten(1, 2)
        return split.permute(0, 3, 1, 2).flatten(0, 1)

    def weight(self, matrices: torch.Tensor, shape: torch.Size) -> torch.Tensor:
        """Undo `matrices` for a weight of the given shape."""
        if self.kind == "columns":
            return matrices[0]
        if self.kind == "linear":
            return matrices.transpose(1, 2).flatten(0, 1)
        first, second = shape[0] // self.groups, shape[1]
        taps = prod(shape[2:])
        if self.kind == "conv":
            return matrices.reshape(self.groups, taps, second, first).permute(0, 3, 2, 1).reshape(shape)
        return matrices.reshape(self.groups, taps, first, second).permute(0, 2, 3, 1).reshape(shape)

    def sizes(self, shape: torch.Size) -> tuple[int, int]:
        """Return k and n of one matrix."""
        if self.kind == "columns":
            return shape[0], shape[1]
        if self.kind == "linear":
            return shape[1], shape[0] // self.parts
        if self.kind == "conv":
            return prod(shape[1:]), shape[0] // self.groups
        return shape[0] // self.groups, shape[1]

    def channels(self, shape: torch.Size) -> int:
        """Return the input channels of one group: what lies next to each other in k."""
        return shape[1] if self.kind == "conv" else self.sizes(shape)[0]
