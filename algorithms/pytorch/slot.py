"""One pruned weight of a layer: its dense master, what a method keeps of it, and the copies that FF and BP read.

The copies are functions of the master as it is now. Masks that follow from the values alone are kept beside the
binary16 values that gave them and made anew when those differ, whatever changed them.
"""

# pyright: reportMissingImports=false
# PyTorch is an optional extra: the type checker runs without it.

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING

import torch

from nmsat.algorithms.methods import Chosen
from nmsat.algorithms.pytorch import memory
from nmsat.algorithms.pytorch.functions import Prune

if TYPE_CHECKING:
    from torch import nn

    from nmsat.algorithms.pytorch.layout import Layout
    from nmsat.algorithms.pytorch.rules import Masks, Rule


class Slot:
    """A weight of a layer.

    param: its name in the layer; rule: what the method does to it; layout: its axes.
    """

    def __init__(self, param: str, rule: Rule, layout: Layout) -> None:
        self.param = param
        self.rule = rule
        self.layout = layout
        self._made: tuple[torch.Tensor, Masks] | None = None

    def __getstate__(self) -> dict[str, object]:
        """Leave the masks behind: they are made anew from the weight."""
        return {**self.__dict__, "_made": None}

    def dense(self, layer: nn.Module) -> torch.Tensor:
        """Return the master: a parameter, or what a parametrization (weight_norm) makes of its parameters."""
        given = layer.__dict__.get("nm_replica")
        if given is not None and self.param in given:
            return given[self.param]
        found = layer._parameters.get(self.param)
        if found is not None:
            return found
        below = inspect.getattr_static(layer.__dict__["nm_base"], self.param, None)
        if isinstance(below, property) and below.fget is not None:
            return below.fget(layer)
        raise RuntimeError(
            f"layer {self.rule.name!r} has lost its parameter {self.param!r}: parametrizations (weight_norm, "
            f"spectral_norm) must be registered before sparsify, or on strip(model)"
        )

    def pair(self, layer: nn.Module, master: torch.Tensor, decay: float) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the weight as FF and as BP read it; both pass their gradient straight through to the master.

        decay: lambda of the SR-STE term that the graph itself must add.
        """
        ff, bp = self.masks(layer, master, store=layer.training and torch.is_grad_enabled())
        forward = master if ff is None else Prune.apply(master, ff, decay)
        return forward, master if bp is None else Prune.apply(master, bp, 0.0)

    def masks(self, layer: nn.Module, master: torch.Tensor, *, store: bool = False) -> Masks:
        """Return what FF and BP keep, bool of the weight's shape, None where dense.

        store: whether a change of the weight counts as an update of methods with a memory.
        """
        if self.rule.remembers:
            return self._remembered(layer, master, store=store)
        if isinstance(self.rule.weights, Chosen):
            return self._registered(master)
        if torch.compiler.is_compiling() or not _plain(master):
            return self._choose(master)
        return self._kept(master)

    def _kept(self, master: torch.Tensor) -> Masks:
        """Return the masks of before while the binary16 values are the same."""
        half = master.detach().to(torch.float16)
        if self._made is None or not _same(self._made[0], half):
            # A weight that is binary16 already would be compared with itself.
            kept = half.clone() if half.data_ptr() == master.data_ptr() else half
            self._made = kept, self._choose(master)
        return self._made[1]

    def _choose(self, master: torch.Tensor) -> Masks:
        ff, bp = self.rule.masks(self.layout.matrices(master.detach()))
        return self._shaped(ff, master), self._shaped(bp, master)

    @torch.compiler.disable
    def _registered(self, master: torch.Tensor) -> Masks:
        if not _plain(master):
            raise NotImplementedError(
                f"layer {self.rule.name!r}: method {self.rule.method.name!r} was registered and is computed in NumPy; "
                f"it cannot run under torch.func transforms: call functional_call outside of them, or use bdwp"
            )
        return self._kept(master)

    @torch.compiler.disable
    def _remembered(self, layer: nn.Module, master: torch.Tensor, *, store: bool) -> Masks:
        if not _plain(master):
            raise NotImplementedError(
                f"layer {self.rule.name!r}: method {self.rule.method.name!r} remembers its masks and cannot run under "
                f"torch.func transforms; call functional_call outside of them, or use bdwp"
            )
        ff, bp = memory.masks(layer, self.param, self.rule, self.layout.matrices(master.detach()), store=store)
        return self._shaped(ff, master), self._shaped(bp, master)

    def _shaped(self, keep: torch.Tensor | None, master: torch.Tensor) -> torch.Tensor | None:
        return None if keep is None else self.layout.weight(keep, master.shape)


def _plain(tensor: torch.Tensor) -> bool:
    """Tell an ordinary tensor with values from those of transforms, fake and meta tensors."""
    wrapped = torch._C._functorch.is_functorch_wrapped_tensor(tensor)
    return not wrapped and type(tensor) in (torch.Tensor, torch.nn.Parameter) and tensor.device.type != "meta"


def _same(left: torch.Tensor, right: torch.Tensor) -> bool:
    if left.device != right.device or left.shape != right.shape:
        return False
    return torch.equal(left.view(torch.int16), right.view(torch.int16))
