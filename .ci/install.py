"""Installs into .venv what a make target needs: `python3 .ci/install.py LEVEL [OPTION OF PIP ...]`.

Each level, run, test and lint, has a lock that holds all of the level before in the same versions. The level torch
holds all of test and goes into .venv-torch: PyTorch is large, and from another index; dask likewise into .venv-dask,
as few need a cluster, and place, which holds a placer, into .venv-place. docs holds what makes the documentation site
and checks a release, and nothing that nmsat imports, in .venv-docs. What is installed already is left alone, so a
second call takes no time. An installation that was cut short starts anew, and two calls at once wait for each other.
Uses Python's own library only, and runs on any Python 3 far enough to say what is wrong.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OLDEST = (3, 11)
LEVELS = ("run", "test", "lint")
FOLDERS = {**dict.fromkeys(LEVELS, ".venv"), "torch": ".venv-torch", "dask": ".venv-dask",
           "place": ".venv-place", "docs": ".venv-docs"}  # fmt: skip
HINTS = {"torch": "; requirements/torch.lock names the CPU build of PyTorch, which is on PyTorch's own index for CPUs: "
         "PIP_EXTRA_INDEX_URL tells pip of it, or PIP_FIND_LINKS of a folder with the file"}  # fmt: skip


class SetupError(Exception):
    """The environment cannot be set up; the text says why and what to do."""


class Environment:
    """The folder of a level, and what was installed into it, which a file inside it tells.

    Parameters: root: folder of the project. name: that of the environment's. chosen: this Python was asked for, so an
        environment of another one is replaced. options: options of pip for all that comes from a lock.
    """

    def __init__(self, root: Path, name: str = ".venv", *, chosen: bool, options: list[str]) -> None:
        self.root = root
        self.folder = root / name
        self.python = self.folder / "bin" / "python"
        self.options = options
        self.state = self._read()
        # Programs in .venv/bin hold the path of the folder.
        self._base = {"python": f"{sys.version} {sys.base_prefix}", "root": str(root)}
        same = [self.state.get(key) == value for key, value in self._base.items() if chosen or key != "python"]
        current = [self.digest(level) == digest for level, digest in self.state.get("levels", {}).items()]
        self.usable = bool(self.state.get("whole")) and all(same + current) and self.python.exists()

    def lock(self, level: str) -> Path:
        """Return the lock of a level."""
        return self.root / "requirements" / f"{level}.lock"

    def digest(self, level: str) -> str:
        """Return what changes whenever the lock of a level does."""
        return hashlib.sha256(self.lock(level).read_bytes()).hexdigest()

    def bring(self, level: str) -> None:
        """Install what a level needs and the environment lacks."""
        if not self.usable:
            self._create()
        if level not in self.state["levels"]:
            lock = self.lock(level)
            count = sum("==" in line for line in lock.read_text(encoding="utf-8").splitlines())
            print(f"setting up {self.folder.name}: {count} packages of {lock.relative_to(self.root)}", flush=True)
            self._write(whole=False)
            self._pip("--require-hashes", *self.options, "--requirement", str(lock), hint=HINTS.get(level, ""))
            held = LEVELS[: LEVELS.index(level) + 1] if level in LEVELS else (level,)
            self._write(whole=True, levels={name: self.digest(name) for name in held})
        project = hashlib.sha256((self.root / "pyproject.toml").read_bytes()).hexdigest()
        if self.state.get("project") != project or not self._linked():
            # Without build isolation: setuptools is in the locks like everything else. Strict: a link to nmsat.py in
            # build/ instead of a finder, which every start of Python in .venv would load, half of the start of nmsat.
            strict = ("--config-settings", "editable_mode=strict")
            self._pip("--no-deps", "--no-build-isolation", *strict, "--editable", str(self.root))
            self._write(project=project)

    def _linked(self) -> bool:
        """Whether the link that makes `import nmsat` work is there; a user may empty build/."""
        return any(link.exists() for link in self.root.glob("build/__editable__.*/nmsat.py"))

    def _create(self) -> None:
        """Make a new, empty environment in the place of any older one."""
        command = [sys.executable, "-m", "venv", "--clear", str(self.folder)]
        made = subprocess.run(command, capture_output=True, text=True, check=False)
        if made.returncode:
            said = f"{made.stdout}{made.stderr}".strip()
            raise SetupError(f"Python's venv failed; Debian has it in the package python3-venv\n{said}")
        self.state = {**self._base, "levels": {}}

    def _pip(self, *arguments: str, hint: str = "") -> None:
        quiet = [] if sys.stdout.isatty() else ["--quiet"]
        command = [str(self.python), "-m", "pip", "install", "--disable-pip-version-check", *quiet, *arguments]
        if subprocess.run(command, cwd=self.root, check=False).returncode:
            raise SetupError(f"pip failed, see above; the next call starts anew{hint}")

    def _read(self) -> dict:
        """Return what the environment holds, nothing if that cannot be told."""
        try:
            state = json.loads((self.folder / "nmsat.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return state if isinstance(state, dict) else {}

    def _write(self, **changes: object) -> None:
        """Change what the environment says of itself, whole or not at all."""
        self.state.update(changes)
        part = self.folder / "nmsat.json.part"
        part.write_text(json.dumps(self.state, indent=1), encoding="utf-8")
        part.replace(self.folder / "nmsat.json")


def main(arguments: list[str]) -> int:
    """Set up and return an exit code."""
    chosen = "--chosen" in arguments
    words = [word for word in arguments if word != "--chosen"]
    if not words or words[0] not in FOLDERS:
        print(f"usage: install.py {'|'.join(FOLDERS)} [--chosen] [OPTION OF PIP ...]", file=sys.stderr)
        return 2
    if sys.version_info < OLDEST:
        found = ".".join(map(str, sys.version_info[:3]))
        wanted = ".".join(map(str, OLDEST))
        print(
            f"nmsat needs Python {wanted} or newer, {sys.executable} is {found}; use make PYTHON=python{wanted} ...",
            file=sys.stderr,
        )
        return 2
    os.environ.pop("PYTHONHOME", None)
    with Path(__file__).open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        try:
            Environment(ROOT, FOLDERS[words[0]], chosen=chosen, options=words[1:]).bring(words[0])
        except SetupError as error:
            print(f"set-up failed: {error}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        print("set-up interrupted; the next call starts anew", file=sys.stderr)
        sys.exit(130)
