"""`nmsat program --network`: a whole training step as programs, and what the host does between them."""

from __future__ import annotations

import argparse
import json
import math
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, Final

from nmsat.reports.commands.base import MAX_SIZE, SUMMARY, Answer, method, network, whole
from nmsat.reports.work.output import output_folder
from nmsat.reports.work.text import InputError, table
from nmsat.sim.results.provenance import Source, told

if TYPE_CHECKING:
    from pathlib import Path

    from nmsat.algorithms.training.config import TrainConfig
    from nmsat.reports.work.step_program import HostRates

DEFAULT_BATCH: Final = 4
"""Samples of a step: the simulator goes through every cycle of the machine."""

LEAST_RATE: Final = 1e-6
MOST_RATE: Final = 10**6
"""Rates of the host, thousand million bytes or operations a second."""

_ONLY: Final = {"batch": "--batch", "method": "--method", "host_gbs": "--host-gbs", "host_gops": "--host-gops"}
_NOT: Final = {"m": "M", "k": "K", "n": "N", "dataflow": "--dataflow", "conv": "--conv", "transposed": "--transposed"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what a step has and a product has not."""
    parser.add_argument(
        "--network", type=network, metavar="NAME", help="a whole training step of this network; leave out M, K and N"
    )
    parser.add_argument(
        "--batch", type=batch, metavar="B", help=f"samples of the step of --network (default: {DEFAULT_BATCH})"
    )
    parser.add_argument(
        "--method", type=method, metavar="NAME", help="training method of --network (default: bdwp; pattern 2:8)"
    )
    parser.add_argument(
        "--host-gbs",
        type=rate,
        metavar="X",
        help="--network: the host reads and writes memory at X GB/s; with --host-gops its time is added to the step",
    )
    parser.add_argument(
        "--host-gops", type=rate, metavar="Y", help="--network: the host does Y thousand million operations per second"
    )


def batch(text: str) -> int:
    """Read the samples of a step."""
    return whole(text, 1, MAX_SIZE)


def rate(text: str) -> float:
    """Read a rate, a billion of bytes or operations a second; within what any host can do."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not LEAST_RATE <= value <= MOST_RATE:
        limits = f"{LEAST_RATE:g} to {MOST_RATE:,}"
        raise argparse.ArgumentTypeError(f"the value is {text!r}; it must be a number from {limits}")
    return value


def refuse(options: argparse.Namespace) -> None:
    """Raise InputError for options of a step where a product is asked for."""
    given = [flag for name, flag in _ONLY.items() if getattr(options, name) is not None]
    if given:
        raise InputError(f"{', '.join(given)}: only with --network; a product has no {given[0].removeprefix('--')}")


def run(options: argparse.Namespace) -> Answer:
    """Assemble the step, run it, compare."""
    from nmsat.reports.work.launch import LAUNCH_FILES
    from nmsat.reports.work.step_program import STEP_FILES, step_files, step_program

    config, rates = _config(options), _rates(options)
    names = [*STEP_FILES, *LAUNCH_FILES, SUMMARY]
    with output_folder(options.out, "program", names, force=options.force) if options.out else nullcontext() as out:
        try:
            step = step_program(config, options.config, rates, rtl=options.rtl)
        except ValueError as error:
            raise InputError(str(error)) from None
        if out is not None:
            for name, content in step_files(step).items():
                out.write(name, content)
            out.write(SUMMARY, json.dumps(step.values, indent=2))
    return Answer(step.values, text(step.values, options.out), ok=step.values["match"])


def _config(options: argparse.Namespace) -> TrainConfig:
    from nmsat.algorithms.training.recipes import recipe

    given = [flag for name, flag in _NOT.items() if getattr(options, name) not in (None, False)]
    if given:
        raise InputError(f"{', '.join(given)}: for a product; --network {options.network} is a whole step")
    changes: dict[str, object] = {
        "arithmetic": "contract",
        "optimizer": "sgd",
        "dense_epochs": 0.0,
        "batch": options.batch or DEFAULT_BATCH,
        "seed": options.seed,
    }
    if options.method is not None:
        changes["method"] = options.method
    if options.pattern is not None:
        changes["pattern"] = str(options.pattern)
    try:
        return recipe(options.network).replace(**changes)
    except (ValueError, TypeError) as error:
        raise InputError(str(error)) from None


def _rates(options: argparse.Namespace) -> HostRates | None:
    from nmsat.reports.work.step_program import HostRates

    if (options.host_gbs is None) != (options.host_gops is None):
        raise InputError("--host-gbs and --host-gops belong together: the host moves bytes and does operations")
    return None if options.host_gbs is None else HostRates(options.host_gbs, options.host_gops)


def text(values: dict[str, Any], out: Path | None) -> str:
    """Return the table of a step for people."""
    timed = "host_seconds" in values
    header = ("part", "who", "instructions", "cycles", "operations", "bytes read", "bytes written")
    rows = [_row(part) for part in values["parts"]]
    if timed:
        header = (*header, "host us")
        rows = [(*row, _micro(part)) for row, part in zip(rows, values["parts"], strict=True)]
    how = values["method"] if values["pattern"] is None else f"{values['method']} {values['pattern']}"
    lines = [
        f"one step of {values['network']}, batch {values['batch']}, {how}, configuration {values['config']}",
        "",
        table(header, rows),
        "",
        f"SAT   {values['cycles']} cycles, {_us(values['sat_seconds'])}, utilization {values['utilization']:.1%}",
        f"host  {values['host_operations']} operations, {values['host_bytes']} bytes",
        told(Source(values["source"])),
    ]
    if timed:
        rates = values["host_rates"]
        speed = f"{rates['gbs']:g} GB/s and {rates['gops']:g} Gop/s"
        lines.append(f"host  {_us(values['host_seconds'])} at {speed}; both in turn {_us(values['seconds'])}")
    else:
        lines += ["the time of the host is not in the cycles; --host-gbs and --host-gops add it"]
    equal = "loss and weights have the bits of NumPy" if values["numpy_equal"] else "DIFFERENT from NumPy"
    lines += ["", f"values: {equal}"]
    if "cycles_rtl" in values:
        same = "equal in loss, weights and cycles" if values["rtl_equal"] else f"DIFFERENT: {values['differs']}"
        lines += [f"RTL: {values['cycles_rtl']} cycles, {same}"]
    return "\n".join([*lines, *([] if out is None else ["", f"written to {out}"])])


def _row(part: dict[str, Any]) -> tuple[str, ...]:
    if part["who"] == "sat":
        return (part["name"], "SAT", str(part["instructions"]), str(part["cycles"]), "", "", "")
    work = (str(part[key]) for key in ("operations", "bytes_read", "bytes_written"))
    return (part["name"], "host", "", "", *work)


def _us(seconds: float) -> str:
    return f"{seconds * 1e6:.1f} us"


def _micro(part: dict[str, Any]) -> str:
    return f"{part['seconds'] * 1e6:.1f}" if part["who"] == "host" else ""
