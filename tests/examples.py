"""Worked examples of the documents: their Python is run, what it prints must be the text block behind it.

`python -m tests.examples` writes what the examples print now into docs/machine/, docs/timing.md and docs/xilinx.md;
look at the difference before you keep it.
"""

from __future__ import annotations

import io
import re
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parent.parent

PAGES: Final = (
    "docs/timing.md",
    "docs/xilinx.md",
    *sorted(str(p.relative_to(ROOT)) for p in (ROOT / "docs" / "machine").glob("*.md")),
)
"""Pages whose Python is run."""

_BLOCK: Final = re.compile(r"^```python\n(.*?)^```\n(?:\n```text\n(.*?)^```\n)?", re.MULTILINE | re.DOTALL)
_ARROW: Final = "  # -> "


def rerun(text: str) -> tuple[str, int]:
    """Return a page with what its Python blocks give now, and how many results it shows.

    The blocks of a page share their names. A line `expression  # -> repr` shows a value; a text block right behind a
    Python block shows what that block printed.
    """
    names: dict[str, Any] = {}
    results = 0

    def replace(match: re.Match[str]) -> str:
        nonlocal results
        code, shown = match.groups()
        printed = io.StringIO()
        with redirect_stdout(printed):
            lines, count = run_lines(code, names)
        results += count
        block = f"```python\n{lines}```\n"
        if shown is None and not printed.getvalue():
            return block
        results += 1
        text = "".join(f"{line.rstrip()}\n" for line in printed.getvalue().splitlines())
        return f"{block}\n```text\n{text}```\n"

    return _BLOCK.sub(replace, text), results


def run_lines(code: str, names: dict[str, Any]) -> tuple[str, int]:
    """Run the lines of a block; return them with their values renewed, and how many there are."""
    out, pending, count = [], [], 0
    for line in code.splitlines():
        expression, arrow, _ = line.partition(_ARROW)
        if not arrow:
            pending.append(line)
            out.append(line)
            continue
        exec("\n".join(pending), names)
        pending = []
        out.append(f"{expression}{_ARROW}{eval(expression, names)!r}")
        count += 1
    exec("\n".join(pending), names)
    return "".join(f"{line}\n" for line in out), count


def main() -> None:
    """Renew all pages."""
    for page in PAGES:
        path = ROOT / page
        before = path.read_text(encoding="utf-8")
        after, results = rerun(before)
        path.write_text(after, encoding="utf-8")
        print(f"{page}: {results} results{', changed' if after != before else ''}")


if __name__ == "__main__":
    main()
