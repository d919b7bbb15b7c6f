"""Score distillation where both denoisers are exact: Gaussian data.

Data N(mu, S), noised x_t = a x + s eps. With P = (a^2 S + s^2 I)^-1 the best guess of the noise is

    eps*(x_t) = s P (x_t - a mu)

SDS moves x along w (eps_phi(x_t) - eps), C-SDS along w (eps_phi(x_t) - eps_cat(x_t)); cat knows the category alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Gaussian:
    """mean[d], covariance[d, d]; the covariance is kept as its eigenvectors (columns) and eigenvalues."""

    mean: NDArray[np.float64]
    vectors: NDArray[np.float64]
    values: NDArray[np.float64]

    @classmethod
    def of(cls, mean: NDArray, covariance: NDArray) -> Gaussian:
        """Return N(mean, covariance)."""
        values, vectors = np.linalg.eigh(covariance)
        return cls(np.asarray(mean), vectors, np.maximum(values, 0))

    def noise(self, x: NDArray, a: float, s: float) -> NDArray[np.float64]:
        """Return eps* of noised x[..., d]; s > 0."""
        along = (x - a * self.mean) @ self.vectors
        return s * (along / (a * a * self.values + s * s)) @ self.vectors.T


@dataclass(frozen=True, eq=False)
class Regressor:
    """Ridge regression: mean of y given x, and the Gaussian of what it leaves; category: y alone."""

    weights: NDArray[np.float64]
    offset: NDArray[np.float64]
    rest: Gaussian
    category: Gaussian

    @classmethod
    def fit(cls, x: NDArray, y: NDArray, penalty: float, floor: float) -> Regressor:
        """Fit on x[n, k], y[n, d]; the last fifth measures what is left; floor: added to both variances."""
        train = len(x) * 4 // 5
        centre, middle = x[:train].mean(axis=0), y[:train].mean(axis=0)
        left = x[:train] - centre
        gram = left.T @ left + penalty * train * np.eye(x.shape[1])
        weights = np.linalg.solve(gram, left.T @ (y[:train] - middle))
        offset = middle - centre @ weights
        rest = y[train:] - x[train:] @ weights - offset
        wide = floor * np.eye(y.shape[1])
        left_over = Gaussian.of(np.zeros(y.shape[1]), rest.T @ rest / len(rest) + wide)
        return cls(weights, offset, left_over, Gaussian.of(middle, np.cov(y.T) + wide))

    def given(self, x: NDArray) -> Gaussian:
        """Return the Gaussian of y for one x[k]."""
        return Gaussian(x @ self.weights + self.offset, self.rest.vectors, self.rest.values)


def sds(x: NDArray, model: Gaussian, noise: NDArray, a: float, s: float) -> NDArray[np.float64]:
    """Return eps_phi(x_t) - eps."""
    return model.noise(a * x + s * noise, a, s) - noise


def csds(x: NDArray, model: Gaussian, category: Gaussian, noise: NDArray, a: float, s: float) -> NDArray[np.float64]:
    """Return eps_phi(x_t) - eps_cat(x_t)."""
    noised = a * x + s * noise
    return model.noise(noised, a, s) - category.noise(noised, a, s)
