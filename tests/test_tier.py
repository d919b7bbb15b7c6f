"""The table and the record of make test and make regression."""

from __future__ import annotations

import json
import subprocess
import sys
from types import SimpleNamespace
from typing import TYPE_CHECKING

from tests.source import ROOT
from tests.tier import again, counted, record, table

if TYPE_CHECKING:
    from pathlib import Path


def report(nodeid: str, seconds: float = 1.0) -> SimpleNamespace:
    return SimpleNamespace(nodeid=nodeid, duration=seconds)


STATS = {
    "passed": [report("tests/load/test_loader.py::test_a", 2.0), report("tests/test_docs.py::test_b")],
    "failed": [report("tests/load/test_loader.py::test_c[2-8]", 3.0)],
    "": [report("tests/load/test_loader.py::test_a", 0.5)],
}


def test_rooms_are_counted() -> None:
    found = counted(STATS)
    assert found["load"] == {"passed": 1, "failed": 1, "error": 0, "skipped": 0, "seconds": 5.5}
    assert found["test_docs"]["passed"] == 1


def test_a_failure_names_the_command_that_repeats_it() -> None:
    assert again("tests/load/test_loader.py::test_c[2-8]") == "make test TEST='test_c[2-8]'"
    text = table(record(STATS, long=False))
    assert "FAILED tests/load/test_loader.py::test_c[2-8]; again: make test TEST='test_c[2-8]'" in text


def test_a_run_prints_the_table_and_writes_the_record(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pytest", "tests/test_readme.py", "-p", "no:cacheprovider", "-m", "not long"]
    done = subprocess.run(
        [*command, "--record", str(tmp_path / "r.json")], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "room" in done.stdout
    assert "seeds: fixed" in done.stdout
    found = json.loads((tmp_path / "r.json").read_text())
    assert (found["tier"], found["failures"]) == ("test", [])
    assert found["rooms"]["test_readme"]["passed"] > 3
