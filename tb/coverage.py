"""The tier of coverage: make coverage, or python -m nmsat.tb.coverage --json out/coverage.json.

Random, damaged and faulty programs run on the Verilated machine of `tiny`, which counts the lines and branches of its
Verilog; what instructions and ends they had fills the bins of `tb.machine.bins`. It fails while one is empty.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
import time
from collections import Counter, defaultdict
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from nmsat.dataflow.contract.config import preset
from nmsat.tb.machine.bins import BINS, GROUPS
from nmsat.tb.machine.model import TOP, sat_verilog
from nmsat.tb.run.runner import MissingToolError, SimulationError, build, run

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from nmsat.tb.run.runner import Built

TINY: Final = preset("tiny")

COVERAGE: Final = "--coverage-line"
"""Argument by which Verilator counts lines and branches."""

_WRITER: Final = "$auto$verilog_backend"
"""What stands in branches without content that Yosys adds, so that a block runs at the start: none of the circuit."""

_POINT: Final = re.compile(r"^C '(.*)' (\d+)$", re.MULTILINE)


@dataclass(frozen=True)
class Part:
    """Runs of a kind. bench, test: what runs them; count: how many; pauses: share of paused cycles of their memory.

    seeds: of programs that run as well, as they do what random ones do seldom.
    """

    name: str
    bench: str
    test: str
    count: int
    pauses: float = 0.0
    seeds: tuple[int, ...] = ()

    @property
    def programs(self) -> int:
        """How many run."""
        return self.count + len(self.seeds)


PARTS: Final = (
    Part("random", "bench_runs", "jobs", 24, seeds=(33, 31, 107, 109, 250, 119, 256)),
    Part("random, memory that pauses", "bench_runs", "jobs", 8, 0.4, (31, 266, 186, 134, 107, 278)),
    Part("damaged", "bench_runs", "fuzz", 40, seeds=(561, 190, 580, 183, 185, 266, 691, 197, 71, 367)),
    Part("with errors of memory", "bench_sat", "faults", 8),
    Part("cut short by a soft reset", "bench_sat", "soft_reset", 3),
    Part("every register", "bench_sat", "registers", 0),
)
"""What runs, seed by seed from that of the command on, and seeds beside."""


@dataclass(frozen=True)
class Module:
    """Lines and branches of an emitted module, and how many of them were reached."""

    name: str
    lines: int
    lines_hit: int
    branches: int
    branches_hit: int


@dataclass(frozen=True)
class Missed:
    """A line or branch that nothing reached: its module, the line of the Verilog (from 1) and what stands there."""

    module: str
    kind: str
    line: int
    what: str
    text: str


def points(text: str) -> dict[tuple[str, str, str], int]:
    """Return what Verilator wrote: (file, kind, place) -> count; kind: line or branch; all instances together."""
    found: Counter[tuple[str, str, str]] = Counter()
    for keys, count in _POINT.findall(text):
        pairs = dict(pair.split("\x02", 1) for pair in keys.split("\x01") if pair)
        kind = pairs["page"].partition("/")[0].removeprefix("v_")
        place = f"{pairs['l']}.{pairs.get('n', '')} {pairs.get('o', '')} {pairs['page']}"
        found[Path(pairs["f"]).name, kind, place] += int(count)
    return dict(found)


def of_circuit(
    found: Mapping[tuple[str, str, str], int], sources: Mapping[str, str]
) -> dict[tuple[str, str, str], int]:
    """Return the counts without those of branches that Yosys adds; sources: Verilog by file."""
    lines = {file: text.splitlines() for file, text in sources.items()}
    return {key: count for key, count in found.items() if _WRITER not in lines[key[0]][_line(key[2]) - 1]}


def _line(place: str) -> int:
    """Return the line of a place, from 1."""
    return int(place.partition(".")[0])


def missed(found: Mapping[tuple[str, str, str], int], sources: Mapping[str, str]) -> list[Missed]:
    """Return what was not reached, in the order of the Verilog; sources: its text by file."""
    rows = []
    for (file, kind, place), count in found.items():
        if not count:
            line, what = _line(place), place.split(" ")[1]
            rows.append(Missed(file.removesuffix(".v"), kind, line, what, sources[file].splitlines()[line - 1].strip()))
    return sorted(rows, key=lambda row: (row.module, row.line, row.kind, row.what))


def modules(found: Mapping[tuple[str, str, str], int]) -> list[Module]:
    """Return a row for each emitted module, by name."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for (file, kind, _), count in found.items():
        counts[file][kind] += 1
        counts[file][f"{kind} hit"] += count > 0
    rows = []
    for file, of in sorted(counts.items()):
        rows.append(Module(file.removesuffix(".v"), of["line"], of["line hit"], of["branch"], of["branch hit"]))
    return rows


def run_part(part: Part, seed: int, built: Built, folder: Path) -> tuple[dict[str, int], str, list[str]]:
    """Run a part; return what it fills, what Verilator counted, and what differed from the simulator."""
    job: dict[str, Any] = {"config": TINY.name, "first": seed, "count": part.count, "pauses": part.pauses}
    if part.seeds:
        job["seeds"] = [*range(seed, seed + part.count), *part.seeds]
    results = run(built, f"nmsat.tb.machine.{part.bench}", [part.test], job=job, directory=folder)
    counted = folder / "coverage.dat"
    text = counted.read_text(encoding="utf-8", errors="replace") if counted.is_file() else ""
    try:
        saved = results.check().saved
    except SimulationError as error:
        return {}, text, [str(error)]
    return json.loads(saved.get("bins", "{}")), text, json.loads(saved.get("wrong", "[]"))


def empty(bins: Mapping[str, int]) -> list[str]:
    """Return the declared bins that nothing fills."""
    return [name for name in BINS if not bins.get(name)]


def table(bins: Mapping[str, int], rows: Sequence[Module]) -> str:
    """Return one line per group of bins and one per module."""
    lines = [f"{'bins':24} {'filled':>11}  least filled"]
    for group in GROUPS:
        names = [name for name, of in BINS.items() if of == group]
        least = min(names, key=lambda name: bins.get(name, 0))
        filled = f"{sum(bool(bins.get(name)) for name in names)} of {len(names)}"
        lines.append(f"{group:24} {filled:>11}  {least.partition(': ')[2]} ({bins.get(least, 0)})")
    lines += ["", f"{'module':24} {'lines':>15} {'branches':>15}"]
    for row in (*rows, total(rows)):
        lines.append(f"{row.name:24} {_share(row.lines_hit, row.lines)} {_share(row.branches_hit, row.branches)}")
    return "\n".join(lines)


def total(rows: Iterable[Module]) -> Module:
    """Return the sum over modules."""
    found = [(row.lines, row.lines_hit, row.branches, row.branches_hit) for row in rows]
    return Module("all", *(sum(column) for column in zip(*found, strict=True)) if found else (0, 0, 0, 0))


def _share(hit: int, count: int) -> str:
    return f"{hit:5}/{count:<5}{100 * hit / count:4.0f}" if count else f"{'':>10}   -"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run all parts; return 0 if nothing differs and no bin is empty, 1 if not, 2 without the tools."""
    parser = argparse.ArgumentParser(description="Count what random programs reach of the machine and of its Verilog.")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="seed of the first program of each part")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what was counted here")
    options = parser.parse_args(arguments)
    began = time.monotonic()
    sources = sat_verilog(TINY)
    try:
        built = build(sources, TOP, build_args=(COVERAGE,))
    except MissingToolError as error:
        print(error, file=sys.stderr)
        return 2
    bins: Counter[str] = Counter(dict.fromkeys(BINS, 0))
    reached: Counter[tuple[str, str, str]] = Counter()
    wrong: list[str] = []
    with tempfile.TemporaryDirectory(prefix="nmsat-coverage-") as folder:
        for number, part in enumerate(PARTS):
            print(f"{number + 1}/{len(PARTS)} {part.programs} programs: {part.name}", file=sys.stderr)
            filled, text, differs = run_part(part, options.seed, built, Path(folder) / str(number))
            bins.update(filled)
            reached.update(points(text))
            wrong += [f"{part.name}: {what}" for what in differs]
    counted = of_circuit(reached, sources)
    rows = modules(counted)
    missing = empty(bins)
    print(table(bins, rows))
    for name in missing:
        print(f"EMPTY {name}")
    for what in wrong:
        print(f"DIFFERS {what}")
    repeat = f"make coverage SEED={options.seed}"
    seconds = round(time.monotonic() - began)
    print(f"{len(BINS) - len(missing)} of {len(BINS)} bins filled, {len(wrong)} differences; {seconds} s")
    if missing or wrong:
        print(f"again: {repeat}")
    if options.json is not None:
        record: dict[str, Any] = {"config": TINY.name, "seed": options.seed, "repeat": repeat, "seconds": seconds}
        record |= {"parts": [asdict(part) for part in PARTS], "empty": missing, "differences": wrong, "bins": bins}
        record |= {"modules": [asdict(row) for row in rows]}
        record |= {"missed": [asdict(row) for row in missed(counted, sources)]}
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return 1 if missing or wrong else 0


if __name__ == "__main__":
    sys.exit(main())
