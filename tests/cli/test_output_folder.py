"""Output folders: whole or not at all, and nothing in them is lost that nmsat did not write."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from nmsat.reports.version import VERSION
from nmsat.reports.work.manifest import MANIFEST
from nmsat.reports.work.output import LOCK, STAGING, output_folder
from nmsat.reports.work.text import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tests.conftest import Outcome

NAMES = ("summary.json", "sat*.v", "deep/*.txt")


def write(target: Path, files: Mapping[str, str], command: str = "rtl", **options: bool) -> None:
    with output_folder(target, command, NAMES, **options) as out:
        for name, text in files.items():
            out.write(name, text)


def contents(folder: Path) -> dict[str, str]:
    """Return the files of a folder by path, the list of nmsat left out."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != MANIFEST)
    return {path.relative_to(folder).as_posix(): path.read_text() for path in files}


def test_files_appear_together_with_what_says_who_wrote_them(tmp_path: Path) -> None:
    target = tmp_path / "a" / "b"
    with output_folder(target, "rtl", NAMES) as out:
        out.write("summary.json", "1")
        out.write("deep/x.txt", b"2")
        assert contents(target).keys() - {f"{out.staging.name}/summary.json", f"{out.staging.name}/deep/x.txt"} == {
            LOCK
        }
    assert contents(tmp_path) == {"a/b/summary.json": "1", "a/b/deep/x.txt": "2"}
    entry = json.loads((target / MANIFEST).read_text())["files"]["summary.json"]
    assert entry == {
        "command": "rtl",
        "version": VERSION,
        "sha256": "6b86b273ff34fce19d6b804eff5a3f5747ada4eaa22f1d49c01e52ddb7875b4b",
    }
    assert (target / "summary.json").stat().st_mode & 0o777 == 0o666 & ~current_umask()


def current_umask() -> int:
    umask = os.umask(0)
    os.umask(umask)
    return umask


def test_a_rerun_replaces_what_is_as_written_and_leaves_the_rest(tmp_path: Path) -> None:
    write(tmp_path, {"summary.json": "1", "sat.v": "old", "sat_a.v": "leaf", "deep/a.txt": "a", "deep/b.txt": "b"})
    (tmp_path / "pins.xdc").write_text("constraints")
    (tmp_path / "deep" / "notes").write_text("mine")
    write(tmp_path, {"summary.json": "2", "sat.v": "new", "deep/b.txt": "b"})
    mine = {"pins.xdc": "constraints", "deep/notes": "mine"}
    assert contents(tmp_path) == {"summary.json": "2", "sat.v": "new", "deep/b.txt": "b", **mine}
    write(tmp_path, {"summary.json": "3"})
    assert contents(tmp_path) == {"summary.json": "3", **mine}


def test_folders_that_become_empty_go(tmp_path: Path) -> None:
    write(tmp_path, {"deep/a.txt": "a"})
    write(tmp_path, {"summary.json": "1"})
    assert not (tmp_path / "deep").exists()


@pytest.mark.parametrize("there", ["foreign", "edited", "link", "list"])
def test_what_is_in_the_way_stops_the_command_before_it_works(tmp_path: Path, there: str) -> None:
    target = tmp_path / "out"
    write(target, {"summary.json": "1", "sat.v": "old"})
    (target / "thesis.tex").write_text("x")
    (tmp_path / "elsewhere").write_text("1")
    name = MANIFEST if there == "list" else "sat_a.v" if there == "foreign" else "summary.json"
    if there == "link":
        (target / name).unlink()
        (target / name).symlink_to(tmp_path / "elsewhere")
    else:
        (target / name).write_text("{}")
    before = contents(tmp_path)
    with pytest.raises(InputError, match=rf"output folder is .*{name}.*--force would") as error:
        write(target, {"summary.json": "2", "sat_a.v": "2"})
    assert "\n" not in str(error.value)
    assert contents(tmp_path) == before
    write(target, {"summary.json": "2", "sat_a.v": "2", "sat.v": "2"}, force=True)
    after = contents(tmp_path)
    assert after["out/summary.json"] == after["out/sat_a.v"] == "2"
    assert (after["out/thesis.tex"], after["elsewhere"]) == ("x", "1")
    assert not (target / "summary.json").is_symlink()
    write(target, {"summary.json": "3"})


def test_an_edited_file_that_is_not_written_now_stays_with_force(tmp_path: Path) -> None:
    write(tmp_path, {"sat.v": "1", "sat_a.v": "1"})
    (tmp_path / "sat_a.v").write_text("better")
    write(tmp_path, {"sat.v": "2"}, force=True)
    assert contents(tmp_path) == {"sat.v": "2", "sat_a.v": "better"}


def test_a_folder_in_the_place_of_a_file_is_never_removed(tmp_path: Path) -> None:
    (tmp_path / "summary.json").mkdir()
    for force in (False, True):
        with pytest.raises(InputError, match=r"'summary.json' in it is a folder"):
            write(tmp_path, {"summary.json": "1"}, force=force)
    (tmp_path / "summary.json").rmdir()
    (tmp_path / "deep").write_text("a file in the place of a folder")
    with pytest.raises(InputError, match="cannot be written"):
        write(tmp_path, {"summary.json": "1", "deep/a.txt": "1"}, force=True)
    assert contents(tmp_path) == {"deep": "a file in the place of a folder"}


def test_a_list_cannot_point_out_of_the_folder(tmp_path: Path) -> None:
    target, victim = tmp_path / "out", tmp_path / "victim"
    victim.write_text("1")
    write(target, {"sat.v": "1"})
    record = json.loads((target / MANIFEST).read_text())
    for name in ("../victim", str(victim)):
        record["files"] = {name: record["files"].get("sat.v") or next(iter(record["files"].values()))}
        (target / MANIFEST).write_text(json.dumps(record))
        with pytest.raises(InputError, match="does not lie in the folder"):
            write(target, {"summary.json": "1"})
    write(target, {"summary.json": "1"}, force=True)
    assert victim.read_text() == "1"


@pytest.mark.parametrize("name", ["../x", "deep/../../x", "/x", "", "a\\..\\x"])
def test_no_file_leaves_the_folder(tmp_path: Path, name: str) -> None:
    target = tmp_path / "out"
    with pytest.raises(InputError, match="does not lie in the folder"), output_folder(target, "rtl", [name]):
        raise AssertionError("the work has begun")
    assert not target.exists()
    with pytest.raises(InputError, match="does not lie in the folder"), output_folder(target, "rtl", ["sat*"]) as out:
        out.write(name, "1")
    assert list(tmp_path.iterdir()) == []


def test_commands_share_a_folder(tmp_path: Path) -> None:
    """What one may write is nothing that the other has written."""
    write(tmp_path, {"sat.v": "1"}, "rtl")
    for name, text, keep in (("summary.json", "1", False), ("summary.json", "2", False), ("deep/a.txt", "3", True)):
        with output_folder(tmp_path, "study", ["summary.json", "deep/*.txt"], keep=keep) as out:
            out.write(name, text)
        if not keep:
            assert contents(tmp_path) == {"sat.v": "1", "summary.json": text}
    assert contents(tmp_path) == {"sat.v": "1", "summary.json": "2", "deep/a.txt": "3"}


def test_results_of_another_command_stay(tmp_path: Path) -> None:
    """A report into the folder of a sweep would have taken the place of its page, as nmsat wrote both."""
    write(tmp_path, {"summary.json": "1", "sat_a.v": "1", "deep/a.txt": "1"}, "sweep")
    before = contents(tmp_path)
    refused = r"output folder is .*; 'deep/a.txt', 'sat_a.v', 'summary.json' in it: results of nmsat sweep, not of "
    with pytest.raises(InputError, match=rf"{refused}nmsat model --report; nothing was done; --force would"):
        write(tmp_path, {"summary.json": "2"}, "model --report")
    assert contents(tmp_path) == before
    write(tmp_path, {"summary.json": "2"}, "model --report", force=True)
    assert contents(tmp_path) == {**before, "summary.json": "2"}
    with output_folder(tmp_path, "rtl", ["new.txt"]) as out:  # nothing that stands there
        out.write("new.txt", "1")


def test_a_report_is_no_folder_of_its_command(call: Callable[[str], Outcome], tmp_path: Path) -> None:
    with output_folder(tmp_path, "sweep", ["report.html"]) as out:
        out.write("report.html", "a sweep")
    outcome = call(f"model vgg19 --batch 2 --config tiny --report {tmp_path}")
    assert (outcome.code, outcome.out) == (2, "")
    assert "'report.html' in it: results of nmsat sweep, not of nmsat model --report" in outcome.err
    assert (tmp_path / "report.html").read_text() == "a sweep"


def test_an_error_leaves_nothing(tmp_path: Path) -> None:
    write(tmp_path / "old", {"summary.json": "1"})
    for target in (tmp_path / "old", tmp_path / "new" / "deep"):
        with pytest.raises(RuntimeError, match="halfway"), output_folder(target, "rtl", NAMES) as out:
            out.write("summary.json", "{")
            raise RuntimeError("halfway")
    assert contents(tmp_path) == {"old/summary.json": "1"}
    assert {path.name for path in tmp_path.rglob("*")} == {"old", "summary.json", MANIFEST}


@pytest.mark.parametrize("moves", range(8))
def test_an_error_in_the_last_step_puts_everything_back(
    tmp_path: Path, moves: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, {"summary.json": "1", "sat.v": "1", "deep/a.txt": "1"})
    before, listed = contents(tmp_path), (tmp_path / MANIFEST).read_text()
    honest, left = Path.rename, [moves]

    def fails_once(self: Path, target: Path) -> Path:
        left[0] -= 1
        if left[0] == -1:
            raise OSError(28, "No space left on device")
        return honest(self, target)

    monkeypatch.setattr(Path, "rename", fails_once)
    with pytest.raises(InputError, match="No space left on device"):
        write(tmp_path, {"summary.json": "2", "sat.v": "2", "sat_b.v": "2"})
    assert contents(tmp_path) == before
    assert (tmp_path / MANIFEST).read_text() == listed


def test_what_comes_into_the_way_during_the_work_is_not_lost(tmp_path: Path) -> None:
    write(tmp_path, {"summary.json": "1"})
    with pytest.raises(InputError, match="changed since"), output_folder(tmp_path, "rtl", NAMES) as out:
        out.write("summary.json", "2")
        (tmp_path / "summary.json").write_text("mine")
    assert contents(tmp_path) == {"summary.json": "mine"}


def test_every_way_to_name_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in (".", "there", "there/", "a/b/c/", "link", "link/below", "dangling", "./there/../there"):
        Path("there").mkdir(exist_ok=True)
        for link, goal in (("link", "there"), ("dangling", "not/yet")):
            if not Path(link).is_symlink():
                Path(link).symlink_to(goal)
        write(Path(name), {"summary.json": name})
        assert Path(name, "summary.json").read_text() == name
    assert Path("link").is_symlink()
    assert Path("dangling").is_symlink()
    assert Path("not/yet/summary.json").read_text() == "dangling"
    assert Path.cwd() == tmp_path
    assert list(tmp_path.rglob(f"{STAGING}*")) == list(tmp_path.rglob(LOCK)) == []


@pytest.mark.parametrize("name", ["file", "file/below", "/dev/null/x", "/proc/x", "loop"])
def test_places_that_cannot_be_a_folder(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "loop").symlink_to("loop")
    for force in (False, True):
        with pytest.raises(InputError, match=r"output folder is .*(it is a file|cannot be written)"):
            write(tmp_path / name, {"summary.json": "1"}, force=force)
    assert contents(tmp_path) == {"file": "mine"}


def test_an_unannounced_file_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"'other.txt' was not announced"):
        write(tmp_path, {"other.txt": "1"})


HOLD = """
import sys
from pathlib import Path
from nmsat.reports.work.output import output_folder
with output_folder(Path(sys.argv[1]), "rtl", ["summary.json"]) as out:
    out.write("summary.json", sys.argv[2])
    print("working", flush=True)
    sys.stdin.read()
"""


def hold(target: Path, text: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", HOLD, str(target), text]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "working\n"
    return process


def test_a_second_run_is_refused_while_the_first_works(tmp_path: Path) -> None:
    with hold(tmp_path / "out", "1") as first:
        for _ in range(2):
            with pytest.raises(InputError, match="another nmsat is writing there"):
                write(tmp_path / "out", {"summary.json": "2"})
    assert first.returncode == 0
    assert contents(tmp_path) == {"out/summary.json": "1"}
    write(tmp_path / "out", {"summary.json": "2"})


def test_what_a_killed_run_leaves_is_taken_over(tmp_path: Path) -> None:
    with hold(tmp_path, "1") as first:
        first.kill()
    assert len(list(tmp_path.glob(f"{STAGING}*"))) == 1
    write(tmp_path, {"sat.v": "2"})
    assert contents(tmp_path) == {"sat.v": "2"}
    assert {path.name for path in tmp_path.iterdir()} == {"sat.v", MANIFEST}


KILL = """
import os, shutil, sys
from pathlib import Path
from nmsat.reports.work.output import output_folder
def killed(move, target, force, whole):
    left = [move]
    for name in ("rename", "replace"):
        def moved(path, to, inner=getattr(Path, name)):
            left[0] -= 1
            if left[0] == 0:
                os._exit(9)
            return inner(path, to)
        setattr(Path, name, moved)
    with output_folder(target, "rtl", ["summary.json", "sat*.v", "deep/*.txt"], force=force) as out:
        if not whole:
            os._exit(0)  # has taken back what the one before it did
        for name in ["summary.json", "sat.v", "sat_new.v", "deep/x.txt"]:
            out.write(name, "2")
    os._exit(0)
def tried(move, target, whole):
    process = os.fork()
    if process == 0:
        try:
            killed(move, target, force, whole)
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
os.fsync = lambda handle: None  # waits for the disk, which no kill loses
place, force, once = Path(sys.argv[1]), "force" in sys.argv, "once" in sys.argv
status, first = 9, 0
while status == 9:
    first, again, second = first + 1, 9, 0
    while again == 9:
        second += 1
        target = place / f"{first}-{second}"
        if (place / "before").exists():
            shutil.copytree(place / "before", target, symlinks=True)
        status = tried(first, target, True)
        if status != 9:
            break
        again = 0 if once else tried(second, target, False)
        assert again in (0, 9), (first, second, again)
assert status == 0
"""
"""Kills a run before each of its moves in turn, and the next one, which takes that back, before each of its own."""


@pytest.mark.parametrize("there", ["nothing", "a finished run", "files of others"])
def test_a_run_killed_before_any_of_its_moves_is_taken_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: str
) -> None:
    monkeypatch.setattr(os, "fsync", lambda _handle: None)
    before, mine, force = tmp_path / "before", {}, there == "files of others"
    if there != "nothing":
        mine = {"pins.xdc": "constraints", "deep/notes": "mine"}
        write(before, {"summary.json": "1", "sat.v": "2", "sat_old.v": "1", "deep/x.txt": "1"})
    if force:
        mine["sat_new.v"] = "mine"
        (before / "sat.v").unlink()
        (before / "sat.v").symlink_to("pins.xdc")
    for name, text in mine.items():
        (before / name).write_text(text)
    old = contents(before)
    subprocess.run([sys.executable, "-c", KILL, str(tmp_path), *["force"][: int(force)]], check=True)
    targets = [path for path in tmp_path.iterdir() if path != before]
    assert len(targets) > 12
    for target in targets:
        begun = bool(list(target.glob(f"{STAGING}*")))
        with pytest.raises(ZeroDivisionError), output_folder(target, "rtl", NAMES, force=force):
            raise ZeroDivisionError  # the next start takes back before the work
        if begun:
            assert contents(target) == old
            assert (target / "sat.v").is_symlink() == force
        elif target.exists():
            assert contents(target) == {**mine, "summary.json": "2", "sat.v": "2", "sat_new.v": "2", "deep/x.txt": "2"}
        stay = mine if begun else {name: text for name, text in mine.items() if name != "sat_new.v"}
        write(target, {"summary.json": "3", "sat.v": "3"}, force=force)
        assert contents(target) == {"summary.json": "3", "sat.v": "3", **stay}
        names = {Path(name).parts[0] for name in (*stay, "summary.json", "sat.v", MANIFEST)}
        assert {path.name for path in target.iterdir()} == names


@pytest.mark.parametrize("name", ["summary.json", "sat.v"])
def test_what_is_put_in_a_place_after_a_kill_stays(tmp_path: Path, name: str) -> None:
    write(tmp_path / "before", {"summary.json": "1"})
    subprocess.run([sys.executable, "-c", KILL, str(tmp_path), "once"], check=True)
    found = [path for path in tmp_path.glob("*-1") if list(path.glob(f"{STAGING}*")) and (path / name).exists()]
    assert len(found) > 1
    for target in found:
        (target / name).write_text("mine")
        with pytest.raises(InputError, match=rf"'{name}' in it: not written by nmsat, or changed since"):
            write(target, {"summary.json": "3", "sat.v": "3"})
        assert contents(target)[name] == "mine"
        assert list(target.glob(f"{STAGING}*")) == []


def test_a_damaged_record_of_a_killed_run_is_one_line(tmp_path: Path) -> None:
    victim, target = tmp_path / "victim", tmp_path / "out"
    victim.write_text("1")
    left = target / f"{STAGING}x"
    left.mkdir(parents=True)
    (left / MANIFEST).write_text("{}")
    entry = {"command": "rtl", "version": "1", "sha256": hashlib.sha256(b"1").hexdigest()}
    for text in ("[", json.dumps({"nmsat": 1, "files": {"../victim": entry}})):
        (left / ".commit.json").write_text(text)
        with pytest.raises(InputError, match=r"a run that was killed left '.nmsat-new-x' in it, .*remove it") as error:
            write(target, {"summary.json": "1"}, force=True)
        assert "\n" not in str(error.value)
        assert (victim.read_text(), left.exists()) == ("1", True)
