"""Reads pages as a strict parser would: what is opened is closed, in order."""

from __future__ import annotations

from collections import Counter
from html.parser import HTMLParser
from typing import Final

VOID: Final = {"meta", "link", "br", "img", "hr", "input"}


class Reader(HTMLParser):
    """open: tags that are not closed yet; counts: of all tags. AssertionError for a tag that closes another one."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.counts: Counter[str] = Counter()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note a tag."""
        del attrs
        self.counts[tag] += 1
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note a tag that is closed at once, as in SVG."""
        del attrs
        self.counts[tag] += 1

    def handle_endtag(self, tag: str) -> None:
        """Close the innermost tag."""
        assert self.open, f"{tag} closes nothing"
        assert self.open.pop() == tag
