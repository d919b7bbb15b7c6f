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
    # Bit patterns without sign order like magnitudes; -1 stands for places past the end.
    size = rows.to(torch.float16).view(torch.int16) & 0x7FFF
    groups = torch.nn.functional.pad(size, (0, -rows.shape[-1] % m), value=-1).unflatten(-1, (-1, m))
    # Compilers trace every comparison of a pair, which takes long.
    pairs = m <= 8 and not torch.compiler.is_compiling()
    keep = _by_pairs(groups, n) if pairs else _by_rank(groups, n)
    return keep.flatten(-2)[..., : rows.shape[-1]].movedim(-1, dim)


def _by_pairs(groups: torch.Tensor, n: int) -> torch.Tensor:
    """Count for each place of a group how many others come before it: half the time of `topk` for short groups."""
    places = groups.unbind(-1)
    before = [torch.zeros_like(places[0], dtype=torch.int8) for _ in places]
    for low in range(len(places)):
        for high in range(low + 1, len(places)):
            larger = places[high] > places[low]
            before[low] = before[low] + larger
            before[high] = before[high] + ~larger
    return torch.stack([count < n for count in before], dim=-1)


def _by_rank(groups: torch.Tensor, n: int) -> torch.Tensor:
    m = groups.shape[-1]
    # int32 leaves room for the place that breaks ties.
    rank = groups.to(torch.int32) * m + torch.arange(m - 1, -1, -1, dtype=torch.int32, device=groups.device)
    return rank >= rank.topk(n, dim=-1).values[..., -1:]


def rescaled(dy: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
    """Return SDGP's gradient: what keep leaves of dy[B, C, ...], scaled to the channel's sum of magnitudes."""
    kept = torch.where(keep, dy, 0)
    if dy.dim() == 2:
        return kept
    pixels = tuple(range(2, dy.dim()))
    before = dy.double().abs().sum(dim=pixels, keepdim=True)
    after = kept.double().abs().sum(dim=pixels, keepdim=True)
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


def mvue_scale(dy: torch.Tensor, n: int, m: int) -> torch.Tensor | None:
    """Return the power of two by which no dy / pi of `mvue` is infinite in binary16, None where it need not be asked.

    See `algorithms.methods.gradients.mvue_shift`; the product is divided by it again.
    """
    if dy.dtype != torch.float16 or not dy.numel():
        return None
    size = dy.detach().abs().double()
    largest = torch.where(size.isfinite(), size, 0.0).amax() * m / n
    limit = torch.finfo(dy.dtype).max
    return torch.exp2(-torch.ceil(torch.log2((largest / limit).clamp(min=1.0))))


def mvue(
    dy: torch.Tensor, n: int, m: int, u: torch.Tensor | None = None, scale: torch.Tensor | None = None
) -> torch.Tensor:
    """Return dy[rows, columns] with at most n of m rows kept per group and column, equal to dy in expectation.

    scale: of `mvue_scale`, times which the result is, but for groups that are not finite; u: uniform numbers [groups,
    1, columns], drawn here when None. See `algorithms.methods.gradients.mvue`.
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
    sampled = torch.where(keep, x / torch.where(pi > 0, pi, 1.0), 0.0)
    values = (sampled if scale is None else sampled * scale).to(dy.dtype)
    values = torch.where(finite, values, torch.where(nm_mask(groups, n, m, 1), groups, 0))
    return values.flatten(0, 1)[:rows]
