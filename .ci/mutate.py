"""Plant one fault after the other in a copy of the project and run the test that must see it.

make mutate, or: .venv/bin/python .ci/mutate.py --only "AxCACHE" --json out/mutants.json
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
FOLDERS: Final = ("algorithms", "dataflow", "sim", "hw", "tb", "reports", "tests")
FILES: Final = ("nmsat.py", "pyproject.toml")
PASSED, FAILED = 0, 1
LIMIT: Final = 900
"""Seconds after which a test counts as failed: a fault may be that nothing ends."""


@dataclass(frozen=True)
class Mutant:
    """A fault: in `file` the text `old`, which stands there once, becomes `new`; `test` must fail."""

    name: str
    file: str
    old: str
    new: str
    test: str


@dataclass(frozen=True)
class Verdict:
    """What came of a mutant; state: killed, alive, or broken where its test could not run at all."""

    tier: str
    name: str
    file: str
    test: str
    state: str
    seconds: float


def mutants() -> dict[str, list[Mutant]]:
    """Return the mutants by tier."""
    text = (ROOT / ".ci" / "mutants.toml").read_text(encoding="utf-8")
    return {tier: [Mutant(**one) for one in members] for tier, members in tomllib.loads(text).items()}


def copy(folder: Path) -> None:
    """Copy what tests need."""
    for name in FOLDERS:
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in FILES:
        shutil.copy(ROOT / name, folder / name)


def passes(folder: Path, test: str) -> int:
    """Run a test in the copy; return the exit code of pytest."""
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-m", "not long and not rtl", test]
    try:
        found = subprocess.run(command, cwd=folder, env=environment, capture_output=True, timeout=LIMIT, check=False)
    except subprocess.TimeoutExpired:
        return FAILED
    return found.returncode


def judge(folder: Path, tier: str, mutant: Mutant) -> Verdict:
    """Plant a mutant, run its test, take it out again; ValueError if its text does not stand there once."""
    path, began = folder / mutant.file, time.monotonic()
    text = path.read_text(encoding="utf-8")
    if text.count(mutant.old) != 1:
        raise ValueError(
            f"{mutant.name!r}: the text stands {text.count(mutant.old)} times in {mutant.file}; once it must"
        )
    try:
        path.write_text(text.replace(mutant.old, mutant.new), encoding="utf-8")
        code = passes(folder, mutant.test)
    finally:
        path.write_text(text, encoding="utf-8")
    state = {PASSED: "alive", FAILED: "killed"}.get(code, "broken")
    return Verdict(tier, mutant.name, mutant.file, mutant.test, state, round(time.monotonic() - began, 1))


def main(arguments: list[str] | None = None) -> int:
    """Run the chosen mutants; return 0 if all were killed and their tests pass without them."""
    parser = argparse.ArgumentParser(description="Plant faults; each must be seen by its test.")
    parser.add_argument("--only", default="", metavar="TEXT", help="mutants whose tier, file or name contain this")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the verdicts here")
    options = parser.parse_args(arguments)
    chosen = [
        (tier, mutant)
        for tier, members in mutants().items()
        for mutant in members
        if options.only in f"{tier} {mutant.file} {mutant.name}"
    ]
    if not chosen:
        parser.error(f"--only is {options.only!r}; no mutant has it")
    verdicts: list[Verdict] = []
    with tempfile.TemporaryDirectory(prefix="nmsat-mutants-") as place:
        folder = Path(place)
        copy(folder)
        for test in sorted({mutant.test for _, mutant in chosen}):
            if passes(folder, test) != PASSED:
                print(f"{test} does not pass without a fault; nothing is proved", file=sys.stderr)
                return FAILED
        for number, (tier, mutant) in enumerate(chosen, 1):
            found = judge(folder, tier, mutant)
            verdicts.append(found)
            print(f"{number:3}/{len(chosen)} {found.state:7} {found.seconds:6.1f} s  {tier:8} {found.name}", flush=True)
    killed = sum(found.state == "killed" for found in verdicts)
    print(f"{killed} of {len(verdicts)} killed")
    if options.json is not None:
        options.json.write_text(json.dumps([asdict(found) for found in verdicts], indent=1), encoding="utf-8")
    return PASSED if killed == len(verdicts) else FAILED


if __name__ == "__main__":
    sys.exit(main())
