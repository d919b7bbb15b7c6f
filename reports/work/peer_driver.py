"""Runs a foreign simulator: a program of its own, started by `peer_runs` with the Python of their environment.

It reads one JSON object from stdin and writes one to stdout. It imports nothing of nmsat, which is not there, and what
the simulators print goes nowhere.

    {"simulator": "scalesim", "config": TEXT, "topology": TEXT, "gemm": true}
        -> {"reports": {"COMPUTE_REPORT.csv": TEXT, ...}, "seconds": S, "peak_bytes": B, "version": V}
    {"simulator": "zigzag", "workload": [...], "accelerator": {...}, "mapping": [...]}
        -> {"found": [{"latency_total2": ..., ...}], ...}
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import io
import json
import logging
import multiprocessing
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

LAYOUT = "Layer name,\n"
"""SCALE-Sim wants a file of data layouts even where none is used."""

FIGURES = ("ideal_temporal_cycle", "latency_total0", "latency_total1", "latency_total2")
"""What is taken of an evaluation of ZigZag."""


def scalesim(job: dict[str, Any]) -> dict[str, Any]:
    """Run layers one after the other; the reports as SCALE-Sim writes them."""
    module = importlib.import_module("scalesim.scale_sim")
    for name, text in (("run.cfg", job["config"]), ("topology.csv", job["topology"]), ("layout.csv", LAYOUT)):
        Path(name).write_text(text, encoding="utf-8")
    start = time.process_time()
    run = module.scalesim(
        save_disk_space=True,  # no traces
        verbose=False,
        config="run.cfg",
        topology="topology.csv",
        layout="layout.csv",
        input_type_gemm=job["gemm"],
    )
    run.run_scale(top_path="out")
    seconds = time.process_time() - start
    reports = {path.name: path.read_text(encoding="utf-8") for path in sorted(Path("out").rglob("*.csv"))}
    return {"reports": reports, "seconds": seconds, "version": importlib.metadata.version("scalesim")}


def zigzag(job: dict[str, Any]) -> dict[str, Any]:
    """Evaluate layers; the search for a temporal mapping is part of the time."""
    # Its annealing, not used here, wants a package that there is no wheel of; this is what that one is made of.
    sys.modules["multiprocessing_on_dill"] = multiprocessing
    api = importlib.import_module("zigzag.api")
    for name in ("workload", "accelerator", "mapping"):  # JSON is YAML, too
        Path(f"{name}.yaml").write_text(json.dumps(job[name]), encoding="utf-8")
    start = time.process_time()
    *_, layers = api.get_hardware_performance_zigzag(
        "workload.yaml", "accelerator.yaml", "mapping.yaml", dump_folder="out", loma_show_progress_bar=False
    )
    seconds = time.process_time() - start
    # One evaluation that sums all layers, and what it was summed from.
    found = [{name: float(getattr(one, name)) for name in FIGURES} for one, _ in layers[0][1]]
    return {"found": found, "seconds": seconds, "version": importlib.metadata.version("zigzag-dse")}


def peak_bytes() -> int:
    """Return the most memory that this process has held; what was there before it was started does not count."""
    return status_bytes("self", "VmHWM")


def status_bytes(process: int | str, name: str) -> int:
    """Return a number of the memory of a process, of /proc/PROCESS/status."""
    for line in Path(f"/proc/{process}/status").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{name}:"):
            return 1024 * int(line.split()[1])
    raise RuntimeError(f"/proc/{process}/status has no {name}")


def main() -> int:
    """Answer what stdin asks for."""
    job = json.load(sys.stdin)
    run = {"scalesim": scalesim, "zigzag": zigzag}[job["simulator"]]
    logging.disable(logging.CRITICAL)
    os.environ["MPLBACKEND"] = "agg"
    with tempfile.TemporaryDirectory(prefix="nmsat-peer-") as folder:
        os.environ["MPLCONFIGDIR"] = folder
        with contextlib.chdir(folder), contextlib.redirect_stdout(io.StringIO()):
            found = run(job)
    print(json.dumps({**found, "peak_bytes": peak_bytes()}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
