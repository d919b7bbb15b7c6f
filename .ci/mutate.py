"""Plant one fault after the other in a copy of the project and run the test, or the proof, that must see it.

make mutate, or: .venv/bin/python .ci/mutate.py --only "AxCACHE" --json out/mutants.json

What was found is kept in the JSON file, and looked at again: a mutant whose source and test are as they were then is
not run a second time.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn

import amaranth.sim
import cocotb
import hypothesis
import numpy as np
import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

ROOT: Final = Path(__file__).resolve().parent.parent
FOLDERS: Final = ("algorithms", "dataflow", "sim", "hw", "tb", "reports", "tests")
FILES: Final = ("nmsat.py", "pyproject.toml")
PASSED, FAILED, BROKEN = 0, 1, 4
LIMIT: Final = 90
"""Seconds of processor time after which a test counts as failed: a fault may be that nothing ends."""

PATIENCE: Final = 3600
"""Seconds after which it does whatever it waits for."""

SEEDS_SAID: Final = "fixed: each is written in its test"

PROOF: Final = "proof "
"""How the test of a mutant begins that a proof of `make formal` must see."""

GOOD: Final = ("killed", "equivalent")

SHARED: Final = (amaranth.sim, cocotb, hypothesis, np)
"""Packages that tests need, imported once: a test runs in a copy of this process."""


@dataclass(frozen=True)
class Mutant:
    """A fault: in `file` the text `old`, which stands there once, becomes `new`; `test` must fail.

    test: of pytest, or "proof NAME": one of `make formal`, from reset on. equivalent: why nothing can see it; then its
    test must pass. missed: every test passed with it once.
    """

    name: str
    file: str
    old: str
    new: str
    test: str
    equivalent: str = ""
    missed: bool = False

    @property
    def said(self) -> str:
        """What `--only` looks at."""
        return f"{self.file} {self.name}{' (missed once)' if self.missed else ''}"


@dataclass(frozen=True)
class Verdict:
    """What came of a mutant.

    state: killed; equivalent (alive, as was said); alive (or killed though it was said to be equivalent); broken, where
    its test could not run at all; not run. key: of all that it was found with; seconds: of processor time, 0 where
    it was not measured.
    """

    tier: str
    name: str
    file: str
    test: str
    state: str
    why: str = ""
    seconds: float = 0.0
    key: str = ""
    missed: bool = False

    @property
    def repeat(self) -> str:
        """The command that runs it again."""
        return f'make mutate ONLY="{self.file} {self.name}" AGAIN=1'


def mutants() -> dict[str, list[Mutant]]:
    """Return the mutants by tier."""
    text = (ROOT / ".ci" / "mutants.toml").read_text(encoding="utf-8")
    return {tier: [Mutant(**one) for one in members] for tier, members in tomllib.loads(text).items()}


def key(mutant: Mutant, root: Path | None = None) -> str:
    """Return a digest of a mutant, of the source that it changes, and of the file of its test.

    root: where these lie, else in the project.
    """
    path, root = mutant.test.partition("::")[0], root or ROOT
    texts = [(root / mutant.file).read_text(encoding="utf-8")]
    if not mutant.test.startswith(PROOF):
        texts.append((root / path).read_text(encoding="utf-8"))
    parts = [mutant.file, mutant.old, mutant.new, mutant.test, *texts]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def copy(folder: Path) -> None:
    """Copy what tests need."""
    for name in FOLDERS:
        shutil.copytree(ROOT / name, folder / name)
    for name in FILES:
        shutil.copy(ROOT / name, folder / name)


def passes(folder: Path, test: str, cache: Path | None = None) -> int:
    """Run a test in the copy; return the exit code of pytest. cache: where it keeps what it builds."""
    changes = {} if cache is None else {"NMSAT_BUILD_DIR": str(cache)}
    if test.startswith(PROOF):
        return _proved(folder, test.removeprefix(PROOF), changes)
    began, child = time.monotonic(), os.fork()
    if not child:
        _run_pytest(folder, test, changes)
    try:
        while time.monotonic() < began + PATIENCE:
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                child = 0
                code = os.waitstatus_to_exitcode(status)
                return {-signal.SIGXCPU: FAILED}.get(code, code)
            time.sleep(0.05)
    finally:
        if child:
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
    return FAILED


def _run_pytest(folder: Path, test: str, changes: dict[str, str]) -> NoReturn:
    """Be a process of its own that runs a test: packages that all tests need are here already."""
    code: int = BROKEN
    try:
        os.setsid()
        gc.freeze()  # pytest collects garbage at its end: not what this process had already
        nowhere = os.open(os.devnull, os.O_RDWR)
        for stream in range(3):
            os.dup2(nowhere, stream)
        resource.setrlimit(resource.RLIMIT_CPU, (LIMIT, LIMIT + 10))
        os.environ.update(changes, PYTEST_DISABLE_PLUGIN_AUTOLOAD="1")
        os.chdir(folder)
        sys.path[0] = str(folder)
        code = int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", "-m", "", test]))
    finally:
        os._exit(code)


def _proved(folder: Path, proof: str, changes: dict[str, str]) -> int:
    command = [sys.executable, "-m", "nmsat.tb.formal.tier", "--bounded", proof]
    environment = {**os.environ, **changes}
    try:
        found = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, timeout=PATIENCE, check=False
        )
    except subprocess.TimeoutExpired:
        return FAILED
    return BROKEN if found.returncode == FAILED and " failed: " not in found.stdout else found.returncode


def plant(path: Path, text: str) -> None:
    """Write a source, and forget what Python has compiled of it: that is told apart by seconds and length only."""
    path.write_text(text, encoding="utf-8")
    for compiled in (path.parent / "__pycache__").glob(f"{path.stem}.*"):
        compiled.unlink()


def judge(folder: Path, tier: str, mutant: Mutant, cache: Path | None = None) -> Verdict:
    """Plant a mutant, run its test, take it out again; ValueError if its text does not stand there once."""
    path, began = folder / mutant.file, _processor()
    text = path.read_text(encoding="utf-8")
    if text.count(mutant.old) != 1:
        raise ValueError(
            f"{mutant.name!r}: the text stands {text.count(mutant.old)} times in {mutant.file}; once it must"
        )
    try:
        plant(path, text.replace(mutant.old, mutant.new))
        code = passes(folder, mutant.test, cache)
    finally:
        plant(path, text)
    state = {PASSED: "alive", FAILED: "killed"}.get(code, "broken")
    if mutant.equivalent:
        state = {"alive": "equivalent", "killed": "alive"}.get(state, state)
    return replace(_unseen(tier, mutant), state=state, seconds=round(_processor() - began, 1), key=key(mutant, folder))


def _processor() -> float:
    """Return the seconds of processor time of all processes that this one has waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _unseen(tier: str, mutant: Mutant) -> Verdict:
    return Verdict(tier, mutant.name, mutant.file, mutant.test, "not run", mutant.equivalent, missed=mutant.missed)


def tree() -> str:
    """Return a digest of the source and of all tests."""
    found = hashlib.sha256()
    for path in sorted(path for name in FOLDERS for path in (ROOT / name).rglob("*.py")):
        found.update(str(path.relative_to(ROOT)).encode() + path.read_bytes())
    return found.hexdigest()[:16]


@dataclass
class Record:
    """What is known: verdicts by the key of their mutant, and which tests pass without a fault in a source."""

    verdicts: dict[str, Verdict]
    source: str
    passing: set[str]

    @classmethod
    def read(cls, path: Path | None) -> Record:
        """Return what a file holds, nothing without it."""
        source = tree()
        if path is None or not path.exists():
            return cls({}, source, set())
        found = json.loads(path.read_text(encoding="utf-8"))
        verdicts = [Verdict(**{name: one[name] for name in one if name != "repeat"}) for one in found["mutants"]]
        passing = set(found["passing"]) if found["source"] == source else set()
        return cls({one.key: one for one in verdicts if one.key}, source, passing)

    def of(self, chosen: Sequence[tuple[str, Mutant]]) -> list[Verdict]:
        """Return a verdict for each mutant, as its table has it."""
        verdicts = []
        for tier, mutant in chosen:
            verdict, one = self.verdicts.get(key(mutant)), _unseen(tier, mutant)
            if verdict is not None and verdict.state != ("killed" if mutant.equivalent else "equivalent"):
                one = replace(one, state=verdict.state, seconds=verdict.seconds, key=verdict.key)
            verdicts.append(one)
        return verdicts

    def write(self, path: Path, chosen: Sequence[tuple[str, Mutant]]) -> None:
        """Write it, whole or not at all."""
        verdicts = self.of(chosen)
        members: list[dict[str, Any]] = [{**asdict(verdict), "repeat": verdict.repeat} for verdict in verdicts]
        seconds = round(sum(verdict.seconds for verdict in verdicts))
        found = {"seconds": seconds, "seeds": SEEDS_SAID, "source": self.source, "passing": sorted(self.passing)}
        found["mutants"] = members
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f"{path.name}.part")
        part.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        part.replace(path)


def table(verdicts: Sequence[Verdict]) -> str:
    """Return a line per tier, and one per mutant that is not as it should be."""
    states = ("killed", "equivalent", "alive", "broken", "not run")
    lines = [f"{'tier':10} {'mutants':>8}" + "".join(f"{state:>12}" for state in states) + f"{'seconds':>9}"]
    for tier in dict.fromkeys(verdict.tier for verdict in verdicts):
        members = [verdict for verdict in verdicts if verdict.tier == tier]
        counts = "".join(f"{sum(one.state == state for one in members):12}" for state in states)
        lines.append(f"{tier:10} {len(members):8}{counts}{sum(one.seconds for one in members):9.0f}")
    bad = [verdict for verdict in verdicts if verdict.state in ("alive", "broken")]
    lines += [f"{v.state}: {v.tier}, {v.file}, {v.name} (again: {v.repeat})" for v in bad]
    return "\n".join(lines)


def run(todo: Sequence[tuple[str, Mutant]], record: Record, until: float, keep: Callable[[], None]) -> str:
    """Run mutants until a time has come, and note what is found; return a test that fails without a fault.

    keep: is called behind each of them.
    """
    with tempfile.TemporaryDirectory(prefix="nmsat-mutants-") as place:
        folder, cache = Path(place) / "project", ROOT / "build" / "mutants"
        folder.mkdir()
        copy(folder)
        for number, (tier, mutant) in enumerate(todo, 1):
            if time.monotonic() > until:
                break
            if mutant.test not in record.passing and passes(folder, mutant.test) != PASSED:
                return mutant.test
            record.passing.add(mutant.test)
            kept = set(cache.glob("verilated/*"))
            verdict = judge(folder, tier, mutant, cache)
            record.verdicts[verdict.key] = verdict
            for model in set(cache.glob("verilated/*")) - kept:
                if model.is_dir() and not model.name.startswith("library"):
                    shutil.rmtree(model)
            what = f"{verdict.state:10} {verdict.seconds:6.1f} s  {tier:8} {mutant.name}"
            print(f"{number:3}/{len(todo)} {what}", flush=True)
            keep()
    return ""


def main(arguments: list[str] | None = None) -> int:
    """Run the chosen mutants; return 0 if all were killed, or live as was said, and tests pass without them."""
    parser = argparse.ArgumentParser(description="Plant faults; each must be seen by its test.")
    parser.add_argument("--only", default="", metavar="TEXT", help="mutants whose tier, file and name contain this")
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep the verdicts here; those that still hold stay")
    parser.add_argument("--again", action="store_true", help="run those too of which the verdict is known")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no mutant after so many seconds")
    options = parser.parse_args(arguments)
    everything = [(tier, mutant) for tier, members in mutants().items() for mutant in members]
    chosen = [(tier, one) for tier, one in everything if options.only in f"{tier} {one.said}"]
    if not chosen:
        parser.error(f"--only is {options.only!r}; no mutant has it")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(FAILED))  # what runs ends with us
    record = Record.read(options.json)
    before = {verdict.key for verdict in record.of(chosen) if verdict.state in GOOD}
    todo = [(tier, one) for tier, one in chosen if options.again or key(one) not in before]

    def keep() -> None:
        if options.json is not None:
            record.write(options.json, everything)

    wrong = run(todo, record, time.monotonic() + options.seconds, keep)
    if wrong:
        print(f"{wrong} does not pass without a fault; nothing is proved", file=sys.stderr)
        return FAILED
    keep()
    verdicts = record.of(chosen)
    print(table(verdicts))
    good = sum(verdict.state in GOOD for verdict in verdicts)
    print(f"{good} of {len(verdicts)} killed or equivalent; seeds: {SEEDS_SAID}")
    return PASSED if good == len(verdicts) else FAILED


if __name__ == "__main__":
    sys.exit(main())
