"""nn.MultiheadAttention whose projections follow a rule; the products of two activations stay dense."""

# pyright: reportMissingImports=false
# PyTorch is an optional extra: the type checker runs without it.

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import nn
from torch.nn import functional

from nmsat.algorithms.pytorch import functions, record
from nmsat.algorithms.pytorch.base import NmModule, behaves
from nmsat.algorithms.pytorch.layout import Layout

SEPARATE = ("q_proj_weight", "k_proj_weight", "v_proj_weight")


@behaves(lambda base: base.forward is nn.MultiheadAttention.forward)
class AttentionForward(NmModule):
    """The forward pass of nn.MultiheadAttention, all its options, nested tensors and the fused path left out."""

    PARAMETERS: ClassVar[tuple[str, ...]] = ("in_proj_weight", *SEPARATE)

    @staticmethod
    def layouts(layer: nn.Module) -> dict[str, Layout]:
        """Return the layout of every weight."""
        own: Any = layer
        if own._qkv_same_embed_dim:
            return {"in_proj_weight": Layout("linear", parts=3)}
        return {name: Layout("linear") for name in SEPARATE}

    def nm_read(self, param: str) -> torch.Tensor:
        # The other form of the projections is None.
        return super().nm_read(param) if param in self.nm else self._parameters[param]  # type: ignore[return-value]

    def forward(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        key_padding_mask: torch.Tensor | None = None,
        need_weights: bool = True,
        attn_mask: torch.Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """See nn.MultiheadAttention."""
        own: Any = self
        if is_causal and attn_mask is None:
            raise RuntimeError("is_causal needs attn_mask, as in nn.MultiheadAttention")
        if query.is_nested:
            raise NotImplementedError("nested tensors: a sparsified nn.MultiheadAttention takes padded batches")
        batched = query.dim() == 3
        if not batched:
            query, key, value = _all(query, key, value, lambda t: t.unsqueeze(0))
            key_padding_mask = None if key_padding_mask is None else key_padding_mask.unsqueeze(0)
        elif not own.batch_first:
            query, key, value = _all(query, key, value, lambda t: t.transpose(0, 1))
        q, k, v = self._heads(*self._extended(*self._projected(query, key, value)))
        causal = is_causal and key_padding_mask is None and not need_weights
        bias = None if causal else self._bias(attn_mask, key_padding_mask, q, k)
        dropout = own.dropout if own.training else 0.0
        weights = None
        if need_weights:
            scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
            weights = functional.softmax(scores if bias is None else scores + bias, dim=-1)
            weights = functional.dropout(weights, dropout) if dropout else weights
            mixed = weights @ v
            weights = weights.mean(dim=1) if average_attn_weights else weights
        else:
            mixed = functional.scaled_dot_product_attention(q, k, v, bias, dropout, causal)
        out = own.out_proj(mixed.transpose(1, 2).flatten(2))
        if not batched:
            return out.squeeze(0), None if weights is None else weights.squeeze(0)
        return (out if own.batch_first else out.transpose(0, 1)), weights

    def _projected(self, *inputs: torch.Tensor) -> list[torch.Tensor]:
        """Return q, k and v; equal inputs go through one product, as in PyTorch."""
        own: Any = self
        query, key, value = inputs
        biases = [None] * 3 if own.in_proj_bias is None else list(own.in_proj_bias.chunk(3))
        if not own._qkv_same_embed_dim:
            return [
                self._project(x, name, name[0], self.nm_pair(name), bias)
                for x, name, bias in zip(inputs, SEPARATE, biases, strict=True)
            ]
        pair = self.nm_pair("in_proj_weight")
        if query is key and key is value:
            return list(self._project(query, "in_proj_weight", "", pair, own.in_proj_bias).chunk(3, dim=-1))
        size = own.embed_dim
        if key is value:
            rest = None if own.in_proj_bias is None else own.in_proj_bias[size:]
            first = self._project(query, "in_proj_weight", "q", _both(pair, lambda w: w[:size]), biases[0])
            second = self._project(key, "in_proj_weight", "kv", _both(pair, lambda w: w[size:]), rest)
            return [first, *second.chunk(2, dim=-1)]
        parts = [_both(pair, lambda w, i=i: w.chunk(3)[i]) for i in range(3)]
        return [
            self._project(x, "in_proj_weight", name, part, bias)
            for x, name, part, bias in zip(inputs, "qkv", parts, biases, strict=True)
        ]

    def _project(
        self,
        x: torch.Tensor,
        param: str,
        part: str,
        pair: tuple[torch.Tensor, torch.Tensor],
        bias: torch.Tensor | None,
    ) -> torch.Tensor:
        rule = self.nm[param].rule
        if rule.dense:
            return functional.linear(x, pair[0], bias)
        tag = record.linear(self, self.nm[param], pair[0], x, part)
        return functions.linear(x, pair, bias, rule.gradients(), tag)

    def _extended(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Append the learnt and the zero key and value, if the layer has them."""
        own: Any = self
        batch, _, width = k.shape
        if own.bias_k is not None:
            k = torch.cat([k, own.bias_k.expand(batch, 1, width)], dim=1)
            v = torch.cat([v, own.bias_v.expand(batch, 1, width)], dim=1)
        if own.add_zero_attn:
            k, v = (torch.cat([t, t.new_zeros(batch, 1, width)], dim=1) for t in (k, v))
        return q, k, v

    def _heads(self, *tensors: torch.Tensor) -> list[torch.Tensor]:
        own: Any = self
        return [t.unflatten(2, (own.num_heads, own.head_dim)).transpose(1, 2) for t in tensors]

    def _bias(
        self,
        attn_mask: torch.Tensor | None,
        key_padding_mask: torch.Tensor | None,
        q: torch.Tensor,
        k: torch.Tensor,
    ) -> torch.Tensor | None:
        """Return what is added to the scores [batch, heads, queries, keys]; added keys are never hidden."""
        own: Any = self
        shapes = {"attn_mask": attn_mask, "key_padding_mask": key_padding_mask}
        found = []
        for name, mask in shapes.items():
            if mask is None:
                continue
            added = _additive(name, mask, q)
            if name == "key_padding_mask":
                added = added[:, None, None, :]
            elif added.dim() == 3:
                added = added.unflatten(0, (-1, own.num_heads))
            found.append(functional.pad(added, (0, k.shape[2] - added.shape[-1])))
        return sum(found[1:], found[0]) if found else None


def _additive(name: str, mask: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    if mask.dtype == torch.bool:
        return torch.zeros_like(mask, dtype=like.dtype).masked_fill(mask, float("-inf"))
    if not mask.is_floating_point():
        raise TypeError(f"{name} has dtype {mask.dtype}; it must be bool or floating point")
    return mask.to(like.dtype)


def _both(pair: tuple[torch.Tensor, torch.Tensor], change: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Change both weights of a pair; one that is both stays one."""
    first = change(pair[0])
    return first, first if pair[1] is pair[0] else change(pair[1])


def _all(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, change: Any) -> tuple[torch.Tensor, ...]:
    """Change all three and keep equal ones the same tensor."""
    first = change(query)
    second = first if key is query else change(key)
    return first, second, second if value is key else change(value)
