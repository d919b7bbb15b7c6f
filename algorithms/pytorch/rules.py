"""What a method does to one PyTorch layer: masks of its weight, and its output gradient as two products read it.

Weights are matrices W[k, n] as in the NumPy reference: k is the input channel (innermost), then the taps; n the output
channel. The rule caches its masks until the weight changes, so they are made once per update.
"""

# pyright: reportMissingImports=false
# PyTorch is an optional extra: the type checker runs without it.

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from nmsat.algorithms.methods import BiMask, Sdgp, Transposable, WeightMagnitude, make_method
from nmsat.algorithms.methods.gradients import Mvue
from nmsat.algorithms.pytorch.selection import mvue, nm_mask, rescaled

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from nmsat.algorithms.methods import Method
    from nmsat.algorithms.core.tape import Pattern, Stage

Masks = tuple["torch.Tensor | None", "torch.Tensor | None"]


class _View:
    """The side of a weight that NumPy methods read."""

    def __init__(self, name: str, half: NDArray[np.float16]) -> None:
        self.name = name
        self.half = half


class Rule:
    """One layer's share of a method.

    name: of the layer; method: 'dense' for a layer that stays dense; pattern, decay: of the method.
    """

    def __init__(self, name: str, method: str, pattern: Pattern | None, decay: float | None) -> None:
        self.name = name
        self.method: Method = make_method(method, pattern, decay)
        self.pattern = self.method.pattern
        self.decay = self.method.decay
        self._weights: Method = self.method.weights if isinstance(self.method, Mvue) else self.method
        self._seen: tuple[int, int] | None = None
        self._masks: Masks = (None, None)

    def sparse(self, stage: Stage) -> bool:
        """Tell whether a product of the layer has a sparse operand."""
        return self.method.group(stage) > 1

    @property
    def gradient_side(self) -> bool:
        """Whether dY is the sparse operand of the backward product."""
        return isinstance(self.method, Sdgp)

    def masks(self, weight: torch.Tensor, matrix: torch.Tensor) -> Masks:
        """Return (keep_ff, keep_bp) for matrix = W[k, n] of the parameter `weight`; None is dense."""
        seen = (weight.data_ptr(), weight._version)
        if seen != self._seen:
            self._masks = self._choose(matrix.detach())
            self._seen = seen
        return self._masks

    def backward_gradient(self, dy: torch.Tensor) -> torch.Tensor:
        """Return dy[rows, C] or [B, C, H, W] as the backward product reads it."""
        if not isinstance(self.method, Sdgp) or self.pattern is None:
            return dy
        return rescaled(dy, nm_mask(dy, self.pattern.n, self.pattern.m, 1))

    def update_gradient(self, dy: torch.Tensor) -> torch.Tensor:
        """Return dy[rows, C] or [B, C, H, W] as the update product reads it; groups run along batch and pixels."""
        if not isinstance(self.method, Mvue) or self.pattern is None:
            return dy
        rows = dy.movedim(1, -1).reshape(-1, dy.shape[1])
        return mvue(rows, self.pattern.n, self.pattern.m).reshape(dy.movedim(1, -1).shape).movedim(-1, 1)

    def _choose(self, matrix: torch.Tensor) -> Masks:
        if self.pattern is None:
            return None, None
        n, m = self.pattern.n, self.pattern.m
        if isinstance(self._weights, WeightMagnitude):
            ff = nm_mask(matrix, n, m, 0) if self._weights.forward else None
            return ff, nm_mask(matrix, n, m, 1) if self._weights.backward else None
        if isinstance(self._weights, (BiMask, Transposable)):
            return self._through_numpy(self._weights, matrix)
        return None, None

    def _through_numpy(self, method: BiMask | Transposable, matrix: torch.Tensor) -> Masks:
        """Masks with a state of their own come from the reference itself."""
        view = _View(f"{self.name}.weight", matrix.to(torch.float16).cpu().numpy())
        masks = method.masks(view)  # type: ignore[arg-type] # reads name and half only
        return self._tensor(masks.ff, matrix), self._tensor(masks.bp, matrix)

    @staticmethod
    def _tensor(keep: NDArray[np.bool_] | None, like: torch.Tensor) -> torch.Tensor | None:
        return None if keep is None else torch.from_numpy(keep).to(like.device)
