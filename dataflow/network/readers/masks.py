"""Masks of users: an .npz file with one boolean mask or one weight tensor per layer.

A weight tensor stands for the mask of its non-zeros. Names are those of the layers (for ONNX: of nodes or of their
weights), optionally followed by `.weight`, `.mask` or `.weight_mask`. Shapes with layout "oi" (PyTorch): convolution
[C_out, C_in / groups, kh, kw], linear [features_out, features_in]; with layout "kn": the matrix [K, N] of
`dataflow.network.products`, K = taps * C_in with C_in innermost, N = C_out of all groups. Linear layers with a count
carry it as a leading axis.
"""

from __future__ import annotations

import zipfile
import zlib
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final, Literal

import numpy as np
from numpy.lib import format as npy

from nmsat.dataflow.mapping.cover import DEFAULT_TILE, Cover, cover_mask
from nmsat.dataflow.network.layers import ConvLayer, LinearLayer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from nmsat.algorithms.core.tape import Pattern
    from nmsat.dataflow.network.layers import Layer, WeightLayer

BROKEN: Final = (ValueError, OSError, EOFError, NotImplementedError, KeyError, zipfile.BadZipFile, zlib.error)
"""What reading a damaged file raises."""

SUFFIXES = (".weight_mask", ".weight", ".mask")
"""Endings of array names that are dropped before the layer is looked up."""


@dataclass(frozen=True, eq=False)
class LayerMask:
    """The weights of one layer that exist: keep is bool[count, taps, C_in, C_out], channels of one group.

    tile_n: columns of a tile of the covers.
    """

    name: str
    keep: NDArray[np.bool_]
    tile_n: int = DEFAULT_TILE
    _covers: dict[tuple[str, int, tuple[int, ...]], Cover] = field(default_factory=dict, init=False, repr=False)

    @property
    def density(self) -> float:
        """Share of weights that exist."""
        return float(self.keep.mean())

    def forward(self, group: int = 0) -> Cover:
        """Return the cover of W[taps*C_in, C_out], groups along K: the operand of FF."""
        key = ("ff", group, ())
        if key not in self._covers:
            self._covers[key] = cover_mask(self.keep[group].reshape(-1, self.keep.shape[3]), tile_n=self.tile_n)
        return self._covers[key]

    def backward(self, group: int = 0, taps: tuple[int, ...] | None = None) -> Cover:
        """Return the cover of W'[taps*C_out, C_in], groups along C_out within a tap: the operand of BP.

        taps: those that a part of the gradient uses, all by default.
        """
        taps = tuple(range(self.keep.shape[1])) if taps is None else taps
        key = ("bp", group, taps)
        if key not in self._covers:
            rows = self.keep[group][list(taps)].transpose(0, 2, 1)
            channels, columns = rows.shape[1:]
            self._covers[key] = cover_mask(rows.reshape(-1, columns), tile_n=self.tile_n, run=channels)
        return self._covers[key]

    def forward_pattern(self) -> Pattern | None:
        """Return the narrowest pattern that holds all of W in FF, None if dense."""
        return _widest([self.forward(group).pattern for group in range(self.keep.shape[0])])

    def backward_pattern(self) -> Pattern | None:
        """Return the narrowest pattern that holds all of W in BP, None if dense."""
        return _widest([self.backward(group).pattern for group in range(self.keep.shape[0])])

    def describe(self) -> str:
        """Return two lines, FF and BP: patterns found, density of mask and cover, ideal and reached speed-up."""
        return f"{self.name} FF {self.forward().describe()}\n{self.name} BP {self.backward().describe()}"


def read_masks(
    path: str | Path, layers: Sequence[Layer], layout: Literal["oi", "kn"] = "oi", tile_n: int = DEFAULT_TILE
) -> dict[str, LayerMask]:
    """Return the masks of a file by layer name.

    Raises FileNotFoundError; ValueError naming file, array and what is wrong for a file that is no .npz, an array that
    belongs to no layer or twice to one, a wrong shape or dtype.
    """
    found = _read(Path(path), layers, layout)
    return {name: LayerMask(name, array != 0, tile_n) for name, array in found.items()}


def read_weights(
    path: str | Path, layers: Sequence[Layer], layout: Literal["oi", "kn"] = "oi"
) -> dict[str, NDArray[np.float64]]:
    """Return the weights of a file by layer name, as W[K, N] with the channels of all groups side by side.

    Raises what `read_masks` raises, and ValueError for weights that are not finite.
    """
    out = {}
    for name, array in _read(Path(path), layers, layout).items():
        count, taps, c_in, c_out = array.shape
        out[name] = array.astype(np.float64).transpose(1, 2, 0, 3).reshape(taps * c_in, count * c_out)
        if not np.isfinite(out[name]).all():
            raise ValueError(f"{Path(path).name}: weights of layer {name!r} are not all finite")
    return out


def _read(path: Path, layers: Sequence[Layer], layout: str) -> dict[str, NDArray[Any]]:
    """Return the arrays of a file as [count, taps, C_in, C_out], by layer name."""
    known = {layer.name: layer for layer in layers if isinstance(layer, ConvLayer | LinearLayer)}
    if layout not in ("oi", "kn"):
        raise ValueError(f"layout is {layout!r}; it must be 'oi' or 'kn'")
    owners: dict[str, str] = {}
    for key, (shape, dtype) in _headers(path).items():
        where = f"{path.name}: array {key!r}"
        name = _layer_name(key, known, where)
        if name in owners.values():
            raise ValueError(f"{where} is a second mask of layer {name!r}; keep one")
        if dtype.kind not in "biuf":
            raise ValueError(f"{where} has dtype {dtype}; it must be bool, integer or float")
        # What an array says of itself is checked before it is unpacked: a small file can hold a very large one.
        _check_shape(shape, known[name], layout, where)
        owners[key] = name
    if not owners:
        raise ValueError(f"{path.name}: holds no arrays")
    return {name: _arranged(_array(path, key), known[name], layout) for key, name in owners.items()}


def _headers(path: Path) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
    """Return shape and type of each array of a file without unpacking more than their headers."""
    if not path.is_file():
        raise FileNotFoundError(f"no file {str(path)!r}")
    if not zipfile.is_zipfile(path):
        raise ValueError(f"{path.name}: not an .npz file (no zip directory); write it with numpy.savez")
    found: dict[str, tuple[tuple[int, ...], np.dtype[Any]]] = {}
    what = "directory"
    try:
        with zipfile.ZipFile(path) as file:
            for info in file.infolist():
                what = f"array {info.filename.removesuffix('.npy')!r}"
                with file.open(info) as member:
                    found[info.filename.removesuffix(".npy")] = _header(member, info.file_size)
    except BROKEN as error:
        raise ValueError(f"{path.name}: {what} cannot be read ({error})") from error
    return found


def _header(member: IO[bytes], size: int) -> tuple[tuple[int, ...], np.dtype[Any]]:
    version = npy.read_magic(member)
    read = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}.get(version)
    if read is None:
        raise ValueError(f"it is of version {version} of the format; write it with numpy.savez")
    shape, _, dtype = read(member, max_header_size=10_000)
    if dtype.kind in "biuf" and prod(shape) * dtype.itemsize > size:
        raise ValueError(f"it says shape {shape} of {dtype}, but holds {size} bytes")
    return shape, dtype


def _array(path: Path, key: str) -> NDArray[Any]:
    try:
        with np.load(path, allow_pickle=False) as file:
            return np.asarray(file[key])
    except BROKEN as error:
        raise ValueError(f"{path.name}: array {key!r} cannot be read ({error})") from error


def _layer_name(key: str, known: dict[str, WeightLayer], where: str) -> str:
    by_weight = {layer.weight: layer.name for layer in known.values() if layer.weight}
    candidates = [key, *(key.removesuffix(suffix) for suffix in SUFFIXES if key.endswith(suffix))]
    for name in candidates:
        if name in known:
            return name
        if name in by_weight or f"{name}.weight" in by_weight:
            return by_weight.get(name) or by_weight[f"{name}.weight"]
    raise ValueError(f"{where} belongs to no weight layer; layers: {', '.join(known)}")


def _check_shape(given: tuple[int, ...], layer: WeightLayer, layout: str, where: str) -> None:
    count, taps, c_in, c_out = layer.count, layer.taps, layer.features_in, layer.features_out
    is_conv = isinstance(layer, ConvLayer)
    if layout == "kn":
        lead = () if is_conv or count == 1 else (count,)
        shape: tuple[int, ...] = (*lead, taps * c_in, c_out * (count if is_conv else 1))
    elif isinstance(layer, ConvLayer):
        shape = (c_out * count, c_in, *layer.shape.kernel)
    elif layer.stored != "matrix":
        _check_stored(given, layer, where)
        return
    else:
        shape = (c_out, c_in) if count == 1 else (count, c_out, c_in)
    if given != shape:
        other = " (it looks transposed: try the other layout)" if given[::-1] == shape else ""
        raise ValueError(f"{where} has shape {given}; layer {layer.name!r} needs {shape} in layout {layout!r}{other}")


def _check_stored(given: tuple[int, ...], layer: LinearLayer, where: str) -> None:
    """Check the shape of weights that are no matrices in their file; see `LinearLayer.stored`."""
    count, c_in, c_out = layer.count, layer.features_in, layer.features_out
    fits = {
        "rows": given == (count, c_out, c_in) or (count == 1 and given == (c_out, c_in)),
        "convolution": len(given) > 2 and given[0] == c_out * count and prod(given[1:]) == c_in,
        "transposed convolution": len(given) > 2 and given[0] == c_in * count and prod(given[1:]) == c_out,
    }[layer.stored]
    if not fits:
        needs = {
            "rows": f"({count}, {c_out}, {c_in})",
            "convolution": f"({c_out * count}, ...) with {c_in} elements in each row",
            "transposed convolution": f"({c_in * count}, ...) with {c_out} elements in each row",
        }[layer.stored]
        raise ValueError(f"{where} has shape {given}; layer {layer.name!r}, a {layer.stored}, needs {needs}")


def _arranged(mask: NDArray[Any], layer: WeightLayer, layout: str) -> NDArray[Any]:
    """Return a mask, or weights, as [count, taps, C_in, C_out]."""
    count, taps, c_in, c_out = layer.count, layer.taps, layer.features_in, layer.features_out
    if isinstance(layer, ConvLayer):
        if layout == "kn":
            return mask.reshape(taps, c_in, count, c_out).transpose(2, 0, 1, 3)
        return mask.reshape(count, c_out, c_in, taps).transpose(0, 3, 2, 1)
    if layout == "kn" or layer.stored == "transposed convolution":
        return mask.reshape(count, c_in, c_out)[:, None]
    return mask.reshape(count, c_out, c_in).transpose(0, 2, 1)[:, None]


def _widest(patterns: list[Pattern | None]) -> Pattern | None:
    best: Pattern | None = None
    for pattern in patterns:
        if pattern is None:
            return None
        if best is None or pattern.n * best.m > best.n * pattern.m:
            best = pattern
    return best
