"""Opens a page in headless Chromium at several widths at once and tells what is to be seen of it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from html import unescape
from typing import TYPE_CHECKING, Any, Final

import pytest

if TYPE_CHECKING:
    from pathlib import Path

NAMES: Final = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
"""Programs that it may be."""

WIDTHS: Final = {"phone": 390, "desktop": 1280, "print": 688}
"""CSS pixels: a phone, a screen, A4 between margins of 14 mm, under the rules for print."""

_HARNESS: Final = """<!doctype html><meta charset="utf-8">
{frames}
<pre id="found"></pre>
<script>
function media(doc, print) {{
  for (const sheet of doc.styleSheets) for (const rule of sheet.cssRules) {{
    if (!(rule instanceof doc.defaultView.CSSMediaRule) || !print) continue;
    rule.media.mediaText = rule.media.mediaText.startsWith("print") ? "all" : "not all";
  }}
}}
function hidden(node) {{ return node.getClientRects().length === 0; }}
function picture(svg) {{
  const box = svg.getBoundingClientRect(), scale = box.width / svg.viewBox.baseVal.width;
  const view = svg.ownerDocument.defaultView;
  const sizes = [...svg.querySelectorAll("text")].map(t => parseFloat(view.getComputedStyle(t).fontSize) * scale);
  return {{name: svg.closest("section").id, width: box.width, height: box.height, smallest: Math.min(...sizes),
    title: svg.querySelector("title")?.textContent ?? "", words: svg.querySelector("desc")?.textContent ?? "",
    marks: svg.querySelectorAll("path, use, rect").length}};
}}
function look(frame) {{
  const doc = frame.contentDocument, width = frame.clientWidth, view = doc.defaultView;
  media(doc, frame.dataset.print === "yes");
  const wide = [...doc.body.querySelectorAll("*")].filter(n => !n.closest(".scroll > *, svg *") && !hidden(n))
    .filter(n => n.getBoundingClientRect().right > width + 0.5 || n.getBoundingClientRect().left < -0.5)
    .map(n => n.tagName + "." + (n.className.baseVal ?? n.className));
  const scrolls = [...doc.querySelectorAll(".scroll")].map(n => ({{more: n.scrollWidth - n.clientWidth,
    how: view.getComputedStyle(n).overflowX, label: n.getAttribute("aria-label"), tab: n.tabIndex,
    first: view.getComputedStyle(n.querySelector("th")).position}}));
  return {{width, page: doc.documentElement.scrollWidth, wide, scrolls,
    pictures: [...doc.querySelectorAll("figure svg")].map(picture), scripts: doc.querySelectorAll("script").length}};
}}
addEventListener("load", () => {{
  const out = {{}};
  for (const frame of document.querySelectorAll("iframe")) out[frame.id] = look(frame);
  document.getElementById("found").textContent = JSON.stringify(out);
}});
</script>
"""


@dataclass(frozen=True)
class Seen:
    """What a browser shows. at: name of a width -> what was found there; console: its lines."""

    at: dict[str, dict[str, Any]]
    console: list[str]


def browser() -> str:
    """Return the browser; the test is skipped where there is none."""
    found = next((path for name in NAMES if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip("no Chromium here (Debian: apt install chromium)")
    return found


def look_at(page: Path, place: Path) -> Seen:
    """Return what Chromium shows of a page, which may not run scripts. place: a folder for what it needs."""
    frames = "\n".join(
        f'<iframe id="{name}" sandbox="allow-same-origin" src="{page.as_uri()}" '
        f'data-print="{"yes" if name == "print" else "no"}" style="width:{width}px;height:900px;border:0"></iframe>'
        for name, width in WIDTHS.items()
    )
    harness = place / "harness.html"
    harness.write_text(_HARNESS.format(frames=frames), encoding="utf-8")
    dom, console = run_page(harness.as_uri(), place, "--allow-file-access-from-files")
    (found,) = re.findall(r'<pre id="found">(.*?)</pre>', dom, re.DOTALL)
    return Seen(json.loads(unescape(found)), console)


def run_page(address: str, place: Path, *more: str) -> tuple[str, list[str]]:
    """Return the HTML that a page has become once its scripts have run, and the lines of the console.

    place: a folder for what the browser needs; more: other options of it.
    """
    words = ["--headless", "--disable-gpu", "--hide-scrollbars", "--enable-logging=stderr", "--no-first-run", *more]
    words += [f"--user-data-dir={place / 'profile'}", "--virtual-time-budget=20000", "--dump-dom"]
    words += ["--no-sandbox"] if os.geteuid() == 0 else []
    done = subprocess.run([browser(), *words, address], capture_output=True, text=True, check=True, timeout=120)
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]
