"""Pages that a reader follows at a terminal: their blocks run in order, what they show is what came out.

A block of shell lines runs in bash, one of Python in this process; all of a page share names and folder. A text block
right behind is what the block printed on stdout; a line `...` in it stands for any number of lines. A comment in front
of a block says how it is run:

    <!-- long -->          in the long regression alone
    <!-- fails -->         it must end with an exit code other than 0
    <!-- reader: why -->   by the reader alone
"""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from contextlib import redirect_stdout
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from tests.examples import ROOT, run_lines

if TYPE_CHECKING:
    from pathlib import Path

GUIDES: Final = sorted(
    str(path.relative_to(ROOT))
    for path in (*ROOT.glob("docs/*/*.md"), ROOT / "docs" / "faq.md")
    if path.parent.name != "machine"
)
"""Pages that are followed."""

WITH_TORCH: Final = ("docs/tutorials/researcher.md",)
"""Those of them that need PyTorch."""

_BLOCK: Final = re.compile(
    r"(?:^<!-- (?P<mark>[^>]+) -->\n)?^```(?P<kind>sh|python)\n(?P<code>.*?)^```\n(?:\n```text\n(?P<shown>.*?)^```\n)?",
    re.MULTILINE | re.DOTALL,
)
_MARKS: Final = re.compile(r"long|fails|reader: \S.*")
_ANYTHING: Final = "...\n"


@dataclass(frozen=True)
class Block:
    """Code of a page. kind: 'sh' or 'python'; shown: what it prints by the page, None if the page does not say."""

    kind: str
    code: str
    shown: str | None
    mark: str

    @property
    def for_reader(self) -> bool:
        """Whether only a reader runs it."""
        return self.mark.startswith("reader")


def blocks(text: str) -> list[Block]:
    """Return the blocks of a page in order. ValueError for an unknown mark."""
    found = []
    for match in _BLOCK.finditer(text):
        mark = match["mark"] or ""
        if mark and not _MARKS.fullmatch(mark):
            raise ValueError(f"mark is {mark!r}; it must be long, fails or 'reader: why'")
        found.append(Block(match["kind"], match["code"], match["shown"], mark))
    return found


def commands(text: str) -> list[str]:
    """Return the lines of a page that call nmsat, without the path and what is redirected."""
    lines = [line for block in blocks(text) if block.kind == "sh" for line in block.code.splitlines()]
    return [found[1] for line in lines if (found := re.search(r"bin/nmsat ([^>|]*)", line))]


def follow(text: str, folder: Path, *, long: bool) -> list[str]:
    """Run the blocks of a page in a folder and return what was not as the page says. long: those that take longer too.
    Blocks that need what a long one does must be marked long too.
    """
    for name in (".venv", ".venv-torch"):
        (folder / name).symlink_to(sys.prefix)
    (folder / "docs").symlink_to(ROOT / "docs")
    names: dict[str, Any] = {}
    wrong = []
    for block in blocks(text):
        if block.for_reader or (block.mark == "long" and not long):
            continue
        code, printed, told = _shell(block.code, folder) if block.kind == "sh" else _python(block.code, names)
        if (code != 0) is not (block.mark == "fails"):
            wrong.append(f"{block.code}ended with exit code {code}\n{told}")
        elif block.kind == "python" and told != block.code:
            wrong.append(f"{block.code}gives\n{told}")
        elif block.shown is not None and not matches(block.shown, printed):
            wrong.append(f"{block.code}printed\n{printed}and not\n{block.shown}")
    return wrong


def matches(shown: str, printed: str) -> bool:
    """Whether a command printed what a page shows; spaces at the ends of lines do not count."""
    lines = "".join(f"{line.rstrip()}\n" for line in printed.splitlines())
    parts = [re.escape(part) for part in re.split(rf"^{re.escape(_ANYTHING)}", shown, flags=re.MULTILINE)]
    return re.fullmatch("(?:.*\n)*?".join(parts), lines) is not None


def _shell(code: str, folder: Path) -> tuple[int, str, str]:
    """Return exit code, stdout and stderr of shell lines, the first that fails being the last."""
    command = ["bash", "-euo", "pipefail", "-c", code]
    done = subprocess.run(command, cwd=folder, env=os.environ, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


def _python(code: str, names: dict[str, Any]) -> tuple[int, str, str]:
    """Return 0, what the code printed, and the code with its values as they are now."""
    printed = io.StringIO()
    with redirect_stdout(printed):
        renewed, _ = run_lines(code, names)
    return 0, printed.getvalue(), renewed
