"""A dispatch mode that sees every operator of a step and records the products that no converted layer reports.

A forward product is told apart by where its operands come from: a tensor made of parameters alone is a weight. Its
backward products are found by the sequence number that autograd gives an operator and its gradient node.
"""

# pyright: reportMissingImports=false
# PyTorch is an optional extra: the type checker runs without it.

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from nmsat.algorithms.core.tape import LeftOut, Stage
from nmsat.algorithms.pytorch.record import shaped_work
from nmsat.algorithms.pytorch.works import activation_work, matrix_work

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nmsat.algorithms.core.tape import Product
    from nmsat.algorithms.pytorch.naming import Names
    from nmsat.algorithms.pytorch.record import Recorder

OPERANDS: Final = {
    **dict.fromkeys(("mm", "bmm", "mv", "dot", "vdot", "_int_mm"), (0, 1)),
    **dict.fromkeys(("addmm", "_addmm_activation", "baddbmm", "addbmm", "addmv"), (1, 2)),
}
"""Places of the two operands of matrix products."""

HARMLESS: Final = frozenset({
    *("_thnn_fused_lstm_cell", "_thnn_fused_lstm_cell_backward_impl", "_thnn_fused_gru_cell"),
    *("_thnn_fused_gru_cell_backward", "linalg_vector_norm", "addcmul", "_fused_dropout"),
})  # fmt: skip
"""Operators whose names look like products and that are none."""

SUSPICIOUS: Final = (
    *("mm", "matmul", "conv", "attention", "rnn", "lstm", "gru", "linear", "einsum", "cdist", "fft", "multi_head"),
    *("transformer", "sparse", "solve", "cholesky", "inverse", "svd", "eig", "_qr", "lstsq", "lu_", "spmm", "kron"),
)
"""Parts of the names of operators that may hide products."""

INTERPOLATION: Final = ("upsample", "grid_sampler")
"""Beginnings of the names of operators that interpolate ('upsample_linear1d')."""


@dataclass(frozen=True)
class _Forward:
    """A forward product that waits for its gradients. sizes: m, k, n as computed; a, b: storages of its operands;
    stages: what the gradients of A and of B are; tag: of the run."""

    sizes: tuple[int, int, int]
    a: int
    b: int
    stages: tuple[Stage, Stage]
    tag: int


class Watch(TorchDispatchMode):
    """Records onto the recorder's tape while it is active."""

    def __init__(self, recorder: Recorder, names: Names) -> None:
        super().__init__()
        self._recorder = recorder
        self._names = names
        self._made: dict[int, tuple[int, torch.Tensor]] = {}
        self._waiting: dict[int, list[_Forward]] = {}
        self._missing: dict[tuple[str, str], int] = {}
        self._steps: dict[str, tuple[str, int]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None) -> Any:
        del types
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if self._recorder.quiet:
            return result
        space, _, name = func._schema.name.partition("::")
        if self._in_backward():
            self._backward(space, name, args)
        else:
            self._forward(space, name, args)
        self._note_weights((args, kwargs), result)
        return result

    @property
    def left_out(self) -> list[LeftOut]:
        """Operators that were seen and are no products on the tape, though they may hide some."""
        return [LeftOut(name, kind, calls) for (name, kind), calls in self._missing.items()]

    def over_all_steps(self, products: Sequence[Product]) -> list[Product]:
        """Return products with the weight gradients of a recurrent layer's steps as one, over the rows of all steps.

        Nothing needs them before the last is there, so a machine computes their sum in one product.
        """
        found: dict[tuple[str, int], list[Product]] = {}
        for product in products:
            if product.stage is Stage.WU and product.name in self._steps:
                found.setdefault(self._steps[product.name], []).append(product)
        whole: dict[int, Product] = {}
        left: set[int] = set()
        first = list(self._steps)  # in the order of the forward pass
        for parts in found.values():
            name = min((part.name for part in parts), key=first.index)
            left.update(map(id, parts))
            whole[id(parts[-1])] = replace(parts[-1], name=name, k=sum(part.k for part in parts))
        return [whole.get(id(p), p) for p in products if id(p) in whole or id(p) not in left]

    def _in_backward(self) -> bool:
        """Tell gradients from forward work, which checkpointing repeats within the backward pass."""
        if torch._C._current_autograd_node() is None:
            return False
        return not (torch.is_grad_enabled() and self._names.inside)

    def _forward(self, space: str, name: str, args: tuple) -> None:
        if space == "aten" and name in OPERANDS:
            a, b = (args[place] for place in OPERANDS[name])
            self._product(a, b, torch._C._autograd._get_sequence_nr() - 1)
        elif space == "aten" and name == "linear":
            self._product(args[0].flatten(0, -2), args[1].t(), torch._C._autograd._get_sequence_nr() - 1)
        elif space == "aten" and name in ("convolution", "_convolution"):
            self._convolution(args, torch._C._autograd._get_sequence_nr() - 1)
        else:
            self._suspect(space, name)

    def _product(self, a: torch.Tensor, b: torch.Tensor, sequence: int) -> None:
        a = a[None] if a.dim() == 1 else a
        b = b[:, None] if b.dim() == 1 else b
        count = a.shape[0] if a.dim() == 3 else 1
        m, k, n = a.shape[-2], a.shape[-1], b.shape[-1]
        if not m * k * n * count:
            return
        left, right = self._weight(a), self._weight(b)
        if (left is None) == (right is None):
            label = self._recorder.run(self._names.here("matmul"))
            work = activation_work(label, (m, k, n), count)
            self._wait(
                sequence, _Forward((m, k, n), _key(a), _key(b), (Stage.BP, Stage.WU), self._recorder.start(work))
            )
            return
        # A weight on the left is the transposed product: Y^T = B^T W^T.
        owner = right if left is None else left
        assert owner is not None
        rows, features_out = (m, n) if left is None else (n, m)
        weight = b if left is None else a
        if weight.dim() == 3 and weight.stride(0) == 0:
            rows, count = rows * count, 1
        label, key = self._names.of_weight(owner)
        work = matrix_work(self._recorder.run(label), key, (rows, k, features_out), None, count)
        call = self._names.recurrent_call()
        if call is not None:
            self._steps[work.name] = (key, call)
        stages = (Stage.BP, Stage.WU) if left is None else (Stage.WU, Stage.BP)
        self._wait(sequence, _Forward((m, k, n), _key(a), _key(b), stages, self._recorder.start(work)))

    def _convolution(self, args: tuple, sequence: int) -> None:
        x, weight, _, *options = args
        if not x.numel() or not weight.numel():
            return
        owner = self._weight(weight)
        shapes = (tuple(x.shape), tuple(weight.shape), tuple(options[:6]))
        if owner is None:  # a computed kernel: a product of two activations
            flat = shaped_work("kernel", "", *shapes, None).ff
            label = self._recorder.run(self._names.here("convolution"))
            work = activation_work(label, (flat.m, flat.k, flat.n), flat.count)
        else:
            label, key = self._names.of_weight(owner)
            work = shaped_work(self._recorder.run(label), key, *shapes, None)
        self._wait(
            sequence, _Forward((0, 0, 0), _key(x), _key(weight), (Stage.BP, Stage.WU), self._recorder.start(work))
        )

    def _wait(self, sequence: int, forward: _Forward) -> None:
        if torch.is_grad_enabled():
            self._waiting.setdefault(sequence, []).append(forward)

    def _backward(self, space: str, name: str, args: tuple) -> None:
        node = torch._C._current_autograd_node()
        waiting = self._waiting.get(node._sequence_nr(), [])
        if space == "aten" and name in ("convolution_backward", "convolution_backward_overrideable"):
            self._convolution_gradients(waiting, args)
        elif space == "aten" and name in OPERANDS:
            a, b = (args[place] for place in OPERANDS[name])
            self._gradient(waiting, a, b)
        else:
            self._suspect(space, name)

    def _convolution_gradients(self, waiting: list[_Forward], args: tuple) -> None:
        need = args[-1]
        if not waiting:
            self._suspect("aten", "convolution_backward")
            return
        for wanted, stage in zip(need, waiting[0].stages, strict=False):
            if wanted:
                self._recorder.emit(waiting[0].tag, stage)

    def _gradient(self, waiting: list[_Forward], a: torch.Tensor, b: torch.Tensor) -> None:
        a = a[None] if a.dim() == 1 else a
        b = b[:, None] if b.dim() == 1 else b
        if not a.numel() or not b.numel():
            return
        for forward in waiting:
            stage = _stage(forward, a, b)
            if stage is not None:
                self._recorder.emit(forward.tag, stage)
                return
        count = a.shape[0] if a.dim() == 3 else 1
        label = self._recorder.run(self._names.here("matmul.backward"))
        work = activation_work(label, (a.shape[-2], a.shape[-1], b.shape[-1]), count)
        self._recorder.tape.record(replace(work.ff, stage=Stage.OTHER))

    def _suspect(self, space: str, name: str) -> None:
        """Note an operator that may hide products."""
        if space == "aten":
            plain = name in HARMLESS or name.startswith(INTERPOLATION)
            if plain or not any(part in name for part in SUSPICIOUS):
                return
        elif space in ("prim", "prims", "profiler"):
            return
        key = (self._names.here(""), f"{space}::{name}")
        self._missing[key] = self._missing.get(key, 0) + 1

    def _weight(self, tensor: torch.Tensor) -> int | None:
        """Return the id of the parameter that a tensor is made of, None for an activation."""
        own = self._names.parameter(_key(tensor))
        if own is not None:
            return own
        found = self._made.get(_key(tensor))
        return None if found is None else found[0]

    def _note_weights(self, given: Any, result: Any) -> None:
        """Remember what is made of parameters alone: casts, transpositions, weight_norm."""
        sources = [leaf for leaf in tree_leaves(given) if isinstance(leaf, torch.Tensor)]
        owners = [self._weight(leaf) for leaf in sources]
        if not sources or None in owners:
            return
        largest = owners[max(range(len(sources)), key=lambda place: sources[place].numel())]
        assert largest is not None
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor) and self._names.parameter(_key(leaf)) is None:
                self._made[_key(leaf)] = (largest, leaf)


def _key(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _stage(forward: _Forward, a: torch.Tensor, b: torch.Tensor) -> Stage | None:
    """Return which gradient a[r, s] b[s, t] is: of A it reduces over n, of B over m; None if it is neither."""
    m, k, n = forward.sizes
    r, s, t = a.shape[-2], a.shape[-1], b.shape[-1]
    of_a = s == n and {r, t} == {m, k}
    of_b = s == m and {r, t} == {k, n}
    if of_a and of_b:
        operands = {_key(a), _key(b)}
        of_a, of_b = forward.b in operands, forward.a in operands and forward.b not in operands
    if of_a:
        return forward.stages[0]
    return forward.stages[1] if of_b else None
