"""Conversion of PyTorch models, and what they export for `nmsat model`."""

# pyright: reportMissingImports=false
# PyTorch is an optional extra: the type checker runs without it.

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np
from torch import nn

from nmsat.algorithms.core.files import replaced
from nmsat.algorithms.core.tape import Pattern, Stage
from nmsat.algorithms.core.tape_file import write_tape
from nmsat.algorithms.pytorch.layers import NmConv2d, NmLinear, as_matrix, from_matrix
from nmsat.algorithms.pytorch.record import recording
from nmsat.algorithms.pytorch.rules import Rule

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from nmsat.algorithms.core.tape import Tape


def sparsify(
    model: nn.Module,
    method: str = "bdwp",
    pattern: str = "2:8",
    *,
    dense: Sequence[str] | None = None,
    decay: float | None = None,
    scaler: Callable[[], float] | None = None,
) -> nn.Module:
    """Convert every nn.Linear and nn.Conv2d of a model in place and return the model.

    Parameters keep their identity, names and values, so optimizers and checkpoints go on working.
    method, pattern: as in `algorithms.methods.make_method`; 'dense' converts without pruning (to record a tape). dense:
    names of the layers that stay dense; None takes the first and the last converted layer, in the order of
    `named_modules`. decay: lambda of the SR-STE term, None for the method's own; it is added to the gradient. scaler:
    `GradScaler.get_scale` when gradients are scaled, so that the term is scaled alike. Grouped convolutions and padding
    modes other than zeros stay as they are, with a warning that names them. Raises ValueError for unknown names and for
    convolutions whose backward product cannot be grouped.
    """
    parsed = None if method == "dense" else Pattern.parse(pattern)
    found = {name: module for name, module in model.named_modules() if type(module) in (nn.Linear, nn.Conv2d)}
    left = [name for name, module in found.items() if isinstance(module, nn.Conv2d) and not _supported(module)]
    if left:
        warnings.warn(f"layers left as they are (groups or padding mode): {', '.join(left)}", stacklevel=2)
    names = [name for name in found if name not in left]
    ends = {names[0], names[-1]} if dense is None and names else set(dense or ())
    if ends - set(found):
        raise ValueError(f"dense names {sorted(ends - set(found))!r}; the model has {', '.join(found)}")
    for name in names:
        module = found[name]
        rule = Rule(name, "dense" if name in ends else method, parsed, decay)
        _check(name, module, rule)
        module.__class__ = NmConv2d if isinstance(module, nn.Conv2d) else NmLinear
        module.rule, module.scaler = rule, scaler
    return model


def nm_layers(model: nn.Module) -> dict[str, NmLinear | NmConv2d]:
    """Return the converted layers by name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, (NmLinear, NmConv2d))}


def export_masks(model: nn.Module, path: Path) -> None:
    """Write the forward masks of all sparse layers as .npz, bool in PyTorch's layout, named '<layer>.weight'."""
    masks = {}
    for name, layer in nm_layers(model).items():
        keep, _ = layer.rule.masks(layer.weight, as_matrix(layer.weight))
        if keep is not None:
            masks[f"{name}.weight"] = from_matrix(keep, layer.weight).cpu().numpy()
    if not masks:
        raise ValueError("the model has no layer with a sparse forward weight; nothing to export")
    with replaced(path) as file:
        np.savez(file, **masks)


def record_step(step: Callable[[], object], path: Path | None = None) -> Tape:
    """Run step() (forward and backward of a model) and return the tape of its products; write it to path if given.

    Only converted layers are recorded: products of two activations (attention) are not.
    """
    with recording() as tape:
        step()
    if not tape.products:
        raise ValueError("the step ran no converted layer; call sparsify(model, ...) first")
    if path is not None:
        write_tape(path, tape)
    return tape


def _supported(module: nn.Conv2d) -> bool:
    return module.groups == 1 and module.padding_mode == "zeros" and not isinstance(module.padding, str)


def _check(name: str, module: nn.Module, rule: Rule) -> None:
    if not isinstance(module, nn.Conv2d) or module.kernel_size == (1, 1):
        return
    group = rule.method.group(Stage.BP)
    if module.out_channels % group:
        raise ValueError(
            f"layer {name!r} has {module.out_channels} output channels; pruning its backward product needs a multiple "
            f"of M = {group}, or the layer must be dense (dense=[...])"
        )
