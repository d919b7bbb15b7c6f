"""Sparse fine-tuning of any network (`algorithms.workloads.methods.lt_sft`): phases, composition, file form."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from nmsat.algorithms.core.sparsity import Unstructured
from nmsat.algorithms.workloads.engine.ops import given
from nmsat.algorithms.workloads.engine.parameters import Parameter, nm_mask
from nmsat.algorithms.workloads.engine.training import adam, clear

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping

    from numpy.typing import NDArray

    from nmsat.algorithms.core.tape import Pattern

    Select: TypeAlias = Callable[[Mapping[str, NDArray]], dict[str, NDArray[np.bool_]]]
    Step: TypeAlias = Callable[["Store", int], None]

Store: TypeAlias = dict[str, Parameter]
Difference: TypeAlias = dict[str, "NDArray"]
"""theta - theta0 by tensor."""


@dataclass(frozen=True, eq=False)
class Tuned:
    """What a fine-tuning found.

    sparse, full: differences after the second and after the first phase; masks: elements that the second phase moved;
    heads, full_heads: tensors that are stored whole.
    """

    sparse: Difference
    full: Difference
    masks: dict[str, NDArray[np.bool_]]
    heads: Difference
    full_heads: Difference


def largest(moved: Mapping[str, NDArray], count: int) -> dict[str, NDArray[np.bool_]]:
    """Return masks of the `count` largest |moved| over all tensors; more where the last of them has equals."""
    everything = np.concatenate([np.abs(v).ravel() for v in moved.values()])
    if count < 1:
        return {name: np.zeros(v.shape, np.bool_) for name, v in moved.items()}
    limit = np.partition(everything, -min(count, everything.size))[-min(count, everything.size)]
    return {name: np.abs(v) >= limit for name, v in moved.items()}


def largest_in_groups(
    moved: Mapping[str, NDArray], pattern: Pattern, matrices: Collection[str]
) -> dict[str, NDArray[np.bool_]]:
    """Return masks of the N largest of each M along k of the matrices, and of as large a share of all other tensors."""
    rest = {name: v for name, v in moved.items() if name not in matrices}
    share = sum(v.size for v in rest.values()) * pattern.n // pattern.m
    out = {name: nm_mask(moved[name], pattern, -2) for name in matrices}
    return out | (largest(rest, share) if rest else {})


def tune(store: Store, step: Step, steps: int, rate: float, *, pull: float = 0.0) -> Store:
    """Return a copy of a network after `steps` steps of Adam, the rate falling linearly to 0.

    step(store, index from 1): adds gradients; pull: lambda of lambda * sum |theta - theta0| / (number of parameters).
    """
    start = {name: w.array for name, w in store.items()}
    now = copied(store)
    learning = {name: w for name, w in now.items() if not w.frozen}
    share = pull / max(1, sum(w.size for w in learning.values()))
    for index in range(1, steps + 1):
        step(now, index)
        for name, w in learning.items():
            if w.grad is not None:
                grad = w.grad + share * np.sign(w.array - start[name])
                w.grad = grad if w.learnt is None else np.where(given(w.learnt.keep), grad, 0)
        adam(learning.values(), rate * (1 - (index - 1) / steps), index)
        clear(now.values())
    return now


def sparse_tuning(
    store: Store,
    step: Step,
    steps: tuple[int, int],
    rate: float,
    select: Select,
    *,
    free: Collection[str] = (),
    pull: float = 0.0,
) -> Tuned:
    """Fine-tune all, select what moved most, rewind, fine-tune that alone.

    steps: of each phase; select: masks from |theta1 - theta0| of the tensors that learn; free: tensors that are never
    masked (heads). The store stays as it is.
    """
    masked = [name for name, w in store.items() if not w.frozen and name not in free]
    first = tune(store, step, steps[0], rate, pull=pull)
    full = _moved(first, store, masked)
    masks = select(full)
    again = copied(store)
    for name, keep in masks.items():
        again[name].learnt = Unstructured("y", int(np.count_nonzero(keep)), keep)
    second = tune(again, step, steps[1], rate, pull=pull)
    heads, full_heads = ({name: now[name].array for name in free} for now in (second, first))
    return Tuned(_moved(second, store, masked), full, masks, heads, full_heads)


def composed(store: Store, differences: Iterable[Difference], heads: Difference | None = None) -> Store:
    """Return a copy of a network with differences added and heads put in."""
    out = copied(store)
    for difference in differences:
        for name, move in difference.items():
            out[name].value = (out[name].array + move).astype(out[name].array.dtype)
    for name, value in (heads or {}).items():
        out[name].value = value.copy()
    return out


def copied(store: Store) -> Store:
    """Return a network of its own, without gradients and state of an optimizer."""
    return {name: replace(w, value=w.array.copy(), grad=None, state={}) for name, w in store.items()}


def encode(difference: NDArray) -> tuple[NDArray[np.int64], NDArray]:
    """Return the file form of one tensor: steps between the flat places of what is not 0, and the values there."""
    flat = difference.ravel()
    places = np.flatnonzero(flat)
    return np.diff(places, prepend=0), flat[places]


def decode(steps: NDArray[np.int64], values: NDArray, shape: tuple[int, ...]) -> NDArray:
    """Undo `encode`."""
    out = np.zeros(int(np.prod(shape)), values.dtype)
    out[np.cumsum(steps)] = values
    return out.reshape(shape)


def _moved(now: Store, before: Store, names: Iterable[str]) -> Difference:
    return {name: now[name].array - before[name].array for name in names}
