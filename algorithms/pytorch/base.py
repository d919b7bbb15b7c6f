"""What every converted layer has: its slots, and a `weight` that reads as the method means it.

A layer is converted by giving it a subclass of its own class. Its parameters stay where they are, with their names and
identity; the attribute of a pruned one is a property of the subclass, which returns what the forward product uses.
"""

# pyright: reportMissingImports=false
# PyTorch is an optional extra: the type checker runs without it.

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, SupportsIndex

import torch
from torch import nn

from nmsat.algorithms.pytorch import decay, memory
from nmsat.algorithms.pytorch.seen import SeenWeight

if TYPE_CHECKING:
    from collections.abc import Callable

    from nmsat.algorithms.pytorch.layout import Layout
    from nmsat.algorithms.pytorch.rules import Rule
    from nmsat.algorithms.pytorch.slot import Slot


class Scaler:
    """The loss scale of the gradients that reach a layer; copies of a model share it."""

    def __init__(self, scale: Callable[[], float] | None) -> None:
        self._scale = scale

    def __call__(self) -> float:
        return 1.0 if self._scale is None else float(self._scale())

    def __deepcopy__(self, _: dict) -> Scaler:
        return self


class NmModule(nn.Module):
    """Mixin of converted layers; made by `algorithms.pytorch.sparsify` only.

    nm: slots by parameter name; nm_base: the class that the layer had; nm_leaf: the parameters whose hook adds the
    SR-STE term.
    """

    PARAMETERS: ClassVar[tuple[str, ...]] = ()
    """Names of the weights that may be pruned."""

    nm: dict[str, Slot]
    nm_base: type[nn.Module]
    nm_scaler: Scaler

    @staticmethod
    def layouts(layer: nn.Module) -> dict[str, Layout]:
        """Return the layout of every weight of a layer, converted or not."""
        raise NotImplementedError(f"{type(layer).__name__} has no layouts")

    @property
    def rule(self) -> Rule:
        """The rule of the layer's first weight."""
        return next(iter(self.nm.values())).rule

    def scale(self) -> float:
        """Return the factor by which gradients are scaled."""
        return self.nm_scaler()

    def nm_pair(self, param: str) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the weight as FF and as BP read it."""
        slot = self.nm[param]
        if torch.jit.is_tracing() or torch.compiler.is_exporting():
            raise RuntimeError(
                f"layer {slot.rule.name!r} is sparsified: masks do not belong into an exported graph; export "
                f"bake(model), or call algorithms.pytorch.export_onnx(model, ...)"
            )
        master = slot.dense(self)
        return slot.pair(self, master, decay.within_graph(self, slot, master))

    def nm_read(self, param: str) -> torch.Tensor:
        """Return what the attribute `param` reads as."""
        slot = self.nm[param]
        if slot.rule.dense:
            return slot.dense(self)
        pair = self.nm_pair(param)
        if torch.compiler.is_compiling():
            return pair[0]
        return SeenWeight.make(self, slot, pair)

    def nm_attach(self) -> None:
        """Hook the present parameters; called whenever they may have been replaced."""
        for slot in self.__dict__.get("nm", {}).values():
            decay.attach(self, slot)

    def register_parameter(self, name: str, param: nn.Parameter | None) -> None:
        super().register_parameter(name, param)
        self.nm_attach()

    def _apply(self, *args: Any, **kwargs: Any) -> Any:
        result = super()._apply(*args, **kwargs)
        self.nm_attach()
        return result

    def _load_from_state_dict(
        self, state_dict: dict, prefix: str, local_metadata: dict, strict: bool, missing: list, *rest: list
    ) -> None:
        errors = rest[-1]
        for slot in self.nm.values():
            if slot.rule.remembers:
                memory.check_form(self, slot.param, state_dict, prefix, errors)
        super()._load_from_state_dict(state_dict, prefix, local_metadata, strict, missing, *rest)
        for slot in self.nm.values():
            absent = {prefix + memory.buffer(slot.param, field) for field in memory.FIELDS} & set(missing)
            if slot.rule.remembers and absent and prefix + slot.param in state_dict:
                # A plain checkpoint brings no masks: make them anew for its weights.
                missing[:] = [key for key in missing if key not in absent]
                memory.forget(self, slot.param)
        self.nm_attach()

    def __setstate__(self, state: dict) -> None:
        super().__setstate__(state)
        self.nm_attach()

    def __reduce_ex__(self, protocol: SupportsIndex) -> tuple:
        del protocol
        return _blank, (self.nm_base,), self.__dict__.copy()

    def extra_repr(self) -> str:
        """Return the layer's own text with what is pruned."""
        return ", ".join(part for part in (super().extra_repr(), *map(_said, self.nm.values())) if part)


def _said(slot: Slot) -> str:
    rule = slot.rule
    return f"{slot.param}=dense" if rule.dense else f"{slot.param}={rule.method.name} {rule.told}"


def reading(param: str) -> property:
    """Return the property that stands for a pruned parameter."""

    def read(layer: NmModule) -> torch.Tensor:
        try:
            return layer.nm_read(param)
        except AttributeError as error:
            # nn.Module would answer an AttributeError with the dense parameter.
            raise RuntimeError(f"{param} of {type(layer).__name__} cannot be read: {error}") from error

    def write(layer: NmModule, value: torch.Tensor) -> None:
        own = getattr(layer.nm_base, param, None)
        if layer.__dict__.get("_is_replica"):  # nn.DataParallel puts copies of the parameters here
            layer.__dict__["nm_replica"] = {**layer.__dict__.get("nm_replica", {}), param: value}
        elif isinstance(own, property) and own.fset is not None:
            own.fset(layer, value)
        else:
            raise RuntimeError(f"{param} of {type(layer).__name__} is a pruned copy; assign an nn.Parameter")

    return property(read, write)


_classes: dict[type[nn.Module], type[NmModule]] = {}
_behaviours: list[tuple[Callable[[type[nn.Module]], bool], type[NmModule]]] = []


def behaves(fits: Callable[[type[nn.Module]], bool]) -> Callable[[type[NmModule]], type[NmModule]]:
    """Class decorator: layers whose class fits are converted to this behaviour."""

    def add(behaviour: type[NmModule]) -> type[NmModule]:
        _behaviours.append((fits, behaviour))
        return behaviour

    return add


def behaviour_of(base: type[nn.Module]) -> type[NmModule] | None:
    """Return how layers of class `base` behave when converted; None if they cannot be."""
    return next((behaviour for fits, behaviour in _behaviours if fits(base)), None)


def class_of(base: type[nn.Module]) -> type[NmModule]:
    """Return the class that layers of class `base` get; TypeError if there is none."""
    if base not in _classes:
        found = behaviour_of(base)
        if found is None:
            raise TypeError(f"{base.__name__} has no converted form")
        attributes = {param: reading(param) for param in found.PARAMETERS}
        _classes[base] = type(f"Nm{base.__name__}", (found, base), {"__module__": base.__module__, **attributes})
    return _classes[base]


def _blank(base: type[nn.Module]) -> nn.Module:
    cls = class_of(base)
    return cls.__new__(cls)
