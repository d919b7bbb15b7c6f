"""Plant a fault in a copy of the project, and run a proof there: it must find the fault."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from nmsat.tb.formal.proof import Fault, Proof

ROOT: Final = Path(__file__).resolve().parents[2]
COPIED: Final = ("algorithms", "dataflow", "hw", "sim", "tb", "reports")


def plant(fault: Fault, folder: Path) -> None:
    """Copy the project to an empty folder, with the fault; ValueError if its text does not stand there once."""
    for name in COPIED:
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "tables"))
    shutil.copy(ROOT / "nmsat.py", folder)
    path = folder / fault.file
    text = path.read_text(encoding="utf-8")
    if text.count(fault.old) != 1:
        raise ValueError(f"{fault.name!r}: its text stands {text.count(fault.old)} times in {fault.file}; once it must")
    path.write_text(text.replace(fault.old, fault.new), encoding="utf-8")


def refute(proof: Proof, fault: Fault, folder: Path) -> str:
    """Return what a proof says with a fault planted, from reset on: its line of the table.

    folder: empty, takes the copy. Raises RuntimeError if the proof could not be run.
    """
    plant(fault, folder)
    command = [sys.executable, "-m", "nmsat.tb.formal.tier", "--bounded", proof.name]
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith(proof.name)]
    if not lines:
        raise RuntimeError(f"{proof.name} did not run with {fault.name!r}: {done.stderr[-2000:]}")
    return lines[0]
