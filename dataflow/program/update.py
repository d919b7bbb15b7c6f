"""The update of a weight matrix as an instruction: masters, momenta and both packed copies in one pass."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

from nmsat.dataflow.contract.codes import codes
from nmsat.dataflow.contract.isa import HALVES, INSTRUCTIONS, LANES, Opcode
from nmsat.dataflow.cycles.memory import memory_timing
from nmsat.dataflow.program.estimate import ENDS
from nmsat.dataflow.program.tensors import DENSE

if TYPE_CHECKING:
    from collections.abc import Iterable

    from nmsat.dataflow.contract.config import SatConfig
    from nmsat.dataflow.program.assembler import Assembler, Node
    from nmsat.dataflow.program.tensors import Place, Weights

_FIELDS = INSTRUCTIONS[Opcode.UPDATE].by_name

MOST_ROWS: Final = _FIELDS["k"].high // HALVES * HALVES
MOST_COLUMNS: Final = min(_FIELDS["n"].high // HALVES, _FIELDS["g_step"].high) * HALVES
"""What one UPDATE may span, in whole groups of every pattern and whole beats of the gradient."""


def slices(k: int, n: int) -> Counter[tuple[int, int]]:
    """Return how often an UPDATE of each size (rows, columns) runs for a matrix, which may be larger than one spans.

    Such a matrix lies in memory as so many matrices of their own: a group never crosses from one into another, and a
    product reads them one behind the other.
    """
    rows = Counter(min(MOST_ROWS, k - at) for at in range(0, k, MOST_ROWS))
    columns = Counter(min(MOST_COLUMNS, n - at) for at in range(0, n, MOST_COLUMNS))
    return Counter({(r, c): i * j for r, i in rows.items() for c, j in columns.items()})


def check_update(name: str, k: int, n: int) -> None:
    """Raise ValueError for a weight matrix of k rows and n columns that one UPDATE does not span."""
    rows = _FIELDS["k"].high
    if k > rows or n > MOST_COLUMNS:
        raise ValueError(
            f"layer {name!r} has a weight matrix of {k} x {n}; a step that runs updates it with one UPDATE, which "
            f"spans at most {rows} x {MOST_COLUMNS}: make several narrower layers of it, or time it with `nmsat "
            f"model`, which takes it in slices"
        )


def emit_update(out: Assembler, label: str, w: Weights, *, decays: bool, after: Iterable[Node] = ()) -> Node:
    """Append the UPDATE of a weight matrix; its constants are those of no step yet (`step.update_constants`).

    decays: the method has an SR-STE term, which reads the mask of W_ff; after: what it waits for beside its own
    gradient, such as the last one of the step: a single infinite one suppresses all updates.
    """
    sparse = (w.ff.n, w.ff.m) != (DENSE.n, DENSE.m)
    fields = {
        "k": w.k,
        "n": w.n,
        **codes(n=w.ff.n, m=w.ff.m, prefix="ff_"),
        **codes(n=w.bp.n, m=w.bp.m, prefix="bp_"),
        "use_mask": int(sparse and decays),
        **update_places(w, w.bp_place),
    }
    written = [w.master, w.ff_place, w.mask, *([w.bp_place] if w.bp_place else [])]
    reads = [w.gradient, w.master, w.mask]
    return out.emit(Opcode.UPDATE, fields, label, after=after, reads=reads, writes=written)


def update_places(w: Weights, backward: Place | None) -> dict[str, int]:
    """Return the fields of an UPDATE that say where its matrices lie. backward: of W_bp, None where it is not made."""
    return {
        "use_bp": int(backward is not None),
        "region": w.master.region,
        "g_step": w.gradient.step,
        "w_at": w.master.at,
        "g_at": w.gradient.at,
        "mask_at": w.mask.at,
        "ff_at": w.ff_place.at,
        "bp_at": backward.at if backward is not None else 0,
    }


def estimate_update(config: SatConfig, w: Weights, *, decays: bool) -> float:
    """Return about how many cycles an UPDATE takes: those of the port for all its beats, or of the lanes for all rows,
    and what nothing hides."""
    timing = memory_timing(config)
    sparse = (w.ff.n, w.ff.m) != (DENSE.n, DENSE.m)
    read = w.master.beats + w.k * w.blocks + (w.mask.beats if sparse and decays else 0)  # a beat of gradient a block
    written = w.master.beats + w.ff_place.beats + w.mask.beats + (w.bp_place.beats if w.bp_place else 0)
    lanes = w.k * w.blocks * (LANES // config.wuve_lanes)
    return max((read + written) * float(timing.beat_cycles), float(lanes)) + ENDS * timing.latency
