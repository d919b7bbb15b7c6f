"""The measurement of contract arithmetic: what it tells, and that both kernels are in it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from nmsat.reports.work import kernel_speed

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.conftest import Outcome


def test_bench_tells_the_speed_of_contract_arithmetic(
    call: Callable[[str], Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernel_speed, "PRODUCTS", ((96, 64, 16),))
    monkeypatch.setattr(kernel_speed, "STEPS", ((4, 2), (6, 3)))
    monkeypatch.setattr(
        kernel_speed,
        "_step",
        lambda repeats, side, batch: {"network": "n", "side": side, "batch": batch, "seconds": {"contract": 1}},
    )
    measured = json.loads(call("bench --only-kernel --json").out)["kernel"]
    assert [(step["side"], step["batch"]) for step in measured["steps"]] == [(4, 2), (6, 3)]
    (found,) = measured["products"]
    rate = found["gmacs_per_second"]
    assert rate.keys() == {"contract", "contract_2of8", "blas", "numpy"}
    for name, pair in found["pairs"].items():
        assert found[name] == pair["times"] > 0
        assert pair["rounds"] == 5


def test_a_step_is_measured_beside_binary32() -> None:
    step = kernel_speed._step(1, 8, 4)
    assert step["network"] == "resnet9-small"
    assert {"contract", "contract_bdwp_2of8", "fast"} <= step["seconds"].keys()
    assert step["to_fast"] == pytest.approx(step["seconds"]["contract"] / step["seconds"]["fast"])
