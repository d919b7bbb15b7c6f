"""Writes requirements/*.lock anew: `make lock`, for the oldest Python that nmsat runs on.

Each lock holds exact versions and hashes, no address. It is kept only if every package has a wheel for each Python in
`PYTHONS` on this platform; the sizes that docs/install.md gives are printed at the end. PyTorch alone is not asked for:
its CPU build is on an index of its own, and the hashes of it stand here.

uv takes metadata and hashes from the index. pip-tools would download all files of all packages, about 1,100, wherever
the addresses of files at the index are not those that PyPI's JSON pages tell.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "requirements"
PYTHONS = ("3.11", "3.12", "3.13")
RUN_EXTRAS = ("rtl", "report", "sweep", "onnx")
PARENTS = {"run": "", "test": "run", "lint": "test", "torch": "lint", "dask": "lint", "place": "lint",
           "docs": "lint", "peers": ""}  # fmt: skip
"""Whose versions a level keeps to. The simulators beside which `nmsat compare` runs need an older NumPy than nmsat."""

UNUSED = ("absl-py", "cython", "multiprocessing-on-dill", "numba", "setuptools")
"""What the simulators of `peers` declare and never import where we run them: 240 MB, and one without a wheel."""

TORCH = "2.13.0+cpu"
TORCH_HASHES = {
    "cp311": "6746dbcbeb526eb61330b76b41ff1b4eb848951103a892eeb080dfa2b264667b",
    "cp312": "4ca4a9394b0c771238a4f73590fdbbc4debad85ed0fa63d026ae1b085da7d6e2",
    "cp313": "3fbf9c9d1f3c10c2d59d04aca426dee9ccc6ceb32d255c61e93acc3b4f75fae6",
}
"""The CPU builds for Linux, as PyTorch's own index tells them; that of cp311 was computed from the file too."""

GPU = re.compile(r"(?:nvidia|cuda|triton)[\w.-]*")
"""What the build of the usual index requires for GPUs, several GB, and the CPU build does not."""


def main() -> int:
    """Write all locks or none."""
    with tempfile.TemporaryDirectory(prefix="nmsat-lock-") as name:
        place = Path(name)
        subprocess.run([sys.executable, "-m", "venv", place / "tools"], check=True)
        subprocess.run([place / "tools/bin/pip", "install", "--quiet", "uv"], check=True)
        locks = {level: place / f"{level}.lock" for level in PARENTS}
        unused = place / "unused.txt"
        unused.write_text("".join(f'{name} ; python_version < "3"\n' for name in UNUSED), encoding="utf-8")
        for level, requirements in inputs().items():
            source = place / f"{level}.in"
            source.write_text("\n".join(requirements) + "\n", encoding="utf-8")
            print(f"choosing versions for {level}", flush=True)
            before = ["--constraint", str(locks[PARENTS[level]])] if PARENTS[level] else []
            before += ["--override", str(unused)] if level == "peers" else []
            compile_lock(place, locks[level], [*before, str(source)])
        locks["torch"].write_text(cpu_build(locks["torch"].read_text(encoding="utf-8")), encoding="utf-8")
        pins = {level: names(lock) for level, lock in locks.items()}
        for python in PYTHONS:
            sizes: dict[str, int] = {}
            for level in ("lint", "torch", "dask", "place", "docs"):
                sizes |= wheels(place, locks[level], python)
            others = wheels(place, locks["peers"], python)
            for level, wanted in pins.items():
                size = sum((others if level == "peers" else sizes).get(name, 0) for name in wanted) / 1e6
                print(f"Python {python}: {level:5} {len(wanted):3} packages, {size:6.1f} MB", flush=True)
        FOLDER.mkdir(exist_ok=True)
        for lock in locks.values():
            (FOLDER / lock.name).write_text(plain(lock.read_text(encoding="utf-8")), encoding="utf-8")
    return 0


def inputs() -> dict[str, list[str]]:
    """Return level -> what it requires, from pyproject.toml. lint, torch, dask and place have all of test.

    setuptools is in all of them, as nmsat itself is installed without build isolation. peers stands alone: nmsat is not
    installed beside it.
    """
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    project, extras = pyproject["project"], pyproject["project"]["optional-dependencies"]
    run = [*pyproject["build-system"]["requires"], *project["dependencies"]]
    for extra in RUN_EXTRAS:
        run += extras[extra]
    test = [*run, *extras["test"]]
    groups = pyproject["dependency-groups"]
    more = {"lint": groups["lint"], "torch": groups["torch"], "dask": extras["dask"], "place": groups["place"]}
    docs = [*pyproject["build-system"]["requires"], *extras["docs"], *groups["docs"]]
    found = {"run": run, "test": test, **{level: [*test, *names] for level, names in more.items()}, "docs": docs}
    return {**found, "peers": groups["peers"]}


def cpu_build(lock: str) -> str:
    """Return a lock with the CPU build of PyTorch in the place of that of the usual index, and nothing for GPUs."""
    parts = [part for part in re.split(r"^(?=\S)", lock, flags=re.MULTILINE) if not GPU.match(part)]
    build = f"torch=={TORCH}" + "".join(f" \\\n    --hash=sha256:{digest}" for digest in TORCH_HASHES.values()) + "\n"
    found = [index for index, part in enumerate(parts) if part.startswith(f"torch=={TORCH.partition('+')[0]} ")]
    if len(found) != 1:
        raise ValueError(
            f"the index gave another PyTorch than {TORCH}: name the hashes of its CPU build in .ci/lock.py"
        )
    parts[found[0]] = build
    return "".join(parts)


def compile_lock(place: Path, lock: Path, arguments: list[str]) -> None:
    """Choose the newest versions that fit and have wheels, and write them with the hashes of all their files."""
    options = ["--quiet", "--no-config", "--cache-dir", place / "cache", "--python-version", PYTHONS[0]]
    options += ["--only-binary", ":all:", "--generate-hashes", "--strip-extras", "--no-header", "--no-annotate"]
    command = [place / "tools/bin/uv", "pip", "compile", *options, "--output-file", lock, *arguments]
    subprocess.run(command, check=True, cwd=ROOT, env=os.environ | index(place))


def index(place: Path) -> dict[str, str]:
    """Return where uv finds packages, as variables: at the index of pip, whose configuration uv does not read."""
    command = [place / "tools/bin/pip", "config", "list"]
    told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found = re.findall(r"^\S+\.index-url='(.*)'$", told, re.MULTILINE)
    return {"UV_DEFAULT_INDEX": found[0]} if found else {}


def plain(lock: str) -> str:
    """Return a lock without comments and empty lines."""
    return "".join(f"{line}\n" for line in lock.splitlines() if line and not line.startswith("#"))


def names(lock: Path) -> list[str]:
    """Return the packages of a lock, spelled as files of wheels are."""
    found = re.findall(r"^([\w.-]+)==", lock.read_text(encoding="utf-8"), re.MULTILINE)
    return [re.sub(r"[-_.]+", "_", name).lower() for name in found]


def wheels(place: Path, lock: Path, python: str) -> dict[str, int]:
    """Download the wheels of a lock for a Python: package -> bytes. Fails if one has no wheel, or another hash."""
    folder = place / f"wheels-{lock.stem}-{python}"
    asked = place / f"{lock.stem}-{python}.txt"
    parts = re.split(r"^(?=\S)", lock.read_text(encoding="utf-8"), flags=re.MULTILINE)
    asked.write_text("".join(part for part in parts if not part.startswith(f"torch=={TORCH}")), encoding="utf-8")
    pip = [place / "tools/bin/pip", "download", "--quiet", "--no-deps", "--require-hashes", "--only-binary", ":all:"]
    print(f"looking for wheels for Python {python}", flush=True)
    subprocess.run([*pip, "--python-version", python, "--dest", folder, "--requirement", asked], check=True)
    return {re.sub(r"[-_.]+", "_", f.name.split("-")[0]).lower(): f.stat().st_size for f in folder.iterdir()}


if __name__ == "__main__":
    sys.exit(main())
