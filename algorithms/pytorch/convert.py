"""Conversion of PyTorch models, and back to plain ones."""

# pyright: reportMissingImports=false
# PyTorch is an optional extra: the type checker runs without it.

from __future__ import annotations

import copy
import warnings
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from nmsat.algorithms.core.tape import Pattern
from nmsat.algorithms.core.vocabulary import check_decay
from nmsat.algorithms.methods import make_method
from nmsat.algorithms.methods.patterns import parse_patterns
from nmsat.algorithms.pytorch import attention, decay, layers, memory  # noqa: F401 # attention adds a behaviour
from nmsat.algorithms.pytorch.base import NmModule, Scaler, class_of
from nmsat.algorithms.pytorch.plan import Request, base_class, make_plan

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from nmsat.algorithms.pytorch.slot import Slot
    from nmsat.algorithms.pytorch.table import Table


def sparsify(
    model: nn.Module,
    method: str = "bdwp",
    pattern: str = "2:8",
    *,
    patterns: str = "",
    dense: Sequence[str] | None = None,
    decay: float | None = None,
    scaler: Callable[[], float] | None = None,
    show: bool = True,
) -> nn.Module:
    """Convert the linear layers, convolutions and attention projections of a model in place; return the model.

    Parameters keep their identity, names and values, so optimizers and checkpoints go on working.
    method, pattern: as in `algorithms.methods.make_method`; 'dense' converts without pruning. patterns: N:M by layer,
    as `nmsat patterns` writes them (`algorithms.methods.patterns`; 'rest' are the layers without a part that would be
    pruned anyway), for methods that prune weights by magnitude. dense: names of the
    layers that stay dense; None takes the first and the last layer, in the order of `named_modules`, and those with
    fewer than M input channels in a group. decay: lambda of the SR-STE term, None for the method's own; it is added to
    the gradient once per update. scaler: `GradScaler.get_scale` when gradients are scaled, so that the term is scaled
    alike. show: print the table of all weights (`table_of` returns it).
    Layers that multiply and have no converted form stay as they are, with a warning that names them. A model that was
    converted before is converted anew. Raises ValueError for unknown names and methods; the model is then as it was.
    """
    check_decay(method, decay)
    parsed = None if method == "dense" else Pattern.parse(pattern)
    own = parse_patterns(patterns)
    make_method(method, parsed, decay, own=own)  # refuses what the method cannot have, whatever the model
    plan = make_plan(model, Request(method, parsed, dense, decay, own))
    if plan.table.left:
        named = ", ".join(f"{row.layer} ({row.why})" for row in plan.table.left)
        warnings.warn(f"layers left dense: {named}", stacklevel=2)
    _apply(model, plan.slots, Scaler(scaler))
    model.__dict__["nm_table"] = plan.table
    if show:
        print(plan.table)
    return model


def table_of(model: nn.Module) -> Table:
    """Return the table of a converted model."""
    if "nm_table" not in model.__dict__:
        raise ValueError("the model was not converted; call sparsify(model, ...) first")
    return model.__dict__["nm_table"]


def nm_layers(model: nn.Module) -> dict[str, NmModule]:
    """Return the converted layers by name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, NmModule)}


def bake(model: nn.Module) -> nn.Module:
    """Return a plain copy of a model whose weights are those that its forward products use.

    Raises ValueError if a parameter is shared by layers that prune it differently.
    """
    plain = copy.deepcopy(model)
    values: dict[int, tuple[str, torch.Tensor]] = {}
    with torch.no_grad():
        for name, layer in nm_layers(plain).items():
            for param, slot in layer.nm.items():
                keep = slot.masks(layer, slot.dense(layer))[0]
                weight = slot.dense(layer)
                pruned = weight.clone() if keep is None else torch.where(keep, weight, 0)
                key = id(layer._parameters.get(param, slot))
                other, before = values.setdefault(key, (name, pruned))
                if not torch.equal(before.nan_to_num(), pruned.nan_to_num()):
                    raise ValueError(f"layers {other!r} and {name!r} share a weight and prune it differently")
        for layer in nm_layers(plain).values():
            baked = {p: values[id(layer._parameters.get(p, slot))][1] for p, slot in layer.nm.items()}
            _revert(layer)
            for param, value in baked.items():
                _put(layer, param, value)
    plain.__dict__.pop("nm_table", None)
    return plain


def strip(model: nn.Module) -> nn.Module:
    """Return a plain copy of a model with the dense masters."""
    plain = copy.deepcopy(model)
    for layer in nm_layers(plain).values():
        _revert(layer)
    plain.__dict__.pop("nm_table", None)
    return plain


def _put(layer: nn.Module, param: str, value: torch.Tensor) -> None:
    if param not in layer._parameters:  # a parametrization would undo the pruning
        with torch.enable_grad():  # without gradients PyTorch makes a buffer of it
            nn.utils.parametrize.remove_parametrizations(layer, param, leave_parametrized=True)
    parameter = layer._parameters[param]
    assert parameter is not None
    parameter.data.copy_(value)


def _apply(model: nn.Module, slots: dict[nn.Module, dict[str, Slot]], scaler: Scaler) -> None:
    """Convert the layers, or leave all of them as they were."""
    before = [(module, module.__class__, _snapshot(module)) for module in model.modules()]
    try:
        for layer in nm_layers(model).values():
            _revert(layer)
        for layer, own in slots.items():
            _convert(layer, own, scaler)
    except BaseException:
        for module, cls, state in before:
            _detach(module)
            module.__class__ = cls
            module.__dict__.clear()
            module.__dict__.update(state)
            if isinstance(module, NmModule):
                module.nm_attach()
        raise


def _snapshot(module: nn.Module) -> dict[str, Any]:
    """Return a module's attributes, containers copied one level deep."""
    return {key: copy.copy(value) if isinstance(value, (dict, set)) else value for key, value in vars(module).items()}


def _convert(layer: nn.Module, slots: dict[str, Slot], scaler: Scaler) -> None:
    base = base_class(layer)
    layer.__dict__.update(nm=slots, nm_base=base, nm_scaler=scaler)
    layer.__class__ = class_of(base)
    for param, slot in slots.items():
        if slot.rule.remembers:
            with torch.no_grad():
                memory.start(layer, param, slot.rule, slot.layout.matrices(slot.dense(layer).detach()))
        decay.attach(layer, slot)


def _revert(layer: NmModule) -> None:
    """Give a layer its own class back."""
    _detach(layer)
    base, slots = layer.nm_base, layer.nm
    layer.__class__ = base
    for param in slots:
        for field in memory.FIELDS:
            layer._buffers.pop(memory.buffer(param, field), None)
    for name in [name for name in vars(layer) if name == "nm" or name.startswith("nm_")]:
        del layer.__dict__[name]


def _detach(module: nn.Module) -> None:
    for parameter in module._parameters.values():
        if parameter is not None:
            decay.detach(parameter)
