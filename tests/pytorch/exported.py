"""Networks of the kinds that people export, tiny and with random weights."""

# pyright: reportMissingImports=false
# PyTorch is an optional extra: the type checker runs without it.

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional as fn

WIDTH, HEADS, WORDS = 32, 4, 50


def heads(x: Any) -> Any:
    """Return [B, S, C] as [B, heads, S, C / heads]."""
    b, s, c = x.shape
    return x.view(b, s, HEADS, c // HEADS).transpose(1, 2)


def joined(x: Any) -> Any:
    """Return the inverse of `heads`."""
    b, h, s, d = x.shape
    return x.transpose(1, 2).reshape(b, s, h * d)


class Bert(nn.Module):
    """Post-norm encoder with biases, attention written out."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(WORDS, WIDTH), nn.Embedding(64, WIDTH)
        self.qkv = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.out, self.up, self.down = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 64), nn.Linear(64, WIDTH)
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(3))
        self.head = nn.Linear(WIDTH, 3)

    def forward(self, ids: Any, mask: Any) -> Any:
        place = torch.arange(ids.shape[1], device=ids.device)
        x = self.norms[0](self.words(ids) + self.places(place))
        q, k, v = (heads(layer(x)) for layer in self.qkv)
        scores = q @ k.transpose(-1, -2) / (WIDTH // HEADS) ** 0.5 + (1.0 - mask[:, None, None, :].float()) * -1e4
        x = self.norms[1](x + self.out(joined(scores.softmax(-1) @ v)))
        x = self.norms[2](x + self.down(fn.gelu(self.up(x))))
        return self.head(torch.tanh(x[:, 0]))


class Gpt(nn.Module):
    """Decoder with one weight for all three projections, a causal mask, and a head tied to the embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(WORDS, WIDTH), nn.Embedding(64, WIDTH)
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(3))

    def forward(self, ids: Any) -> Any:
        x = self.words(ids) + self.places(torch.arange(ids.shape[1], device=ids.device))
        q, k, v = (heads(part) for part in self.qkv(self.norms[0](x)).split(WIDTH, dim=2))
        x = x + self.out(joined(fn.scaled_dot_product_attention(q, k, v, is_causal=True)))
        x = x + self.down(fn.gelu(self.up(self.norms[1](x)), approximate="tanh"))
        return self.norms[2](x) @ self.words.weight.T


class Llama(nn.Module):
    """Rotary places, two heads of keys for four of queries, gated MLP, RMS normalisation."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.head = nn.Embedding(WORDS, WIDTH), nn.Linear(WIDTH, WORDS, bias=False)
        self.q, self.o = nn.Linear(WIDTH, WIDTH, bias=False), nn.Linear(WIDTH, WIDTH, bias=False)
        self.k, self.v = nn.Linear(WIDTH, WIDTH // 2, bias=False), nn.Linear(WIDTH, WIDTH // 2, bias=False)
        self.gate, self.up, self.down = nn.Linear(WIDTH, 88), nn.Linear(WIDTH, 88), nn.Linear(88, WIDTH)
        self.scale = nn.Parameter(torch.ones(WIDTH))

    def norm(self, x: Any) -> Any:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * self.scale

    @staticmethod
    def turned(x: Any) -> Any:
        half = x.shape[-1] // 2
        angle = torch.arange(x.shape[2], device=x.device)[:, None] * (0.1 ** torch.arange(half, device=x.device))[None]
        cos, sin = torch.cat([angle, angle], -1).cos(), torch.cat([angle, angle], -1).sin()
        return x * cos + torch.cat([-x[..., half:], x[..., :half]], -1) * sin

    def forward(self, ids: Any) -> Any:
        x = self.words(ids)
        b, s, _ = x.shape
        y, d = self.norm(x), WIDTH // HEADS
        q = self.turned(self.q(y).view(b, s, HEADS, d).transpose(1, 2))
        k = self.turned(self.k(y).view(b, s, HEADS // 2, d).transpose(1, 2))
        v = self.v(y).view(b, s, HEADS // 2, d).transpose(1, 2)
        k, v = (t[:, :, None].expand(b, HEADS // 2, 2, s, d).reshape(b, HEADS, s, d) for t in (k, v))
        later = torch.full((s, s), -1e4, device=x.device).triu(1)
        x = x + self.o(joined((q @ k.transpose(2, 3) / d**0.5 + later).softmax(-1) @ v))
        y = self.norm(x)
        return self.head(x + self.down(fn.silu(self.gate(y)) * self.up(y)))


class UNet(nn.Module):
    """Down, up by a transposed convolution, and the skipped tensor beside."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 32, 3, padding=1)
        self.up, self.last = nn.ConvTranspose2d(32, 16, 2, stride=2), nn.Conv2d(32, 4, 3, padding=1)

    def forward(self, x: Any) -> Any:
        a = self.one(x).relu()
        return self.last(torch.cat([a, self.up(self.two(fn.max_pool2d(a, 2)).relu())], 1))


class Words(nn.Module):
    """A bidirectional LSTM over words, the last state into a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.lstm = nn.Embedding(WORDS, 16), nn.LSTM(16, 24, batch_first=True, bidirectional=True)
        self.head = nn.Linear(48, 5)

    def forward(self, ids: Any) -> Any:
        states, _ = self.lstm(self.words(ids))
        return self.head(states[:, -1])


class Swin(nn.Module):
    """Attention within shifted windows of 4 x 4, with a bias per pair of places, then patches merged."""

    def __init__(self) -> None:
        super().__init__()
        self.patch, self.norm = nn.Conv2d(3, WIDTH, 4, stride=4), nn.LayerNorm(WIDTH)
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.bias = nn.Parameter(torch.zeros(HEADS, 16, 16))
        self.merge, self.head = nn.Linear(4 * WIDTH, 2 * WIDTH, bias=False), nn.Linear(2 * WIDTH, 10)

    def forward(self, x: Any) -> Any:
        x = self.patch(x).permute(0, 2, 3, 1)
        b, h, w, c = x.shape
        y = torch.roll(self.norm(x), (-2, -2), (1, 2))
        y = y.view(b, h // 4, 4, w // 4, 4, c).permute(0, 1, 3, 2, 4, 5).reshape(-1, 16, c)
        q, k, v = self.qkv(y).reshape(-1, 16, 3, HEADS, c // HEADS).permute(2, 0, 3, 1, 4).unbind(0)
        y = self.out(joined((q @ k.transpose(-1, -2) * 0.35 + self.bias).softmax(-1) @ v))
        y = y.view(b, h // 4, w // 4, 4, 4, c).permute(0, 1, 3, 2, 4, 5).reshape(b, h, w, c)
        x = x + torch.roll(y, (2, 2), (1, 2))
        x = torch.cat([x[:, 0::2, 0::2], x[:, 1::2, 0::2], x[:, 0::2, 1::2], x[:, 1::2, 1::2]], -1)
        return self.head(self.merge(x).mean((1, 2)))
