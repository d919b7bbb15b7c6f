"""Products of convolutions as programs, by shape alone: what a machine is timed with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from nmsat.algorithms.core.tape import ConvShape, Stage
from nmsat.algorithms.core.windows import backward_taps, output_size
from nmsat.dataflow.contract.isa import OFFSET_MASK
from nmsat.dataflow.contract.registers import Launch, Region
from nmsat.dataflow.program.activations import ColumnsSource, RowsSource, WindowSource
from nmsat.dataflow.program.assembler import Assembler
from nmsat.dataflow.program.emit import assemble
from nmsat.dataflow.program.product import Epilogue, Phase, ProductCode, Sink
from nmsat.dataflow.program.tensors import DENSE, Layout
from nmsat.dataflow.program.weights import BackwardWeights, DenseSource, ForwardWeights
from nmsat.dataflow.program.windows import Images, Tap, Window, taps_of, window_of

if TYPE_CHECKING:
    from nmsat.algorithms.core.tape import Pattern
    from nmsat.dataflow.contract.config import SatConfig
    from nmsat.dataflow.contract.isa import Instruction

OPEN: Final = Region(0, OFFSET_MASK, True)
"""A region that no access leaves."""


@dataclass(frozen=True)
class LayerProduct:
    """One product of a square convolution: pixels of a side of the input, channels in and out, side of the kernel.

    pattern: of its weights; None: dense, and always so for weight gradients. BP is the last stride phase.
    """

    stage: Stage
    pixels: int
    channels: tuple[int, int]
    kernel: int = 1
    stride: int = 1
    batch: int = 1
    pattern: Pattern | None = None

    @property
    def conv(self) -> ConvShape:
        """The convolution; an odd kernel keeps the size of the image, but for the stride."""
        k, pad, stride = self.kernel, self.kernel // 2, self.stride
        c_in, c_out = self.channels
        return ConvShape(
            self.batch, self.pixels, self.pixels, c_in, c_out, (k, k), (stride, stride), (pad, pad), (1, 1)
        )

    @property
    def plain(self) -> bool:
        """Whether the windows are the rows of the tensor."""
        return self.kernel == self.stride == 1

    def code(self, dataflow: str | None = None) -> ProductCode:
        """Return the product with its tensors placed in region 1; dataflow: 'os', 'ws' or None for what is faster."""
        of = {Stage.FF: self._forward, Stage.BP: self._backward, Stage.WU: self._gradient}
        return of[self.stage](dataflow)

    def program(self, config: SatConfig, dataflow: str | None = None) -> tuple[Launch, list[Instruction]]:
        """Return the instructions and the launch of a program of this product alone."""
        out = Assembler(config)
        assemble(out, self.code(dataflow))
        instructions = list(out.finish().instructions)
        return Launch((OPEN,) * 4, 0, 0, len(instructions)), instructions

    def _forward(self, dataflow: str | None) -> ProductCode:
        conv, layout, pattern = self.conv, Layout([0, 0]), self.pattern or DENSE
        inputs, outputs = _rows(conv)
        k, n = self.kernel**2 * conv.channels_in, conv.channels_out
        x, w = (
            layout.rows("x", 1, inputs, conv.channels_in),
            layout.weights("w", 1, k, n, pattern, pattern, backward=True),
        )
        y = layout.rows("y", 1, outputs, n)
        act = RowsSource(x, inputs, k) if self.plain else WindowSource(x, window_of(conv), taps_of(conv))
        return ProductCode("ff", outputs, k, n, act, ForwardWeights(w), Sink(y), pattern, dataflow)

    def _gradient(self, dataflow: str | None) -> ProductCode:
        conv, layout = self.conv, Layout([0, 0])
        inputs, outputs = _rows(conv)
        k, n = self.kernel**2 * conv.channels_in, conv.channels_out
        x, dy, dw = (
            layout.rows("x", 1, inputs, conv.channels_in),
            layout.rows("dy", 1, outputs, n),
            layout.rows("dw", 1, k, n),
        )
        act = ColumnsSource(x, outputs) if self.plain else ColumnsSource(x, outputs, window_of(conv), taps_of(conv))
        return ProductCode("wu", k, outputs, n, act, DenseSource(dy, outputs), Sink(dw), None, dataflow)

    def _backward(self, dataflow: str | None) -> ProductCode:
        conv, layout, pattern = self.conv, Layout([0, 0]), self.pattern or DENSE
        inputs, outputs = _rows(conv)
        c_in, c_out = self.channels
        dy, dx = layout.rows("dy", 1, outputs, c_out), layout.rows("dx", 1, inputs, c_in)
        w = layout.weights("w", 1, self.kernel**2 * c_in, c_out, pattern, pattern, backward=True)
        pairs = [(r, c) for r in backward_taps(conv, 0) for c in backward_taps(conv, 1) if r.taps and c.taps]
        rows, columns = pairs[-1]
        size = rows.length, columns.length
        taps = tuple(Tap(p, q) for p in rows.offsets for q in columns.offsets)
        act = WindowSource(dy, Window(Images(conv.batch, *output_size(conv)), size, (1, 1)), taps)
        kernel = tuple(p * self.kernel + q for p in rows.taps for q in columns.taps)
        phase = Phase(Images(conv.batch, self.pixels, self.pixels), (rows.phase, columns.phase), conv.stride)
        shape = conv.batch * size[0] * size[1], len(taps) * c_out, c_in
        wgt, sink = BackwardWeights(w, kernel, c_in), Sink(dx, Epilogue(), phase)
        return ProductCode("bp", *shape, act, wgt, sink, pattern, dataflow)


def _rows(conv: ConvShape) -> tuple[int, int]:
    """Return pixels of input and output."""
    height, width = output_size(conv)
    return conv.batch * conv.height * conv.width, conv.batch * height * width
