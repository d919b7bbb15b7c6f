"""Masks of users: layouts, names, use in a training step, and files that are refused."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from nmsat.algorithms.core.nm import mask
from nmsat.algorithms.core.tape import ConvShape, Pattern, Stage
from nmsat.dataflow.network.layers import ConvLayer, Layer, LinearLayer
from nmsat.dataflow.network.readers.masks import read_masks
from nmsat.dataflow.network.step import training_products

if TYPE_CHECKING:
    from pathlib import Path

CONV = ConvLayer(name="conv", shape=ConvShape(2, 8, 8, 16, 32, (3, 3), (1, 1), (1, 1)), weight="block.weight")
STRIDED = ConvLayer(name="down", shape=ConvShape(2, 8, 8, 16, 32, (3, 3), (2, 2), (1, 1), groups=2))
FC = LinearLayer(name="fc", rows=2, features_in=64, features_out=24)
LAYERS: list[Layer] = [CONV, STRIDED, FC]


def weights(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def save(path: Path, **arrays: np.ndarray) -> Path:
    np.savez(path, **arrays)  # type: ignore[arg-type] # numpy types the keywords as one flag and arrays
    return path


def test_layouts_agree(tmp_path: Path) -> None:
    """The same weights given as PyTorch tensors and as matrices [K, N]."""
    conv, down, fc = weights(32, 16, 3, 3) > 0, weights(32, 8, 3, 3, seed=1) > 0, weights(24, 64, seed=2) > 0
    oi = read_masks(save(tmp_path / "oi.npz", conv=conv, down=down, fc=fc), LAYERS)
    matrices = {name: w.transpose(2, 3, 1, 0).reshape(-1, 32) for name, w in (("conv", conv), ("down", down))}
    kn = read_masks(save(tmp_path / "kn.npz", **matrices, fc=fc.T), LAYERS, layout="kn")
    assert list(oi) == list(kn) == ["conv", "down", "fc"]
    for name in oi:
        assert np.array_equal(oi[name].keep, kn[name].keep)
    assert oi["conv"].keep.shape == (1, 9, 16, 32)
    assert oi["conv"].keep[0, 5, 3, 7] == conv[7, 3, 1, 2]
    # Group 1 of the grouped convolution owns output channels 16..31.
    assert oi["down"].keep.shape == (2, 9, 8, 16)
    assert oi["down"].keep[1, 5, 3, 7] == down[23, 3, 1, 2]
    assert oi["fc"].keep[0, 0, 3, 7] == fc[7, 3]


def test_weights_stand_for_their_non_zeros(tmp_path: Path) -> None:
    w = weights(24, 64)
    w[np.abs(w) < 1] = 0
    path = save(tmp_path / "w.npz", **{"fc.weight": w})
    found = read_masks(path, LAYERS)
    assert np.array_equal(found["fc"].keep[0, 0], (w != 0).T)
    assert found["fc"].density == (w != 0).mean()
    number = save(tmp_path / "i.npz", **{"fc.weight_mask": (w != 0).astype(np.int8)})
    assert np.array_equal(read_masks(number, LAYERS)["fc"].keep, found["fc"].keep)


def test_names_of_weights_in_the_model_file_are_known(tmp_path: Path) -> None:
    keep = np.ones((32, 16, 3, 3), bool)
    for key in ("conv", "conv.weight", "conv.mask", "block.weight", "block", "block.mask"):
        assert list(read_masks(save(tmp_path / "m.npz", **{key: keep}), LAYERS)) == ["conv"]


def test_native_masks_give_the_products_of_their_pattern(tmp_path: Path) -> None:
    """A mask that is 2:8 along both axes changes nothing against the method with that pattern."""
    tile = np.zeros((8, 8), bool)
    for i in range(8):
        tile[i, [i, (i + 3) % 8]] = True
    conv, down, fc = (np.tile(tile, (4, 2, 1, 1)[:2]) for _ in range(3))
    arrays = {
        "conv": np.broadcast_to(conv[:, :, None, None], (32, 16, 3, 3)),
        "down": np.broadcast_to(down[:, :8, None, None], (32, 8, 3, 3)),
        "fc": np.tile(tile, (3, 8)),
    }
    assert fc.shape == (32, 16)
    found = read_masks(save(tmp_path / "m.npz", **arrays), LAYERS)
    masked = training_products(LAYERS, "bdwp", masks=found, first_and_last_dense=False)
    plain = training_products(LAYERS, "bdwp", Pattern(2, 8), first_and_last_dense=False)
    assert masked.macs_kept == plain.macs_kept
    assert masked.macs_dense == plain.macs_dense
    assert masked.updates == plain.updates
    for stage in (Stage.FF, Stage.BP):
        kept = [{p.name: str(p.pattern) for p in step.products if p.stage is stage} for step in (masked, plain)]
        assert kept[0] == kept[1]
    only = training_products(LAYERS, "sdwp", masks=found, first_and_last_dense=False)
    assert all(p.pattern is None for p in only.products if p.stage is not Stage.BP)


def test_masks_cover_both_directions(tmp_path: Path) -> None:
    """N:M along the inputs is not N:M along the outputs: FF runs natively, BP by a cover."""
    keep = mask(weights(24, 64), 2, 8, axis=1)
    found = read_masks(save(tmp_path / "m.npz", fc=keep), LAYERS, tile_n=8)
    assert found["fc"].forward().native
    assert found["fc"].forward_pattern() == Pattern(2, 8)
    backward = found["fc"].backward()
    assert backward.cover_density > 0.25
    assert backward.nonzeros == keep.sum()
    step = training_products([FC], "bdwp", masks=found, first_and_last_dense=False)
    ff, *bp = [p for p in step.products if p.stage is not Stage.WU]
    assert (ff.m, ff.k, ff.n, ff.pattern) == (2, 64, 24, Pattern(2, 8))
    assert sum(p.n for p in bp) == 64
    assert {p.k for p in bp} == {24}
    lines = found["fc"].describe().splitlines()
    assert lines[0].startswith("fc FF native 2:8 x 1; density 0.2500, cover 0.2500, ideal 4.00x, reached 4.00x")
    assert lines[1].startswith("fc BP")


def test_parts_of_a_strided_convolution_use_their_own_taps(tmp_path: Path) -> None:
    """Only the centre tap exists: it belongs to phase 0, the other phases cost nothing."""
    keep = np.zeros((32, 8, 3, 3), bool)
    keep[:, :, 1, 1] = True
    found = read_masks(save(tmp_path / "m.npz", down=keep), LAYERS)
    step = training_products([STRIDED], "bdwp", masks=found, first_and_last_dense=False)
    backward = [p for p in step.products if p.stage is Stage.BP]
    assert [(p.name, p.m, p.k, p.n, p.pattern, p.count) for p in backward] == [("down/phase0", 32, 16, 8, None, 1)] * 2


def test_refused_files(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"gone\.npz"):
        read_masks(tmp_path / "gone.npz", LAYERS)
    (tmp_path / "text.npz").write_text("no archive")
    with pytest.raises(ValueError, match=r"text\.npz: not an \.npz file"):
        read_masks(tmp_path / "text.npz", LAYERS)
    whole = save(tmp_path / "whole.npz", fc=np.ones((24, 64), bool)).read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[:-40])
    with pytest.raises(ValueError, match=r"cut\.npz: not an \.npz file"):
        read_masks(tmp_path / "cut.npz", LAYERS)
    damaged = bytearray(whole)
    damaged[300] ^= 255
    (tmp_path / "bad.npz").write_bytes(damaged)
    with pytest.raises(ValueError, match=r"bad\.npz: array 'fc' cannot be read"):
        read_masks(tmp_path / "bad.npz", LAYERS)
    objects = save(tmp_path / "objects.npz", fc=np.array([{}]))
    with pytest.raises(ValueError, match=r"objects\.npz: array 'fc' has dtype object"):
        read_masks(objects, LAYERS)
    with pytest.raises(ValueError, match=r"none\.npz: holds no arrays"):
        read_masks(save(tmp_path / "none.npz"), LAYERS)


@pytest.mark.parametrize(
    ("key", "array", "message"),
    [
        ("fd", np.ones((24, 64), bool), "array 'fd' belongs to no weight layer; layers: conv, down, fc"),
        (
            "fc",
            np.ones((24, 63), bool),
            r"array 'fc' has shape \(24, 63\); layer 'fc' needs \(24, 64\) in layout 'oi'$",
        ),
        ("fc", np.ones((64, 24), bool), "it looks transposed: try the other layout"),
        ("conv", np.ones((32, 16, 9), bool), r"layer 'conv' needs \(32, 16, 3, 3\)"),
        ("down", np.ones((32, 16, 3, 3), bool), r"layer 'down' needs \(32, 8, 3, 3\)"),
        ("fc", np.full((24, 64), "x"), "array 'fc' has dtype <U1; it must be bool, integer or float"),
    ],
)
def test_refused_arrays(tmp_path: Path, key: str, array: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=rf"m\.npz: {message}" if message.startswith("array") else message):
        read_masks(save(tmp_path / "m.npz", **{key: array}), LAYERS)


def test_refused_names(tmp_path: Path) -> None:
    both = save(tmp_path / "m.npz", fc=np.ones((24, 64), bool), **{"fc.mask": np.ones((24, 64), bool)})
    with pytest.raises(ValueError, match=r"array 'fc\.mask' is a second mask of layer 'fc'"):
        read_masks(both, LAYERS)
    found = read_masks(save(tmp_path / "n.npz", fc=np.ones((24, 64), bool)), LAYERS)
    with pytest.raises(ValueError, match="masks name layers that the network does not have: fc"):
        training_products([CONV], "bdwp", masks=found)
