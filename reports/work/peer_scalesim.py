"""SCALE-Sim v3 as a model for `nmsat compare`: what it is given, what its reports say, and where its cycles go.

An array of R x C elements takes one fold of a product after the other. Output stationary, a fold is R x C results,
over T = K; weight stationary R x C weights, over T = M. A fold lasts T + R + C - 2 cycles: the operands enter and the
results leave along the diagonal, and nothing of the next fold begins before; weight stationary, R more come first, in
which the weights enter. (A. Samajdar et al., "A Systematic Methodology for Characterizing Scalability of DNN
Accelerators using SCALE-Sim", ISPASS 2020, has 2R + C + T - 2 for either; version 3 leaves an R out where sums are
stationary.)
Sparse, the first N of each M rows of W are kept in all columns alike and the activations of the others dropped, so that
K shrinks.
"""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from nmsat.algorithms.core.windows import output_size

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nmsat.reports.work.compare_layers import Gemm

NAME: Final = "scalesim"
"""The model, and its Python package."""

COMPUTE: Final = "COMPUTE_REPORT.csv"
DETAIL: Final = "DETAILED_ACCESS_REPORT.csv"

OVERALL: Final = "Total Cycles (incl. prefetch)"
TOTAL: Final = "Total Cycles"
STALL: Final = "Stall Cycles"
READS: Final = ("DRAM IFMAP Reads", "DRAM Filter Reads")
WRITES: Final = ("DRAM OFMAP Writes",)

REPORTED: Final = {COMPUTE: (OVERALL, TOTAL, STALL), DETAIL: (*READS, *WRITES)}
"""Report -> the columns that are used."""

MATRIX_HEADER: Final = "Layer,M,N,K,Sparsity,"
CONV_HEADER: Final = (
    "Layer name,IFMAP height,IFMAP width,Filter height,Filter width,Channels,Num filter,Strides,Sparsity,"
)


class ReportError(ValueError):
    """A report of SCALE-Sim that is not as version 3.0.0 writes it; the text is one line."""


@dataclass(frozen=True)
class Array:
    """What SCALE-Sim is told of a machine. dataflow: 'os' or 'ws'; words: of 2 bytes that each of its three interfaces
    to memory moves in a cycle; buffers: words of the buffers of activations, weights and results."""

    rows: int
    columns: int
    dataflow: str
    words: int
    buffers: tuple[int, int, int]


def config_text(array: Array, *, sparse: bool) -> str:
    """Return the configuration file. Sizes are in words: SCALE-Sim takes a word for a byte."""
    kib = [max(1, words // 1024) for words in array.buffers]
    sections = {
        "general": {"run_name": "run"},
        "architecture_presets": {
            "ArrayHeight": array.rows,
            "ArrayWidth": array.columns,
            "IfmapSramSzkB": kib[0],
            "FilterSramSzkB": kib[1],
            "OfmapSramSzkB": kib[2],
            "IfmapOffset": 0,
            "FilterOffset": 10_000_000,
            "OfmapOffset": 20_000_000,
            "Bandwidth": array.words,
            "Dataflow": array.dataflow,
            "MemoryBanks": 1,
            "ReadRequestBuffer": 32,
            "WriteRequestBuffer": 32,
        },
        "layout": {
            f"{which}{what}": value
            for which in ("Ifmap", "Filter")
            for what, value in (
                ("CustomLayout", False),
                ("SRAMBankBandwidth", array.words),
                ("SRAMBankNum", 1),
                ("SRAMBankPort", 2),
            )
        },
        "sparsity": {
            "SparsitySupport": str(sparse).lower(),
            "SparseRep": "ellpack_block",
            "OptimizedMapping": "false",
            "BlockSize": 4,
            "RandomNumberGeneratorSeed": 40,
        },
        "run_presets": {"InterfaceBandwidth": "USER", "UseRamulatorTrace": False},
    }
    texts = ("".join(f"{key} = {value}\n" for key, value in keys.items()) for keys in sections.values())
    return "\n".join(f"[{name}]\n{text}" for name, text in zip(sections, texts, strict=True))


def job(array: Array, gemm: Gemm) -> dict[str, Any]:
    """Return what `peer_driver` is asked for: one product, as a convolution where it is one of a single image."""
    pattern = f"{gemm.pattern.n}:{gemm.pattern.m}" if gemm.pattern else "1:1"
    conv = gemm.conv
    if conv is None:
        lines = [MATRIX_HEADER, f"layer,{gemm.m},{gemm.n},{gemm.k},{pattern},"]
    else:
        # Padding is part of the image, and nothing lies behind the last window: SCALE-Sim would begin another one.
        size = [(count - 1) * conv.stride[0] + k for count, k in zip(output_size(conv), conv.kernel, strict=True)]
        shape = (*size, *conv.kernel, conv.channels_in // conv.groups, gemm.n, conv.stride[0])
        lines = [CONV_HEADER, f"layer,{','.join(map(str, shape))},{pattern},"]
    return {
        "simulator": NAME,
        "config": config_text(array, sparse=gemm.pattern is not None),
        "topology": "\n".join(lines) + "\n",
        "gemm": conv is None,
    }


def folds(array: Array, gemm: Gemm) -> tuple[int, int]:
    """Return how many folds a product has and how long one is streamed, T."""
    spread, length = (gemm.m, gemm.kept) if array.dataflow == "os" else (gemm.kept, gemm.m)
    return -(-spread // array.rows) * -(-gemm.n // array.columns), length


def formula(array: Array, gemm: Gemm) -> int:
    """Return the cycles of the array alone, without memory."""
    count, length = folds(array, gemm)
    return count * (length + array.rows + array.columns - 2 + (array.rows if array.dataflow == "ws" else 0))


def read_reports(reports: dict[str, str]) -> dict[str, int]:
    """Return the figures of the one layer of a run: the columns of `REPORTED`. ReportError for an odd report."""
    found: dict[str, int] = {}
    for name, columns in REPORTED.items():
        if name not in reports:
            raise ReportError(f"there is no {name} among the reports: {', '.join(sorted(reports)) or 'none'}")
        rows = [[cell.strip() for cell in row] for row in csv.reader(io.StringIO(reports[name])) if row]
        if len(rows) != 2:
            raise ReportError(f"{name} has {len(rows)} lines; a header and one layer were expected")
        cells = dict(zip(*rows, strict=False))
        for column in columns:
            try:
                found[column] = int(float(cells[column]))
            except (KeyError, ValueError, OverflowError):
                raise ReportError(f"{name}: column {column!r} is {cells.get(column)!r}; it must be a number") from None
    return found


def check(array: Array, gemm: Gemm, found: dict[str, int]) -> None:
    """Raise ReportError unless the cycles that were not stalls are those of `formula`; the first counts as 0."""
    counted, known = found[TOTAL] - found[STALL] + 1, formula(array, gemm)
    if counted != known:
        raise ReportError(f"{TOTAL} without {STALL} are {counted}; folds of the array take {known}")


def components(array: Array, gemm: Gemm, found: dict[str, int]) -> dict[str, int]:
    """Return cycles by `compare_names.COMPONENTS`, from the counters of a run; they add up to its `OVERALL`."""
    count, length = folds(array, gemm)
    multiply = gemm.m * gemm.kept * gemm.n // (array.rows * array.columns)
    return {
        "multiply": multiply,
        "edges": count * length - multiply,
        "feed": count * array.rows if array.dataflow == "ws" else 0,
        "fill and drain": count * (array.rows + array.columns - 2),
        "memory": found[OVERALL] - formula(array, gemm),
        "update": 0,
    }


def moved(found: dict[str, int], columns: Sequence[str]) -> int:
    """Return the bytes of `READS` or `WRITES`."""
    return 2 * sum(found[column] for column in columns)
