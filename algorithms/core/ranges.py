"""What a number handed in by a caller may be: one check of kind and range, one wording of its refusal.

A wrong kind is a TypeError, a value out of range a ValueError; both name the value and the limits in one line.
"""

from __future__ import annotations

import operator
from contextlib import suppress
from typing import Final, SupportsIndex

MAX_SHIFT: Final = 24
"""Largest exponent s of the loss scale 2^s: dividing by it is exact for every binary16 gradient (beyond 102 a quotient
could become subnormal in binary32 and need rounding), and it fits the 5 bits of an instruction."""

GROUP_SIZES: Final = (2, 4, 8, 16)
"""Legal M of a pattern N:M."""

MAX_SIDE: Final = (1 << 40) - 1
"""Largest side of a matrix product: what the words of a program hold."""

MAX_COUNT: Final = (1 << 32) - 1
"""Most equal products in one."""

MAX_SHOWN: Final = 300
"""Characters of a value in the text of a refusal."""

MAX_NAMED: Final = 100
"""Characters of a field's name there."""


def check_whole(name: str, value: object, low: int, high: int) -> None:
    """Raise unless value is an int from low to high; numbers of NumPy and bool are no int."""
    if isinstance(value, bool) or not isinstance(value, int):
        whole = isinstance(value, SupportsIndex) and not isinstance(value, bool)
        remedy = f" (write int({name}))" if whole else ""
        raise TypeError(f"{name} is {short(value)}; it must be an int from {low} to {high}{remedy}")
    if not low <= value <= high:
        raise ValueError(f"{name} is {short(value)}; it must be a whole number from {low} to {high}")


def check_number(name: str, value: object, low: float, high: float, *, above: bool = False) -> None:
    """Raise unless value is an int or a float from low (above: beyond it) to high; NaN and bool are neither."""
    words = number_range(low, high, above=above)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} is {short(value)}; it must be a number {words}")
    if not (low < value or (value == low and not above)) or value > high:
        raise ValueError(f"{name} is {short(value)}; it must be {words}")


def number_range(low: float, high: float, *, above: bool = False) -> str:
    """Return 'from 1 to 2', or 'above 1 and at most 2'."""
    return f"{'above' if above else 'from'} {_limit(low)} {'and at most' if above else 'to'} {_limit(high)}"


def _limit(value: float) -> str:
    """Return a limit exactly: 0.01, 1e+12, 16,777,216."""
    short = f"{value:g}"
    return short if float(short) == value else f"{int(value):,}" if value == int(value) else repr(value)


def check_flag(name: str, value: object) -> None:
    """Raise TypeError unless value is True or False."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} is {short(value)}; it must be True or False")


def whole_number(name: str, value: object, low: int, high: int) -> int:
    """Return value as an int if it is a whole number of any kind (those of NumPy too, not bool) from low to high.

    For sizes that programs compute: an int of NumPy would wrap around in products of sizes.
    """
    if type(value) is int:  # most are, and asking for the protocol takes long
        check_whole(name, value, low, high)
        return value
    found = None
    if isinstance(value, SupportsIndex) and not isinstance(value, bool):
        with suppress(TypeError):  # an array of several numbers
            found = operator.index(value)
    if found is None:
        raise TypeError(f"{name} is {short(value)}; it must be a whole number from {low} to {high}")
    check_whole(name, found, low, high)
    return found


def short(value: object) -> str:
    """Return a value as repr writes it, in one line; a number of very many digits by its length, a long text cut."""
    if isinstance(value, int) and value.bit_length() > 200:
        return f"a number of {value.bit_length()} bits"
    try:
        text = repr(value)
    except ValueError:  # a number of thousands of digits inside
        return f"a {type(value).__name__} with a number of thousands of digits in it"
    except RecursionError:  # thousands of tables or lists, one in the other
        return f"a {type(value).__name__} of more levels than can be shown"
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]} ..."


def short_name(name: str) -> str:
    """Return the name of a field as a file has it, a long one cut: nobody reads 60,000 letters in a line."""
    return name if len(name) <= MAX_NAMED else f"{name[:MAX_NAMED]} ..."
