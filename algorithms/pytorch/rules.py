"""What a method does to one weight: its masks, and the output gradient as two products read it.

Weights are stacks of matrices [b, k, n] (`algorithms.pytorch.layout`). Masks follow from the values alone, for the
magnitude methods here, for those with a memory (Bi-Mask, transposable masks) in `algorithms.pytorch.memory`.
"""

# pyright: reportMissingImports=false
# PyTorch is an optional extra: the type checker runs without it.

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import torch

from nmsat.algorithms.core.tape import Stage
from nmsat.algorithms.methods import BiMask, Chosen, Method, Mvue, Sdgp, Transposable, WeightMagnitude, make_method
from nmsat.algorithms.pytorch.selection import nm_mask

if TYPE_CHECKING:
    from nmsat.algorithms.core.tape import Pattern

Masks: TypeAlias = "tuple[torch.Tensor | None, torch.Tensor | None]"
"""What FF and BP keep of [b, k, n]; None is dense."""


@dataclass(frozen=True)
class Gradients:
    """How a layer's two gradient products read dY: (n, m) of the pruned one, (0, 0) where it is dense.

    bp: kept along C_out (SDGP); wu: sampled along the batch (MVUE); groups: of the convolution.
    """

    bp: tuple[int, int] = (0, 0)
    wu: tuple[int, int] = (0, 0)
    groups: int = 1


class Rule:
    """One weight's share of a method.

    name: of the layer; method: a name of `algorithms.methods.METHODS`, 'dense' for a layer that stays dense; pattern,
    decay: of the method; sizes: k and n of one matrix (a direction with fewer than M elements is dense, as on SAT);
    own: patterns of FF and BP of this layer in place of that one (None: dense), for methods that prune weights by
    magnitude. Raises ValueError for a method that the PyTorch side does not know.
    """

    def __init__(
        self,
        name: str,
        method: str,
        pattern: Pattern | None,
        decay: float | None,
        sizes: tuple[int, int],
        own: tuple[Pattern | None, Pattern | None] | None = None,
    ) -> None:
        self.name = name
        self.method: Method = make_method(method, pattern, decay, own=None if own is None else {name: own})
        self.own = own
        self.pattern = self.method.pattern
        self.weights: Method = self.method.weights if isinstance(self.method, Mvue) else self.method
        _check_known(self.method, self.weights)
        self.sizes = sizes
        self.decay = self.method.decay if self.prunes(Stage.FF) else 0.0

    def prunes(self, stage: Stage) -> bool:
        """Tell whether the weight is pruned in a stage."""
        # One mask for both directions needs room for a group in both.
        both = isinstance(self.weights, (BiMask, Transposable))
        length = min(self.sizes) if both else self.sizes[0 if stage is Stage.FF else 1]
        wanted = stage in (Stage.FF, Stage.BP) and self.weights.group(stage) > 1 and not self.gradient_side
        pattern = self.pattern_of(stage)
        return wanted and pattern is not None and pattern.n < pattern.m <= length

    def pattern_of(self, stage: Stage) -> Pattern | None:
        """Return the pattern of what a stage reads, where it is pruned."""
        if self.own is None or stage is Stage.WU:
            return self.pattern
        return self.own[0 if stage is Stage.FF else 1]

    def sparse(self, stage: Stage) -> bool:
        """Tell whether a product of the layer has a sparse operand."""
        if stage is Stage.BP and self.gradient_side:
            return self.gradients().bp != (0, 0)
        return self.gradients().wu != (0, 0) if stage is Stage.WU else self.prunes(stage)

    @property
    def gradient_side(self) -> bool:
        """Whether dY is the sparse operand of the backward product."""
        return isinstance(self.method, Sdgp)

    @property
    def dense(self) -> bool:
        """Whether no product of the layer is sparse."""
        return not any(self.sparse(stage) for stage in (Stage.FF, Stage.BP, Stage.WU))

    @property
    def remembers(self) -> bool:
        """Whether masks depend on more than the present values."""
        return isinstance(self.weights, (BiMask, Transposable)) and (self.prunes(Stage.FF) or self.prunes(Stage.BP))

    def gradients(self, groups: int = 1) -> Gradients:
        """Return how the gradient products read dY."""
        if self.pattern is None or self.pattern.n >= self.pattern.m:
            return Gradients()
        pair = (self.pattern.n, self.pattern.m)
        along_n = self.gradient_side and self.sizes[1] >= self.pattern.m
        return Gradients(pair if along_n else (0, 0), pair if isinstance(self.method, Mvue) else (0, 0), groups)

    def masks(self, matrices: torch.Tensor) -> Masks:
        """Return what magnitude methods and registered ones keep of [b, k, n]; a function of the values alone."""
        if isinstance(self.weights, Chosen):
            return _by_numpy(
                self.weights, matrices, forward=self.prunes(Stage.FF), backward=self.prunes(Stage.BP)
            )
        if not isinstance(self.weights, WeightMagnitude):
            return None, None
        return self._by_magnitude(matrices, Stage.FF, 1), self._by_magnitude(matrices, Stage.BP, 2)

    def _by_magnitude(self, matrices: torch.Tensor, stage: Stage, dim: int) -> torch.Tensor | None:
        pattern = self.pattern_of(stage)
        return nm_mask(matrices, pattern.n, pattern.m, dim) if pattern is not None and self.prunes(stage) else None

    @property
    def told(self) -> str:
        """Return the patterns for people, such as '2:8' or '2:4~2:8'."""
        if self.own is None or self.own[0] == self.own[1]:
            return str(self.pattern_of(Stage.FF))
        return "~".join("dense" if one is None else str(one) for one in self.own)


def _by_numpy(method: Chosen, matrices: torch.Tensor, *, forward: bool, backward: bool) -> Masks:
    """Return the masks of a registered method from the NumPy method itself, matrix by matrix."""
    half = matrices.detach().to(torch.float16).cpu().numpy()

    def made(axis: int) -> torch.Tensor:
        kept = [method.mask(np.ascontiguousarray(matrix), axis) for matrix in half]
        return torch.from_numpy(np.stack(kept)).to(matrices.device)

    return made(0) if forward else None, made(1) if backward else None


def _check_known(method: Method, weights: Method) -> None:
    """Refuse what would silently train dense: methods of NumPy that have no counterpart here."""
    plain = type(method) is Method and method.name == "dense"
    known = plain or type(method) in (WeightMagnitude, Sdgp, BiMask, Transposable, Chosen)
    if type(method) is Mvue:
        known = type(weights) is WeightMagnitude or (type(weights) is Method and weights.name == "dense")
    options = not getattr(method, "from_master", False) and getattr(method, "rescale", True)
    if not (known and options):
        raise ValueError(f"method {method.name!r} ({type(method).__name__}) is not known to algorithms.pytorch")
