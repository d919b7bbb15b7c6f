"""The report of `nmsat model`: its step and the dense one as figures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from nmsat.reports.commands.parser import again
from nmsat.reports.work.step_runs import DENSE, NetworkRuns, StepRun

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping

    from nmsat.dataflow.network.step import Step
    from nmsat.reports.pages.report_page import Report
    from nmsat.sim.results.machine import MachineResult


def model_report(
    options: argparse.Namespace,
    values: Mapping[str, Any],
    sparse: tuple[Step, MachineResult],
    dense: tuple[Step, MachineResult],
) -> Report:
    """Return the report. values: what --json prints; sparse, dense: both steps as they ran."""
    from nmsat.reports.pages.full_report import steps_report

    name = Path(values["model"]).name
    asked = f"{values['method']} {values['pattern']}"
    runs = NetworkRuns(
        name,
        StepRun(name, DENSE, *dense, 1.0),
        (StepRun(name, asked, *sparse, values["bound"]),),
        {},
    )
    batch = f"batch {values['batch']}" if values["batch"] else "batch as recorded"
    text = "nmsat model --ablation prints it, over the dense step under the same switches"
    return steps_report([runs], batch, again(options), f"nmsat: {name}, {asked}", text)
