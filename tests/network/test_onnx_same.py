"""Weights that a file stores twice, and tables that count as learnt: what is merged, what is not, what is said."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from nmsat.dataflow.network.readers import onnx_same
from nmsat.dataflow.network.readers.onnx import read_onnx_model
from nmsat.dataflow.network.step import parameters, training_products
from tests.network.onnx_files import save, weight

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from nmsat.dataflow.network.found import FoundModel

V, D, S = 24, 16, 4
node = helper.make_node


def drawn(*shape: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def stored(**values: NDArray[Any]) -> list[onnx.TensorProto]:
    return [numpy_helper.from_array(np.ascontiguousarray(value), name) for name, value in values.items()]


def language(path: Path, weights: list[onnx.TensorProto], *, transpose: bool = False) -> Path:
    """An embedding, a product with `body`, a head: a product with `head`, or with the embedding's transpose."""
    nodes = [
        node("Gather", ["table", "ids"], ["e"], "embed"),
        node("MatMul", ["e", "body"], ["h"], "body"),
        *([node("Transpose", ["table"], ["head"], "turn", perm=[1, 0])] if transpose else []),
        node("MatMul", ["h", "head"], ["y"], "head"),
    ]
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, [2, S])],
        [helper.make_tensor_value_info("y", weights[0].data_type, [2, S, V])],
        weights,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


def tied(table: NDArray[Any], head: NDArray[Any] | None = None) -> list[onnx.TensorProto]:
    """The weights of a language model whose head is its table, or something else."""
    body = drawn(table.shape[1], table.shape[1], seed=9).astype(table.dtype)
    return stored(table=table, body=body, head=table.T if head is None else head)


def updated(model: FoundModel) -> list[int]:
    return sorted(update.elements for update in training_products(model.layers, "dense").updates)


def test_a_tied_head_counts_once_however_it_is_stored(tmp_path: Path) -> None:
    table = drawn(V, D)
    plain = read_onnx_model(language(tmp_path / "plain.onnx", tied(table)[:2], transpose=True))
    folded = read_onnx_model(language(tmp_path / "folded.onnx", tied(table)))
    assert updated(plain) == updated(folded) == [D * D, V * D]
    assert parameters(plain.layers) == parameters(folded.layers) == D * D + V * D
    assert plain.notes == ()
    assert folded.notes == (
        "one weight that the file stores again, counted and updated once: 'head' is 'table'",
    )


@pytest.mark.parametrize("kind", [np.float16, np.float64, ml_dtypes.bfloat16])
def test_all_types_and_square_matrices(tmp_path: Path, kind: type) -> None:
    model = read_onnx_model(language(tmp_path / "a.onnx", tied(drawn(V, V).astype(kind))))
    assert updated(model) == [V * V, V * V]
    assert "'head' is 'table'" in model.notes[0]


def test_elements_that_are_not_raw(tmp_path: Path) -> None:
    table, body, head = tied(drawn(V, D))
    values = numpy_helper.to_array(table).ravel()
    listed = helper.make_tensor("table", TensorProto.FLOAT, [V, D], values)
    assert not listed.raw_data
    assert "'head' is 'table'" in read_onnx_model(language(tmp_path / "a.onnx", [listed, body, head])).notes[0]


def test_a_table_and_a_head_of_the_same_way_round(tmp_path: Path) -> None:
    square = drawn(V, V)
    assert "'head' is 'table'" in read_onnx_model(language(tmp_path / "a.onnx", tied(square, square))).notes[0]


def test_a_diagonal_in_common(tmp_path: Path) -> None:
    table, head = drawn(V, D), drawn(D, V, seed=1)
    np.fill_diagonal(head, table.diagonal())
    model = read_onnx_model(language(tmp_path / "a.onnx", tied(table, head)))
    assert (updated(model), model.notes) == ([D * D, D * V, D * V], ())


@pytest.mark.parametrize("at", [(0, 1), (V - 1, 0), (V - 1, D - 1), (D, D - 1)])
def test_one_element_that_differs(tmp_path: Path, at: tuple[int, int]) -> None:
    table = drawn(V, D)
    other = table.copy()
    other[at] += 1
    model = read_onnx_model(language(tmp_path / "a.onnx", tied(table, other.T)))
    assert (updated(model), model.notes) == ([D * D, D * V, D * V], ())


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_signs_that_differ(tmp_path: Path, kind: type) -> None:
    table = drawn(V, D).astype(kind)
    for count in (2, 3, 4):
        other = table.copy()
        other[V - count :, 0] *= -1
        assert len(updated(read_onnx_model(language(tmp_path / "a.onnx", tied(table, other.T))))) == 3


@pytest.mark.parametrize("table", [np.zeros((V, D)), np.full((V, D), 0.5), np.eye(V, D), np.tri(V, V)])
def test_equal_by_their_making(tmp_path: Path, table: NDArray[Any]) -> None:
    rows, columns = table.shape
    model = read_onnx_model(language(tmp_path / "a.onnx", tied(table.astype(np.float32))))
    assert (updated(model), model.notes) == (sorted([columns**2, rows * columns, rows * columns]), ())


def test_few_elements(tmp_path: Path) -> None:
    table = drawn(9, 7)
    assert table.size == onnx_same.LEAST_COMPARED - 1
    assert updated(read_onnx_model(language(tmp_path / "a.onnx", tied(table)))) == [49, 63, 63]
    assert updated(read_onnx_model(language(tmp_path / "b.onnx", tied(drawn(8, 8))))) == [64, 64]


def chain(path: Path, *values: NDArray[Any]) -> FoundModel:
    """Products one after the other, of D features."""
    nodes = [node("MatMul", [f"t{at}", f"w{at}"], [f"t{at + 1}"], f"p{at}") for at in range(len(values))]
    weights = stored(**{f"w{at}": value for at, value in enumerate(values)})
    return read_onnx_model(save(path, nodes, {"t0": [2, D]}, {f"t{len(values)}": [2, D]}, weights))


def test_copied_layers_stay_apart(tmp_path: Path) -> None:
    w = drawn(D, D)
    model = chain(tmp_path / "a.onnx", w, w, drawn(D, D, seed=1))
    assert updated(model) == [D * D] * 3
    says = "equal, yet weights of their own, as those of copied layers are before they are trained: 'w0' and 'w1'"
    assert model.notes == (says,)
    # The same both ways round is one way.
    assert updated(chain(tmp_path / "b.onnx", w + w.T, w + w.T)) == [D * D] * 2
    assert updated(chain(tmp_path / "c.onnx", w, w.T)) == [D * D]
    # A copy of the whole network: each has its own; what is folded twice is one.
    twice = chain(tmp_path / "d.onnx", w, w.T, w, w.T)
    assert updated(twice) == [D * D] * 2
    assert "'w1' is 'w0', 'w3' is 'w2'" in twice.notes[0]
    assert updated(chain(tmp_path / "e.onnx", w, w.T, w.T)) == [D * D]


def test_data_in_another_file(tmp_path: Path) -> None:
    def moved(name: str) -> onnx.ModelProto:
        model = onnx.load(language(tmp_path / name, tied(drawn(V, D))))
        onnx.save(model, tmp_path / name, save_as_external_data=True, location=f"{name}.bin", size_threshold=0)
        return onnx.load(tmp_path / name, load_external_data=False)

    moved("a.onnx")
    assert updated(read_onnx_model(tmp_path / "a.onnx")) == [D * D, D * V]
    moved("b.onnx")
    (tmp_path / "b.onnx.bin").unlink()
    (tmp_path / "c.onnx").write_bytes((tmp_path / "a.onnx").read_bytes())
    model = moved("d.onnx")
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "length":
                entry.value = str(10**9)
            elif entry.key == "offset":
                entry.value = str(10**6)
    onnx.save(model, tmp_path / "d.onnx")
    (tmp_path / "deep").mkdir()
    outside = moved("e.onnx")
    for tensor in outside.graph.initializer:
        tensor.external_data[0].value = "../e.onnx.bin"
    onnx.save(outside, tmp_path / "deep" / "e.onnx")
    for name in ("b.onnx", "d.onnx", "deep/e.onnx"):
        lost = read_onnx_model(tmp_path / name)
        assert updated(lost) == [D * D, D * V, D * V]
        says = "whether these are one weight is not known without their data; counted apart: 'table', 'head'"
        assert lost.notes == (says,)


def test_more_than_is_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = language(tmp_path / "a.onnx", tied(drawn(V, D)))
    monkeypatch.setattr(onnx_same, "MOST_COMPARED", 2 * 4 * V * D)
    assert updated(read_onnx_model(path)) == [D * D, V * D]
    monkeypatch.setattr(onnx_same, "MOST_COMPARED", 2 * 4 * V * D - 1)
    model = read_onnx_model(path)
    assert updated(model) == [D * D, V * D, V * D]
    assert model.notes == ("perhaps one weight, too large to compare and counted apart: 'table', 'head'",)


def test_blocks_do_not_change_what_is_equal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_same, "ELEMENTS_AT_ONCE", 15)
    monkeypatch.setattr(onnx_same, "COLUMNS_AT_ONCE", 7)
    assert updated(read_onnx_model(language(tmp_path / "a.onnx", tied(drawn(V, D))))) == [D * D, V * D]
    assert updated(read_onnx_model(language(tmp_path / "b.onnx", tied(drawn(V, V))))) == [V * V, V * V]


def test_vectors_that_an_exporter_merges(tmp_path: Path) -> None:
    nodes = [
        node("LayerNormalization", ["x", "ones", "b0"], ["n0"], "n0"),
        node("MatMul", ["n0", "w"], ["h"], "p"),
        node("LayerNormalization", ["h", "ones", "b1"], ["y"], "n1"),
    ]
    random = dict(zip(("b0", "b1"), drawn(2, D), strict=True))
    weights = stored(ones=np.ones(D, np.float32), **random, w=drawn(D, D))
    model = read_onnx_model(save(tmp_path / "a.onnx", nodes, {"x": [2, D]}, {"y": [2, D]}, weights))
    (note,) = model.notes
    assert note.startswith("of one value, read by several operators and counted once: 'ones'; ")
    nodes[2] = node("LayerNormalization", ["h", "b0", "b1"], ["y"], "n1")
    path = save(tmp_path / "b.onnx", nodes, {"x": [2, D]}, {"y": [2, D]}, weights)
    assert read_onnx_model(path).notes == ()


@pytest.mark.parametrize(
    ("operator", "shape", "listed"),
    [
        ("Add", (1, 1, S, S), True),
        ("Mul", (S, S), True),
        ("Sub", (3, 1, S), True),
        ("Add", (S, 1), True),
        ("Mul", (2, 1, 1, 1), True),
        ("Add", (S,), False),
        ("Add", (1, 1, S), False),
        ("Mul", (3, 1, 1), False),
        ("Div", (1, 3, 1, 1), False),
    ],
)
def test_tables_are_listed_and_biases_are_not(
    tmp_path: Path, operator: str, shape: tuple[int, ...], listed: bool
) -> None:
    nodes = [node(operator, ["x", "c"], ["h"], "c"), node("MatMul", ["h", "w"], ["y"], "p")]
    weights = [weight("c", *shape), weight("w", S, 5)]
    path = save(tmp_path / "a.onnx", nodes, {"x": [2, 3, S, S]}, {"y": [2, 3, S, 5]}, weights)
    model = read_onnx_model(path)
    size = int(np.prod(shape))
    assert parameters(model.layers) == size + S * 5
    says = f"counted as learnt, as elements are added to or multiplied by them: 'c', {size} elements; "
    assert [note[: len(says)] for note in model.notes] == [says] * listed


def test_what_is_also_read_otherwise_is_no_table(tmp_path: Path) -> None:
    nodes = [
        node("MatMul", ["x", "c"], ["h"], "p"),
        node("Add", ["h", "c"], ["a"], "a"),
        node("Concat", ["a", "d"], ["k"], "k", axis=0),
        node("Mul", ["a", "d"], ["m"], "m"),
        node("Concat", ["k", "m"], ["y"], "y", axis=0),
    ]
    weights = [weight("c", S, S), weight("d", S, S)]
    model = read_onnx_model(save(tmp_path / "a.onnx", nodes, {"x": [S, S]}, {"y": [3 * S, S]}, weights))
    assert (parameters(model.layers), model.notes) == (2 * S * S, ())


def test_what_is_too_large_leaves_room_for_the_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_same, "MOST_COMPARED", 4 * 4 * D * D)
    large, small = drawn(D, 3 * D), drawn(D, D)
    nodes = [
        node("MatMul", ["x", "large"], ["a"], "a"),
        node("MatMul", ["a", "turned"], ["b"], "b"),
        node("MatMul", ["b", "small"], ["c"], "c"),
        node("MatMul", ["c", "again"], ["y"], "y"),
    ]
    weights = stored(large=large, turned=large.T, small=small, again=small.T)
    model = read_onnx_model(save(tmp_path / "a.onnx", nodes, {"x": [2, D]}, {"y": [2, D]}, weights))
    assert updated(model) == [D * D, 3 * D * D, 3 * D * D]
    assert [note.rsplit(": ", 1)[1] for note in model.notes] == ["'again' is 'small'", "'large', 'turned'"]
