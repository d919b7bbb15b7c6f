"""Which rules of legal instructions look at a product: the circuit evaluates them a register later than the others."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nmsat.dataflow.contract.isa import INSTRUCTIONS, Opcode
from nmsat.dataflow.contract.legal import products, rules

if TYPE_CHECKING:
    from nmsat.dataflow.contract.config import SatConfig


class Mark:
    """Stands for a number in a rule, and only remembers whether a product is part of it."""

    __hash__ = None  # pyright: ignore[reportAssignmentType] # it is never a key

    def __init__(self, late: bool) -> None:
        self.late = late

    def _with(self, other: object) -> Mark:
        return Mark(self.late or (isinstance(other, Mark) and other.late))

    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = _with
    __lshift__ = __rlshift__ = __rshift__ = __rrshift__ = _with
    __and__ = __rand__ = __or__ = __ror__ = __xor__ = __rxor__ = _with
    __lt__ = __le__ = __gt__ = __ge__ = _with
    __eq__ = __ne__ = _with  # pyright: ignore[reportAssignmentType] # what a rule says of numbers is a number


def late_rules(config: SatConfig) -> dict[Opcode, frozenset[str]]:
    """Return opcode -> rules of `dataflow.contract.legal` that look at one of its products."""
    found = {}
    for opcode in Opcode:
        fields = {field.name: Mark(late=False) for field in INSTRUCTIONS[opcode].fields}
        marks = {name: Mark(late=True) for name in products(opcode, fields)}
        found[opcode] = frozenset(name for name, rule in rules(opcode, fields, marks, config).items() if rule.late)
    return found
