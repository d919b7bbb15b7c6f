"""Progress: a bar on a terminal, a line every ten seconds without one, nothing when quiet, all when verbose."""

from __future__ import annotations

import fcntl
import io
import logging
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import threading
import time
from typing import TYPE_CHECKING

import pytest
from tqdm import tqdm

import nmsat
from nmsat.reports.commands import parser
from nmsat.reports.commands.base import Answer, Command
from nmsat.reports.work import progress
from nmsat.reports.work.progress import LOG, Voice, each, speak, task

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.conftest import Outcome

SLOW = """
import time
import nmsat
from nmsat.reports.commands import parser
from nmsat.reports.commands.base import Answer, Command
from nmsat.reports.work.progress import LOG, task

def run(options):
    with task("baking", 4, "roll") as running:
        for number in range(4):
            running.now(f"number {number}")
            time.sleep(0.15)
            running.advance(shown={"crust": "brown"})
    LOG.warning("the oven is hot")
    return Answer({"rolls": 4}, "4 rolls")

nmsat.COMMANDS.clear()
nmsat.COMMANDS["bake"] = "bake"
parser.load = lambda module: Command("Bake.", "nmsat bake", lambda p: None, run)
"""


@pytest.fixture(autouse=True)
def quiet_again() -> Iterator[None]:
    yield
    speak(Voice.QUIET)


def on_a_terminal(*words: str) -> str:
    """Run the slow command with stderr on a terminal and return what it wrote there."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    code = f"{SLOW}\nraise SystemExit(nmsat.main({list(words)}))"
    env = {**os.environ, "TERM": "xterm"}
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL, stderr=theirs, env=env) as run:
        os.close(theirs)
        text = b""
        try:
            while part := os.read(ours, 4096):
                text += part
        except OSError:  # the other end is closed
            pass
    os.close(ours)
    assert run.returncode == 0
    return text.decode()


def test_a_terminal_shows_a_bar_and_clears_it() -> None:
    text = on_a_terminal("bake")
    assert re.search(r"baking: number 3: +75%\|.*3/4 \[.*crust brown\]", text)
    assert text.rstrip().endswith("nmsat: note: the oven is hot")
    assert "so far" not in text


def test_quiet_shows_no_bar_but_warnings() -> None:
    assert on_a_terminal("bake", "--quiet").replace("\r", "") == "nmsat: note: the oven is hot\n"


def without_a_terminal(*words: str, interval: float) -> list[str]:
    code = f"{SLOW}\nfrom nmsat.reports.work import progress\nprogress.INTERVAL = {interval}\nnmsat.main({list(words)})"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return run.stderr.splitlines()


def test_without_a_terminal_there_is_a_line_now_and_then() -> None:
    assert without_a_terminal("bake", interval=10.0) == ["nmsat: note: the oven is hot"]
    *lines, last = without_a_terminal("bake", interval=0.2)
    assert last == "nmsat: note: the oven is hot"
    assert 1 <= len(lines) <= 3
    form = r"nmsat: baking: number \d, \d of 4 rolls, \d s so far(, about \d s left, crust brown)?"
    assert re.fullmatch(form, lines[-1])
    assert without_a_terminal("bake", "--quiet", interval=0.2) == ["nmsat: note: the oven is hot"]


def test_verbose_tells_each_part() -> None:
    lines = without_a_terminal("bake", "--verbose", interval=10.0)
    assert [line for line in lines if "number" in line] == [f"nmsat: baking: number {n}" for n in range(4)]
    assert lines[0] == "nmsat: baking: begins"


def test_the_interval_is_ten_seconds() -> None:
    assert progress.INTERVAL == 10.0


def test_only_the_innermost_task_speaks(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "INTERVAL", 0.05)
    speak(Voice.NORMAL)
    lines: list[str] = []
    with task("outer"), task("inner"):
        until = time.monotonic() + 20
        while len(lines) < 3 and time.monotonic() < until:
            time.sleep(0.1)
            lines += capsys.readouterr().err.splitlines()
    assert len(lines) >= 3
    assert all(line.startswith("nmsat: inner, ") for line in lines)


def test_each_counts_and_names(capsys: pytest.CaptureFixture[str]) -> None:
    speak(Voice.VERBOSE)
    assert list(each([1, 2], "count", "number", lambda n: f"no. {n}")) == [1, 2]
    lines = capsys.readouterr().err.splitlines()
    assert [line for line in lines if "no." in line] == ["nmsat: count: no. 1", "nmsat: count: no. 2"]


def test_a_resumed_task_estimates_from_what_it_did_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    with task("train", unit="step") as running:
        running.begin(90, 100)
        now = 160.0
        running.advance(2)
        assert running.line() == "train, 92 of 100 steps, 1 min 00 s so far, about 4 min 00 s left"


def test_what_is_done_aside_is_not_in_the_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    with task("outer", 10) as outer, task("inner", 4, "point") as inner:
        inner._bar = bar = tqdm(total=4, file=io.StringIO())
        counted_from = bar.last_print_t
        with task("compiling", aside=True) as compiling:
            now = 190.0
            assert compiling.line() == "compiling, 1 min 30 s so far"
        assert bar.last_print_t == counted_from + 90
        with task("a part of it"):
            now = 200.0
        inner.advance()
        outer.advance()
        assert inner.line() == "inner, 1 of 4 points, 1 min 40 s so far, about 30 s left"
        assert outer.line() == "outer, 1 of 10, 1 min 40 s so far, about 1 min 30 s left"


def test_threads_end_with_their_tasks() -> None:
    speak(Voice.NORMAL)
    before = threading.active_count()
    with pytest.raises(RuntimeError), task("falls"):
        raise RuntimeError
    assert threading.active_count() == before


def test_rooms_below_speak_through_logging(capsys: pytest.CaptureFixture[str]) -> None:
    speak(Voice.VERBOSE)
    logging.getLogger("nmsat.tb").debug("model in %s", "folder")
    speak(Voice.NORMAL)
    logging.getLogger("nmsat.tb").debug("not told")
    LOG.info("told")
    assert capsys.readouterr().err == "nmsat: model in folder\nnmsat: told\n"


def _tell() -> Answer:
    LOG.info("told")
    LOG.debug("told in full")
    return Answer({}, "")


@pytest.mark.parametrize("name", nmsat.COMMANDS)
def test_every_command_can_be_quiet_and_verbose(
    call: Callable[[str], Outcome], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    load, mine = parser.load, nmsat.COMMANDS[name]
    real = load(mine)
    stub = Command(real.summary, real.example, real.add_arguments, lambda _: _tell())
    monkeypatch.setattr(parser, "load", lambda module: stub if module == mine else load(module))
    words = real.example.removeprefix("nmsat ").replace(" --json", "")
    said = {flag: call(f"{words} {flag}".strip()).err.splitlines() for flag in ("", "--quiet", "--verbose")}
    assert said == {"": ["nmsat: told"], "--quiet": [], "--verbose": ["nmsat: told", "nmsat: told in full"]}
