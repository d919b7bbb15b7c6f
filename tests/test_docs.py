"""The documents: worked examples give what the pages show, rooms have their page, every page can be reached."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

import pytest

from nmsat.algorithms.core.vocabulary import METHODS
from tests.examples import PAGES, ROOT, rerun

if TYPE_CHECKING:
    from pathlib import Path

ROOMS: Final = sorted({path.parent.name for path in ROOT.glob("hw/*/__init__.py")} - {"parts", "fp", "release"})
"""Rooms of the machine's parts: each has a page."""

DOCUMENTS: Final = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
README: Final = (ROOT / "README.md").read_text(encoding="utf-8")
WIDTH: Final = 119

TRAINING_WORDS: Final = ("tape", "group", "FF", "BP", "WU", "MVUE", "BDWP", "SDGP", "SR-STE")
MACHINE_WORDS: Final = ("cover", "window", "rectangle", "OS", "WS", "USPE", "STCE", "SORE", "WUVE")


@pytest.mark.parametrize("page", PAGES)
def test_what_a_page_shows_is_what_its_code_gives(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = (ROOT / page).read_text(encoding="utf-8")
    renewed, results = rerun(text)
    assert renewed == text, f"python -m tests.examples renews {page}"
    assert results >= 1 or page.endswith("proof.md")


def test_python_of_the_readme_gives_what_it_shows() -> None:
    shown = [
        block for block in re.findall(r"^```python\n.*?^```\n", README, re.MULTILINE | re.DOTALL) if " # -> " in block
    ]
    assert shown
    assert [rerun(block)[0] for block in shown] == shown


@pytest.mark.parametrize(
    "before", ["```python\nx = 6\nx * 7  # -> 41\n```\n", "```python\nprint(42)\n```\n\n```text\n41\n```\n"]
)
def test_a_wrong_number_is_found(before: str) -> None:
    after, results = rerun(before)
    assert after == before.replace("41", "42")
    assert results == 1


def test_every_room_has_a_page_with_a_worked_example() -> None:
    names = {path.stem for path in (ROOT / "docs" / "machine").glob("*.md")}
    assert names == {"index", "programs", "proof", *ROOMS}
    index = (ROOT / "docs" / "machine" / "index.md").read_text(encoding="utf-8")
    for room in ROOMS:
        assert f"({room}.md)" in index
        assert "## A worked example" in (ROOT / "docs" / "machine" / f"{room}.md").read_text(encoding="utf-8")


def test_the_page_of_the_house_has_all_its_rooms() -> None:
    """Rooms of every part in the table of rooms, others in the row of their folder, as `name` or `name.py`."""
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    shared = set(re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE)) | {"parts", "fp"}
    missing = set()
    for folder in ("algorithms", "dataflow", "sim", "hw", "tb"):
        row = "".join(re.findall(rf"^\| `{folder}/` \| (.*)", text, re.MULTILINE))
        rooms = {path.parent.name for path in ROOT.glob(f"{folder}/*/*.py")} | {
            path.name for path in ROOT.glob(f"{folder}/[!_]*.py")
        }
        missing |= {f"{folder}/{room}" for room in rooms - shared if f"`{room}`" not in row}
    assert missing == set()


@pytest.mark.parametrize("word", TRAINING_WORDS + MACHINE_WORDS)
def test_the_glossary_explains(word: str) -> None:
    text = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")
    assert re.search(rf"^\| (?:[^|]*, )?{word}(?:, [^|]*)? \| \S", text, re.MULTILINE)


def test_every_method_has_its_row() -> None:
    rows = re.findall(r"^\| `([^`]+)` \|.*/", (ROOT / "docs" / "training.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert set(METHODS) - {"dense"} <= set(rows)


def test_every_page_can_be_reached_from_the_readme() -> None:
    seen, pending = set(), [ROOT / "README.md"]
    while pending:
        page = pending.pop()
        if page not in seen and page.suffix == ".md" and page.exists():
            seen.add(page)
            links = re.findall(r"\]\(([^)#:]+)[^)]*\)", page.read_text(encoding="utf-8"))
            pending += [(page.parent / link).resolve() for link in links]
    assert set(DOCUMENTS) - seen == set()


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_lines_have_a_readable_width(path: Path) -> None:
    """Tables and pictures cannot be broken into lines."""
    wide = [
        f"{number}: {len(line)} characters"
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if len(line) > WIDTH and not line.startswith(("|", "!["))
    ]
    assert wide == []


def test_files_named_in_the_documents_exist() -> None:
    """Paths like `hw/load/loader.py`; NAME in one stands for a name of the reader's."""
    folders = "algorithms|dataflow|sim|hw|tb|reports|tests|docs"
    missing = []
    for path in DOCUMENTS:
        if path.name == "CHANGELOG.md":
            continue
        text = path.read_text(encoding="utf-8")
        named = set(re.findall(rf"(?<![\w/.])(?:{folders})/[\w/]+\.(?:py|md|json|svg|vlt|j2)\b", text))
        missing += [f"{path.name}: {name}" for name in sorted(named) if not ("NAME" in name or (ROOT / name).exists())]
    assert missing == []
