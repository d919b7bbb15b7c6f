"""Configurations as jobs of benches carry them."""

from __future__ import annotations

from typing import Any

from nmsat.dataflow.contract.config import MemoryConfig, SatConfig, preset


def machine_config(record: str | dict[str, Any]) -> SatConfig:
    """Return the configuration that a job carries: the name of a preset, or its fields."""
    if isinstance(record, str):
        return preset(record)
    slices = {name: tuple(record[name]) for name in ("row_slices", "column_slices")}
    return SatConfig(**{**record, **slices, "memory": MemoryConfig(**record["memory"])})
