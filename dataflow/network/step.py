"""One training step of a network: its products for a method and a pattern, host work, update and pruning."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from typing import TYPE_CHECKING, TypeAlias

from nmsat.algorithms.core.tape import AGAIN, LeftOut, Pattern, Product, Stage
from nmsat.algorithms.core.vocabulary import MethodFacts, method_facts
from nmsat.dataflow.network import products as of
from nmsat.dataflow.network.gradient import GradientPart, gradient_macs, gradient_parts, padding_macs
from nmsat.dataflow.network.layers import WORD_BYTES, ConvLayer, HostLayer, LinearLayer, MatMulLayer

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from nmsat.algorithms.core.tape import ConvShape
    from nmsat.dataflow.network.layers import Layer, WeightLayer
    from nmsat.dataflow.network.readers.masks import LayerMask


Own: TypeAlias = "Pattern | tuple[Pattern | None, Pattern | None] | None"
"""What a layer has of its own: the pattern of both copies of its weight or, in a pair, of FF and of BP; None: dense."""


@dataclass(frozen=True)
class StepHostOp:
    """Work of the host in one step: scalar operations and bytes moved."""

    name: str
    kind: str
    stage: Stage
    operations: int
    bytes: int


@dataclass(frozen=True)
class Update:
    """A tensor that the update changes: `count` matrices w[k, n], k = taps * C_in.

    ff, bp: patterns of the packed copies to make right after it (along k; along n), None where no packed copy is made.
    For a mask they are the narrowest patterns that hold all of it. shared: other layers that multiply by it.
    """

    name: str
    k: int
    n: int
    count: int = 1
    taps: int = 1
    ff: Pattern | None = None
    bp: Pattern | None = None
    shared: tuple[str, ...] = ()

    @property
    def elements(self) -> int:
        """Learnt elements."""
        return self.k * self.n * self.count


@dataclass(frozen=True)
class Prune:
    """An operand pruned within the step rather than after the update (dY): `vectors` of `length` elements each."""

    name: str
    stage: Stage
    vectors: int
    length: int
    pattern: Pattern

    @property
    def elements(self) -> int:
        """Elements that pass the pruning engine."""
        return self.vectors * self.length


@dataclass(frozen=True)
class Step:
    """One training step, in the order of execution: FF first to last layer, then BP and WU last to first.

    macs_dense: multiply-adds of the same step under the method 'dense'; left_out: work that the source of the step is
    known to be missing; frozen: layers whose weights lie in memory as their products read them and are not updated.
    decays: whether the update adds the SR-STE term; None says the method.
    """

    method: str
    products: tuple[Product, ...]
    host_ops: tuple[StepHostOp, ...]
    updates: tuple[Update, ...]
    prunes: tuple[Prune, ...]
    macs_dense: int
    left_out: tuple[LeftOut, ...] = ()
    frozen: tuple[str, ...] = ()
    decays: bool | None = None

    @property
    def macs_kept(self) -> int:
        """Multiply-adds left after pruning."""
        return sum(product.macs_kept for product in self.products)

    @property
    def patterns(self) -> str:
        """Patterns of its products in words, such as '2:8' or '1:4, 2:8'; 'dense' if none has one."""
        return ", ".join(sorted({str(p.pattern) for p in self.products if p.pattern is not None})) or "dense"

    @property
    def bound(self) -> float:
        """Dense over kept multiply-adds: the speed-up over a dense step that keeps the machine as busy as this one.

        Those that an input gradient makes with padding are work of its programs, not of the network, and in neither.
        """
        dense, kept = Fraction(self.macs_dense), Fraction(self.macs_kept)
        parts: dict[tuple[str, ConvShape], list[Product]] = {}
        for product in self.products:
            if isinstance(product.conv, GradientPart):
                parts.setdefault((layer_of(product.name), product.conv.whole), []).append(product)
        for (_, shape), products in parts.items():
            if more := padding_macs(shape):
                dense -= more
                kept -= sum(product.macs_kept for product in products) * Fraction(more, gradient_macs(shape))
        return float(dense / kept) if kept else float("inf")

    @cached_property
    def weight_layers(self) -> frozenset[str]:
        """Names of the layers that multiply by weights: by those of an update, or by weights that do not change.

        Each program of a step asks for them: found once.
        """
        updated = (name for update in self.updates for name in (update.name, *update.shared))
        return frozenset((*updated, *self.frozen))

    @property
    def update_elements(self) -> int:
        """Elements that the weight update touches."""
        return sum(update.elements for update in self.updates)


def training_products(
    layers: Sequence[Layer],
    method: str,
    pattern: Pattern | None = None,
    first_and_last_dense: bool = True,
    masks: Mapping[str, LayerMask] | None = None,
    own: Mapping[str, Own] | None = None,
) -> Step:
    """Return the training step of a network.

    layers: in the order of the forward pass; method: one of `algorithms.core.vocabulary.METHODS`; pattern: N:M of the
    pruned operands. Where the method prunes weights, a layer with a pattern of its own uses that instead, and one with
    a mask the mask's cover.
    first_and_last_dense: the first and the last weight layer stay dense, unless they have a pattern or mask of their
    own. own: what a layer has whatever else is said, by name. Raises ValueError for an
    unknown method, one that cannot be scheduled, a missing pattern, a pattern of its own or a
    mask without layer, a network without products.
    """
    masks = dict(masks or {})
    weighted = [layer for layer in layers if isinstance(layer, ConvLayer | LinearLayer)]
    how = _check_request(layers, weighted, method, pattern, masks)
    own = _check_own(own or {}, {layer.name for layer in weighted}, masks, how)
    layers = [
        replace(layer, pattern=None)  # its own stands in `chosen`
        if isinstance(layer, ConvLayer | LinearLayer) and layer.name in own
        else layer
        for layer in layers
    ]
    edges = {weighted[0].name, weighted[-1].name} if weighted and first_and_last_dense else set()
    chosen = {**dict.fromkeys(edges), **own}
    works = [_work(layer, how, chosen.get(layer.name, pattern), masks.get(layer.name)) for layer in layers]
    back = works[::-1]
    return Step(
        method=method,
        products=tuple(p for work in works for p in work.ff) + tuple(p for work in back for p in (*work.bp, *work.wu)),
        host_ops=tuple(op for work in works for op in work.host_ff) + tuple(op for work in back for op in work.host_bp),
        updates=_once(layers, works),
        prunes=tuple(prune for work in back for prune in work.prunes),
        macs_dense=sum(work.macs_dense for work in works),
    )


def inference(step: Step) -> Step:
    """Return the forward pass of a step alone: no gradients, no update, no pruning within the step."""
    products = tuple(product for product in step.products if product.stage is Stage.FF)
    return replace(
        step,
        products=products,
        frozen=tuple(sorted(step.weight_layers & {layer_of(product.name) for product in products})),
        host_ops=tuple(op for op in step.host_ops if op.stage is Stage.FF),
        updates=(),
        prunes=(),
        macs_dense=sum(product.macs_dense for product in products),
    )


def parameters(layers: Sequence[Layer]) -> int:
    """Learnt elements of the network; what layers share, by the names of weights and biases, counts once."""
    seen: set[str] = set()
    total = 0
    for layer in layers:
        if not isinstance(layer, ConvLayer | LinearLayer):
            total += layer.parameters
            continue
        for name, elements in ((layer.weight, layer.weights), (layer.bias_name, layer.parameters - layer.weights)):
            total += 0 if name in seen else elements
            seen.update({name} - {""})
    return total


def _once(layers: Sequence[Layer], works: Sequence[_Work]) -> tuple[Update, ...]:
    """Return the updates, one for each tensor, however many layers share it, with the packed copies of all of them."""
    out: list[Update] = []
    place: dict[str, int] = {}
    for layer, work in zip(layers, works, strict=True):
        names = (layer.weight, layer.bias_name) if isinstance(layer, ConvLayer | LinearLayer) else ()
        for at, update in enumerate(work.updates):
            name = names[at] if at < len(names) else ""
            if name in place:
                out[place[name]] = _merged(out[place[name]], update)
            else:
                if name:
                    place[name] = len(out)
                out.append(update)
    return tuple(out)


def _merged(update: Update, other: Update) -> Update:
    """Return an update with the packed copies that another layer reads too; a transposed one swaps their axes."""
    swapped = (other.k, other.n) == (update.n, update.k) != (update.k, update.n)
    ff, bp = (other.bp, other.ff) if swapped else (other.ff, other.bp)
    return replace(update, ff=update.ff or ff, bp=update.bp or bp, shared=(*update.shared, other.name))


@dataclass(frozen=True)
class _Work:
    """What one layer brings into a step."""

    ff: tuple[Product, ...] = ()
    bp: tuple[Product, ...] = ()
    wu: tuple[Product, ...] = ()
    host_ff: tuple[StepHostOp, ...] = ()
    host_bp: tuple[StepHostOp, ...] = ()
    updates: tuple[Update, ...] = ()
    prunes: tuple[Prune, ...] = ()
    macs_dense: int = 0


def _work(layer: Layer, how: MethodFacts, pattern: Own, mask: LayerMask | None) -> _Work:
    match layer:
        case HostLayer():
            return _host_work(layer)
        case MatMulLayer():
            forward, *gradients = of.matmul_products(layer)
            return _Work(ff=(forward,), bp=tuple(gradients), macs_dense=layer.macs * (1 + len(gradients)))
        case _:
            return _weight_work(layer, how, pattern, mask)


def _host_work(layer: HostLayer) -> _Work:
    forward = StepHostOp(layer.name, layer.kind, Stage.FF, layer.ff_operations, layer.ff_bytes)
    backward = StepHostOp(layer.name, layer.kind, Stage.BP, layer.bp_operations, layer.bp_bytes)
    return _Work(
        host_ff=(forward,),
        host_bp=(backward,) if layer.bp_operations or layer.bp_bytes else (),
        updates=(Update(layer.name, layer.parameters, 1),) if layer.parameters else (),
    )


def _weight_work(layer: WeightLayer, how: MethodFacts, given: Own, mask: LayerMask | None) -> _Work:
    """Return the three products of a weight layer; given: what the method has for this layer, None for dense."""
    # Gradients have one pattern: those of pairs are for methods that prune weights alone (`_check_own`).
    pattern, backward = given if isinstance(given, tuple) else (given, given)
    weights, weights_bp = layer.pattern or pattern, layer.pattern or backward
    ff = of.forward_products(layer, weights, mask) if how.ff_weights else of.forward_products(layer, None)
    bp = of.input_gradient_products(
        layer,
        weights_bp if how.bp_weights else None,
        pattern if how.bp_gradient else None,
        mask if how.bp_weights else None,
    )
    wu = of.weight_gradient_products(layer, pattern if how.wu_gradient else None)
    dense = (
        *of.forward_products(layer, None),
        *of.input_gradient_products(layer, None),
        *of.weight_gradient_products(layer),
    )
    return _Work(
        ff=ff,
        bp=bp,
        wu=wu,
        host_bp=_gradient_host_ops(layer),
        updates=_updates(layer, how, (weights, weights_bp), mask),
        prunes=_prunes(layer, how, pattern),
        macs_dense=sum(product.macs_dense for product in dense),
    )


def _updates(
    layer: WeightLayer, how: MethodFacts, weights: tuple[Pattern | None, Pattern | None], mask: LayerMask | None
) -> tuple[Update, ...]:
    k, n = layer.taps * layer.features_in, layer.features_out
    ff = mask.forward_pattern() if mask else of.usable(weights[0], k)
    bp = mask.backward_pattern() if mask else of.usable(weights[1], n)
    ff = ff if how.ff_weights else None
    bp = bp if how.bp_weights and layer.input_gradient else None
    update = Update(layer.name, k, n, layer.count, layer.taps, ff, bp)
    if not layer.bias:
        return (update,)
    return (update, Update(f"{layer.name}.bias", layer.parameters - layer.weights, 1))


def _prunes(layer: WeightLayer, how: MethodFacts, pattern: Pattern | None) -> tuple[Prune, ...]:
    out = []
    along_n, along_rows = of.usable(pattern, layer.features_out), of.usable(pattern, layer.rows)
    if how.bp_gradient and along_n and layer.input_gradient:
        out.append(Prune(layer.name, Stage.BP, layer.rows * layer.count, layer.features_out, along_n))
    if how.wu_gradient and along_rows:
        out.append(Prune(layer.name, Stage.WU, layer.features_out * layer.count, layer.rows, along_rows))
    return tuple(out)


def _gradient_host_ops(layer: WeightLayer) -> tuple[StepHostOp, ...]:
    """Return the column sums of a bias gradient and the zeros of input gradients that no product computes."""
    out = []
    if layer.bias:
        elements = layer.rows * layer.features_out * layer.count
        out.append(StepHostOp(f"{layer.name}.bias", "ReduceSum", Stage.WU, elements, elements * WORD_BYTES))
    if isinstance(layer, ConvLayer) and layer.input_gradient:
        empty = _uncovered(layer)
        if empty:
            out.append(StepHostOp(f"{layer.name}.dx", "ConstantOfShape", Stage.BP, 0, empty * WORD_BYTES))
    return tuple(out)


def _uncovered(layer: ConvLayer) -> int:
    """Elements of dX in no part: skipped by the stride, or cut off at the border."""
    shape = layer.shape
    covered = sum(part.positions for part in gradient_parts(shape))
    return (shape.batch * shape.height * shape.width - covered) * shape.channels_in


def _check_request(
    layers: Sequence[Layer],
    weighted: Sequence[WeightLayer],
    method: str,
    pattern: Pattern | None,
    masks: Mapping[str, LayerMask],
) -> MethodFacts:
    how = method_facts(method)
    if how.obstacle:
        raise ValueError(f"method {method!r} cannot be scheduled: {how.obstacle}")
    if not any(layer.macs for layer in layers):
        raise ValueError("the network has no products: none of its layers is a convolution, linear or matrix product")
    if how.prunes and pattern is None and not masks and not any(layer.pattern for layer in weighted):
        raise ValueError(
            f"method {method!r} prunes, but pattern is None and no layer has its own; give N:M such as 2:8"
        )
    names = Counter(layer.name for layer in weighted)
    double = sorted(name for name, times in names.items() if times > 1)
    if double:
        raise ValueError(f"several weight layers have the name {', '.join(map(repr, double))}; names must differ")
    unknown = sorted(set(masks) - set(names))
    if unknown:
        raise ValueError(f"masks name layers that the network does not have: {', '.join(unknown)}")
    return how


def _check_own(
    own: Mapping[str, Own], names: Collection[str], masks: Collection[str], how: MethodFacts
) -> dict[str, Own]:
    unknown = sorted(set(own) - set(names))
    if unknown:
        raise ValueError(f"patterns name layers that the network does not have: {', '.join(unknown)}")
    both = sorted(set(own) & set(masks))
    if both:
        raise ValueError(f"layer {both[0]!r} has a mask and a pattern of its own; give one of them")
    pairs = sorted(name for name, given in own.items() if isinstance(given, tuple) and given[0] != given[1])
    if pairs and (how.bp_gradient or how.wu_gradient):
        raise ValueError(f"layer {pairs[0]!r} has two patterns; those are for methods that prune weights alone")
    return dict(own)


def layer_of(name: str) -> str:
    """Return the layer behind the name of a product, without its run: what one update belongs to."""
    return run_of(name).split(AGAIN, maxsplit=1)[0]


def run_of(name: str) -> str:
    """Return the run of a layer behind a product (phases of a strided convolution, gradients of a product)."""
    return name.split("/phase", maxsplit=1)[0].removesuffix(".da").removesuffix(".db")
