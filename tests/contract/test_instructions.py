"""Every instruction is whole: what a new one still lacks fails here (docs/contributing.md)."""

from __future__ import annotations

import pytest

from nmsat.dataflow.contract.config import preset
from nmsat.dataflow.contract.isa import INSTRUCTIONS, QUEUE_OF, Opcode
from nmsat.dataflow.contract.legal import products, rules
from nmsat.dataflow.program.touches import _TOUCHES
from nmsat.sim.values import _ACTIONS
from nmsat.tb.machine.jobs import random_job
from tests.examples import ROOT
from tests.machine.oracle import Oracle

TINY = preset("tiny")
WORK = sorted(set(Opcode) - {Opcode.END})
"""Instructions that an engine carries out."""


def names_of_rules(opcode: Opcode) -> set[str]:
    fields = dict.fromkeys(INSTRUCTIONS[opcode].widths(), 1)
    return set(rules(opcode, fields, products(opcode, fields), TINY))


@pytest.mark.parametrize("opcode", WORK, ids=lambda opcode: opcode.name)
def test_an_engine_carries_it_out(opcode: Opcode) -> None:
    assert opcode in QUEUE_OF
    assert opcode in _ACTIONS, "sim/values.py does not know what it does to memory and buffers"
    assert opcode in _TOUCHES, "dataflow/program/touches.py does not know which beats it reads and writes"
    names = (opcode.name.lower(), f"_{opcode.name.lower()}")
    assert any(hasattr(Oracle, name) for name in names), "tests/machine/oracle.py cannot say what it must write"


@pytest.mark.parametrize("opcode", WORK, ids=lambda opcode: opcode.name)
def test_it_has_rules_of_its_own(opcode: Opcode) -> None:
    assert names_of_rules(opcode) != names_of_rules(Opcode.END)


@pytest.mark.parametrize("opcode", WORK, ids=lambda opcode: opcode.name)
def test_the_page_of_its_room_has_its_fields(opcode: Opcode) -> None:
    room = {"LOAD": "load", "COMPUTE": "array", "STORE": "store", "UPDATE": "update"}[QUEUE_OF[opcode].name]
    text = (ROOT / "docs" / "machine" / f"{room}.md").read_text(encoding="utf-8")
    assert INSTRUCTIONS[opcode].table() in text, "python -m tests.examples renews the table of an instruction"


def test_random_programs_meet_all_of_them() -> None:
    found = {instruction.opcode for seed in range(12) for instruction in random_job(TINY, seed).code.instructions}
    assert found == set(Opcode)
