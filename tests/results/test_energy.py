"""The modelled energy of a step: what it counts."""

from __future__ import annotations

from collections import Counter
from typing import Any, ClassVar

import numpy as np
import pytest

from nmsat.algorithms.training.optim import SgdConstants, sgd_update
from nmsat.dataflow.contract.config import preset
from nmsat.sim.api import gemm, simulate
from nmsat.sim.results.energy import EnergyTable, step_energy


class Counting(np.ndarray):
    """Numbers that count the operations which they take part in."""

    done: ClassVar[Counter[str]] = Counter()

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **options: Any) -> Any:
        Counting.done[ufunc.__name__] += 1
        plain = (each.view(np.ndarray) if isinstance(each, Counting) else each for each in inputs)
        return np.asarray(getattr(ufunc, method)(*plain, **options)).view(Counting)


def test_an_update_costs_the_operations_that_round(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of docs/arithmetic.md, "Weight update"; scaling the gradient by a power of two is exact and counts none."""
    monkeypatch.setattr("nmsat.algorithms.training.optim.between", lambda *_arrays, few: None)  # NumPy counts
    w, v, g = (np.ones(4, kind) for kind in (np.float32, np.float32, np.float16))
    constants = SgdConstants(0.1, 0.9, 0.01, 0.02, 3)
    Counting.done.clear()
    mask = np.array([True, False, True, False])
    sgd_update(w.view(Counting), v.view(Counting), g, constants, mask)
    arithmetic = {name: Counting.done[name] for name in ("multiply", "add", "subtract")}
    assert arithmetic == {"multiply": 4, "add": 3, "subtract": 1}
    table = EnergyTable(update_operation=1.0, fpga=1.0, shrink=1.0)
    energy = step_energy(simulate(gemm(8, 8, 8), preset("tiny"), memory=True), 1000, table)
    assert energy.update == pytest.approx(1000 * sum(arithmetic.values()) * 1e-12)
