"""Fields of an instruction as values of the circuit."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nmsat.dataflow.contract.isa import INSTRUCTIONS

if TYPE_CHECKING:
    from amaranth.hdl import Value

    from nmsat.dataflow.contract.isa import Opcode


def fields_of(opcode: Opcode, word: Value) -> dict[str, Value]:
    """Return name -> bits of `word` (an instruction of 512 bits) for all fields of `opcode`, signed ones as such."""
    values: dict[str, Value] = {}
    at = 0
    for field in INSTRUCTIONS[opcode].fields:
        bits = word[at : at + field.bits]
        values[field.name] = bits.as_signed() if field.signed else bits
        at += field.bits
    return values
