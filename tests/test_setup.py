"""Setting up: the Makefile, the locks, and what a clean Debian is given."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from contextlib import nullcontext
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import pytest

from nmsat.hw.parts.cache import Cleared, clear_caches
from tests.ci_scripts import script
from tests.source import ROOT

MAKEFILE: Final = (ROOT / "Makefile").read_text(encoding="utf-8")
LEVELS: Final = ("run", "test", "lint", "torch", "dask", "place", "docs")
ALL: Final = (*LEVELS, "peers")
LOCKS: Final = {level: (ROOT / "requirements" / f"{level}.lock").read_text(encoding="utf-8") for level in ALL}


def pins(level: str) -> dict[str, str]:
    return dict(re.findall(r"^([\w.-]+)==(\S+)", LOCKS[level], re.MULTILINE))


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


# ---------------------------------------------------------------------------------------------------------- locks


@pytest.mark.parametrize("level", ALL)
def test_lock_holds_exact_versions_and_hashes_and_nothing_else(level: str) -> None:
    pin = r"[a-z0-9._-]+==[^ \n]+(?: ; [^\n\\]+)?(?: \\\n    --hash=sha256:[0-9a-f]{64})+\n"
    assert re.fullmatch(f"(?:{pin})+", LOCKS[level])
    assert "://" not in LOCKS[level]
    assert len(pins(level)) == LOCKS[level].count("==") > 20


def test_each_lock_holds_all_of_the_one_before() -> None:
    assert pins("run").items() <= pins("test").items() <= pins("lint").items()
    assert pins("test").items() <= pins("torch").items()
    assert pins("test").items() <= pins("dask").items()
    assert pins("test").items() <= pins("place").items()
    for level in ("torch", "dask", "place", "docs"):
        assert {pins(level)[name] == pins("lint")[name] for name in pins(level).keys() & pins("lint").keys()} == {True}


def test_locks_hold_what_the_project_declares() -> None:
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    extras = pyproject["project"]["optional-dependencies"]
    declared = {
        "run": [*pyproject["project"]["dependencies"], *extras["rtl"], *extras["report"], *extras["onnx"]],
        "test": extras["test"],
        "lint": pyproject["dependency-groups"]["lint"],
        "torch": [*pyproject["dependency-groups"]["torch"], *extras["torch"]],
        "dask": extras["dask"],
        "place": pyproject["dependency-groups"]["place"],
        "docs": [*pyproject["dependency-groups"]["docs"], *extras["docs"]],
        "peers": pyproject["dependency-groups"]["peers"],
    }
    for level, lines in declared.items():
        assert {normal(re.split(r"[<>=\[ ]", line)[0]) for line in lines} <= {normal(name) for name in pins(level)}
    assert not {"pytest-xdist", "z3-solver", "gmpy2"} & pins("run").keys()
    assert not {"ruff", "basedpyright"} & pins("test").keys()
    assert "softfloat" not in pins("lint")
    assert "torch" not in pins("lint")
    assert not {"numpy", "amaranth", "pytest"} & pins("docs").keys()
    assert "distributed" not in pins("torch")
    assert not {"pytest", "amaranth"} & pins("peers").keys()


def test_the_lock_of_the_peers_leaves_out_what_has_no_wheel(monkeypatch: pytest.MonkeyPatch) -> None:
    lock = script("lock", monkeypatch)
    assert not set(lock.UNUSED) & {normal(name) for name in pins("peers")}
    assert tuple(map(int, pins("peers")["numpy"].split(".")[:2])) < (2, 4)


def test_the_page_says_how_many_packages_each_lock_holds() -> None:
    page = (ROOT / "docs" / "install.md").read_text(encoding="utf-8")
    told = re.findall(r"^\|[^|]*\| `requirements/(\w+)\.lock` \| (\d+)(?: more)? \|", page, re.MULTILINE)
    counts = {"run": str(len(pins("run"))), "test": str(len(pins("test")) - len(pins("run")))}
    counts |= {level: str(len(pins(level)) - len(pins("test"))) for level in ("lint", "torch", "dask", "place")}
    counts |= {level: str(len(pins(level))) for level in ("docs", "peers")}
    assert dict(told) == counts
    assert len(told) == len(ALL)


def test_the_lock_of_pytorch_names_its_cpu_build_and_nothing_for_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    lock = script("lock", monkeypatch)
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["dependency-groups"]["torch"]
    assert f"torch=={lock.TORCH.partition('+')[0]}" in version
    build = f"torch=={lock.TORCH} \\\n" + " \\\n".join(f"    --hash=sha256:{d}" for d in lock.TORCH_HASHES.values())
    assert f"\n{build}\n" in LOCKS["torch"]
    assert [name for name in pins("torch") if lock.GPU.match(name)] == []


def test_the_cpu_build_takes_the_place_of_the_other_one(monkeypatch: pytest.MonkeyPatch) -> None:
    lock = script("lock", monkeypatch)
    hashes = " \\\n    --hash=sha256:" + "0" * 64 + "\n"
    usual = "".join(
        f"{pin}{hashes}" for pin in ("numpy==1", "nvidia-nccl==1", "torch==2.13.0", "torchvision==1", "triton==3")
    )
    text = lock.cpu_build(usual)
    assert re.findall(r"^(\S+)==", text, re.MULTILINE) == ["numpy", "torch", "torchvision"]
    assert "torch==2.13.0+cpu" in text
    assert text.count("--hash") == 2 + len(lock.TORCH_HASHES)
    with pytest.raises(ValueError, match="another PyTorch than"):
        lock.cpu_build(usual.replace("2.13.0", "2.14.0"))


def test_metadata_has_ranges() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = [*project["dependencies"], *(line for lines in project["optional-dependencies"].values() for line in lines)]
    assert [line for line in lines if "==" in line] == []
    extras = {"rtl", "report", "sweep", "dask", "onnx", "images", "torch", "docs", "test"}
    assert set(project["optional-dependencies"]) == extras


class Tools:
    """Stands for pip and uv while locks are made: one package, with a wheel for each Python but those `lacking`."""

    def __init__(self, *lacking: str) -> None:
        self.lacking = lacking
        self.compiled: list[tuple[list[str], dict[str, str]]] = []
        self.downloaded: list[str] = []

    def run(self, command: list[object], **how: Any) -> subprocess.CompletedProcess:
        words = [str(word) for word in command]
        configured = ":env:.index-url='https://mirror/simple'\nglobal.index-url='https://other/simple'\n"
        told = configured if words[1:] == ["config", "list"] else ""
        if words[1:3] == ["pip", "compile"]:
            self.compiled.append((words, how["env"]))
            lock = f"# by uv\none==1 \\\n    --hash=sha256:{'0' * 64}\n"
            path = Path(words[words.index("--output-file") + 1])
            other = lock.replace("# by uv\none==1", "torch==2.13.0") if path.stem == "torch" else ""
            path.write_text(lock + other, encoding="utf-8")
        if words[1] == "download":
            if words[words.index("--python-version") + 1] in self.lacking:
                raise subprocess.CalledProcessError(1, words)
            folder = Path(words[words.index("--dest") + 1])
            folder.mkdir()
            asked = Path(words[words.index("--requirement") + 1])
            assert re.findall(r"^(\S+)==", asked.read_text(encoding="utf-8"), re.MULTILINE) == ["one"]
            self.downloaded.append(asked.stem.partition("-")[0])
            (folder / "one-1-py3-none-any.whl").write_bytes(b"wheel")
        return subprocess.CompletedProcess(words, 0, told, "")


@pytest.mark.parametrize("lacking", [(), ("3.13",)])
def test_locks_are_written_all_or_none(
    lacking: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    lock, tools = script("lock", monkeypatch), Tools(*lacking)
    monkeypatch.setattr(lock.subprocess, "run", tools.run)
    monkeypatch.setattr(lock, "FOLDER", tmp_path)
    with pytest.raises(subprocess.CalledProcessError) if lacking else nullcontext():
        lock.main()
    text = f"one==1 \\\n    --hash=sha256:{'0' * 64}\n"
    build = f"{text}torch=={lock.TORCH}" + "".join(f" \\\n    --hash=sha256:{d}" for d in lock.TORCH_HASHES.values())
    texts = {level: f"{build}\n" if level == "torch" else text for level in ALL}
    written = {path.name: path.read_text(encoding="utf-8") for path in tmp_path.iterdir()}
    assert written == ({} if lacking else {f"{level}.lock": text for level, text in texts.items()})
    assert tools.downloaded == len(lock.PYTHONS[: -1 if lacking else None]) * [
        *("lint", "torch", "dask", "place", "docs", "peers")
    ]


def test_locks_are_for_the_oldest_python_from_the_index_of_pip(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    lock, tools = script("lock", monkeypatch), Tools()
    monkeypatch.setattr(lock.subprocess, "run", tools.run)
    monkeypatch.setattr(lock, "FOLDER", tmp_path)
    lock.main()
    assert len(tools.compiled) == len(ALL)
    for words, env in tools.compiled:
        given = dict(pairwise(words))
        assert given["--python-version"] == "3.11"
        assert given["--only-binary"] == ":all:"
        assert Path(given["--cache-dir"]).parent == Path(given["--output-file"]).parent
        assert env["UV_DEFAULT_INDEX"] == "https://mirror/simple"
    constraints = [dict(pairwise(words)).get("--constraint", "none") for words, _ in tools.compiled]
    before = ["none", "run.lock", "test.lock", *4 * ["lint.lock"], "none"]
    assert [Path(name).name for name in constraints] == before
    overrides = [Path(dict(pairwise(words)).get("--override", "none")).name for words, _ in tools.compiled]
    assert overrides == ["none"] * len(LEVELS) + ["unused.txt"]


# ------------------------------------------------------------------------------------------------------- Makefile


def make(*words: str) -> str:
    """Return what make would run."""
    command = ["make", "--dry-run", "--no-print-directory", *words]
    # Variables of a make that runs these tests would be taken for the caller's.
    env = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "TEST", "WAVES", "PYTHON")}
    return subprocess.run(command, cwd=ROOT, env=env, check=True, capture_output=True, text=True).stdout


@pytest.mark.parametrize(
    "target",
    [
        *("setup", "demo", "test", "lint", "engines", "regression", "smoke"),
        *("test-torch", "test-dask", "test-peers", "placed", "docs"),
    ],
)
def test_nothing_is_built_from_source(target: str) -> None:
    assert "--only-binary :all:" in make(target).splitlines()[0]


@pytest.mark.parametrize(
    ("target", "level"),
    [
        *(("demo", "run"), ("engines", "run"), ("test", "test"), ("lint", "lint")),
        *(("test-torch", "torch"), ("test-dask", "dask"), ("docs", "docs"), ("setup", "run")),
        ("placed", "place"),
    ],
)
def test_a_target_installs_what_it_needs(target: str, level: str) -> None:
    assert make(target).startswith(f"python3 .ci/install.py {level} ")


def test_a_python_that_was_asked_for_replaces_that_of_an_older_environment() -> None:
    assert make("demo", "PYTHON=python3.12").startswith("python3.12 .ci/install.py run --chosen ")


def test_one_test_runs_by_name() -> None:
    assert make("test", "TEST=test_add").splitlines()[1] == '.venv/bin/pytest -v -m "" --name "test_add"'
    # What says where the waves lie is shown: pytest keeps what a test prints that passes.
    with_waves = make("test", "TEST=test_add", "WAVES=1").splitlines()[1]
    assert with_waves == '.venv/bin/pytest -v -s -m "" --name "test_add"'
    assert make("test").splitlines()[1] == '.venv/bin/pytest -n auto -m "not long" --record out/test.json'
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


def test_tests_of_pytorch_may_not_be_skipped(tmp_path: Path) -> None:
    (line,) = (line for line in make("test-torch").splitlines() if "pytest" in line)
    assert line == '.venv-torch/bin/pytest -n auto -m "" --no-skip tests/pytorch'
    shutil.copy(ROOT / "tests" / "conftest.py", tmp_path)
    (tmp_path / "test_x.py").write_text("import pytest\ndef test_x(): pytest.importorskip('none_such')\n")
    (tmp_path / "test_y.py").write_text("import pytest\npytest.importorskip('none_such')\n")
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--rootdir", tmp_path]
    for options, code in (([], 0), (["--no-skip", "--continue-on-collection-errors"], 1)):
        done = subprocess.run([*command, *options, tmp_path], cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == code
    assert done.stdout.count("\nnone may be skipped here: Skipped: could not import 'none_such'") == 2
    assert "1 failed, 1 error" in done.stdout


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
    # The name of SVG in XML looks like an address; nothing is asked there.
    assert set(re.findall(r"https?://[^\s\"']+", text)) <= {"http://www.w3.org/2000/svg"}
    assert str(ROOT) not in text
    assert shutil.which("make")


def test_the_folder_of_clean_debians_is_a_cache_that_nmsat_clears(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fresh = script("fresh", monkeypatch)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("NMSAT_BUILD_DIR", str(tmp_path / "nmsat"))
    fresh.mark()
    fresh.cache().mkdir()
    (fresh.cache() / "bookworm.tar").write_bytes(bytes(9))
    assert clear_caches() == Cleared(9)
