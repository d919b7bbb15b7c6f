"""Proofs of the pruning engine: exactly N of M stay, in ascending places, and nothing larger is dropped."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final
from unittest.mock import patch

from amaranth.hdl import Cat, Const, Signal, Value
from amaranth.lib import data

from nmsat.hw.update import sore as sore_module
from nmsat.tb.formal.harness import Harness, implies, opened
from nmsat.tb.formal.proof import Fault, Proof

if TYPE_CHECKING:
    from collections.abc import Sequence

PATTERNS: Final = ((1, 2), (2, 4), (1, 4), (2, 8))
"""N:M of the proofs."""


WAITS: Final = 1
"""Greatest N with which beats and pairs may wait in the proof: with more z3 takes too long."""


def cycles(n: int, m: int) -> int:
    """Cycles in which a group comes in, is ranked and leaves, with two to wait; N and M of the pattern."""
    return m + 4 + n + (2 if n <= WAITS else 0)


def keeps(n: int, m: int) -> Harness:
    """One lane, one group from reset on: all elements free, some absent; beats and pairs may wait, see `WAITS`.

    Elements are only compared and moved, so values that can stand in every order are enough.
    """
    proof = Harness(reset=False)
    pair = data.StructLayout({"value": 16, "index": m.bit_length() - 1, "filler": 1})
    with patch.multiple(sore_module, MAX_GROUP=m, pair_layout=lambda: pair):
        dut = proof.add(sore_module.Sore(1), driven=("n_less_1", "log2_m_less_1"))
        opened(opened(dut).submodules.lane_0)
    top = proof.m
    unused = ~Const(sum(1 << bit for bit in (0, 14, 7)[: m.bit_length() - 1]) | 1 << 15, 16)
    proof.assume((dut.i.payload.value[0] & unused) == 0)
    top.d.comb += [dut.n_less_1.eq(n - 1), dut.log2_m_less_1.eq(m.bit_length() - 2)]
    group = [Signal(17, name=f"element_{k}") for k in range(m)]
    arrived = Signal(range(m + 1), name="arrived")
    proof.assume(~dut.i.payload.last)
    proof.assume(implies(arrived == m, ~dut.i.valid))
    if n > WAITS:
        proof.assume(dut.i.valid == (arrived != m))
        proof.assume(dut.o.ready)
    taken = dut.i.valid & dut.i.ready
    with top.If(taken):
        top.d.sync += arrived.eq(arrived + 1)
        for k in range(m):
            with top.If(arrived == k):
                top.d.sync += group[k].eq(Cat(dut.i.payload.value[0], dut.i.payload.present[0]))
    present = [element[16] for element in group]
    some = sum(present, Value.cast(0))
    pair, left = dut.o.payload.pair[0], Signal(range(n + 2), name="left")
    leaves = dut.o.valid & dut.o.ready
    last = Signal(5, name="last_index")
    top.d.sync += left.eq(left + leaves)
    with top.If(leaves):
        top.d.sync += last.eq(pair.index)
    keep = dut.o.payload.keep[0][:m]
    kept = sum(keep, Value.cast(0))
    proof.check(implies(dut.o.valid, arrived == m), "nothing leaves before its group is there")
    proof.check(implies(dut.o.valid, (left < n) & (dut.o.payload.last == (left == n - 1))), "N pairs leave")
    wanted = Signal(range(n + 1), name="wanted")
    top.d.comb += wanted.eq(n)
    with top.If(some < n):
        top.d.comb += wanted.eq(some)
    proof.check(implies(dut.o.valid, kept == wanted), "exactly N places stay, fewer only if fewer are there")
    proof.check(implies(dut.o.valid, pair.filler == (left >= wanted)), "as many pairs as places stay, then fillers")
    real = dut.o.valid & ~pair.filler
    proof.check(implies(real, (Cat(keep) >> pair.index)[0]), "a pair that leaves is of a place that stays")
    proof.check(implies(real & (left != 0), pair.index > last), "pairs leave in ascending places")
    for k, element in enumerate(group):
        proof.check(implies(real & (pair.index == k), pair.value == element[:16]), "values leave unchanged")
    _nothing_larger_is_dropped(proof, dut.o.valid, keep, group)
    proof.cover(leaves & dut.o.payload.last & ~pair.filler, "a group leaves whole")
    proof.cover(leaves & (some < m), "a group with absent elements leaves")
    return proof


def _nothing_larger_is_dropped(proof: Harness, valid: Value, keep: Value, group: Sequence[Signal]) -> None:
    """For any two places: who stays beside one who is dropped is larger, or as large and before it."""
    top, m = proof.m, len(group)
    stays, dropped = proof.fixed("stays", range(m)), proof.fixed("dropped", range(m))
    one, other = Signal(17, name="one"), Signal(17, name="other")
    for signal, place in ((one, stays), (other, dropped)):
        with top.Switch(place):
            for k, element in enumerate(group):
                with top.Case(k):
                    top.d.comb += signal.eq(element)
    both = valid & (keep >> stays)[0] & ~(keep >> dropped)[0]
    larger = (one[:15] > other[:15]) | ((one[:15] == other[:15]) & (stays < dropped))
    proof.check(implies(both, one[16]), "what is absent does not stay")
    proof.check(implies(both & other[16], larger), "nothing larger is dropped, and ties keep the lower index")


_FAULTS: Final = (
    (
        Fault(
            "ties keep the higher index",
            "hw/update/sore.py",
            "win.eq(new[e] > old)",
            "win.eq(new[e] >= old)",
        ),
    ),
    (
        Fault(
            "a dropped element comes back",
            "hw/update/sore.py",
            "aged = Cat(total[:4], total[4] | score[4])",
            "aged = Cat(total[:4], total[4])",
        ),
        Fault(
            "one more than N stays",
            "hw/update/sore.py",
            'lane["drop"].eq(~self.n_less_1)',
            'lane["drop"].eq(~self.n_less_1 - 1)',
        ),
    ),
    (
        Fault(
            "the sign counts",
            "hw/update/sore.py",
            "Cat(value[16 * e : 16 * e + 15], 1)",
            "Cat(value[16 * e + 1 : 16 * e + 16], 1)",
        ),
    ),
)
"""Of each pattern."""

PROOFS: Final = tuple(
    Proof(
        name=f"sore_{n}_{m}",
        claim=f"Pruning {n}:{m} keeps exactly {n} of {m} elements (fewer only if fewer are present), hands them out "
        "unchanged in ascending places, drops nothing larger than what it keeps, and keeps the lower index of two "
        "alike.",
        make=partial(keeps, n, m),
        unbounded=False,
        depth=cycles(n, m),
        reach=cycles(n, m),
        smaller=f"one lane of one element per cycle, for groups of {m} at most; {m} magnitudes, with signs: enough for "
        f"every order of {m} elements; the first group after reset" + (", without waits" if n > WAITS else ""),
        faults=_FAULTS[min(k, 2)],
    )
    for k, (n, m) in enumerate(PATTERNS)
)
