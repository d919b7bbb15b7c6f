"""Long reductions: the chains that are measured are the contract's, and their error stays below binary16 rounding."""

from __future__ import annotations

import math
from typing import Final

import numpy as np
import pytest

from nmsat.algorithms.core.numeric import ordered_dot
from nmsat.algorithms.training.accumulation import CASES, chain, measure, survey, synthetic, table

HALF_ROUNDING: Final = 2.0**-10 * math.sqrt(3 / (8 * math.log(2)) / 12)
"""Root mean square relative error of rounding to binary16, 2.1e-4: uniform error, values log-uniform in a binade."""


@pytest.mark.parametrize("case", CASES)
def test_the_measured_chain_is_the_contract(case: str) -> None:
    a, w = synthetic(case, 700, 5)
    got = chain(a.astype(np.float32) * w.astype(np.float32))
    want = [ordered_dot(a[:, i : i + 1].T, w[:, i : i + 1])[0, 0] for i in range(5)]
    assert got.tolist() == want


def test_chunks_are_chains_whose_sums_are_chained() -> None:
    products = np.random.default_rng(1).standard_normal((10, 3)).astype(np.float32)
    total = np.zeros(3, np.float32)
    for part in (products[:4], products[4:8], products[8:]):
        inner = np.zeros(3, np.float32)
        for row in part:
            inner = inner + row
        total = total + inner
    assert chain(products, 4).tolist() == total.tolist()


def test_the_reference_sum_is_exact_enough() -> None:
    a, w = synthetic("rectified", 20_000, 2)
    products = a.astype(np.float32) * w.astype(np.float32)
    exact = [math.fsum(column) for column in products.T.tolist()]
    assert np.allclose(products.sum(axis=0, dtype=np.float64), exact, rtol=1e-12, atol=0)


def test_error_grows_slowly_and_stays_below_the_rounding_that_follows() -> None:
    results = [r for r in survey(lengths=(1000, 30_000), chunks=(1024,), outputs=32) if r.case != "outlier"]
    for r in results:
        assert r.error < 0.05 * HALF_ROUNDING
        assert r.after_half == pytest.approx(HALF_ROUNDING, rel=0.5)
    long = [r for r in results if r.terms == 30_000]
    for one, cut in zip(long[::2], long[1::2], strict=True):
        assert (one.chunk, cut.chunk) == (0, 1024)
        assert cut.error < one.error


def test_a_built_outlier_shows_the_weak_spot() -> None:
    one, cut = measure("outlier", *synthetic("outlier", 100_000, 2), chunks=[1024])
    assert one.error == pytest.approx(99_999 * 2.0**-16 / 1024, rel=2e-3)
    assert cut.error < one.error / 50


def test_unknown_cases_are_named() -> None:
    with pytest.raises(ValueError, match="noise"):
        synthetic("noise", 10, 1)


def test_table_has_a_line_for_each_case() -> None:
    found = survey(lengths=(500, 4000), chunks=(1024,), outputs=4)
    head, *lines = table(found).splitlines()
    assert head.split() == ["500", "4,000", "in", "1,024s"]
    assert [line[:9].strip() for line in lines] == list(CASES)
    errors = {(row.case, row.terms, row.chunk): f"{row.error:.1e}" for row in found}
    assert lines[0][9:].split() == [errors["zero mean", *rest] for rest in ((500, 0), (4000, 0), (4000, 1024))]
