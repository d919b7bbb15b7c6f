"""The installer of the checkout: what it brings, when it starts anew, what it refuses."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from tests.ci_scripts import script
from tests.source import ROOT


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
    for level, text in (("run", one), ("test", one + two), ("lint", one + two), ("torch", one + two)):
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
            folder = root / Path(command[-1]).name
            assert command == [sys.executable, "-m", "venv", "--clear", str(folder)]
            shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(empty, folder, symlinks=True)
            return subprocess.CompletedProcess(command, 0, "", "")

        real_run = self.install.subprocess.run
        monkeypatch.setattr(self.install.subprocess, "run", run)

        def pip(environment: Any, *arguments: str, hint: str = "") -> None:
            self.calls.append(arguments)
            if "--editable" in arguments:
                link = root / "build" / "__editable__.nmsat-1" / "nmsat.py"
                link.parent.mkdir(parents=True, exist_ok=True)
                link.touch()
            else:
                real(environment, *arguments, hint=hint)

        monkeypatch.setattr(self.install.Environment, "_pip", pip)

    def bring(self, level: str, *, chosen: bool = False) -> list[tuple[str, ...]]:
        """Bring a level; return the calls of pip that took."""
        self.calls.clear()
        folder = self.install.FOLDERS[level]
        self.install.Environment(self.root, folder, chosen=chosen, options=["--only-binary", ":all:"]).bring(level)
        return list(self.calls)

    def has(self, module: str, folder: str = ".venv") -> bool:
        """Whether an environment can import a module."""
        command = [self.root / folder / "bin/python", "-c", f"import {module}"]
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


def test_pytorch_has_an_environment_of_its_own_and_a_hint(installer: Installer) -> None:
    installer.bring("run")
    (installer.root / "wheels" / "two-1-py3-none-any.whl").rename(installer.root / "two.away")
    with pytest.raises(installer.install.SetupError, match=r"pip failed.*CPU build of PyTorch.*PIP_FIND_LINKS"):
        installer.bring("torch")
    (installer.root / "two.away").rename(installer.root / "wheels" / "two-1-py3-none-any.whl")
    assert [call[0] for call in installer.bring("torch")] == ["--require-hashes", "--no-deps"]
    assert installer.bring("torch") == installer.bring("run") == []
    assert installer.has("two", ".venv-torch")
    assert not installer.has("two")


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
