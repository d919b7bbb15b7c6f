"""The estimate that mappings are chosen by, against the exact simulator."""

from __future__ import annotations

import pytest

from nmsat.algorithms.core.tape import Pattern
from nmsat.dataflow.contract.config import preset
from nmsat.dataflow.contract.isa import Side
from nmsat.dataflow.contract.registers import Launch, Region
from nmsat.dataflow.program.activations import RowsSource
from nmsat.dataflow.program.assembler import Assembler
from nmsat.dataflow.program.emit import assemble
from nmsat.dataflow.program.estimate import estimate_cycles
from nmsat.dataflow.program.product import Epilogue, ProductCode, Sink
from nmsat.dataflow.program.tensors import Layout
from nmsat.dataflow.program.weights import ForwardWeights
from nmsat.sim.sat import Sat


def cycles(m: int, k: int, n: int, *, bias: bool = False) -> tuple[float, int]:
    """Return the estimate of a product and what the machine takes."""
    config, pattern, layout = preset("vcu1525"), Pattern(2, 8), Layout()
    x, y = layout.rows("x", 0, m, k), layout.rows("y", 1, m, n)
    w = layout.weights("w", 2, k, n, pattern, pattern, backward=False)
    epilogue = Epilogue(kind=Side.TILE32, side=layout.rows("bias", 0, 1, n, 4)) if bias else Epilogue()
    code = ProductCode("ff", m, k, n, RowsSource(x, m, k), ForwardWeights(w), Sink(y, epilogue), pattern)
    out = Assembler(config)
    cut = assemble(out, code)
    words = [instruction.encode() for instruction in out.finish().instructions]
    regions = tuple(Region(number << 40, beats, True) for number, beats in enumerate(layout.beats[:3]))
    settings = Launch((*regions, Region(3 << 40, len(words), False)), 3, 0, len(words))
    return estimate_cycles(cut), Sat(config).time(settings, words).cycles


@pytest.mark.parametrize(
    ("m", "k", "n"),
    [
        pytest.param(512, 64, 256, id="many results, the port is busy with writes"),
        pytest.param(512, 128, 512, id="few chunks to a tile, stores overlap"),
        pytest.param(512, 256, 64, id="many operands, the port is busy with reads"),
        pytest.param(256, 512, 256, id="a long reduction, the array is busy"),
    ],
)
def test_twice_the_rows_take_as_many_more_cycles_as_estimated(m: int, k: int, n: int) -> None:
    """Without start and end, which the estimate leaves out but for a constant."""
    few, many = cycles(m, k, n), cycles(2 * m, k, n)
    estimated, exact = (after - before for before, after in zip(few, many, strict=True))
    assert abs(estimated / exact - 1) < 0.07, (estimated, exact)


@pytest.mark.parametrize(("m", "k", "n"), [(512, 64, 256), (512, 128, 512)])
def test_the_port_reads_a_bias_for_every_row(m: int, k: int, n: int) -> None:
    few, many = cycles(m, k, n, bias=True), cycles(2 * m, k, n, bias=True)
    estimated, exact = (after - before for before, after in zip(few, many, strict=True))
    assert abs(estimated / exact - 1) < 0.07, (estimated, exact)
