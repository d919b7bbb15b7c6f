"""`nmsat program`: a product or a whole training step as instructions of the machine, what they cost, the proof."""

from __future__ import annotations

import argparse
import json
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, Final

from nmsat.reports.commands import step
from nmsat.reports.commands.base import SUMMARY, Answer, Command, add_shape, check_built, folder, whole
from nmsat.reports.work.output import add_force, output_folder
from nmsat.reports.work.progress import task
from nmsat.reports.work.text import InputError, table
from nmsat.sim.results.provenance import Source, told

if TYPE_CHECKING:
    from pathlib import Path

    from nmsat.reports.work.program import ProductProgram


MAX_CONV: Final = 4095
"""Largest number of --conv."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    add_shape(parser, optional=True)
    parser.add_argument(
        "--transposed", action="store_true", help="A is read transposed and W dense, as in a weight gradient"
    )
    parser.add_argument(
        "--conv",
        type=convolution,
        metavar="B,H,W,C,KERNEL,STRIDE,PADDING",
        help="A stands for the windows of an image; M and K must be those of the convolution",
    )
    step.add_arguments(parser)
    what = "write program (binary, text, JSON), memory before the run and, apart, expected results here"
    parser.add_argument("--out", type=folder, metavar="DIR", help=what)
    add_force(parser)
    parser.add_argument("--rtl", action="store_true", help="run the program on the Verilated RTL too and compare")


def convolution(text: str) -> tuple[int, ...]:
    """Read batch, height, width, channels, kernel, stride, padding."""
    parts = text.split(",")
    if len(parts) != 7:
        raise argparse.ArgumentTypeError(f"the value is {text!r}; it must be B,H,W,C,KERNEL,STRIDE,PADDING")
    low = (1, 1, 1, 1, 1, 1, 0)
    return tuple(whole(part, least, MAX_CONV) for part, least in zip(parts, low, strict=True))


def run(options: argparse.Namespace) -> Answer:
    """Assemble, run, compare."""
    check_built(options.config)
    if options.network is not None:
        return step.run(options)
    step.refuse(options)
    if None in (options.m, options.k, options.n):
        raise InputError("M, K and N are missing; give the sizes of a product, or --network for a whole step")
    from nmsat.reports.work.program import PROGRAM_FILES, program_files

    names = [*PROGRAM_FILES, SUMMARY]
    with output_folder(options.out, "program", names, force=options.force) if options.out else nullcontext() as out:
        try:
            program = _program(options)
        except ValueError as error:
            raise InputError(str(error)) from None
        before = [region.copy() for region in program.image.regions]
        values = _run(options, program, before)
        if out is not None:
            for name, content in program_files(options.config, program, before).items():
                out.write(name, content)
            out.write(SUMMARY, json.dumps(values, indent=2))
    return Answer(values, _text(values, options.out), ok=values.get("match", True))


def _run(options: argparse.Namespace, program: ProductProgram, before: list[Any]) -> dict[str, Any]:
    """Run the program on the simulator, which changes its image, and on the RTL, from memory before, if asked."""
    from nmsat.reports.work.program import run_on_simulator

    with task("running the program on the simulator"):
        report = run_on_simulator(options.config, program)
    values = _values(options, program, report.counters)
    return values | (_on_rtl(options, program, before, report) if options.rtl else {})


def _program(options: argparse.Namespace) -> ProductProgram:
    from nmsat.algorithms.core.tape import ConvShape
    from nmsat.reports.work import program as programs

    shape = (options.m, options.k, options.n)
    if options.transposed:
        if options.pattern is not None or options.conv is not None:
            raise ValueError("--transposed reads two dense matrices; leave out --pattern and --conv")
        return programs.gradient_program(options.config, shape, options.dataflow, options.seed)
    if options.conv is None:
        return programs.matrix_program(options.config, shape, options.pattern, options.dataflow, options.seed)
    b, h, w, c, kernel, stride, padding = options.conv
    pairs = [(kernel, kernel), (stride, stride), (padding, padding), (1, 1)]
    conv = ConvShape(b, h, w, c, options.n, pairs[0], pairs[1], pairs[2], pairs[3])
    sizes = programs.convolution_sizes(conv)
    programs.check_macs((*sizes, options.n))
    if sizes != (options.m, options.k):
        raise ValueError(f"M, K are {options.m}, {options.k}; this convolution has {sizes[0]}, {sizes[1]}")
    return programs.convolution_program(options.config, conv, options.pattern, options.seed)


def _values(options: argparse.Namespace, program: ProductProgram, counters: dict[str, int]) -> dict[str, Any]:
    mapping, cycles = program.cut.mapping, counters["cycles"]
    return {
        "config": options.config.name,
        "m": options.m,
        "k": options.k,
        "n": options.n,
        "pattern": str(options.pattern or "dense"),
        "seed": options.seed,
        "dataflow": mapping.name,
        "rectangle": f"{mapping.a}x{mapping.b}",
        "group": f"{mapping.n}:{mapping.m}",
        "instructions": len(program.code.instructions),
        "source": Source.MACHINE,
        "memory_channels": options.config.ports,
        "cycles": cycles,
        "macs": program.macs,
        "utilization": program.macs / (cycles * options.config.elements),
        "counters": counters,
    }


def _on_rtl(options: argparse.Namespace, program: ProductProgram, before: list[Any], report: Any) -> dict[str, Any]:
    from nmsat.reports.work.verify import run_image

    with task("running the program on the RTL"):
        found, regions = run_image(options.config, before, program.place)
    same = all((mine == theirs).all() for mine, theirs in zip(regions, program.image.regions, strict=True))
    wrong = [name for name, value in report.counters.items() if found[name] != value]
    return {
        "match": bool(same) and not wrong,
        "cycles_rtl": found["cycles"],
        "source_rtl": Source.RTL,
        "memory_equal": bool(same),
        "differs": wrong,
    }


def _text(values: dict[str, Any], out: Path | None) -> str:
    shape = f"{values['m']} x {values['k']} x {values['n']}, {values['pattern']}"
    channels = values["memory_channels"]
    behind = "one channel" if channels == 1 else f"{channels} channels, one a port"
    lines = [
        (
            f"{shape}, configuration {values['config']}: {values['dataflow'].upper()} {values['rectangle']}, groups "
            f"{values['group']}, {values['instructions']} instructions"
        ),
        f"cycles {values['cycles']}, utilization {values['utilization']:.1%}, memory ({behind}) and start included",
        told(Source(values["source"])),
        "",
        table(("counter", "value"), [(name, str(value)) for name, value in values["counters"].items()]),
    ]
    if "match" in values:
        result = "equal in memory, cycles and counters" if values["match"] else f"DIFFERENT: {values['differs']}"
        lines += ["", f"RTL: {values['cycles_rtl']} cycles, {result}"]
    if out is not None:
        lines += ["", f"written to {out}"]
    return "\n".join(lines)


COMMAND = Command(
    summary="Assemble a product, or a whole training step with --network, into machine programs and run them, memory "
    "included, on the simulator and the RTL.",
    example="nmsat program 64 288 32 --pattern 2:8 --conv 4,8,8,32,3,2,1 --config small --out out/program",
    add_arguments=add_arguments,
    run=run,
)
