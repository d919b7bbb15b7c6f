"""Fields of words: a field says itself whether it is signed, and every view of it believes it."""

from __future__ import annotations

import pytest
from amaranth.hdl import Signal, Value

from nmsat.dataflow.contract.codes import codes, group_size, kept, rectangle_rows
from nmsat.dataflow.contract.config import INTERLEAVE
from nmsat.dataflow.contract.fields import Field, WordLayout
from nmsat.dataflow.contract.isa import COMMAND, INSTRUCTION_BITS, INSTRUCTIONS, Compute, Instruction, Opcode
from nmsat.dataflow.program.listing import listing, read_listing
from nmsat.hw.parts.fields import fields_of
from nmsat.hw.parts.walk import walk_layout

# Names say nothing: one that ends like a step is not signed, one that does not is.
WORD = WordLayout("word", (Field("x_step", 5, "a count"), Field("base", 3, "a difference", signed=True)))


@pytest.mark.parametrize(("x_step", "base", "word"), [(31, -1, 0xFF), (0, -4, 0x80), (16, 3, 0x70)])
def test_signed_is_what_the_field_says(x_step: int, base: int, word: int) -> None:
    assert WORD.pack(x_step=x_step, base=base) == word
    assert WORD.unpack(word) == {"x_step": x_step, "base": base}
    assert [field.meaning for field in WORD.fields] == ["a count", "a difference, signed"]


def test_limits_are_those_of_the_sign() -> None:
    for x_step, base, text in (
        (32, 0, "'x_step' .* 32; .* 0 to 31"),
        (-1, 0, "-1; .* 0 to 31"),
        (0, 4, "4; .* -4 to 3"),
    ):
        with pytest.raises(ValueError, match=f"field .*{text}"):
            WORD.pack(x_step=x_step, base=base)
    with pytest.raises(ValueError, match="word has no field 'm'; fields: x_step, base"):
        WORD.pack(m=0)
    with pytest.raises(ValueError, match="word needs field 'base'"):
        WORD.pack(x_step=0)


@pytest.mark.parametrize("opcode", list(Opcode))
def test_instructions_keep_the_least_and_the_largest_value_of_each_field(opcode: Opcode) -> None:
    layout = INSTRUCTIONS[opcode]
    assert layout.bits == INSTRUCTION_BITS
    for end in ("low", "high"):
        fields = {field.name: getattr(field, end) for field in layout.fields if field.name not in ("opcode", "zero")}
        instruction = Instruction(opcode, fields)
        assert Instruction.decode(instruction.encode()).fields == {**fields, "zero": 0}
        assert read_listing(listing([instruction])).instructions[0].values() == instruction.values()


@pytest.mark.parametrize("opcode", list(Opcode))
def test_circuit_takes_signs_from_the_fields(opcode: Opcode) -> None:
    values = fields_of(opcode, Signal(INSTRUCTION_BITS))
    assert {name: Value.cast(value).shape().signed for name, value in values.items()} == {
        field.name: field.signed for field in INSTRUCTIONS[opcode].fields
    }


def test_walk_holds_the_fields_of_a_load_with_their_signs() -> None:
    for name, member in walk_layout():
        field = INSTRUCTIONS[Opcode.LOAD_ACT].by_name[name]
        shape = Value.cast(Signal(member.shape)).shape()
        assert (name, shape.signed) == (name, field.signed)
        assert shape.width >= field.bits


@pytest.mark.parametrize("prefix", ["", "ff_"])
def test_numbers_n_m_and_a_are_coded_and_decoded_the_same_way(prefix: str) -> None:
    for log2, m in enumerate((2, 4, 8, 16)):
        for n in range(1, m + 1):
            fields = codes(n=n, m=m, prefix=prefix)
            assert fields == {f"{prefix}n_less_1": n - 1, f"{prefix}log2_m_less_1": log2}
            assert (kept(fields, prefix), group_size(fields, prefix)) == (n, m)
    for log2, a in enumerate((1, 2, 4, 8)):
        assert codes(a=a) == {"log2_a": log2}
        assert rectangle_rows(codes(a=a)) == a


def test_numbers_that_no_code_stands_for_are_refused() -> None:
    for n in (0, 17):
        with pytest.raises(ValueError, match=f"^n is {n}; it must be from 1 to 16"):
            codes(n=n)
    for m in (1, 6, 32):
        with pytest.raises(ValueError, match=f"^m is {m}; it must be one of 2, 4, 8, 16"):
            codes(m=m)
    for a in (0, 3):
        with pytest.raises(ValueError, match=f"^a is {a}; it must be one of 1, 2, 4, 8"):
            codes(a=a)


@pytest.mark.parametrize("ws", [False, True])
@pytest.mark.parametrize(("n", "m", "a"), [(1, 2, 1), (2, 2, 8), (3, 4, 2), (2, 8, 2), (16, 16, 4)])
def test_a_compute_is_decoded_and_coded_once(ws: bool, n: int, m: int, a: int) -> None:
    compute = Compute(ws=ws, n=n, m=m, a=a, windows=7, act_base=5, wgt_base=65535, seed=ws, keep=not ws, capture=9)
    instruction = compute.instruction()
    assert Compute.of(Instruction.decode(instruction.encode())) == compute
    assert compute.b * a == INTERLEAVE
    coded = {"ws": int(ws), "n_less_1": n - 1, "log2_m_less_1": [2, 4, 8, 16].index(m), "log2_a": [1, 2, 4, 8].index(a)}
    assert {name: instruction[name] for name in coded} == coded
    # the command is the part of the instruction between its head and the place of the results
    layout = INSTRUCTIONS[Opcode.COMPUTE]
    low = sum(layout.by_name[name].bits for name in ("opcode", "wait", "signal"))
    assert compute.command() == instruction.encode() >> low & (1 << COMMAND.bits) - 1
    assert COMMAND.unpack(compute.command()) == {name: compute.fields()[name] for name in COMMAND.widths()}
