"""Which elements stay, in PyTorch: the same choices as `algorithms.core.nm` and `algorithms.methods.gradients`."""

# pyright: reportMissingImports=false
# PyTorch is an optional extra: the type checker runs without it.

from __future__ import annotations

import torch


def nm_mask(w: torch.Tensor, n: int, m: int, dim: int) -> torch.Tensor:
    """Return which elements stay along dim: the n largest binary16 magnitudes of each group of m.

    A tie keeps the lower index. w: any float tensor. Result: bool of w's shape. The last group may be short. See
    `algorithms.core.nm.mask`.
    """
    rows = w.detach().movedim(dim, -1)
    # Bit patterns without sign order like magnitudes; int32 leaves room for the place that breaks ties.
    size = (rows.to(torch.float16).view(torch.int16).to(torch.int32)) & 0x7FFF
    tail = -rows.shape[-1] % m
    size = torch.nn.functional.pad(size, (0, tail), value=-1).unflatten(-1, (-1, m))
    rank = size * m + torch.arange(m - 1, -1, -1, dtype=torch.int32, device=w.device)
    limit = rank.topk(n, dim=-1).values[..., -1:]
    keep = (rank >= limit).flatten(-2)[..., : rows.shape[-1]]
    return keep.movedim(-1, dim)


def rescaled(dy: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
    """Return SDGP's gradient: what keep leaves of dy[B, C, H, W], scaled to the channel's sum of magnitudes."""
    kept = torch.where(keep, dy, 0)
    if dy.dim() == 2:
        return kept
    before = dy.double().abs().sum(dim=(2, 3), keepdim=True)
    after = kept.double().abs().sum(dim=(2, 3), keepdim=True)
    ratio = torch.where(after > 0, before / after, 1.0)
    return (kept.double() * ratio).to(dy.dtype)


def inclusion(x: torch.Tensor, n: int) -> torch.Tensor:
    """Return the inclusion probabilities along dim 1 of [groups, m, columns] (`algorithms.methods.gradients`)."""
    order = x.sort(dim=1, descending=True).values
    rest = order.flip(1).cumsum(1).flip(1)
    pi = (x > 0).to(x.dtype)
    done = (x != 0).sum(dim=1) <= n
    for j in range(n):
        c = (n - j) / rest[:, j]
        fits = ~done & (c * order[:, j] <= 1)
        pi = torch.where(fits[:, None], (x * torch.where(fits, c, 0.0)[:, None]).clamp(max=1.0), pi)
        done = done | fits
    return pi


def mvue(dy: torch.Tensor, n: int, m: int, u: torch.Tensor | None = None) -> torch.Tensor:
    """Return dy[rows, columns] with at most n of m rows kept per group and column, equal to dy in expectation.

    u: uniform numbers [groups, 1, columns], drawn here when None. See `algorithms.methods.gradients.mvue`.
    """
    rows, columns = dy.shape
    groups = torch.nn.functional.pad(dy, (0, 0, 0, -rows % m)).unflatten(0, (-1, m))
    finite = groups.isfinite().all(dim=1, keepdim=True)
    x = torch.where(finite, groups, 0).double()
    pi = inclusion(x.abs(), n)
    if u is None:
        u = torch.rand((pi.shape[0], 1, columns), dtype=torch.float64, device=dy.device)
    upper = torch.floor(pi.cumsum(1).round(decimals=12) + u)
    keep = torch.diff(upper, dim=1, prepend=torch.zeros_like(u)) > 0
    values = torch.where(keep, x / torch.where(pi > 0, pi, 1.0), 0.0).to(dy.dtype)
    values = torch.where(finite, values, torch.where(nm_mask(groups, n, m, 1), groups, 0))
    return values.flatten(0, 1)[:rows]
