"""Instructions of the compute engine, which bench and test share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nmsat.dataflow.contract.isa import Instruction, Opcode

if TYPE_CHECKING:
    from nmsat.dataflow.contract.fields import TileCommand


def compute_instruction(command: TileCommand, capture: int) -> Instruction:
    """Return the instruction of a tile command whose results go to place `capture`."""
    fields = {
        "ws": int(command.ws),
        "n_less_1": command.n - 1,
        "log2_m_less_1": command.m.bit_length() - 2,
        "log2_a": command.a.bit_length() - 1,
        "windows": command.windows,
        "act_base": command.act_base,
        "wgt_base": command.wgt_base,
        "seed": int(command.seed),
        "keep": int(command.keep),
        "capture": capture,
    }
    return Instruction(Opcode.COMPUTE, fields)
