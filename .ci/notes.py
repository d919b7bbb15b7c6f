"""Prints the notes of a release, from CHANGELOG.md: `make notes`, or `python3 .ci/notes.py VERSION`.

The section of the version without its heading, lines joined as web pages of releases want them. Without a version it is
that of `reports/version.py`. Uses Python's own library only.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def current() -> str:
    """Return the version of this source."""
    text = (ROOT / "reports" / "version.py").read_text(encoding="utf-8")
    return re.findall(r'^VERSION: Final = "([^"]+)"$', text, re.MULTILINE)[0]


def notes(changelog: str, version: str) -> str:
    """Return the notes of a version. ValueError names the versions that the changelog has."""
    sections = dict(re.findall(r"^## (\S+)\n(.*?)(?=^## |\Z)", changelog, re.MULTILINE | re.DOTALL))
    if version not in sections:
        raise ValueError(f"version is {version!r}; CHANGELOG.md has {', '.join(sections)}")
    # A list's next line begins with two spaces, a paragraph's with a letter; both belong to the line before.
    joined = re.sub(r"(?<=\S)\n(?:  )?(?=[^\s\-#|*>])", " ", sections[version].strip())
    return f"# nmsat {version}\n\n{joined}\n"


def main(words: list[str]) -> int:
    """Print the notes; return an exit code."""
    try:
        print(notes((ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), words[0] if words else current()), end="")
    except ValueError as error:
        print(f"notes: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
