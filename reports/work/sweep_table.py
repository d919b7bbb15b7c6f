"""The results of a sweep as Parquet: one row per point, the same bytes for the same sweep."""

from __future__ import annotations

import io
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from nmsat.dataflow.contract.machine_file import MACHINE_FIELDS
from nmsat.dataflow.contract.ranges import Range
from nmsat.sim.results.causes import MACHINE_CAUSES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

TOTALS: Final = {
    "cycles": "int64",
    "dense_cycles": "int64",
    "speedup": "float64",
    "utilization": "float64",
    "seconds": "float64",
}
"""Columns of the estimate, and with `exact_` in front of the quick gear -> kind."""

COLUMNS: Final[dict[str, str]] = {
    "index": "int64",
    **dict.fromkeys(("config", "network"), "string"),
    "batch": "int64",
    **dict.fromkeys(("method", "pattern", "machine", "status", "planned", "error", "source"), "string"),
    **TOTALS,
    "bound": "float64",
    **dict.fromkeys(("memory_plan_bytes", "elements", "lut", "dsp", "bram36", "uram", "ram_kbit"), "int64"),
    "front": "bool",
    **{f"exact_{name}": kind for name, kind in TOTALS.items()},
    **dict.fromkeys(("exact_bytes_read", "exact_bytes_written", "exact_macs"), "int64"),
    **{f"exact_cause_{cause.replace(' ', '_')}": "int64" for cause in MACHINE_CAUSES},
    **dict.fromkeys(("exact_roofline", "modelled_joule"), "float64"),
    "accuracy": "float64",
    **{
        name: ("int64" if field.whole else "float64") if isinstance(field, Range) else "string"
        for name, field in MACHINE_FIELDS.items()
        if name != "name"
    },
}
"""Columns of the table -> kind."""


def parquet_bytes(rows: Sequence[Mapping[str, Any]], facts: Mapping[str, str]) -> bytes:
    """Return rows as a Parquet file; facts: what is said of the whole, in its metadata."""
    # by name: type checks do without the extra
    pa, pq = import_module("pyarrow"), import_module("pyarrow.parquet")

    kinds = {"int64": pa.int64(), "float64": pa.float64(), "string": pa.string(), "bool": pa.bool_()}
    schema = pa.schema([(name, kinds[kind]) for name, kind in COLUMNS.items()], metadata=dict(facts))
    table = pa.table({name: [row.get(name) for row in rows] for name in COLUMNS}, schema=schema)
    out = io.BytesIO()
    pq.write_table(table, out, compression="zstd")
    return out.getvalue()
