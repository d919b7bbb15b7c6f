"""`nmsat train`: one training run, any cell of the accuracy table among them."""

from __future__ import annotations

import dataclasses
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from nmsat.algorithms.core.schema import FieldError, field_place, read_text
from nmsat.algorithms.core.vocabulary import BACKENDS, METHODS
from nmsat.reports.commands.base import (
    MAX_SIZE,
    Answer,
    Command,
    add_config,
    add_layer_patterns,
    folder,
    method,
    network,
    seed,
    whole,
)
from nmsat.reports.commands.parser import again
from nmsat.reports.work.commandline import TRAIN_MACHINE
from nmsat.reports.work.output import add_force
from nmsat.reports.work.progress import LOG
from nmsat.reports.work.text import InputError, table
from nmsat.sim.results.provenance import Source, told, told_lines

if TYPE_CHECKING:
    import argparse

    from nmsat.algorithms.training.config import TrainConfig

DEFAULT_NETWORK = "digits-cnn"

MAX_RUN_BYTES: Final = 1 << 20
"""Largest file of a run."""


_DIGESTS = (("weights", "weights_sha256"), ("losses", "losses_sha256"))
"""What is equal between backends: label and key of each SHA-256."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument(
        "--cell",
        metavar="NAME",
        help="a run by its name, such as resnet9-small-bdwp-2of8-seed1 or vgg19-small-dense-seed0; options override it",
    )
    parser.add_argument("--config-file", type=Path, metavar="FILE", help="TOML file of the run; options override it")
    parser.add_argument(
        "--network", type=network, metavar="NAME", help=f"network and its recipe (default: {DEFAULT_NETWORK})"
    )
    parser.add_argument("--method", type=method, metavar="NAME", help="training method (default: bdwp)")
    parser.add_argument("--pattern", metavar="N:M", help="sparsity (default: 2:8)")
    add_layer_patterns(parser, "patterns")
    parser.add_argument("--arithmetic", choices=["contract", "fast"], help="SAT's, bit for bit, or binary32")
    parser.add_argument("--epochs", type=count, metavar="E", help="length of the run (default: the recipe's)")
    parser.add_argument(
        "--steps", type=count, metavar="S", help="do at most S steps now; with --out the same command continues"
    )
    parser.add_argument("--seed", type=seed, metavar="S", help="seed of weights, order and sampling (default: 0)")
    parser.add_argument(
        "--split",
        choices=["test", "validation"],
        help="evaluate on the test split (default), or on a fifth of the training split, kept out of it",
    )
    add_data(parser)
    parser.add_argument("--out", type=folder, metavar="DIR", help="folder of checkpoint and results (JSON lines)")
    add_force(parser)
    parser.add_argument(
        "--backend", choices=BACKENDS, default="numpy", help="what computes the products (default: numpy)"
    )
    add_config(parser, TRAIN_MACHINE, what="SAT whose cycles per step are told")


def add_data(parser: argparse.ArgumentParser) -> None:
    """Add the options that name other data than the networks' own."""
    parser.add_argument(
        "--data",
        dest="data_folder",
        metavar="DIR",
        help="folder of IDX files (such as that of Debian's dataset-fashion-mnist), of CIFAR, or of images (train/ and "
        "val/); a Python file with a function data(); or colour, images made here",
    )
    parser.add_argument(
        "--side",
        type=lambda text: whole(text, 1, MAX_SIZE),
        default=None,
        metavar="S",
        help="side of images of IDX files (14 or 28; default: 14) and of folders (32, 64 or 224; default: 64)",
    )


def chosen_data(options: argparse.Namespace) -> str:
    """Return the name of the data of --data, which this process and its workers then find; '' without it."""
    from nmsat.algorithms.training.idx import DATA_VARIABLE
    from nmsat.algorithms.training.named_data import data_name

    if options.data_folder is None:
        return ""
    try:
        name = data_name(options.data_folder, options.side)
    except (ValueError, OSError) as error:
        raise InputError(str(error)) from None
    os.environ[DATA_VARIABLE] = str(Path(options.data_folder).absolute())
    return name


def count(text: str) -> int:
    """Read a number of epochs or steps."""
    return whole(text, 1, MAX_SIZE)


def run(options: argparse.Namespace) -> Answer:
    """Do the run."""
    from nmsat.reports.work.training import Job, train_run

    chosen = configuration(options)
    try:
        values = train_run(Job(chosen, options.config, options.out, options.steps, options.force), options.backend)
    except (ValueError, OSError) as error:
        raise InputError(str(error)) from None
    values["command"] = command_line(options, chosen)
    return Answer(values, _text(values))


def configuration(options: argparse.Namespace) -> TrainConfig:
    """Return the run that the options ask for: a cell or a recipe, changed by the file, changed by the options."""
    from nmsat.algorithms.training.config import TrainConfig, parse_fields
    from nmsat.algorithms.training.recipes import parse_name, recipe
    from nmsat.reports.work.training import ON_SAT

    data = chosen_data(options)
    if options.cell and (options.network or options.config_file):
        raise InputError("--cell names a whole run; leave out --network and --config-file")
    known = {field.name for field in dataclasses.fields(TrainConfig)}
    given = {key: value for key, value in vars(options).items() if key in known and value is not None}
    given |= {"data": data} if data else {}
    try:
        if options.cell:
            return parse_name(options.cell).replace(**given)
        file = options.config_file
        fields = {**(parse_fields(_read(file), file) if file else {}), **given}
        base = recipe(str(fields.get("network", DEFAULT_NETWORK)), str(fields.get("data", "")))
        if fields.get("method", base.method) == "dense":
            if options.pattern:
                LOG.warning("method dense prunes nothing; pattern %s is not used", options.pattern)
            fields["pattern"] = base.pattern  # not used, and so not another run
        if options.backend in ON_SAT:
            fields = {"arithmetic": "contract", **fields}  # the only one that SAT has
        return base.replace(**fields)
    except (ValueError, TypeError) as error:
        raise InputError(f"{_place(options.config_file, error, set(given))}{error}") from None


def _place(path: Path | None, error: Exception, given: set[str]) -> str:
    """Return 'FILE, line 3: ' if an error is of a field that the file has and no option replaces, else ''.

    given: fields that options name. An error of a run as a whole begins with its field.
    """
    named = re.match(r"(\w+) is ", str(error))
    field = error.field if isinstance(error, FieldError) else named[1] if named and named[1] not in given else ""
    if path is None or not field:
        return ""
    place = field_place(path, _read(path), field)
    return f"{place}: " if place != str(path) else ""


def _read(path: Path) -> str:
    try:
        return read_text(path, MAX_RUN_BYTES)
    except ValueError as error:
        reason = str(error).removeprefix(f"{path}: ")
        raise InputError(f"configuration file is {str(path)!r}; {reason}") from None


def command_line(options: argparse.Namespace, chosen: TrainConfig) -> str:
    """Return the command that does this very run: the run by its name, the rest as it was asked for."""
    from nmsat.algorithms.training.recipes import run_name

    known = {field.name: None for field in dataclasses.fields(chosen)}
    return again(options, **{**known, "config_file": None, "cell": run_name(chosen)})


def _text(values: dict[str, Any]) -> str:
    chosen, sat = values["config"], values["sat"]
    what = chosen["method"] if chosen["method"] == "dense" else f"{chosen['method']} {chosen['pattern']}"
    split = f"{chosen['split']} split"
    parts = [f"{chosen['network']}, {what}, seed {chosen['seed']}, {chosen['arithmetic']} arithmetic, {split}"]
    if chosen["arithmetic"] == "fast":
        parts.append("fast          plain binary32, not the machine's arithmetic: SAT would give other bits")
    if values["epochs"]:
        parts += [_epochs(values["epochs"]), f"accuracy      {values['accuracy']:.2%} on the {split}"]
    if not values["complete"]:
        ending = "the same command goes on from here" if values["files"] else "without --out it cannot be continued"
        parts.append(f"stopped       after {values['step']} steps; {ending}")
    if values["complete"]:
        macs = f"{values['macs_kept']:.4g} of {values['macs_dense']:.4g} dense"
        parts.append(f"multiply-adds {macs}, {values['seconds']:.0f} s")
    parts.append(
        f"SAT           no program on {sat['config']}: {sat['refused']}"
        if sat["cycles"] is None
        else f"SAT           {sat['cycles']} cycles per step on {sat['config']}, dense {sat['dense_cycles']}: "
        f"{sat['speedup']:.2f}x, bound {sat['bound']:.2f}x"
    )
    if METHODS[chosen["method"]].host_note:
        parts.append(f"              {METHODS[chosen['method']].host_note}")
    parts += [f"{'':14}{line}" for line in told_lines(Source(sat["source"]), sat["planned"])]
    if "cycles_per_step" in values:
        source = told(Source(values["cycles_per_step_source"]))
        parts.append(f"measured      {values['cycles_per_step']} cycles per step, {source}")
    parts += [f"{name:<13} {values[key]}" for name, key in _DIGESTS if key in values]
    parts.append(f"again         {values['command']}")
    if values["files"]:
        parts.append(f"results       {values['files']}.jsonl" + ("" if values["complete"] else ", checkpoint .npz"))
    return "\n".join(parts)


def _epochs(epochs: list[dict[str, Any]]) -> str:
    header = ("epoch", "loss", "loss out", "accuracy", "masks FF", "masks BP")
    rows = [
        (
            str(epoch["epoch"]),
            _number(epoch["loss"]),
            _number(epoch["test_loss"]),
            f"{epoch['accuracy']:.2%}",
            f"{epoch['sad_ff']:.3%}",
            f"{epoch['sad_bp']:.3%}",
        )
        for epoch in epochs
    ]
    return table(header, rows) + "\nloss out: of the evaluated split; masks: share that changes per update\n"


def _number(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.4f}"


COMMAND = Command(
    summary="Train a network by one method, any cell of the accuracy table among them; resumable.",
    example="nmsat train --network vgg19-small --method bdwp --pattern 2:8 --seed 1 --out out/train",
    add_arguments=add_arguments,
    run=run,
)
