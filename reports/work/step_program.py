"""The work behind `nmsat program --network`: a training step as programs, run on the simulator and held to NumPy."""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any, Final

from nmsat.algorithms.training.train import Trainer
from nmsat.dataflow.program.bounds import Bounds
from nmsat.dataflow.program.host import UPDATE_OPERATIONS
from nmsat.dataflow.program.listing import listing
from nmsat.dataflow.program.step import Program
from nmsat.dataflow.program.wellformed import check_well_formed
from nmsat.reports.work.launch import launch_files
from nmsat.reports.work.progress import task
from nmsat.sim.results.provenance import Source
from nmsat.sim.sat import Sat, launch
from nmsat.sim.work.training import MachineTrainer

if TYPE_CHECKING:
    import numpy as np

    from nmsat.algorithms.training.config import TrainConfig
    from nmsat.dataflow.contract.config import SatConfig
    from nmsat.dataflow.program.host import HostTask, Value
    from nmsat.dataflow.program.step import StepPlan
    from nmsat.dataflow.program.tensors import Image, Place
    from nmsat.reports.work.progress import Task
    from nmsat.sim.results.report import ProgramRun

STEP_FILES: Final = ("forward*.bin", "forward*.txt", "backward*.bin", "backward*.txt", "update.bin", "update.txt")
"""Files that the programs of a step are written to, beside the memory."""

BOUNDS: Final = Bounds(beats=1 << 20, instructions=1 << 16)
"""What a step may hold: 64 MiB; the simulator, which goes through every cycle, takes minutes."""


@dataclass(frozen=True)
class HostRates:
    """How quick the host is: bytes and scalar operations per second, GB/s and G/s."""

    gbs: float
    gops: float

    def seconds(self, operations: int, moved: int) -> float:
        """Return the time of so much work: it moves, then it computes, and SAT waits."""
        return moved / (self.gbs * 1e9) + operations / (self.gops * 1e9)


@dataclass(frozen=True)
class StepProgram:
    """A step that has run: its plan, memory before the first program, values for JSON."""

    plan: StepPlan
    memory: tuple[np.ndarray, ...]
    values: dict[str, Any]


def step_program(run: TrainConfig, sat: SatConfig, rates: HostRates | None = None, *, rtl: bool = False) -> StepProgram:
    """Return the first step of a run as programs, with what each costs; rtl: also run it on the Verilated RTL.

    Raises ValueError for a run that SAT cannot carry out, beyond `BOUNDS`, and for a program that is not well-formed.
    """
    with task("assembling the programs of a step"):
        machine = _Recorder(sat)
        trainer = MachineTrainer(run, sat, machine, bounds=BOUNDS)
    plan = trainer.plan
    regions = plan.image().regions
    for program in plan.programs:
        check_well_formed(sat, program.code.instructions, launch(regions, program.place, ports=sat.ports))
    with task("running the step on the simulator", len(plan.programs), "program") as running:
        machine.running = running
        loss = trainer.run_step()
    with task("the same step on NumPy"):
        reference = Trainer(run)
        expected = reference.run_step()
    same = [loss.hex() == expected.hex(), trainer.weights_sha256() == reference.weights_sha256()]
    values = _values(run, sat, plan, trainer, machine.runs, rates) | {
        "loss": loss,
        "weights_sha256": trainer.weights_sha256(),
        "numpy_equal": all(same),
        "match": all(same),
    }
    if rtl:
        found = _on_rtl(run, sat, trainer)
        values |= {**found, "match": values["match"] and found["rtl_equal"]}
    return StepProgram(plan, machine.memory, values)


def step_files(step: StepProgram) -> dict[str, str | bytes]:
    """Return file name -> content of the programs, as binary and text, and of the memory before the first of them.

    What must come out is not there: the host works between the programs (`summary.json` says what).
    """
    out: dict[str, str | bytes] = {}
    for program in step.plan.programs:
        first, end = program.place.at * 64, (program.place.at + program.place.beats) * 64
        out[f"{program.name}.bin"] = step.memory[program.place.region][first:end].tobytes()
        out[f"{program.name}.txt"] = listing(program.code.instructions, program.code.labels)
    return out | launch_files(step.memory, None, [program.place for program in step.plan.programs], step.plan.config)


class _Recorder:
    """The simulator, which keeps the memory of before the first program and how each ended."""

    def __init__(self, sat: SatConfig) -> None:
        self._sat = Sat(sat)
        self.runs: dict[str, ProgramRun] = {}
        self.memory: tuple[np.ndarray, ...] = ()
        self.running: Task | None = None

    def run_program(self, image: Image, program: Place) -> ProgramRun:
        if not self.memory:
            self.memory = tuple(region.copy() for region in image.regions)
        self.runs[program.name] = self._sat.run_program(image, program)
        if self.running is not None:
            self.running.advance()
        return self.runs[program.name]


def _values(
    run: TrainConfig,
    sat: SatConfig,
    plan: StepPlan,
    trainer: MachineTrainer,
    runs: dict[str, ProgramRun],
    rates: HostRates | None,
) -> dict[str, Any]:
    parts = [_program(part, runs) if isinstance(part, Program) else _task(part, rates) for part in plan.parts]
    update = _host_update(plan, rates)
    if update is not None:
        parts.insert(len(parts) - 1, update)
    cycles = sum(part.get("cycles", 0) for part in parts)
    operations, moved = (sum(part.get(key, 0) for part in parts) for key in ("operations", "bytes"))
    values: dict[str, Any] = {
        "network": run.network,
        "batch": run.batch,
        "method": run.method,
        "pattern": None if run.method == "dense" else run.pattern,
        "config": sat.name,
        "seed": run.seed,
        "source": Source.MACHINE,
        "cycles": cycles,
        "sat_seconds": cycles / (sat.clock_mhz * 1e6),
        "host_operations": operations,
        "host_bytes": moved,
        "macs_kept": trainer.result.macs_kept,
        "utilization": trainer.result.macs_kept / (cycles * sat.elements),
        "parts": parts,
    }
    if rates is not None:
        host = sum(part.get("seconds", 0.0) for part in parts)
        rate = {"gbs": rates.gbs, "gops": rates.gops}
        values |= {"host_rates": rate, "host_seconds": host, "seconds": host + values["sat_seconds"]}
    return values


def _program(program: Program, runs: dict[str, ProgramRun]) -> dict[str, Any]:
    place = program.place
    return {
        "who": "sat",
        "name": program.name,
        "products": list(program.cuts),
        "instructions": place.beats,
        "cycles": runs[program.name].cycles if program.name in runs else 0,
        "region": place.region,
        "at": place.at,
        "ran": program.name in runs,
    }


def _task(part: HostTask, rates: HostRates | None) -> dict[str, Any]:
    values: dict[str, Any] = {
        "who": "host",
        "name": ", ".join(dict.fromkeys(op.kind for op in part.ops)),
        "ops": [{"name": op.name, "kind": op.kind, "stage": op.stage, "operations": op.operations} for op in part.ops],
        "reads": [_tensor(value) for value in part.reads],
        "writes": [_tensor(value) for value in part.writes],
        "operations": part.operations,
        "bytes_read": part.bytes_read,
        "bytes_written": part.bytes_written,
        "bytes": part.bytes_read + part.bytes_written,
    }
    return values | _seconds(values, rates)


def _host_update(plan: StepPlan, rates: HostRates | None) -> dict[str, Any] | None:
    """Return the update of what the host keeps: it reads the gradients of the biases and writes the biases."""
    if not plan.host:
        return None
    biases = [layer for layer in plan.layers if layer.bias is not None]
    columns = sum(layer.bias.columns for layer in biases if layer.bias is not None)
    values: dict[str, Any] = {
        "who": "host",
        "name": "Update",
        "ops": [
            {"name": p.name, "kind": "Update", "stage": "wu", "operations": UPDATE_OPERATIONS * p.master.size}
            for p in plan.host
        ],
        "reads": [_rows(layer.bias_gradient) for layer in biases],
        "writes": [_rows(layer.bias) for layer in biases],
        "operations": sum(UPDATE_OPERATIONS * p.master.size for p in plan.host),
        "bytes_read": 2 * columns,
        "bytes_written": 4 * columns,
        "bytes": 6 * columns,
    }
    return values | _seconds(values, rates)


def _seconds(values: dict[str, Any], rates: HostRates | None) -> dict[str, float]:
    return {} if rates is None else {"seconds": rates.seconds(values["operations"], values["bytes"])}


def _tensor(value: Value) -> dict[str, Any]:
    return {
        **_rows(value.rows),
        "tensor": value.name,
        "shape": list(value.shape),
        "bytes": prod(value.shape) * value.bytes,
    }


def _rows(rows: Any) -> dict[str, Any]:
    return {
        "tensor": rows.name,
        "region": rows.region,
        "at": rows.at,
        "rows": rows.rows,
        "columns": rows.columns,
        "beats_per_row": rows.step,
        "format": "binary16" if rows.bytes == 2 else "binary32",
    }


def _on_rtl(run: TrainConfig, sat: SatConfig, trainer: MachineTrainer) -> dict[str, Any]:
    """Run the step on the RTL: loss, weights and cycles of all its programs must be those of the simulator."""
    from nmsat.reports.work.verify import train_on_rtl

    with tempfile.TemporaryDirectory() as folder, task("running the step on the RTL"):
        job = {"train": json.dumps(run.as_dict()), "folder": folder, "steps": 1, "every": 1}
        saved = train_on_rtl(sat, job, lambda _: None)
    expected = {
        "losses": trainer.result.losses,
        "cycles": trainer.result.cycles,
        "weights_sha256": trainer.weights_sha256(),
    }
    differs = [name for name, value in expected.items() if saved[name] != value]
    return {"cycles_rtl": saved["cycles"][0], "source_rtl": Source.RTL, "rtl_equal": not differs, "differs": differs}
