"""The tutorial for researchers: a reader who types what it says gets what it shows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.follow import ROOT, WITH_TORCH, follow

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("page", WITH_TORCH)
@pytest.mark.parametrize("long", [False, pytest.param(True, marks=pytest.mark.long)])
def test_a_reader_who_follows_the_page_gets_what_it_shows(
    page: str, long: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    assert follow((ROOT / page).read_text(encoding="utf-8"), tmp_path, long=long) == []
