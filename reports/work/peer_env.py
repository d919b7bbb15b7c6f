"""The environment of the simulators beside which `nmsat compare` runs: made on request, kept in the caches.

They need an older NumPy than nmsat, so they have a Python environment of their own, whose packages a lock names with
their hashes; pip takes them from wherever it is set up to look. Nothing is built from source.
"""

from __future__ import annotations

import hashlib
import logging
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from nmsat.algorithms.core.caches import cache_root
from nmsat.algorithms.core.signals import held
from nmsat.hw.parts.cache import cache_folder, writing_cache
from nmsat.reports.work.compare_names import PACKAGES
from nmsat.reports.work.text import InputError, printable

if TYPE_CHECKING:
    from collections.abc import Sequence

ROOM: Final = "peers"
"""Folder of the caches that holds the environments, each named by lock and Python."""

LOCK: Final = Path(__file__).resolve().parents[2] / "requirements" / "peers.lock"

SETUP: Final = "nmsat compare --setup"
"""What makes the environment, in messages."""

DRIVER: Final = Path(__file__).resolve().with_name("peer_driver.py")
"""What runs in the environment; it imports nothing of nmsat."""

_SECONDS: Final = 3600
"""Longest time that pip may take."""

_SHOWN: Final = 300
"""Most characters of another program's last words."""

_LOG: Final = logging.getLogger("nmsat")


@dataclass(frozen=True)
class Peers:
    """An environment that is there. python: its interpreter."""

    python: Path


def find_peers() -> Peers | None:
    """Return the environment of the present lock and Python, None if it has not been made or its Python is gone."""
    python = _folder(cache_root() / ROOM) / "bin" / "python"
    return Peers(python) if python.exists() else None


def make_peers() -> tuple[Peers, bool]:
    """Return the environment, and whether it was made just now; one that does not work is made anew.

    Raises InputError if it cannot be made, CacheError if the cache folder cannot be written.
    """
    found = find_peers()
    if found is not None and not any(broken(found, name) for name in PACKAGES):
        return found, False
    folder = _folder(cache_folder(ROOM))
    with writing_cache(folder.parent):
        part = folder.parent / f".{folder.name}-{secrets.token_hex(4)}"
        try:
            _install(part)
            for name in PACKAGES:
                if why := broken(Peers(part / "bin" / "python"), name):
                    raise InputError(f"the environment of {PACKAGES[name]} was made and does not work: {why}")
            with held():
                if folder.exists():
                    shutil.rmtree(folder)
                part.rename(folder)
        finally:
            with held():
                shutil.rmtree(part, ignore_errors=True)
    return Peers(folder / "bin" / "python"), True


def broken(peers: Peers, name: str) -> str:
    """Return in one line why a simulator cannot be imported there, '' if it can."""
    code = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({name!r}) is None)"
    try:
        done = subprocess.run([peers.python, "-I", "-c", code], capture_output=True, text=True, check=False)
    except OSError as error:
        return f"{str(peers.python)!r} does not run: {error.strerror or error}"
    if done.returncode == 0:
        return ""
    return last_words(done.stderr) or f"package {name!r} is not there"


def last_words(text: str) -> str:
    """Return the last line of what a program said, printable and not too long; '' if it said nothing."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return printable(lines[-1])[:_SHOWN] if lines else ""


def _folder(room: Path) -> Path:
    """Return the folder of the environment of the present lock and Python."""
    try:
        lock = LOCK.read_bytes()
    except OSError as error:
        raise InputError(f"lock {str(LOCK)!r} cannot be read: {error.strerror or error}; install nmsat anew") from None
    which = f"{sys.version_info[:2]} {os.path.realpath(sys.executable)}".encode()
    return room / hashlib.sha256(lock + which).hexdigest()


def _install(part: Path) -> None:
    """Make an environment with all that the lock names; InputError says why it cannot be."""
    _LOG.info("setting up %s: once, 77 MB of wheels", " and ".join(PACKAGES.values()))
    _run([sys.executable, "-m", "venv", part], "Python's venv failed (Debian has it in the package python3-venv)")
    only = ["--no-deps", "--require-hashes", "--only-binary", ":all:", "--no-compile"]
    pip = [part / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    _run([*pip, *only, "--requirement", LOCK], "pip failed")


def _run(command: Sequence[str | Path], failed: str) -> None:
    env = {name: value for name, value in os.environ.items() if name not in ("PYTHONHOME", "PYTHONPATH")}
    with tempfile.TemporaryFile("w+", errors="replace") as said:
        try:
            code = subprocess.run(
                command, stdin=subprocess.DEVNULL, stdout=said, stderr=said, env=env, check=False, timeout=_SECONDS
            ).returncode
        except subprocess.TimeoutExpired:
            raise InputError(f"{failed}: no end after {_SECONDS} s; {SETUP} starts anew") from None
        said.seek(0)
        errors = [line for line in said.read().splitlines() if not line.lstrip().startswith("WARNING")]
    if code:
        raise InputError(f"{failed}: {last_words(chr(10).join(errors)) or f'exit code {code}'}; {SETUP} starts anew")
