"""The page of operators is the one that the reader's tables make."""

from __future__ import annotations

from pathlib import Path

import onnx.defs

from nmsat.reports.commands.operators_page import page, rows


def test_the_page_of_operators() -> None:
    """python -m nmsat.reports.commands.operators_page > docs/operators.md"""
    assert (Path(__file__).resolve().parents[2] / "docs" / "operators.md").read_text(encoding="utf-8") == page()


def test_every_operator_of_the_standard_is_there() -> None:
    fates = {name.removesuffix(" *"): fate for name, fate in rows()}
    assert {schema.name for schema in onnx.defs.get_all_schemas() if not schema.domain} <= set(fates)
    assert fates["Conv"].startswith("on SAT: convolution")
    assert fates["LinearAttention"] == "refused"
    assert fates["NonMaxSuppression"] == "host, unknown cost"
    assert fates["com.microsoft.QuickGelu"].startswith("host: 5 operations")
