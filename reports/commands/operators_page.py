"""The table of ONNX operators, docs/operators.md, made of the tables that the reader goes by.

`python -m nmsat.reports.commands.operators_page > docs/operators.md` writes it; a test holds the two together.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import onnx.defs

from nmsat.dataflow.network.layers import HOST_COSTS
from nmsat.dataflow.network.readers.onnx_ask import MICROSOFT
from nmsat.dataflow.network.readers.onnx_fused import BROADCAST, SAME_AS_INPUT
from nmsat.dataflow.network.readers.onnx_nodes import MULTIPLIES, POOLS
from nmsat.dataflow.network.readers.onnx_operators import PRODUCTS
from nmsat.dataflow.network.readers.onnx_sequences import SEQUENCES
from nmsat.dataflow.network.readers.onnx_shapes import FOLDED

if TYPE_CHECKING:
    from nmsat.dataflow.network.layers import HostCost

INTRODUCTION: Final = """\
# Operators of ONNX

What `nmsat model FILE.onnx` makes of each operator of the standard and of the fused ones of `com.microsoft`. *On SAT*:
matrix products, whose results hold for the forward pass, both gradients and the update. *Host*: counted beside, as
operations and words of 2 bytes per element, forward and backward, and in no cycle. *Unknown cost*: listed and counted
as nothing, with one note; `--strict` refuses it. *Refused*: it multiplies matrices in a way that is not read.

An operator of any other domain is host work of unknown cost, unless its name says that it multiplies or it reads a
constant of two or more dimensions: then it is refused, because a product may hide in it. `If` with a constant
condition takes its branch; `Loop` with a constant number of runs (or a condition that constants decide) and `Scan`
are counted as many times as they run, at most 30,000 nodes in all; where data decide, they are refused if there is a
product inside. `Einsum` of more than two operands is taken two at a time from the left, as ONNX Runtime does.
Operators marked * are evaluated while reading where they depend on shapes and constants only, and are then no work.

Weights may be initializers (dense, sparse, in other files), constants of nodes, or inputs of the graph that only
stand where weights do, seen through transpositions, casts and dequantization or not; shared ones are counted and
updated once. `MatMul` and `Gemm` of two constants run in every step (places through a small network); if the left one
is a constant of the file, it is data. Open sizes are given as `--size seq=128`, or by place as `--size x:1=128`;
`--batch` fills the batch, which is dimension 0 of the inputs unless a name, a recurrent layer or attention that runs
along it (whatever lies before them) says otherwise or `--batch-dim` does; where that is not plain, a note says which
dimension was taken. `--dense`, `--pattern NAME=N:M` and `--layers FILE` say what single layers get, `--inference`
leaves the forward pass alone.

A file may store a weight twice, as exporters that fold constants store a tied head. Two matrices are one weight,
counted and updated once, if they have at least 64 elements, more than two different values, the same elements, and
differ in how they are stored or read: one is the other transposed, or one is read by `Gather` alone and the other is
not. Those that are stored and read alike stay weights of their own, as copied layers are equal until they are
trained. Notes name both, and what could not be compared: matrices whose data are missing or more than 1 GiB. They
also name vectors of one value that several operators read: exporters store what is equal in an untrained network
once.

Parts of a weight (`Slice`, `Split`, `Gather` of places in a row, sequences) are weights of their own; equal ones,
however they are written, are one, and so is what is computed in the same way from the same constants. Parts that
overlap are counted in full, with a note. A weight that `Expand` or `Tile` repeats for each sample is learnt once, its
gradient summed over the samples. The initial state of a recurrent layer is learnt if it is made of initializers that
hold more than zeros. What no output depends on is left out; a note names products and weights among it.

What is only added, multiplied and so on (`Add`, `Sub`, `Mul`, `Div`, `Pow`, `Max`, `Min`, `Sum`) counts as learnt.
Along the last dimension of the result or dimension 1 alone it is a bias or a scale. Anything wider may be a parameter
of places, but also a buffer, or a mask or table that an exporter folded; the file does not tell, so a note names it.

Written by `python -m nmsat.reports.commands.operators_page` for the operators of the onnx package in `requirements/`.
"""

ON_SAT: Final[dict[str, str]] = {
    **dict.fromkeys(
        ("Conv", "FusedConv"), "convolution; in three dimensions a product over windows that the host lays"
    ),
    "ConvTranspose": "a product per input position; the host adds the results up",
    "DeformConv": "a product over windows that the host gathers",
    **dict.fromkeys(("QLinearConv", "ConvInteger"), "convolution; scaling on the host"),
    **dict.fromkeys(("QLinearMatMul", "MatMulInteger", "DynamicQuantizeMatMul"), "product; scaling on the host"),
    "MatMulIntegerToFloat": "product; scaling on the host",
    "MatMulNBits": "product; unpacking on the host",
    "Einsum": "a product for every two operands, from the left; sums and elementwise products on the host",
    "Attention": "two products of activations, softmax on the host; fused: also the projection",
    **dict.fromkeys(("MultiHeadAttention", "GroupQueryAttention"), "two products of activations, softmax on the host"),
    **dict.fromkeys(("LSTM", "GRU", "RNN"), "input product at once, recurrent product per step, gates on the host"),
}
"""Operators of which there is more to say than that they are a product."""


INNER: Final = {
    "If": "the branch that a constant condition takes, refused without one",
    "Loop": "each of its runs, refused where data decide how many",
    "Scan": "each of its runs",
    "SequenceMap": "refused",
}
"""Operators that hold graphs, and what becomes of products in there."""


def rows() -> list[tuple[str, str]]:
    """Return operator and what becomes of it."""
    names = sorted({schema.name for schema in onnx.defs.get_all_schemas() if schema.domain == ""})
    found = [(f"{name}{' *' if name in FOLDED else ''}", _fate("", name)) for name in names]
    fused = {name for domain, name in PRODUCTS if domain == MICROSOFT} | set(SAME_AS_INPUT) | set(BROADCAST)
    fused.add("EmbedLayerNormalization")
    return [*found, *((f"{MICROSOFT}.{name}", _fate(MICROSOFT, name)) for name in sorted(fused))]


def page() -> str:
    """Return the page as markdown."""
    lines = ["| operator | what becomes of it |", "|---|---|", *(f"| {name} | {fate} |" for name, fate in rows())]
    return f"{INTRODUCTION}\n" + "\n".join(lines) + "\n"


def _fate(domain: str, name: str) -> str:
    if (domain, name) in PRODUCTS:
        return f"on SAT: {ON_SAT.get(name, 'product')}"
    kind = name
    if domain:
        kind = SAME_AS_INPUT.get(name) or (BROADCAST[name][0] if name in BROADCAST else "LayerNormalization")
    if name in INNER:
        return f"with a product inside: {INNER[name]}; else host, unknown cost"
    if name == "Constant":
        return "a constant"
    if kind in HOST_COSTS:
        return f"host: {_cost(kind, HOST_COSTS[kind])}"
    if not domain and name in SEQUENCES:
        return "followed where it is known what the sequence holds; else host, unknown cost"
    return "refused" if MULTIPLIES.search(name) else "host, unknown cost"


def _cost(kind: str, cost: HostCost) -> str:
    if kind in POOLS:
        return f"{cost.ff_operations} operations per element of a window, both tensors moved once"
    if not any((cost.ff_operations, cost.ff_words, cost.bp_operations, cost.bp_words)):
        return "nothing moves"
    return (
        f"{cost.ff_operations} operations, {cost.ff_words} words; backward {cost.bp_operations} operations, "
        f"{cost.bp_words} words"
    )


if __name__ == "__main__":
    print(page(), end="")
