"""`nmsat compare`: the same layers through nmsat's gears, its Verilog, SCALE-Sim and ZigZag, in one run."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from nmsat.algorithms.core.vocabulary import NETWORKS, RENAMED, TRAINED_NETWORKS
from nmsat.reports.commands.base import MAX_SIZE, Answer, Command, Listed, Named, add_config, check_built, method, whole
from nmsat.reports.commands.model_options import KNOWN, add_file_options, check_files, layer_pattern
from nmsat.reports.work.commandline import Setting
from nmsat.reports.work.compare_names import LIMITS, MODELS, PACKAGES, REFERENCE, SMALL, STAGES
from nmsat.reports.work.output import add_force
from nmsat.reports.work.output_files import output_files
from nmsat.reports.work.progress import LOG, task
from nmsat.reports.work.text import InputError

if TYPE_CHECKING:
    from nmsat.dataflow.network.step import Step
    from nmsat.reports.work.compare import Asked, Compared
    from nmsat.reports.work.compare_layers import Layer
    from nmsat.reports.work.peer_env import Peers

MAX_LIMIT: Final = 1 << 40
"""Largest number of --limit."""

BATCH: Final = 1
"""Images of a network unless --batch or the file says otherwise: the other simulators know no batch."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("model", type=Named(str, lambda: NETWORKS), nargs="?", metavar="NAME_OR_FILE", help=KNOWN)
    parser.add_argument(
        "--setup", action="store_true", help="make the environment of the other simulators first, or mend it"
    )
    parser.add_argument(
        "--models",
        type=Listed(_model),
        default=None,
        metavar="LIST",
        help=f"of {','.join(MODELS)} (default: all that are there and fit --limit); one that is named must not fail",
    )
    parser.add_argument(
        "--stages",
        type=Listed(_stage),
        default=[STAGES[0]],
        metavar="LIST",
        help=f"of {','.join(STAGES)} (default: {STAGES[0]}, the forward pass)",
    )
    parser.add_argument(
        "--only", action="append", default=[], metavar="NAME", help="product, or glob, to compare; may be repeated"
    )
    parser.add_argument(
        "--batch", type=lambda text: whole(text, 1, MAX_SIZE), default=None, metavar="B", help="batch size (default: 1)"
    )
    parser.add_argument(
        "--method", type=method, default=None, metavar="NAME", help="(default: bdwp if there is a pattern, else dense)"
    )
    parser.add_argument(
        "--pattern",
        type=layer_pattern,
        action="append",
        default=[],
        metavar="[NAME=]N:M",
        help="sparsity of all layers, or of a layer or glob; may be repeated (default: that of the table, else dense)",
    )
    parser.add_argument(
        "--dense", action="append", default=[], metavar="NAME", help="layer, or glob, that stays dense; may be repeated"
    )
    parser.add_argument(
        "--dataflow",
        choices=["os", "ws"],
        default=None,
        help="output or weight stationary where nmsat has such a program (default: what it chooses); the others get "
        "for each layer what nmsat runs",
    )
    parser.add_argument(
        "--limit",
        type=_limit,
        action="append",
        default=[],
        metavar="MODEL=N",
        help="longest product of a model, in cycles; may be repeated (default: exact=500000, rtl=20000 on arrays of at "
        "most 64 elements, scalesim=200000)",
    )
    add_config(parser, "small")
    add_file_options(parser)
    parser.add_argument("--csv", type=Path, default=None, metavar="FILE", help="write a row for each layer and model")
    add_force(parser)


def _model(text: str) -> str:
    return _one_of(text, MODELS)


def _stage(text: str) -> str:
    return _one_of(text, STAGES)


def _one_of(text: str, names: tuple[str, ...]) -> str:
    if text not in names:
        raise argparse.ArgumentTypeError(f"the value is {text!r}; it must be of {', '.join(names)}")
    return text


def _limit(text: str) -> Setting:
    name, _, number = text.partition("=")
    return Setting(_one_of(name, tuple(LIMITS)), whole(number, 0, MAX_LIMIT))


def run(options: argparse.Namespace) -> Answer:
    """Set up if that was asked for, and compare."""
    if options.model is None and not options.setup:
        raise InputError("NAME_OR_FILE is missing; it is what to compare; --setup alone makes the environment")
    if options.model is None and options.csv:
        raise InputError("--csv is given without NAME_OR_FILE; there is nothing to write")
    if options.model is not None:
        options.masks = options.layers = None  # options of `model` that there are none of here
        check_files(options)
        check_built(options.config)
    peers = _peers(options)
    if options.model is None:
        assert peers is not None
        return Answer({"environment": str(peers.python)}, f"ready: {peers.python}")
    with output_files({"--csv": options.csv}, "compare", force=options.force) as files:
        answer = _compare(options, peers)
        if options.csv:
            from nmsat.reports.work.compare_text import csv_text

            with files.writing("--csv") as path:
                path.write_text(csv_text(answer.values), encoding="utf-8")
    return answer


def _peers(options: argparse.Namespace) -> Peers | None:
    from nmsat.reports.work.peer_env import SETUP, find_peers, make_peers

    if options.setup:
        with task("setting up SCALE-Sim and ZigZag (once, minutes)"):
            peers, made = make_peers()
        LOG.info("the environment was %s", "made" if made else "there, and works")
        return peers
    peers = find_peers()
    named = [name for name in options.models or () if name in PACKAGES]
    if named and peers is None:
        raise InputError(f"--models names {named[0]}, which is not set up: {SETUP}")
    return peers


def _compare(options: argparse.Namespace, peers: Peers | None) -> Answer:
    from nmsat.reports.work import compare
    from nmsat.reports.work.compare_text import record, text
    from nmsat.reports.work.timings import WORTH
    from nmsat.sim.compiled import prepare

    layers = _layers(options)
    asked = _asked(options, peers, layers)
    rows: list[Compared] = []
    if len(layers) >= WORTH:
        prepare()
    with task("compare", len(layers), "layer") as running:
        for layer in layers:
            running.now(layer.label)
            try:
                rows.append(compare.compare_layer(asked, layer))
            except (ValueError, compare.PeerError) as error:
                raise InputError(str(error)) from None
            running.advance()
    others = [row.layer.label for row in rows if options.dataflow and row.dataflow not in ("", options.dataflow)]
    if others:
        LOG.warning("not %s, as there is no such program of them: %s", options.dataflow, ", ".join(others))
    values = {"model": options.model, **record(asked, rows)}
    return Answer(values, text(asked, values), ok=not values["unequal"])


def _asked(options: argparse.Namespace, peers: Peers | None, layers: list[Layer]) -> Asked:
    """Return what is to be done; the Verilog is compiled first, so that its time is not in a model's."""
    from nmsat.reports.work import compare
    from nmsat.reports.work.verify import build_machine
    from nmsat.tb.run.errors import MissingToolError

    limits = dict(LIMITS)
    named = dict(options.limit)
    if options.config.elements > SMALL and "rtl" not in (options.models or ()):
        limits["rtl"] = 0
    limits |= named
    chosen = set(options.models or MODELS) | {REFERENCE}
    models = tuple(name for name in MODELS if name in chosen)
    asked = compare.Asked(options.config, models, limits, peers, frozenset(options.models or ()))
    if "rtl" in models and any(_fits(asked, layer) for layer in layers):
        try:
            build_machine(options.config)
        except (MissingToolError, ImportError) as error:
            if "rtl" in asked.forced:
                raise
            LOG.warning("no Verilog is run: %s", error)
            asked = compare.Asked(asked.config, tuple(m for m in models if m != "rtl"), limits, peers, asked.forced)
    return asked


def _fits(asked: Asked, layer: Layer) -> bool:
    """Whether a layer will run on the Verilog, by its estimate."""
    from nmsat.reports.work import compare
    from nmsat.sim.work.timed import Estimator

    cycles = Estimator(asked.config).time(layer.job).cycles
    return not compare.reason(asked, layer, "rtl", cycles, "")


def _layers(options: argparse.Namespace) -> list[Layer]:
    from nmsat.dataflow.program.jobs import Switches
    from nmsat.reports.work.compare_layers import layers_of

    try:
        return layers_of(_step(options), options.stages, options.only, Switches(dataflow=options.dataflow))
    except ValueError as error:
        raise InputError(str(error)) from None


def _step(options: argparse.Namespace) -> Step:
    """Return the step that `nmsat model` would run, but that first and last layer have the pattern too."""
    from nmsat.dataflow.network.readers.tape import SUFFIX
    from nmsat.reports.commands.model_steps import steps, tape_steps

    taped = Path(options.model).suffix.lower() == SUFFIX
    named = options.model in NETWORKS or options.model in RENAMED
    plain = named and options.model not in TRAINED_NETWORKS and options.batch is None
    same = {"masks": None, "mask_layout": "oi", "layers": None, "layer_patterns": None}
    same |= {"inference": False, "prune_all": False}
    same |= {"first_last": not taped, "batch": BATCH if plain else options.batch}
    given = argparse.Namespace(**{**vars(options), **same})
    if taped:
        return tape_steps(given).step
    if given.method is not None:
        return steps(given).step
    found = steps(argparse.Namespace(**{**vars(given), "method": "bdwp"}))
    patterned = options.pattern or any(layer.pattern is not None for layer in _weighted(found.layers))
    return found.step if patterned else found.dense


def _weighted(layers: list[Any] | None) -> list[Any]:
    return [layer for layer in layers or () if hasattr(layer, "pattern")]


COMMAND = Command(
    summary="The same layers through nmsat's gears, its Verilog, SCALE-Sim and ZigZag; where the cycles differ.",
    example="nmsat compare vit --only 'block0.*' --pattern 2:8 --config vcu1525 --limit scalesim=100000",
    add_arguments=add_arguments,
    run=run,
)
