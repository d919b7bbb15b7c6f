"""Configurations as jobs of benches carry them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from nmsat.dataflow.contract.config import MemoryConfig, SatConfig, preset
from nmsat.sim.sat import launch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from nmsat.dataflow.contract.registers import Launch
    from nmsat.dataflow.program.tensors import Place


def machine_config(record: str | dict[str, Any]) -> SatConfig:
    """Return the configuration that a job carries: the name of a preset, or its fields."""
    if isinstance(record, str):
        return preset(record)
    slices = {name: tuple(record[name]) for name in ("row_slices", "column_slices")}
    return SatConfig(**{**record, **slices, "memory": MemoryConfig(**record["memory"])})


def dealt(config: SatConfig, seed: int, regions: Sequence[NDArray[np.uint8]], program: Place) -> Launch:
    """Return the launch of a program (`sim.sat.launch`); of every other seed the regions lie behind any ports."""
    settings = launch(regions, program, ports=config.ports)
    if config.ports == 1 or seed % 2 == 0:
        return settings
    rng = np.random.default_rng([60, seed])
    placed = [region and replace(region, port=int(rng.integers(config.ports))) for region in settings.regions]
    return replace(settings, regions=tuple(placed))
