"""How the C kernel is compiled and kept: compilers of several words, what is none, and libraries that were damaged."""

from __future__ import annotations

import ctypes
import shutil
from pathlib import Path

import pytest

from nmsat.algorithms.core import compiled, kernel


def test_another_compiler_flag_or_processor_is_another_library(monkeypatch: pytest.MonkeyPatch) -> None:
    first = compiled.compiled(kernel.SOURCES, ())
    assert compiled.compiled(kernel.SOURCES, ()) == first
    built: list[list[str]] = []

    def make(command: list[str]) -> None:
        built.append(command)
        shutil.copy(first, command[-1])

    monkeypatch.setattr(compiled, "_compile", make)
    monkeypatch.setattr(compiled, "processor", lambda: "another")
    other = compiled.compiled(kernel.SOURCES, ())
    other.unlink()
    assert other != first
    assert len(built) == 1


@pytest.mark.parametrize("left", [0, 4096, 0.5, "one byte"])
def test_a_library_that_was_damaged_is_made_anew(
    left: float | str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cut-off one would kill the process that loads it."""
    whole = compiled.compiled(kernel.SOURCES, ()).read_bytes()
    monkeypatch.setenv("NMSAT_BUILD_DIR", str(tmp_path))

    def make(command: list[str]) -> None:
        Path(command[-1]).write_bytes(whole)

    monkeypatch.setattr(compiled, "_compile", make)
    library = compiled.compiled(kernel.SOURCES, ())
    if isinstance(left, str):
        library.write_bytes(whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:])
    else:
        library.write_bytes(whole[: int(left if left != 0.5 else len(whole) // 2)])
    assert compiled.compiled(kernel.SOURCES, ()) == library
    assert library.read_bytes() == whole
    assert [path.name for path in library.parent.iterdir()] == [library.name]


def test_a_compiler_may_be_a_command_of_several_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (plain,) = compiled.find_compiler()
    wrapper = tmp_path / "a wrapper"
    wrapper.write_text('#!/bin/sh\nexec "$@"\n')
    wrapper.chmod(0o755)
    monkeypatch.setenv("CC", f"'{wrapper}' {plain} -m64 -DX='a b'")
    assert compiled.find_compiler() == (str(wrapper), plain, "-m64", "-DX=a b")
    monkeypatch.setenv("NMSAT_BUILD_DIR", str(tmp_path / "caches"))
    source = tmp_path / "one.c"
    source.write_text("int one(void) { return 1; }\n")
    assert ctypes.CDLL(str(compiled.compiled([source], ()))).one() == 1


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("/bin/true", "'/bin/true' made no file; set CC to a C compiler"),
        ("'cc", "CC is \"'cc\", which is no command"),
        ("no-such-cc -m64", "looked for no-such-cc in PATH"),
    ],
)
def test_what_is_no_compiler_is_said_so(
    command: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NMSAT_BUILD_DIR", str(tmp_path))
    monkeypatch.setenv("CC", command)
    with pytest.raises(compiled.CompileError) as caught:
        compiled.compiled(kernel.SOURCES, ())
    assert words in str(caught.value)
