"""Tutorials, how-to pages and examples: a reader who types what they say gets what they show."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

import nmsat
from tests.ci_scripts import script
from tests.follow import GUIDES, ROOT, WITH_TORCH, blocks, commands, follow, matches

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.conftest import Outcome

EXAMPLES = sorted(path.name for path in ROOT.glob("docs/examples/*.py"))
HERE = [page for page in GUIDES if page not in WITH_TORCH]


def text(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


@pytest.mark.parametrize("page", HERE)
def test_a_reader_who_follows_a_page_gets_what_it_shows(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert follow(text(page), tmp_path, long=False) == []


@pytest.mark.long
@pytest.mark.parametrize("page", [page for page in HERE if any(block.mark == "long" for block in blocks(text(page)))])
def test_a_reader_who_takes_the_time_gets_what_a_page_shows(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert follow(text(page), tmp_path, long=True) == []


@pytest.mark.parametrize("page", GUIDES)
def test_commands_of_guides_have_these_options(page: str, call: Callable[[str], Outcome]) -> None:
    """Those too that only the long regression, or only the reader, runs."""
    for line in commands(text(page)):
        words = shlex.split(line)
        name = max((name for name in nmsat.COMMANDS if words[: len(name.split())] == name.split()), key=len)
        known = call(f"{name} --help").out
        assert [word for word in words if word.startswith("--") and f" {word}" not in known] == []


@pytest.mark.exact
def test_the_best_machine_of_the_architect_takes_what_the_page_says(call: Callable[[str], Outcome]) -> None:
    """One row of a table that the long regression runs whole: here a change of the machine is seen at once."""
    page = text("docs/tutorials/architect.md")
    cells = re.findall(r"^mlp 8 bdwp 2:8 +small memory.latency_ns=60.0 .* (\d+) +(\d+) +([\d.]+)$", page, re.MULTILINE)
    ((estimate, exact, speedup),) = cells
    line = "model mlp --batch 8 --method bdwp --pattern 2:8 --config small --set memory.latency_ns=60 --json"
    found = json.loads(call(line).out)
    assert (str(found["cycles"]), f"{found['speedup']:.4f}") == (exact, speedup)
    assert f"'2:8', {exact})" in page
    assert estimate == str(round(json.loads(call(f"{line} --estimate").out)["cycles"]))


def test_the_three_readers_have_their_tutorials() -> None:
    assert {page for page in GUIDES if "/tutorials/" in page} == {
        f"docs/tutorials/{name}.md" for name in ("researcher", "fpga", "architect")
    }


@pytest.mark.parametrize(
    ("page", "says"),
    [
        ("```sh\nfalse\n```\n", "exit code 1"),
        ("<!-- fails -->\n```sh\ntrue\n```\n", "exit code 0"),
        ("```sh\necho 1; echo 2\n```\n\n```text\n1\n```\n", "printed\n1\n2\n"),
        ("```python\nx = 6\nx * 7  # -> 41\n```\n", "x * 7  # -> 42"),
        ("```python\nprint(1)\n```\n\n```text\n2\n```\n", "printed\n1\n"),
    ],
)
def test_a_page_that_is_wrong_is_found(page: str, says: str, tmp_path: Path) -> None:
    (wrong,) = follow(page, tmp_path, long=False)
    assert says in wrong


def test_blocks_for_the_reader_and_long_ones_are_left_alone(tmp_path: Path) -> None:
    page = "<!-- reader: sets up -->\n```sh\ntouch a\n```\n\n<!-- long -->\n```sh\ntouch b\n```\n"
    assert follow(page, tmp_path, long=False) == []
    assert {path.name for path in tmp_path.iterdir()} == {".venv", ".venv-torch", "docs"}
    with pytest.raises(ValueError, match="mark is 'slow'"):
        blocks("<!-- slow -->\n```sh\ntrue\n```\n")


@pytest.mark.parametrize(
    ("shown", "printed", "equal"),
    [
        ("a\n...\nc\n", "a\nb\nb\nc\n", True),
        ("a\n...\n", "a \n", True),
        ("...\nb\n", "a\nc\n", False),
        ("a\n", "a\nb\n", False),
        ("a.c\n", "abc\n", False),
    ],
)
def test_dots_stand_for_any_lines(shown: str, printed: str, equal: bool) -> None:
    assert matches(shown, printed) is equal


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_runs_as_it_is(name: str, tmp_path: Path) -> None:
    """Its own assertions hold; with every warning an error, as a reader would see it."""
    command = [sys.executable, "-W", "error", str(ROOT / "docs" / "examples" / name)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_is_a_notebook_with_the_same_code(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    source = (ROOT / "docs" / "examples" / name).read_text(encoding="utf-8")
    book = json.loads(script("notebook", monkeypatch).notebook(source))
    assert (book["nbformat"], book["nbformat_minor"]) == (4, 5)
    assert len({cell["id"] for cell in book["cells"]}) == len(book["cells"])
    assert book["cells"][0]["cell_type"] == "markdown"
    assert "".join(book["cells"][0]["source"]).startswith("# ")
    code = "\n".join("".join(cell["source"]) for cell in book["cells"] if cell["cell_type"] == "code")
    kept = [line for line in code.splitlines() if line]
    assert kept == [line for line in source.splitlines() if line and not re.match(r"#( |$)", line)]
    compile(code, name, "exec")


def test_what_is_no_example_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="must begin with a line"):
        script("notebook", monkeypatch).notebook("import nmsat\n# %%\n")
