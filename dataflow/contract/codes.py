"""How N, M and a stand in the fields of instructions: N - 1, log2 M - 1, log2 a. Software codes and decodes them
here; rules and the circuit also shift by the codes."""

from __future__ import annotations

from typing import Any, Final, Protocol

from nmsat.algorithms.core.ranges import GROUP_SIZES
from nmsat.dataflow.contract.config import MAX_GROUP

RECTANGLE_ROWS: Final = (1, 2, 4, 8)
"""Rows a of an interleave rectangle a x b = 8."""


class FieldSource(Protocol):
    """Fields of an instruction by name: whole numbers, or signals of the circuit."""

    def __getitem__(self, name: str, /) -> Any: ...


def codes(*, n: int | None = None, m: int | None = None, a: int | None = None, prefix: str = "") -> dict[str, int]:
    """Return the fields in which N, M and a stand, those that are given; prefix: of the names of N and M ("ff_").

    ValueError unless 1 <= N <= 16, M is 2, 4, 8 or 16, and a is 1, 2, 4 or 8.
    """
    found: dict[str, int] = {}
    if n is not None:
        if not 1 <= n <= MAX_GROUP:
            raise ValueError(f"n is {n!r}; it must be from 1 to {MAX_GROUP}")
        found[f"{prefix}n_less_1"] = n - 1
    for name, value, allowed, field in (
        ("m", m, GROUP_SIZES, f"{prefix}log2_m_less_1"),
        ("a", a, RECTANGLE_ROWS, "log2_a"),
    ):
        if value is not None:
            if value not in allowed:
                raise ValueError(f"{name} is {value!r}; it must be one of {', '.join(map(str, allowed))}")
            found[field] = allowed.index(value)
    return found


def kept(f: FieldSource, prefix: str = "") -> Any:
    """Return N, the kept elements of a group."""
    return f[f"{prefix}n_less_1"] + 1


def group_size(f: FieldSource, prefix: str = "") -> Any:
    """Return M, the elements of a group."""
    return GROUP_SIZES[0] << f[f"{prefix}log2_m_less_1"]


def rectangle_rows(f: FieldSource) -> Any:
    """Return a, the rows of the interleave rectangle."""
    return 1 << f["log2_a"]
