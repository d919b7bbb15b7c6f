"""S2-LoRA (`algorithms.workloads.methods.s2_lora`): its adapter, and its study on changes made from common atoms."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from nmsat.algorithms.core.sparsity import Gathered
from nmsat.algorithms.core.tape import Pattern
from nmsat.algorithms.workloads.engine import ops
from nmsat.algorithms.workloads.engine.parameters import Parameter
from nmsat.algorithms.workloads.engine.products import linear
from nmsat.algorithms.workloads.engine.program import Program
from nmsat.algorithms.workloads.engine.registry import Study, Variant
from nmsat.algorithms.workloads.engine.training import adam, clear
from nmsat.algorithms.workloads.engine.transformer import dense
from nmsat.algorithms.workloads.methods.sora import soft_threshold

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from nmsat.algorithms.workloads.engine.program import Tensor

PATTERN: Final = Pattern(2, 4)
SCALE: Final = 1.0
"""s."""


def adapted(
    p: Program, names: Sequence[str], x: Tensor, n: int, rank: int, variant: Variant, *, gathered: bool = True
) -> list[Tensor]:
    """Return x through frozen matrices with their share of the common factors.

    gathered: leave out ranks whose coefficient is 0, as the recorded step does; training keeps them, so that every
    coefficient gets its gradient.
    """
    k = x.shape[-1]
    rows, count = x.size // k, len(names)
    a = p.weight(f"shared.a{k}", (k, rank), value=lambda: unit(p.rng.standard_normal((k, rank)), 0))
    b = p.weight(f"shared.b{n}", (rank, n), value=lambda: unit(p.rng.standard_normal((rank, n)), 1))
    base = [frozen(p, name, x, n, variant) for name in names]
    owned = [_coefficients(p, name, rank, gathered=gathered) for name in names]
    kept = [active(p, name, rank, gathered=gathered) for name in names]
    union = None if not p.values else np.unique(np.concatenate([i for _, i in kept if i is not None]))
    total = p.statistic(
        f"{names[0]}.union",
        lambda: 0 if union is None else len(union),
        lambda: round(rank * (1 - 0.5**count)) if gathered else rank,
    )
    if not total:
        return base
    whole = Gathered("ranks", (rows, k, rank)) if gathered else None
    u = linear(f"{names[0]}.a", x, _taken(a, union, total, 1), gathered=whole)
    out = []
    for name, y, c, (left, index) in zip(names, base, owned, kept, strict=True):
        if not left:
            out.append(y)
            continue
        place = None if index is None or union is None else np.searchsorted(union, index)
        mine = u if left == total else columns(u, place, left)
        mine = ops.mul(mine, c if left == rank else ops.gather(c, index, left))
        whole = Gathered("ranks", (rows, rank, n)) if gathered else None
        change = linear(f"{name}.b", mine, _taken(b, index, left, 0), gathered=whole)
        out.append(ops.add(y, ops.scale(change, SCALE)))
    return out


def active(p: Program, name: str, rank: int, *, gathered: bool) -> tuple[int, NDArray[np.int64] | None]:
    """Return how many coefficients of a matrix are not 0, and which; all of them unless `gathered`."""
    if not gathered:
        return rank, np.arange(rank) if p.values else None
    index = np.flatnonzero(p.store[f"{name}.c"].array) if p.values else None
    return p.statistic(f"{name}.ranks", lambda: 0 if index is None else len(index), lambda: rank // 2), index


def columns(x: Tensor, index: NDArray[np.integer] | None, count: int) -> Tensor:
    """Return x[..., index], each column at most once; count: of the index."""

    def backward(d: NDArray, _y: NDArray, v: NDArray) -> tuple[NDArray]:
        out = np.zeros_like(v)
        out[..., ops.given(index)] = d
        return (out,)

    shape = (*x.shape[:-1], count)
    return x.program.apply("Gather", (x,), shape, lambda v: v[..., ops.given(index)], backward)


def unit(x: NDArray, axis: int) -> NDArray:
    """Return x with lengths of 1 along an axis."""
    return x / np.sqrt((x * x).sum(axis=axis, keepdims=True))


def _coefficients(p: Program, name: str, rank: int, *, gathered: bool) -> Tensor:
    fresh = f"{name}.c" not in p.store
    c = p.vector(f"{name}.c", (rank,))
    if fresh and gathered and p.values:
        # A recording without a trained store begins with about half of them at 0, as assumed after training.
        c.array[...] = soft_threshold(p.rng.standard_normal(rank), 0.67)
    return c


def _taken(w: Parameter, index: NDArray[np.int64] | None, count: int, axis: int) -> Parameter:
    """Return the active ranks of a factor as a matrix; the factor itself if that is all of them."""
    if count == w.shape[axis]:
        return w
    shape = (w.shape[0], count) if axis else (count, w.shape[1])
    return Parameter(f"{w.name}.active", shape, None if index is None else np.take(w.array, index, axis))


def frozen(p: Program, name: str, x: Tensor, n: int, variant: Variant) -> Tensor:
    pattern = PATTERN if variant == "nm" else None
    return dense(p, name, x, n, ff=pattern, bp=pattern, frozen=True)


PENALTY: Final = 0.05
LEAST: Final = 0.1
"""lambda of the study, and below which share of the largest a coefficient is dropped at the end: chosen with seed 7."""

WIDTH: Final = 24
ATOMS: Final = 5
PLANTED: Final = ((0,), (1, 2), (0, 3, 4), (2,), (1, 4), (0, 2, 3))
"""The network of the study: its width, ranks of the planted factors, and which of them each matrix has."""


def student(p: Program, x: Tensor, kind: str, rank: int, variant: Variant) -> Tensor:
    """Return the outputs of a residual network of frozen matrices; kind: 'shared' (the method) or 'lora'."""
    h = x
    for index in range(len(PLANTED)):
        name = f"m{index}"
        if kind == "shared":
            (y,) = adapted(p, [name], h, WIDTH, rank, variant, gathered=False)
        else:
            y = frozen(p, name, h, WIDTH, variant)
            own = p.weight(f"{name}.a", (WIDTH, rank), gain=1.0)
            y = ops.add(
                y,
                linear(
                    f"{name}.b",
                    linear(f"{name}.a", h, own),
                    p.weight(f"{name}.b", (rank, WIDTH), value=lambda: np.zeros((rank, WIDTH))),
                ),
            )
        h = ops.add(h, ops.relu(y))
    return h


def planted(seed: int, store: dict[str, Parameter], variant: Variant) -> tuple[NDArray, NDArray, NDArray]:
    """Return inputs, outputs of the frozen network with the planted changes, and atoms a_k b_k^T [atoms, k, n]."""
    rng = np.random.default_rng(400 + seed)
    x = rng.standard_normal((2500, WIDTH)).astype(np.float32)
    p = Program(store=store, rng=np.random.default_rng(seed))
    student(p, p.input(x.shape, x), "shared", 8, variant)
    left, right = unit(rng.standard_normal((WIDTH, ATOMS)), 0), unit(rng.standard_normal((ATOMS, WIDTH)), 1)
    h = x.astype(np.float64)
    for index, chosen in enumerate(PLANTED):
        w = store[f"m{index}"].forward().values
        if w is None:
            raise RuntimeError("the frozen matrices have no values")
        c = np.zeros(ATOMS)
        c[list(chosen)] = rng.choice([-1.0, 1.0], len(chosen)) * rng.uniform(1.0, 2.0, len(chosen))
        h = h + np.maximum(h @ (w + (left * c) @ right), 0)
    return x, h.astype(np.float32), np.einsum("ik,kj->kij", left, right)


def adapt(
    seed: int, kind: str, rank: int, variant: Variant, steps: int, penalty: float = 0.0
) -> tuple[dict[str, Parameter], float, NDArray]:
    """Train adapters on a planted change; return parameters, test error over the change's variance, planted atoms."""
    store: dict[str, Parameter] = {}
    x, y, atoms = planted(seed, store, variant)
    frozen = Program(store=store)
    before = student(frozen, frozen.input((500, WIDTH), x[2000:]), "shared", 8, variant).array
    store = {name: w for name, w in store.items() if w.frozen}
    rng = np.random.default_rng(seed)
    for step in range(1, steps + 1):
        pick = rng.integers(0, 2000, 64)
        p = Program(store=store, rng=np.random.default_rng(seed))
        out = student(p, p.input((64, WIDTH), x[pick]), kind, rank, variant)
        p.backward(ops.squared_error(out, p.input((64, WIDTH), y[pick])))
        rate = 2e-2 * min(1.0, 2 * (1 - step / steps))
        adam(store.values(), rate, step)
        for name, w in store.items():
            if name.endswith(".c"):
                w.value = soft_threshold(w.array, rate * penalty).astype(np.float32)
            elif name.startswith("shared."):
                w.value = unit(w.array, 0 if ".a" in name else 1)
        clear(store.values())
    if kind == "shared":
        drop(store)
    p = Program(store=store)
    after = student(p, p.input((500, WIDTH), x[2000:]), kind, rank, variant).array
    error = float(np.mean((after - y[2000:]) ** 2) / np.mean((before - y[2000:]) ** 2))
    return store, error, atoms


def drop(store: dict[str, Parameter]) -> None:
    """Set coefficients to 0 that are below a tenth of the largest."""
    found = [w for name, w in store.items() if name.endswith(".c")]
    least = LEAST * max(float(np.abs(w.array).max()) for w in found)
    for w in found:
        w.value = np.where(np.abs(w.array) < least, 0, w.array)


def support_score(store: dict[str, Parameter], atoms: NDArray) -> float:
    """Return the F1 of the coefficients that are left against the planted ones.

    Each learnt rank stands for the planted atom it is most like (|cosine|), if that is above 0.8.
    """
    a, b = store[f"shared.a{WIDTH}"].array, store[f"shared.b{WIDTH}"].array
    likeness = np.abs(np.einsum("tij,ik,kj->tk", atoms, a, b))
    hits = found = 0
    for index, chosen in enumerate(PLANTED):
        c = store[f"m{index}.c"].array
        names = {int(likeness[:, k].argmax()) if likeness[:, k].max() > 0.8 else -1 - k for k in np.flatnonzero(c)}
        hits += len(names & set(chosen))
        found += len(names)
    return 2 * hits / (found + sum(map(len, PLANTED)))


def study(variant: Variant) -> Study:
    """Shared factors of rank 8 against LoRA of ranks 1 and 2 on planted changes from common atoms, two seeds.

    The claim holds if, with each seed, the planted pattern is found (F1 above 0.9) and no LoRA with as few parameters
    has as small an error.
    """
    rank, steps = 8, 800
    measured: dict[str, float | int | str] = {}
    holds, last = True, {}
    for seed in range(2):
        last, error, atoms = adapt(seed, "shared", rank, variant, steps, PENALTY)
        left = sum(int(np.count_nonzero(last[f"m{i}.c"].array)) for i in range(len(PLANTED)))
        used = {k for i in range(len(PLANTED)) for k in np.flatnonzero(last[f"m{i}.c"].array)}
        parameters = 2 * WIDTH * len(used) + left
        score = support_score(last, atoms)
        measured |= {f"f1_seed{seed}": score, f"error_seed{seed}": error, f"parameters_seed{seed}": parameters}
        holds = holds and score > 0.9
        for r in (1, 2):
            other, own = adapt(seed, "lora", r, variant, steps)[1], 2 * WIDTH * r * len(PLANTED)
            measured |= {f"error_lora{r}_seed{seed}": other, f"parameters_lora{r}": own}
            holds = holds and (other > error or own > parameters)
    claim = "the planted pattern of ranks is found, and LoRA needs more parameters for as small an error"
    return Study(claim, holds, measured)
