"""`nmsat gemm`: cycles of one matrix product on SAT, and where they go."""

from __future__ import annotations

import hashlib
import sys
from typing import TYPE_CHECKING, Any, Final

from algorithms.tape import Pattern, Stage
from reports.commands.base import Answer, Command, add_shape

if TYPE_CHECKING:
    import argparse

    from dataflow.tiling import Tiling

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


def run(options: argparse.Namespace) -> Answer:
    """Schedule and simulate the product."""
    from reports.commands.operands import choose_tiling
    from sim.product import simulate_product

    pattern: Pattern | None = None if options.stage == Stage.WU else options.pattern
    if pattern != options.pattern:
        print(f"nmsat: note: stage wu is dense in BDWP; pattern {options.pattern} is not used", file=sys.stderr)
    tiling = choose_tiling(options.config, options, pattern)
    result = simulate_product(tiling)
    record: dict[str, Any] = result.record()
    values = {
        "config": options.config.name,
        "stage": options.stage,
        "pattern": str(pattern or "dense"),
        "seed": options.seed,
        **record,
        "steps": result.duration.steps,
        "microseconds": result.cycles / options.config.clock_mhz,
        "y_sha256": _digest(tiling, pattern, options.seed),
    }
    return Answer(values, _text(values))


def _digest(tiling: Tiling, pattern: Pattern | None, seed: int) -> str | None:
    """Return the SHA-256 of Y for random operands: it must not depend on the configuration."""
    from reports.commands.operands import random_operands
    from sim.product import simulate_product

    m, k, n = tiling.m, tiling.k, tiling.n
    if m * k * n > MAX_MACS or max(m * k, k * n, m * n) > MAX_OPERAND or k > MAX_DEPTH:
        print("nmsat: note: the product is too large to compute its values here; y_sha256 is null", file=sys.stderr)
        return None
    y = simulate_product(tiling, *random_operands(tiling, pattern, seed)).y
    assert y is not None
    return hashlib.sha256(y.astype("<f4").tobytes()).hexdigest()


def _text(values: dict[str, Any]) -> str:
    cycles = values["cycles"]
    head = (
        f"{values['m']} x {values['k']} x {values['n']}, {values['pattern']}, stage {values['stage']}, "
        f"configuration {values['config']}"
    )
    mapping = f"{values['dataflow'].upper()}, {values['rectangle']} outputs per element, {values['commands']} commands"
    lines = [
        ("cycles", f"{cycles}", ""),
        ("ideal cycles", f"{values['ideal_cycles']}", ""),
        ("utilization", f"{values['utilization']:.1%}", ""),
        ("time", f"{values['microseconds']:.2f}", "us"),
        ("multiplying", f"{values['steps']}", f"{values['steps'] / cycles:.1%} of the cycles"),
        *((f"stall: {cause}", f"{count}", f"{count / cycles:.1%}") for cause, count in values["stalls"].items()),
    ]
    return "\n".join([head, mapping, "", *(f"{name:<20}{number:>12}  {note}".rstrip() for name, number, note in lines)])


COMMAND = Command(
    summary="Simulate one matrix product Y[M, N] = A[M, K] @ W[K, N] on SAT: cycles, utilization, stalls by cause.",
    example="nmsat gemm 256 1152 128 --pattern 2:8 --stage ff --config vcu1525 --json",
    add_arguments=add_arguments,
    run=run,
)
