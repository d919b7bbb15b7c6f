"""What hashing the keys of a pickled file costs, found from its instructions before anything is built.

A tuple hashes all its items each time it is hashed. A file of a few hundred bytes can name one tuple many times within
another, and that one within the next: as a key of a dict it would be hashed for years, or so deep that the stack ends.
"""

from __future__ import annotations

import pickle
import pickletools
from typing import Final

MOST_HASHED: Final = 1000
"""Items that hashing one key of a dict, or one element of a set, may meet; keys of batches are single texts."""

_HASHED: Final = frozenset(("EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "FROZENSET"))
_PUT: Final = frozenset(("PUT", "BINPUT", "LONG_BINPUT"))
_GET: Final = frozenset(("GET", "BINGET", "LONG_BINGET"))


def check_hashes(data: bytes) -> None:
    """Raise UnpicklingError if hashing a key of a pickled file would meet more than `MOST_HASHED` items.

    Raises ValueError for what is no pickled file.
    """
    stack: list[int | None] = []  # what hashing each object costs; None is a mark
    memo: dict[int, int] = {}
    for code, argument, _ in pickletools.genops(data):
        name = code.name
        if name in _PUT:
            memo[int(str(argument))] = _top(stack)
        elif name == "MEMOIZE":
            memo[len(memo)] = _top(stack)
        elif name in _GET:
            stack.append(memo.get(int(str(argument)), 1))
        elif name == "DUP":
            stack.append(_top(stack))
        elif name == "MARK":
            stack.append(None)
        else:
            taken = _taken(stack, code)
            if max(_keys(name, taken), default=0) > MOST_HASHED:
                raise pickle.UnpicklingError(f"it has a key of more than {MOST_HASHED} items, nested ones counted")
            cost = min(1 + sum(taken), MOST_HASHED + 1) if name in _HASHED else 1
            stack.extend([cost] * len(code.stack_after))


def _keys(name: str, taken: list[int]) -> list[int]:
    """Return what hashing costs of those objects, the last first, that an instruction hashes."""
    if name in ("ADDITEMS", "FROZENSET"):
        return taken
    return taken[1:2] if name == "SETITEM" else taken[1::2] if name in ("SETITEMS", "DICT") else []


def _top(stack: list[int | None]) -> int:
    if not stack or (top := stack[-1]) is None:
        raise pickle.UnpicklingError("it takes an object that is not there")
    return top


def _taken(stack: list[int | None], code: pickletools.OpcodeInfo) -> list[int]:
    """Take what an instruction takes from the stack: single objects, after all that lie above the last mark."""
    taken: list[int] = []
    before = list(code.stack_before)
    if pickletools.markobject in before:
        before = before[: before.index(pickletools.markobject)]
        while stack and (top := stack.pop()) is not None:
            taken.append(top)
    for _ in before:
        taken.append(_top(stack))
        stack.pop()
    return taken
