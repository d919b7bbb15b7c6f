"""Reader of topology tables of SCALE-Sim (scalesim-project/SCALE-Sim, versions 2 and 3): existing ones run unchanged.

The first line is a header. It tells the form: columns named M, N and K make matrix products Y[M, N] = A[M, K] W[K, N];
anything else is a convolution:

    Layer name, IFMAP height, IFMAP width, Filter height, Filter width, Channels, Num filter, Strides,

Columns are known by their header, in any order; a table whose header names none of them twice or not at all (tables in
use say `IFMAP Width` for both sizes) is read by position if the other names, four at least, are in their places. A
direction is a word (height, width, vertical, horizontal) or a letter (H, W, Y, X: `Stride_W`, `Filter H`). The
letters of MAESTRO, K, C, R, S, Y, X beside `Stride`, are names too (Y and X include the padding). Further columns:
`Sparsity` (N:M of the weights, N:N for dense), a second `Stride` (each of the direction that its header says; the
first vertical if none does), `Batch size`. A column
without a name that holds N:M in every layer is the sparsity. Others are ignored. Columns end at commas, or at tabs as
in the tables made for MAESTRO. A comma may end a line; lines that are empty or hold only commas are skipped.

As in SCALE-Sim the IFMAP includes its padding and the last window may reach past the border: the output has
ceil((size - filter) / stride) + 1 positions. Where that happens the IFMAP is taken as large as the windows need.
A layer with `DP` in its name is depthwise: `Num filter` filters on each channel.
"""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from nmsat.algorithms.core.tape import ConvShape, Pattern
from nmsat.dataflow.network.layers import ConvLayer, LinearLayer

if TYPE_CHECKING:
    from nmsat.dataflow.network.layers import Layer

CONV_COLUMNS: Final = (
    "IFMAP height",
    "IFMAP width",
    "Filter height",
    "Filter width",
    "Channels",
    "Num filter",
    "Strides",
)

KNOWN: Final = (
    ("ifmap", "height"),
    ("ifmap", "width"),
    ("filter", "height"),
    ("filter", "width"),
    ("channel",),
    ("num", "filter"),
    ("stride",),
)
"""Words that the header of each of them holds, in small letters."""

MAESTRO: Final = ("y", "x", "r", "s", "c", "k")
"""What MAESTRO calls the first six of them."""

LEAST_KNOWN: Final = 4
"""Columns that a header must name in their places, if the others are to be read by position."""

DIRECTION_WORDS: Final = {
    **dict.fromkeys(("height", "h", "y", "vertical", "vert", "rows", "row"), "height"),
    **dict.fromkeys(("width", "w", "x", "horizontal", "horiz", "columns", "column", "cols", "col"), "width"),
}
"""Words of headers that say a direction."""

CONV_WORDS: Final = ("ifmap", "filter", "channel", "stride")
"""Words of headers that only a convolution has."""

PATTERN: Final = re.compile(r"(\d+)\s*:\s*(\d+)")

MAX_NUMBER: Final = 1 << 24
"""Largest number of a table."""


@dataclass(frozen=True)
class _Header:
    """Where columns stand; None where there is none."""

    name: int
    gemm: tuple[int, int, int] | None
    conv: tuple[int, ...]
    sparsity: int | None
    stride_width: int | None
    batch: int | None


@dataclass(frozen=True)
class _Row:
    """One line of the table with its place for messages."""

    where: str
    cells: list[str]

    def name(self, header: _Header) -> str:
        """Return the name of the layer, '' if it has none."""
        return self.cells[header.name] if header.name < len(self.cells) else ""

    def number(self, column: int, name: str) -> int:
        """Return a whole number from 1 to `MAX_NUMBER`."""
        text = self.cells[column] if column < len(self.cells) else ""
        if not text:
            raise ValueError(f"{self.where}: column {column + 1} ({name}) is missing")
        if not re.fullmatch(r"[+-]?[0-9]{1,20}", text):
            raise ValueError(f"{self.where}: {name} is {text!r}; it must be a whole number")
        if int(text) < 1:
            raise ValueError(f"{self.where}: {name} is {text}; it must be at least 1")
        if int(text) > MAX_NUMBER:
            raise ValueError(f"{self.where}: {name} is {text}; it must be at most {MAX_NUMBER}")
        return int(text)


def read_scale_sim(path: str | Path, batch: int = 1) -> list[Layer]:
    """Return the layers of a topology table.

    batch: multiplies the images of a convolution and the rows M of a matrix product; a table as it stands is batch 1.
    Raises FileNotFoundError; ValueError naming file and line for an empty file, a missing column, a size that is no
    whole number of at least 1, a filter larger than its input, a pattern that is not N:M with M of 2, 4, 8 or 16.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no file {str(path)!r}")
    if batch < 1:
        raise ValueError(f"batch is {batch!r}; it must be at least 1")
    try:
        text = path.read_text(encoding="utf-8-sig").splitlines()
        tabs = bool(text) and "\t" in text[0] and "," not in text[0]
        lines = list(csv.reader(text, strict=True, delimiter="\t" if tabs else ","))
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path.name}: not a CSV table ({error})") from error
    rows = [_Row(f"{path.name}, line {at}", [cell.strip() for cell in line]) for at, line in enumerate(lines, start=1)]
    if not rows:
        raise ValueError(f"{path.name}: the file is empty; it needs a header and one line per layer")
    header = _with_sparsity(_read_header(rows[0]), rows)
    layers: list[Layer] = []
    names: set[str] = set()
    for row in rows[1:]:
        if any(row.cells):
            name = _unique(row.name(header) or f"layer{len(layers)}", names)
            layers.append(_read_layer(row, name, header, batch, first=not layers))
    if not layers:
        raise ValueError(f"{path.name}: the table has a header but no layers")
    return layers


def _read_header(row: _Row) -> _Header:
    titles = [cell.lower() for cell in row.cells]
    if len(titles) > 1 and all(re.fullmatch(r"[+-]?\d+", cell) for cell in titles[1:4] if cell) and any(titles[1:4]):
        raise ValueError(f"{row.where}: this looks like a layer, but the first line must be a header")
    gemm = None
    if {"m", "n", "k"} <= set(titles):
        other = [title for title in titles if any(word in title for word in CONV_WORDS)]
        other += sorted(set(MAESTRO[:5]) & set(titles))
        if other:
            raise ValueError(
                f"{row.where}: the header names M, N, K of matrix products and {', '.join(map(repr, other))} of "
                f"convolutions; make two tables of it"
            )
        gemm = (titles.index("m"), titles.index("n"), titles.index("k"))
    elif len([title for title in titles if title]) < len(CONV_COLUMNS) + 1:
        raise ValueError(
            f"{row.where}: the header has {len([t for t in titles if t])} columns; a convolution table needs a name "
            f"and {', '.join(CONV_COLUMNS)}; a matrix table a name, M, N, K"
        )

    def find(word: str, after: int) -> int | None:
        return next((at for at, title in enumerate(titles) if at >= after and title.startswith(word)), None)

    down, across = (None, None) if gemm else _stride_columns(titles, row.where)
    conv = () if gemm else _conv_columns(titles, row.where)
    if down is not None:
        conv = (*conv[:-1], down)
    names = [at for at, title in enumerate(titles) if title.startswith(("layer", "name"))]
    return _Header(
        name=names[0] if names else 0,
        gemm=gemm,
        conv=conv,
        sparsity=find("spars", 0),
        stride_width=across,
        batch=find("batch", 0),
    )


def _direction(title: str) -> str | None:
    """Return 'height' or 'width' where a header says one of them, and not both."""
    words = [word.removeprefix("stride") for word in re.findall("[a-z]+", title)]
    found = {DIRECTION_WORDS[word] for word in words if word in DIRECTION_WORDS}
    return found.pop() if len(found) == 1 else None


def _stride_columns(titles: list[str], where: str) -> tuple[int | None, int | None]:
    """Return the columns of the vertical and of the horizontal stride; the second is None where one is for both."""
    columns = [at for at, title in enumerate(titles) if "stride" in title]
    said = [_direction(titles[at]) for at in columns]
    match said:
        case []:
            return None, None
        case [None]:
            return columns[0], None
        case [None, None] | ["height", "width"] | ["height", None] | [None, "width"]:
            return columns[0], columns[1]
        case ["width", "height"] | ["width", None] | [None, "height"]:
            return columns[1], columns[0]
        case _:
            raise ValueError(
                f"{where}: the header names the strides {', '.join(repr(titles[at]) for at in columns)}, of which it "
                f"cannot be told which is vertical and which horizontal; name one Stride for both, or one Stride "
                f"height and one Stride width"
            )


def _conv_columns(titles: list[str], where: str) -> tuple[int, ...]:
    """Return the place of each of CONV_COLUMNS, by name; by position where the header names some of them wrongly."""

    def places(words: tuple[str, ...]) -> list[int]:
        *others, last = words
        if last in ("height", "width"):
            return [at for at, title in enumerate(titles) if others[0] in title and _direction(title) == last]
        found = [at for at, title in enumerate(titles) if all(word in title for word in words)]
        return found[:1] if words == ("stride",) else found

    known = [places(words) for words in KNOWN]
    if all(len(found) == 1 for found in known):
        return tuple(found[0] for found in known)
    if set(MAESTRO) & set(titles):
        return _letter_columns(titles, where)
    moved = [
        CONV_COLUMNS[at]
        for at, found in enumerate(known)
        if found and at + 1 not in found and (at + 1 >= len(titles) or titles[at + 1])
    ]
    if moved:
        odd = [CONV_COLUMNS[at] for at, found in enumerate(known) if len(found) != 1]
        raise ValueError(
            f"{where}: the header names {', '.join(odd)} not once, and {moved[0]} is not in its place; name each of "
            f"{', '.join(CONV_COLUMNS)}"
        )
    named = sum(at + 1 in found for at, found in enumerate(known))
    if named < LEAST_KNOWN:
        raise ValueError(
            f"{where}: the header names {named} of the columns of a convolution; it must name at least "
            f"{LEAST_KNOWN} of {', '.join(CONV_COLUMNS)}"
        )
    return tuple(range(1, len(CONV_COLUMNS) + 1))


def _letter_columns(titles: list[str], where: str) -> tuple[int, ...]:
    """Return the place of each of CONV_COLUMNS where the header has the letters of MAESTRO."""
    strides = [at for at, title in enumerate(titles) if "stride" in title]
    wrong = [letter.upper() for letter in MAESTRO if titles.count(letter) != 1]
    if wrong or not strides:
        missing = ", ".join([*wrong, *([] if strides else ["Stride"])])
        raise ValueError(
            f"{where}: the header names {missing} not once; with letters it needs K, C, R, S, Y, X and Stride"
        )
    if "type" in titles:
        raise ValueError(f"{where}: the header has a Type; layers of other kinds than CONV are not read, leave it out")
    return (*(titles.index(letter) for letter in MAESTRO), strides[0])


def _with_sparsity(header: _Header, rows: list[_Row]) -> _Header:
    """Return the header with the sparsity in a column that has no name, if one holds N:M in every layer.

    ValueError where N:M stands in some layers only: whatever is meant, it must not be ignored.
    """
    titles, layers = rows[0].cells, [row for row in rows[1:] if any(row.cells)]
    unnamed = range(max((len(row.cells) for row in layers), default=0))
    for column in unnamed:
        if column < len(titles) and titles[column]:
            continue
        holding = [row for row in layers if column < len(row.cells) and PATTERN.fullmatch(row.cells[column])]
        if not holding:
            continue
        if header.sparsity is not None or len(holding) < len(layers):
            other = next((row for row in layers if row not in holding), holding[0])
            raise ValueError(
                f"{holding[0].where}: column {column + 1} holds {holding[0].cells[column]!r} and has no name"
                + (f", and {other.where} has none" if len(holding) < len(layers) else "")
                + "; name it Sparsity in the header, or leave it out"
            )
        return replace(header, sparsity=column)
    return header


def _read_layer(row: _Row, name: str, header: _Header, batch: int, first: bool) -> Layer:
    images = batch
    if header.batch is not None and header.batch < len(row.cells) and row.cells[header.batch]:
        images *= row.number(header.batch, "Batch size")
    pattern = _pattern(row, header)
    if header.gemm is not None:
        m, n, k = (row.number(column, title) for column, title in zip(header.gemm, "MNK", strict=True))
        return LinearLayer(
            name=name, rows=m * images, features_in=k, features_out=n, input_gradient=not first, pattern=pattern
        )
    numbers = (row.number(column, title) for column, title in zip(header.conv, CONV_COLUMNS, strict=True))
    height, width, kernel_h, kernel_w, channels, filters, stride = numbers
    across = stride if header.stride_width is None else row.number(header.stride_width, "Stride width")
    for title, kernel, size in (("height", kernel_h, height), ("width", kernel_w, width)):
        if kernel > size:
            raise ValueError(f"{row.where}: Filter {title} is {kernel}; it must not exceed IFMAP {title}, {size}")
    groups = channels if "DP" in name else 1
    shape = ConvShape(
        batch=images,
        height=_reached(height, kernel_h, stride),
        width=_reached(width, kernel_w, across),
        channels_in=channels,
        channels_out=filters * groups,
        kernel=(kernel_h, kernel_w),
        stride=(stride, across),
        groups=groups,
    )
    return ConvLayer(name=name, shape=shape, input_gradient=not first, pattern=pattern)


def _reached(size: int, kernel: int, stride: int) -> int:
    """Return the size that the ceil((size - kernel) / stride) + 1 windows reach, at least the size itself."""
    return max(size, -(-(size - kernel) // stride) * stride + kernel)


def _pattern(row: _Row, header: _Header) -> Pattern | None:
    if header.sparsity is None:
        return None
    text = row.cells[header.sparsity] if header.sparsity < len(row.cells) else ""
    found = PATTERN.fullmatch(text)
    if not found:
        raise ValueError(f"{row.where}: Sparsity is {text!r}; it must be N:M such as 2:4, or 1:1 for dense")
    n, m = int(found[1]), int(found[2])
    if n == m and n >= 1:
        return Pattern(2, 2)
    try:
        return Pattern(n, m)
    except ValueError as error:
        raise ValueError(f"{row.where}: Sparsity is not supported: {error}") from error


def _unique(name: str, names: set[str]) -> str:
    base, number = name, 1
    while name in names:
        number += 1
        name = f"{base}#{number}"
    names.add(name)
    return name
