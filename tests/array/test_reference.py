"""The reference that judges RTL and simulator: exact by itself, apart from all it judges, and able to find faults."""

from __future__ import annotations

import ast
import json
import struct
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from nmsat.algorithms.core import chains, nm, numeric
from nmsat.algorithms.core.kernel import KERNEL_VARIABLE
from nmsat.algorithms.core.tape import Pattern
from nmsat.dataflow.contract.config import preset
from nmsat.dataflow.mapping.choose import best_tiling
from nmsat.reports.work.operands import LINES, mixed_lines, packed_for, random_pair
from nmsat.sim.array.fast import simulate_product
from nmsat.tb.array import products, reference
from nmsat.tb.array.products import Job, RtlRun, bench_config, compare
from tests.cases import SPECIAL, patterns, product

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.conftest import Outcome

TINY = bench_config(preset("tiny"))
SHAPE = (24, 45, 20)


def test_it_imports_nothing_of_the_project() -> None:
    tree = ast.parse(Path(reference.__file__).read_text(encoding="utf-8"))
    found = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    found |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert found == {"__future__", "typing", "numpy", "numpy.typing"}


def test_every_binary16_number_has_its_value() -> None:
    """Against the struct module, which decodes by itself."""
    for bits in range(1 << 16):
        (want,) = struct.unpack("<e", struct.pack("<H", bits))
        got = reference.value16(bits)
        assert struct.pack("<d", got) == struct.pack("<d", want) or (got != got and want != want)  # noqa: PLR0124


def rounded(number: Fraction, bits: int, least: int, most: int) -> float:
    """Return a number rounded to `bits` of significand, nearest even, no unit below 2^least, infinite from 2^most."""
    if number == 0:
        return 0.0
    size = abs(number)
    exponent = size.numerator.bit_length() - size.denominator.bit_length()
    exponent -= size < Fraction(2) ** exponent
    unit = Fraction(2) ** max(exponent - bits + 1, least)
    whole = round(size / unit) * unit  # of Fraction: half to even
    return float("inf") if whole >= Fraction(2) ** most else float(whole)


def exact_chain(a: np.ndarray, w: np.ndarray, keep: np.ndarray) -> int:
    """Return the bits of one finite chain, in exact rational arithmetic, number by number."""
    total = Fraction(0)
    for k in np.flatnonzero(keep).tolist():
        term = Fraction(float(a[k])) * Fraction(float(w[k])) + total
        total = Fraction(rounded(term, 24, -149, 128)) * (1 if term >= 0 else -1)
    (bits,) = struct.unpack("<I", struct.pack("<f", float(total)))
    return int(bits)


@pytest.mark.parametrize("pattern", [None, Pattern(2, 8), Pattern(3, 4)])
def test_chains_are_those_of_exact_arithmetic(pattern: Pattern | None) -> None:
    a, w = random_pair(best_tiling(TINY, *SHAPE, None), "finite", 5)
    w[:, 3] = -w[:, 2]
    a[:, 1::2], w[1::2, 4] = a[:, 0:-1:2], -w[0:-1:2, 4]  # column 4 takes away what it has added
    shape = None if pattern is None else (pattern.n, pattern.m)
    got = reference.product(a.view(np.uint16), w.view(np.uint16), shape)
    keep = np.ones(w.shape, bool) if shape is None else reference.kept(w.view(np.uint16), *shape)
    for r in range(a.shape[0]):
        for c in range(w.shape[1]):
            assert got[r, c] == exact_chain(a[r], w[:, c], keep[:, c]), (r, c)


def test_rounding_to_binary16_is_exact() -> None:
    """Binary16 numbers of all exponents, what lies between them and next to that, both signs, the ends of the range."""
    magnitudes = np.array([m for m in range(0x7C00) if m % 11 == 0 or m % 1024 in (0, 1, 1023)])
    values = reference.VALUES16[magnitudes]
    between = (values[:-1] + reference.VALUES16[magnitudes[:-1] + 1]) / 2
    samples = np.concatenate([values, between, [65504.0, 65519.996, 65520.0, 65536.0, 3e38, 1e-45, 2.9e-8]])
    bits = samples.astype(np.float32).view(np.uint32)
    bits = np.concatenate([bits, bits[bits > 0] - 1, bits + 1]).astype(np.uint32)
    numbers = bits.view(np.float32)
    want = [rounded(Fraction(float(x)), 11, -24, 16) for x in numbers.tolist() if np.isfinite(x)]
    got = reference.VALUES16[reference.half(bits[np.isfinite(numbers)])]
    assert got.tolist() == want
    negative = reference.half((bits | 0x80000000).astype(np.uint32))
    assert (negative == reference.half(bits) | 0x8000).all()
    special = np.array([0x7F800000, 0xFF800000, 0x7FC00000, 0xFFC12345, 0x7F800001, 0x80000000, 1], np.uint32)
    assert reference.half(special).tolist() == [0x7C00, 0xFC00, 0x7E00, 0x7E00, 0x7E00, 0x8000, 0]


@pytest.mark.parametrize("pattern", [p for p in patterns() if p is not None], ids=str)
def test_pruning_keeps_what_the_contract_says(pattern: Pattern) -> None:
    """By the definition, element by element: fewer than N present ones of the group come before each kept one."""
    rng = np.random.default_rng(pattern.n + 20 * pattern.m)
    w = rng.choice(SPECIAL, (37, 4)).view(np.uint16)
    keep = reference.kept(w, pattern.n, pattern.m)
    size = (w & 0x7FFF).astype(int)
    for k in range(w.shape[0]):
        first = k // pattern.m * pattern.m
        group = range(first, min(first + pattern.m, w.shape[0]))
        for c in range(w.shape[1]):
            before = sum(size[i, c] > size[k, c] or (size[i, c] == size[k, c] and i < k) for i in group)
            assert keep[k, c] == (before < pattern.n)


def test_specials_follow_the_contract() -> None:
    one, inf, nan = 0x3C00, 0x7C00, 0xFE01
    a = np.array([[inf, one, 0x8000]], np.uint16)
    columns = {
        "zero kept against an infinity": ([0, one, one], 0x7FC00000),
        "infinity": ([one, one, one], 0x7F800000),
        "minus infinity": ([one | 0x8000, one, one], 0xFF800000),
        "a NaN loses sign and payload": ([one, nan, one], 0x7FC00000),
    }
    w = np.array([column for column, _ in columns.values()], np.uint16).T
    assert reference.product(a, w, None)[0].tolist() == [want for _, want in columns.values()]
    assert reference.product(a[:, 1:], np.zeros((2, 1), np.uint16), None).tolist() == [[0]]  # +0 + -0 is +0
    pruned = np.array([[0], [one], [one]], np.uint16)
    assert reference.product(a, pruned, (2, 4)).tolist() == [[0x3F800000]]  # the dropped 0 never meets the infinity
    with pytest.raises(TypeError, match="bit patterns"):
        reference.product(a.view(np.float16), w, None)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="shapes"):
        reference.product(a, w.T, None)


def operands(kind: str, pattern: Pattern | None, seed: int = 1, dataflow: str | None = None) -> Job:
    """Return the job that `nmsat verify gemm --operands KIND` would run."""
    tiling = best_tiling(TINY, *SHAPE, pattern, dataflow)
    a, w = random_pair(tiling, kind, seed)
    return Job(a, packed_for(w, tiling, pattern), tiling, w=w, pattern=pattern)


def obedient(job: Job) -> RtlRun:
    """Return a circuit's answer that equals whatever the simulator says: a fault that both share."""
    y = simulate_product(job.tiling, job.a, job.packed).y
    assert y is not None
    return RtlRun(y, products._expected_cycles(job), np.zeros(0))


@pytest.mark.parametrize("kind", ["finite", "all"])
@pytest.mark.parametrize("pattern", [None, Pattern(2, 8), Pattern(1, 16), Pattern(3, 4), Pattern(2, 2)], ids=str)
def test_the_simulator_agrees_with_the_reference(kind: str, pattern: Pattern | None) -> None:
    for seed in range(4):
        for dataflow in ("os", "ws"):
            job = operands(kind, pattern, seed, dataflow)
            assert compare(job, obedient(job)).differences == ()


def test_packed_operands_are_judged_without_their_matrix() -> None:
    rng = np.random.default_rng(3)
    for pattern in (None, Pattern(2, 8), Pattern(5, 16)):
        for dataflow in ("os", "ws"):
            mapping = best_tiling(TINY, *SHAPE, pattern, dataflow).mapping
            job = Job(*product(rng, TINY, mapping, SHAPE, special=0.05))
            assert compare(job, obedient(job)).differences == ()


def test_all_operands_hold_every_kind() -> None:
    from nmsat.reports.commands.verify_gemm import _kinds

    for pattern in (None, Pattern(2, 8)):
        job = operands("all", pattern)
        assert job.w is not None
        for bits in (job.a.view(np.uint16), job.w.view(np.uint16)):
            size = bits & 0x7FFF
            for found in (size == 0x7C00, size > 0x7C00, (size > 0) & (size < 0x400), bits == 0, bits == 0x8000):
                assert found.any()
        kinds = _kinds(products.reference_bits(job))
        assert all(count > 0 for count in kinds.values()), kinds
        assert kinds["finite"] + kinds["infinite"] + kinds["nan"] == SHAPE[0] * SHAPE[2]
        assert kinds["finite"] > SHAPE[0] * SHAPE[2] / 4


def test_cancelling_lines_cancel() -> None:
    """At least one product of a cancelling row and column has a sum far below its terms, and one is exactly zero."""
    names = [line.__name__ for line in LINES]
    exact = close = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        first = int(np.random.default_rng(seed).integers(len(LINES)))
        row = mixed_lines(rng, len(LINES), 12, sign=1)[(names.index("_cancelling") - first) % len(LINES)]
        rng = np.random.default_rng(seed)
        column = mixed_lines(rng, len(LINES), 12, sign=-1)[(names.index("_cancelling") - first) % len(LINES)]
        a, w = row.view(np.uint16)[None], np.ascontiguousarray(column).view(np.uint16)[:, None]
        total = abs(float(reference.product(a, w, None).view(np.float32)[0, 0]))
        largest = float(np.abs(row.astype(float) * column.astype(float)).max())
        exact += total == 0
        close += 0 < total < largest / 500
    assert exact
    assert close


def reverse_order(at: np.ndarray, packed: nm.Packed, acc: np.ndarray) -> np.ndarray:
    """The chain from the last kept element to the first."""
    turned = nm.Packed(
        packed.values[::-1, ::-1], packed.index[::-1, ::-1], packed.filler[::-1, ::-1], packed.k, packed.n, packed.m
    )
    flipped = np.zeros((packed.groups * packed.m, at.shape[1]), np.float32)
    flipped[: at.shape[0]] = at
    blocks = flipped.reshape(packed.groups, packed.m, -1)[::-1].reshape(flipped.shape)
    return HONEST_CHAIN(blocks, turned, acc)


def two_sums(at: np.ndarray, packed: nm.Packed, acc: np.ndarray) -> np.ndarray:
    """Two accumulators, added at the end."""
    half = packed.groups // 2
    parts = [
        nm.Packed(packed.values[s], packed.index[s], packed.filler[s], packed.k, packed.n, packed.m)
        for s in (slice(0, half), slice(half, None))
    ]
    first = HONEST_CHAIN(at, parts[0], acc)
    with np.errstate(all="ignore"):
        return first + HONEST_CHAIN(at[half * packed.m :], parts[1], np.zeros_like(acc))


def wide_sums(at: np.ndarray, packed: nm.Packed, acc: np.ndarray) -> np.ndarray:
    """One rounding at the end instead of one per element."""
    dense = packed.unpack().astype(np.float64)
    with np.errstate(all="ignore"):
        return (acc + dense.T @ at.astype(np.float64)).astype(np.float32)


def flushed(at: np.ndarray, packed: nm.Packed, acc: np.ndarray) -> np.ndarray:
    """Subnormal activations count as zero."""
    return HONEST_CHAIN(np.where(np.abs(at) < 2.0**-14, np.float32(0), at), packed, acc)


def fillers_multiply(at: np.ndarray, packed: nm.Packed, acc: np.ndarray) -> np.ndarray:
    """Fillers and pruned elements are multiplied as zeros: an infinity makes a NaN of them."""
    dense = packed.unpack().astype(np.float32)
    with np.errstate(all="ignore"):
        for k in range(at.shape[0]):
            acc = acc + dense[k][:, None] * at[k][None]
    return acc


HONEST_CHAIN = chains._chain_packed
HONEST_LARGEST = nm._largest


def ties_to_the_right(rows: np.ndarray, n: int) -> np.ndarray:
    """Of equal magnitudes the higher place stays."""
    place = np.arange(rows.shape[1])[:, None]
    rank = np.where(rows < 0, place - 100, rows * 16 + place)
    limit = np.partition(rank, rows.shape[1] - n, axis=1)[:, rows.shape[1] - n : rows.shape[1] - n + 1]
    return rank >= limit


def truncated(y: np.ndarray) -> np.ndarray:
    """Binary16 by leaving bits away."""
    with np.errstate(all="ignore"):
        return (y.view(np.uint32) & np.uint32(0xFFFFE000)).view(np.float32).astype(np.float16)


FAULTS: dict[str, tuple[Any, str, Callable[..., Any], str, Pattern | None]] = {
    "order of additions": (chains, "_chain_packed", reverse_order, "finite", Pattern(2, 8)),
    "two accumulators": (chains, "_chain_packed", two_sums, "finite", Pattern(2, 8)),
    "one rounding at the end": (chains, "_chain_packed", wide_sums, "finite", None),
    "subnormals flushed": (chains, "_chain_packed", flushed, "all", Pattern(2, 8)),
    "0 x infinity of what was pruned": (chains, "_chain_packed", fillers_multiply, "all", Pattern(2, 8)),
    "NaN with a payload": (numeric, "canonical", lambda x: x, "all", None),
    "ties to the higher place": (nm, "_largest", ties_to_the_right, "all", Pattern(1, 2)),
    "smallest instead of largest": (
        nm,
        "_largest",
        lambda rows, n: HONEST_LARGEST(9**6 - rows, n),
        "finite",
        Pattern(2, 8),
    ),
    "signed magnitudes": (nm, "magnitude", lambda w: w.view(np.uint16) ^ np.uint16(0x8000), "finite", Pattern(2, 8)),
    "truncation to binary16": (
        products,
        "to_half",
        truncated,
        "finite",
        Pattern(2, 8),
    ),
}
"""Fault of the simulator's side: where it is planted, the operands and the pattern that show it."""


@pytest.mark.parametrize("name", FAULTS)
def test_planted_faults_are_caught_even_if_the_circuit_shares_them(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module, attribute, wrong, kind, pattern = FAULTS[name]
    monkeypatch.setenv(KERNEL_VARIABLE, "numpy")  # faults are planted in the definition
    honest = operands(kind, pattern)
    assert compare(honest, obedient(honest)).match
    monkeypatch.setattr(module, attribute, wrong)
    job = operands(kind, pattern)  # packed by the faulty functions too
    verdict = compare(job, obedient(job))
    assert not verdict.match
    assert all("reference" in text for text in verdict.differences)
    assert any("of the simulator" in text for text in verdict.differences)


def test_the_command_says_what_it_compared(call: Callable[[str], Outcome], monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the RTL: in its place an answer that equals the simulator's, then one that shares a fault with it."""
    monkeypatch.setattr("nmsat.tb.run.runner.check_tools", lambda: None)
    monkeypatch.setattr(products, "run_products", lambda config, jobs: [obedient(job) for job in jobs])
    line = "verify gemm 24 45 20 --pattern 2:8 --operands all --seed 1"
    values = json.loads(call(f"{line} --json").out)
    assert values["match"] is True
    assert (values["operands"], values["values"]) == ("all", 480)
    assert min(values["kinds"].values()) > 0
    assert (values["source"], values["source_rtl"]) == ("array alone", "array's RTL")
    text = call(line).out
    for said in ("RTL with simulator", "both with the reference", "rounded to binary16", "sign and payload"):
        assert said in text
        assert any(said in line for line in values["compared"])
    assert f"{values['kinds']['nan']} nan" in text
    monkeypatch.setenv(KERNEL_VARIABLE, "numpy")
    monkeypatch.setattr(chains, "_chain_packed", two_sums)
    outcome = call(line)
    assert outcome.code == 1
    assert "MISMATCH" in outcome.out
    assert "values of the RTL differ from the reference; first at row" in outcome.out


@pytest.mark.rtl
@pytest.mark.parametrize("pattern", [None, Pattern(2, 8), Pattern(5, 16)], ids=str)
def test_the_circuit_agrees_on_all_operands(pattern: Pattern | None) -> None:
    jobs = [operands("all", pattern, seed, dataflow) for seed in range(3) for dataflow in ("os", "ws")]
    jobs.append(replace(jobs[0], w=None))
    for verdict in products.verify_products(TINY, jobs):
        assert verdict.differences == ()
