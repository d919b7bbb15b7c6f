"""Setting up: the Makefile, the locks, the installer, and what a clean Debian is given."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib import util
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

if TYPE_CHECKING:
    from types import ModuleType

ROOT: Final = Path(__file__).resolve().parent.parent
MAKEFILE: Final = (ROOT / "Makefile").read_text(encoding="utf-8")
LEVELS: Final = ("run", "test", "lint")
LOCKS: Final = {level: (ROOT / "requirements" / f"{level}.lock").read_text(encoding="utf-8") for level in LEVELS}


def script(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Import a script of .ci as its caller would."""
    monkeypatch.syspath_prepend(str(ROOT / ".ci"))
    spec = util.spec_from_file_location(name, ROOT / ".ci" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)
    spec.loader.exec_module(module)
    return module


def pins(level: str) -> dict[str, str]:
    return dict(re.findall(r"^([\w.-]+)==(\S+)", LOCKS[level], re.MULTILINE))


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


# ---------------------------------------------------------------------------------------------------------- locks


@pytest.mark.parametrize("level", LEVELS)
def test_lock_holds_exact_versions_and_hashes_and_nothing_else(level: str) -> None:
    pin = r"[a-z0-9._-]+==[^ \n]+(?: ; [^\n\\]+)?(?: \\\n    --hash=sha256:[0-9a-f]{64})+\n"
    assert re.fullmatch(f"(?:{pin})+", LOCKS[level])
    assert "://" not in LOCKS[level]
    assert len(pins(level)) == LOCKS[level].count("==") > 30


def test_each_lock_holds_all_of_the_one_before() -> None:
    assert pins("run").items() <= pins("test").items() <= pins("lint").items()


def test_locks_hold_what_the_project_declares() -> None:
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    extras = pyproject["project"]["optional-dependencies"]
    declared = {
        "run": [*pyproject["project"]["dependencies"], *extras["rtl"], *extras["report"], *extras["onnx"]],
        "test": extras["test"],
        "lint": pyproject["dependency-groups"]["lint"],
    }
    for level, lines in declared.items():
        assert {normal(re.split(r"[<>=\[ ]", line)[0]) for line in lines} <= {normal(name) for name in pins(level)}
    assert not {"pytest-xdist", "z3-solver", "gmpy2"} & pins("run").keys()
    assert not {"ruff", "basedpyright"} & pins("test").keys()
    assert "softfloat" not in pins("lint")
    assert "torch" not in pins("lint")


def test_the_page_says_how_many_packages_each_lock_holds() -> None:
    page = (ROOT / "docs" / "install.md").read_text(encoding="utf-8")
    told = re.findall(r"^\|[^|]*\| `requirements/(\w+)\.lock` \| (\d+)(?: more)? \|", page, re.MULTILINE)
    counts = [len(pins(level)) for level in LEVELS]
    more = [counts[0], counts[1] - counts[0], counts[2] - counts[1]]
    assert told == [(level, str(count)) for level, count in zip(LEVELS, more, strict=True)]


def test_metadata_has_ranges() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = [*project["dependencies"], *(line for lines in project["optional-dependencies"].values() for line in lines)]
    assert [line for line in lines if "==" in line] == []
    assert set(project["optional-dependencies"]) == {"rtl", "report", "onnx", "torch", "test"}


# ------------------------------------------------------------------------------------------------------- Makefile


def make(*words: str) -> str:
    """Return what make would run."""
    command = ["make", "--dry-run", "--no-print-directory", *words]
    # Variables of a make that runs these tests would be taken for the caller's.
    env = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "TEST", "WAVES", "PYTHON")}
    return subprocess.run(command, cwd=ROOT, env=env, check=True, capture_output=True, text=True).stdout


@pytest.mark.parametrize("target", ["demo", "test", "lint", "engines", "regression", "smoke"])
def test_nothing_is_built_from_source(target: str) -> None:
    assert "--only-binary :all:" in make(target).splitlines()[0]


@pytest.mark.parametrize(("target", "level"), [("demo", "run"), ("engines", "run"), ("test", "test"), ("lint", "lint")])
def test_a_target_installs_what_it_needs(target: str, level: str) -> None:
    assert make(target).startswith(f"python3 .ci/install.py {level} ")


def test_a_python_that_was_asked_for_replaces_that_of_an_older_environment() -> None:
    assert make("demo", "PYTHON=python3.12").startswith("python3.12 .ci/install.py run --chosen ")


def test_one_test_runs_by_name() -> None:
    assert make("test", "TEST=test_add").splitlines()[1] == '.venv/bin/pytest -v -m "" --name "test_add"'
    # What says where the waves lie is shown: pytest keeps what a test prints that passes.
    with_waves = make("test", "TEST=test_add", "WAVES=1").splitlines()[1]
    assert with_waves == '.venv/bin/pytest -v -s -m "" --name "test_add"'
    assert make("test").splitlines()[1] == '.venv/bin/pytest -n auto -m "not long"'
    assert re.search(r"^export WAVES$", MAKEFILE, re.MULTILINE)


@pytest.mark.parametrize(
    ("name", "code", "says"),
    [
        ("test_metadata_has_ranges", 0, "1 passed"),
        ("test_what_needs[b]", 0, "1 passed"),
        ("test_what_needs", 0, "2 passed"),
        ("test_metadata_has_rangs", 4, "close to it: test_metadata_has_ranges"),
        ("test_what_needs[c]", 4, "close to it: test_what_needs[b], test_what_needs[a], test_what_needs"),
    ],
)
def test_name_selects_just_that_test(name: str, code: int, says: str, tmp_path: Path) -> None:
    shutil.copy(ROOT / "tests" / "conftest.py", tmp_path)
    (tmp_path / "test_x.py").write_text(
        "import pytest\ndef test_metadata_has_ranges(): pass\ndef test_metadata_has_ranges_too(): pass\n"
        "@pytest.mark.parametrize('x', ['a', 'b'])\ndef test_what_needs(x): pass\n"
    )
    (tmp_path / "test_y.py").write_text("raise RuntimeError('a file without the test is not read')\n")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "no:cacheprovider",
        "--rootdir",
        tmp_path,
        "--name",
        name,
        tmp_path,
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == code
    assert says in done.stdout + done.stderr


# ------------------------------------------------------------------------------------------------------ installer


def wheel(folder: Path, name: str, version: str) -> str:
    """Write a wheel with one module and return its line for a lock."""
    path = folder / f"{name}-{version}-py3-none-any.whl"
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr(f"{name}.py", f"version = {version!r}\n")
        file.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        file.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        file.writestr(f"{info}/RECORD", "")
    digest = subprocess.run(["sha256sum", path], check=True, capture_output=True, text=True).stdout.split()[0]
    return f"{name}=={version} --hash=sha256:{digest}\n"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a project with the locks run (one), test (one, two) and lint, whose wheels lie in a folder beside it."""
    wheels = tmp_path / "wheels"
    for folder in (wheels, tmp_path / "requirements"):
        folder.mkdir()
    one, two = wheel(wheels, "one", "1"), wheel(wheels, "two", "1")
    for level, text in (("run", one), ("test", one + two), ("lint", one + two)):
        (tmp_path / "requirements" / f"{level}.lock").write_text(text)
    (tmp_path / "pyproject.toml").write_text("")
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    return tmp_path


class Installer:
    """The installer on a small project: calls of pip are counted, the project itself is not installed.

    Parameters: empty: an environment that is copied in the place of making a new one, which takes seconds.
    """

    def __init__(self, root: Path, empty: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.install = script("install", monkeypatch)
        self.root = root
        self.calls: list[tuple[str, ...]] = []
        real = self.install.Environment._pip

        def run(command: list[str], **options: Any) -> subprocess.CompletedProcess[Any]:
            if command[1:3] != ["-m", "venv"]:
                return real_run(command, **options)
            assert command == [sys.executable, "-m", "venv", "--clear", str(root / ".venv")]
            shutil.rmtree(root / ".venv", ignore_errors=True)
            shutil.copytree(empty, root / ".venv", symlinks=True)
            return subprocess.CompletedProcess(command, 0, "", "")

        real_run = self.install.subprocess.run
        monkeypatch.setattr(self.install.subprocess, "run", run)

        def pip(environment: Any, *arguments: str) -> None:
            self.calls.append(arguments)
            if "--editable" in arguments:
                link = root / "build" / "__editable__.nmsat-1" / "nmsat.py"
                link.parent.mkdir(parents=True, exist_ok=True)
                link.touch()
            else:
                real(environment, *arguments)

        monkeypatch.setattr(self.install.Environment, "_pip", pip)

    def bring(self, level: str, *, chosen: bool = False) -> list[tuple[str, ...]]:
        """Bring a level; return the calls of pip that took."""
        self.calls.clear()
        self.install.Environment(self.root, chosen=chosen, options=["--only-binary", ":all:"]).bring(level)
        return list(self.calls)

    def has(self, module: str) -> bool:
        """Whether the environment can import a module."""
        command = [self.root / ".venv/bin/python", "-c", f"import {module}"]
        return subprocess.run(command, check=False, capture_output=True).returncode == 0


@pytest.fixture(scope="session")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an environment with nothing but pip."""
    folder = tmp_path_factory.mktemp("venv") / "empty"
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    return folder


@pytest.fixture
def installer(project: Path, empty: Path, monkeypatch: pytest.MonkeyPatch) -> Installer:
    return Installer(project, empty, monkeypatch)


def test_each_level_brings_what_it_needs_and_a_second_call_nothing(installer: Installer) -> None:
    assert [call[0] for call in installer.bring("run")] == ["--require-hashes", "--no-deps"]
    assert installer.has("one")
    assert not installer.has("two")
    assert installer.bring("run") == []
    assert [call[:3] for call in installer.bring("test")] == [("--require-hashes", "--only-binary", ":all:")]
    assert installer.has("two")
    assert installer.bring("test") == installer.bring("run") == []


def test_an_emptied_build_folder_is_mended(installer: Installer) -> None:
    installer.bring("run")
    shutil.rmtree(installer.root / "build")
    (call,) = installer.bring("run")
    assert call[2:5] == ("--config-settings", "editable_mode=strict", "--editable")
    assert installer.bring("run") == []


def test_python_in_the_environment_starts_without_a_finder_of_ours(tmp_path: Path) -> None:
    for name in ("setup.py", "pyproject.toml", "nmsat.py", "README.md", "LICENSE", "reports"):
        (tmp_path / name).symlink_to(ROOT / name)
    code = "import setuptools.build_meta as m; m.build_editable('.', {'editable_mode': 'strict'})"
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, capture_output=True)
    (built,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(built) as file:
        assert [name for name in file.namelist() if name.endswith(".py")] == []
        (name,) = (name for name in file.namelist() if name.endswith(".pth"))
        place = Path(file.read(name).decode().strip())
    assert [path.name for path in place.iterdir()] == ["nmsat.py"]
    command = [sys.executable, "-c", "import nmsat; print(nmsat.__file__, *nmsat.__path__)"]
    env = {**os.environ, "PYTHONPATH": str(place)}
    told = subprocess.run(command, cwd=place, env=env, check=True, capture_output=True, text=True).stdout
    assert told.split() == [str(place / "nmsat.py"), str(ROOT)]


def test_an_interrupted_installation_starts_anew(installer: Installer) -> None:
    installer.bring("run")
    two = installer.root / "wheels" / "two-1-py3-none-any.whl"
    two.rename(two.with_suffix(".away"))
    with pytest.raises(installer.install.SetupError, match="pip failed"):
        installer.bring("test")
    (installer.root / ".venv" / "left_over").touch()
    two.with_suffix(".away").rename(two)
    assert len(installer.bring("test")) == 2
    assert installer.has("one")
    assert installer.has("two")
    assert not (installer.root / ".venv" / "left_over").exists()


def test_another_lock_or_folder_starts_anew_and_another_project_file_does_not(installer: Installer) -> None:
    installer.bring("run")
    (installer.root / "pyproject.toml").write_text("# other")
    assert [call[0] for call in installer.bring("run")] == ["--no-deps"]
    lock = installer.root / "requirements" / "run.lock"
    lock.write_text(wheel(installer.root / "wheels", "one", "2"))
    assert len(installer.bring("run")) == 2
    state = installer.root / ".venv" / "nmsat.json"
    state.write_text(json.dumps({**json.loads(state.read_text()), "root": "/elsewhere"}))
    assert len(installer.bring("run")) == 2


def test_another_python_counts_only_if_it_was_asked_for(installer: Installer) -> None:
    installer.bring("run")
    state = installer.root / ".venv" / "nmsat.json"
    state.write_text(json.dumps({**json.loads(state.read_text()), "python": "3.99"}))
    assert installer.bring("run") == []
    assert len(installer.bring("run", chosen=True)) == 2


def test_what_has_no_wheel_or_another_hash_is_refused(installer: Installer) -> None:
    source = installer.root / "wheels" / "three-1.tar.gz"
    source.write_bytes(b"")
    lock = installer.root / "requirements" / "run.lock"
    for line in (f"three==1 --hash=sha256:{'0' * 64}\n", f"one==1 --hash=sha256:{'0' * 64}\n"):
        lock.write_text(line)
        with pytest.raises(installer.install.SetupError):
            installer.bring("run")


def test_an_old_python_is_told_what_is_needed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    install = script("install", monkeypatch)
    monkeypatch.setattr(install.sys, "version_info", (3, 10, 1))
    assert install.main(["run"]) == 2
    assert re.fullmatch(r"nmsat needs Python 3\.11 or newer, .* is 3\.10\.1; use .*\n", capsys.readouterr().err)


def test_locks_are_made_with_the_oldest_python_only(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    lock = script("lock", monkeypatch)
    monkeypatch.setattr(lock.sys, "version_info", (3, 13, 0))
    assert lock.main() == 2
    assert "make lock needs Python 3.11" in capsys.readouterr().err


# --------------------------------------------------------------------------------------------------- clean Debian


def test_clean_debian_gets_the_line_and_the_commands_of_the_readme(monkeypatch: pytest.MonkeyPatch) -> None:
    fresh = script("fresh", monkeypatch)
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    line = fresh.apt_line(readme)
    assert line.startswith("apt install ")
    assert {"g++", "make", "perl", "python3-venv"} <= set(line.split())
    assert fresh.readme_commands(readme) == ["make demo", "make test"]
    with pytest.raises(ValueError, match="2 apt lines"):
        fresh.apt_line(f"{readme}\n`apt install more`")


@pytest.mark.parametrize(("uid", "without", "says"), [(1000, "", "root"), (0, "debootstrap", "debootstrap")])
def test_clean_debian_is_skipped_with_a_reason(
    uid: int, without: str, says: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    fresh = script("fresh", monkeypatch)
    monkeypatch.setattr(fresh.os, "geteuid", lambda: uid)
    monkeypatch.setattr(fresh.shutil, "which", lambda name: None if name == without else f"/bin/{name}")
    assert fresh.main([]) == 0
    assert capsys.readouterr().out.startswith(f"fresh: skipped: needs {says}")


def test_clean_debian_is_given_the_settings_of_the_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fresh_host = script("fresh_host", monkeypatch)
    wheels = tmp_path / "some" / "index"
    certificate = tmp_path / "ca.crt"
    wheels.mkdir(parents=True)
    certificate.touch()
    answers = {
        "apt-config": 'Acquire::http::Proxy "http://proxy:1";\nAcquire::IndexTargets "";\nAPT::Other "1";\n',
        "pip": f":env:.cert='x'\nglobal.find-links='file://{wheels}'\ninstall.extra-index-url='a\\nb'\n",
    }
    monkeypatch.setattr(fresh_host, "output", lambda program, *_: answers[program])
    monkeypatch.setattr(fresh_host, "AUTHORITIES", str(tmp_path / "none"))
    shown: list[Path] = []
    monkeypatch.setattr(fresh_host, "show", lambda path, _: shown.append(path))
    for name in [name for name in os.environ if fresh_host.KEPT.fullmatch(name)]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CERT", str(certificate))
    monkeypatch.setenv("https_proxy", "http://proxy:1")
    (tmp_path / "root/etc/apt/apt.conf.d").mkdir(parents=True)
    assert fresh_host.hand_over(tmp_path / "root") == {"PIP_CERT": str(certificate), "https_proxy": "http://proxy:1"}
    assert (tmp_path / "root/etc/apt/apt.conf.d/80host").read_text() == 'Acquire::http::Proxy "http://proxy:1";\n'
    assert (tmp_path / "root/etc/pip.conf").read_text() == (
        f"[global]\nfind-links = file://{wheels}\n\n[install]\nextra-index-url = a\n    b\n"
    )
    assert shown == [certificate, wheels.parent]


def test_no_script_of_the_project_names_a_registry_or_this_machine() -> None:
    files = [*(ROOT / ".ci").iterdir(), ROOT / "Makefile", ROOT / "pyproject.toml"]
    text = "\n".join(path.read_text(encoding="utf-8") for path in files if path.is_file())
    assert re.findall(r"https?://[^\s\"']+", text) == []
    assert str(ROOT.parent) not in text
    assert shutil.which("make")
