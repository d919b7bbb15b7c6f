"""Draws the badges of the README from pyproject.toml and the version: `make badges`, into docs/figures.

Files of this repository, so that no page asks another server for a picture. Uses Python's own library only.
"""

from __future__ import annotations

import re
import sys
import tomllib
from html import escape
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CHARACTER = 7
"""Width of a character as the boxes count it, pixels."""


def badges() -> dict[str, str]:
    """Return name of the file -> picture."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lock = (ROOT / ".ci" / "lock.py").read_text(encoding="utf-8")
    pythons = re.findall(r'"(3\.\d+)"', re.findall(r"^PYTHONS = \((.*)\)$", lock, re.MULTILINE)[0])
    said = (ROOT / "reports" / "version.py").read_text(encoding="utf-8")
    version = re.findall(r'^VERSION: Final = "([^"]+)"$', said, re.MULTILINE)[0]
    told = {"version": version, "python": " | ".join(pythons), "licence": project["license"]}
    return {f"badge_{name}.svg": badge(name, value) for name, value in told.items()}


def badge(name: str, value: str) -> str:
    """Return a picture of two boxes with a word each."""
    left, right = (CHARACTER * len(text) + 12 for text in (name, value))
    text = "text-anchor='middle' y='14' fill='#fff'"
    return (
        f"<svg xmlns='http://www.w3.org/2000/svg' width='{left + right}' height='20' role='img' "
        f"font-family=\"system-ui, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif\" font-size='11'>\n"
        f"<title>{escape(name)}: {escape(value)}</title>\n"
        f"<rect width='{left}' height='20' fill='#404448'/>\n"
        f"<rect x='{left}' width='{right}' height='20' fill='#2b5fad'/>\n"
        f"<text x='{left / 2:g}' {text}>{escape(name)}</text>\n"
        f"<text x='{left + right / 2:g}' {text}>{escape(value)}</text>\n</svg>\n"
    )


def main() -> int:
    """Write all badges."""
    for name, picture in badges().items():
        (ROOT / "docs" / "figures" / name).write_text(picture, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
