"""The page of what each workload says of itself, and rows of measured pages that are renewed alone."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Final

import pytest

from nmsat.algorithms.workloads.engine.entry import LABELS, entry
from nmsat.algorithms.workloads.engine.registry import Study, Variant, Workload, workloads
from nmsat.reports.commands.workload_entries_page import page
from nmsat.reports.pages import workload_page as tables
from nmsat.reports.pages.workload_totals import KnownTotals
from nmsat.reports.work.text import InputError

ROOT: Final = Path(__file__).resolve().parents[2]
TABLES: Final = ROOT / "reports" / "tables"
TEXT: Final = "A thing.\n\n" + "\n".join(f"{label}: of {label}\n\n    a  = b\n\nmore" for label in LABELS)


@lru_cache(maxsize=1)
def _page() -> str:
    return page()


def test_the_page_is_what_the_workloads_say() -> None:
    """python -m nmsat.reports.commands.workload_entries_page > docs/workload_entries.md"""
    assert (ROOT / "docs" / "workload_entries.md").read_text(encoding="utf-8") == _page()


@pytest.mark.parametrize("name", list(workloads()))
def test_every_workload_says_all_of_it(name: str) -> None:
    item = workloads()[name]
    said = entry(name, item.about or "")
    assert said.what
    assert list(said.sections) == list(LABELS)
    # One entry for all that a module registers, under all its names.
    text = _page()
    assert f"`{name}` | faithful | {item.variants['faithful']} |" in text
    assert f"`{name}` | nm | {item.variants['nm']} |" in text


def test_sections_are_prose_and_literal_lines() -> None:
    said = entry("x", TEXT)
    assert said.what == "A thing."
    assert [(block.text, block.literal) for block in said.sections["Known"]] == [
        ("of Known", False),
        ("a  = b", True),
        ("more", False),
    ]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("A thing.", "has Source, Known, .* not once"),
        (TEXT.replace("Known: ", ""), "has Known not once"),
        (TEXT.replace("Known: ", "Source: "), "has Source, Known not once"),
        (TEXT.replace("Known: ", "*").replace("Source: ", "Known: ").replace("*", "Source: "), "out of order"),
        (TEXT.replace("\n\nSource", "\n\nBefore.\n\nSource"), "text before them"),
        (TEXT.replace("Found here: of Found here\n\n    a  = b\n\nmore", "Found here: "), "nothing under Found here"),
    ],
)
def test_a_docstring_that_says_too_little_is_refused(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=f"docstring of workload 'x' .*{words}"):
        entry("x", text)


def test_rows_of_studies_are_renewed_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Workload, "solved", lambda *_: Study("a claim", True, {"found": 0.5}))
    before = (TABLES / tables.STUDIES_PAGE).read_text(encoding="utf-8")
    told: list[str] = []
    after = tables.studies_page(told.append, ["moa"], before)
    assert told == ["moa faithful", "moa nm"]
    assert [line for line in after.split("\n") if not line.startswith("| moa |")] == [
        line for line in before.split("\n") if not line.startswith("| moa |")
    ]
    renewed = [line for line in after.split("\n") if line.startswith("| moa |")]
    assert len(renewed) == 2
    assert all("| a claim | yes | found 0.5 |" in line for line in renewed)


def test_rows_of_rtl_runs_are_renewed_alone_and_added_up(monkeypatch: pytest.MonkeyPatch) -> None:
    def verified(_name: str, _variant: Variant, _config: object, _count: int) -> dict[str, object]:
        check = {"how": "dense", "pattern": "dense", "stage": "ff", "match": True, "product": "p"}
        return {"match": True, "checks": [check], **dict.fromkeys(tables.RTL_COLUMNS, 1000)}

    monkeypatch.setattr(tables, "workload_verify", verified)
    before = (TABLES / tables.RTL_PAGE).read_text(encoding="utf-8")
    after = tables.rtl_page(lambda _: None, ["moa"], before)
    old, new = tables.table_rows(before), tables.table_rows(after)
    assert [key for key in old if old[key] != new[key]] == [("moa", "faithful"), ("moa", "nm"), ("all", "")]

    def number(rows: tables.Rows, key: tuple[str, str], heading: str) -> int:
        return int(dict(rows[key])[heading].replace(" ", ""))

    for heading in ("products", "results", "cycles RTL"):
        moved = sum(1000 - number(old, ("moa", variant), heading) for variant in ("faithful", "nm"))
        assert number(new, ("all", ""), heading) == number(old, ("all", ""), heading) + moved


@pytest.mark.parametrize(
    ("before", "words"),
    [
        ("", "a page that is whole"),
        ("| a | b |\n| --- | --- |\n| moa |\n", "a page that is whole"),
        ("| workload | variant |\n| --- | --- |\n| moa | nm |\n", "the page has no row of epie, "),
    ],
)
def test_a_page_without_the_other_rows_is_refused(before: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        tables.studies_page(print, ["moa"], before)


def test_rows_of_cycles_are_renewed_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "_cells", lambda *_: tuple("123456789abcd"))
    before = (TABLES / tables.CYCLES_PAGE).read_text(encoding="utf-8")
    told: list[str] = []
    after = tables.cycles_page(KnownTotals.read(TABLES), told.append, 1, ["sparse-ot-map"], before)
    assert {text.partition(",")[0] for text in told} == {"sparse-ot-map faithful", "sparse-ot-map nm"}
    old, new = before.split("\n"), after.split("\n")
    assert len(old) == len(new)
    moved = [line for left, line in zip(old, new, strict=True) if left != line]
    cells = " | ".join("123456789abcd")
    assert moved == [f"| sparse-ot-map | {variant} | {cells} |" for variant in ("faithful", "nm")] * 2
    with pytest.raises(InputError, match="has no two tables"):
        tables.cycles_page(KnownTotals.read(TABLES), print, 1, ["moa"], "# Nothing\n")
