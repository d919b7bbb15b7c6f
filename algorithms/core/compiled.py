"""Compiles the C sources of the kernel once for each processor, and finds them again in the cache folder."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import secrets
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Final

from nmsat.algorithms.core.caches import cache_folder, writing_cache
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


def find_compiler() -> str:
    """Return the path of a C compiler; CompileError if there is none."""
    wanted = (os.environ["CC"],) if os.environ.get("CC") else COMPILERS
    found = next((path for name in wanted if (path := shutil.which(name))), None)
    if found is None:
        raise CompileError(f"no C compiler found (looked for {', '.join(wanted)} in PATH); install gcc or set CC")
    return os.path.realpath(found)


def compiled(sources: Sequence[Path], variant: tuple[str, ...]) -> Path:
    """Return the shared library of C files; compile it unless it has been compiled before.

    The name is the SHA-256 of all that shapes it: source, flags, compiler, and the processor that `variant` may mean.
    Two processes that compile at once make the same file; the later one replaces it whole. Raises CompileError, and
    CacheError if the cache cannot be written.
    """
    compiler, text = find_compiler(), [source.read_text(encoding="utf-8") for source in sources]
    status = Path(compiler).stat()
    key = json.dumps([text, FLAGS, variant, compiler, status.st_size, status.st_mtime_ns, processor()])
    folder = cache_folder("kernel")
    name = hashlib.sha256(key.encode()).hexdigest()
    library = folder / f"{name}.so"
    if library.is_file():
        return library
    with writing_cache(folder):
        part = folder / f".{name}-{secrets.token_hex(4)}"
        try:
            _compile([compiler, *FLAGS, *variant, *map(str, sources), "-o", str(part)])
            part.replace(library)
        finally:
            with held():
                part.unlink(missing_ok=True)
    return library


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
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        told = next((line for line in lines if "error" in line), lines[-1])
        raise CompileError(f"{command[0]!r} failed: {told}")
