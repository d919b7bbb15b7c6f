"""The scripts of .ci, as tests import them."""

from __future__ import annotations

import sys
from importlib import util
from typing import TYPE_CHECKING

from tests.source import ROOT

if TYPE_CHECKING:
    from types import ModuleType

    import pytest


def script(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Import a script of .ci as its caller would."""
    monkeypatch.syspath_prepend(str(ROOT / ".ci"))
    spec = util.spec_from_file_location(name, ROOT / ".ci" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)
    spec.loader.exec_module(module)
    return module
