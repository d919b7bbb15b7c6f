"""The README's commands exist, CI runs them, and its links lead somewhere."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

import nmsat
from tests.follow import GUIDES

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.conftest import Outcome

ROOT: Final = Path(__file__).resolve().parent.parent
README: Final = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS: Final = re.findall(r"^```sh\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
DOCUMENTS: Final = sorted(str(p.relative_to(ROOT)) for folder in ("*.md", "docs/**/*.md") for p in ROOT.glob(folder))
TWO_COMMANDS: Final = BLOCKS[0].splitlines()
PAGES: Final = [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md")), *sorted(ROOT.glob("reports/tables/*.md"))]
TEXTS: Final = "\n".join(path.read_text(encoding="utf-8") for path in PAGES)
FOLLOWED: Final = {ROOT / guide for guide in GUIDES}
PASTED: Final = "\n".join(path.read_text(encoding="utf-8") for path in PAGES if path not in FOLLOWED)
SHOWN: Final = sorted(set(re.findall(r"^(?:    |\.venv/bin/)nmsat (.*)$", PASTED, re.MULTILINE)))
"""Commands in blocks: they can be pasted. Those of guides are run, in order (tests/test_tutorials.py)."""

MENTIONED: Final = sorted(set(re.findall(r"`nmsat ([^`\n]+)`", TEXTS)))
"""Commands within a line, some with placeholders or without their arguments."""


def test_readme_starts_with_two_commands() -> None:
    assert TWO_COMMANDS == ["make demo", "make test"]


@pytest.mark.parametrize("command", [*TWO_COMMANDS, "make lint", "make regression"])
def test_make_knows_the_command_and_sets_up_first(command: str) -> None:
    assert f"`{command}`" in README
    target = command.split()[1]
    rule = re.search(rf"^{target}:(.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert rule is not None
    assert rule[1].strip().startswith("setup-")
    subprocess.run(["make", "--dry-run", target], cwd=ROOT, check=True, capture_output=True)


def test_ci_runs_the_readme_commands_and_lint() -> None:
    lines = (ROOT / ".ci/run").read_text().splitlines()
    assert [line for line in lines if line.startswith("make ")] == [
        "make test",
        "make lint",
        "make demo",
        "make test-torch MARKS='not long'",
        "make test-dask",
        "make docs",
        "make test TEST=test_search_of_the_built_site",
    ]
    assert "set -euo pipefail" in lines
    assert (ROOT / ".ci/run").stat().st_mode & 0o111


@pytest.mark.parametrize("line", SHOWN)
def test_commands_that_are_shown_can_be_parsed(line: str) -> None:
    assert line == "--help" or nmsat.parse(shlex.split(line)).parser is not None


@pytest.mark.parametrize("line", MENTIONED)
def test_commands_that_are_mentioned_have_these_options(call: Callable[[str], Outcome], line: str) -> None:
    words = shlex.split(line)
    name = max((name for name in nmsat.COMMANDS if words[: len(name.split())] == name.split()), key=len)
    known = call(f"{name} --help").out
    assert [word for word in words if word.startswith("--") and f" {word}" not in known] == []


@pytest.mark.parametrize("name", nmsat.COMMANDS)
def test_every_command_stands_in_a_page(name: str) -> None:
    assert f"nmsat {name}" in TEXTS


HOST: Final = "../../actions/workflows/ci.yml"
"""Where a Git host shows how CI ended, from the page of the project."""


def anchors(text: str) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_to_files_and_headings(document: str) -> None:
    path = ROOT / document
    text = path.read_text(encoding="utf-8")
    missing = []
    for link, anchor in re.findall(r"\]\(([^)#]*)#?([^)]*)\)", re.sub(r"`[^`\n]*`", "", text)):
        if "://" in link or link.startswith(HOST):
            continue
        target = path.parent / link if link else path
        if not target.exists() or (anchor and anchor not in anchors(target.read_text(encoding="utf-8"))):
            missing.append(f"{link}#{anchor}")
    assert missing == []


def test_readme_names_every_folder() -> None:
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")} | {"tests"}
    assert set(re.findall(r"^\| `(\w+)/`", README, re.MULTILINE)) == packages
