"""Reader of tapes: what a run recorded (`algorithms.training.train`, `algorithms.pytorch.record_step`) as a step on
SAT.

Each product of a layer is made anew by `dataflow.network.products` with the pattern that the run had, so that input
gradients of convolutions are split as the scheduler wants it; bits do not depend on the split. As there, a reduction
shorter than M runs dense, and the input gradient of a layer comes before its weight gradient. A tape holds products of
layers and of activations and the tensors that learn beside them: no host operators. What it leaves out is passed on
with the step.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from nmsat.algorithms.core.tape import Stage
from nmsat.algorithms.core.tape_file import read_tape
from nmsat.dataflow.network import products as of
from nmsat.dataflow.network.layers import ConvLayer, LinearLayer
from nmsat.dataflow.network.step import Prune, Step, Update, layer_of, run_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from nmsat.algorithms.core.tape import Pattern, Product, Tape
    from nmsat.dataflow.network.layers import WeightLayer

SUFFIX = ".tape"
"""What the name of a tape file ends in."""


def read_step(path: str | Path, *, dense: bool = False) -> Step:
    """Return the step of a tape file; see `tape_step`. FileNotFoundError; ValueError names file and line."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no file {str(path)!r}")
    try:
        return tape_step(read_tape(path), dense=dense)
    except UnicodeDecodeError as error:
        raise ValueError(f"{str(path)!r} is not a tape: {error}") from None


def tape_step(tape: Tape, *, dense: bool = False) -> Step:
    """Return the step that a tape recorded.

    dense: the same step with all patterns left out. A weight is updated once, however many runs and layers it has.
    Raises ValueError for an empty tape, for a run of a layer that is there twice, for products that do not fit the
    layer of their name, and for sparsity beside N:M.
    """
    if not tape.products:
        raise ValueError("the tape holds no products; record a step first")
    for product in tape.products:
        if product.sparsity is not None:
            raise ValueError(f"product {product.name!r} has sparsity beside its pattern; a step knows N:M only")
    groups = _by_layer(tape)
    rows = _rows_of_steps(groups)
    layers = {name: _TapeLayer(products, rows[name]) for name, products in groups.items()}
    ordered = _ordered(tape.products, layers)
    made = [p for product in ordered for p in _products(product, layers, dense=dense)]
    full = [p for product in ordered for p in _products(product, layers, dense=True)]
    return Step(
        method="dense" if dense else "tape",
        products=tuple(made),
        host_ops=(),
        updates=(*_updates(layers.values(), dense=dense), *(Update(x.name, x.elements, 1) for x in tape.learnt)),
        prunes=() if dense else tuple(prune for layer in reversed(layers.values()) for prune in layer.prunes()),
        macs_dense=sum(product.macs_dense for product in full),
        left_out=tuple(tape.left_out),
        decays=True if tape.decays and not dense else None,
    )


def _by_layer(tape: Tape) -> dict[str, list[Product]]:
    """Return the products of each run of a layer with weights: those that share a name with a forward product."""
    forward = Counter(p.name for p in tape.products if p.stage is Stage.FF)
    found: dict[str, list[Product]] = {name: [] for name in forward}
    for product in tape.products:
        if (name := run_of(product.name)) in found:
            found[name].append(product)
    found = {name: group for name, group in found.items() if _has_weights(group)}
    twice = [name for name in found if forward[name] > 1]
    if twice:
        raise ValueError(
            f"layer {twice[0]!r} runs {forward[twice[0]]} times on the tape; record one step, with a version that "
            f"tells the runs of a layer apart"
        )
    return found


def _rows_of_steps(groups: Mapping[str, list[Product]]) -> dict[str, int]:
    """Return the rows of each run and of those of the same layer after it that have no weight gradient of their own.

    A recurrent layer has one weight gradient over all steps of a call, under the name of the first.
    """
    rows: dict[str, int] = {}
    after: dict[str, int] = {}
    for name, group in reversed([*groups.items()]):
        stages = {product.stage: product for product in group}
        base = layer_of(name)
        rows[name] = stages[Stage.FF].m + after.get(base, 0)
        after[base] = 0 if Stage.WU in stages else rows[name]
    return rows


def _has_weights(group: list[Product]) -> bool:
    """Tell a layer from a product of two activations.

    Tapes that do not name weights show it by a weight gradient or a convolution. A forward product alone may be one of
    two activations.
    """
    first = group[0]
    if any(p.weight for p in group):
        return True
    named = {p.name for p in group}
    gradients = {f"{first.name}.da", f"{first.name}.db"} & named
    return not gradients and (len(group) > 1 or first.conv is not None)


def _ordered(products: list[Product], layers: dict[str, _TapeLayer]) -> list[Product]:
    """Return the products with the gradient of W behind that of A: of a layer, and of two activations ('.db')."""

    def second(product: Product) -> bool:
        named = product.name.endswith(".db") or run_of(product.name) in layers
        return named and (product.stage is Stage.WU or product.name.endswith(".db"))

    last = {run_of(p.name): i for i, p in enumerate(products) if p.stage is Stage.BP and not second(p)}
    places = []
    for i, product in enumerate(products):
        name = run_of(product.name)
        moved = second(product) and last.get(name, i) > i
        places.append((last[name] + 0.5 if moved else i, product))
    return [product for _, product in sorted(places, key=lambda place: place[0])]


def _products(product: Product, layers: dict[str, _TapeLayer], *, dense: bool) -> tuple[Product, ...]:
    """Return what SAT runs for a product; all phases of an input gradient come with the first."""
    layer = layers.get(run_of(product.name))
    if layer is None:
        return (replace(product, pattern=None, online=False) if dense else product,)
    return layer.products(product, dense=dense)


def _updates(layers: Iterable[_TapeLayer], *, dense: bool) -> Iterator[Update]:
    """Yield one update for every weight that learns, with the packed copies that any of its runs reads."""
    found: dict[str, list[_TapeLayer]] = {}
    for layer in layers:
        found.setdefault(layer.weight, []).append(layer)
    for runs in found.values():
        if any(Stage.WU in run.of for run in runs):
            update, *others = (run.update(dense=dense) for run in runs)
            ff = next((u.ff for u in (update, *others) if u.ff), None)
            bp = next((u.bp for u in (update, *others) if u.bp), None)
            names = dict.fromkeys(layer_of(run.layer.name) for run in runs)
            yield replace(update, ff=ff, bp=bp, shared=tuple(name for name in names if name != update.name))


class _TapeLayer:
    """A layer with weights as its products on the tape describe it."""

    def __init__(self, products: list[Product], rows: int) -> None:
        self.of: dict[Stage, Product] = {}
        for product in products:
            self.of.setdefault(product.stage, product)
        forward = self.of[Stage.FF]
        self.layer = _layer(forward, input_gradient=Stage.BP in self.of)
        self.weight = forward.weight or layer_of(forward.name)
        steps = Stage.WU in self.of and isinstance(self.layer, LinearLayer) and self.of[Stage.WU].k == rows
        self.learning = replace(self.layer, rows=rows) if steps else self.layer
        self._check([p for p in products if p.stage is not Stage.BP])

    def _check(self, products: list[Product]) -> None:
        plain = (*of.forward_products(self.layer, None), *of.weight_gradient_products(self.learning))
        sizes = {p.stage: (p.m, p.k, p.n, p.count) for p in plain}
        for p in products:
            if (p.m, p.k, p.n, p.count) != sizes.get(p.stage):
                raise ValueError(
                    f"product {p.name!r} {p.stage} is {p.m} x {p.k} x {p.n}, {p.count} times; its layer makes it "
                    f"{sizes.get(p.stage, 'no product')} (m, k, n, times)"
                )

    def _pattern(self, stage: Stage, *, online: bool) -> Pattern | None:
        """Return the pattern of a stage if the operand that it prunes is the one asked for."""
        product = self.of.get(stage)
        return product.pattern if product is not None and product.online == online else None

    def products(self, product: Product, *, dense: bool) -> tuple[Product, ...]:
        """Return the products of one stage, at the first of the tape's products of that stage."""
        stage = product.stage
        if product is not self.of[stage]:
            return ()
        if dense:
            weights = gradient = None
        else:
            weights, gradient = self._pattern(stage, online=False), self._pattern(stage, online=True)
        if stage is Stage.FF:
            return of.forward_products(self.layer, weights)
        if stage is Stage.WU:
            return of.weight_gradient_products(self.learning, gradient)
        return of.input_gradient_products(self.layer, weights, gradient)

    def update(self, *, dense: bool) -> Update:
        """Return the update of the weights with the packed copies that FF and BP read."""
        layer = self.layer
        k, n = layer.taps * layer.features_in, layer.features_out
        ff = None if dense else of.usable(self._pattern(Stage.FF, online=False), k)
        bp = None if dense else of.usable(self._pattern(Stage.BP, online=False), n)
        return Update(layer_of(layer.name), k, n, layer.count, layer.taps, ff, bp)

    def prunes(self) -> Iterator[Prune]:
        """Yield the pruning of dY within the step."""
        layer = self.layer
        along_n = of.usable(self._pattern(Stage.BP, online=True), layer.features_out)
        along_rows = of.usable(self._pattern(Stage.WU, online=True), self.learning.rows)
        if along_n:
            yield Prune(layer.name, Stage.BP, layer.rows * layer.count, layer.features_out, along_n)
        if along_rows:
            rows = self.learning.rows
            yield Prune(layer.name, Stage.WU, layer.features_out * layer.count, rows, along_rows)


def _layer(forward: Product, *, input_gradient: bool) -> WeightLayer:
    if forward.conv is not None:
        return ConvLayer(name=forward.name, shape=forward.conv, input_gradient=input_gradient)
    return LinearLayer(
        name=forward.name,
        rows=forward.m,
        features_in=forward.k,
        features_out=forward.n,
        count=forward.count,
        input_gradient=input_gradient,
    )
