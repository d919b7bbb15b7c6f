"""The backends of `nmsat train` that run on SAT: every product, ReLU and update is carried out by a machine program."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from nmsat.algorithms.training.recipes import run_name
from nmsat.algorithms.training.results import run_logged
from nmsat.algorithms.training.train import Progress, Trainer, TrainResult

if TYPE_CHECKING:
    from collections.abc import Callable

    from nmsat.algorithms.training.config import TrainConfig
    from nmsat.algorithms.training.data import Dataset
    from nmsat.dataflow.contract.config import SatConfig

CHECKPOINT_STEPS: Final = 10
"""Steps between checkpoints of a run on SAT."""


def sim_run(
    config: TrainConfig, sat: SatConfig, folder: Path | None, steps: int | None, progress: Callable[[Progress], None]
) -> TrainResult:
    """Run on the simulator: values of every instruction, cycles of the machine."""
    from nmsat.sim.sat import Sat
    from nmsat.sim.work.training import MachineTrainer

    machine = Sat(sat)
    done = 0

    def seen(state: Progress) -> None:
        nonlocal done
        done += 1
        progress(state)

    def make(chosen: TrainConfig, data: Dataset | None) -> Trainer:
        return MachineTrainer(chosen, sat, machine, data)

    with tempfile.TemporaryDirectory() as spare:
        return run_logged(
            config,
            folder or Path(spare),
            run_name(config),
            progress=seen,
            stop=lambda: steps is not None and done >= steps,
            every=CHECKPOINT_STEPS,
            make=make,
        )


def rtl_run(
    config: TrainConfig, sat: SatConfig, folder: Path | None, steps: int | None, progress: Callable[[Progress], None]
) -> TrainResult:
    """Run on the Verilated RTL, through its AXI ports."""
    from nmsat.algorithms.training.train import Epoch
    from nmsat.reports.work.verify import train_on_rtl

    with tempfile.TemporaryDirectory() as spare:
        home = (folder or Path(spare)).absolute()
        home.mkdir(parents=True, exist_ok=True)
        job = {
            "train": json.dumps(config.as_dict()),
            "folder": str(home),
            "steps": steps or 0,
            "every": CHECKPOINT_STEPS,
        }
        saved = train_on_rtl(sat, job, lambda told: progress(Progress(*told)))
    epochs = [Epoch(**epoch) for epoch in saved.pop("epochs")]
    return TrainResult(config, epochs=epochs, **saved)


def check(config: TrainConfig, sat: SatConfig) -> None:
    """Raise ValueError, before any work, for a run that SAT cannot carry out."""
    from nmsat.dataflow.contract.legal import check_machine
    from nmsat.sim.work.training import MachineTrainer

    check_machine(sat)
    MachineTrainer(config, sat, _Nothing())


class _Nothing:
    """A machine that is never asked."""

    def run_program(self, image: Any, program: Any) -> Any:
        raise RuntimeError(f"no machine for {program!r} in {image!r}")
