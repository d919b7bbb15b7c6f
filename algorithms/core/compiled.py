"""Compiles the C sources of the kernel once for each processor, and finds them again in the cache folder."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import secrets
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Final

from nmsat.algorithms.core.caches import cache_folder, writing_cache
from nmsat.algorithms.core.files import flush, sync_folder
from nmsat.algorithms.core.signals import held

if TYPE_CHECKING:
    from collections.abc import Sequence

COMPILERS: Final = ("cc", "gcc", "g++", "c++", "clang")
"""Compilers that are looked for, in this order, when CC is not set; those of C++ compile C as well."""

FLAGS: Final = ("-x", "c", "-std=gnu11", "-O3", "-fPIC", "-shared", "-ffp-contract=off", "-fno-math-errno")
"""No flag may change a result: nothing of -ffast-math, which also makes the processor flush subnormals."""

VARIANTS: Final = (("-march=native",), ())
"""Further flags, the best first: for this processor, and plain ones for a compiler that does not know it."""

_SECONDS: Final = 300


class CompileError(RuntimeError):
    """The kernel cannot be compiled; the text says why."""


def find_compiler() -> tuple[str, ...]:
    """Return the command of a C compiler, its path first; CompileError if there is none.

    CC is split as a shell does it: `ccache gcc`, `gcc -m64`.
    """
    given = os.environ.get("CC", "")
    try:
        words = shlex.split(given)
    except ValueError as error:
        raise CompileError(f"CC is {given!r}, which is no command: {error}") from None
    for name, *more in [words] if words else [[name] for name in COMPILERS]:
        if path := shutil.which(name):
            return str(Path(path).absolute()), *more  # as it is called: ccache goes by the name of a link to it
    wanted = words[:1] or COMPILERS
    raise CompileError(f"no C compiler found (looked for {', '.join(wanted)} in PATH); install gcc or set CC")


def compiled(sources: Sequence[Path], variant: tuple[str, ...]) -> Path:
    """Return the shared library of C files; compile it unless it has been compiled before.

    Its name is KEY-DIGEST.so. KEY is the SHA-256 of all that shapes it: source, flags, compiler, and the processor that
    `variant` may mean. DIGEST is that of the library itself: one that was cut off, by a crash for example, would kill
    the process that loads it, and is made anew. Two processes that compile at once make a file each, or the same.
    Raises CompileError, and CacheError if the cache cannot be written.
    """
    compiler, text = find_compiler(), [source.read_text(encoding="utf-8") for source in sources]
    programs = [os.path.realpath(found) for word in compiler if (found := shutil.which(word))]  # ccache, what it calls
    status = [(program, (of := Path(program).stat()).st_size, of.st_mtime_ns) for program in programs]
    key = json.dumps([text, FLAGS, variant, compiler, status, processor()])
    folder = cache_folder("kernel")
    name = hashlib.sha256(key.encode()).hexdigest()
    for library in sorted(folder.glob(f"{name}-*.so")):
        if library.name == _file_name(name, library):
            return library
        with writing_cache(folder):
            library.unlink(missing_ok=True)
    part = folder / f".{name}-{secrets.token_hex(4)}"
    try:
        _compile([*compiler, *FLAGS, *variant, *map(str, sources), "-o", str(part)])
        if not part.is_file():
            raise CompileError(f"{shlex.join(compiler)!r} made no file; set CC to a C compiler")
        with writing_cache(folder):
            library = folder / _file_name(name, part)
            flush(part)
            part.replace(library)
            sync_folder(folder)
    finally:
        with held():
            part.unlink(missing_ok=True)
    return library


def _file_name(key: str, library: Path) -> str:
    """Return the name that a library has in the cache by its content."""
    try:
        content = library.read_bytes()
    except OSError as error:
        raise CompileError(f"library {str(library)!r} cannot be read: {error.strerror or error}") from None
    return f"{key}-{hashlib.sha256(content).hexdigest()[:32]}.so"


def processor() -> str:
    """Return what tells processors apart: architecture and the list of their features."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()} {platform.node()}"
    told = ("model name", "flags", "Features", "CPU part")
    first = {line.partition("\t")[0].strip(): line for line in reversed(lines) if line.startswith(told)}
    return "|".join([platform.machine(), *(first[name] for name in sorted(first))])


def _compile(command: list[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise CompileError(f"{command[0]!r} took more than {_SECONDS} s") from None
    except OSError as error:
        raise CompileError(f"{command[0]!r} cannot be run: {error.strerror or error}") from None
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        told = next((line for line in lines if "error" in line), lines[-1])
        raise CompileError(f"{command[0]!r} failed: {told}")
