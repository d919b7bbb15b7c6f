"""The work behind `nmsat verify`, `nmsat verify fuzz` and the backends of `nmsat train` that run on SAT."""

from __future__ import annotations

import json
import os
import tempfile
import threading
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from nmsat.reports.work.progress import task

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy as np
    from numpy.typing import NDArray

    from nmsat.dataflow.contract.config import SatConfig
    from nmsat.dataflow.program.tensors import Place
    from nmsat.tb.run.runner import Built, Results

BENCH: Final = "nmsat.tb.machine.bench_runs"
"""Module of the cocotb tests."""

PAUSES: Final = 0.4
"""Share of paused cycles on every channel of the random memory."""

RANDOM_SHARE: Final = 5
"""One job in so many runs once more, behind a memory of random latency and back-pressure."""

PROGRAMS: Final = {"jobs": "random programs", "fuzz": "damaged programs", "layers": "programs of layers"}
"""Test of the bench -> what it runs, for the bar."""

_POLL_SECONDS: Final = 0.2


@dataclass(frozen=True)
class Verdict:
    """Random jobs on the RTL: how many ran, how many differed, in words which, cycles of the RTL.

    random_jobs: of them behind random memory, where values must agree and cycles cannot.
    """

    jobs: int
    random_jobs: int
    mismatches: int
    wrong: tuple[str, ...]
    cycles: int


@dataclass(frozen=True)
class FuzzVerdict:
    """Hostile programs on the RTL: how each ended (name of the error code or NONE), what went wrong.

    compared: those that are well-formed, whose memory and flags were held to the simulator's.
    """

    programs: int
    compared: int
    mismatches: int
    wrong: tuple[str, ...]
    ends: dict[str, int]


def build_machine(config: SatConfig) -> Built:
    """Return the Verilated machine of a configuration; the first build takes minutes."""
    from nmsat.tb.machine.model import build_verilog, sat_verilog
    from nmsat.tb.run.runner import check_tools

    check_tools()
    with task(f"the RTL of {config.name!r}") as running:  # two parts so unlike that no time left follows from one
        running.now("writing Verilog, if it has not been written before")
        files = sat_verilog(config)
        running.now("compiling, if it has not been compiled before (minutes)")
        return build_verilog(config, files)


def verify_jobs(config: SatConfig, jobs: int, seed: int) -> Verdict:
    """Run random jobs `seed`, `seed` + 1, ... on RTL and simulator; some of them again behind a random memory."""
    built = build_machine(config)
    exact = _bench(built, config, "jobs", seed, jobs, pauses=0.0)
    again = max(1, jobs // RANDOM_SHARE)
    loose = _bench(built, config, "jobs", seed, again, pauses=PAUSES)
    wrong = (*json.loads(exact["wrong"]), *(f"random memory: {text}" for text in json.loads(loose["wrong"])))
    return Verdict(jobs, again, int(exact["mismatches"]) + int(loose["mismatches"]), wrong, int(exact["cycles"]))


def verify_layers(config: SatConfig, first: int, count: int) -> Verdict:
    """Run programs of layers, `first`, `first` + 1, ... of `tb.machine.layer_jobs.CASES`, on RTL and simulator."""
    saved = _bench(build_machine(config), config, "layers", first, count, pauses=0.0)
    return Verdict(count, 0, int(saved["mismatches"]), tuple(json.loads(saved["wrong"])), int(saved["cycles"]))


def verify_fuzz(config: SatConfig, programs: int, seed: int) -> FuzzVerdict:
    """Run hostile programs on the RTL."""
    saved = _bench(build_machine(config), config, "fuzz", seed, programs, pauses=0.0)
    wrong = tuple(json.loads(saved["wrong"]))
    programs, compared, mismatches = (int(saved[name]) for name in ("programs", "compared", "mismatches"))
    return FuzzVerdict(programs, compared, mismatches, wrong, json.loads(saved["ends"]))


def run_image(
    config: SatConfig, regions: list[NDArray[np.uint8]], place: Place
) -> tuple[dict[str, int], list[NDArray[np.uint8]]]:
    """Run the program in `regions` on the RTL; return its counters and the regions as it left them."""
    job: dict[str, Any] = {f"region{number}": region for number, region in enumerate(regions)}
    job |= {"config": asdict(config), "place": [place.region, place.at, place.beats]}
    saved = _run(build_machine(config), "image", job).saved
    return saved["counters"], [saved[f"region{number}"] for number in range(len(regions))]


def train_on_rtl(
    config: SatConfig, job: dict[str, Any], show: Callable[[list[Any]], None], directory: Path | None = None
) -> dict[str, Any]:
    """Run the training job of `tb.machine.bench_runs.train`; show: called with what the bench tells after each step."""
    built = build_machine(config)
    with _told(show) as progress:
        return _run(built, "train", {**job, "config": asdict(config), "progress": progress}, directory).saved


def _bench(built: Built, config: SatConfig, test: str, first: int, count: int, *, pauses: float) -> dict[str, Any]:
    label = f"{PROGRAMS[test]} on the RTL{', random memory' if pauses else ''}"
    with task(label, count, "program") as running, _told(lambda _: running.advance()) as progress:
        job = {"config": asdict(config), "first": first, "count": count, "pauses": pauses, "progress": progress}
        return _run(built, test, job).saved


def _run(built: Built, test: str, job: dict[str, Any], directory: Path | None = None) -> Results:
    from nmsat.tb.run.runner import run

    return run(built, BENCH, [test], job=job, directory=directory).check()


@contextmanager
def _told(show: Callable[[Any], None]) -> Iterator[str]:
    """Give the path of a file; call `show` with each line of JSON that appears in it."""
    handle, path = tempfile.mkstemp(prefix="nmsat-progress-")
    os.close(handle)
    over = threading.Event()

    def follow() -> None:
        with Path(path).open(encoding="utf-8") as file:
            part = ""
            while True:
                last = over.is_set()
                part += file.read()
                *lines, part = part.split("\n")
                for line in lines:
                    show(json.loads(line))
                if last:
                    return
                over.wait(_POLL_SECONDS)

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield path
    finally:
        over.set()
        thread.join()
        Path(path).unlink()
