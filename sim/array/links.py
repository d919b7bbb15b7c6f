"""Chains of link registers along one axis of the array, with extra slices."""

from __future__ import annotations

import numpy as np


def positions(count: int, slices: tuple[int, ...]) -> np.ndarray:
    """Return for each of `count` places its distance in registers from place 0: int[count]."""
    extra = np.zeros(count, int)
    extra[list(slices)] = 1
    return np.arange(count) + np.cumsum(extra)


class Shift:
    """A word of `fields` numbers handed from place to place, one register each and one more per slice.

    seen: int[fields, count], what each place sees in the present cycle.
    """

    def __init__(self, fields: int, count: int, slices: tuple[int, ...]) -> None:
        self._at = positions(count, slices)
        self._registers = np.zeros((fields, int(self._at[-1]) + 1), int)

    @property
    def seen(self) -> np.ndarray:
        return self._registers[:, self._at]

    def present(self, word: tuple[int, ...]) -> None:
        """Set what place 0 sees in this cycle."""
        self._registers[:, 0] = word

    def tick(self) -> None:
        """End the cycle."""
        self._registers[:, 1:] = self._registers[:, :-1].copy()
