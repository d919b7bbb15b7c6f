"""What the documentation site, containers, CI of a Git host and releases are made of, as far as needs no MkDocs.

`make docs` builds the site, in strict mode, and reads the YAML files by their schemas; CI runs it.
"""

from __future__ import annotations

import ast
import dataclasses
import json
import re
import subprocess
from functools import cache
from importlib import util
from typing import TYPE_CHECKING, Any, Final, get_args

import msgspec
import pytest

import nmsat
from nmsat.dataflow.contract.config import MemoryConfig, SatConfig
from nmsat.dataflow.contract.isa import INSTRUCTIONS
from nmsat.dataflow.contract.machine_file import MACHINE_FIELDS
from nmsat.reports.version import VERSION
from nmsat.reports.work.sweep_schema import sweep_schema
from tests.ci_scripts import script
from tests.pages.browser import run_page
from tests.source import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.conftest import Outcome

README: Final = (ROOT / "README.md").read_text(encoding="utf-8")
IMAGES: Final = ("Dockerfile", ".devcontainer/Dockerfile", ".github/workflows/ci.yml")


@cache
def reference() -> dict[str, str]:
    """Return the generated pages."""
    with pytest.MonkeyPatch.context() as patch:
        pages: dict[str, str] = script("reference", patch).pages()
    return pages


# ------------------------------------------------------------------------------------------------------ reference


@pytest.mark.parametrize("name", nmsat.COMMANDS)
def test_the_reference_has_every_option_that_help_tells(name: str, call: Callable[[str], Outcome]) -> None:
    section = reference()["commands.md"].partition(f"\n## nmsat {name}\n")[2].partition("\n## ")[0]
    flags = set(re.findall(r"(?<![\w-])--[a-z][\w-]*", call(f"{name} --help").out.partition("example:")[0]))
    known = set(re.findall(r"(?<![\w-])--[a-z][\w-]*", section)) | {"--help"}
    assert flags <= known
    assert len(section.splitlines()) > 5


def test_the_reference_has_every_field_of_a_machine() -> None:
    rows = re.findall(r"^\| `([\w.]+)` \|", reference()["configuration.md"], re.MULTILINE)
    fields = [field.name for field in dataclasses.fields(SatConfig) if field.name != "memory"]
    memory = [f"memory.{field.name}" for field in dataclasses.fields(MemoryConfig)]
    assert rows[: len(fields) + len(memory)] == fields + memory


def test_the_reference_has_every_key_of_a_sweep() -> None:
    section = reference()["configuration.md"].partition("\n## A sweep\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `([\w.]+)` \|", section, re.MULTILINE)
    fields = [f"set.{name}" for name in MACHINE_FIELDS if name != "name"]
    work = ["config", "network", "batch", "method", "pattern"]
    assert sorted(rows) == sorted([*work, *fields, "random.points", "random.seed"])
    assert set(rows) == set(keys(sweep_schema()))


def keys(schema: Any) -> list[str]:
    """Return the keys of a schema, those of a table within it with its name in front; of ranges none."""
    found = []
    for field in msgspec.structs.fields(schema):
        kinds = [field.type, *get_args(field.type)]
        tables = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, msgspec.Struct)]
        table = next((kind for kind in tables if kind.__name__ != "Span"), None)
        found += [field.encode_name] if table is None else [f"{field.encode_name}.{key}" for key in keys(table)]
    return found


def test_the_reference_has_every_field_of_every_instruction() -> None:
    page = reference()["instructions.md"]
    for opcode, layout in INSTRUCTIONS.items():
        section = page.partition(f"\n## {opcode.name}\n")[2].partition("\n## ")[0]
        assert re.findall(r"^\| [\d:]+ \| `(\w+)` \|", section, re.MULTILINE) == list(layout.by_name)
        assert f"| {layout.bits - 1}:" in section


def test_the_reference_names_modules_that_exist() -> None:
    modules = re.findall(r"^::: (\S+)$", reference()["python.md"], re.MULTILINE)
    assert len(modules) > 10
    assert [name for name in modules if not (ROOT / name.removeprefix("nmsat.").replace(".", "/")).is_dir()
            and util.find_spec(name) is None] == []  # fmt: skip


def test_what_guides_import_is_in_the_reference() -> None:
    """Tutorials, how-to pages and examples use public modules only."""
    known = set(re.findall(r"^::: (\S+)$", reference()["python.md"], re.MULTILINE))
    texts = [path.read_text(encoding="utf-8") for path in (ROOT / "docs" / "examples").glob("*.py")]
    for page in (ROOT / "docs").glob("*/*.md"):
        if page.parent.name != "machine":
            texts += re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    imports = {node.module for text in texts for node in ast.walk(ast.parse(text)) if isinstance(node, ast.ImportFrom)}
    used = {name for name in imports if name is not None and name.startswith("nmsat.")}
    assert used
    assert used - known == set()


# --------------------------------------------------------------------------------------- search where no server is


def test_a_worker_runs_in_a_page_that_was_opened_as_a_file(tmp_path: Path) -> None:
    """Without the script it does not: the test would see it if browsers came to start workers there."""
    (tmp_path / "w.js").write_text("addEventListener('message', e => postMessage([e.data, self === parent]));")
    page = """<!doctype html><title>x</title>{shim}<body><pre id="found">none</pre><script>
    const worker = new Worker("w.js");
    worker.addEventListener("message", e => document.getElementById("found").textContent = JSON.stringify(e.data));
    worker.postMessage({{a: [1]}});
    </script>"""
    shim = f"<script>{(ROOT / '.ci' / 'iframe-worker.js').read_text(encoding='utf-8')}</script>"
    told = {}
    for name, script_text in (("with", shim), ("without", "")):
        (tmp_path / f"{name}.html").write_text(page.format(shim=script_text))
        told[name] = run_page((tmp_path / f"{name}.html").as_uri(), tmp_path)
    assert '<pre id="found">[{"a":[1]},false]</pre>' in told["with"][0]
    assert told["with"][1] == []
    assert '<pre id="found">none</pre>' in told["without"][0]
    assert any("SecurityError" in line for line in told["without"][1])


def test_the_site_loads_that_script_and_no_other_servers() -> None:
    """The plug-in `offline` adds one of another server unless one of this name is there."""
    settings = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    assert re.findall(r"^  polyfills: \[(.*)\]$", settings, re.MULTILINE) == ["assets/iframe-worker.js"]
    assert {"  - search", "  - offline"} <= set(settings.splitlines())
    assert 'WORKER: Final = "iframe-worker.js"' in (ROOT / ".ci" / "site.py").read_text(encoding="utf-8")


@pytest.mark.long
@pytest.mark.parametrize("page", ["index.html", "machine/array.html"])
def test_search_of_the_built_site(page: str, tmp_path: Path) -> None:
    """Opened as a file it finds what the pages say, and nothing where they say nothing."""
    site = ROOT / "out" / "site"
    if not (site / page).is_file():
        pytest.skip("there is no site to look at: make docs")
    found = {}
    for word in ("transposer", "semaphore", "qwertzuiopasdf"):
        text, console = run_page(f"{(site / page).as_uri()}?q={word}", tmp_path)
        assert console == []
        found[word] = re.findall(r'<a href="file://([^"?#]*)[^"]*" class="md-search-result__link"', text)
    assert f"{site}/machine/update.html" in found["transposer"]
    assert f"{site}/machine/control.html" in found["semaphore"]
    assert found["qwertzuiopasdf"] == []


# ------------------------------------------------------------------------------------------ containers, CI, badges


@pytest.mark.parametrize("name", IMAGES)
def test_a_container_gets_what_the_readme_asks_for(name: str) -> None:
    """And git and certificates, which a bare Debian has not and a reader with a clone has."""
    text = (ROOT / name).read_text(encoding="utf-8")
    assert "debian:bookworm" in text
    installed = re.findall(r"apt-get install --yes (?:--no-install-recommends )?(.*?)(?: \\)?\n", text)
    (asked,) = re.findall(r"`apt install ([^`]+)`", README)
    wanted = [{*asked.split(), "git", "ca-certificates"}]
    if name.endswith("ci.yml"):
        wanted = [*wanted, {"tcl", "iverilog"}] * 2  # in each job also what tests run where it is installed
    assert [set(words.split()) for words in installed] == wanted


def test_containers_set_up_by_make() -> None:
    settings = json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text(encoding="utf-8"))
    folder = ROOT / ".devcontainer"
    assert (folder / settings["build"]["dockerfile"]).is_file()
    user = settings["remoteUser"]
    assert f" {user}\n" in (folder / "Dockerfile").read_text(encoding="utf-8")
    docker = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    commands = [settings["postCreateCommand"], *re.findall(r"^RUN (make .*)$", docker, re.MULTILINE)]
    assert len(commands) == 2
    for command in commands:
        subprocess.run([*command.split(), "--dry-run"], cwd=ROOT, check=True, capture_output=True)


def test_ci_of_the_git_host_runs_what_ci_runs() -> None:
    text = (ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8")
    assert re.findall(r"^ +run: (?!apt)(.*)$", text, re.MULTILINE) == ["bash .ci/run", "bash .ci/presets"]


def test_ci_reads_the_verilog_of_every_preset_and_places_units() -> None:
    """None may be skipped, so both readers are there; long ones are among them."""
    script = ROOT / ".ci" / "presets"
    assert script.stat().st_mode & 0o111
    assert [line for line in script.read_text(encoding="utf-8").splitlines()[2:] if not line.startswith("cd ")] == [
        "set -euo pipefail",
        "make setup-test",
        '.venv/bin/pytest -v -m "" --no-skip --name test_slang_and_icarus_read_every_preset',
        "make placed",
    ]


def test_badges_say_what_is_true(monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = script("badges", monkeypatch).badges()
    assert f"version: {VERSION}<" in pictures["version.svg"]
    for name, picture in pictures.items():
        assert f"(docs/badges/{name})" in README
        assert (ROOT / "docs" / "badges" / name).read_text(encoding="utf-8") == picture, "make badges"


# -------------------------------------------------------------------------------------------------------- releases


def test_notes_of_a_release_are_its_section(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    notes = script("notes", monkeypatch)
    changes = "# Changes\n\nText.\n\n## 2\n\n- one\n  goes on\n- two\n\n| a |\n|---|\n| b |\n\n## 1\n\nOld\nnews.\n"
    assert notes.notes(changes, "2") == "# nmsat 2\n\n- one goes on\n- two\n\n| a |\n|---|\n| b |\n"
    assert notes.notes(changes, "1") == "# nmsat 1\n\nOld news.\n"
    assert notes.main(["2"]) == 2
    assert capsys.readouterr().err == "notes: version is '2'; CHANGELOG.md has 0.2.0, 0.1.0\n"
    assert notes.main([]) == 0
    assert capsys.readouterr().out.startswith(f"# nmsat {VERSION}\n\n")


def test_the_empty_environment_is_held_to_the_versions_of_the_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = script("dist", monkeypatch).constraints().splitlines()
    lock = (ROOT / "requirements" / "run.lock").read_text(encoding="utf-8")
    assert len(lines) == lock.count("==") > 30
    assert all(re.fullmatch(r"[\w.-]+==\S+", line) for line in lines)
