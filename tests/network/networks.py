"""Random networks, for what must hold of any."""

from __future__ import annotations

from hypothesis import strategies as st

from nmsat.algorithms.core.tape import ConvShape
from nmsat.dataflow.network.layers import ConvLayer, LinearLayer


def square(name: str, c_in: int, c_out: int, side: int, kernel: int, stride: int, padding: int) -> ConvLayer:
    shape = ConvShape(1, side, side, c_in, c_out, (kernel, kernel), (stride, stride), (padding, padding))
    return ConvLayer(name=name, shape=shape)


@st.composite
def networks(draw: st.DrawFn) -> list[ConvLayer | LinearLayer]:
    """A few convolutions and linear layers that share no tensor: each may have any size."""
    layers: list[ConvLayer | LinearLayer] = []
    for at in range(draw(st.integers(1, 4))):
        channels, features = (draw(st.sampled_from((3, 8, 12, 16, 24, 64))) for _ in range(2))
        if draw(st.booleans()):
            side, kernel = draw(st.integers(5, 9)), draw(st.integers(1, 5))
            stride, padding = (draw(st.integers(low, 2)) for low in (1, 0))
            layers.append(square(f"c{at}", channels, features, side, kernel, stride, padding))
        else:
            layers.append(LinearLayer(name=f"l{at}", rows=4, features_in=channels, features_out=features))
    return layers
