"""Words of a step's program (`dataflow.schedule.program`): a product is a product, a shape and three operand words."""

from __future__ import annotations

from typing import Final

from nmsat.dataflow.contract.fields import Field, WordLayout

WORD_BITS: Final = 128
"""Bits of a word."""

OPCODES: Final = {"product": 1, "shape": 2, "operand": 3, "update": 4, "prune": 5, "end": 15}
"""Opcode of each instruction word; 0 is none, so that cleared memory is no program."""


def _word(name: str, *fields: Field) -> WordLayout:
    """Return the layout of an instruction word: opcode, fields, zeros up to 128 bits."""
    opcode = Field("opcode", 4, f"{OPCODES[name]}: {name}")
    spare = WORD_BITS - opcode.bits - sum(field.bits for field in fields)
    return WordLayout(f"{name} word", (opcode, *fields, *((Field("zero", spare, "always 0"),) if spare else ())))


WORDS: Final[dict[str, WordLayout]] = {
    "product": _word(
        "product",
        Field("label", 16, "place of its name in the table of names"),
        Field("stage", 2, "0 FF, 1 BP, 2 WU, 3 other"),
        Field("ws", 1, "0 output stationary, 1 weight stationary"),
        Field("n_less_1", 4, "kept elements of a group, N - 1"),
        Field("log2_m_less_1", 2, "log2 of the group size M, less 1"),
        Field("log2_a", 2, "log2 of the rows a of the interleave rectangle"),
        Field("parts_less_1", 4, "rows of the array that share a group, less 1"),
        Field("rows_outer", 1, "0: the loop over column tiles is outside, 1: that over row tiles"),
        Field("depends", 1, "needs results of the product before it"),
        Field("prune_first", 1, "needs the operand that the update engine prunes"),
        Field("weights", 1, "W holds learnt weights: it may be loaded before the product before it has ended"),
        Field("slots", 40, "pieces in which operands are loaded while the array works"),
        Field("count", 32, "equal products one after the other"),
    ),
    "shape": _word(
        "shape",
        Field("m", 40, "rows of Y"),
        Field("k", 40, "reduction"),
        Field("n", 40, "columns of Y"),
    ),
    "operand": _word(
        "operand",
        Field("which", 2, "0 A, 1 W, 2 Y"),
        Field("bytes", 56, "bytes moved by the whole product"),
        Field("run", 41, "contiguous bytes"),
    ),
    "update": _word(
        "update",
        Field("label", 16, "place of its name in the table of names"),
        Field("beats", 48, "cycles of the update engine"),
        Field("bytes", 56, "bytes read and written"),
    ),
    "prune": _word(
        "prune",
        Field("label", 16, "place of its name in the table of names"),
        Field("beats", 48, "cycles of the pruning engine"),
        Field("bytes", 56, "bytes read and written"),
    ),
    "end": _word("end"),
}
"""Words of a step's program. A product is a product word, a shape word and three operand words (A, W, Y)."""
