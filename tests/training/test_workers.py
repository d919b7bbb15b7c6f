"""Pools of worker processes: what is left when they are cut off."""

from __future__ import annotations

import signal
import subprocess
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

STUBBORN = """\
import os, signal, sys, time
from nmsat.algorithms.training import workers

def stubborn(path):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    open(path, "w").close()
    time.sleep(600)

if __name__ == "__main__":
    workers.PATIENCE_SECONDS = 0.2
    try:
        with workers.workers(1) as pool:
            pool.submit(stubborn, sys.argv[1])
            while not os.path.exists(sys.argv[1]):
                time.sleep(0.01)
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        os.kill(os.getpid(), signal.SIGTERM)  # nothing cleans up after this
"""
"""A program whose worker does not hear SIGTERM, and which ends as soon as its pool has ended."""


def test_a_pool_whose_worker_had_to_be_killed_leaves_nothing(tmp_path: Path) -> None:
    program = tmp_path / "stubborn.py"
    program.write_text(STUBBORN)
    words = [sys.executable, str(program), str(tmp_path / "began")]
    done = subprocess.run(words, check=False, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGTERM, "", "")
