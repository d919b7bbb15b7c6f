"""`nmsat gemm`: cycles of one matrix product on SAT, and where they go."""

from __future__ import annotations

import hashlib
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from nmsat.algorithms.core.tape import Stage
from nmsat.reports.commands.base import Answer, Command, add_shape
from nmsat.reports.work.commandline import config_words
from nmsat.reports.work.output import add_force
from nmsat.reports.work.output_files import output_files
from nmsat.reports.work.progress import LOG, task
from nmsat.reports.work.text import InputError
from nmsat.sim.results.provenance import Source, told, told_lines

if TYPE_CHECKING:
    import argparse

    from nmsat.algorithms.core.tape import Pattern, Product
    from nmsat.dataflow.contract.config import SatConfig
    from nmsat.reports.work.output_files import OutputFiles
    from nmsat.sim.results.machine import MachineResult
    from nmsat.sim.results.rows import ArrayResult

MAX_MACS: Final = 1 << 30
"""Most dense multiply-adds of a product whose values are computed."""

MAX_OPERAND: Final = 1 << 26
"""Most elements of A, W or Y of such a product."""

MAX_DEPTH: Final = 1 << 16
"""Longest reduction of such a product: the ordered sum takes a step of Python for each element."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    add_shape(parser)
    parser.add_argument(
        "--stage",
        choices=[stage.value for stage in (Stage.FF, Stage.BP, Stage.WU)],
        default=Stage.FF.value,
        help="stage of the training step; weight gradients (wu) are dense in BDWP, whatever the pattern (default: ff)",
    )
    parser.add_argument(
        "--memory",
        action="store_true",
        help="the program of the machine, with loads, stores and memory (default: the array alone, operands on chip)",
    )
    parser.add_argument("--tiles", type=Path, default=None, metavar="FILE", help="write the cycles of each tile as CSV")
    parser.add_argument(
        "--vcd", type=Path, default=None, metavar="FILE", help="write all registers in every cycle (small products)"
    )
    add_force(parser)


def run(options: argparse.Namespace) -> Answer:
    """Compile and run the product."""
    from nmsat.sim.api import gemm

    if options.memory:
        for name in ("tiles", "vcd"):
            if getattr(options, name):
                raise InputError(f"--{name} shows the array alone; the machine of --memory has no tiles: leave one out")

    pattern: Pattern | None = None if options.stage == Stage.WU else options.pattern
    if pattern != options.pattern:
        LOG.warning("stage wu is dense in BDWP; pattern %s is not used", options.pattern)
    product = gemm(options.m, options.k, options.n, pattern, stage=Stage(options.stage))
    paths = {"--tiles": options.tiles, "--vcd": options.vcd}
    with output_files(paths, "gemm", force=options.force) as files:
        result = _simulate(product, options)
        y_sha256 = _digest(product, options.config, options.seed)
        _write(files, options, product, result)
    values = _values(options, pattern, result) | {"y_sha256": y_sha256}
    return Answer(values, _text(values))


def _simulate(product: Product, options: argparse.Namespace) -> ArrayResult | MachineResult:
    from nmsat.dataflow.program.jobs import Switches
    from nmsat.reports.work.timings import timer
    from nmsat.sim.api import simulate

    switches = Switches(dataflow=options.dataflow)
    try:
        with task("simulating the product"):
            if not options.memory:
                return simulate(product, options.config, switches=switches)
            kept = timer(options.config)
            return simulate(product, options.config, memory=True, switches=switches, timer=kept)
    except ValueError as error:
        raise InputError(str(error)) from None


def _write(
    files: OutputFiles, options: argparse.Namespace, product: Product, result: ArrayResult | MachineResult
) -> None:
    """Write the files that were asked for, which show the array alone."""
    from nmsat.reports.pages.tiles import write_tiles
    from nmsat.sim.results.rows import ArrayResult

    if not isinstance(result, ArrayResult):
        return
    if options.tiles:
        with files.writing("--tiles") as path:
            write_tiles(path, result.rows, result.source)
    if options.vcd:
        with files.writing("--vcd") as path:
            _write_vcd(path, result, product, options.seed)


def _values(
    options: argparse.Namespace, pattern: Pattern | None, result: ArrayResult | MachineResult
) -> dict[str, Any]:
    row, totals = result.table()[0], result.record()
    command, without = _machine_command(options, pattern)
    shape = ("m", "k", "n", "count", "group", "dataflow", "rectangle", "tile_rows", "tile_columns", "commands")
    return {
        "config": options.config.name,
        "stage": options.stage,
        "pattern": str(pattern or "dense"),
        "seed": options.seed,
        "memory": options.memory,
        "source": result.source,
        "planned": list(result.planned),
        "machine_command": command,
        "machine_command_without": without,
        **{name: row[name] for name in shape},
        "cycles": result.cycles,
        "ideal_cycles": -(-result.macs // options.config.elements),
        "utilization": result.utilization,
        "macs": result.macs,
        "macs_dense": result.macs_full,
        "macs_skipped": result.macs_skipped,
        "steps": result.causes["steps"],
        "stalls": result.stalls,
        "bytes": totals.get("bytes"),
        "buffer_bytes": totals.get("buffer_bytes"),
        "counters": totals.get("counters"),
        "macs_per_byte": row.get("macs_per_byte"),
        "roofline": row.get("roofline"),
        "limit": row.get("limit"),
        "microseconds": result.seconds * 1e6,
    }


def _machine_command(options: argparse.Namespace, pattern: Pattern | None) -> tuple[str | None, list[str]]:
    """Return the command that runs the product on the machine's exact simulator, and the options that it leaves out.

    The command is None if there is none. A dataflow that the machine does not have for this product is left out.
    """
    from nmsat.reports.work.program import check_program

    shape, transposed = (options.m, options.k, options.n), options.stage == Stage.WU
    for dataflow in dict.fromkeys((options.dataflow, None)):
        try:
            check_program(options.config, shape, pattern, dataflow, transposed=transposed)
        except ValueError:
            continue
        words = ["nmsat program", *map(str, shape), *(["--transposed"] if transposed else [])]
        words += [f"--pattern {pattern}"] if pattern else []
        words += [shlex.join(config_words(options.config)), *([f"--dataflow {dataflow}"] if dataflow else [])]
        words += [f"--seed {options.seed}"] if options.seed else []
        return " ".join(words), _left_out(options, pattern, dataflow)
    return None, []


def _left_out(options: argparse.Namespace, pattern: Pattern | None, dataflow: str | None) -> list[str]:
    """Return what was asked for here and is not in the command of the machine, each with the reason."""
    found = {
        f"--pattern {options.pattern} (stage wu is dense)": options.pattern != pattern,
        f"--stage {options.stage} (the same product)": options.stage == Stage.BP,
        f"--dataflow {options.dataflow} (the machine does not have it for this product)": options.dataflow != dataflow,
        "--tiles (of nmsat gemm)": options.tiles is not None,
        "--vcd (of nmsat gemm)": options.vcd is not None,
    }
    return [text for text, left in found.items() if left]


def _digest(product: Product, config: SatConfig, seed: int) -> str | None:
    """Return the SHA-256 of Y for random operands: it must not depend on the configuration."""
    from nmsat.reports.work.operands import with_operands
    from nmsat.sim.api import simulate

    m, k, n = product.m, product.k, product.n
    if m * k * n > MAX_MACS or max(m * k, k * n, m * n) > MAX_OPERAND or k > MAX_DEPTH:
        LOG.warning("the product is too large to compute its values here; y_sha256 is null")
        return None
    with task("computing the values of the product"):
        (y,) = simulate(with_operands(product, seed), config, values=True).values
    return hashlib.sha256(y.astype("<f4").tobytes()).hexdigest()


def _write_vcd(path: Path, result: ArrayResult, product: Product, seed: int) -> None:
    from nmsat.reports.work.operands import random_operands
    from nmsat.sim.trace.vcd import check_size, write_vcd

    tiling = result.rows[0].tiling
    if tiling is None:
        raise RuntimeError("the product ran as several parts")
    try:
        check_size(tiling)
        write_vcd(path, *random_operands(tiling, product.pattern, seed), tiling, told(Source.ARRAY))
    except ValueError as error:
        raise InputError(str(error)) from None


def _text(values: dict[str, Any]) -> str:
    cycles = values["cycles"]
    head = (
        f"{values['m']} x {values['k']} x {values['n']}, {values['pattern']}, stage {values['stage']}, "
        f"configuration {values['config']}, {'with external memory' if values['memory'] else 'operands on chip'}"
    )
    mapping = (
        f"{values['dataflow'].upper()}, {values['rectangle']} outputs per element, {values['commands']} tiles of "
        f"{values['tile_rows']} x {values['tile_columns']}"
    )
    machine = values["machine_command"] or "nmsat program takes smaller products; this one it cannot run"
    command = f"values and instructions: {machine}" if values["memory"] else f"the machine's cycles: {machine}"
    origin = [*told_lines(Source(values["source"]), values["planned"]), command]
    if values["machine_command_without"]:
        origin.append(f"not in that command: {', '.join(values['machine_command_without'])}")
    lines = [
        ("cycles", f"{cycles}", values["source"]),
        ("ideal cycles", f"{values['ideal_cycles']}", ""),
        ("utilization", f"{values['utilization']:.1%}", ""),
        ("time", f"{values['microseconds']:.2f}", "us"),
        ("multiply-adds", f"{values['macs']}", f"{values['macs_skipped']} skipped"),
        ("multiplying", f"{values['steps']}", f"{values['steps'] / cycles:.1%} of the cycles"),
        *((f"stall: {cause}", f"{count}", f"{count / cycles:.1%}") for cause, count in values["stalls"].items()),
    ]
    for level, key in (("buffers", "buffer_bytes"), ("memory", "bytes")):
        if values[key]:
            lines += [(f"{level}: {name} bytes", f"{size}", "") for name, size in values[key].items()]
    if values["limit"]:
        lines.append(
            ("roofline", f"{values['roofline']:.1%}", f"{values['macs_per_byte']:.1f} MAC/B: {values['limit']}")
        )
    rows = [f"{name:<20}{number:>12}  {note}".rstrip() for name, number, note in lines]
    return "\n".join([head, mapping, "", *rows, "", *origin])


COMMAND = Command(
    summary="Simulate one matrix product Y[M, N] = A[M, K] @ W[K, N] on SAT: cycles, utilization, stalls by cause.",
    example="nmsat gemm 256 1152 128 --pattern 2:8 --stage ff --config vcu1525 --json",
    add_arguments=add_arguments,
    run=run,
)
