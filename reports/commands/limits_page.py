"""The table of limits, docs/limits.md, made of the values that the code checks by.

`python -m nmsat.reports.commands.limits_page > docs/limits.md` writes it; a test holds the two together.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from nmsat.algorithms.core.ranges import GROUP_SIZES, MAX_COUNT, MAX_SIDE
from nmsat.algorithms.training.config import NUMBER_RANGES, WHOLE_RANGES
from nmsat.dataflow.contract.config import INTERLEAVE
from nmsat.dataflow.contract.legal import LEAST_TRANSPOSING
from nmsat.dataflow.contract.ranges import MEMORY_RANGES, SAT_PLAIN, SAT_RANGES, listed, shown
from nmsat.dataflow.mapping.tiling import MAX_WINDOWS
from nmsat.dataflow.network.models import MAX_BATCH
from nmsat.dataflow.network.readers.scale_sim import MAX_NUMBER
from nmsat.reports.commands import engines, gemm, study, verify, verify_gemm, verify_workload
from nmsat.reports.commands.base import MAX_SEED, MAX_SIZE
from nmsat.reports.commands.program import MAX_CONV
from nmsat.reports.pages import tiles
from nmsat.reports.work import program as programs
from nmsat.reports.work import step_program
from nmsat.sim.trace import vcd as trace

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nmsat.dataflow.contract.ranges import Plain, Range

Row = tuple[str, str, str, str]
"""What is limited, what is allowed, what the machine in RTL is built for ('' for all of it), why."""

INTRODUCTION: Final = """\
# Limits

What a configuration, a product, a run and a command may hold. Whatever lies outside is refused at once, in one line
with name, value and limit: a wrong kind of value (text, bool, NaN, an int of NumPy in a configuration) like a value
out of range. Where the column *in RTL* holds less than what is allowed, closed forms of the array still take the
value; `hw` and the machine's simulator refuse it, and every result that uses it says *planned, not built*. Only
`memory.channels` is different: the machine runs behind one channel, whatever the number.

Written by `python -m nmsat.reports.commands.limits_page` from the values that the code checks by.
"""


def rows() -> list[Row]:
    """Return all lines of the table."""
    return [*_configuration(), *_products(), *_training(), *_commands()]


def page() -> str:
    """Return the page as markdown."""
    header = ("what", "allowed", "in RTL", "why")
    lines: list[Sequence[str]] = [header, ["---"] * len(header), *rows()]
    return f"{INTRODUCTION}\n" + "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def _configuration() -> list[Row]:
    name, *slices = SAT_PLAIN
    return [
        _plain(name),
        *(_field("`SatConfig`", field) for field in SAT_RANGES),
        ("`SatConfig`: `sum_depth`", f"at least {INTERLEAVE} `rows`", "", "results of one tile"),
        (
            "`SatConfig`, to transpose (train, `verify`, `verify fuzz`, `card validate`)",
            f"`rows` at least {LEAST_TRANSPOSING}",
            "",
            "a tile of a transposed operand is whole beats; of a smaller machine only narrow ones fit into one tile",
        ),
        *map(_plain, slices),
        *(_field("`MemoryConfig`", field) for field in MEMORY_RANGES),
    ]


def _plain(field: Plain) -> Row:
    return f"`SatConfig`: `{field.name}`", field.allowed, "", field.why


def _field(where: str, field: Range) -> Row:
    built = "" if field.built is None else listed(field.built)
    return f"{where}: `{field.name}`", f"{field.allowed} ({field.unit})", built, field.why


def _products() -> list[Row]:
    side = f"from 1 to {shown(MAX_SIDE)}"
    return [
        ("product: `m`, `k`, `n`", side, "", "40 bits in the words of a step"),
        ("product: `count`", f"from 1 to {shown(MAX_COUNT)}", "", "32 bits in the words of a step"),
        ("product: pattern N:M", f"M {listed(GROUP_SIZES)}, N from 1 to M", "", "selectors of an element"),
        ("product, output stationary: K / M", f"at most {shown(MAX_WINDOWS)}", "", "16 bits of windows in a command"),
        ("convolution: sizes, kernel, stride, dilation", side, "", "as for products; the kernel has to fit"),
        ("convolution: padding", f"from 0 to {shown(MAX_SIDE)}", "", "the same"),
        ("network: batch", f"from 1 to {shown(MAX_BATCH)}", "", "and what the memory plan holds"),
        ("SCALE-Sim table: each number", f"from 1 to {shown(MAX_NUMBER)}", "", "as on the command line"),
    ]


def _training() -> list[Row]:
    whole = [
        (f"training run: `{name}`", f"from {shown(low)} to {shown(high)}", "", "") for name, low, high in WHOLE_RANGES
    ]
    numbers = [
        (
            f"training run: `{name}`",
            f"a number {'above' if name == 'lr' else 'from'} {shown(low)} to {shown(high)}",
            "",
            "none is the method's own" if name == "decay" else "",
        )
        for name, low, high in NUMBER_RANGES
    ]
    return [*whole, *numbers]


def _commands() -> list[Row]:
    ones = f"from 1 to {shown(MAX_SIZE)}"
    return [
        ("command line: M, K, N, `--batch`, `--epochs`, `--steps`", ones, "", ""),
        ("command line: `--seed`", f"from 0 to {shown(MAX_SEED)}", "", "63 bits"),
        ("`gemm`: values and `y_sha256`", _most(gemm.MAX_MACS, "multiply-adds"), "", "beyond, `y_sha256` is null"),
        ("`gemm`: values, each operand", _most(gemm.MAX_OPERAND, "numbers"), "", "the same"),
        ("`gemm`: values, K", _most(gemm.MAX_DEPTH), "", "the same: a step of Python for each"),
        ("`gemm --tiles`", _most(tiles.MAX_TILES, "tiles"), "", "about 50 MB"),
        ("`gemm --vcd`", _most(trace.MAX_ELEMENT_CYCLES, "cycles x elements"), "", "a minute, some ten MB"),
        ("`program`: M x K x N", _most(programs.MAX_MACS), "", "every cycle of the machine is simulated"),
        ("`program`: tensors", _most(programs.MAX_BEATS, "beats of 64 bytes"), "", "64 MiB"),
        ("`program`: estimated cycles", _most(programs.MAX_CYCLES), "", "minutes"),
        ("`program --network`: memory", _most(step_program.BOUNDS.beats, "beats of 64 bytes"), "", "64 MiB"),
        ("`program --network`: instructions", _most(step_program.BOUNDS.instructions), "", "minutes"),
        ("`program --conv`: each number", f"from 1 (padding: 0) to {shown(MAX_CONV)}", "", "sizes of images"),
        ("`verify gemm`: cycles", _most(verify_gemm.MAX_CYCLES), "", "hours on the RTL beyond"),
        ("`verify --jobs`, `verify fuzz --programs`", f"from 1 to {shown(verify.MAX_JOBS)}", "", ""),
        ("`verify workload --products`", f"from 1 to {shown(verify_workload.MAX_PRODUCTS)}", "", ""),
        ("`study --processes`", f"from 1 to {shown(study.MAX_PROCESSES)}", "", "one thread each"),
        ("`study --hours`", f"from 0 to {shown(study.MAX_HOURS)}", "", ""),
        ("`patterns --budget`", "a number above 0 to 1", "", "share of the dense step's cycles"),
        ("`engines --scale`", f"from 1 to {shown(engines.MAX_SCALE)}", "", ""),
    ]


def _most(limit: float, unit: str = "") -> str:
    return f"at most {shown(limit)} {unit}".rstrip()


if __name__ == "__main__":
    print(page(), end="")
