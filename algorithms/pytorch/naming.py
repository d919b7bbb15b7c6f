"""Names of modules and weights while a step runs: those of the model that the step called."""

# pyright: reportMissingImports=false
# PyTorch is an optional extra: the type checker runs without it.

from __future__ import annotations

from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from torch.nn import RNNBase
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook

from nmsat.algorithms.core.tape import Learnt

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch
    from torch import nn

WRAPPERS = ("_orig_mod", "module")
"""Names by which torch.compile and the data parallel modules hold the model."""


class Names:
    """Knows the modules that run now and all modules and parameters of the models that have run."""

    def __init__(self) -> None:
        self._modules: dict[int, str] = {}
        self._owners: dict[int, tuple[nn.Module, str]] = {}
        self._parameters: dict[int, str] = {}
        self._storages: dict[int, int] = {}
        self._kept: list[torch.Tensor] = []
        self._stack: list[nn.Module] = []
        self._learnt: set[int] = set()
        self._products: set[int] = set()
        self._busy: set[int] = set()
        self._handles: list[Any] = []
        self._calls: Counter[int] = Counter()

    @contextmanager
    def following(self) -> Iterator[None]:
        """Follow which modules run."""
        hooks = [
            register_module_forward_pre_hook(lambda module, _: self._enter(module)),
            register_module_forward_hook(lambda module, _, __: self._leave(module), always_call=True),
        ]
        try:
            yield
        finally:
            for hook in (*hooks, *self._handles):
                hook.remove()

    @property
    def inside(self) -> bool:
        """Whether a module runs now."""
        return bool(self._stack)

    def here(self, what: str) -> str:
        """Return the name of a thing within the module that runs now."""
        return ".".join(part for part in (self._running(), what) if part) or "step"

    def _running(self) -> str:
        return self._modules.get(id(self._stack[-1]), "") if self._stack else ""

    def module(self, layer: nn.Module) -> str | None:
        """Return the name of a module, None if it is not part of a model that ran."""
        return self._modules.get(id(layer))

    def weight(self, layer: nn.Module, param: str) -> str | None:
        """Return the name of the tensor behind a parameter and count it as the weight of a product."""
        self._busy.add(id(layer))
        own = layer._parameters.get(param)
        if own is None:
            own = _largest_original(layer, param)
        if own is None or id(own) not in self._parameters:
            return None
        self._products.add(id(own))
        return self._parameters[id(own)]

    def parameter(self, storage: int) -> int | None:
        """Return the id of the parameter that lies in a storage."""
        return self._storages.get(storage)

    def of_weight(self, parameter: int) -> tuple[str, str]:
        """Return the names of the layer of a parameter and of the parameter itself, a weight of a product."""
        self._products.add(parameter)
        key = self._parameters[parameter]
        running = self._stack[-1] if self._stack else None
        for name, value in running._parameters.items() if running is not None else ():
            if id(value) == parameter:
                self._busy.add(id(running))
                return _label(self._running(), name), key
        owner, name = self._owners[parameter]
        self._busy.add(id(owner))
        return _label(self._modules[id(owner)], name), key

    def recurrent_call(self) -> int | None:
        """Return which call of it runs, if a recurrent layer runs now: LSTM, GRU or RNN, not the cell of one step."""
        running = self._stack[-1] if self._stack else None
        return self._calls[id(running)] if isinstance(running, RNNBase) else None

    def learnt(self) -> list[Learnt]:
        """Return what got a gradient and is the weight of no product: by layer, biases of products by themselves."""
        found: dict[str, int] = {}
        for tensor in self._kept:
            key = id(tensor)
            if key not in self._learnt or key in self._products:
                continue
            owner, name = self._owners[key]
            layer = self._modules[id(owner)]
            label = f"{layer}.{name}".lstrip(".") if id(owner) in self._busy else layer or name
            found[label] = found.get(label, 0) + tensor.numel()
        return [Learnt(name, elements) for name, elements in found.items()]

    def _enter(self, module: nn.Module) -> None:
        if id(module) not in self._modules and not self._stack:
            self._add(module)
        self._stack.append(module)
        self._calls[id(module)] += 1

    def _leave(self, module: nn.Module) -> None:
        if self._stack and self._stack[-1] is module:
            self._stack.pop()

    def _add(self, root: nn.Module) -> None:
        """Take up the names of a model that is called for the first time."""
        for name, module in root.named_modules():
            self._modules.setdefault(id(module), _unwrapped(name))
        for module in root.modules():
            for name, value in module._parameters.items():
                if value is None or id(value) in self._parameters:
                    continue
                self._parameters[id(value)] = f"{self._modules[id(module)]}.{name}".lstrip(".")
                self._owners[id(value)] = (module, name)
                self._storages[value.untyped_storage()._cdata] = id(value)
                self._kept.append(value)
                if value.requires_grad:
                    hook = value.register_post_accumulate_grad_hook(lambda tensor: self._learnt.add(id(tensor)))
                    self._handles.append(hook)


def _label(layer: str, param: str) -> str:
    """Return the name of the product of a parameter: its layer's, unless the layer has several."""
    return layer if param == "weight" and layer else f"{layer}.{param.removesuffix('_weight')}".lstrip(".")


def _unwrapped(name: str) -> str:
    parts = name.split(".")
    while parts and parts[0] in WRAPPERS:
        parts.pop(0)
    return ".".join(parts)


def _largest_original(layer: nn.Module, param: str) -> torch.Tensor | None:
    groups = layer._modules.get("parametrizations")
    if groups is None or param not in groups:  # type: ignore[operator]
        return None
    originals = list(groups[param].parameters())  # type: ignore[index]
    return max(originals, key=lambda tensor: tensor.numel(), default=None)
