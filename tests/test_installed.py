"""nmsat as a wheel installs it, in a folder where a user has packages of the names of our folders."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from nmsat.reports.version import VERSION
from tests.ci_scripts import script

ROOT: Final = Path(__file__).resolve().parent.parent
FOLDERS: Final = ("algorithms", "dataflow", "hw", "reports", "sim", "tb", "tests")

COMMAND: Final = "import sys; from nmsat.reports.start import main; sys.exit(main())"
"""What the script `nmsat` of an installation does; with -c, the present folder leads the path."""

PAGE: Final = "from nmsat.reports.commands.verification_page import page; page()"

OWN: Final = """
import algorithms, dataflow, hw, reports, sim, tb
import nmsat
from nmsat.sim.api import simulate
assert {sim.mine, tb.mine, hw.mine, algorithms.mine, dataflow.mine, reports.mine} == {True}
assert nmsat.sim is not sim
print(nmsat.__file__, simulate.__module__)
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of packages as a wheel fills it."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "setup.py", "--quiet", "build_py", "--build-lib", folder]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return folder


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """Return a folder with a user's own packages, none of which nmsat may import."""
    for name in FOLDERS:
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise ImportError(f'{__name__} of the user was imported')\n")
    return tmp_path


def python(own: Path, site: Path, code: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Run Python in the user's folder, which leads the path."""
    env = {**os.environ, "PYTHONPATH": f".{os.pathsep}{site}"}
    command = [sys.executable, "-c", code, *words]
    return subprocess.run(command, cwd=own, env=env, check=False, capture_output=True, text=True)


def test_a_wheel_adds_one_name(site: Path) -> None:
    assert [path.name for path in site.iterdir()] == ["nmsat"]
    assert (site / "nmsat" / "py.typed").exists()
    built = {path.relative_to(site / "nmsat").as_posix() for path in (site / "nmsat").rglob("*.py")}
    mine = {path.relative_to(ROOT).as_posix() for name in FOLDERS[:-1] for path in (ROOT / name).rglob("*.py")}
    assert built == mine | {"__init__.py", "__main__.py"}


def test_the_module_is_a_command(own: Path, site: Path) -> None:
    code = "import runpy; runpy.run_module('nmsat', run_name='__main__', alter_sys=True)"
    done = python(own, site, code, "--version")
    assert (done.returncode, done.stderr, done.stdout) == (0, "", f"nmsat {VERSION}\n")


def test_pages_find_their_records_in_a_wheel(own: Path, site: Path) -> None:
    assert python(own, site, PAGE).stderr == ""


@pytest.mark.parametrize("line", ["gemm 8 8 8", "program 8 8 8 --config tiny", "workload list"])
def test_commands_never_meet_a_users_packages(line: str, own: Path, site: Path) -> None:
    done = python(own, site, COMMAND, *line.split())
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout


def test_a_users_packages_work_beside_nmsat(own: Path, site: Path) -> None:
    for name in FOLDERS:
        (own / name / "__init__.py").write_text("mine = True\n")
    done = python(own, site, OWN)
    assert (done.stdout.split(), done.stderr) == ([str(site / "nmsat" / "__init__.py"), "nmsat.sim.api"], "")


def copied(source: Path) -> Path:
    """Copy what a wheel is made of into a folder, so that nothing is built in the project, and return it."""
    for name in (*FOLDERS[:-1], "nmsat.py", "setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE"):
        (shutil.copytree if (ROOT / name).is_dir() else shutil.copy)(ROOT / name, source / name)
    return source


@pytest.mark.rtl
@pytest.mark.long
def test_rtl_never_meets_a_users_packages(own: Path, site: Path) -> None:
    """cocotb's Python inherits the path."""
    done = python(own, site, COMMAND, *["verify", "gemm", "8", "8", "8", "--config", "tiny"])
    assert done.returncode == 0, done.stderr


@pytest.mark.long
def test_wheel_from_pip(own: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    source, site = copied(tmp_path_factory.mktemp("source")), tmp_path_factory.mktemp("site")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "--target", site, source], check=True, capture_output=True)
    names = {path.name for path in site.iterdir() if path.suffix != ".dist-info"}
    assert names == {"bin", "nmsat"}
    assert python(own, site, COMMAND, "gemm", "8", "8", "8").returncode == 0


@pytest.mark.long
def test_the_wheel_works_in_an_empty_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With what it asks for and nothing else; needs the package index. `make dist` takes the wheel of the sdist."""
    dist = script("dist", monkeypatch)
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir"]
    source, place = tmp_path / "source", tmp_path / "place"
    source.mkdir()
    place.mkdir()
    subprocess.run([*pip, tmp_path, copied(source)], check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    assert dist.tried(wheel, place) == []
