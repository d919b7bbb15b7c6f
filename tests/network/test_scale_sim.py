"""SCALE-Sim topology tables: both forms, the sparsity column, and messages that name file and line."""

from __future__ import annotations

from pathlib import Path

import pytest

from nmsat.algorithms.core.tape import ConvShape, Pattern, Stage
from nmsat.dataflow.network.layers import ConvLayer, LinearLayer
from nmsat.dataflow.network.models import load_model
from nmsat.dataflow.network.readers.scale_sim import read_scale_sim
from nmsat.dataflow.network.step import training_products

DATA = Path(__file__).parent.parent / "data"
CONV = "Layer name, IFMAP Height, IFMAP Width, Filter Height, Filter Width, Channels, Num Filter, Strides,\n"


def table(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "net.csv"
    path.write_text(text)
    return path


def test_convolutions() -> None:
    stem, inner, mix, head = read_scale_sim(DATA / "convolutions.csv")
    assert isinstance(stem, ConvLayer)
    # 32 rows, 7 x 3 windows every 2: 14 rows of windows reach row 33, 15 columns of windows reach column 31.
    assert stem.shape == ConvShape(1, 33, 31, 3, 16, (7, 3), (2, 2))
    assert stem.macs == 14 * 15 * 21 * 3 * 16
    assert not stem.input_gradient
    assert stem.pattern == Pattern(2, 2)
    assert isinstance(inner, ConvLayer)
    assert inner.shape == ConvShape(1, 16, 16, 16, 32, (3, 3))
    assert inner.input_gradient
    assert inner.pattern == Pattern(2, 4)
    assert isinstance(mix, ConvLayer)
    assert (mix.shape.groups, mix.shape.channels_out, mix.pattern) == (32, 32, Pattern(1, 8))
    assert mix.macs == 32 * 12 * 12 * 9
    assert isinstance(head, ConvLayer)
    assert head.macs == 320


def test_matrix_products() -> None:
    layers = load_model(DATA / "products.csv", 4)
    assert layers == [
        LinearLayer(
            name="qkv", rows=260, features_in=384, features_out=1152, input_gradient=False, pattern=Pattern(2, 8)
        ),
        LinearLayer(name="mlp", rows=260, features_in=384, features_out=1536, pattern=Pattern(2, 2)),
    ]
    assert load_model(DATA / "products.csv") == read_scale_sim(DATA / "products.csv", 1)


def test_the_sparsity_column_drives_the_products() -> None:
    layers = read_scale_sim(DATA / "convolutions.csv", 2)
    forward = training_products(layers, "sr-ste", first_and_last_dense=False).products
    patterns = {p.name: str(p.pattern) for p in forward if p.stage is Stage.FF}
    # 9 values are one full group of 8 of the depthwise layer.
    assert patterns == {"stem": "None", "inner": "2:4", "mixDP": "1:8", "head": "None"}
    step = training_products(layers, "bdwp", Pattern(2, 8))
    assert {p.name for p in step.products if p.stage is Stage.BP and p.pattern} == {"inner"}


def test_optional_columns(tmp_path: Path) -> None:
    path = table(
        tmp_path,
        "\ufeffLayer,IFMAP Height,IFMAP Width,Filter Height,Filter Width,Channels,Num Filter,Stride Height,"
        "Stride Width,Batch Size,Note,\na,9,9,3,3,4,8,2,3,5,x,\n",
    )
    (layer,) = read_scale_sim(path, 2)
    assert isinstance(layer, ConvLayer)
    assert layer.shape == ConvShape(10, 9, 9, 4, 8, (3, 3), (2, 3))
    again = table(tmp_path, "name,K,M,N\nx,3,4,5\nx,3,4,5\n,3,4,5\n")
    assert [
        (i.name, i.rows, i.features_in, i.features_out) for i in read_scale_sim(again) if isinstance(i, LinearLayer)
    ] == [
        ("x", 4, 3, 5),
        ("x#2", 4, 3, 5),
        ("layer2", 4, 3, 5),
    ]


SIZES = "Layer,IFMAP Height,IFMAP Width,Filter Height,Filter Width,Channels,Num Filter"


@pytest.mark.parametrize(
    "strides",
    ["Stride Height,Stride Width", "Stride,Stride", "Stride_H,Stride_W", "Stride Y,Stride (X)", "StrideH,Stride"],
)
def test_strides_by_their_direction(tmp_path: Path, strides: str) -> None:
    """Of 57 x 50 with a filter of 3 x 5, stride 2 down and 1 across: 28 x 46 positions of 3 * 5 * 64 * 128."""
    (layer,) = read_scale_sim(table(tmp_path, f"{SIZES},{strides}\nc,57,50,3,5,64,128,2,1\n"))
    turned = ",".join(strides.split(",")[::-1])
    (again,) = read_scale_sim(table(tmp_path, f"{SIZES},{turned}\nc,57,50,3,5,64,128,1,2\n"))
    assert layer.macs == 28 * 46 * 3 * 5 * 64 * 128 == 158_269_440
    assert again == layer or strides == "Stride,Stride"


def test_letters_say_directions_too(tmp_path: Path) -> None:
    text = "Layer,IFMAP W,IFMAP H,Filter X,Filter Y,Channels,Num Filter,Strides\nc,50,57,5,3,64,128,1\n"
    (layer,) = read_scale_sim(table(tmp_path, text))
    assert isinstance(layer, ConvLayer)
    assert layer.shape == ConvShape(1, 57, 50, 64, 128, (3, 5), (1, 1))


def test_the_letters_of_maestro_are_names(tmp_path: Path) -> None:
    """Height 33, 3 channels, 16 filters; read by position it would be 16 x 3 with a filter of 3 x 3."""
    (layer,) = read_scale_sim(table(tmp_path, "Layer name,K,C,R,S,Y,X,Stride\na,16,3,3,5,33,35,2\n"))
    assert isinstance(layer, ConvLayer)
    assert layer.shape == ConvShape(1, 33, 35, 3, 16, (3, 5), (2, 2))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Layer,A,B,D,E,F,G,H\na,8,8,3,3,4,8,1\n", r"net\.csv, line 1: the header names 0 of the columns"),
        ("Layer,IFMAP Height,B,D,E,F,G,Strides\na,8,8,3,3,4,8,1\n", r"line 1: the header names 2 of the columns"),
        ("Layer,K,C,R,S,Y,P,Stride\na,8,8,3,3,4,8,1\n", r"line 1: the header names X not once"),
        ("Layer,K,C,R,S,Y,X,Pad\na,8,8,3,3,4,8,1\n", r"line 1: the header names Stride not once"),
        ("Layer,Type,K,C,R,S,Y,X,Stride\na,DSCONV,8,8,3,3,4,8,1\n", r"line 1: the header has a Type"),
        ("", r"net\.csv: the file is empty"),
        (CONV, r"net\.csv: the table has a header but no layers"),
        (CONV + "a,8,8,3,3,4,8,\n", r"net\.csv, line 2: column 8 \(Strides\) is missing"),
        (CONV + "a,8,8,3,3,4,8,1,\n\nb,8,8,3\n", r"net\.csv, line 4: column 5 \(Filter width\) is missing"),
        (CONV + "Transformer,\n", r"net\.csv, line 2: column 2 \(IFMAP height\) is missing"),
        (CONV + "a,8,-8,3,3,4,8,1,\n", r"net\.csv, line 2: IFMAP width is -8; it must be at least 1"),
        (CONV + "a,8,8,3,3,0,8,1,\n", r"net\.csv, line 2: Channels is 0; it must be at least 1"),
        (CONV + "a,8,8,3,3,4,many,1,\n", r"net\.csv, line 2: Num filter is 'many'; it must be a whole number"),
        (CONV + "a,8,8,3,3,4,8.5,1,\n", r"net\.csv, line 2: Num filter is '8\.5'; it must be a whole number"),
        (CONV + "a,8,8,9,3,4,8,1,\n", r"net\.csv, line 2: Filter height is 9; it must not exceed IFMAP height, 8"),
        ("a,8,8,3,3,4,8,1,\n", r"net\.csv, line 1: this looks like a layer, but the first line must be a header"),
        ("Layer,Height,Width\na,1,2\n", r"net\.csv, line 1: the header has 3 columns"),
        (f"{SIZES},Stride W\nc,9,9,3,3,4,8,1\n", r"line 1: the header names the strides 'stride w', of which"),
        (f"{SIZES},Stride W,Stride X\nc,9,9,3,3,4,8,1,1\n", r"line 1: the header names the strides 'stride w', 'st"),
        (f"{SIZES},Stride,M,N,K\nc,9,9,3,3,4,8,1,1,1,1\n", r"line 1: the header names M, N, K .* of convolutions"),
        ("Layer,M,N,K,C,R\nc,1,1,1,1,1\n", r"line 1: the header names M, N, K .* 'c', 'r' of convolutions"),
        ("Layer,M,N,K,\na,4,5,\n", r"net\.csv, line 2: column 4 \(K\) is missing"),
        ("Layer,M,N,K,\na,4,x,5,\n", r"net\.csv, line 2: N is 'x'"),
        ("Layer,M,N,K,Sparsity,\na,4,5,6,\n", r"net\.csv, line 2: Sparsity is ''; it must be N:M"),
        ("Layer,M,N,K,Sparsity,\na,4,5,6,dense,\n", r"net\.csv, line 2: Sparsity is 'dense'"),
        ("Layer,M,N,K,Sparsity,\na,4,5,6,5:4,\n", r"net\.csv, line 2: Sparsity is not supported: .*'5:4'"),
        ("Layer,M,N,K,Sparsity,\na,4,5,6,1:32,\n", r"net\.csv, line 2: Sparsity is not supported: .*2, 4, 8 or 16"),
        ("Layer,M,N,K,Sparsity,\na,4,5,6,0:4,\n", r"net\.csv, line 2: Sparsity is not supported"),
    ],
)
def test_broken_tables(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_scale_sim(table(tmp_path, text))


def test_files_that_are_no_tables(tmp_path: Path) -> None:
    path = tmp_path / "net.csv"
    path.write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(ValueError, match=r"net\.csv: not a CSV table"):
        read_scale_sim(path)
    with pytest.raises(FileNotFoundError, match=r"gone\.csv"):
        read_scale_sim(tmp_path / "gone.csv")
    with pytest.raises(ValueError, match="batch is 0"):
        read_scale_sim(DATA / "products.csv", 0)
