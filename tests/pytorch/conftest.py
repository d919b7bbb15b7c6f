"""Packages that the PyTorch tests share: torchvision whose compiled operators may not load, and what imports it."""

# pyright: reportMissingImports=false
# PyTorch is an optional extra: the type checker runs without it.

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

import pytest

OPERATORS = ("nms", "qnms")
"""Compiled operators of torchvision that its front asks for when it is imported; no network of it uses them."""


@pytest.fixture(scope="session")
def vision() -> Any:
    """Return the operators that stand for those of torchvision, None if they load or it is not installed.

    They load beside the PyTorch of the index that the wheel is from only. Without them neither torchvision can be
    imported nor anything that takes it where it finds it, as transformers does.
    """
    if importlib.util.find_spec("torchvision") is None:
        return None
    try:
        importlib.import_module("torchvision")
    except RuntimeError as error:
        assert "does not exist" in str(error)
    else:
        return None
    named = importlib.import_module("torch.library").Library("torchvision", "FRAGMENT")
    for name in OPERATORS:
        named.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    importlib.import_module("torchvision")
    return named  # the operators live as long as this does


@pytest.fixture(scope="session")
def zoo(vision: Any) -> Any:
    """Networks of torchvision."""
    return pytest.importorskip("torchvision.models")


@pytest.fixture(scope="session")
def transformers(vision: Any) -> Any:
    """Hugging Face's networks."""
    return pytest.importorskip("transformers")
