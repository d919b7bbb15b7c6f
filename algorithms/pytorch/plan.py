"""Which layers of a model are converted, and how: decided whole before anything is changed."""

# pyright: reportMissingImports=false
# PyTorch is an optional extra: the type checker runs without it.

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn.parameter import UninitializedParameter

from nmsat.algorithms.core.tape import Pattern, Stage
from nmsat.algorithms.methods.patterns import REST
from nmsat.algorithms.pytorch.base import NmModule, behaviour_of
from nmsat.algorithms.pytorch.rules import Rule
from nmsat.algorithms.pytorch.slot import Slot
from nmsat.algorithms.pytorch.table import Row, Table

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

NO_PRODUCT = (nn.Embedding, nn.EmbeddingBag)
"""Layers with large weights that multiply nothing."""


@dataclass(frozen=True)
class Request:
    """What `sparsify` was asked for."""

    method: str
    pattern: Pattern | None
    dense: Sequence[str] | None
    decay: float | None
    patterns: Mapping[str, tuple[Pattern | None, Pattern | None]] = field(default_factory=dict)

    def own(self, name: str) -> tuple[Pattern | None, Pattern | None] | None:
        """Return the patterns of FF and BP of a layer, None if it has none of its own."""
        return self.patterns.get(name, self.patterns.get(REST))


@dataclass(frozen=True)
class Plan:
    """The conversion of a model: slots by layer, and the table of all weights."""

    slots: dict[nn.Module, dict[str, Slot]]
    table: Table


def base_class(module: nn.Module) -> type[nn.Module]:
    """Return the class that a layer has or had before its conversion."""
    return module.nm_base if isinstance(module, NmModule) else type(module)


def make_plan(model: nn.Module, asked: Request) -> Plan:
    """Return what `sparsify` does to a model. Raises ValueError for what cannot be done."""
    modules = dict(model.named_modules())
    refused = {name: why for name, module in modules.items() if (why := _refusal(name, modules))}
    found = [name for name in modules if name not in refused and behaviour_of(base_class(modules[name])) is not None]
    unknown = sorted(set(asked.dense or ()) - set(found) - set(refused))
    if unknown:
        raise ValueError(f"dense names {unknown!r}; the model has {', '.join([*found, *refused]) or 'no such layer'}")
    unknown = sorted(set(asked.patterns) - set(found) - {REST})
    if unknown:
        raise ValueError(f"patterns names layer {unknown[0]!r}; layers that may be pruned: {', '.join(found)}")
    slots: dict[nn.Module, dict[str, Slot]] = {}
    reasons: dict[tuple[str, str], str] = {}
    for name in found:
        module = modules[name]
        slots[module] = {}
        for param, layout in _behaviour(module).layouts(module).items():
            shape = _shape(module, param)
            why = _by_choice(name, found, asked, layout.channels(shape))
            rule = Rule(
                name,
                "dense" if why else asked.method,
                asked.pattern,
                None if why else asked.decay,  # a layer without pruning has no term
                layout.sizes(shape),
                None if why else asked.own(name),
            )
            if not why and asked.method != "dense" and rule.dense:
                why = f"{' x '.join(map(str, rule.sizes))} matrices hold no group of {rule.told}"
            slots[module][param] = Slot(param, rule, layout)
            reasons[name, param] = why or ("by request" if asked.method == "dense" else "")
    return Plan(slots, _table(modules, slots, reasons, refused))


def _behaviour(module: nn.Module) -> type[NmModule]:
    behaviour = behaviour_of(base_class(module))
    assert behaviour is not None
    return behaviour


def _by_choice(name: str, found: list[str], asked: Request, channels: int) -> str:
    """Return why a layer that could be pruned is dense, '' if it is pruned."""
    if asked.dense is not None or name in asked.patterns or asked.own(name) == (None, None):
        return "by request" if name in (asked.dense or ()) or asked.own(name) == (None, None) else ""
    if name == found[0]:
        return "first layer"
    if name == found[-1]:
        return "last layer"
    own = asked.own(name)
    pattern = asked.pattern if own is None else own[0]
    if pattern is not None and channels < pattern.m:
        # Groups would lie across kernel taps: accuracy suffers, and SAT gains nothing.
        return f"{channels} input channels in a group, fewer than M = {pattern.m}"
    return ""


def _refusal(name: str, modules: dict[str, nn.Module]) -> str:
    """Return why a layer with a weight cannot be converted, '' if it can or has none."""
    module = modules[name]
    base = base_class(module)
    behaviour = behaviour_of(base)
    if behaviour is not None:
        return _unfit(module, behaviour)
    if isinstance(module, NO_PRODUCT) or not _matrices(module):
        return ""
    if "parametrizations" in name.split("."):
        return ""  # its layer has the weight
    for kind in (nn.Linear, nn.MultiheadAttention, nn.modules.conv._ConvNd):
        if isinstance(module, kind) and base is not kind:
            return f"{base.__name__} has a forward of its own"
    return f"{base.__name__} has no converted form"


def _unfit(module: nn.Module, behaviour: type[NmModule]) -> str:
    for param in behaviour.layouts(module):
        if param not in module._parameters and not _computed(module, param):
            return f"its {param} is made by a hook (old weight_norm, prune); use torch.nn.utils.parametrizations"
        weight = module._parameters.get(param)
        if isinstance(weight, UninitializedParameter):
            return "it is lazy: run the model once first"
        if weight is not None and not weight.is_floating_point():
            return f"its {param} is {weight.dtype}"
    return ""


def _computed(module: nn.Module, param: str) -> bool:
    return nn.utils.parametrize.is_parametrized(module, param)


def _shape(module: nn.Module, param: str) -> torch.Size:
    weight = module._parameters.get(param)
    if weight is not None:
        return weight.shape
    with torch.no_grad():
        return getattr(module, param).shape


def _matrices(module: nn.Module) -> dict[str, torch.Tensor]:
    """Return the parameters of a module itself that may be part of a product."""
    return {n: p for n, p in module._parameters.items() if p is not None and (_lazy(p) or p.dim() > 1)}


def _lazy(parameter: torch.Tensor) -> bool:
    return isinstance(parameter, UninitializedParameter)


def _table(
    modules: dict[str, nn.Module],
    slots: dict[nn.Module, dict[str, Slot]],
    reasons: dict[tuple[str, str], str],
    refused: dict[str, str],
) -> Table:
    rows: list[Row] = []
    seen: dict[int, str] = {}
    for name, module in modules.items():
        if "parametrizations" in name.split("."):
            continue
        kind = base_class(module).__name__
        params = {**dict.fromkeys(slots.get(module, {})), **dict.fromkeys(_matrices(module))}
        for param in params:
            label = name if param == "weight" else f"{name}.{param}".lstrip(".")
            weight = module._parameters.get(param)
            shape = () if weight is not None and _lazy(weight) else tuple(_shape(module, param))
            shared = "" if weight is None else seen.setdefault(id(weight), label)
            shared = "" if shared == label else shared
            slot = slots.get(module, {}).get(param)
            if slot is None:
                lookup = isinstance(module, NO_PRODUCT)
                why = "multiplies nothing" if lookup else refused.get(name, "no weight of a known layer")
                rows.append(Row(label, kind, shape, "dense", "", why, shared, chosen=lookup or name not in refused))
                continue
            rule = slot.rule
            stages = " ".join(stage.name for stage in (Stage.FF, Stage.BP, Stage.WU) if rule.sparse(stage))
            method = "dense" if rule.dense else f"{rule.method.name} {rule.told}"
            rows.append(Row(label, kind, shape, method, stages, reasons[name, param], shared))
    return Table(tuple(rows))
