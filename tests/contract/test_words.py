"""The binary format of instructions, written down once more as plain numbers: where each field lies, whole words.

Two fields of one width that change places, a field that grows, an opcode that changes: each fails here. Programs that
people keep would no longer run, so such a change is a new version of the machine.
"""

from __future__ import annotations

from typing import Final

import pytest

from nmsat.dataflow.contract.isa import INSTRUCTIONS, Instruction, Opcode

OPCODES: Final = {"LOAD_ACT": 1, "LOAD_WGT": 2, "COMPUTE": 3, "STORE": 4, "UPDATE": 5, "STAGE": 6, "END": 15}

LAYOUT: Final[dict[str, tuple[tuple[str, int, int], ...]]] = {
    "LOAD_ACT": (
        ("opcode", 0, 4),
        ("wait", 4, 16),
        ("signal", 20, 16),
        ("mode", 36, 2),
        ("log2_m_less_1", 38, 2),
        ("log2_a", 40, 2),
        ("base", 42, 16),
        ("rows", 58, 16),
        ("k", 74, 16),
        ("staged", 90, 1),
        ("windowed", 91, 1),
        ("region", 92, 2),
        ("at", 94, 34),
        ("line_at", 128, 34),
        ("image_at", 162, 34),
        ("x_step", 196, 22),
        ("y_step", 218, 22),
        ("image_step", 240, 22),
        ("width", 262, 12),
        ("height", 274, 12),
        ("x0", 286, 12),
        ("y0", 298, 12),
        ("ix0", 310, 13),
        ("iy0", 323, 13),
        ("ix_line", 336, 13),
        ("iy_image", 349, 13),
        ("ix_step", 362, 4),
        ("iy_step", 366, 4),
        ("in_width", 370, 12),
        ("in_height", 382, 12),
        ("beside", 394, 1),
        ("zero", 395, 117),
    ),
    "STAGE": (
        ("opcode", 0, 4),
        ("wait", 4, 16),
        ("signal", 20, 16),
        ("region", 36, 2),
        ("at", 38, 34),
        ("outer", 72, 16),
        ("inner", 88, 16),
        ("outer_step", 104, 22),
        ("base", 126, 16),
        ("zero", 142, 370),
    ),
    "LOAD_WGT": (
        ("opcode", 0, 4),
        ("wait", 4, 16),
        ("signal", 20, 16),
        ("dense", 36, 1),
        ("log2_m_less_1", 37, 2),
        ("log2_a", 39, 2),
        ("base", 41, 16),
        ("lane", 57, 5),
        ("blocks", 62, 8),
        ("outer", 70, 16),
        ("inner", 86, 16),
        ("pad", 102, 16),
        ("region", 118, 2),
        ("at", 120, 34),
        ("inner_step", 154, 22),
        ("outer_step", 176, 22),
        ("block_step", 198, 28),
        ("zero", 226, 286),
    ),
    "COMPUTE": (
        ("opcode", 0, 4),
        ("wait", 4, 16),
        ("signal", 20, 16),
        ("ws", 36, 1),
        ("n_less_1", 37, 4),
        ("log2_m_less_1", 41, 2),
        ("log2_a", 43, 2),
        ("windows", 45, 16),
        ("act_base", 61, 16),
        ("wgt_base", 77, 16),
        ("seed", 93, 1),
        ("keep", 94, 1),
        ("capture", 95, 16),
        ("zero", 111, 401),
    ),
    "STORE": (
        ("opcode", 0, 4),
        ("wait", 4, 16),
        ("signal", 20, 16),
        ("ws", 36, 1),
        ("log2_a", 37, 2),
        ("capture", 39, 16),
        ("rows", 55, 16),
        ("columns", 71, 9),
        ("lane", 80, 5),
        ("to_half", 85, 1),
        ("relu", 86, 1),
        ("watch", 87, 1),
        ("side", 88, 2),
        ("region", 90, 2),
        ("at", 92, 34),
        ("line_at", 126, 34),
        ("image_at", 160, 34),
        ("x_step", 194, 22),
        ("y_step", 216, 22),
        ("image_step", 238, 22),
        ("side_region", 260, 2),
        ("side_at", 262, 34),
        ("side_line_at", 296, 34),
        ("side_image_at", 330, 34),
        ("side_x_step", 364, 22),
        ("side_y_step", 386, 22),
        ("side_image_step", 408, 22),
        ("width", 430, 12),
        ("height", 442, 12),
        ("x0", 454, 12),
        ("y0", 466, 12),
        ("beside", 478, 1),
        ("zero", 479, 33),
    ),
    "UPDATE": (
        ("opcode", 0, 4),
        ("wait", 4, 16),
        ("signal", 20, 16),
        ("k", 36, 16),
        ("n", 52, 16),
        ("shift", 68, 5),
        ("ff_n_less_1", 73, 4),
        ("ff_log2_m_less_1", 77, 2),
        ("bp_n_less_1", 79, 4),
        ("bp_log2_m_less_1", 83, 2),
        ("use_bp", 85, 1),
        ("use_mask", 86, 1),
        ("region", 87, 2),
        ("g_step", 89, 10),
        ("w_at", 99, 34),
        ("g_at", 133, 34),
        ("mask_at", 167, 34),
        ("ff_at", 201, 34),
        ("bp_at", 235, 34),
        ("lr", 269, 32),
        ("mu", 301, 32),
        ("wd", 333, 32),
        ("lam", 365, 32),
        ("zero", 397, 115),
    ),
    "END": (
        ("opcode", 0, 4),
        ("wait", 4, 16),
        ("signal", 20, 16),
        ("zero", 36, 476),
    ),
}
"""Of each instruction its fields from bit 0 on: name, lowest bit, bits."""

WORDS: Final[dict[str, tuple[dict[str, int], str]]] = {
    "LOAD_ACT": (
        {
            "wait": 0xBF18,
            "signal": 0x38C9,
            "mode": 1,
            "log2_m_less_1": 2,
            "log2_a": 3,
            "base": 0x1F8D,
            "rows": 0x993E,
            "k": 0x12EF,
            "staged": 1,
            "windowed": 0,
            "region": 3,
            "at": 0x36BBCF9B3,
            "line_at": 0x9F47364,
            "image_at": 0xA82BED15,
            "x_step": -0x1C993A,
            "y_step": 0x1AE077,
            "image_step": 0x125A28,
            "width": 0x3D9,
            "height": 0xD8A,
            "x0": 0x73B,
            "y0": 236,
            "ix0": -0x563,
            "iy0": -0xBB2,
            "ix_line": 0xDFF,
            "iy_image": 0x7B0,
            "ix_step": 1,
            "iy_step": 2,
            "in_width": 0x4C3,
            "in_height": 0xE74,
            "beside": 1,
        },
        (
            "0000000000000000000000000000079d"
            "130c84f60dffa276a743b1cef628f652"
            "5a286b81de366c62a0afb45409f47364"
            "daef3e6cf44bbe64f87e37938c9bf181"
        ),
    ),
    "STAGE": (
        {
            "wait": 0xBF18,
            "signal": 0x38C9,
            "region": 1,
            "at": 0x27A012C2B,
            "outer": 0xA5DC,
            "inner": 0x1F8D,
            "outer_step": -0x1866C2,
            "base": 0x12EF,
        },
        (
            "00000000000000000000000000000000"
            "00000000000000000000000000000000"
            "000000000000000000000000000004bb"
            "e7993e1f8da5dc9e804b0ad38c9bf186"
        ),
    ),
    "LOAD_WGT": (
        {
            "wait": 0xBF18,
            "signal": 0x38C9,
            "dense": 1,
            "log2_m_less_1": 2,
            "log2_a": 3,
            "base": 0x1F8D,
            "lane": 30,
            "blocks": 239,
            "outer": 0x8CA0,
            "inner": 0x651,
            "pad": 0x8002,
            "region": 1,
            "at": 0x9F47364,
            "inner_step": -0x1412EB,
            "outer_step": -0x1C993A,
            "block_step": 0x49AE077,
        },
        (
            "00000000000000000000000000000000"
            "00000000000000000000000000000000"
            "0000000126b81de366c6afb45409f473"
            "646000819463283bfc3f1bd38c9bf182"
        ),
    ),
    "COMPUTE": (
        {
            "wait": 0xBF18,
            "signal": 0x38C9,
            "ws": 1,
            "n_less_1": 11,
            "log2_m_less_1": 3,
            "log2_a": 1,
            "windows": 0x993E,
            "act_base": 0x12EF,
            "wgt_base": 0x8CA0,
            "seed": 0,
            "keep": 1,
            "capture": 0xF9B3,
        },
        (
            "00000000000000000000000000000000"
            "00000000000000000000000000000000"
            "00000000000000000000000000000000"
            "00007cd9d194025df327cf738c9bf183"
        ),
    ),
    "STORE": (
        {
            "wait": 0xBF18,
            "signal": 0x38C9,
            "ws": 1,
            "log2_a": 2,
            "capture": 0xA5DC,
            "rows": 0x1F8D,
            "columns": 0x13E,
            "lane": 15,
            "to_half": 1,
            "relu": 0,
            "watch": 1,
            "side": 1,
            "region": 2,
            "at": 0xA82BED15,
            "line_at": 0x1466366C6,
            "image_at": 0x1E49AE077,
            "x_step": 0x125A28,
            "y_step": 0x9D3D9,
            "image_step": 0x14D8A,
            "side_region": 3,
            "side_at": 0xFBB040EC,
            "side_line_at": 0x199E7BA9D,
            "side_image_at": 0x2381F344E,
            "side_x_step": 0x16ADFF,
            "side_y_step": 0xE27B0,
            "side_image_step": 0x5A161,
            "width": 0xB12,
            "height": 0x4C3,
            "x0": 0xE74,
            "y0": 0x825,
            "beside": 0,
        },
        (
            "0000000020979d130ec485a161389ec1"
            "6adff8e07cd13999e7ba9d3eec103b30"
            "536289d3d94968a1e49ae0775198d9b1"
            "8a82bed159af9f0fc6d2ee538c9bf184"
        ),
    ),
    "UPDATE": (
        {
            "wait": 0xBF18,
            "signal": 0x38C9,
            "k": 0xB27A,
            "n": 0x2C2B,
            "shift": 28,
            "ff_n_less_1": 13,
            "ff_log2_m_less_1": 2,
            "bp_n_less_1": 15,
            "bp_log2_m_less_1": 1,
            "use_bp": 0,
            "use_mask": 1,
            "region": 1,
            "g_step": 0x364,
            "w_at": 0xA82BED15,
            "g_at": 0x1466366C6,
            "mask_at": 0x1E49AE077,
            "ff_at": 0x282D25A28,
            "bp_at": 0x32109D3D9,
            "lr": 0xBF414D8A,
            "mu": 0x5D78C73B,
            "wd": 0xFBB040EC,
            "lam": 0x99E7BA9D,
        },
        (
            "0000000000000000000000000000133c"
            "f753bf76081d8baf18e777e829b15908"
            "4e9ecd05a4b450f24d703ba8cc6cd8c5"
            "415f68aec8cfdbc2c2bb27a38c9bf185"
        ),
    ),
    "END": (
        {},
        (
            "00000000000000000000000000000000"
            "00000000000000000000000000000000"
            "00000000000000000000000000000000"
            "0000000000000000000000000000000f"
        ),
    ),
}
"""Fields, and the word as four configuration words of 128 bits, the highest first: in memory byte 0 is the last pair of
digits. Of COMPUTE's lowest 64 bits: opcode 3 at 0, wait at 4, signal at 20, ws at 36, N - 1 at 37, log2 M - 1 at 41."""


def test_opcodes() -> None:
    assert {opcode.name: int(opcode) for opcode in Opcode} == OPCODES


@pytest.mark.parametrize("name", list(LAYOUT))
def test_each_field_lies_where_it_always_has(name: str) -> None:
    opcode = Opcode[name]
    assert set(INSTRUCTIONS[opcode].by_name) == {field for field, _, _ in LAYOUT[name]}
    end = 0
    for field, low, bits in LAYOUT[name]:
        assert low == end
        end += bits
        if field == "opcode":
            continue
        signed = INSTRUCTIONS[opcode].by_name[field].signed
        high = (1 << bits - signed) - 1
        for value in (1, high, *((-1,) if signed else ())):
            word = OPCODES[name] | (value & (1 << bits) - 1) << low
            assert Instruction(opcode, {field: value}).encode() == word, field
            assert Instruction.decode(word)[field] == value, field
        with pytest.raises(ValueError, match=f"field '{field}'"):
            Instruction(opcode, {field: high + 1}).encode()
    assert end == 512


@pytest.mark.parametrize("name", list(WORDS))
def test_whole_words(name: str) -> None:
    fields, digits = WORDS[name]
    assert f"{Instruction(Opcode[name], fields).encode():0128x}" == digits
    found = Instruction.decode(int(digits, 16))
    assert (found.opcode.name, {key: value for key, value in found.fields.items() if value}) == (
        name,
        {key: value for key, value in fields.items() if value},
    )
