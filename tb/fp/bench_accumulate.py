"""Bench of widening, product and adder (tops of tb.fp.mac_lanes); tests/fp/test_accumulate.py runs it."""

from __future__ import annotations

from typing import Any

import cocotb
import numpy as np
from cocotb.clock import Clock
from cocotb.triggers import FallingEdge

from nmsat.tb.run.jobs import load_job, save_result


@cocotb.test()
async def stream(dut: Any) -> None:
    """Send the job's vectors, one row per cycle, and answer what comes out `latency` cycles later.

    Job: inputs: bits per lane by port name, and uint[cycles, lanes] under each of these names; outputs: names of
    output ports of 32 bits per lane; latency. Answer: uint32[cycles, lanes] by name.
    """
    job = load_job()
    packed = {name: _pack(job[name], width) for name, width in job["inputs"].items()}
    cycles, lanes = job[next(iter(packed))].shape
    seen: dict[str, list[int]] = {name: [] for name in job["outputs"]}
    cocotb.start_soon(Clock(dut.clk, 10, "ns").start())
    # Falling edges: registers have settled, and what is written now meets the next rising edge.
    for cycle in range(cycles + job["latency"]):
        await FallingEdge(dut.clk)
        if cycle >= job["latency"]:
            for name, values in seen.items():
                values.append(int(getattr(dut, name).value))
        if cycle < cycles:
            for name, words in packed.items():
                getattr(dut, name).value = words[cycle]
    save_result(**{name: _unpack(values, lanes) for name, values in seen.items()})


def _pack(rows: np.ndarray, width: int) -> list[int]:
    """Return each row as one number, lane 0 in the lowest bits."""
    if width == 1:
        raw = np.packbits(rows.astype(bool), axis=1, bitorder="little")
    else:
        raw = np.ascontiguousarray(rows.astype(f"<u{width // 8}")).view(np.uint8)
    return [int.from_bytes(row.tobytes(), "little") for row in raw]


def _unpack(values: list[int], lanes: int) -> np.ndarray:
    return np.array([np.frombuffer(value.to_bytes(4 * lanes, "little"), "<u4") for value in values])
