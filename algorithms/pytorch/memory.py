"""Masks of methods with a memory: Bi-Mask's permutations and transposable masks, renewed every so many updates.

What they remember lies in buffers of the layer, so it is in the state_dict and moves with the model. An update is a
change of the weight between two training forward passes, seen by its values: however often a pass runs between two
changes (micro-batches, checkpointing) and whatever changed the weight (any optimizer, `p.data`), it counts once.
Passes in eval mode or without gradients use what is due and store nothing.
"""

# pyright: reportMissingImports=false
# PyTorch is an optional extra: the type checker runs without it.

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
import torch

from nmsat.algorithms.methods import BiMask, Transposable
from nmsat.algorithms.pytorch.selection import nm_mask

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import nn

    from nmsat.algorithms.pytorch.rules import Masks, Rule

FIELDS: Final = ("calls", "seen", "kept", "sum", "form")
"""calls: masks made so far; seen: fingerprint of the weight then; kept: mask or order; sum: fingerprint of kept (an
average of buffers would ruin it); form: N and M, so that a checkpoint of another pattern is refused."""

_STEP: Final = 4093
"""Elements of a row of the fingerprint, a prime."""


class _View:
    """The side of a weight that NumPy methods read."""

    def __init__(self, name: str, half: NDArray[np.float16]) -> None:
        self.name = name
        self.half = half


def buffer(param: str, field: str) -> str:
    """Return the name of a buffer of the weight `param`."""
    return f"nm_{param}_{field}"


def start(layer: nn.Module, param: str, rule: Rule, matrices: torch.Tensor) -> None:
    """Register the buffers with the masks that the present weight gives."""
    b, k, n = matrices.shape
    shape, dtype = ((b, n), torch.int64) if isinstance(rule.weights, BiMask) else ((b, k, n), torch.uint8)
    # uint8, not bool: averages of buffers subtract them
    pattern = rule.pattern
    assert pattern is not None
    device = matrices.device
    values = {
        "calls": torch.zeros((), dtype=torch.int64, device=device),
        "seen": torch.zeros((), dtype=torch.int64, device=device),
        "kept": torch.zeros(shape, dtype=dtype, device=device),
        "sum": torch.zeros((), dtype=torch.int64, device=device),
        "form": torch.tensor([pattern.n, pattern.m], device=device),
    }
    for field, value in values.items():
        layer.register_buffer(buffer(param, field), value)
    masks(layer, param, rule, matrices, store=True)


def forget(layer: nn.Module, param: str) -> None:
    """Make the next masks anew, as for a fresh weight."""
    layer.get_buffer(buffer(param, "calls")).zero_()


def masks(layer: nn.Module, param: str, rule: Rule, matrices: torch.Tensor, *, store: bool) -> Masks:
    """Return what FF and BP keep of [b, k, n]; store: whether a change of the weight counts as an update."""
    half = matrices.detach().to(torch.float16)
    calls, seen, kept, total = (layer.get_buffer(buffer(param, field)) for field in FIELDS[:4])
    now, count = fingerprint(half), int(calls)
    broken = count > 0 and fingerprint(kept) != int(total)
    if count == 0 or broken or now != int(seen):
        if count % rule.weights.interval == 0 or broken:  # type: ignore[attr-defined] # both methods have one
            kept = _renew(rule, f"{rule.name}.{param}", half, count)
        if store:
            with torch.no_grad():
                layer.get_buffer(buffer(param, "kept")).copy_(kept)
                calls.fill_(count + 1)
                seen.fill_(now)
                total.fill_(fingerprint(kept))
    return _masks(rule, half, kept.clone())  # the buffer changes in place, the graph may keep a mask


def fingerprint(values: torch.Tensor) -> int:
    """Return 64 bits that depend on every bit and place of a tensor (float16 or whole numbers)."""
    bits = values.view(torch.int16) if values.dtype == torch.float16 else values
    flat = bits.reshape(-1).to(torch.int64)
    rows = torch.nn.functional.pad(flat, (0, -flat.numel() % _STEP)).reshape(-1, _STEP)
    sums = ((rows + 40503) * _weights(_STEP, rows.device)).sum(dim=1)
    return int((sums * _weights(len(sums), rows.device)).sum())


def _weights(count: int, device: torch.device) -> torch.Tensor:
    """Return odd multipliers that differ in all bits; products wrap around at 64 bits."""
    place = torch.arange(1, count + 1, dtype=torch.int64, device=device)
    mixed = place * -7046029254386353131
    return (mixed ^ (mixed >> 29)) * -4658895280553007687 | 1


def _renew(rule: Rule, name: str, half: torch.Tensor, count: int) -> torch.Tensor:
    """Return the array of every matrix from the NumPy method itself."""
    method, made = rule.weights, []
    assert isinstance(method, (BiMask, Transposable))
    for place, matrix in enumerate(half.cpu().numpy()):
        view = _View(name if len(half) == 1 else f"{name}#{place}", np.ascontiguousarray(matrix))
        made.append(method.renew(view, count))  # type: ignore[arg-type] # reads name and half only
    return torch.from_numpy(np.stack(made)).to(half.device)


def _masks(rule: Rule, half: torch.Tensor, kept: torch.Tensor) -> Masks:
    if isinstance(rule.weights, Transposable):
        return kept.bool(), kept.bool()
    pattern = rule.pattern
    assert pattern is not None
    ff = nm_mask(half, pattern.n, pattern.m, 1)
    order = kept[:, None, :].expand(half.shape)
    left = torch.where(ff, half, 0).gather(2, order)
    chosen = nm_mask(left, pattern.n, pattern.m, 2) & ff.gather(2, order)
    return ff, torch.zeros_like(ff).scatter(2, order, chosen)


def check_form(layer: nn.Module, param: str, state: dict, prefix: str, errors: list[str]) -> None:
    """Note an error if a checkpoint holds masks of another pattern."""
    key = prefix + buffer(param, "form")
    mine = layer.get_buffer(buffer(param, "form"))
    if key in state and state[key].tolist() != mine.tolist():
        errors.append(f"{key} is {state[key].tolist()!r}; the model is pruned {mine.tolist()!r} (N, M)")
