"""The page of what each workload says of itself, and rows of measured pages that are renewed alone."""

from __future__ import annotations

import json
import re
from functools import lru_cache
from pathlib import Path
from typing import Final

import numpy as np
import pytest

from nmsat import main
from nmsat.algorithms.workloads import methods
from nmsat.algorithms.workloads.engine.entry import LABELS, entry
from nmsat.algorithms.workloads.engine.registry import Study, Variant, Workload, workloads
from nmsat.reports.commands.workload_entries_page import MISSING, page
from nmsat.reports.pages import workload_page as tables
from nmsat.reports.pages.workload_totals import KnownTotals
from nmsat.reports.work.committed import CYCLES_PAGE
from nmsat.reports.work.text import InputError
from nmsat.reports.work.workload import workload_run, workload_text

ROOT: Final = Path(__file__).resolve().parents[2]
TABLES: Final = ROOT / "reports" / "tables"
REFUSED: Final = """\
from dataclasses import replace
from nmsat.algorithms.workloads.engine.registry import register, _KNOWN
register(replace(_KNOWN["moa"], name="first"))
register(replace(_KNOWN["moa"], name="broken", about="A thing."))
"""
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
    before = (TABLES / CYCLES_PAGE).read_text(encoding="utf-8")
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


def test_a_workload_without_rows_says_what_measures_it(tmp_path: Path) -> None:
    """The page of entries and its rows may be asked for in any order: nothing ends in a KeyError."""
    for path in TABLES.glob("workload*.md"):
        lines = path.read_text(encoding="utf-8").split("\n")
        (tmp_path / path.name).write_text("\n".join(line for line in lines if not line.startswith("| moa |")))
    text = page(tmp_path)
    meaning = workloads()["moa"].variants["nm"]
    assert f"| `moa` | nm | {meaning} |" + f" {MISSING} |" * 5 in text
    asked = text.split("## moa\n")[1].split("\n## ")[0].replace("\n", " ")
    assert f"{MISSING}; `nmsat workload table --studies --rtl --force --only moa` measures it" in asked
    assert MISSING not in _page()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("import nothing_of_this_name", "broken.py is no workload: ModuleNotFoundError: .*'nothing_of_this_name'"),
        ("x = = 1", "broken.py is no workload: SyntaxError: "),
        ("half()", "broken.py is no workload: NameError: .*'half'"),
        (
            REFUSED,
            "broken.py is no workload: ValueError: docstring of workload 'broken' has Source, Known, .* not once",
        ),
    ],
)
@pytest.mark.parametrize("words_of_command", [["list"], ["run", "moa", "--json"], ["table", "--only", "moa"]])
def test_a_module_that_is_wrong_is_one_line(
    text: str,
    words: str,
    words_of_command: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = list(workloads())
    (tmp_path / "broken.py").write_text(text)
    monkeypatch.setattr(methods, "__path__", [*methods.__path__, str(tmp_path)])
    assert main(["workload", *words_of_command]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") <= 2  # of an argument: the usage besides
    assert re.search(words, said.err)
    monkeypatch.undo()
    assert list(workloads()) == before


def test_numbers_that_are_not_finite_are_text(monkeypatch: pytest.MonkeyPatch) -> None:
    measured = {"a": float("nan"), "b": np.float32(-np.inf), "c": np.float64(0.5), "d": np.int64(3)}
    monkeypatch.setattr(Workload, "solved", lambda *_: Study("a claim", False, measured))
    found = workload_run("moa", "small", "nm", estimate=True)
    told = json.loads(json.dumps(found, allow_nan=False))["study"]
    assert told == {"claim": "a claim", "holds": False, "a": "nan", "b": "-inf", "c": 0.5, "d": 3}
    assert "nan" in workload_text(found)
