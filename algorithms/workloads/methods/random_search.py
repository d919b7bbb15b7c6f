"""Random search over nodes: keep the initialised sub-network that sits best in the loss landscape, and train it.

Source: R. Farahani, "Random Search as a Baseline for Sparse Neural Network Architecture Search", arXiv 2403.08265.
Known: only its abstract and first lines were read, and it has no public code. From there: sub-networks of an
over-parametrised network are drawn at random in the space of nodes, the one with the best initial loss is trained, and
beside it one that was not searched for. Its finding is negative: the searched ones neither perform better nor converge
faster. The equations are ours:

    keep ceil((1 - s) h) units of each hidden layer, T times at random
    t* = argmin_t L(theta0 restricted to the nodes of t)        winner; the draw t = 0 is the control

Faithful: to that in kind. Ours are a perceptron with ReLU and two hidden layers, uniform draws, T, the loss on one
fixed set, Adam in the study.
On SAT: x W1 depends on no draw and is one product for all of them; what follows is gathered: small dense products, of
all draws at once. The training step is that of the winner, dense and small. Full, as "dense" in the tables, means every
unit.
Assumed: sizes of MNIST, two hidden layers of 1024, 100 draws, the loss on 4096 samples.
Ours (`nm`): N of each M consecutive units are kept (2:8). All draws then read the same hidden activations, nothing is
gathered from them: W2 of all draws stands side by side, N:M along k, in a single product.
Study: the winner of 100 draws against the first draw, and against the dense network to show that the test can see a
difference; loss on digits held out and in training, paired differences with intervals, 20 seeds.
Found here: they end no better (the claim of the study, so yes), but the head start of the search stays visible in the
training loss, by 5 % over the first 400 steps: that they converge no faster does not hold here.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import ceil
from typing import TYPE_CHECKING, Final

import numpy as np

from nmsat.algorithms.core.sparsity import Gathered
from nmsat.algorithms.core.tape import Pattern
from nmsat.algorithms.training.data import Dataset, digits
from nmsat.algorithms.workloads.engine import ops
from nmsat.algorithms.workloads.engine.products import linear, matmul
from nmsat.algorithms.workloads.engine.program import Program
from nmsat.algorithms.workloads.engine.registry import Study, Variant, Workload, register
from nmsat.algorithms.workloads.engine.training import LOSS_SCALE, adam, clear

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from nmsat.algorithms.workloads.engine.parameters import Parameter
    from nmsat.algorithms.workloads.engine.program import Tensor

    Nodes = tuple[NDArray[np.int64], NDArray[np.int64]]


@lru_cache(maxsize=1)
def images() -> Dataset:
    """Read the digits once."""
    return digits()


@dataclass(frozen=True, kw_only=True)
class Size:
    """A perceptron inputs-hidden-hidden-classes and the search.

    kept, group: kept of each `group` units stay, so s = 1 - kept / group; draws: T; scored: samples of the initial
    loss; batch: samples of the training step.
    """

    inputs: int
    hidden: int
    classes: int
    kept: int
    group: int
    draws: int
    scored: int
    batch: int

    @property
    def left(self) -> int:
        """Units of a hidden layer that stay."""
        return ceil(self.hidden * self.kept / self.group)


def draw(rng: np.random.Generator, size: Size, draws: int, variant: Variant) -> Nodes:
    """Return the kept units of both hidden layers: ascending int64[draws, left] each.

    nm: `kept` of each `group` consecutive units, else any. Raises ValueError for nm if the groups do not fill a layer.
    """
    if variant == "nm" and size.hidden % size.group:
        raise ValueError(f"hidden is {size.hidden!r}; it must be a multiple of the group, {size.group}")
    found = []
    for _ in range(2):
        rank = rng.random((draws, size.hidden))
        if variant == "nm":
            first = np.argsort(rank.reshape(draws, -1, size.group), axis=2)[..., : size.kept]
            chosen = (first + np.arange(0, size.hidden, size.group)[:, None]).reshape(draws, -1)
        else:
            chosen = np.argsort(rank, axis=1)[:, : size.left]
        found.append(np.sort(chosen, axis=1))
    return found[0], found[1]


def parent(p: Program, size: Size) -> list[Parameter]:
    """Return theta0: three matrices that stay as they were drawn; biases begin at 0."""
    shapes = ((size.inputs, size.hidden), (size.hidden, size.hidden), (size.hidden, size.classes))
    return [p.weight(f"parent{i}", shape, frozen=True) for i, shape in enumerate(shapes)]


def candidate_logits(p: Program, size: Size, x: Tensor, nodes: Nodes | None, draws: int, variant: Variant) -> Tensor:
    """Return the logits [draws, rows, classes] of theta0 restricted to the nodes of every draw.

    nodes: None in a run of shapes.
    """
    first, second, third = parent(p, size)
    rows, left, hidden, classes = x.shape[0], size.left, size.hidden, size.classes
    h = ops.relu(linear("parent0", x, first))
    if variant == "nm":
        wide = p.input((hidden, draws * left), None if nodes is None else _side_by_side(second.array, nodes))
        _moved(p, hidden * draws * left)
        whole = Gathered("ranks", (rows, hidden, draws * hidden))
        y = matmul("parent1", h, wide, pattern=Pattern(size.kept, size.group), sparsity=whole)
        y = ops.transpose(ops.reshape(y, (rows, draws, left)), (1, 0, 2))
    else:
        taken = None if nodes is None else nodes[0]
        h = p.apply("Gather", (h,), (draws, rows, left), lambda v: v[:, ops.given(taken)].transpose(1, 0, 2))
        small = None if nodes is None else second.array[nodes[0][:, :, None], nodes[1][:, None, :]]
        _moved(p, draws * left * left)
        whole = Gathered("ranks", (rows, hidden, hidden))
        y = matmul("parent1", h, p.input((draws, left, left), small), sparsity=whole)
    last = p.input((draws, left, classes), None if nodes is None else third.array[nodes[1]])
    _moved(p, draws * left * classes)
    return matmul("parent2", ops.relu(y), last, sparsity=Gathered("ranks", (rows, hidden, classes)))


def initial_losses(logits: Tensor, labels: NDArray[np.int64] | None) -> NDArray[np.float64]:
    """Return the mean cross entropy of each draw: float64[draws]; zeros in a run of shapes."""
    draws, rows, classes = logits.shape
    logits.program.host("loss", "SoftmaxCrossEntropyLoss", 6 * logits.size, 2 * 2 * logits.size)
    if logits.data is None:
        return np.zeros(draws)
    v = logits.array.astype(np.float64)
    top = v.max(axis=-1)
    total = np.log(np.exp(v - top[..., None]).sum(axis=-1)) + top
    chosen = np.take_along_axis(v, np.broadcast_to(ops.given(labels)[None, :, None], (draws, rows, 1)), 2)[..., 0]
    del classes
    return (total - chosen).mean(axis=1)


def run(p: Program, size: Size, variant: Variant) -> None:
    """Record the search over all draws and one training step of the winner."""
    rng = np.random.default_rng(0)
    nodes = draw(rng, size, size.draws, variant) if p.values else None
    x = p.input((size.scored, size.inputs), lambda: _digits(size.scored)[0])
    logits = candidate_logits(p, size, x, nodes, size.draws, variant)
    best = int(initial_losses(logits, _digits(size.scored)[1] if p.values else None).argmin())
    p.host("winner", "ArgMin", size.draws, 4 * size.draws)
    chosen = None if nodes is None else (nodes[0][best], nodes[1][best])
    x = p.input((size.batch, size.inputs), lambda: _digits(size.batch)[0])
    labels = _digits(size.batch)[1] if p.values else None
    p.backward(ops.cross_entropy(winner_logits(p, size, x, chosen), labels), LOSS_SCALE)


def winner_logits(p: Program, size: Size, x: Tensor, nodes: tuple[NDArray, NDArray] | None) -> Tensor:
    """Return the logits of the network of the kept nodes alone, which begins at theta0 and learns: fc0, fc1, fc2."""
    rows, hidden = x.shape[0], size.hidden
    parents = parent(p, size)
    sides = (size.inputs, size.left, size.left, size.classes)
    wholes = ((rows, size.inputs, hidden), (rows, hidden, hidden), (rows, hidden, size.classes))
    for i, whole in enumerate(wholes):

        def restricted(i: int = i) -> NDArray:
            if nodes is None:
                raise RuntimeError("nodes is None; a run with values needs the winner's")
            value = parents[i].array
            value = value[nodes[i - 1]] if i else value
            return value[:, nodes[i]].copy() if i < 2 else value.copy()

        w = p.weight(f"fc{i}", (sides[i], sides[i + 1]), value=restricted)
        bias = p.vector(f"fc{i}.bias", (sides[i + 1],))
        x = linear(f"fc{i}", ops.relu(x) if i else x, w, bias, gathered=Gathered("ranks", whole))
    return x


def _side_by_side(w: NDArray, nodes: Nodes) -> NDArray:
    """Return W2 of all draws: [hidden, draws * left], rows outside a draw's nodes 0."""
    out = np.zeros((len(nodes[0]), *w.shape), w.dtype)
    for t, (rows, _) in enumerate(zip(*nodes, strict=True)):
        out[t, rows] = w[rows]
    return np.concatenate([block[:, columns] for block, columns in zip(out, nodes[1], strict=True)], axis=1)


def _moved(p: Program, elements: int) -> None:
    """Count the gathering of weights."""
    p.host("nodes", "Gather", 0, 2 * 2 * elements)


def _digits(count: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    data = images()
    return data.x_train[:count].reshape(count, -1), data.y_train[:count]


def search(size: Size, seed: int, variant: Variant) -> tuple[list[NDArray], list[tuple[NDArray, NDArray]], NDArray]:
    """Draw theta0 and T node sets; return theta0, the nodes of winner and control, and all initial losses."""
    p = Program(rng=np.random.default_rng(seed))
    nodes = draw(np.random.default_rng(1000 + seed), size, size.draws, variant)
    x, labels = _digits(size.scored)
    logits = candidate_logits(p, size, p.input(x.shape, x), nodes, size.draws, variant)
    losses = initial_losses(logits, labels)
    pairs = [(nodes[0][t], nodes[1][t]) for t in (int(losses.argmin()), 0)]
    return [w.array for w in parent(p, size)], pairs, losses


def train(networks: list[list[NDArray]], steps: int, batch: int = 64) -> tuple[NDArray[np.float64], ...]:
    """Train networks of one shape on digits, all with the same batches, Adam 1e-3.

    networks: their three matrices. Returns test loss, test accuracy and mean training loss over the steps, of each.
    """
    data, store = images(), {}
    count, rng = len(networks), np.random.default_rng(7)

    def forward(x: NDArray) -> tuple[Program, Tensor]:
        p = Program(store=store)
        y = p.input((count, *x.shape), np.broadcast_to(x, (count, *x.shape)))
        for i in range(3):
            w = p.vector(f"w{i}", (count, *networks[0][i].shape))
            bias = p.vector(f"b{i}", (count, 1, networks[0][i].shape[1]))
            y = ops.add(matmul(f"fc{i}", ops.relu(y) if i else y, w), bias)
        return p, y

    forward(data.x_train[:1].reshape(1, -1))
    for i in range(3):
        store[f"w{i}"].value = np.stack([network[i] for network in networks])
    x, labels = data.x_train.reshape(len(data.x_train), -1), data.y_train
    curve = np.zeros(count)
    for step in range(1, steps + 1):
        pick = rng.integers(0, len(x), batch)
        p, y = forward(x[pick])
        curve += initial_losses(y, labels[pick]) / steps
        p.backward(ops.cross_entropy(y, np.broadcast_to(labels[pick], (count, batch))))
        adam(store.values(), 1e-3, step)
        clear(store.values())
    _, y = forward(data.x_test.reshape(len(data.x_test), -1))
    accuracy = (y.array.argmax(axis=-1) == data.y_test).mean(axis=1)
    return initial_losses(y, data.y_test), accuracy, curve


def interval(difference: NDArray) -> tuple[float, float]:
    """Return the 95 % confidence interval of the mean of paired differences (Student's t)."""
    from scipy.stats import t

    half = t.ppf(0.975, len(difference) - 1) * difference.std(ddof=1) / np.sqrt(len(difference))
    return float(difference.mean() - half), float(difference.mean() + half)


def study(variant: Variant) -> Study:
    """Winner of 100 draws, control and dense parent on digits, 20 seeds: paired differences with intervals."""
    measured: dict[str, float | int | str] = {"seeds": SEEDS, "draws": STUDY.draws}
    searched = [search(STUDY, seed, variant) for seed in range(SEEDS)]
    networks = [[_restricted(theta, pairs[which]) for theta, pairs, _ in searched] for which in (0, 1)]
    loss, accuracy, curve = train(networks[0] + networks[1], STEPS)
    dense = train([theta for theta, _, _ in searched], STEPS)
    for name, values in (("test_loss", loss), ("training_loss", curve)):
        winner, control = values[:SEEDS], values[SEEDS:]
        low, high = interval(winner - control)
        measured |= {f"{name}_searched": float(winner.mean()), f"{name}_random": float(control.mean())}
        measured |= {f"{name}_difference_low": low, f"{name}_difference_high": high}
    measured["accuracy_searched"], measured["accuracy_random"] = (float(part.mean()) for part in np.split(accuracy, 2))
    measured["accuracy_dense"] = float(dense[1].mean())
    gain = np.mean([losses.mean() - losses.min() for _, _, losses in searched])
    measured["initial_loss_gain"] = float(gain)
    # The same test must see a difference where there is one: the dense parent against the control.
    power = interval(dense[0] - loss[SEEDS:])
    measured |= {"dense_minus_random_low": power[0], "dense_minus_random_high": power[1]}
    holds = float(measured["test_loss_difference_high"]) >= 0 and power[1] < 0
    return Study("a searched sub-network ends no better than a random one of the same density", holds, measured)


def _restricted(theta: list[NDArray], nodes: tuple[NDArray, NDArray]) -> list[NDArray]:
    first, second, third = theta
    return [first[:, nodes[0]], second[np.ix_(*nodes)], third[nodes[1]]]


SEEDS: Final = 20
STEPS: Final = 400
SMALL: Final = Size(inputs=64, hidden=64, classes=10, kept=2, group=8, draws=4, scored=48, batch=32)
STUDY: Final = Size(inputs=64, hidden=64, classes=10, kept=2, group=8, draws=100, scored=1347, batch=64)
MNIST: Final = Size(inputs=784, hidden=1024, classes=10, kept=2, group=8, draws=100, scored=4096, batch=128)

register(
    Workload(
        name="random-search",
        title="Random search for sparse networks",
        source="Farahani, arXiv 2403.08265",
        sparse="neurons, a quarter of each hidden layer stays",
        variants={
            "faithful": "nodes gathered, dense; all draws at once",
            "nm": "ours: 2 of each 8 consecutive units stay, so that W2 of all draws is one 2:8 product",
        },
        quoted="no figure read; its finding: searched networks are not better than random ones",
        sizes={"small": SMALL, "paper": MNIST},
        run=run,
        study=study,
        about=__doc__,
    )
)
