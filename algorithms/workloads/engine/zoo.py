"""Shapes of published decoders, beside the billions of weights that their names or papers give.

Read in a published configuration: CodeGen-350M and 16B, StarCoder2-3B, CodeLlama-34B, the three of DeepSeek-Coder,
sarvam-1. All others are from memory, and the sum of their weights, heads tied to tables counted once, is the check.
CodeGen "6B" is listed as 6.1 and phi-1 as 1.3; their weights sum to what stands here.
"""

from __future__ import annotations

from typing import Final

from nmsat.algorithms.workloads.engine.decoder import DecoderSize


def _gpt(
    shape: tuple[int, int, int, int, int, int], vocabulary: int, *, parallel: bool = False, tied: bool = False
) -> DecoderSize:
    return _size(shape, vocabulary, gated=False, parallel=parallel, tied=tied)


def _llama(shape: tuple[int, int, int, int, int, int], vocabulary: int, *, tied: bool = False) -> DecoderSize:
    return _size(shape, vocabulary, gated=True, parallel=False, tied=tied)


def _size(
    shape: tuple[int, int, int, int, int, int], vocabulary: int, *, gated: bool, parallel: bool, tied: bool
) -> DecoderSize:
    layers, width, heads, kv, head, hidden = shape
    return DecoderSize(
        layers=layers,
        width=width,
        heads=heads,
        kv=kv,
        head=head,
        hidden=hidden,
        vocabulary=vocabulary,
        gated=gated,
        parallel=parallel,
        tied=tied,
    )


CODE_MODELS: Final[dict[str, tuple[DecoderSize, float]]] = {
    "CodeGen-350M": (_gpt((20, 1024, 16, 16, 64, 4096), 51200, parallel=True), 0.357),
    "CodeGen-2B": (_gpt((32, 2560, 32, 32, 80, 10240), 51200, parallel=True), 2.78),
    "CodeGen-6B": (_gpt((33, 4096, 16, 16, 256, 16384), 51200, parallel=True), 7.06),
    "CodeGen-16B": (_gpt((34, 6144, 24, 24, 256, 24576), 51200, parallel=True), 16.03),
    "PolyCoder-2.7B": (_gpt((32, 2560, 32, 32, 80, 10240), 50304), 2.77),
    "InCoder-6.7B": (_gpt((32, 4096, 32, 32, 128, 16384), 50518, tied=True), 6.65),
    "phi-1": (_gpt((24, 2048, 32, 32, 64, 8192), 51200), 1.42),
    "SantaCoder": (_gpt((24, 2048, 16, 1, 128, 8192), 49280, tied=True), 1.12),
    "StarCoder": (_gpt((40, 6144, 48, 1, 128, 24576), 49152, tied=True), 15.46),
    "StarCoder2-3B": (_gpt((30, 3072, 24, 2, 128, 12288), 49152, tied=True), 3.03),
    "StarCoder2-7B": (_gpt((32, 4608, 36, 4, 128, 18432), 49152, tied=True), 7.17),
    "StarCoder2-15B": (_gpt((40, 6144, 48, 4, 128, 24576), 49152), 15.96),
    "CodeLlama-7B": (_llama((32, 4096, 32, 32, 128, 11008), 32016), 6.74),
    "CodeLlama-13B": (_llama((40, 5120, 40, 40, 128, 13824), 32016), 13.02),
    "CodeLlama-34B": (_llama((48, 8192, 64, 8, 128, 22016), 32000), 33.74),
    "CodeLlama-70B": (_llama((80, 8192, 64, 8, 128, 28672), 32016), 68.98),
    "DeepSeek-Coder-1.3B": (_llama((24, 2048, 16, 16, 128, 5504), 32256), 1.35),
    "DeepSeek-Coder-6.7B": (_llama((32, 4096, 32, 32, 128, 11008), 32256), 6.74),
    "DeepSeek-Coder-33B": (_llama((62, 7168, 56, 8, 128, 19200), 32256), 33.34),
    "CodeGemma-2B": (_llama((18, 2048, 8, 1, 256, 16384), 256000, tied=True), 2.51),
    "CodeGemma-7B": (_llama((28, 3072, 16, 16, 256, 24576), 256000, tied=True), 8.54),
    "CodeQwen1.5-7B": (_llama((32, 4096, 32, 4, 128, 13440), 92416), 7.25),
}
"""Models of code that the survey lists (decoders only)."""

LANGUAGE_MODELS: Final[dict[str, tuple[DecoderSize, float]]] = {
    "Llama-3.2-1B": (_llama((16, 2048, 32, 8, 64, 8192), 128256, tied=True), 1.24),
    "Llama-3.2-3B": (_llama((28, 3072, 24, 8, 128, 8192), 128256, tied=True), 3.21),
    "Llama-3.1-8B": (_llama((32, 4096, 32, 8, 128, 14336), 128256), 8.03),
    "Llama-3.1-70B": (_llama((80, 8192, 64, 8, 128, 28672), 128256), 70.55),
    "Gemma-2-2B": (_llama((26, 2304, 8, 4, 256, 9216), 256000, tied=True), 2.61),
    "Gemma-2-9B": (_llama((42, 3584, 16, 8, 256, 14336), 256000, tied=True), 9.24),
    "Gemma-2-27B": (_llama((46, 4608, 32, 16, 128, 36864), 256000, tied=True), 27.23),
    "Mistral-7B": (_llama((32, 4096, 32, 8, 128, 14336), 32768), 7.25),
    "sarvam-1": (_llama((28, 2048, 16, 8, 128, 11008), 68096), 2.52),
}
"""Models that MILU asks."""
