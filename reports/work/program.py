"""The work behind `nmsat program`: one product as a machine program, run on the simulator and, if asked, on the RTL."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import numpy as np

from nmsat.algorithms.core.nm import pack
from nmsat.algorithms.core.numeric import ordered_dot, ordered_dot_packed, to_half
from nmsat.algorithms.core.windows import output_size
from nmsat.dataflow.contract.isa import ErrorCode
from nmsat.dataflow.program import kinds
from nmsat.dataflow.program.activations import ColumnsSource, RowsSource
from nmsat.dataflow.program.assembler import Assembler
from nmsat.dataflow.program.emit import assemble, choose
from nmsat.dataflow.program.estimate import estimate_cycles
from nmsat.dataflow.program.listing import listing, records
from nmsat.dataflow.program.product import Epilogue, ProductCode, Sink, cuts
from nmsat.dataflow.program.step import write_code
from nmsat.dataflow.program.tensors import DENSE, Image, Layout, Place
from nmsat.dataflow.program.weights import DenseSource, ForwardWeights
from nmsat.dataflow.program.wellformed import check_well_formed
from nmsat.reports.work.launch import LAUNCH_FILES, launch_files
from nmsat.sim.sat import Sat, launch

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from nmsat.algorithms.core.tape import ConvShape, Pattern
    from nmsat.dataflow.contract.config import SatConfig
    from nmsat.dataflow.program.assembler import Code
    from nmsat.dataflow.program.product import Cut
    from nmsat.dataflow.program.tensors import Rows, Weights
    from nmsat.sim.sat import Report

PROGRAM_FILES: Final = ("program.bin", "program.txt", "program.json", *LAUNCH_FILES)
"""Files that a program is written to."""


MAX_MACS: Final = 1 << 30
"""Largest M x K x N of a program: the simulator goes through every cycle of the machine."""

MAX_BEATS: Final = 1 << 20
"""Most beats of 64 bytes that the tensors of a program may take: 64 MiB."""

MAX_CYCLES: Final = 1 << 24
"""Longest program, in cycles of the scheduler's estimate: minutes of the simulator."""


@dataclass(frozen=True)
class ProductProgram:
    """A product as a program: how it was cut, its code, the memory that it starts from, its result.

    reference: gives the result by NumPy's ordered sums, from the operands alone; None where that takes windows apart.
    """

    cut: Cut
    code: Code
    image: Image
    place: Place
    result: Rows
    reference: Callable[[], NDArray[np.float16]] | None = None

    @property
    def macs(self) -> int:
        """Multiply-adds of kept elements, groups filled."""
        code, mapping = self.cut.code, self.cut.mapping
        return code.m * code.n * -(-code.k * mapping.n // mapping.m)


def check_macs(shape: tuple[int, int, int]) -> None:
    """Raise ValueError if the product m, k, n is too large for a program that is simulated cycle by cycle."""
    m, k, n = shape
    if m * k * n > MAX_MACS:
        raise ValueError(f"M x K x N is {m * k * n}; the limit is {MAX_MACS}; choose a smaller product")


def matrix_program(
    config: SatConfig, shape: tuple[int, int, int], pattern: Pattern | None, dataflow: str | None, seed: int
) -> ProductProgram:
    """Return Y[m, n] = A[m, k] W[k, n] with W packed along k, random operands; ValueError if it is too large."""
    layout, code, x, w = _matrix(shape, pattern, dataflow)
    (m, k, n), packed = shape, pattern or DENSE
    rng = np.random.default_rng(seed)
    weights = pack(_halves(rng, k, n), packed.n, packed.m)
    values = _halves(rng, m, k)

    def fill(image: Image) -> None:
        image.write_rows(x, values)
        image.write_copies(w, weights, None)

    return _finish(config, layout, code, fill, lambda: to_half(ordered_dot_packed(values, weights)))


def gradient_program(config: SatConfig, shape: tuple[int, int, int], dataflow: str | None, seed: int) -> ProductProgram:
    """Return dW[m, n] = X^T dY with X[k, m], dY[k, n], both dense and as they lie; ValueError if it is too large."""
    layout, code, x, dy = _gradient(shape, dataflow)
    m, k, n = shape
    rng = np.random.default_rng(seed)
    inputs, gradients = _halves(rng, k, m), _halves(rng, k, n)

    def fill(image: Image) -> None:
        image.write_rows(x, inputs)
        image.write_rows(dy, gradients)

    return _finish(config, layout, code, fill, lambda: to_half(ordered_dot(inputs.T.copy(), gradients)))


def check_program(
    config: SatConfig,
    shape: tuple[int, int, int],
    pattern: Pattern | None,
    dataflow: str | None,
    *,
    transposed: bool,
) -> None:
    """Raise ValueError if there is no program of this product on this machine; quick, nothing is assembled."""
    code = _gradient(shape, dataflow)[1] if transposed else _matrix(shape, pattern, dataflow)[1]
    cuts(config, code)


def convolution_sizes(conv: ConvShape) -> tuple[int, int]:
    """Return M and K of a convolution; ValueError if its kernel does not fit."""
    height, width = output_size(conv)
    return conv.batch * height * width, kinds.taps(conv) * conv.channels_in


def convolution_program(config: SatConfig, conv: ConvShape, pattern: Pattern | None, seed: int) -> ProductProgram:
    """Return a convolution of NHWC tensors by implicit GEMM, W packed along k; ValueError if it is too large."""
    packed = pattern or DENSE
    height, width = output_size(conv)
    inputs, outputs = conv.batch * conv.height * conv.width, conv.batch * height * width
    channels, taps = kinds.padded_channels(conv, packed, backward=False), kinds.taps(conv)
    k = taps * channels
    check_macs((outputs, k, conv.channels_out))
    rng, layout = np.random.default_rng(seed), Layout()
    x, y = layout.rows("x", 1, inputs, conv.channels_in), layout.rows("y", 2, outputs, conv.channels_out)
    w = layout.weights("w", 1, k, conv.channels_out, packed, packed, backward=False)
    code = kinds.forward("product", conv, x, w, y, Epilogue())
    _check_room(layout)
    values = np.zeros((taps, channels, conv.channels_out), np.float16)  # zeros behind the channels of each tap
    values[:, : conv.channels_in] = _halves(rng, taps * conv.channels_in, conv.channels_out).reshape(
        taps, conv.channels_in, -1
    )
    values = values.reshape(k, conv.channels_out)

    def fill(image: Image) -> None:
        image.write_rows(x, _halves(rng, inputs, conv.channels_in))
        image.write_copies(w, pack(values, packed.n, packed.m), None)

    return _finish(config, layout, code, fill)


def run_on_simulator(config: SatConfig, program: ProductProgram) -> Report:
    """Run the program and change its image.

    Raises IllFormedError, a ValueError, if it is not well-formed, RuntimeError if it ends in an error.
    """
    settings = launch(program.image.regions, program.place, ports=config.ports)
    check_well_formed(config, program.code.instructions, settings)
    report = Sat(config).run(settings, program.image.regions)
    if report.error is not ErrorCode.NONE:
        raise RuntimeError(f"the program ended in {report.error.name} at instruction {report.error_index}")
    return report


def program_files(
    config: SatConfig, program: ProductProgram, before: Sequence[NDArray[np.uint8]]
) -> dict[str, str | bytes]:
    """Return file name -> content of the program as binary, text and JSON, and of what a host needs to run it.

    config: of the machine; before: the regions before the run; those of the image are as the program has left them.
    The names are among those of `PROGRAM_FILES`.
    """
    code = program.code
    return {
        "program.bin": code.encode(),
        "program.txt": listing(code.instructions, code.labels),
        "program.json": json.dumps(records(code), indent=1),
        **launch_files(before, program.image.regions, [program.place], config),
    }


def _matrix(
    shape: tuple[int, int, int], pattern: Pattern | None, dataflow: str | None
) -> tuple[Layout, ProductCode, Rows, Weights]:
    check_macs(shape)
    (m, k, n), packed, layout = shape, pattern or DENSE, Layout()
    x, y = layout.rows("x", 1, m, k), layout.rows("y", 2, m, n)
    w = layout.weights("w", 1, k, n, packed, packed, backward=False)
    _check_room(layout)
    code = ProductCode("product", m, k, n, RowsSource(x, m, k), ForwardWeights(w), Sink(y), packed, dataflow)
    return layout, code, x, w


def _gradient(shape: tuple[int, int, int], dataflow: str | None) -> tuple[Layout, ProductCode, Rows, Rows]:
    check_macs(shape)
    (m, k, n), layout = shape, Layout()
    x, dy, dw = layout.rows("x", 1, k, m), layout.rows("dy", 1, k, n), layout.rows("dw", 2, m, n)
    _check_room(layout)
    code = ProductCode("product", m, k, n, ColumnsSource(x, k), DenseSource(dy, k), Sink(dw), None, dataflow)
    return layout, code, x, dy


def _finish(
    config: SatConfig,
    layout: Layout,
    product: ProductCode,
    fill: Callable[[Image], None],
    reference: Callable[[], NDArray[np.float16]] | None = None,
) -> ProductProgram:
    cut = choose(config, product)
    cycles = estimate_cycles(cut)
    if cycles > MAX_CYCLES:
        raise ValueError(
            f"the program takes about {cycles:.2g} cycles; the limit is {MAX_CYCLES}; choose a smaller product"
        )
    out = Assembler(config)
    cut = assemble(out, replace(product, mapping=cut.mapping))
    code = out.finish()
    place = Place("program", 0, 0, len(code.instructions))
    beats = list(layout.beats)
    beats[0] = place.beats
    image = Image(beats)
    fill(image)
    write_code(image, place, code)
    return ProductProgram(cut, code, image, place, product.sink.tensor, reference)


def _check_room(layout: Layout) -> None:
    beats = sum(layout.beats)
    if beats > MAX_BEATS:
        what = f"the tensors of the program take {beats} beats of 64 bytes"
        raise ValueError(f"{what}; the limit is {MAX_BEATS}; choose a smaller product")


def _halves(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.standard_normal(shape).astype(np.float16)
