"""Sweeps on a cluster of several processes (`make test-dask`): the table of one process, also if a worker dies."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

import pytest

from nmsat.reports.work import sweep
from nmsat.reports.work.sweep_journal import JOURNAL
from tests.source import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.conftest import Outcome

    Call = Callable[[str], Outcome]

pytest.importorskip("distributed")
pytestmark = pytest.mark.exact

SWEEP = """\
config = "tiny"
network = "mlp"
batch = 16
method = ["dense", "bdwp"]

[set]
columns = [2, 4, 8, 16]
memory.latency_ns = [60, 90, 120, 240]
"""


class Cluster:
    """A scheduler and workers, each a process of its own, as on several machines."""

    def __init__(self, folder: Path, count: int) -> None:
        self.folder = folder
        command = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--port", "0", "--no-dashboard"]
        self.scheduler = self._start([*command, "--scheduler-file", str(folder / "scheduler.json")])
        self.workers = [self.add() for _ in range(count)]
        self.address = json.loads(self._file().read_text())["address"]

    def _file(self) -> Path:
        file, end = self.folder / "scheduler.json", time.monotonic() + 60
        while not file.exists() or not file.read_text().endswith("}"):
            assert time.monotonic() < end
            time.sleep(0.1)
        return file

    def add(self) -> subprocess.Popen[bytes]:
        """Start a worker of one thread."""
        self._file()
        command = [sys.executable, "-m", "distributed.cli.dask_worker", "--nthreads", "1", "--no-nanny"]
        return self._start([*command, "--no-dashboard", "--scheduler-file", str(self.folder / "scheduler.json")])

    def _start(self, command: list[str]) -> subprocess.Popen[bytes]:
        return subprocess.Popen(command, cwd=self.folder, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)

    def end(self) -> None:
        """End all processes."""
        for process in (*self.workers, self.scheduler):
            process.kill()
            process.wait()


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    found = Cluster(tmp_path, 3)
    yield found
    found.end()


def test_a_worker_that_dies_in_the_middle_changes_nothing(call: Call, cluster: Cluster, tmp_path: Path) -> None:
    file = tmp_path / "s.toml"
    file.write_text(SWEEP)
    here, there = tmp_path / "here", tmp_path / "there"
    assert call(f"sweep {file} --out {here} --estimate").code == 0

    def kill() -> None:
        journal = there / JOURNAL
        while not journal.exists() or journal.read_bytes().count(b"\n") < 4:
            time.sleep(0.01)
        os.kill(cluster.workers[0].pid, signal.SIGKILL)

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    outcome = call(f"sweep {file} --out {there} --estimate --scheduler {cluster.address}")
    assert outcome.code == 0, outcome.err
    killer.join(10)
    assert cluster.workers[0].wait(10) == -signal.SIGKILL
    assert [worker.poll() for worker in cluster.workers[1:]] == [None, None]
    keys = [json.loads(line)["key"] for line in (there / JOURNAL).read_text().splitlines()[1:]]
    assert len(keys) == len(set(keys)) == 16
    assert (there / "points.parquet").read_bytes() == (here / "points.parquet").read_bytes()


def test_a_scheduler_that_dies_is_said_in_a_line_and_the_same_command_goes_on(cluster: Cluster, tmp_path: Path) -> None:
    """In a process of its own: the log of the library must be silent too."""
    file = tmp_path / "s.toml"
    file.write_text(SWEEP)
    command = [sys.executable, "-m", "nmsat", "sweep", str(file), "--out", str(tmp_path / "out"), "--estimate"]
    there = [*command, "--quiet", "--scheduler", cluster.address]
    with subprocess.Popen(there, cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as running:
        journal = tmp_path / "out" / JOURNAL
        while not journal.exists() or journal.read_bytes().count(b"\n") < 2:
            assert running.poll() is None
            time.sleep(0.002)
        cluster.scheduler.kill()
        told = running.communicate(timeout=120)[1]
    assert (running.returncode, told.count("\n")) == (2, 1), told
    assert f"scheduler is {cluster.address!r}; it was lost" in told
    assert "the same command goes on" in told
    kept = journal.read_bytes()
    assert subprocess.run(command, cwd=tmp_path, capture_output=True, check=False).returncode == 0
    assert (tmp_path / "out" / JOURNAL).read_bytes().startswith(kept)


def test_the_points_of_the_front_run_on_the_cluster_as_well(call: Call, cluster: Cluster, tmp_path: Path) -> None:
    example = ROOT / "docs" / "sweep.toml"
    for name, more in (("here", ""), ("there", f" --scheduler {cluster.address}")):
        assert call(f"sweep {example} --out {tmp_path / name}{more}").code == 0
    tables = [(tmp_path / name / "points.parquet").read_bytes() for name in ("here", "there")]
    assert tables[0] == tables[1]


def test_a_cluster_with_other_code_is_refused(
    call: Call, cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = os.getpid()
    monkeypatch.setattr(sweep, "sweep_version", lambda: str(os.getpid() == here))
    outcome = call(f"sweep {ROOT / 'docs' / 'sweep.toml'} --out {tmp_path / 'out'} --scheduler {cluster.address}")
    assert (outcome.code, outcome.err.count("another version of nmsat")) == (2, 1)
    assert not (tmp_path / "out" / "points.parquet").exists()


def test_no_scheduler_is_said_in_a_line(call: Call, tmp_path: Path) -> None:
    line = f"sweep {ROOT / 'docs' / 'sweep.toml'} --out {tmp_path / 'out'} --scheduler tcp://127.0.0.1:1 --quiet"
    outcome = call(line)
    assert (outcome.code, outcome.err.count("\n")) == (2, 1)
    assert "scheduler is 'tcp://127.0.0.1:1'; it cannot be reached" in outcome.err
