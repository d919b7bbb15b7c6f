"""What bounds a product: its multiply-adds per byte against the machine's elements and its memory ports."""

from __future__ import annotations

import pytest

from nmsat.dataflow.contract.config import preset
from nmsat.sim.results.machine import roofline


@pytest.mark.parametrize(("name", "ports"), [("vcu1525", 1), ("vcu1525-2", 2)])
def test_every_port_lifts_the_slope_of_the_roofline(name: str, ports: int) -> None:
    """68 % of 19.2 GB/s at 200 MHz are 65.28 bytes a cycle, of which a beat of 64 bytes a cycle passes a port."""
    intensity, attainable, limit = roofline(preset(name), 2_000, 1_000)
    assert (intensity, limit) == (2.0, "memory")
    assert attainable == pytest.approx(ports * 2.0 * 64, rel=0.03)


def test_enough_multiply_adds_per_byte_fill_the_array() -> None:
    assert roofline(preset("vcu1525"), 64_000, 1_000) == (64.0, 1024, "array")
