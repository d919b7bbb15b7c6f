"""What became of every weight of a model: converted, or left dense and why."""

# pyright: reportMissingImports=false
# PyTorch is an optional extra: the type checker runs without it.

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """One weight.

    layer: name of the layer, with the parameter's where that is not `weight`; kind: class; shape: of the weight;
    method: with its pattern, 'dense' otherwise; stages: of the products with a sparse operand; why: reason for staying
    dense, '' if pruned; shared: layer that was counted with the same weight before, '' if none; chosen: whether it is
    dense by request, not because nothing else is known.
    """

    layer: str
    kind: str
    shape: tuple[int, ...]
    method: str
    stages: str = ""
    why: str = ""
    shared: str = ""
    chosen: bool = True

    @property
    def weights(self) -> int:
        """Elements, 0 if counted before."""
        size = 1
        for length in self.shape:
            size *= length
        return 0 if self.shared else size


@dataclass(frozen=True)
class Table:
    """All weights of a model (parameters of two axes and more) in the order of `named_modules`."""

    rows: tuple[Row, ...]

    @property
    def total(self) -> int:
        """Elements of all weights, each counted once."""
        return sum(row.weights for row in self.rows)

    @property
    def pruned(self) -> int:
        """Elements of the weights of layers with a sparse product; of a shared weight one of them is enough."""
        sparse = {row.shared or row.layer for row in self.rows if not row.why}
        return sum(row.weights for row in self.rows if row.layer in sparse)

    @property
    def left(self) -> tuple[Row, ...]:
        """Weights that stay dense because no converted form is known."""
        return tuple(row for row in self.rows if row.why and not row.chosen)

    def __str__(self) -> str:
        header = ("layer", "kind", "weight", "share", "method", "sparse", "why dense")
        cells = [header, *(self._cells(row) for row in self.rows)]
        widths = [max(len(line[column]) for line in cells) for column in range(len(header))]
        lines = ["  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)) for line in cells]
        share = self.pruned / self.total if self.total else 0.0
        lines.append(f"{self.pruned} of {self.total} weights ({share:.1%}) in layers with sparse products")
        return "\n".join(line.rstrip() for line in lines)

    def _cells(self, row: Row) -> tuple[str, ...]:
        share = f"counted with {row.shared}" if row.shared else f"{row.weights / max(1, self.total):.1%}"
        size = " x ".join(map(str, row.shape))
        return (row.layer, row.kind, size, share, row.method, row.stages, row.why)
