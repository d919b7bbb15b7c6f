"""What documents and comments say of the source: files and names that are there, numbers that are counted anew."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections import Counter
from typing import Final

import pytest

from nmsat.dataflow.contract.config import INTERLEAVE
from nmsat.dataflow.contract.limits import DRAIN_DELAY, TOKEN_TO_STEP
from nmsat.dataflow.contract.registers import COUNTERS
from nmsat.reports.version import VERSION
from tests.source import ROOT, own_files

CONTRIBUTING: Final = (ROOT / "docs" / "contributing.md").read_text(encoding="utf-8")
LONG_TABLE: Final = CONTRIBUTING.partition("## Long tests")[2].partition("\n## ")[0]
LONG_ROW: Final = re.compile(r"^\| `(tests/[\w/]+\.py)`[^|]*\| (\d*) *\|", re.MULTILINE)


def has_long_tests(text: str) -> bool:
    """Whether a test module marks anything as long: a test, a parameter, or all of itself."""
    return any(isinstance(n, ast.Attribute) and ast.unparse(n) == "pytest.mark.long" for n in ast.walk(ast.parse(text)))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("@pytest.mark.long\ndef test_x(): ...", True),
        ("pytestmark = [pytest.mark.synth, pytest.mark.long]", True),
        ("pytestmark = pytest.mark.long", True),
        ("A = pytest.param(1, marks=pytest.mark.long)", True),
        ("pytestmark = pytest.mark.rtl\nA = 'pytest.mark.long'", False),
    ],
)
def test_every_way_to_mark_long_tests_is_seen(text: str, found: bool) -> None:
    assert has_long_tests(text) is found


def test_every_file_with_long_tests_is_in_the_contributors_page_and_no_other() -> None:
    files = (ROOT / "tests").rglob("test_*.py")
    long = {str(path.relative_to(ROOT)) for path in files if has_long_tests(path.read_text(encoding="utf-8"))}
    assert {name for name, _ in LONG_ROW.findall(LONG_TABLE)} == long


@pytest.mark.long
def test_the_contributors_page_counts_the_long_tests() -> None:
    """Files without a number need an extra (PyTorch) to be collected."""
    command = [sys.executable, "-m", "pytest", "--collect-only", "-qq", "-m", "long", "-p", "no:cacheprovider", "tests"]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    found = {name: int(count) for name, count in re.findall(r"^(tests/\S+\.py): (\d+)$", done.stdout, re.MULTILINE)}
    told: Counter[str] = Counter()
    for name, count in LONG_ROW.findall(LONG_TABLE):
        if count:
            told[name] += int(count)
    assert {name: count for name, count in found.items() if name in told} == dict(told)


def test_names_of_the_contributors_page_are_in_the_source() -> None:
    texts = [path.read_text(encoding="utf-8") for path in own_files().values() if path.name != "test_said.py"]
    words = set(re.findall(r"\w+", " ".join(texts)))
    names = set(re.findall(r"`([A-Za-z]*_\w+|[A-Z]{4,}\w*)`", CONTRIBUTING)) - {"NAME", "FILE", "BENCH", "FILES"}
    assert len(names) > 10
    assert names - words == set()


@pytest.mark.parametrize("name", ["pyproject.toml", "Makefile", "setup.py", "CHANGELOG.md", "MANIFEST.in"])
def test_files_that_settings_name_are_there(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    paths = re.findall(r"\b(?:algorithms|dataflow|hw|sim|tb|reports|tests|docs)/[\w./]*\.\w+", text)
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_the_version_stands_where_the_changelog_says() -> None:
    (name,) = re.findall(r"version\s+stands in `([^`]+)`", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"))
    assert f'"{VERSION}"' in (ROOT / name).read_text(encoding="utf-8")


def test_the_citation_is_of_this_version() -> None:
    """A version that is not released has no date yet."""
    text = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert re.findall(r"^version: (.+)$", text, re.MULTILINE) == [VERSION]
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8").partition(f"## {VERSION}\n")[2].partition("\n## ")[0]
    unreleased = "Not released yet." in changes
    assert unreleased is (re.search(r"^date-released: \d{4}-\d\d-\d\d$", text, re.MULTILINE) is None)


def test_pages_and_figures_say_how_many_counters_there_are() -> None:
    files = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "docs").rglob("*.svg")]
    told = {
        str(path.relative_to(ROOT)): {int(n) for n in re.findall(r"(\d+) counters", path.read_text(encoding="utf-8"))}
        for path in files
    }
    assert {name: counts for name, counts in told.items() if counts - {len(COUNTERS)}} == {}
    assert len([name for name, counts in told.items() if counts]) >= 3


def test_the_page_of_the_array_names_the_numbers_of_its_formula() -> None:
    page = (ROOT / "docs" / "machine" / "array.md").read_text(encoding="utf-8")
    section = page.partition("## How long a product takes")[2].partition("\n## ")[0]
    rows = dict(re.findall(r"^\| (\d+) \|[^|]+\| `([^`]+)` \|$", section, re.MULTILINE))
    places = {"TOKEN_TO_STEP": TOKEN_TO_STEP, "DRAIN_DELAY": DRAIN_DELAY, "INTERLEAVE + 1": INTERLEAVE + 1}
    assert rows == {str(value): name for name, value in places.items()}
    formulas = re.findall(r"\b\d+ \+ 8 \(N - 1\)[^|]+", section)
    assert len(formulas) == 2
    assert all(set(rows) <= set(re.findall(r"\d+", formula)) for formula in formulas)
