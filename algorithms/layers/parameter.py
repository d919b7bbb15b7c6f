"""What training changes: parameters, and weights with their pre-generated pruned copies."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nmsat.algorithms.core.numeric import compared, kept
from nmsat.algorithms.core.tape import Stage

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray

    from nmsat.algorithms.core.arithmetic import Arithmetic, Operand
    from nmsat.algorithms.methods import Masks, Method


class Parameter:
    """A trained tensor.

    master: wide format, what the optimizer updates; copy: master rounded to the tensor format; grad: gradient of the
    step in the tensor format, scaled by the loss scale; decay: whether weight decay applies.
    """

    def __init__(self, name: str, value: NDArray, *, decay: bool = True) -> None:
        self.name = name
        self.master = value
        self.copy = value
        self.grad: NDArray | None = None
        self.decay = decay

    @property
    def mask_ff(self) -> NDArray[np.bool_] | None:
        """What the forward copy keeps; None when it is dense."""
        return None

    @property
    def half(self) -> NDArray[np.float16]:
        """The copy in binary16, which is what pruning compares in every arithmetic."""
        return compared(self.copy)

    def refresh(self, arithmetic: Arithmetic, method: Method) -> None:
        """Make the copies that the next step reads."""
        del method
        self.copy = arithmetic.narrow(self.master)


class Weight(Parameter):
    """A weight matrix W[k, n] with its forward and backward operands.

    backward: turns W (or its mask), its columns already in the order of the method, into the W sides of the backward
    products; taps: kernel taps in W; sparse: whether the method may prune this weight.
    """

    def __init__(
        self,
        name: str,
        value: NDArray,
        backward: Callable[[NDArray], list[NDArray]],
        *,
        taps: int = 1,
        sparse: bool = True,
    ) -> None:
        super().__init__(name, value)
        self.backward = backward
        self.taps = taps
        self.sparse = sparse
        self.masks: Masks | None = None
        self.ff: Operand | None = None
        self.bp: list[Operand] = []

    @property
    def mask_ff(self) -> NDArray[np.bool_] | None:
        return None if self.masks is None else self.masks.ff

    @property
    def order(self) -> NDArray[np.intp] | None:
        """Order in which the backward product walks C_out; None is ascending."""
        return None if self.masks is None else self.masks.order

    def refresh(self, arithmetic: Arithmetic, method: Method) -> None:
        """Round the master once and make both pruned copies from the rounded one (pre-generation)."""
        super().refresh(arithmetic, method)
        self.masks = method.masks(self) if self.sparse else None
        ff = None if self.masks is None else self.masks.ff
        bp = None if self.masks is None else self.masks.bp
        forward, backward_pattern = (method.pattern_of(self.name, stage) for stage in (Stage.FF, Stage.BP))
        group = method.group(Stage.BP) if self.masks is None else 1
        group = backward_pattern.m if bp is not None and backward_pattern is not None else group
        if self.sparse and self.taps > 1 and self.copy.shape[1] % group:
            raise ValueError(
                f"weight {self.name!r} has {self.copy.shape[1]} output channels; pruning its backward product needs a "
                f"multiple of M = {group}, or the layer must be dense"
            )
        order = slice(None) if self.order is None else self.order
        backward = self.backward(self._kept(bp)[:, order])
        self.ff = arithmetic.operand(self._kept(ff), None if ff is None else forward)
        self.bp = [arithmetic.operand(w, None if bp is None else backward_pattern) for w in backward]

    def _kept(self, keep: NDArray[np.bool_] | None) -> NDArray:
        return self.copy if keep is None else kept(keep, self.copy)
