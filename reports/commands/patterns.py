"""`nmsat patterns`: which layer gets which N:M, the least harm within a budget of SAT's cycles."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from nmsat.algorithms.core.vocabulary import NETWORKS
from nmsat.reports.commands.base import (
    MAX_SIZE,
    Answer,
    Command,
    Listed,
    Named,
    add_config,
    add_processes,
    method,
    pattern,
    sparse,
    whole,
)
from nmsat.reports.commands.train import add_data, chosen_data
from nmsat.reports.work.output import add_force
from nmsat.reports.work.output_files import output_files
from nmsat.reports.work.text import InputError, table
from nmsat.sim.results.provenance import Source, told_lines

if TYPE_CHECKING:
    from nmsat.algorithms.core.tape import Pattern

CHOICES: Final = "dense,2:4,2:8,2:16"

HARM_NOTE: Final = "harm: share of a layer's squared magnitude that FF loses, plus the share that BP loses; summed"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    files = "an ONNX file (.onnx), a SCALE-Sim table (.csv)"
    parser.add_argument(
        "network", type=Named(str, lambda: NETWORKS), metavar="NAME_OR_FILE", help=f"{', '.join(NETWORKS)}, {files}"
    )
    parser.add_argument(
        "--budget",
        type=budget,
        required=True,
        metavar="B",
        help="share of the dense step's cycles, such as 0.6; or a pattern such as 2:8, for what it takes in all layers",
    )
    parser.add_argument("--method", type=method, default="bdwp", metavar="NAME", help="training method (default: bdwp)")
    parser.add_argument(
        "--choices",
        type=Listed(pattern),
        default=CHOICES,
        metavar="N:M,...",
        help=f"patterns that a copy of a weight may get (default: {CHOICES})",
    )
    parser.add_argument("--same", action="store_true", help="FF and BP of a layer get the same pattern")
    parser.add_argument(
        "--batch",
        type=lambda text: whole(text, 1, MAX_SIZE),
        default=None,
        metavar="B",
        help="batch size (default: as in nmsat model)",
    )
    parser.add_argument(
        "--epochs",
        type=lambda text: whole(text, 0, MAX_SIZE),
        default=1,
        metavar="E",
        help="dense training before the weights are looked at, of a network that trains here (default: 1)",
    )
    parser.add_argument(
        "--weights",
        type=Path,
        default=None,
        metavar="FILE",
        help="weights of any other network: .npz, an array per layer (default: those that training begins with)",
    )
    parser.add_argument(
        "--layout",
        choices=["oi", "kn"],
        default="oi",
        help="axes of those arrays: oi as in PyTorch, kn as the matrix K x N (default: oi)",
    )
    add_data(parser)
    parser.add_argument("--out", type=Path, default=None, metavar="FILE", help="write the text for --layer-patterns")
    parser.add_argument("--estimate", action="store_true", help="cycles of a closed form, in seconds")
    add_config(parser, "small")
    add_processes(parser)
    add_force(parser)


def budget(text: str) -> float | Pattern:
    """Read a share of the dense step, or a pattern."""
    if ":" in text:
        return sparse(text)
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"the value is {text!r}; it must be above 0 and at most 1")
    return value


def run(options: argparse.Namespace) -> Answer:
    """Time all patterns and choose."""
    from nmsat.algorithms.core.vocabulary import METHODS, TRAINED_NETWORKS
    from nmsat.algorithms.methods import prunes_by_magnitude
    from nmsat.reports.work.patterns import Asked, choose_patterns

    if not prunes_by_magnitude(options.method):
        able = ", ".join(name for name in METHODS if prunes_by_magnitude(name))
        raise InputError(f"method {options.method!r} cannot have patterns of single layers; {able} can")
    if options.weights and options.network in TRAINED_NETWORKS:
        raise InputError(f"--weights is for networks that are known by their layers; {options.network} trains here")
    data = chosen_data(options)
    if data and options.network not in TRAINED_NETWORKS:
        raise InputError(f"--data is for networks that train here; {options.network} is known by its layers")
    choices: tuple[Pattern | None, ...] = tuple(options.choices)
    asked = Asked(
        options.network,
        options.config,
        options.budget,
        method=options.method,
        choices=choices,
        same=options.same,
        batch=options.batch,
        epochs=options.epochs,
        weights=options.weights,
        layout=options.layout,
        estimate=options.estimate,
        processes=options.processes,
        data=data,
    )
    with output_files({"--out": options.out}, "patterns", force=options.force) as files:
        try:
            values = choose_patterns(asked)
        except (ValueError, OSError) as error:
            raise InputError(str(error)) from None
        if options.out:
            with files.writing("--out") as path:
                Path(path).write_text(values["patterns"] + "\n", encoding="utf-8")
    return Answer(values, _text(values))


def _text(values: dict[str, Any]) -> str:
    rows = [
        (row["name"], row["ff"], row["bp"], str(row["cycles"]), f"{row['harm']:.4f}") for row in values["layers"]
    ]
    dense = values["dense_cycles"]
    uniform = [
        (row["patterns"], f"{row['cycles'] / dense:.4f}", f"{dense / row['cycles']:.3f}x", f"{row['harm']:.4f}")
        for row in sorted(values["uniform"], key=lambda row: -row["cycles"])
    ]
    chosen = ("chosen", f"{values['share']:.4f}", f"{values['speedup']:.3f}x", f"{values['harm']:.4f}")
    kept = "" if values["exact"] else "; combinations of nearly equal cycles were merged: a little less harm may exist"
    budget = values["budget"]
    told = f"{budget} of the dense step" if isinstance(budget, float) else f"the cycles of {budget}"
    lines = [
        f"{values['network']}, {values['method']}, budget {told}, {values['config']}",
        *told_lines(Source(values["source"]), values["planned"]),
        "",
        table(("layer", "FF", "BP", "cycles", "harm"), rows),
        "",
        table(("all layers", "of dense", "speed-up", "harm"), [chosen, *uniform]),
        "",
        f"{HARM_NOTE}; weights {values['weights']}{kept}",
        f"patterns      {values['patterns']}",
    ]
    return "\n".join(lines)


COMMAND = Command(
    summary="Which layer gets which N:M: the least harm to the weights within a budget of SAT's own cycles.",
    example="nmsat patterns resnet9-small --budget 0.6 --estimate",
    add_arguments=add_arguments,
    run=run,
)
