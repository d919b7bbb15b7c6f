"""Examples in percent format (docs/examples/*.py) as notebooks: `python .ci/notebook.py FOLDER`.

A line `# %% [markdown]` begins a cell of text, whose lines are comments, `# %%` one of code. The script is the source:
it runs as it is, editors show it in cells, and tests run it. Uses Python's own library only.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MARK = re.compile(r"^# %%(?: (\[markdown\]))?$", re.MULTILINE)


def cells(text: str) -> list[tuple[str, str]]:
    """Return (kind, text) of each cell, kind 'markdown' or 'code'. ValueError for anything before the first."""
    parts = MARK.split(text)
    if parts[0].strip() or len(parts) < 3:
        raise ValueError("an example must begin with a line '# %% [markdown]'")
    found = []
    for mark, body in zip(parts[1::2], parts[2::2], strict=True):
        lines = body.strip("\n").splitlines()
        if mark:
            lines = [line.removeprefix("#").removeprefix(" ") for line in lines]
        found.append(("markdown" if mark else "code", "\n".join(lines)))
    return found


def notebook(text: str) -> str:
    """Return an example as a notebook of format 4.5, without outputs; equal texts give equal files."""
    made = []
    for number, (kind, body) in enumerate(cells(text)):
        cell = {"cell_type": kind, "id": hashlib.sha256(f"{number}{body}".encode()).hexdigest()[:8], "metadata": {}}
        if kind == "code":
            cell |= {"execution_count": None, "outputs": []}
        made.append(cell | {"source": body.splitlines(keepends=True)})
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    book = {"cells": made, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(book, indent=1) + "\n"


def markdown(text: str, name: str) -> str:
    """Return an example as a page, which links to script and notebook beside it."""
    parts = [body if kind == "markdown" else f"```python\n{body}\n```" for kind, body in cells(text)]
    parts.insert(1, f"As [notebook]({name}.ipynb) and as [script]({name}.py).")
    return "\n\n".join(parts) + "\n"


def main(folder: Path) -> None:
    """Write all examples as notebooks into a folder, which is made."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in sorted((ROOT / "docs" / "examples").glob("*.py")):
        (folder / f"{path.stem}.ipynb").write_text(notebook(path.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
