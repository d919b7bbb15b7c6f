"""hw.array.uspe: the element against a plain model of docs/machine/array.md, by cycle, and against ordered sums."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
import pytest

from nmsat.dataflow.contract.config import preset
from nmsat.hw.array.uspe import Uspe
from nmsat.hw.parts.verilog import emit
from nmsat.tb.run.runner import Built, build, run
from tests.array.uspe_model import UspeModel, Words
from tests.array.uspe_sequences import Sequence, Shape, join, output_stationary, random_words, weight_stationary
from tests.benches import in_amaranth

if TYPE_CHECKING:
    from nmsat.dataflow.contract.config import SatConfig

pytestmark = pytest.mark.rtl

LINKS: Final = ("act", "ctl", "wgt", "sum")
OS_SHAPES: Final = (Shape(1, 2, 8), Shape(1, 2, 1), Shape(2, 4, 4), Shape(2, 8, 2), Shape(3, 16, 1), Shape(4, 4, 4))
WS_SHAPES: Final = (Shape(1, 2, 8), Shape(1, 16, 1), Shape(2, 4, 4), Shape(2, 8, 2), Shape(2, 8, 1), Shape(4, 4, 4))


def configuration(lanes: int, stages: int) -> SatConfig:
    return preset("tiny").replace(act_lanes=lanes, adder_stages=stages)


@pytest.fixture(scope="module", params=[(1, 4), (1, 7), (2, 1)], ids=lambda p: f"lanes{p[0]}-stages{p[1]}")
def element(request: pytest.FixtureRequest) -> tuple[SatConfig, Built]:
    config = configuration(*request.param)
    return config, build(emit(Uspe(config), "sat_uspe"), "sat_uspe")


def _outputs(built: Built, sequence: Sequence) -> list[Words]:
    """What the circuit hands on, cycle by cycle."""
    job = {name: np.array([getattr(word, name) for word in sequence.words], np.uint64) for name in LINKS}
    saved = run(built, "nmsat.tb.array.bench_uspe", ["stream"], job={**job, "rst": sequence.rst}).check().saved
    return [Words(*row) for row in zip(*(saved[name].tolist() for name in LINKS), strict=True)]


def _check(config: SatConfig, sequence: Sequence, outputs: list[Words]) -> None:
    """Compare every output of every cycle with the model, and the sums named in the sequence with their bits."""
    model = UspeModel(config)
    for cycle, (words, reset) in enumerate(zip(sequence.words, sequence.rst, strict=True)):
        expected = model.tick(words, reset=bool(reset))
        assert outputs[cycle] == expected, f"cycle {cycle}, reset {reset}, inputs {words}"
    for cycle, bits in sequence.results:
        assert outputs[cycle].sum == bits | 1 << 32, f"cycle {cycle}: {outputs[cycle].sum:#x}, expected {bits:#x}, 1"


def test_random_words(element: tuple[SatConfig, Built]) -> None:
    config, built = element
    sequence = random_words(config, 6000, seed=1)
    _check(config, sequence, _outputs(built, sequence))


def test_output_stationary_tiles(element: tuple[SatConfig, Built]) -> None:
    config, built = element
    sequences = []
    for seed, shape in enumerate(OS_SHAPES):
        windows = max(2, -(-(3 + config.adder_stages + 8) // (8 * shape.n)))
        sequences.append(output_stationary(config, shape, windows=windows, tiles=3, seed=seed))
    joined = join(sequences)
    assert len(joined.results) == 24 * len(OS_SHAPES)
    _check(config, joined, _outputs(built, joined))


def test_weight_stationary_row_blocks(element: tuple[SatConfig, Built]) -> None:
    config, built = element
    sequences = [weight_stationary(config, shape, windows=4, seed=seed) for seed, shape in enumerate(WS_SHAPES)]
    joined = join(sequences)
    assert len(joined.results) == 32 * len(WS_SHAPES)
    _check(config, joined, _outputs(built, joined))


def test_a_wrong_bit_is_found(element: tuple[SatConfig, Built]) -> None:
    config, built = element
    sequence = random_words(config, 200, seed=2)
    outputs = _outputs(built, sequence)
    outputs[150] = outputs[150]._replace(sum=outputs[150].sum ^ 1)
    with pytest.raises(AssertionError, match="cycle 150"):
        _check(config, sequence, outputs)


@pytest.mark.long
@pytest.mark.parametrize("lanes", [1, 2])
@pytest.mark.parametrize("stages", range(1, 8))
def test_every_configuration(lanes: int, stages: int) -> None:
    config = configuration(lanes, stages)
    built = build(emit(Uspe(config), "sat_uspe"), "sat_uspe")
    sequences = [random_words(config, 40_000, seed=stages)]
    for seed in range(4):
        sequences += [output_stationary(config, shape, windows=3, tiles=4, seed=seed) for shape in OS_SHAPES]
        sequences += [weight_stationary(config, shape, windows=5, seed=seed) for shape in WS_SHAPES]
    joined = join(sequences)
    _check(config, joined, _outputs(built, joined))


@pytest.mark.long
def test_in_amaranths_simulator() -> None:
    """A little of the bench, for faults that are planted (`make mutate`)."""
    config = configuration(2, 4)
    sequence = random_words(config, 600, seed=1)
    with in_amaranth(__name__):
        _check(config, sequence, _outputs(build(emit(Uspe(config), "sat_uspe"), "sat_uspe"), sequence))
