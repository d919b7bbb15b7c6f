"""What leaves a converted model: masks for `nmsat model --masks`, and ONNX files."""

# pyright: reportMissingImports=false
# PyTorch is an optional extra: the type checker runs without it.

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from nmsat.algorithms.core.files import replaced
from nmsat.algorithms.pytorch.convert import bake, nm_layers

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn


def export_masks(model: nn.Module, path: Path) -> None:
    """Write the forward masks of all sparse layers as .npz, bool in PyTorch's layout, named as the parameters.

    A layer that holds its weight the other way round (Hugging Face's Conv1D) is written as ONNX has it, [out, in].
    Raises ValueError for a model without a sparse forward weight.
    """
    masks = {}
    for name, layer in nm_layers(model).items():
        for param, slot in layer.nm.items():
            keep = slot.masks(layer, slot.dense(layer))[0]
            if keep is not None:
                turned = keep.t() if slot.layout.kind == "columns" else keep
                masks[f"{name}.{param}".lstrip(".")] = turned.cpu().numpy()
    if not masks:
        raise ValueError("the model has no layer with a sparse forward weight; nothing to export")
    with replaced(path) as file:
        np.savez(file, **masks)


def export_onnx(model: nn.Module, args: tuple[Any, ...], path: Path, **options: Any) -> None:
    """Write the model with its pruned weights as ONNX, by `torch.onnx.export` with the given options.

    The weights keep the names of the parameters, which are those of `export_masks`. Folding of constants would rename
    those that are transposed: it is off unless asked for (`optimize` with dynamo, else `do_constant_folding`).
    """
    options.setdefault("optimize" if options.get("dynamo", True) else "do_constant_folding", False)
    torch.onnx.export(bake(model), args, str(path), **options)
