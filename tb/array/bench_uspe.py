"""Bench of one element: send words on its links, one set per cycle, and answer all it hands on."""

from __future__ import annotations

from typing import Any

import cocotb
import numpy as np
from cocotb.clock import Clock
from cocotb.triggers import FallingEdge

from nmsat.tb.run.jobs import load_job, save_result

_LINKS = ("act", "ctl", "wgt", "sum")


@cocotb.test()
async def stream(dut: Any) -> None:
    """Stream the job through the element.

    Job: uint64[cycles] act, ctl, wgt, sum, and rst. Answer: uint64[cycles] of each output, one cycle after the input.
    """
    job = load_job()
    inputs = {f"{name}_i": job[name].tolist() for name in _LINKS} | {"rst": job["rst"].tolist()}
    handles = {name: getattr(dut, name) for name in inputs}
    outputs = {name: getattr(dut, f"{name}_o") for name in _LINKS}
    seen: dict[str, list[int]] = {name: [] for name in _LINKS}
    cocotb.start_soon(Clock(dut.clk, 10, "ns").start())
    await FallingEdge(dut.clk)
    # Falling edges: registers have settled, and what is written now meets the next rising edge.
    for cycle in range(len(job["rst"])):
        for name, handle in handles.items():
            handle.value = inputs[name][cycle]
        await FallingEdge(dut.clk)
        for name, handle in outputs.items():
            seen[name].append(int(handle.value))
    save_result(**{name: np.array(values, np.uint64) for name, values in seen.items()})
