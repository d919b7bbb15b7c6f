"""The work behind `nmsat program`: one product as a machine program, run on the simulator and, if asked, on the RTL."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from nmsat.algorithms.core.nm import pack
from nmsat.algorithms.core.windows import output_size
from nmsat.dataflow.contract.isa import ErrorCode
from nmsat.dataflow.program.activations import ColumnsSource, RowsSource, WindowSource
from nmsat.dataflow.program.assembler import Assembler
from nmsat.dataflow.program.listing import listing, records
from nmsat.dataflow.program.product import ProductCode, Sink, assemble
from nmsat.dataflow.program.step import write_code
from nmsat.dataflow.program.tensors import DENSE, Image, Layout, Place
from nmsat.dataflow.program.weights import DenseSource, ForwardWeights
from nmsat.dataflow.program.windows import taps_of, window_of
from nmsat.sim.sat import Sat, launch

if TYPE_CHECKING:
    from collections.abc import Callable

    from nmsat.algorithms.core.tape import ConvShape, Pattern
    from nmsat.dataflow.contract.config import SatConfig
    from nmsat.dataflow.program.assembler import Code
    from nmsat.dataflow.program.product import Cut
    from nmsat.dataflow.program.tensors import Rows
    from nmsat.sim.sat import Report

PROGRAM_FILES: Final = ("program.bin", "program.txt", "program.json", "region0.bin", "region1.bin", "region2.bin")
"""Files that a program is written to."""


@dataclass(frozen=True)
class ProductProgram:
    """A product as a program: how it was cut, its code, the memory that it starts from, its result."""

    cut: Cut
    code: Code
    image: Image
    place: Place
    result: Rows

    @property
    def macs(self) -> int:
        """Multiply-adds of kept elements, groups filled."""
        code, mapping = self.cut.code, self.cut.mapping
        return code.m * code.n * -(-code.k * mapping.n // mapping.m)


def matrix_program(
    config: SatConfig, shape: tuple[int, int, int], pattern: Pattern | None, dataflow: str | None, seed: int
) -> ProductProgram:
    """Return Y[m, n] = A[m, k] W[k, n] with W packed along k, random operands."""
    (m, k, n), packed = shape, pattern or DENSE
    rng, layout = np.random.default_rng(seed), Layout()
    x, y = layout.rows("x", 1, m, k), layout.rows("y", 2, m, n)
    w = layout.weights("w", 1, k, n, packed, packed, backward=False)
    code = ProductCode("product", m, k, n, RowsSource(x, m, k), ForwardWeights(w), Sink(y), packed, dataflow)
    values = _halves(rng, k, n)

    def fill(image: Image) -> None:
        image.write_rows(x, _halves(rng, m, k))
        image.write_copies(w, pack(values, packed.n, packed.m), None)

    return _finish(config, layout, code, y, fill)


def gradient_program(config: SatConfig, shape: tuple[int, int, int], dataflow: str | None, seed: int) -> ProductProgram:
    """Return dW[m, n] = X^T dY with X[k, m], dY[k, n], both dense and as they lie, random operands."""
    m, k, n = shape
    rng, layout = np.random.default_rng(seed), Layout()
    x, dy, dw = layout.rows("x", 1, k, m), layout.rows("dy", 1, k, n), layout.rows("dw", 2, m, n)
    code = ProductCode("product", m, k, n, ColumnsSource(x, k), DenseSource(dy, k), Sink(dw), None, dataflow)

    def fill(image: Image) -> None:
        image.write_rows(x, _halves(rng, k, m))
        image.write_rows(dy, _halves(rng, k, n))

    return _finish(config, layout, code, dw, fill)


def convolution_program(config: SatConfig, conv: ConvShape, pattern: Pattern | None, seed: int) -> ProductProgram:
    """Return a convolution of NHWC tensors by implicit GEMM, W packed along k, random operands."""
    packed = pattern or DENSE
    height, width = output_size(conv)
    inputs, outputs = conv.batch * conv.height * conv.width, conv.batch * height * width
    taps = taps_of(conv)
    k = len(taps) * conv.channels_in
    rng, layout = np.random.default_rng(seed), Layout()
    x, y = layout.rows("x", 1, inputs, conv.channels_in), layout.rows("y", 2, outputs, conv.channels_out)
    w = layout.weights("w", 1, k, conv.channels_out, packed, packed, backward=False)
    act = WindowSource(x, window_of(conv), taps)
    code = ProductCode("product", outputs, k, conv.channels_out, act, ForwardWeights(w), Sink(y), packed)
    values = _halves(rng, k, conv.channels_out)

    def fill(image: Image) -> None:
        image.write_rows(x, _halves(rng, inputs, conv.channels_in))
        image.write_copies(w, pack(values, packed.n, packed.m), None)

    return _finish(config, layout, code, y, fill)


def run_on_simulator(config: SatConfig, program: ProductProgram) -> Report:
    """Run the program and change its image; RuntimeError if it ends in an error."""
    report = Sat(config).run(launch(program.image.regions, program.place), program.image.regions)
    if report.error is not ErrorCode.NONE:
        raise RuntimeError(f"the program ended in {report.error.name} at instruction {report.error_index}")
    return report


def program_files(program: ProductProgram) -> dict[str, str | bytes]:
    """Return file name -> content of the program as binary, text and JSON, and of the memory as it is now.

    The names are among those of `PROGRAM_FILES`.
    """
    code = program.code
    regions = {f"region{number}.bin": region.tobytes() for number, region in enumerate(program.image.regions[:3])}
    return {
        "program.bin": code.encode(),
        "program.txt": listing(code.instructions, code.labels),
        "program.json": json.dumps(records(code), indent=1),
        **regions,
    }


def _finish(
    config: SatConfig, layout: Layout, product: ProductCode, result: Rows, fill: Callable[[Image], None]
) -> ProductProgram:
    out = Assembler(config)
    cut = assemble(out, product)
    code = out.finish()
    place = Place("program", 0, 0, len(code.instructions))
    beats = list(layout.beats)
    beats[0] = place.beats
    image = Image(beats)
    fill(image)
    write_code(image, place, code)
    return ProductProgram(cut, code, image, place, result)


def _halves(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.standard_normal(shape).astype(np.float16)
