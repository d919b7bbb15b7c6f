"""The state of an engine as one value: what the quick gear compares, keeps and returns to (docs/timing.md).

An engine names its registers; each holds a value that can be hashed, or a queue of such. Two engines with equal keys
behave alike from the present cycle on.
"""

from __future__ import annotations

from collections import deque
from typing import Any, ClassVar

Key = tuple[Any, ...]
"""A state: nested tuples of numbers, names of patterns and instructions."""


class Registers:
    """An engine whose state is what stands in the registers that it names."""

    __slots__ = ()
    REGISTERS: ClassVar[tuple[str, ...]] = ()

    def key(self) -> Key:
        """Return the state in the present cycle."""
        return tuple([_kept(getattr(self, name)) for name in self.REGISTERS])

    def restore(self, key: Key) -> None:
        """Return to a state that `key` gave; the registers of the engine must be those of its class."""
        for name, value in zip(self.REGISTERS, key, strict=True):
            held = getattr(self, name)
            if isinstance(held, deque):
                setattr(self, name, deque(value, held.maxlen))
            elif isinstance(held, list):
                setattr(self, name, list(value))
            elif isinstance(held, Registers):
                held.restore(value)
            else:
                setattr(self, name, value)


def _kept(value: Any) -> Any:
    if isinstance(value, deque | list):
        return tuple(value)
    return value.key() if isinstance(value, Registers) else value
