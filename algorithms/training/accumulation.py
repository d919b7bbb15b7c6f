"""How exact is one binary32 chain over very long reductions, and what would chunks change?

A weight gradient reduces over B x H x W. The contract runs one chain; this module measures its error against the exact
sum and against chains per chunk whose sums are chained in order. The yardstick is the rounding to binary16 that every
weight gradient undergoes afterwards (relative error up to 2^-11, about 2^-12.3 root mean square).

`python -m nmsat.algorithms.training.accumulation` prints the table of docs/training.md; it takes minutes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from nmsat.algorithms.core.numeric import to_half

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


@dataclass(frozen=True)
class ChainError:
    """Error of one way to add up a case.

    case: name of the operands; terms: length of the reduction; chunk: terms per chunk, 0 for one chain; error: root
    mean square error over root mean square sum; after_half: the same once the sum is rounded to binary16 (infinite if
    it overflows).
    """

    case: str
    terms: int
    chunk: int
    error: float
    after_half: float


def chain(products: NDArray[np.float32], chunk: int = 0) -> NDArray[np.float32]:
    """Add float32[terms, outputs] along axis 0 in binary32: one chain, or chains per chunk chained in order."""
    size = chunk or len(products)
    total = np.zeros(products.shape[1], np.float32)
    for start in range(0, len(products), size):
        # accumulate adds strictly in order, which sum does not.
        part = np.add.accumulate(products[start : start + size], axis=0)[-1]
        total = part if start == 0 else total + part
    return total


def measure(case: str, a: NDArray[np.float16], w: NDArray[np.float16], chunks: Sequence[int]) -> list[ChainError]:
    """Measure sum over k of a[k, output] * w[k, output] for one chain (always) and for the given chunk lengths."""
    products = a.astype(np.float32) * w.astype(np.float32)
    # Products have at most 22 significand bits, so binary64 adds 2^20 of them with an error far below binary32's.
    exact = products.sum(axis=0, dtype=np.float64)
    size = np.sqrt(np.mean(exact**2))
    out = []
    for chunk in (0, *chunks):
        got = chain(products, chunk)
        error, rounded = (
            float(np.sqrt(np.mean((value.astype(np.float64) - exact) ** 2)) / size) for value in (got, to_half(got))
        )
        out.append(ChainError(case, len(products), chunk, error, rounded))
    return out


def synthetic(case: str, terms: int, outputs: int, seed: int = 0) -> tuple[NDArray[np.float16], NDArray[np.float16]]:
    """Return operands [terms, outputs]: activations and gradients of weight gradients.

    case 'zero mean': normal times normal; 'rectified': a rectified normal times a normal; 'one sign': a rectified
    normal times a normal of mean 0.5, so that sums grow with the number of terms; 'rare': gradients of which 1 % are
    large and the rest 2^-12 of that; 'outlier': one term of 1024 at the start, then 2^-16 each, built so that a chain
    loses all of them.
    """
    rng = np.random.default_rng([seed, terms])
    x, g = (rng.standard_normal((terms, outputs), np.float32) for _ in range(2))
    if case == "zero mean":
        pass
    elif case == "rectified":
        x = np.maximum(x, 0)
    elif case == "one sign":
        x, g = np.maximum(x, 0), g + np.float32(0.5)
    elif case == "rare":
        x, g = np.maximum(x, 0), np.where(rng.random((terms, outputs)) < 0.01, g, g * np.float32(2.0**-12))
    elif case == "outlier":
        x, g = np.full_like(x, 2.0**-8), np.full_like(g, 2.0**-8)
        x[0] = g[0] = 32
    else:
        raise ValueError(f"case is {case!r}; known cases: {', '.join(CASES)}")
    return to_half(x), to_half(g)


CASES: Final = ("zero mean", "rectified", "one sign", "rare", "outlier")


def survey(
    lengths: Sequence[int] = (1000, 10_000, 100_000, 1_000_000),
    chunks: Sequence[int] = (1024, 16_384),
    outputs: int = 64,
) -> list[ChainError]:
    """Measure all synthetic cases."""
    out = []
    for case in CASES:
        for terms in lengths:
            a, w = synthetic(case, terms, outputs)
            out += measure(case, a, w, [chunk for chunk in chunks if chunk < terms])
    return out


def training_products(samples: int = 1024, seed: int = 0) -> list[ChainError]:
    """Measure real weight gradients: one batch of `samples` digits through the ResNet-9, all pixels in one reduction.

    For each convolution, 64 elements of dW are drawn; operands are the binary32 tensors of the step, scaled by 2^10 and
    rounded to binary16 as the contract would.
    """
    from nmsat.algorithms.core.tape import Stage, Tape
    from nmsat.algorithms.training.config import TrainConfig
    from nmsat.algorithms.training.train import Trainer

    config = TrainConfig(network="resnet9-small", arithmetic="fast", method="dense", batch=samples, epochs=1, seed=seed)
    trainer, tape = Trainer(config), Tape(values=True)
    trainer.run_step(tape)
    rng, out = np.random.default_rng(seed), []
    for product in tape.of(Stage.WU):
        if product.conv is None or product.a is None or product.w is None:
            continue
        rows, columns = rng.integers(0, product.m, 64), rng.integers(0, product.n, 64)
        a, w = to_half(product.a.T[:, rows]), to_half(product.w[:, columns])
        out += measure(product.name, a, w, [1024])
    return out


def table(found: Sequence[ChainError], chunk: int = 1024) -> str:
    """Return the errors as text, a line for each case: one chain by its length, then the longest in chunks."""
    lengths = sorted({row.terms for row in found})
    by = {(row.case, row.terms, row.chunk): f"{row.error:.1e}" for row in found}
    names = list(dict.fromkeys(row.case for row in found))
    width = max(map(len, names))
    lines = [" " * width + "".join(f"{terms:>12,}" for terms in lengths) + f"{f'in {chunk:,}s':>12}"]
    for name in names:
        cells = [by.get((name, terms, 0), "") for terms in lengths]
        cells.append(next((by[name, terms, chunk] for terms in reversed(lengths) if (name, terms, chunk) in by), ""))
        lines.append(f"{name:{width}}" + "".join(f"{cell:>12}" for cell in cells))
    return "\n".join(lines)


if __name__ == "__main__":
    print(table(survey()))
    print(table(training_products()))
