"""Bench of the always-advancing floating-point units: one set of operands per cycle, results after the stated latency.

Started by tests/fp/test_f32.py and tests/fp/test_convert.py through tb/run/runner.py. The job holds `latency`, `inputs`
and `outputs` (port names), and an array uint32[cycles, copies] for each of them (for the outputs: what is expected).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import cocotb
import numpy as np
from cocotb.clock import Clock
from cocotb.triggers import ReadOnly, RisingEdge

from nmsat.tb.run.jobs import load_job, save_result

if TYPE_CHECKING:
    from numpy.typing import NDArray


def words(values: NDArray, width: int) -> list[int]:
    """Return one whole number per row: the row's values of `width` bits, the first at bit 0."""
    result = []
    for row in values.tolist():
        word = 0
        for value in reversed(row):
            word = word << width | value
        result.append(word)
    return result


@cocotb.test()
async def stream(dut: Any) -> None:
    """Drive new operands in each cycle; each result must stand at its cycle and only the right bits count."""
    job = load_job()
    latency, copies = job["latency"], job["copies"]
    ports = [(getattr(dut, name), job[name]) for name in (*job["inputs"], *job["outputs"])]
    tables = [words(values, len(port) // copies) for port, values in ports]
    drives = [(port, table) for (port, _), table in zip(ports, tables, strict=True)][: len(job["inputs"])]
    checks = [(port, table) for (port, _), table in zip(ports, tables, strict=True)][len(job["inputs"]) :]
    cycles = len(tables[0])
    Clock(dut.clk, 10, "ns").start()
    dut.rst.value = 1
    await RisingEdge(dut.clk)
    await RisingEdge(dut.clk)
    dut.rst.value = 0
    wrong = 0
    for cycle in range(cycles + latency):
        for port, table in drives:
            port.value = table[min(cycle, cycles - 1)]
        await ReadOnly()
        done = cycle - latency
        if done >= 0:
            for port, table in checks:
                if int(port.value) != table[done]:
                    wrong += 1
                    if wrong <= 5:
                        given = ", ".join(f"{p._name} {t[done]:x}" for p, t in drives)
                        dut._log.error(f"vector {done}: {given}: got {int(port.value):x}, expected {table[done]:x}")
        await RisingEdge(dut.clk)
    save_result(vectors=int(np.prod(ports[0][1].shape)), wrong=wrong)
    assert wrong == 0, f"{wrong} of {cycles} rows differ"
