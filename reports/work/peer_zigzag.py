"""ZigZag as a model for `nmsat compare`: what it is given, and where its cycles go.

ZigZag searches the temporal mapping of a product to a spatial one, which is given, and evaluates it in closed form: no
cycle is simulated. It knows no N:M and gets the rows of W that are kept.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from nmsat.reports.work.peer_scalesim import ReportError

if TYPE_CHECKING:
    from nmsat.reports.work.compare_layers import Gemm
    from nmsat.reports.work.peer_scalesim import Array

NAME: Final = "zigzag"
"""The model, and its Python package."""

OPERAND_BITS: Final = 16
SUM_BITS: Final = 32

_OPEN: Final = 1 << 16
"""Bits a cycle of a buffer: its side to the array is never what is waited for, as in the machine."""

_DRAM_BITS: Final = 1 << 40


def job(array: Array, gemm: Gemm, port_bits: int) -> dict[str, Any]:
    """Return what `peer_driver` is asked for. port_bits: what memory moves in a cycle, all operands together."""
    stationary = {"os": f"B, {array.rows}", "ws": f"C, {array.rows}"}[array.dataflow]
    return {
        "simulator": NAME,
        "workload": [_layer(gemm)],
        "accelerator": _accelerator(array, port_bits),
        "mapping": [
            {
                "name": "default",
                "spatial_mapping": {"D1": [stationary], "D2": [f"K, {array.columns}"]},
                "memory_operand_links": {"O": "O", "W": "I2", "I": "I1"},
            }
        ],
    }


def read_found(answer: dict[str, Any]) -> dict[str, float]:
    """Return the figures of the one layer of a run; ReportError for anything else."""
    found = answer.get("found")
    if not isinstance(found, list) or len(found) != 1:
        count = len(found) if isinstance(found, list) else "no"
        raise ReportError(f"ZigZag evaluated {count} layers; one was expected")
    return found[0]


def components(array: Array, gemm: Gemm, found: dict[str, float]) -> dict[str, int]:
    """Return cycles by `compare_names.COMPONENTS`; they add up to `latency_total2`."""
    spread, total = (int(found[name]) for name in ("ideal_temporal_cycle", "latency_total2"))
    multiply = gemm.m * gemm.kept * gemm.n // (array.rows * array.columns)
    parts = {"multiply": multiply, "edges": spread - multiply, "feed": 0, "fill and drain": 0}
    return {**parts, "memory": total - spread, "update": 0}


def _layer(gemm: Gemm) -> dict[str, Any]:
    return {
        "id": 0,
        "name": "layer",
        "operator_type": "Gemm",
        "equation": "O[b][k]+=W[c][k]*I[b][c]",
        "dimension_relations": [],
        "loop_dims": ["B", "K", "C"],
        "loop_sizes": [gemm.m, gemm.n, gemm.kept],
        "operand_precision": {"W": OPERAND_BITS, "I": OPERAND_BITS, "O": SUM_BITS, "O_final": OPERAND_BITS},
        "operand_source": {"I": 0, "W": 0},
    }


def _accelerator(array: Array, port_bits: int) -> dict[str, Any]:
    """Return registers of the elements, a buffer for each operand, and memory behind one port."""
    sums = ("r_port_1", "O, tl"), ("r_port_2", "O, th"), ("w_port_1", "O, fh"), ("w_port_2", "O, fl")
    memories: dict[str, Any] = {}
    if array.dataflow == "ws":
        ways = ("r_port_1", "I2, tl"), ("w_port_1", "I2, fh")
        ports = [_port(*way, bits=OPERAND_BITS) for way in ways]
        memories["weight_register"] = _memory(OPERAND_BITS, ["I2"], ports, [])
    over = [] if array.dataflow == "os" else ["D1"]  # weight stationary, sums move along a column
    memories["sum_register"] = _memory(SUM_BITS, ["O"], [_port(*way, bits=SUM_BITS) for way in sums], over)
    everywhere = ["D1", "D2"]
    sizes = [words * bits for words, bits in zip(array.buffers, (OPERAND_BITS, OPERAND_BITS, SUM_BITS), strict=True)]
    for operand, size in zip(("I1", "I2"), sizes, strict=False):
        ports = [_port("r_port_1", f"{operand}, tl"), _port("w_port_1", f"{operand}, fh")]
        memories[f"buffer_{operand}"] = _memory(size, [operand], ports, everywhere)
    ports = [_port("r_port_1", "O, tl", "O, th"), _port("w_port_1", "O, fh", "O, fl")]
    memories["buffer_O"] = _memory(sizes[2], ["O"], ports, everywhere)
    ways = [f"{operand}, {way}" for operand in ("I1", "I2") for way in ("fh", "tl")]
    dram = _port("rw_port_1", *ways, *(f"O, {way}" for way in ("fh", "tl", "fl", "th")), bits=port_bits)
    memories["dram"] = _memory(_DRAM_BITS, ["I1", "I2", "O"], [dram], everywhere)
    array_of = {"input_precision": [OPERAND_BITS] * 2, "unit_energy": 0, "unit_area": 0, "dimensions": everywhere}
    return {
        "name": "machine",
        "memories": memories,
        "operational_array": {**array_of, "sizes": [array.rows, array.columns]},
    }


def _port(name: str, *allocation: str, bits: int = _OPEN) -> dict[str, Any]:
    kind = {"r": "read", "w": "write", "rw": "read_write"}[name.partition("_")[0]]
    return {"name": name, "type": kind, "bandwidth_min": bits, "bandwidth_max": bits, "allocation": list(allocation)}


def _memory(bits: int, operands: list[str], ports: list[dict[str, Any]], over: list[str]) -> dict[str, Any]:
    """Return a memory without energy or area. over: dimensions of the array that share it."""
    costs = {"r_cost": 0, "w_cost": 0, "area": 0, "latency": 1, "auto_cost_extraction": False}
    return {"size": bits, **costs, "operands": operands, "ports": ports, "served_dimensions": over}
