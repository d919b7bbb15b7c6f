"""tb.drive.decoded: failed comparisons name fields."""

from __future__ import annotations

from amaranth.lib import data

from nmsat.dataflow.contract.isa import Instruction, Opcode
from nmsat.hw.memory.read_port import ReadPort
from nmsat.hw.update.sore import Sore
from nmsat.tb.drive.decoded import difference, fields, instruction_difference, layouts

PAIR = data.StructLayout({"value": 16, "index": 4})
WORD = data.StructLayout({"last": 1, "pair": data.ArrayLayout(PAIR, 2)})


def test_fields_of_a_word() -> None:
    word = 1 | 0xBEEF << 1 | 5 << 17 | 0x1234 << 21 | 6 << 37
    assert dict(fields(WORD, word)) == {
        "last": 1,
        "pair[0].value": 0xBEEF,
        "pair[0].index": 5,
        "pair[1].value": 0x1234,
        "pair[1].index": 6,
    }


def test_a_difference_names_its_fields() -> None:
    assert difference(WORD, 5 << 17, 4 << 17) == "differs: pair[0].index is 0x5, the model says 0x4"
    assert difference(WORD, 0, 1 | 9 << 37, mask=1) == "differs: last is 0x0, the model says 0x1"
    assert difference(None, 3, 2) == "is 0x3, the model says 0x2"
    assert difference(data.ArrayLayout(1, 6), 0, 63).endswith("; 2 more fields")


def test_an_instruction_by_its_fields() -> None:
    one, other = (Instruction(Opcode.STORE, {"rows": rows, "columns": 3}).encode() for rows in (4, 5))
    assert instruction_difference(one, other) == "differs: rows is 0x4, the model says 0x5"
    assert instruction_difference(one, 0) == "has opcode 4, the model says 0"


def test_layouts_of_ports() -> None:
    assert layouts(Sore(16, 1))["o__payload"] == Sore(16, 1).o.payload.shape()
    found = layouts(ReadPort(4))
    assert set(dict(fields(found["error"], 0))) == {"valid", "code", "client"}
    assert set(dict(fields(found["clients__0__request__payload"], 0))) == {"region", "offset", "beats_less_1"}
