"""What others get when they read the weight of a converted layer.

The tensor has the values of the forward product. Functions of `torch.nn.functional` that multiply by it do what the
layer itself does, the backward pass included; writing to it writes to the master; `.grad` is the master's. A product
that cannot be steered so warns that gradients through it are those of the forward weight.
"""

# pyright: reportMissingImports=false
# PyTorch is an optional extra: the type checker runs without it.

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any, Final

import torch

from nmsat.algorithms.pytorch import steered

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

    from nmsat.algorithms.pytorch.slot import Slot

PRODUCTS: Final = frozenset({
    *("matmul", "mm", "bmm", "mv", "dot", "addmm", "addmv", "addbmm", "baddbmm", "einsum", "tensordot", "linear"),
    *("__matmul__", "__rmatmul__", "bilinear", "multi_head_attention_forward", "t", "transpose", "permute", "T", "mT"),
    *("chunk", "split", "unbind", "embedding", "convolution", "conv1d", "conv2d", "conv3d"),
})  # fmt: skip
"""Functions that multiply by a weight, or hand it on to one."""


class SeenWeight(torch.Tensor):
    """A pruned weight as it is read from outside of its layer; see the module."""

    nm_layer: nn.Module
    nm_slot: Slot
    nm_pair: tuple[torch.Tensor, torch.Tensor]

    @staticmethod
    def make(layer: nn.Module, slot: Slot, pair: tuple[torch.Tensor, torch.Tensor]) -> SeenWeight:
        """Return the forward weight of a pair for readers."""
        seen = pair[0].as_subclass(SeenWeight)
        seen.nm_layer, seen.nm_slot, seen.nm_pair = layer, slot, pair
        return seen

    @classmethod
    def __torch_function__(
        cls, func: Callable, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        with torch._C.DisableTorchFunctionSubclass():
            if name in ("__get__", "__set__", "__delete__"):
                return _attribute(func, args)
            # The functions of torch.nn.init hand everything on by name.
            target = kwargs.get("out", args[0] if args else kwargs.get("tensor"))
            in_place = name.endswith("_") and not name.endswith("__")
            if isinstance(target, SeenWeight) and ("out" in kwargs or in_place or name == "__setitem__"):
                return _write(func, target, args, kwargs)
            if name == "detach":
                return _detached(args[0])
            for seen in _found(args, kwargs):
                done = steered.call(func, seen, args, kwargs)
                if done is not None:
                    return done
                _warn(seen, name)
            return func(*_plain(args), **{key: _plain(value) for key, value in kwargs.items()})


def _attribute(func: Callable, args: tuple) -> Any:
    """Get or set an attribute such as .grad, .data or .shape."""
    seen = args[0]
    what = getattr(getattr(func, "__self__", None), "__name__", "")
    if func.__name__ != "__get__" or what in ("grad", "requires_grad"):
        return func(_master(seen), *args[1:])
    if what == "data":
        return _detached(seen)
    _warn(seen, what)
    return func(seen.nm_pair[0], *args[1:])


def _detached(seen: SeenWeight) -> SeenWeight:
    """Return a reader without gradients; what is written to it still reaches the master."""
    forward, backward = seen.nm_pair
    return SeenWeight.make(seen.nm_layer, seen.nm_slot, (forward.detach(), backward.detach()))


def _write(func: Callable, target: SeenWeight, args: tuple, kwargs: dict[str, Any]) -> SeenWeight:
    """Carry out an in-place function on the master, as an assignment to the layer's weight means it."""
    master = _master(target)
    if not master.is_leaf:
        raise RuntimeError(
            f"{func.__name__} would write to a pruned copy: the weight of layer {target.nm_slot.rule.name!r} is "
            f"computed (weight_norm); write to its own parameters"
        )
    if not target.nm_pair[0].requires_grad:  # .data, detached: no gradients
        master = master.detach()

    def own(value: Any) -> Any:
        return _replaced(value, lambda seen: master if seen is target else seen.nm_pair[0])

    func(*own(args), **{key: own(value) for key, value in kwargs.items()})
    return target


def _warn(seen: SeenWeight, name: str) -> None:
    forward, backward = seen.nm_pair
    if name not in PRODUCTS or not forward.requires_grad:
        return
    rule = seen.nm_slot.rule
    if forward is backward and not rule.gradient_side:
        return
    warnings.warn(
        f"the weight of layer {rule.name!r} goes through {name} outside of the layer: values are pruned, but gradients "
        f"through it do not follow {rule.method.name!r}; call the layer, or torch.nn.functional.linear",
        stacklevel=4,
    )


def _master(seen: SeenWeight) -> torch.Tensor:
    return seen.nm_slot.dense(seen.nm_layer)


def _found(args: tuple, kwargs: dict[str, Any]) -> list[SeenWeight]:
    return [value for value in (*args, *kwargs.values()) if isinstance(value, SeenWeight)]


def _replaced(value: Any, by: Callable[[SeenWeight], torch.Tensor]) -> Any:
    if isinstance(value, SeenWeight):
        return by(value)
    if type(value) in (list, tuple):
        return type(value)(_replaced(item, by) for item in value)
    return value


def _plain(value: Any) -> Any:
    return _replaced(value, lambda seen: seen.nm_pair[0])
