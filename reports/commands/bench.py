"""`nmsat bench`: how fast everything is, as ratios of works that run in turns in one run, and beside an earlier run."""

from __future__ import annotations

import json
import resource
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from nmsat.reports.commands.base import Answer, Command, add_config, whole
from nmsat.reports.version import VERSION
from nmsat.reports.work.progress import Task, task
from nmsat.reports.work.text import InputError, table
from nmsat.sim.results.provenance import Source, told

if TYPE_CHECKING:
    import argparse

    from nmsat.reports.work.bench import Change, Rounds

MAX_ROUNDS: Final = 100
"""Largest number of rounds, and of builds."""

FORM: Final = 2
"""Number of the form of the JSON, which --against must be of."""

_KERNEL: Final = {
    "to_blas": "contract product, times as fast as BLAS",
    "to_numpy": "contract product, times as fast as the loop in NumPy",
    "sparse_to_dense": "contract product at 2:8, times as fast as dense",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument(
        "--only-kernel", action="store_true", help="measure the products and steps of contract arithmetic, nothing else"
    )
    parser.add_argument("--no-rtl", action="store_true", help="leave out what runs on Verilog, is written or compiled")
    parser.add_argument(
        "--rounds",
        type=lambda text: whole(text, 1, MAX_ROUNDS),
        default=5,
        metavar="R",
        help="turns of each work (default: 5); medians are told",
    )
    parser.add_argument(
        "--builds",
        type=lambda text: whole(text, 0, MAX_ROUNDS),
        default=1,
        metavar="B",
        help="how often the machine's Verilog is written and compiled anew, minutes each (default: 1); two are "
        "compared with an earlier run, one is told only",
    )
    parser.add_argument(
        "--against",
        type=Path,
        default=None,
        metavar="FILE",
        help="what an earlier `nmsat bench --json` said; exit code 1 if something got slower by more than the spread",
    )
    add_config(parser, "tiny", "--rtl-config", "array and machine that are compiled; larger ones take long to build")


def run(options: argparse.Namespace) -> Answer:
    """Measure, and compare with an earlier run if that was asked for."""
    before = read_before(options.against, options.rtl_config.name, engines()) if options.against else None
    with task("bench") as running:  # its parts are so unlike that no time left follows from those that are done
        values = _measure(options, running)
    text = _text(values)
    if before is None:
        return Answer(values, text)
    from nmsat.reports.work.bench import slower

    worse, unjudged = slower(values, before)
    values["against"] = {
        "file": str(options.against),
        "version": before["version"],
        "slower": [vars(change) for change in worse],
        "not_judged": unjudged,
    }
    return Answer(values, f"{text}\n\n{_against(worse, unjudged)}", ok=not worse)


def engines() -> str:
    """Return which engines the simulator runs: a run in Python says nothing of one in compiled code."""
    from nmsat.sim.compiled import ready

    return "compiled" if ready() else "Python"


def read_before(path: Path, config: str, mine: str) -> dict[str, Any]:
    """Return what an earlier run said; InputError for a file that is no such thing, or of another configuration."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no JSON"
        raise InputError(f"--against is {str(path)!r}; it cannot be read: {why}") from None
    if not isinstance(found, dict) or found.get("form") != FORM or not _is_record(found):
        raise InputError(f"--against is {str(path)!r}; it is not what `nmsat bench --json` of this version writes")
    for what, ours in (("rtl_config", config), ("engines", mine)):
        if found[what] != ours:
            raise InputError(f"--against is {str(path)!r}, of {what} {found[what]!r}; this run is of {ours!r}")
    return found


def _is_record(found: dict[str, Any]) -> bool:
    """Whether all figures of an earlier run are there and can be divided by."""
    if not all(isinstance(found.get(name), str) for name in ("version", "rtl_config", "engines")):
        return False
    for kind, key in (("ratios", "times"), ("works", "relative")):
        if not isinstance(found.get(kind), dict):
            return False
        for one in found[kind].values():
            if not isinstance(one, dict) or not _positive(one.get(key)):
                return False
            if one.get("spread", "") is not None and not _positive(one.get("spread", ""), zero=True):
                return False
    return True


def _positive(value: object, *, zero: bool = False) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and (value > 0 or (zero and value == 0)) and value < float("inf")  # type: ignore[operator]


def _measure(options: argparse.Namespace, running: Task) -> dict[str, Any]:
    """Return everything measured; progress is told between the measurements."""
    from nmsat.reports.work.bench import Rounds

    rounds, ratios = Rounds(), {}
    if not options.only_kernel:
        ratios |= _gears(options, running, rounds)
    running.now("contract arithmetic")
    kernel = _kernel(options.rounds)
    running.advance()
    ratios |= _kernel_ratios(kernel)
    if not options.only_kernel and not options.no_rtl:
        ratios |= _verilog(options, running, rounds)
    return {
        "form": FORM,
        "version": VERSION,
        "rtl_config": options.rtl_config.name,
        "engines": engines(),
        "source": {"gears": Source.MACHINE, "rtl": Source.RTL, "array": Source.ARRAY_RTL},
        "ratios": ratios,
        "works": {name: rounds.figure(name) for name in rounds.samples},
        "peak_memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "kernel": kernel,
    }


def _gears(options: argparse.Namespace, running: Task, rounds: Rounds) -> dict[str, Any]:
    from nmsat.reports.work.bench import YARDSTICK, gear_ratios, gear_works, yardstick

    running.now("the gears")
    works = {YARDSTICK: yardstick, **gear_works(rounds)}
    rounds.run(works, options.rounds, running.now)
    running.advance()
    return gear_ratios(rounds)


def _kernel(repeats: int) -> dict[str, Any]:
    """Return the speed of contract arithmetic; what it needs is not imported for the help."""
    from nmsat.reports.work.kernel_speed import kernel_speed

    return kernel_speed(repeats)


def _kernel_ratios(kernel: dict[str, Any]) -> dict[str, Any]:
    found = {}
    for row in kernel["products"]:
        shape = f"{row['m']}x{row['k']}x{row['n']}"
        found |= {f"{_KERNEL[name]}, {shape}": pair for name, pair in row["pairs"].items()}
    return found


def _verilog(options: argparse.Namespace, running: Task, rounds: Rounds) -> dict[str, Any]:
    from nmsat.reports.work.bench import YARDSTICK, yardstick
    from nmsat.reports.work.rtl_speed import build_works, rtl_ratios, rtl_works
    from nmsat.tb.run.runner import check_tools

    check_tools()
    config = options.rtl_config
    running.now("the Verilog, compiled first if need be (minutes, once)")
    rounds.run(rtl_works(rounds, config), options.rounds, running.now)
    running.advance()
    if options.builds > len(rounds.samples[YARDSTICK]):
        rounds.run({YARDSTICK: yardstick}, options.builds - len(rounds.samples[YARDSTICK]))
    rounds.run(build_works(config), options.builds, running.now)
    running.advance()
    return rtl_ratios(rounds)


def _text(values: dict[str, Any]) -> str:
    rows = [
        (name, f"{one['times']:,.2f}", _share(one["spread"]), str(one["rounds"]))
        for name, one in values["ratios"].items()
    ]
    parts = [table(("ratio", "times", "spread", "rounds"), rows)]
    if values["works"]:
        rows = [(name, *_work(one)) for name, one in values["works"].items()]
        parts.append(table(("work", "seconds", "cycles/s", "yardsticks", "spread", "rounds"), rows))
        parts.append(
            "seconds of processor time, medians of rounds in which all works take turns; without what is kept\n"
            f"engines: {values['engines']}, the Verilog of {values['rtl_config']}; "
            f"peak memory {values['peak_memory_mib']:.0f} MiB\n"
            f"gears: {told(Source.MACHINE)}"
        )
    return "\n\n".join([*parts, _kernel_text(values["kernel"])])


def _work(one: dict[str, Any]) -> tuple[str, ...]:
    speed = f"{one['cycles'] / one['seconds']:,.0f}" if "cycles" in one else ""
    return f"{one['seconds']:.3g}", speed, f"{one['relative']:.3g}", _share(one["spread"]), str(one["rounds"])


def _share(spread: float | None) -> str:
    return "" if spread is None else f"{spread:.0%}"


def _against(worse: list[Change], unjudged: list[str]) -> str:
    lines = [
        f"SLOWER: {one.name}: {one.before:.3g} before, {one.now:.3g} now, {one.by:.0%} worse, spread {one.allowed:.0%}"
        for one in worse
    ]
    lines = lines or ["nothing got slower by more than the spread"]
    if unjudged:
        lines.append(f"not judged, as measured once or in one run only: {', '.join(unjudged)}")
    return "\n".join(lines)


def _kernel_text(values: dict[str, Any]) -> str:
    """Return the table of the products and the line of the training step."""
    rows = [
        (
            f"{row['m']}x{row['k']}x{row['n']}",
            *(f"{row['gmacs_per_second'][name]:.1f}" for name in ("contract", "contract_2of8", "blas", "numpy")),
        )
        for row in values["products"]
    ]
    parts = [table(("contract product", "GMAC/s", "2:8", "BLAS", "NumPy loop"), rows)]
    parts += [_step_text(step) for step in values["steps"]]
    if not values["kernel"]:
        parts.append("no C kernel here: contract products ran in NumPy")
    return "\n".join([*parts, "one thread, processor time"])


def _step_text(step: dict[str, Any]) -> str:
    times = ", ".join(f"{name} {seconds * 1e3:.1f} ms" for name, seconds in step["seconds"].items())
    ratios = ", ".join(
        f"{step[f'to_{other}']:.2f} x {other} dense and {step[f'bdwp_to_{other}']:.2f} x with BDWP 2:8"
        for other in ("fast", "pytorch")
        if f"to_{other}" in step
    )
    where = f"step of {step['network']}, batch {step['batch']} of {step['side']} x {step['side']} pixels"
    return f"{where}: {times}: contract takes {ratios}"


COMMAND = Command(
    summary="Measure gears, contract arithmetic and Verilog as ratios in one run, and beside an earlier run.",
    example="nmsat bench --no-rtl --json",
    add_arguments=add_arguments,
    run=run,
)
