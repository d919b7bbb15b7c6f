"""Layers cut to a few tiles on whole machines up to 32 x 32: the machine whose figures are printed."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import pytest

from nmsat.algorithms.core.tape import Stage
from nmsat.dataflow.contract.config import preset
from nmsat.dataflow.contract.isa import Opcode
from nmsat.reports.work import verify
from nmsat.tb.machine.layer_jobs import CASES, LAYERS, kinds_of, layer_job

if TYPE_CHECKING:
    from nmsat.dataflow.contract.config import SatConfig

PRINTED = preset("vcu1525")
MACHINES = (
    PRINTED.replace(name="vcu1525-8x16", rows=8, columns=16),
    PRINTED.replace(name="vcu1525-16x16", rows=16, columns=16),
    PRINTED,
)

WANTED = {
    "OS",
    "WS",
    "packed weights",
    "dense weights",
    "STAGE",
    "activations, mode 0",
    "activations, mode 0, staged",
    "activations, mode 1",
    "activations, mode 2",
    "side NONE",
    "side MASK",
    "side TILE16",
    "side TILE32",
    "ReLU",
    "UPDATE, dense with W_bp",
    "UPDATE, sparse with W_bp",
}
"""What the programs must hold between them."""


def check_kinds(config: SatConfig) -> None:
    """Hold the programs of a machine to what they are for."""
    found: Counter[str] = Counter()
    for number in range(len(CASES)):
        code = layer_job(config, number).code
        tiles = sum(instruction.opcode is Opcode.STORE for instruction in code.instructions)
        assert 1 <= tiles <= 64, f"program {number} has {tiles} tiles"
        found.update(kinds_of(code))
    assert found.keys() >= WANTED, f"no program has {sorted(WANTED - found.keys())}"


def test_programs_hold_every_kind() -> None:
    """Both dataflows, packed and dense weights, staging, every epilogue, updates with both copies."""
    assert len(LAYERS) == 4
    assert Counter(stage for _, stage, _ in CASES) == dict.fromkeys((Stage.FF, Stage.BP, Stage.WU), 8)
    check_kinds(PRINTED)


@pytest.mark.rtl
@pytest.mark.long
@pytest.mark.parametrize("config", MACHINES, ids=lambda config: f"{config.rows}x{config.columns}")
def test_layers_on_the_rtl(config: SatConfig) -> None:
    """Memory, cycles, counters and flags of every program are the simulator's."""
    check_kinds(config)
    verdict = verify.verify_layers(config, 0, len(CASES))
    assert verdict.wrong == ()
    assert (verdict.jobs, verdict.mismatches) == (len(CASES), 0)
