"""Hooks of MkDocs for the documentation site (mkdocs.yml): what it shows beside docs/, its navigation, its links.

- Pages outside docs/ that pages link to (README.md, CHANGELOG.md, reports/tables/*.md ...) are on the site under
  `repo/`, other files that are linked lie there as they are. Links in the pages stay those that a Git host follows.
- Search works where no server is: `iframe-worker.js` lets it run in pages that were opened as files.
- The reference that .ci/reference.py wrote into build/reference, and the examples as pages and notebooks.
- Navigation is the table `SECTIONS`; pages of docs/ that it does not name follow as "More".
- A page that would load anything from another server ends the build.

Runs in .venv-docs, which has MkDocs and nothing that nmsat needs.
"""

from __future__ import annotations

import posixpath
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from notebook import markdown as example_page
from notebook import notebook

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.pages import Page

ROOT: Final = Path(__file__).resolve().parent.parent
REFERENCE: Final = ROOT / "build" / "reference"
EXAMPLES: Final = "examples"
WORKER: Final = "iframe-worker.js"
OUTSIDE: Final = "repo"
"""Folder of the site for files of the repository that do not lie in docs/."""

SECTIONS: Final[dict[str, tuple[str, ...]]] = {
    "Start": ("index.md", "install.md", "faq.md", "glossary.md"),
    "Tutorials": ("tutorials/*.md", "examples/*.md"),
    "How-to": ("howto/*.md", "sweeps.md", "pytorch.md", "xilinx.md", "outputs.md"),
    "Reference": ("reference.md", "reference/*.md", "registers.md", "operators.md", "limits.md"),
    "Explanation": ("architecture.md", "arithmetic.md", "timing.md", "machine/*.md", "training.md", "workloads.md"),
    "Results": (
        *("predicted.md", "compare.md", "report.md", "engines.md", "verification.md", "workload_entries.md"),
        *("repo/reports/*/*.md",),
    ),
    "Project": ("repo/README.md", "repo/CHANGELOG.md", "contributing.md", "repo/*.md"),
}
"""Heading -> pages, as patterns; one that two patterns match stands where it is first."""

LINK: Final = re.compile(r"(\]\()([^)\s#]*)((?:#[^)\s]*)?\))|((?:src|srcset|href)=\")([^\"#]+)((?:#[^\"]*)?\")")
"""Targets of links in Markdown and in HTML, without their anchors."""

LOADED: Final = {"script": "src", "img": "src", "source": "srcset", "iframe": "src", "link": "href", "use": "href"}
"""Tags that make a browser load what an attribute names; `link` not with every `rel`."""


def slug(text: str, separator: str) -> str:
    """Return the anchor of a heading, as GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", separator)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Give headings the anchors of a Git host."""
    config.mdx_configs.setdefault("toc", {})["slugify"] = slug
    return config


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add reference, examples, and what is linked outside docs/; then set the navigation."""
    if not REFERENCE.is_dir():
        raise PluginError("build/reference is missing; make docs writes it before it calls mkdocs")
    for path in sorted(REFERENCE.glob("*.md")):
        files.append(File.generated(config, f"reference/{path.name}", abs_src_path=str(path)))
    for path in sorted((ROOT / "docs" / EXAMPLES).glob("*.py")):
        text = path.read_text(encoding="utf-8")
        files.append(File.generated(config, f"{EXAMPLES}/{path.stem}.md", content=example_page(text, path.stem)))
        files.append(File.generated(config, f"{EXAMPLES}/{path.stem}.ipynb", content=notebook(text)))
    files.append(File.generated(config, f"assets/{WORKER}", abs_src_path=str(ROOT / ".ci" / WORKER)))
    for place in outside():
        files.append(File.generated(config, f"{OUTSIDE}/{place}", abs_src_path=str(ROOT / place)))
    config.nav = navigation([file.src_uri for file in files.documentation_pages()])
    return files


def outside() -> list[str]:
    """Return the files outside docs/ that pages link to, and those that these link to, in order."""
    found: set[str] = set()
    pending = [str(path.relative_to(ROOT)) for path in ROOT.glob("docs/**/*.md")]
    while pending:
        place = pending.pop()
        for target in targets((ROOT / place).read_text(encoding="utf-8"), place):
            if target not in found and not target.startswith("docs/") and (ROOT / target).is_file():
                found.add(target)
                pending += [target] if target.endswith(".md") else []
    return sorted(found)


def targets(text: str, place: str) -> list[str]:
    """Return the files that a page links to, from the root of the repository. place: where the page lies."""
    found = []
    for match in LINK.finditer(text):
        link = match[2] or match[5]
        if link and "://" not in link and not link.startswith(("mailto:", "/")):
            found.append(posixpath.normpath(posixpath.join(posixpath.dirname(place), link)))
    return found


def navigation(pages: list[str]) -> list[dict[str, list[str]]]:
    """Return the navigation: each page once, those that no section names last."""
    left = dict.fromkeys(sorted(pages))
    found: list[dict[str, list[str]]] = []
    for heading, patterns in (*SECTIONS.items(), ("More", ("*",))):
        own: list[str] = []
        for pattern in patterns:
            # A star does not reach into folders, but as a pattern of its own.
            regex = re.escape(pattern).replace(r"\*", ".*" if pattern == "*" else "[^/]*")
            matching = [page for page in left if re.fullmatch(regex, page)]
            matching.sort(key=lambda page: (not page.endswith("/index.md"), page))
            own += matching
            for page in matching:
                del left[page]
        if own:
            found.append({heading: own})
    return found


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links that hold in the repository into links that hold on the site."""
    here = page.file.src_uri
    if here == "reference.md":
        names = [file.src_uri for file in files.documentation_pages() if file.src_uri.startswith("reference/")]
        markdown += "\n## Generated pages\n\n" + "".join(f"- [{name}]({name})\n" for name in sorted(names))
    place = here.removeprefix(f"{OUTSIDE}/") if here.startswith(f"{OUTSIDE}/") else f"docs/{here}"

    # Badges of a Git host that the site has not.
    markdown = re.sub(r"^\[!\[.*\.\./\.\./actions/.*\n", "", markdown, flags=re.MULTILINE)

    def replaced(match: re.Match[str]) -> str:
        before, link, after = (match[1], match[2], match[3]) if match[1] else (match[4], match[5], match[6])
        if not link or "://" in link or link.startswith(("mailto:", "/")):
            return match[0]
        target = posixpath.normpath(posixpath.join(posixpath.dirname(place), link))
        on_site = target.removeprefix("docs/") if target.startswith("docs/") else f"{OUTSIDE}/{target}"
        if on_site.startswith(f"{EXAMPLES}/") and not here.startswith(f"{EXAMPLES}/"):
            on_site = on_site.replace(".py", ".md")  # the page of an example, which links to the script
        if files.get_file_from_path(on_site) is None:
            return match[0]
        return f"{before}{posixpath.relpath(on_site, posixpath.dirname(here))}{after}"

    return "\n".join(block if code else literal(LINK.sub(replaced, block)) for block, code in blocks(markdown))


def literal(text: str) -> str:
    """Return text in which `[a][b]` is no reference: pages write sizes so, and links in full."""
    return re.sub(r"(`[^`]*`)|\]\[", lambda match: match[1] or r"]\[", text)


def blocks(markdown: str) -> list[tuple[str, bool]]:
    """Return the page in pieces of whole lines, each with whether it is code between fences."""
    pieces: list[tuple[str, bool]] = []
    lines: list[str] = []
    code = False
    for line in markdown.split("\n"):
        if line.startswith("```") and not code:
            pieces.append(("\n".join(lines), False))
            lines, code = [line], True
        elif line.startswith("```"):
            pieces.append(("\n".join([*lines, line]), True))
            lines, code = [], False
        else:
            lines.append(line)
    return [*pieces, ("\n".join(lines), code)]


class Loads(HTMLParser):
    """Collects what a page makes a browser load from another server."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given: dict[str, Any] = dict(attrs)
        told = given.get(LOADED.get(tag, ""), "") or ""
        passive = tag == "link" and given.get("rel") in ("canonical", "next", "prev", "alternate")
        if re.match(r"(?:https?:)?//", told) and not passive:
            self.found.append(f"<{tag}> {told}")


def on_post_build(*, config: MkDocsConfig) -> None:
    """End the build if a page or a style sheet would load anything from another server."""
    site = Path(config.site_dir)
    foreign = []
    for path in sorted(site.rglob("*.html")):
        loads = Loads()
        loads.feed(path.read_text(encoding="utf-8"))
        foreign += [f"{path.relative_to(site)}: {what}" for what in loads.found]
    for path in sorted(site.rglob("*.css")):
        named = re.findall(r"(?:url\(|@import )[\"']?((?:https?:)?//[^\"')]+)", path.read_text(encoding="utf-8"))
        foreign += [f"{path.relative_to(site)}: {what}" for what in named]
    if foreign:
        raise PluginError("loaded from another server:\n" + "\n".join(foreign))
