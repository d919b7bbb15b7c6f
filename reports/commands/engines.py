"""`nmsat engines`: utilization, resources and verification of the compute engines, all measured now."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Final

from nmsat.algorithms.core.tape import Pattern
from nmsat.reports.commands.base import Answer, Command, seed, whole
from nmsat.reports.work.progress import each
from nmsat.reports.work.text import table
from nmsat.sim.results.provenance import Source, told

if TYPE_CHECKING:
    import argparse

    from nmsat.dataflow.contract.config import SatConfig

SHAPE: Final = (2048, 1152, 256)
"""M, K, N of the product whose utilization is reported."""

PATTERNS: Final = (None, Pattern(2, 4), Pattern(2, 8), Pattern(4, 8), Pattern(2, 16), Pattern(1, 8))

LEAST: Final = {"dense": 0.98, "2:4": 0.97, "2:8": 0.97, "4:8": 0.97, "2:16": 0.95, "1:8": 0.95}
"""Utilization to reach in the better dataflow."""

ELEMENT_LIMITS: Final = {"luts": 560, "dsp": 1, "flip_flops": 450}
"""Most that the element with one lane may take."""

FEW: Final = {"STCE (array)": 30, "SORE (pruning)": 20, "update with pruning": 12}
"""Products, groups per pattern, matrices: units that do not count single vectors."""

VECTORS: Final = 20_000
"""Vectors per unit otherwise."""


MAX_SCALE: Final = 1000
"""Most times the vectors of one call."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument(
        "--scale",
        type=_scale,
        default=1,
        metavar="X",
        help="run X times as many vectors; 10 gives at least 200000 per arithmetic unit (default: 1)",
    )
    parser.add_argument("--seed", type=seed, default=0, help="seed of the vectors (default: 0)")


def run(options: argparse.Namespace) -> Answer:
    """Measure the three tables."""
    from nmsat.dataflow.contract.config import preset

    utilization = _utilization(preset("vcu1525"))
    resources = _resources(preset("vcu1525"))
    verification = _verification(options.scale, options.seed)
    short = [row for row in utilization if row["best"] < LEAST[row["pattern"]]]
    element = resources[0]
    over = [name for name, limit in ELEMENT_LIMITS.items() if element[name] > limit]
    wrong = [row for row in verification if row["mismatch"]]
    values = {
        "source": Source.ARRAY,
        "utilization": utilization,
        "resources": resources,
        "verification": verification,
    }
    return Answer(values, _text(values, over), ok=not (short or over or wrong))


def _scale(text: str) -> int:
    return whole(text, 1, MAX_SCALE)


def _utilization(config: SatConfig) -> list[dict[str, Any]]:
    from nmsat.dataflow.mapping.choose import best_tiling
    from nmsat.sim.array.fast import simulate_product

    rows = []
    for pattern in each(PATTERNS, "simulating products", "pattern"):
        found = {name: simulate_product(best_tiling(config, *SHAPE, pattern, name)) for name in ("os", "ws")}
        name = str(pattern or "dense")
        rows.append(
            {
                "pattern": name,
                **{key: result.utilization for key, result in found.items()},
                **{f"{key}_cycles": result.cycles for key, result in found.items()},
                "best": max(result.utilization for result in found.values()),
                "least": LEAST[name],
            }
        )
    return rows


def _resources(config: SatConfig) -> list[dict[str, Any]]:
    from nmsat.dataflow.contract.dies import die
    from nmsat.hw.parts.verilog import VerilogPlatform, emit
    from nmsat.hw.release.synth import synthesise
    from nmsat.hw.release.tops import synthesis_tops

    rows = []
    for name, make in each(tuple(synthesis_tops(config).items()), "synthesising", "unit", lambda item: item[0]):
        # buffers in block RAM, on whatever part: their columns are compared with those of earlier versions
        found = synthesise(emit(make(), "sat_top", VerilogPlatform(die("xczu9eg"))), "sat_top")
        rows.append({"unit": name, "luts": found.luts, **dataclasses.asdict(found)})
    return rows


def _verification(scale: int, number: int) -> list[dict[str, Any]]:
    from nmsat.tb.engines import UNITS
    from nmsat.tb.run.errors import SimulationError

    rows = []
    for unit in each(UNITS, "running units on the RTL", "unit", lambda item: item.name):
        count = FEW.get(unit.name, VECTORS) * scale
        try:
            rows.append({"unit": unit.name, "compared": unit.check(count, number), "of": unit.vector, "mismatch": ""})
        except SimulationError as error:
            rows.append({"unit": unit.name, "compared": count, "of": unit.vector, "mismatch": str(error)})
    return rows


def _text(values: dict[str, Any], over: list[str]) -> str:
    from nmsat.hw.release.tops import REPORTED_DEPTH

    m, k, n = SHAPE
    use = [
        (row["pattern"], f"{row['os']:.2%}", f"{row['ws']:.2%}", f"{row['least']:.0%}") for row in values["utilization"]
    ]
    keys = ("luts", "logic", "ram_luts", "shift_luts", "flip_flops", "dsp", "block_rams")
    take = [(row["unit"], *(str(row[key]) for key in keys)) for row in values["resources"]]
    ran = [
        (row["unit"], f"{row['compared']} {row['of']}", row["mismatch"].splitlines()[0] if row["mismatch"] else "0")
        for row in values["verification"]
    ]
    limits = ", ".join(f"{limit} {name}" for name, limit in ELEMENT_LIMITS.items())
    verdict = f"over the limit in {', '.join(over)}" if over else "kept"
    return "\n".join(
        [
            f"Utilization of 32 x 32 elements on {m} x {k} x {n} (multiply-adds / cycles x elements)",
            told(Source.ARRAY),
            table(("pattern", "OS", "WS", "at least"), use),
            "",
            f"Resources (Yosys, UltraScale+; LUT with distributed RAM and SRL; buffers of {REPORTED_DEPTH} entries)",
            table(("unit", "LUT", "logic", "as RAM", "as SRL", "FF", "DSP", "RAM18"), take),
            f"element, 1 lane: limits {limits}: {verdict}",
            "",
            "RTL against simulator and reference, bit by bit and cycle by cycle",
            table(("unit", "compared", "mismatches"), ran),
        ]
    )


COMMAND = Command(
    summary="Measure the compute engines: utilization, resources by Yosys, RTL against simulator.",
    example="nmsat engines --scale 1 --json",
    add_arguments=add_arguments,
    run=run,
)
