"""`nmsat card validate`: products, random programs and training on a card, on the RTL or on the simulator."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from nmsat.reports.commands.base import Answer, Command, add_config, check_built, seed, whole
from nmsat.reports.work.text import InputError, table

if TYPE_CHECKING:
    import argparse

BACKENDS: Final = ("sim", "rtl", "xrt", "pynq")

MAX_PROGRAMS: Final = 100_000
MAX_STEPS: Final = 100_000
MAX_DEVICE: Final = 1023


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument(
        "--backend",
        choices=BACKENDS,
        default="sim",
        help="sim: a model of the registers; rtl: the Verilated kernel; xrt, pynq: a card (default: sim)",
    )
    add_config(parser, what="configuration that the card was built from")
    parser.add_argument("--image", metavar="FILE", type=Path, help="xclbin (xrt) or bitstream (pynq) to load")
    parser.add_argument(
        "--library", metavar="FILE", type=Path, help="libsat_host.so, built from host/sat_host.cpp (xrt)"
    )
    parser.add_argument("--device", metavar="N", type=_device, default=0, help="number of the card, xrt (default: 0)")
    parser.add_argument(
        "--programs", metavar="N", type=_programs, default=5, help="random programs beside three products (default: 5)"
    )
    parser.add_argument(
        "--steps", metavar="N", type=_steps, default=2, help="training steps; 168 are the whole run (default: 2)"
    )
    parser.add_argument("--seed", type=seed, default=0, help="seed of operands and programs (default: 0)")


def run(options: argparse.Namespace) -> Answer:
    """Open the card and run the checks."""
    from nmsat.reports.work.card import EXACT, open_card, validate
    from nmsat.sim.card.driver import CardError

    check_built(options.config, transposes=True)
    try:
        where = {"image": options.image, "library": options.library, "device": options.device}
        card = open_card(options.backend, options.config, **where)
    except (ValueError, OSError, CardError) as error:
        raise InputError(str(error)) from None
    except ModuleNotFoundError as error:
        if error.name != "pynq":
            raise
        raise InputError("Python package 'pynq' is not installed; it comes with the image of a PYNQ board") from None
    counts = {"programs": options.programs, "steps": options.steps, "seed": options.seed}
    checks = validate(card, options.config, **counts, exact=options.backend in EXACT)
    wrong = [check for check in checks if check.wrong]
    values: dict[str, Any] = {
        "backend": options.backend,
        "config": options.config.name,
        "seed": options.seed,
        "checks": [asdict(check) for check in checks],
        "wrong": len(wrong),
    }
    return Answer(values, _text(values), ok=not wrong)


def _text(values: dict[str, Any]) -> str:
    rows = [(check["what"], str(check["cycles"]), check["wrong"] or "equal") for check in values["checks"]]
    verdict = f"{values['wrong']} of {len(rows)} checks FAILED" if values["wrong"] else f"all {len(rows)} checks hold"
    head = f"configuration {values['config']}, backend {values['backend']}"
    return "\n".join([head, "", table(("check", "cycles", "result"), rows), "", verdict])


def _device(text: str) -> int:
    return whole(text, 0, MAX_DEVICE)


def _programs(text: str) -> int:
    return whole(text, 0, MAX_PROGRAMS)


def _steps(text: str) -> int:
    return whole(text, 0, MAX_STEPS)


COMMAND = Command(
    summary="Prove a machine behind the driver of a card: products against NumPy, random programs with all counters "
    "against the simulator, training steps against NumPy.",
    example="nmsat card validate --backend sim --config tiny",
    add_arguments=add_arguments,
    run=run,
)
