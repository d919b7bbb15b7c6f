"""The engines of the simulator, compiled: the same sources through mypyc, once, kept in the cache folder.

`nmsat_engines.sim.run` is what mypyc makes of `nmsat.sim.run` and of all modules of `sim` that it imports. Both can be
used side by side in one process; the source in Python is the definition, and what runs where nothing can be compiled.

    prepare()                 compile, if that has not been done; a few lines of Python that take a minute
    engines = twin(run)       the compiled module of `sim.run`, else `sim.run` itself
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import json
import logging
import os
import re
import secrets
import shlex
import shutil
import subprocess
import sys
from importlib.machinery import PathFinder
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from nmsat.algorithms.core.caches import CacheError, cache_folder, cache_root, writing_cache
from nmsat.algorithms.core.compiled import CompileError, find_compiler, processor
from nmsat.algorithms.core.files import flush, sync_folder, write_text
from nmsat.algorithms.core.signals import held

if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType

ENGINES_VARIABLE: Final = "NMSAT_ENGINES"
"""Environment variable: 'python' runs the engines in plain Python although compiled ones could be had."""

ROOM: Final = "engines"
"""Folder of the builds in the cache folder."""

PACKAGE: Final = "nmsat_engines"
"""Package of the compiled modules, laid out as `nmsat` is."""

ROOTS: Final = ("sim.run", "sim.quick.inner")
"""Modules to compile, with all modules of `sim` that they import."""

SHARED: Final = ("sim.parts.outcome",)
"""Modules that compiled engines import as they are."""

SLOWER: Final = 4
"""About how many times as long plain Python takes."""

_TOP: Final = Path(__file__).resolve().parents[1]
_SEEN: Final = ("algorithms", "dataflow", "sim")
_TYPES: Final = ("dataflow/contract", "dataflow/cycles", "algorithms/core/tape.py")
"""What the types and constants of the engines come from; constants become part of the machine code."""

_IMPORT: Final = re.compile(r"^(\s*from )nmsat(\.(sim\.[\w.]+) import )", re.MULTILINE)

_SETTINGS: Final = (
    "[mypy]\nfollow_imports = silent\nignore_missing_imports = true\n[mypy-numpy.*]\nfollow_imports = skip\n"
)
_BUILD: Final = """
import sys
from mypyc.build import mypycify
from setuptools import setup
modules = mypycify(["--config-file", "mypy.ini", *sys.argv[1:]], opt_level="2", debug_level="0")
setup(name="engines", packages=[], py_modules=[], ext_modules=modules, script_args=["-q", "build_ext", "--inplace"])
"""
_TOOLS: Final = ("mypy", "setuptools")
_SEAL: Final = "libraries.json"
"""File of a build with the SHA-256 of each of its libraries: one that was cut off would kill the process loading it."""

_SECONDS: Final = 1800

_LOG: Final = logging.getLogger("nmsat.sim")


class _Finder:
    """Finds the compiled modules, whose folder is not on the path of any other."""

    def __init__(self) -> None:
        self.folder: Path | None = None

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        """Return where a module is, None if it is not of the build."""
        if self.folder is None or not (name.partition(".")[0] == PACKAGE or name.endswith("__mypyc")):
            return None
        return PathFinder.find_spec(name, [str(self.folder)] if path is None else path, target)


_finder: Final = _Finder()
_absent: Final[set[Path]] = set()
"""Caches in which this process has found no build: looking takes some milliseconds."""


def twin(plain: ModuleType) -> Any:
    """Return the compiled module of one in `sim`, or that module if there is none yet or none is wanted."""
    if not ready():
        return plain
    try:
        return importlib.import_module(PACKAGE + plain.__name__.removeprefix("nmsat"))
    except (ImportError, AttributeError, KeyError, TypeError) as error:  # the last three: heads of modules
        _LOG.warning("compiled engines cannot be loaded, plain Python runs (%s)", error)
        _finder.folder, os.environ[ENGINES_VARIABLE] = None, "python"
        return plain


def ready() -> bool:
    """Whether compiled engines of the present sources are there and wanted."""
    if os.environ.get(ENGINES_VARIABLE) == "python":
        return False
    if _finder.folder is None and cache_root() not in _absent:
        try:
            folder = cache_root() / ROOM / name()
            if sealed(folder):
                _finder.folder = folder
                sys.meta_path.append(_finder)
        except (CompileError, OSError):
            pass
        if _finder.folder is None:
            _absent.add(cache_root())
    return _finder.folder is not None


def prepare() -> bool:
    """Compile the engines unless that has been done or is not wanted; say so, and why if it fails. Return `ready`."""
    if os.environ.get(ENGINES_VARIABLE) == "python" or ready():
        return ready()
    try:
        folder = cache_folder(ROOM) / name()
        _LOG.info("compiling the engines of the simulator: once, a minute or two")
        _build(folder)
        _absent.clear()
    except (CompileError, CacheError) as error:
        _LOG.warning("engines run in plain Python: the same cycles, but %d times slower (%s)", SLOWER, error)
    return ready()


def sealed(folder: Path) -> bool:
    """Whether a folder holds a build whose libraries are as they were made."""
    try:
        return json.loads((folder / _SEAL).read_text(encoding="utf-8")) == _digests(folder)
    except (OSError, ValueError, RecursionError):
        return False


def seal(folder: Path) -> None:
    """Put the libraries of a build on the disk, and their digests beside them."""
    for library in folder.rglob("*.so"):
        flush(library)
    write_text(folder / _SEAL, json.dumps(_digests(folder)))


def _digests(folder: Path) -> dict[str, str]:
    found = sorted(folder.rglob("*.so"))
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


def modules() -> tuple[str, ...]:
    """Return the modules that are compiled, without `nmsat`."""
    found: dict[str, None] = {}
    todo = list(ROOTS)
    while todo:
        module = todo.pop()
        if module not in found and module not in SHARED:
            found[module] = None
            todo += [match[2] for match in _IMPORT.findall(_source(module))]
    return tuple(sorted(found))


def name() -> str:
    """Return the name of the build: SHA-256 of all that shapes it. CompileError if a tool is missing."""
    sources = [_path(module) for module in modules()]
    for place in _TYPES:
        path = _TOP / place
        sources += [path] if path.suffix else sorted(path.rglob("*.py"))
    try:
        tools = [importlib.metadata.version(tool) for tool in _TOOLS]
    except importlib.metadata.PackageNotFoundError as error:
        raise CompileError(f"package {error.name!r} is not installed") from None
    path, *options = find_compiler()
    compiler, status = " ".join([os.path.realpath(path), *options]), Path(path).stat()
    digest = hashlib.sha256()
    shape = [sys.version, tools, compiler, status.st_size, status.st_mtime_ns, processor(), _BUILD, _SETTINGS, _SEAL]
    digest.update(json.dumps(shape).encode())
    for path in sources:
        digest.update(b"\0" + path.relative_to(_TOP).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def _path(module: str) -> Path:
    return _TOP / f"{module.replace('.', '/')}.py"


def _source(module: str) -> str:
    try:
        return _path(module).read_text(encoding="utf-8")
    except OSError as error:
        raise CompileError(f"module {module!r} cannot be read: {error.strerror}") from None


def _build(folder: Path) -> None:
    """Make the build; two processes that do so at once make the same, and the first one stays unless it is damaged."""
    with writing_cache(folder.parent):
        part, damaged = (folder.parent / f".{folder.name}-{secrets.token_hex(4)}" for _ in range(2))
        try:
            part.mkdir()
            _lay(part, modules())
            _compile(part)
            seal(part)
            if folder.is_dir() and not sealed(folder):
                folder.rename(damaged)
            if not folder.is_dir():
                part.rename(folder)
                sync_folder(folder.parent)
        finally:
            with held():
                shutil.rmtree(part, ignore_errors=True)
                shutil.rmtree(damaged, ignore_errors=True)


def _lay(part: Path, names: Sequence[str]) -> None:
    """Write the sources, in which imports of modules that are compiled lead to those, and links to all others."""
    (part / "nmsat").mkdir()
    (part / "nmsat/__init__.py").touch()
    for room in _SEEN:
        (part / "nmsat" / room).symlink_to(_TOP / room, target_is_directory=True)
    for module in names:
        path = part / PACKAGE / f"{module.replace('.', '/')}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        text = _IMPORT.sub(lambda m: f"{m[1]}{PACKAGE if m[3] in names else 'nmsat'}{m[2]}", _source(module))
        path.write_text(text, encoding="utf-8")
        for parent in path.relative_to(part).parents[:-1]:
            (part / parent / "__init__.py").touch()
    (part / "mypy.ini").write_text(_SETTINGS, encoding="utf-8")


def _compile(part: Path) -> None:
    """Compile what has been laid out, import it once, and leave nothing but the build."""
    names = sorted(str(path.relative_to(part)) for path in (part / PACKAGE).rglob("*.py") if path.stem != "__init__")
    _tool(part, [sys.executable, "-c", _BUILD, *names])
    imports = ", ".join(f"{PACKAGE}.{root}" for root in ROOTS)
    _tool(part, [sys.executable, "-c", f"import {imports}"])
    for path in names:
        (part / path).unlink()
    for path in part.iterdir():
        if path.name != PACKAGE and path.suffix != ".so":
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def _tool(part: Path, command: list[str]) -> None:
    try:
        done = subprocess.run(
            command,
            cwd=part,
            env=os.environ | {"CC": shlex.join(find_compiler())},
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise CompileError(f"compiling took more than {_SECONDS} s") from None
    if done.returncode:
        lines = [line for line in f"{done.stdout}\n{done.stderr}".splitlines() if line.strip()]
        told = [line for line in lines if "error" in line.lower()] or lines[-1:] or [f"exit code {done.returncode}"]
        raise CompileError(told[0].strip())
