"""Networks by name, and `load_model`, which also takes files of users."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from nmsat.algorithms.core.ranges import check_whole
from nmsat.algorithms.core.vocabulary import RENAMED, TRAINED_NETWORKS
from nmsat.dataflow.network.found import DEFAULT_BATCH, FoundModel
from nmsat.dataflow.network.models.cnn import resnet9, resnet18, resnet50, vgg19
from nmsat.dataflow.network.models.vit import vit

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from nmsat.dataflow.network.layers import Layer

MODELS: Final[dict[str, Callable[..., list[Layer]]]] = {
    "resnet9": resnet9,
    "vit": vit,
    "vgg19": vgg19,
    "resnet18": resnet18,
    "resnet50": resnet50,
    "resnet18-7x7": partial(resnet18, stem=7),
}
"""Builder of each of `algorithms.core.vocabulary.SCHEDULED_NETWORKS`, with the shapes of its data set: it takes the
batch, and `classes` for another number of them."""

MAX_BATCH: Final = 1 << 24
"""Most images per step."""


def load_model(name_or_path: str | Path, batch: int | None = None) -> list[Layer]:
    """Return the layers of a network called by name (a key of MODELS) or read from a file; see `find_model`."""
    return find_model(name_or_path, batch).layers


def is_onnx(name_or_path: str | Path) -> bool:
    """Tell whether a network is read from an ONNX file."""
    return str(name_or_path) not in MODELS and Path(name_or_path).suffix.lower() == ".onnx"


def find_model(
    name_or_path: str | Path,
    batch: int | None = None,
    sizes: Mapping[str, int] | None = None,
    *,
    batch_dim: int | None = None,
    strict: bool = False,
) -> FoundModel:
    """Return a network called by name (a key of MODELS) or read from a file (.onnx, .csv).

    batch: images per step. None means 512 for named networks and for an ONNX file whose batch dimension is open, the
    batch of the file for other ONNX files, and 1 for SCALE-Sim tables. sizes, batch_dim, strict: of ONNX files
    (`readers.onnx.read_onnx_model`). Raises ValueError for an unknown name or suffix, a batch out of range and for what
    the readers refuse, TypeError for a batch that is no int, FileNotFoundError for a missing file.
    """
    name = str(name_or_path)
    if batch is not None:
        check_whole("batch", batch, 1, MAX_BATCH)
    if name in MODELS:
        batch = DEFAULT_BATCH if batch is None else batch
        return FoundModel(MODELS[name](batch), batch)
    if name in RENAMED:
        raise ValueError(f"model is {name!r}; it is now called {RENAMED[name]!r}")
    if name in TRAINED_NETWORKS:
        raise ValueError(f"model is {name!r}, which trains here: it has a recorded step, not a list of layers")
    suffix = Path(name).suffix.lower()
    if suffix not in (".onnx", ".csv"):
        raise ValueError(
            f"model is {name!r}; known names: {', '.join(MODELS)}; known files: .onnx, .csv (SCALE-Sim topology)"
        )
    if not Path(name).is_file():
        raise FileNotFoundError(f"no model file {name!r}")
    if is_onnx(name):
        from nmsat.dataflow.network.readers.onnx import read_onnx_model

        return read_onnx_model(name, batch, sizes, batch_dim=batch_dim, strict=strict)
    from nmsat.dataflow.network.readers.scale_sim import read_scale_sim

    batch = 1 if batch is None else batch
    return FoundModel(read_scale_sim(name, batch), batch)
