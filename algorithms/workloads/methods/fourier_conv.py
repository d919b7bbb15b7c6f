"""Fast Fourier convolutions: a local branch of 3 x 3 convolutions, a global one of 1 x 1 convolutions on the spectrum.

Source: L. Chi, B. Jiang, Y. Mu, "Fast Fourier Convolution", NeurIPS 2020, in the form of LaMa (R. Suvorov et al., WACV
2022) that GloReDi's code takes. The transforms are products with fixed matrices on the array, or the host's FFT.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from nmsat.algorithms.workloads.engine import ops
from nmsat.algorithms.workloads.engine.hostwork import fft
from nmsat.algorithms.workloads.engine.networks import normalised
from nmsat.algorithms.workloads.engine.products import conv2d, linear

if TYPE_CHECKING:
    from typing import TypeAlias

    from numpy.typing import NDArray

    from nmsat.algorithms.core.tape import Pattern
    from nmsat.algorithms.workloads.engine.hostwork import Work
    from nmsat.algorithms.workloads.engine.parameters import Parameter
    from nmsat.algorithms.workloads.engine.program import Program, Tensor

    By: TypeAlias = Literal["array", "host"]


def matrices(height: int, width: int) -> dict[str, NDArray[np.float64]]:
    """Return real matrices of the orthonormal transform of real pictures: row, column, their inverses.

    row [W, 2 F], F = W / 2 + 1 (W even): real parts, then imaginary ones; column [2 H, 2 H] on real beside imaginary
    parts; unrow [2 F, W] takes each frequency but the first and last twice, for the one that was left out.
    """
    if width % 2:
        raise ValueError(f"width is {width!r}; the transform takes even ones")
    turn = 2 * np.pi * np.outer(np.arange(width), np.arange(width // 2 + 1)) / width
    twice = np.where(np.isin(np.arange(width // 2 + 1), (0, width // 2)), 1.0, 2.0)
    row = np.concatenate([np.cos(turn), -np.sin(turn)], axis=1) / np.sqrt(width)
    unrow = np.concatenate([np.cos(turn) * twice, -np.sin(turn) * twice], axis=1).T / np.sqrt(width)
    down = 2 * np.pi * np.outer(np.arange(height), np.arange(height)) / height
    c, s = np.cos(down) / np.sqrt(height), np.sin(down) / np.sqrt(height)
    column, uncolumn = np.block([[c, -s], [s, c]]), np.block([[c, s], [-s, c]])
    return {"row": row, "column": column, "uncolumn": uncolumn, "unrow": unrow}


def spectrum(p: Program, name: str, x: Tensor, by: By = "array") -> Tensor:
    """Return [B, H, W / 2 + 1, 2 C] of x[B, H, W, C]: real parts of all channels, then imaginary ones."""
    batch, height, width, channels = x.shape
    half = width // 2 + 1
    shape = (batch, height, half, 2 * channels)
    if by == "host":
        work = _transform(batch * channels, height, width)

        def forward(v: NDArray) -> NDArray:
            z = np.fft.rfft2(v, axes=(1, 2), norm="ortho")
            return np.concatenate([z.real, z.imag], axis=3).astype(v.dtype)

        def backward(d: NDArray, _y: NDArray, v: NDArray) -> tuple[NDArray]:
            z = np.zeros((batch, height, width, channels), np.complex128)
            z[:, :, :half] = d[..., :channels] + 1j * d[..., channels:]
            return ((np.fft.ifft2(z, axes=(1, 2)).real * np.sqrt(height * width)).astype(v.dtype),)

        return p.apply("FFT", (x,), shape, forward, backward, spent=work, back_spent=work)
    h = _fixed(p, name, "row", ops.transpose(x, (0, 3, 1, 2)), height, width)
    h = ops.transpose(ops.reshape(h, (batch, channels, height, 2, half)), (0, 1, 4, 3, 2))
    h = _fixed(p, name, "column", ops.reshape(h, (batch, channels, half, 2 * height)), height, width)
    h = ops.transpose(ops.reshape(h, (batch, channels, half, 2, height)), (0, 4, 2, 3, 1))
    return ops.reshape(h, shape)


def from_spectrum(p: Program, name: str, x: Tensor, by: By = "array") -> Tensor:
    """Return the real picture [B, H, W, C] of x[B, H, W / 2 + 1, 2 C]."""
    batch, height, half, both = x.shape
    width, channels = 2 * (half - 1), both // 2
    shape = (batch, height, width, channels)
    if by == "host":
        work = _transform(batch * channels, height, width)
        twice = np.where(np.isin(np.arange(half), (0, half - 1)), 1.0, 2.0)[:, None]

        def forward(v: NDArray) -> NDArray:
            z = v[..., :channels] + 1j * v[..., channels:]
            return np.fft.irfft2(z, s=(height, width), axes=(1, 2), norm="ortho").astype(v.dtype)

        def backward(d: NDArray, _y: NDArray, v: NDArray) -> tuple[NDArray]:
            z = np.fft.rfft2(d, axes=(1, 2), norm="ortho") * twice
            return (np.concatenate([z.real, z.imag], axis=3).astype(v.dtype),)

        return p.apply("FFT", (x,), shape, forward, backward, spent=work, back_spent=work)
    h = ops.transpose(ops.reshape(x, (batch, height, half, 2, channels)), (0, 4, 2, 3, 1))
    h = _fixed(p, name, "uncolumn", ops.reshape(h, (batch, channels, half, 2 * height)), height, width)
    h = ops.transpose(ops.reshape(h, (batch, channels, half, 2, height)), (0, 1, 4, 3, 2))
    h = _fixed(p, name, "unrow", ops.reshape(h, (batch, channels, height, 2 * half)), height, width)
    return ops.transpose(h, (0, 2, 3, 1))


def _fixed(p: Program, name: str, kind: str, x: Tensor, height: int, width: int) -> Tensor:
    sizes = {"row": (width, width + 2), "unrow": (width + 2, width)}
    label = f"{kind}{height}x{width}"
    w = p.weight(label, sizes.get(kind, (2 * height,) * 2), frozen=True, value=lambda: matrices(height, width)[kind])
    return linear(f"{label}/{name}", x, w)


def _transform(count: int, height: int, width: int) -> Work:
    """Transforms of `count` pictures: real rows, then complex columns."""
    return fft(width, count=count * height, real=True).plus(fft(height, count=count * (width // 2 + 1)))


@dataclass(frozen=True)
class Layers:
    """Makes the layers of a network by name. frozen: weights and normalisation stay (a copy that does not learn)."""

    p: Program
    name: str
    pattern: Pattern | None
    frozen: bool = False
    by: By = "array"

    def conv(self, name: str, x: Tensor, n: int, kernel: int, stride: int = 1, padding: int | None = None) -> Tensor:
        """Return a convolution without bias."""
        w = self.weight(name, (kernel**2 * x.shape[-1], n))
        return conv2d(self.label(name), x, w, kernel, stride, padding)

    def weight(self, name: str, shape: tuple[int, int]) -> Parameter:
        """Return the matrix of a layer; N:M where both sides hold 16 or more."""
        pattern = self.pattern if min(shape) >= 16 else None
        w = self.p.weight(f"{self.name}.{name}", shape, ff=pattern, bp=pattern)
        return _still(w) if self.frozen else w

    def label(self, name: str) -> str:
        """Return the name of a product."""
        return f"{self.name}.{name}/copy" if self.frozen else f"{self.name}.{name}"

    def active(self, name: str, x: Tensor) -> Tensor:
        """Return x behind batch normalisation and ReLU."""
        label = f"{self.name}.{name}"
        if not self.frozen:
            return ops.relu(normalised(self.p, label, x))
        gain, bias = (
            self.p.input(x.shape[-1:], None if not self.p.values else self.p.store[f"{label}.{part}"].array)
            for part in ("gain", "bias")
        )
        return ops.relu(ops.batch_norm(x, gain, bias))

    def spectral(self, name: str, x: Tensor, n: int) -> Tensor:
        """Return S(x): 1 x 1 to half the channels, 1 x 1 on the spectrum added to them, 1 x 1 to n."""
        half = n // 2
        u = self.active(f"{name}.in", self.conv(f"{name}.in", x, half, 1))
        z = self.conv(f"{name}.spectrum", spectrum(self.p, f"{self.name}.{name}", u, self.by), 2 * half, 1)
        v = from_spectrum(self.p, f"{self.name}.{name}", self.active(f"{name}.spectrum", z), self.by)
        return self.conv(f"{name}.out", ops.add(u, v), n, 1)

    def ffc(self, name: str, local: Tensor, wide: Tensor) -> tuple[Tensor, Tensor]:
        """Return both branches behind one fast Fourier convolution, as wide as before."""
        few, many = local.shape[-1], wide.shape[-1]
        out = ops.add(self.conv(f"{name}.ll", local, few, 3), self.conv(f"{name}.gl", wide, few, 3))
        over = ops.add(self.conv(f"{name}.lg", local, many, 3), self.spectral(f"{name}.gg", wide, many))
        return self.active(f"{name}.l", out), self.active(f"{name}.g", over)

    def block(self, name: str, local: Tensor, wide: Tensor) -> tuple[Tensor, Tensor]:
        """Return both branches behind a residual block of two fast Fourier convolutions."""
        out = self.ffc(f"{name}.1", *self.ffc(f"{name}.0", local, wide))
        return ops.add(local, out[0]), ops.add(wide, out[1])


def _still(w: Parameter) -> Parameter:
    """Return a parameter with the same values that gets no gradient."""
    return type(w)(w.name, w.shape, w.value, w.keep, w.nonzeros, w.ff, w.bp, frozen=True)
