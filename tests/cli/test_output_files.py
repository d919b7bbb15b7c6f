"""Single output files: whole or not at all, and no file of the user's is lost."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from nmsat.algorithms.core.files import PART, replaced
from nmsat.reports.work import output_files as module
from nmsat.reports.work.output import output_folder
from nmsat.reports.work.output_files import output_files
from nmsat.reports.work.run_files import run_files
from nmsat.reports.work.text import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture(autouse=True)
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let records lie apart from those of the user, and files in a working folder of their own."""
    monkeypatch.setenv("NMSAT_BUILD_DIR", str(tmp_path / "caches"))
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    return tmp_path / "caches"


def write(path: str, text: str, *, force: bool = False) -> None:
    with output_files({"--tiles": Path(path), "--vcd": None}, "gemm", force=force) as files:
        with files.writing("--tiles") as part:
            part.write_text(text)
        assert not Path(path).exists() or Path(path).read_text() != text


def test_what_nmsat_wrote_is_replaced_and_nothing_else(tmp_path: Path) -> None:
    write("a/b/t.csv", "1")
    write("a/b/t.csv", "2")
    path = Path("a/b/t.csv")
    assert path.read_text() == "2"
    path.write_text("edited")
    with pytest.raises(InputError, match=r"--tiles is 'a/b/t.csv'; this file was not written by nmsat, or changed"):
        write("a/b/t.csv", "3")
    assert path.read_text() == "edited"
    write("a/b/t.csv", "3", force=True)
    write("a/b/t.csv", "4")
    path.rename("moved.csv")
    with pytest.raises(InputError, match="--force would overwrite it"):
        write("moved.csv", "5")
    assert sorted(p.name for p in Path().rglob("*")) == ["a", "b", "moved.csv"]
    assert list(tmp_path.rglob(f"{PART}*")) == []


def test_an_error_leaves_all_files_as_they_were() -> None:
    write("t.csv", "1")
    paths = {"--tiles": Path("t.csv"), "--vcd": Path("new/t.vcd")}
    with pytest.raises(RuntimeError, match="halfway"), output_files(paths, "gemm") as files:
        for option in paths:
            with files.writing(option) as part:
                part.write_text("2")
        raise RuntimeError("halfway")
    assert [p.name for p in Path().rglob("*")] == ["t.csv"]
    assert Path("t.csv").read_text() == "1"


def test_what_comes_into_the_way_during_the_work_is_not_lost() -> None:
    with pytest.raises(InputError, match="changed since"), output_files({"--vcd": Path("t.vcd")}, "gemm") as files:
        with files.writing("--vcd") as part:
            part.write_text("2")
        Path("t.vcd").write_text("mine")
    assert Path("t.vcd").read_text() == "mine"
    assert [p.name for p in Path().iterdir()] == ["t.vcd"]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("folder", "it is a folder; name a file"),
        ("file/t.csv", "it cannot be written: Not a directory"),
        ("/proc/t.csv", "it cannot be written"),
        ("loop", "it cannot be written"),
    ],
)
def test_places_that_cannot_be_written(path: str, message: str) -> None:
    Path("folder").mkdir()
    Path("file").touch()
    Path("loop").symlink_to("loop")
    with pytest.raises(InputError, match=rf"--tiles is '{path}'; {message}"):
        write(path, "1", force=True)


def test_two_options_cannot_name_one_file() -> None:
    paths = {"--tiles": Path("t"), "--vcd": Path("./t")}
    with pytest.raises(InputError, match="--tiles and --vcd are both 't'"), output_files(paths, "gemm"):
        pass


def test_links_and_permissions_stay() -> None:
    Path("link.csv").symlink_to("t.csv")
    write("link.csv", "1")
    Path("t.csv").chmod(0o640)
    write("link.csv", "2")
    write("t.csv", "3")
    assert Path("link.csv").is_symlink()
    assert Path("t.csv").read_text() == "3"
    assert stat.S_IMODE(Path("t.csv").stat().st_mode) == 0o640


def test_devices_and_pipes_are_written_where_they_are() -> None:
    os.mkfifo("pipe")
    reader = os.open("pipe", os.O_RDONLY | os.O_NONBLOCK)
    with output_files({"--tiles": Path("pipe"), "--vcd": Path(os.devnull)}, "gemm") as files:
        for option in ("--tiles", "--vcd"):
            with files.writing(option) as path:
                path.write_text("1")
    assert os.read(reader, 10) == b"1"
    os.close(reader)
    assert stat.S_ISFIFO(Path("pipe").stat().st_mode)
    assert stat.S_ISCHR(Path(os.devnull).stat().st_mode)


def test_without_a_cache_folder_the_file_is_written_all_the_same(
    caches: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    caches.write_text("a file in its place")
    write("t.csv", "1")
    assert Path("t.csv").read_text() == "1"
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("nmsat: note: 't.csv' cannot be replaced without --force later: folder")
    with pytest.raises(InputError, match="--force"):
        write("t.csv", "2")


def test_old_records_are_forgotten(caches: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_RECORDS", 3)
    for number in range(5):
        write(f"{number}.csv", "1")
        for age, record in enumerate(sorted((caches / "written").iterdir(), key=lambda path: path.stat().st_mtime_ns)):
            os.utime(record, (age, age))
    assert len(list((caches / "written").iterdir())) == 3
    write("4.csv", "2")
    with pytest.raises(InputError, match="--force"):
        write("0.csv", "2")


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """Give a folder on a file system of 64 kB."""
    if os.geteuid():
        pytest.skip("a small file system can be mounted by root only")
    place = tmp_path / "small"
    place.mkdir()
    if os.system(f"mount -t tmpfs -o size=64k tmpfs {place} 2>/dev/null"):
        pytest.skip("no file system can be mounted here")
    yield place
    os.system(f"umount {place}")


def test_a_full_disk_leaves_the_old_file(full_disk: Path) -> None:
    write(str(full_disk / "t.csv"), "1")
    with pytest.raises(InputError, match=r"--tiles is .*cannot be written: No space left on device"):
        write(str(full_disk / "t.csv"), "x" * 100_000)
    with pytest.raises(OSError, match="No space left"), replaced(full_disk / "t.csv") as file:
        file.write(b"x" * 100_000)
    assert [(p.name, p.read_text()) for p in full_disk.iterdir()] == [("t.csv", "1")]


@pytest.mark.parametrize("name", ["/dev/stdout", "link"])
@pytest.mark.parametrize("kind", ["pipe", "file"])
def test_the_shells_stdout_is_written_where_it_stands(name: str, kind: str) -> None:
    Path("link").symlink_to("/dev/stdout")
    lines = (
        "from pathlib import Path",
        "from nmsat.reports.work.output_files import output_files",
        f"with output_files({{'--tiles': Path({name!r})}}, 'gemm') as files, files.writing('--tiles') as path:",
        "    path.write_text('tiles, ')",
        "print('answer')",
    )
    command = [sys.executable, "-c", "\n".join(lines)]
    with Path("out").open("w") as out:
        out.write("before, ")
        out.flush()
        target = out if kind == "file" else subprocess.PIPE
        done = subprocess.run(command, stdout=target, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert (done.stdout or Path("out").read_text()) == {"pipe": "", "file": "before, "}[kind] + "tiles, answer\n"
    assert Path("link").is_symlink()


@pytest.mark.parametrize("path", ["shut", "shut/x", "shut/x/y"])
def test_what_cannot_be_reached_is_one_line(path: str, unreadable: Callable[[Path], None]) -> None:
    Path("shut").mkdir()
    unreadable(Path("shut"))
    place = Path(path)
    if path != "shut":
        with pytest.raises(InputError, match="it cannot be written: Permission denied"):
            write(path, "")
    for entered in (output_folder(place, "program", ["x"]), run_files(place, [])):
        try:
            with entered:
                assert path == "shut"
        except InputError as error:
            assert f"output folder is {path!r}; it cannot be written: Permission denied" in str(error)
        else:
            assert path == "shut"
