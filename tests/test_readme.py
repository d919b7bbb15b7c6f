"""The README's commands exist, CI runs them, and its links lead somewhere."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

import nmsat

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.conftest import Outcome

ROOT: Final = Path(__file__).resolve().parent.parent
README: Final = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS: Final = re.findall(r"^```sh\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
TWO_COMMANDS: Final = BLOCKS[0].splitlines()
NMSAT_CALLS: Final = re.findall(r"^\.venv/bin/nmsat (.*)$", README, re.MULTILINE)


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
    assert [line for line in lines if line.startswith("make ")] == ["make test", "make lint", "make demo"]
    assert "set -euo pipefail" in lines
    assert (ROOT / ".ci/run").stat().st_mode & 0o111


@pytest.mark.parametrize("line", NMSAT_CALLS)
def test_nmsat_calls_can_be_parsed(call: Callable[[str], Outcome], line: str) -> None:
    assert call(f"{line} --help" if line != "--help" else line).code == 0
    assert line.startswith(("--", *nmsat.COMMANDS))


@pytest.mark.parametrize("document", ["README.md", *(str(p.relative_to(ROOT)) for p in ROOT.glob("docs/*.md"))])
def test_links_lead_to_files(document: str) -> None:
    path = ROOT / document
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", path.read_text(encoding="utf-8"))
    missing = [link for link in links if "://" not in link and not (path.parent / link).exists()]
    assert missing == []


def test_readme_names_every_folder() -> None:
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")} | {"tests"}
    assert set(re.findall(r"^\| `(\w+)/`", README, re.MULTILINE)) == packages
