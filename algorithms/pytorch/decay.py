"""The SR-STE term, lambda (1 - mask) W, added to the gradient of the master once per update.

A hook on the master adds it when its `.grad` is empty or zero, so that of several micro-batches only the first does.
It runs outside of compiled graphs. A master that is no leaf of its own (torch.func, functional_call with computed
weights) gets the term within the graph instead, once per backward pass.
"""

# pyright: reportMissingImports=false
# PyTorch is an optional extra: the type checker runs without it.

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.weak import WeakIdKeyDictionary

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

    from nmsat.algorithms.pytorch.slot import Slot

    Hook = Callable[[torch.Tensor], torch.Tensor | None]

_hooks: Any = WeakIdKeyDictionary()
"""Master -> handle of its hook. A weight of two layers has one."""


def attach(layer: nn.Module, slot: Slot) -> None:
    """Hook the layer's own parameter, frozen or not; nothing to do without a term."""
    leaf = layer._parameters.get(slot.param)
    leaves = layer.__dict__.setdefault("nm_leaf", {})
    leaves[slot.param] = leaf
    if leaf is None or slot.rule.decay == 0 or leaf in _hooks:
        return
    frozen = not leaf.requires_grad
    if frozen:
        leaf.requires_grad_(True)
    _hooks[leaf] = leaf.register_hook(_term(layer, slot, leaf, []))
    if frozen:
        leaf.requires_grad_(False)


def detach(parameter: nn.Parameter) -> None:
    """Take the hook of a master away."""
    if parameter in _hooks:
        _hooks.pop(parameter).remove()


def within_graph(layer: nn.Module, slot: Slot, master: torch.Tensor) -> float:
    """Return the lambda that the graph must add itself, after hooking what can be hooked."""
    if slot.rule.decay == 0 or not torch.is_grad_enabled() or layer.__dict__.get("nm_replica"):
        return 0.0
    if master is layer.__dict__["nm_leaf"].get(slot.param):
        return 0.0
    if torch.compiler.is_compiling():
        if slot.param not in layer._parameters:
            raise RuntimeError(
                f"layer {slot.rule.name!r} is parametrized (weight_norm): the SR-STE term once per update cannot be "
                f"compiled; give sparsify(..., decay=0) or leave the layer out of torch.compile"
            )
        return slot.rule.decay * layer.scale()
    if torch._C._functorch.is_functorch_wrapped_tensor(master):
        return slot.rule.decay * layer.scale()
    if master.requires_grad and master not in _hooks:
        originals = _originals(layer, slot, master)
        if not master.is_leaf and not originals:
            return slot.rule.decay * layer.scale()  # functional_call with a computed weight
        handle = master.register_hook(_term(layer, slot, master, originals))
        if master.is_leaf:
            _hooks[master] = handle
    return 0.0


def _originals(layer: nn.Module, slot: Slot, master: torch.Tensor) -> list[torch.Tensor]:
    """Return the parameters behind a parametrized weight: their `.grad` tells whether the term was added."""
    groups = layer._modules.get("parametrizations")
    if master.is_leaf or groups is None or slot.param not in groups:
        return []
    return [p for name, p in groups[slot.param].named_parameters() if name.startswith("original")]


def _term(layer: nn.Module, slot: Slot, master: torch.Tensor, originals: list[torch.Tensor]) -> Hook:
    """Return the hook of a master. It keeps neither the layer nor a parameter alive.

    originals: the parameters that a computed master is made of, [] for a parameter.
    """
    owner = weakref.ref(layer)
    # A computed master is nobody's but the graph's: its values are kept, without their history.
    values: Callable[[], torch.Tensor | None] = weakref.ref(master)
    if originals:
        kept = master.detach()
        values = lambda: kept  # noqa: E731 # in the place of a weak reference
    last = layer.__dict__.setdefault("nm_task", {})

    def hook(grad: torch.Tensor) -> torch.Tensor | None:
        here, weight = owner(), values()
        if here is None or weight is None or not all(_empty(p.grad) for p in originals or [weight]):
            return None
        task = torch._C._current_graph_task_id()
        if originals and last.get(slot.param) == task:
            return None  # the layer ran twice in this pass
        last[slot.param] = task
        keep = slot.masks(here, weight)[0]
        if keep is None:
            return None
        term = (slot.rule.decay * here.scale()) * torch.where(keep, 0, weight.detach())
        return grad + term.to(grad.dtype)

    return hook


def _empty(grad: torch.Tensor | None) -> bool:
    return grad is None or not bool(grad.any())
