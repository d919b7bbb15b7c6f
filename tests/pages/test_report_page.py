"""The page of a report: all figures, readable on a phone, a screen and paper, by screen readers, without scripts."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import re
from html import unescape
from itertools import combinations
from typing import TYPE_CHECKING, Any, Final
from xml.etree import ElementTree

import pytest

import nmsat
from nmsat.reports.pages.figure import KINDS
from nmsat.reports.pages.full_report import FIGURES
from nmsat.reports.work.standing import Standing
from nmsat.sim.work.timed import Memory
from tests.conftest import stand_in
from tests.pages.browser import WIDTHS, Seen, look_at
from tests.pages.html import Reader
from tests.pages.picture import pixels_on_phone, size_of, texts, words

if TYPE_CHECKING:
    from pathlib import Path

LINE: Final = "report --networks resnet9,vgg19 --patterns 2:8,2:16 --batch 2 --json"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a report whose cycles are stand-ins (tests.conftest)."""
    out = tmp_path_factory.mktemp("report") / "out"
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()):
        patch.setattr("nmsat.reports.work.timings.Timings", Memory)
        stand_in(patch)
        assert nmsat.main([*LINE.split(), "--out", str(out), "--quiet"]) == 0
    return out


@pytest.fixture(scope="module")
def page(folder: Path) -> str:
    return (folder / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def seen(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Seen:
    return look_at(folder / "report.html", tmp_path_factory.mktemp("browser"))


def record(folder: Path, name: str) -> dict[str, Any]:
    return json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))


def section(page: str, name: str) -> str:
    """Return the section of a figure, its tags gone but for tables' rows."""
    (found,) = re.findall(rf'<section class="figure" id="{name}".*?</section>', page, re.DOTALL)
    return found


def test_nothing_is_wider_than_the_screen(seen: Seen) -> None:
    for name, width in WIDTHS.items():
        found = seen.at[name]
        assert found["width"] == width
        assert found["page"] <= width, name
        assert found["wide"] == [], name


@pytest.mark.parametrize("name", WIDTHS)
def test_all_figures_are_there_and_can_be_read(seen: Seen, name: str) -> None:
    pictures = seen.at[name]["pictures"]
    assert [item["name"] for item in pictures] == list(FIGURES)
    for item in pictures:
        assert item["width"] >= 300 and item["height"] >= 80, item["name"]
        assert item["smallest"] >= (9.5 if name == "print" else 11), item["name"]
        assert item["title"] and re.search(r"\d", item["words"]), item["name"]
        assert item["marks"] > 5, item["name"]


@pytest.mark.parametrize("name", WIDTHS)
def test_tables_scroll_where_they_are_wider_than_the_page(seen: Seen, name: str) -> None:
    scrolls = seen.at[name]["scrolls"]
    assert len(scrolls) == len(FIGURES)
    assert all(item["label"] and item["tab"] == 0 for item in scrolls)
    if name == "phone":
        assert {item["how"] for item in scrolls} == {"auto"}
        assert sum(item["more"] > 0 for item in scrolls) >= 5  # or the width says nothing
        assert {item["first"] for item in scrolls} == {"sticky"}
    if name == "print":
        assert [item["label"] for item in scrolls if item["more"] > 0] == []


def test_no_scripts_and_no_complaints(seen: Seen, page: str) -> None:
    assert seen.console == []
    assert {found["scripts"] for found in seen.at.values()} == {0}
    assert re.findall(r"""(?:src|srcset|@import|url\()\s*=?\s*["']?(?!#)\w+:?//""", page) == []
    links = re.findall(r'<a href="([^"]+)"', page)
    assert {link for link in links if not link.startswith("#")} == {f"{n}.{kind}" for n in FIGURES for kind in KINDS}


@pytest.mark.parametrize(
    ("more", "what"),
    [
        ('<div style="width: 2000px">x</div>', "wide"),
        ("<script>1</script>", "console"),
    ],
)
def test_a_page_with_a_fault_is_found(tmp_path: Path, page: str, more: str, what: str) -> None:
    file = tmp_path / "bad.html"
    file.write_text(page.replace("</main>", f"{more}</main>"), encoding="utf-8")
    found = look_at(file, tmp_path)
    assert bool(found.console) is (what == "console")
    assert [bool(found.at[name]["wide"]) for name in WIDTHS] == [what == "wide"] * 3


def test_the_page_is_html_and_its_links_lead_somewhere(folder: Path, page: str) -> None:
    reader = Reader()
    reader.feed(page)
    assert reader.open == []
    assert reader.counts["section"] == reader.counts["figure"] == reader.counts["svg"] == len(FIGURES)
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    for link in re.findall(r'<a href="([^"]+)"', page):
        assert link[1:] in ids if link.startswith("#") else (folder / link).is_file(), link


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_names_command_configuration_version_and_standing(folder: Path, page: str, name: str) -> None:
    found, shown = record(folder, name), section(page, name)
    text = unescape(re.sub(r"<[^>]+>", "", shown))
    assert found["command"].startswith("nmsat ") and found["command"] in text
    assert nmsat.parse(found["command"].split()[1:]).parser is not None
    assert found["config"] in text and found["version"] in text and nmsat.VERSION in found["version"]
    assert found["standing"] and set(found["standing"]) <= {str(standing) for standing in Standing}
    for standing in found["standing"]:
        assert f'<span class="standing {standing}">' in shown
    assert {row["standing"] for row in found["rows"]} <= set(found["standing"])
    assert found["caption"] in text and all(note in text for note in found["notes"])


@pytest.mark.parametrize("name", FIGURES)
def test_the_files_of_a_figure_are_whole(folder: Path, name: str) -> None:
    svg = (folder / f"{name}.svg").read_text(encoding="utf-8")
    title, description = words(svg)
    assert title == record(folder, name)["title"]
    assert description.startswith(record(folder, name)["caption"])
    assert "currentColor" not in svg and nmsat.VERSION in svg
    assert ElementTree.fromstring(svg) is not None
    png = (folder / f"{name}.png").read_bytes()
    width, height = (int.from_bytes(png[at : at + 4], "big") for at in (16, 20))
    assert png[:8] == b"\x89PNG\r\n\x1a\n" and width == 960
    assert height / width == pytest.approx(size_of(svg)[1] / size_of(svg)[0], abs=0.01)
    rows = list(csv.DictReader(io.StringIO((folder / f"{name}.csv").read_text(encoding="utf-8"))))
    expected = record(folder, name)["rows"]
    assert rows == [{key: "" if value is None else str(value) for key, value in row.items()} for row in expected]
    assert rows


@pytest.mark.parametrize("name", FIGURES)
def test_texts_of_a_picture_are_large_enough_and_apart(folder: Path, name: str) -> None:
    svg = (folder / f"{name}.svg").read_text(encoding="utf-8")
    width, height = size_of(svg)
    assert pixels_on_phone(svg) >= 11
    shown = [text for text in texts(svg) if text.text != "·"]
    assert [text.text for text in shown if text.box[0] < -1 or text.box[1] < -1] == []
    assert [text.text for text in shown if text.box[2] > width + 1 or text.box[3] > height + 1] == []
    assert [(one.text, other.text) for one, other in combinations(shown, 2) if one.meets(other)] == []
