"""Functions of torch.nn.functional on the weight of a converted layer, as the layer itself would compute them."""

# pyright: reportMissingImports=false
# PyTorch is an optional extra: the type checker runs without it.

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Protocol

from torch.nn import functional

from nmsat.algorithms.pytorch import functions, record

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch
    from torch import nn

    from nmsat.algorithms.pytorch.slot import Slot

LINEAR: Final = ("input", "weight", "bias")
"""Arguments of functional.linear."""

CONV: Final = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
"""Arguments of functional.conv1d, conv2d and conv3d."""

DIMENSIONS: Final = {functional.conv1d: 1, functional.conv2d: 2, functional.conv3d: 3}


class Seen(Protocol):
    """A weight read from outside (`algorithms.pytorch.seen.SeenWeight`): its layer, its slot, what FF and BP read."""

    nm_layer: nn.Module
    nm_slot: Slot
    nm_pair: tuple[torch.Tensor, torch.Tensor]


def call(func: Callable, seen: Seen, args: tuple, kwargs: dict[str, Any]) -> torch.Tensor | None:
    """Return the function's result if it multiplies by the weight in a way that is known here, else None."""
    if func is functional.linear:
        given = _bound(LINEAR, args, kwargs)
        return None if given.get("weight") is not seen else _linear(seen, **given)
    if func in DIMENSIONS:
        given = _bound(CONV, args, kwargs)
        fits = given.get("weight") is seen and not isinstance(given.get("padding"), str)
        return _convolution(seen, DIMENSIONS[func], **given) if fits else None
    return None


def _bound(names: tuple[str, ...], args: tuple, kwargs: dict[str, Any]) -> dict[str, Any]:
    return {**dict(zip(names, args, strict=False)), **kwargs}


def _linear(
    seen: Seen,
    input: torch.Tensor,  # noqa: A002 # PyTorch's name
    weight: Seen,
    bias: torch.Tensor | None = None,
) -> torch.Tensor:
    del weight
    slot = seen.nm_slot
    tag = record.linear(seen.nm_layer, slot, seen.nm_pair[0], input)
    return functions.linear(input, seen.nm_pair, bias, slot.rule.gradients(), tag)


def _convolution(
    seen: Seen,
    dimensions: int,
    input: torch.Tensor,  # noqa: A002 # PyTorch's name
    weight: Seen,
    bias: torch.Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> torch.Tensor | None:
    del weight
    slot = seen.nm_slot
    if input.dim() != dimensions + 2 or slot.layout.kind != "conv" or slot.layout.groups != groups:
        return None
    sizes = [[v] * dimensions if isinstance(v, int) else list(v) for v in (stride, padding, dilation)]
    options = (*sizes, False, [0] * dimensions, groups)
    tag = record.convolution(seen.nm_layer, slot, seen.nm_pair[0], input, options)
    return functions.convolution(input, seen.nm_pair, bias, options, slot.rule.gradients(groups), tag)
