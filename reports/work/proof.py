"""What a comparison covered, in the words in which text, page and JSON say it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable


@dataclass(frozen=True)
class Covered:
    """Products that were compared and found equal. whole, part: how many of each; values: results compared in them.

    different: products that were not equal.
    """

    whole: int
    part: int
    values: int
    different: int

    @classmethod
    def of(cls, checks: Iterable[tuple[bool, bool, int]]) -> Covered:
        """Return the sums over comparisons: whether equal, whether the product was whole, values compared."""
        found = list(checks)
        equal = [(whole, values) for match, whole, values in found if match]
        whole = sum(whole for whole, _ in equal)
        return cls(whole, len(equal) - whole, sum(values for _, values in equal), len(found) - len(equal))

    @property
    def text(self) -> str:
        """Return such as '3 whole, 11 in part, 13,763 values'; products that differ are named first."""
        counts = f"{self.whole} whole, {self.part} in part, {self.values:,} values"
        return f"{self.different} DIFFERENT; equal: {counts}" if self.different else counts

    def record(self) -> dict[str, Any]:
        """Return the counts and the text as plain values, for JSON."""
        return {**asdict(self), "text": self.text}
