"""A network as a list of layers: shapes only, one record per weight layer, product of activations and host operator.

The order of the list is the order of the forward pass. Products run on SAT; everything else is host work, counted here
by one table (`HOST_COSTS`) so that every reader counts alike.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from nmsat.algorithms.core.ranges import MAX_SIDE, whole_number
from nmsat.algorithms.core.windows import output_size

if TYPE_CHECKING:
    from nmsat.algorithms.core.tape import ConvShape, Pattern

Stored: TypeAlias = Literal["matrix", "rows", "convolution", "transposed convolution"]

WORD_BYTES: Final = 2
"""Bytes of an activation or gradient in memory (binary16)."""


@dataclass(frozen=True, kw_only=True)
class ConvLayer:
    """A convolution, Y[B*Ho*Wo, C_out] = im2col(X) W, NHWC.

    shape: sizes, checked here; bias: C_out further parameters; input_gradient: False if nothing before this layer
    learns, so that a training step needs no dX; pattern: N:M of the weights, given by the file that the layer came
    from; weight, bias_name: names of weights and bias in that file, if it has them. Layers with the same weight share
    it.
    """

    name: str
    shape: ConvShape
    bias: bool = False
    input_gradient: bool = True
    pattern: Pattern | None = None
    weight: str = ""
    bias_name: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        _check_conv(self.name, self.shape)

    @property
    def taps(self) -> int:
        """Kernel positions."""
        return self.shape.kernel[0] * self.shape.kernel[1]

    @property
    def features_in(self) -> int:
        """C_in of one group."""
        return self.shape.channels_in // self.shape.groups

    @property
    def features_out(self) -> int:
        """C_out of one group."""
        return self.shape.channels_out // self.shape.groups

    @property
    def count(self) -> int:
        """Groups: independent equal products."""
        return self.shape.groups

    @property
    def rows(self) -> int:
        """Output positions B*Ho*Wo."""
        height, width = output_size(self.shape)
        return self.shape.batch * height * width

    @property
    def weights(self) -> int:
        """Elements of W, all groups."""
        return self.taps * self.features_in * self.features_out * self.count

    @property
    def parameters(self) -> int:
        """Weights and bias."""
        return self.weights + (self.shape.channels_out if self.bias else 0)

    @property
    def macs(self) -> int:
        """Multiply-adds of the dense forward pass, padding counted as work."""
        return self.rows * self.weights


@dataclass(frozen=True, kw_only=True)
class LinearLayer:
    """A fully connected layer, Y[rows, features_out] = X[rows, features_in] W, `count` times with weights of its own.

    Fields as in `ConvLayer`. steps: equal parts of the rows that run one after the other, forward and back, each
    waiting for the one before (a recurrent layer); the weight gradient is over all rows at once. state_gradient: False
    if the first step needs no gradient of its input, an initial state that nothing learns. stored: how a file
    holds the weights, if not as [features_out, features_in] per copy: 'convolution' [C_out, C_in / groups, taps ...],
    'transposed convolution' [C_in, C_out / groups, taps ...], 'rows' [count, features_out, features_in] always.
    """

    name: str
    rows: int
    features_in: int
    features_out: int
    count: int = 1
    bias: bool = False
    input_gradient: bool = True
    pattern: Pattern | None = None
    weight: str = ""
    bias_name: str = field(default="", compare=False)
    steps: int = 1
    state_gradient: bool = True
    stored: Stored = "matrix"

    def __post_init__(self) -> None:
        _check_sizes(self.name, rows=self.rows, features_in=self.features_in, features_out=self.features_out)
        _check_sizes(self.name, count=self.count, steps=self.steps)
        if self.rows % self.steps:
            raise ValueError(f"rows of layer {self.name!r} are {self.rows!r}; they must be a multiple of steps")

    @property
    def taps(self) -> int:
        """Always 1: a fully connected layer has no kernel."""
        return 1

    @property
    def weights(self) -> int:
        """Elements of W, all copies."""
        return self.features_in * self.features_out * self.count

    @property
    def parameters(self) -> int:
        """Weights and bias."""
        return self.weights + (self.features_out * self.count if self.bias else 0)

    @property
    def macs(self) -> int:
        """Multiply-adds of the dense forward pass."""
        return self.rows * self.weights


@dataclass(frozen=True, kw_only=True)
class MatMulLayer:
    """A product of two activations, Y[m, n] = A[m, k] B[k, n], `count` times (batch and heads of an attention).

    gradient_a, gradient_b: whether a training step needs dA = dY B^T and dB = A^T dY.
    """

    name: str
    m: int
    k: int
    n: int
    count: int = 1
    gradient_a: bool = True
    gradient_b: bool = True

    def __post_init__(self) -> None:
        _check_sizes(self.name, m=self.m, k=self.k, n=self.n, count=self.count)

    @property
    def parameters(self) -> int:
        """Always 0."""
        return 0

    @property
    def macs(self) -> int:
        """Multiply-adds of the forward pass."""
        return self.m * self.k * self.n * self.count


@dataclass(frozen=True, kw_only=True)
class HostLayer:
    """An operator that SAT does not run.

    kind: operator type, named as in ONNX; *_operations: scalar operations, *_bytes: bytes read and written, of the
    forward (ff) and backward (bp) pass; parameters: learnt elements (scale and shift of a normalisation); cost_known:
    False for an operator of which nothing is known, whose work is then counted as none.
    """

    name: str
    kind: str
    ff_operations: int
    ff_bytes: int
    bp_operations: int = 0
    bp_bytes: int = 0
    parameters: int = 0
    cost_known: bool = True

    @property
    def macs(self) -> int:
        """Always 0: nothing of it runs on the array."""
        return 0


WeightLayer: TypeAlias = ConvLayer | LinearLayer
Layer: TypeAlias = ConvLayer | LinearLayer | MatMulLayer | HostLayer


@dataclass(frozen=True)
class HostCost:
    """Work of an operator per element: scalar operations and activation words moved, forward and backward.

    Transcendental functions count as one operation. A word is 2 bytes.
    """

    ff_operations: int
    ff_words: int
    bp_operations: int
    bp_words: int


_MOVE: Final = HostCost(0, 2, 0, 2)
_NOTHING: Final = HostCost(0, 0, 0, 0)
_UNARY: Final = HostCost(1, 2, 2, 3)
_BINARY: Final = HostCost(1, 3, 2, 5)
_COMPARE: Final = HostCost(1, 3, 0, 0)
_REDUCE: Final = HostCost(1, 1, 1, 1)
# Statistics (sum, sum of squares: 3) and scale and shift (2); backward two sums (4) and the combination (5).
_NORM: Final = HostCost(5, 3, 9, 5)

HOST_COSTS: Final[dict[str, HostCost]] = {
    # Shapes only: nothing moves.
    **dict.fromkeys(
        ("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Shape", "Size", "Constant", "Range", "BitCast"),
        _NOTHING,
    ),
    # Data moves, nothing is computed.
    **dict.fromkeys(
        ("Transpose", "Concat", "Split", "Slice", "Gather", "GatherElements", "Expand", "Tile", "Pad", "Cast"), _MOVE
    ),
    **dict.fromkeys(("CastLike", "ConstantOfShape", "DepthToSpace", "SpaceToDepth", "Resize", "Trilu"), _MOVE),
    **dict.fromkeys(("GatherND", "ScatterND", "ScatterElements", "Scatter", "TensorScatter", "Upsample"), _MOVE),
    **dict.fromkeys(("OneHot", "EyeLike", "ReverseSequence", "CenterCropPad", "Compress", "Im2Col", "NonZero"), _MOVE),
    **dict.fromkeys(("MaxUnpool", "Unique"), _MOVE),
    # The gradient of these two needs no operation of its own.
    "Add": HostCost(1, 3, 0, 2),
    "Sub": HostCost(1, 3, 1, 2),
    "Sum": HostCost(1, 3, 0, 2),
    "Mean": HostCost(2, 3, 1, 2),
    # Results of products at overlapping places, added up; the gradient is gathered.
    "Col2Im": HostCost(1, 2, 0, 2),
    **dict.fromkeys(("Mul", "Div", "Pow", "Max", "Min", "PRelu", "Where", "Mod"), _BINARY),
    **dict.fromkeys(("Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual", "And", "Or", "Xor"), _COMPARE),
    **dict.fromkeys(("BitwiseAnd", "BitwiseOr", "BitwiseXor", "BitShift"), _COMPARE),
    **dict.fromkeys(("Not", "IsNaN", "IsInf", "Sign", "Floor", "Ceil", "Round", "BitwiseNot"), HostCost(1, 2, 0, 0)),
    **dict.fromkeys(("RandomNormalLike", "RandomUniformLike", "RandomNormal", "RandomUniform"), HostCost(1, 1, 0, 0)),
    **dict.fromkeys(("Bernoulli", "Hardmax"), HostCost(1, 2, 0, 0)),
    "Relu": HostCost(1, 2, 1, 3),
    **dict.fromkeys(("Neg", "Abs", "Sqrt", "Exp", "Log", "Sin", "Cos", "Reciprocal", "Erf", "Tanh"), _UNARY),
    **dict.fromkeys(("Tan", "Asin", "Acos", "Atan", "Sinh", "Cosh", "Asinh", "Acosh", "Atanh"), _UNARY),
    **dict.fromkeys(
        ("Sigmoid", "LeakyRelu", "Clip", "Elu", "Selu", "Softplus", "HardSigmoid", "ThresholdedRelu"), _UNARY
    ),
    **dict.fromkeys(("Softsign", "Shrink"), _UNARY),
    **dict.fromkeys(("HardSwish", "Swish", "Mish", "Celu", "SwiGLU"), HostCost(3, 2, 5, 3)),
    "Gelu": HostCost(5, 2, 8, 3),
    "Dropout": HostCost(1, 2, 1, 2),
    # Scale, round and shift, or shift and scale; the gradient passes straight through.
    **dict.fromkeys(("QuantizeLinear", "DequantizeLinear"), HostCost(2, 2, 0, 2)),
    # Smallest, largest, scale, then as above.
    "DynamicQuantizeLinear": HostCost(4, 3, 0, 2),
    # Two products and a sum per element, with a table of sines and cosines.
    "RotaryEmbedding": HostCost(3, 3, 3, 3),
    # Maximum, difference, exponential, sum, division; backward y (dy - sum(y dy)).
    **dict.fromkeys(("Softmax", "LogSoftmax"), HostCost(5, 3, 4, 4)),
    **dict.fromkeys(("BatchNormalization", "LayerNormalization", "InstanceNormalization", "GroupNormalization"), _NORM),
    **dict.fromkeys(("RMSNormalization", "SimplifiedLayerNormalization", "LpNormalization", "LRN"), _NORM),
    "MeanVarianceNormalization": _NORM,
    # Elements of a pooling are window elements: the words of its two tensors are counted apart, see `pool_layer`.
    **dict.fromkeys(("MaxPool", "AveragePool", "GlobalMaxPool", "GlobalAveragePool"), HostCost(1, 0, 1, 0)),
    **dict.fromkeys(("LpPool", "GlobalLpPool"), HostCost(2, 0, 2, 0)),
    **dict.fromkeys(("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL2"), _REDUCE),
    **dict.fromkeys(("ReduceL1", "ReduceSumSquare", "ReduceLogSum", "ReduceLogSumExp"), HostCost(2, 1, 2, 1)),
    **dict.fromkeys(("ArgMax", "ArgMin", "CumSum", "CumProd"), HostCost(1, 2, 0, 0)),
    # One comparison an element at least: the sorting of a few large values out of many.
    "TopK": HostCost(1, 2, 0, 1),
    # Four neighbours, each with a weight.
    **dict.fromkeys(("GridSample", "RoiAlign"), HostCost(8, 5, 12, 6)),
    # Per state and step: sums of the two products and gates (LSTM 4 + 4, GRU 3 + 3, RNN 1 + 1), then the states.
    "LSTM": HostCost(13, 11, 17, 12),
    "GRU": HostCost(11, 8, 14, 10),
    "RNN": HostCost(2, 3, 2, 3),
    **dict.fromkeys(("SoftmaxCrossEntropyLoss", "NegativeLogLikelihoodLoss"), HostCost(6, 2, 2, 2)),
}


def host_layer(kind: str, name: str, elements: int, parameters: int = 0) -> HostLayer:
    """Return the record of an operator over `elements` elements (those of its larger tensor).

    Raises ValueError if `kind` is not in `HOST_COSTS`.
    """
    cost = _cost(kind, name)
    return HostLayer(
        name=name,
        kind=kind,
        ff_operations=cost.ff_operations * elements,
        ff_bytes=cost.ff_words * elements * WORD_BYTES,
        bp_operations=cost.bp_operations * elements,
        bp_bytes=cost.bp_words * elements * WORD_BYTES,
        parameters=parameters,
    )


def pool_layer(kind: str, name: str, elements_in: int, elements_out: int, window: int) -> HostLayer:
    """Return the record of a pooling: one operation per window element, both tensors moved once in each direction."""
    cost = _cost(kind, name)
    words = (elements_in + elements_out) * WORD_BYTES
    work = elements_out * window
    return HostLayer(
        name=name,
        kind=kind,
        ff_operations=cost.ff_operations * work,
        ff_bytes=words,
        bp_operations=cost.bp_operations * work,
        bp_bytes=words,
    )


def scale_batch(layer: Layer, factor: int) -> Layer:
    """Return the layer for a batch `factor` times as large."""
    match layer:
        case ConvLayer():
            return replace(layer, shape=replace(layer.shape, batch=layer.shape.batch * factor))
        case LinearLayer():
            return replace(layer, rows=layer.rows * factor)
        case MatMulLayer():
            return replace(layer, count=layer.count * factor)
        case HostLayer():
            names = ("ff_operations", "ff_bytes", "bp_operations", "bp_bytes")
            return replace(layer, **{name: getattr(layer, name) * factor for name in names})


def _cost(kind: str, name: str) -> HostCost:
    try:
        return HOST_COSTS[kind]
    except KeyError:
        raise ValueError(
            f"host operator {name!r} is of kind {kind!r}; known kinds: {', '.join(sorted(HOST_COSTS))}"
        ) from None


def _check_sizes(layer: str, **sizes: int) -> None:
    for name, value in sizes.items():
        whole_number(f"{name} of layer {layer!r}", value, 1, MAX_SIDE)


def _check_conv(name: str, shape: ConvShape) -> None:
    for what in ("channels_in", "channels_out"):
        if getattr(shape, what) % shape.groups:
            raise ValueError(
                f"{what} of layer {name!r} is {getattr(shape, what)!r}; it must be a multiple of groups, {shape.groups}"
            )
    try:
        output_size(shape)
    except ValueError as error:
        raise ValueError(
            f"layer {name!r} has no output: kernel {shape.kernel} (dilation {shape.dilation}) does not fit "
            f"{shape.height} x {shape.width} with padding {shape.padding}"
        ) from error
