"""Files of settings held to a schema: what does not fit, at any depth, is one line with field, value and limit."""

from __future__ import annotations

import os
import time
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nmsat.algorithms.core.ranges import MAX_SHOWN, short
from nmsat.algorithms.core.schema import MISSING, FieldError, FieldKindError, checked, field_place, limits, read_text
from nmsat.algorithms.training.config import parse_fields
from nmsat.dataflow.contract.config import preset
from nmsat.dataflow.contract.machine_file import changed, read_machine
from nmsat.dataflow.network.choice import read_choice
from nmsat.reports.work.sweep_plan import read_sweep

if TYPE_CHECKING:
    from collections.abc import Callable

HUGE = f"0x{'f' * 5000}"
"""A whole number that TOML holds and that Python does not write out."""

INNER = msgspec.defstruct(
    "Inner", [("many", list[limits(1, 9, whole=True)], []), ("must", float)], kw_only=True, forbid_unknown_fields=True
)
OUTER = msgspec.defstruct(
    "Outer", [("inner", INNER, None), ("share", limits(0, 1, whole=False, above=True), 1.0), ("flag", bool, False)],
    kw_only=True, forbid_unknown_fields=True,
)  # fmt: skip


def check_refused(read: Callable[[Path], object], path: Path, text: str, told: str) -> None:
    """Check that a file of this text is refused in one line, which begins with its path and what is told."""
    path.write_text(text)
    with pytest.raises(ValueError) as error:
        read(path)
    assert str(error.value).startswith(f"{path}, {told}")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "field", "place", "value", "kind"),
    [
        ("other = 1", "other", "other", 1, FieldError),
        ("'a.b' = 1", "a.b", "a.b", 1, FieldError),
        ('"a\\nb" = 1', "a\nb", "'a\\nb'", 1, FieldError),
        ("'x` - at `$.inner' = 1", None, None, None, FieldError),
        ("inner = 3", "inner", "inner", 3, FieldKindError),
        ("inner = [{must = 1.0}]", "inner", "inner", [{"must": 1.0}], FieldKindError),
        ("inner = {}", "inner.must", "inner.must", MISSING, FieldError),
        ("inner = {must = 1, more = 2}", "inner.more", "inner.more", 2, FieldError),
        ("inner = {must = 1, many = [2, 10]}", "inner.many", "inner.many[1]", 10, FieldError),
        ("inner = {must = 1, many = [2, true]}", "inner.many", "inner.many[1]", True, FieldKindError),
        ("inner = {must = 1, many = [[2]]}", "inner.many", "inner.many[0]", [2], FieldKindError),
        ("share = 0", "share", "share", 0, FieldError),
        ("share = inf", "share", "share", float("inf"), FieldError),
        ("flag = 1", "flag", "flag", 1, FieldKindError),
        (f"share = {HUGE}", "share", "share", int(HUGE, 16), FieldError),
        (f"flag = {HUGE}", "flag", "flag", int(HUGE, 16), FieldKindError),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else type(value).__name__,
)
def test_the_field_its_place_and_its_value_are_told(
    text: str, field: str | None, place: str | None, value: object, kind: type[FieldError]
) -> None:
    told: list[tuple[str, Any]] = []

    def refused(where: str, what: Any) -> str:
        told.append((where, what))
        return "no"

    with pytest.raises(FieldError, match=r"^no$") as error:
        checked(tomllib.loads(text), OUTER, refused)
    assert type(error.value) is kind
    if field is not None:  # a name that imitates the library's own words is refused, whatever it is taken for
        assert (error.value.field, told) == (field, [(place, value)])


def test_what_fits_is_converted() -> None:
    made: Any = checked({"share": 1, "inner": {"must": 2}}, OUTER, lambda *_: pytest.fail("refused"))
    assert (type(made.share), made.inner.must, made.inner.many, made.flag) == (float, 2.0, [], False)


SIZES = "rows = 4\ncolumns = 4\n"
NET = 'network = "vit"\n'


@pytest.mark.parametrize(
    ("text", "line", "told"),
    [
        (SIZES + "[memory]\nchannels = { a = 1 }\n", 4, "memory.channels is { a = 1 }; it must be a whole number from"),
        (SIZES + "[memory.more]\nx = 1\n", 3, "memory.more is { x = 1 }; a machine has no such field"),
        (SIZES + "[[memory]]\nchannels = 1\n", 3, "memory is [{ channels = 1 }]; a machine has no such field, but a t"),
        ("rows.x = 1\ncolumns = 4\n", 1, "rows is { x = 1 }; it must be a whole number from 1 to 256"),
        (SIZES + "clock_mhz = 2026-11-27\n", 3, "clock_mhz is 2026-11-27; it must be a number from 1"),
        (SIZES + "clock_mhz = inf\n", 3, "clock_mhz is inf; it must be from 1 to 1000"),
        (SIZES + "row_slices = [1, '2']\n", 3, "row_slices[1] is '2'; it must be ascending, from 1 to rows - 1"),
        (SIZES + f"row_slices = [{HUGE}]\n", 3, "row_slices[0] is a number of 20000 bits; it must be ascending"),
        (SIZES + f"name = {HUGE}\n", 3, "name is a number of 20000 bits; it must be one line of 1 to 100 characters"),
        (SIZES + f"name = [{HUGE}]\n", 3, "name is a list with a number of thousands of digits in it; it must be one"),
        (SIZES + f"act_depth = {HUGE}\n", 3, "act_depth is a number of 20000 bits; it must be a whole number from 64"),
        (SIZES + '"a b" = 1\n', 3, "'a b' is 1; a machine has no such field"),
        (SIZES + '"memory.x" = 1\n', 3, "memory.x is 1; a machine has no such field"),
    ],
    ids=lambda part: str(part)[:30],
)  # fmt: skip
def test_machines(tmp_path: Path, text: str, line: int, told: str) -> None:
    check_refused(read_machine, tmp_path / "a.toml", text, f"line {line}: {told}")


def test_a_table_that_is_set_changes_what_is_in_it() -> None:
    tiny = preset("tiny")
    assert changed(tiny, {"memory": {"latency_ns": 90}}) == changed(tiny, {"memory.latency_ns": 90})
    with pytest.raises(FieldError, match=r"^memory is 3; a machine has no such field, but a table"):
        changed(tiny, {"memory": 3, "memory.latency_ns": 90})


@pytest.mark.parametrize(
    ("text", "line", "told"),
    [
        (NET + "pattern = 3\n", 2, "pattern is 3; it must be a text, or a list of texts"),
        (NET + "pattern = { from = 1, to = 2, step = 1 }\n", 2, "pattern is { from = 1, to = 2, step = 1 }; it must"),
        (NET + "method = [['bdwp']]\n", 2, "method is ['bdwp']; it must be a text, or a list of texts"),
        (NET + "batch = 2026-11-27\n", 2, "batch is 2026-11-27; it must be a whole number from 1 to 16777216"),
        (NET + "[set]\nrows = nan\n", 3, "set.rows is nan; it must be a whole number from 1 to 256"),
        (NET + "[set]\nrows = [[8]]\n", 3, "set.rows is [8]; it must be a whole number from 1 to 256"),
        (NET + "[set]\nmemory = 3\n", 3, "set.memory is 3; it must be a table"),
        (NET + "[set.memory]\nlate = 3\n", 3, "set.memory.late is 3; fields that a sweep changes: rows"),
        (NET + f"[set]\nmemory.latency_ns = {HUGE}\n", 3, "set.memory.latency_ns is a number of 20000 bits; it must "),
        (NET + "[set]\nrows = { from = 'a', to = 4, step = 1 }\n", 3, "set.rows.from is 'a'; it must be a number from"),
        (NET + "[set]\nrows = { from = nan, to = 4, step = 1 }\n", 3, "set.rows.from is nan; it must be from 0 to 1e"),
        (NET + "[set]\nrows = { to = 4, step = 1 }\n", 3, "set.rows is { to = 4, step = 1 }; a range has from, to, a"),
        (NET + "[set]\nrows = { from = 1, to = 4, stp = 1 }\n", 3, "set.rows is { from = 1, to = 4, stp = 1 }; a ra"),
        (NET + "[set]\nrows = { from = 1, to = 4, step = 1, times = 2 }\n", 3, "set.rows is { from = 1, to = 4, step "),
        (NET + "random = [1]\n", 2, "random is [1]; it must be a table"),
        (NET + "[random]\nseed = 2\n", 2, "random.points is missing; it must be a whole number from 1 to 100000"),
        (NET + "[random]\nseed = 2.0\npoints = 1\n", 3, "random.seed is 2.0; it must be a whole number from 0 to"),
        (NET + "[random]\npoints = 1\nmore = 1\n", 4, "random.more is 1; keys of it: points, seed"),
    ],
    ids=lambda part: str(part)[:30],
)  # fmt: skip
def test_sweeps(tmp_path: Path, text: str, line: int, told: str) -> None:
    check_refused(read_sweep, tmp_path / "s.toml", text, f"line {line}: {told}")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("epochs.x = 1", "epochs is { x = 1 }; it must be a whole number"),
        ("epochs = [1]", "epochs is [1]; it must be a whole number"),
        ("epochs = 0", "epochs is 0; it must be a whole number from 1 to 16777216"),
        ("seed = 99999999999999999999", "seed is 99999999999999999999; it must be a whole number from 0 to"),
        ("batch = 2026-11-27", "batch is 2026-11-27; it must be a whole number"),
        ("lr = nan", "lr is nan; it must be above 0 and at most 1000"),
        ("lr = 0", "lr is 0; it must be above 0 and at most 1000"),
        (f"lr = {HUGE}", "lr is a number of 20000 bits; it must be above 0 and at most 1000"),
        ("decay = 'x'", "decay is 'x'; it must be a number"),
        ("network = [['mlp']]", "network is [['mlp']]; it must be a text"),
        ("[run]\nseed = 1", "configuration key is 'run'; known keys: network"),
    ],
    ids=lambda text: text[:30],
)
def test_trainings(text: str, told: str) -> None:
    with pytest.raises(FieldError) as error:
        parse_fields(text)
    assert str(error.value).startswith(told)
    assert "\n" not in str(error.value)


def test_the_line_of_a_field_is_found(tmp_path: Path) -> None:
    text = '[a]\n"b.c" = 1\nd = [\n 1,\n]\n[e]\n'
    for field, line in (("a.b.c", 2), ("a.d", 3), ("e", 6), ("e.missing", 6), ("a", 1)):
        assert field_place(tmp_path, text, field) == f"{tmp_path}, line {line}"
    for field in ("missing", "", "missing.b"):
        assert field_place(tmp_path, text, field) == str(tmp_path)


TRICKY = """\
a = 'x"#['  # "[ {
b = \"\"\"two \\\" lines [
c = 1 \"\"\"\"\"
c = [ "]", # ]
  [1],
]
d = '''
'' [ \\''''
e = { x = "}", "y.z" = [1,
2] }
[[f]]
"g#" = 1
"""
"""Statements whose strings, comments and lists look like the ends or beginnings of others."""


def test_lines_are_found_where_strings_and_comments_look_like_statements(tmp_path: Path) -> None:
    tomllib.loads(TRICKY)
    lines = {"a": 1, "b": 2, "c": 4, "d": 7, "e": 9, "e.x": 9, "e.y.z": 9, "f": 11, "g#": 11}
    for field, line in lines.items():
        held = str(tmp_path) if field == "g#" else f"{tmp_path}, line {line}"  # in a list of tables, not in a table
        assert field_place(tmp_path, TRICKY, field) == held
        assert field_place(tmp_path, TRICKY.replace("\n", "\r\n"), field) == held


@pytest.mark.parametrize("lines", ["# a comment\n" * 4500, "#\n" * 30000])
def test_the_line_of_a_field_of_a_long_file_is_found_in_time(tmp_path: Path, lines: str) -> None:
    path = tmp_path / "s.toml"
    path.write_text(f"{NET}{lines}unknown = 1\n")
    start = time.process_time()
    with pytest.raises(ValueError, match=rf"^{path}, line {(NET + lines).count(chr(10)) + 1}: unknown "):
        read_sweep(path)
    assert time.process_time() - start < 1


@pytest.mark.parametrize("read", [read_machine, read_sweep])
def test_what_has_no_size_is_refused_unread(tmp_path: Path, read: Callable[[Path], object]) -> None:
    places = {name: tmp_path / f"{name}.toml" for name in ("device", "pipe", "folder", "loop")}
    places["device"].symlink_to("/dev/zero")
    os.mkfifo(places["pipe"])
    places["folder"].mkdir()
    places["loop"].symlink_to("loop.toml")
    told = {"device": "it is no regular file", "pipe": "it is no regular file", "folder": "it cannot be read: Is a dir"}
    for name, path in places.items():
        with pytest.raises(ValueError) as error:
            read(path)
        assert str(error.value).startswith(f"{path}: {told.get(name, 'it cannot be read: Too many levels')}")


def test_a_file_that_tells_no_size_is_read_up_to_its_limit() -> None:
    with pytest.raises(ValueError, match="it has more than 10 bytes; at most 10 are read"):
        read_text(Path("/proc/self/status"), 10)


ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.dates(),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=12), inner, max_size=2),
    max_leaves=4,
)
NAMES = st.sampled_from(["rows", "name", "row_slices", "memory", "clock_mhz"]) | st.text(max_size=12)


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(NAMES, ANY, max_size=3))
def test_any_values_are_a_machine_or_one_line(found: dict[str, Any]) -> None:
    try:
        changed(preset("tiny"), found)
    except FieldError as error:
        assert str(error).isprintable()


def test_a_value_is_shown_in_one_short_line() -> None:
    assert (short("a\nb"), short(1 << 300)) == (repr("a\nb"), "a number of 301 bits")
    assert len(short("x" * 1000)) == MAX_SHOWN + 4


DEEP = ".".join(["a"] * 3000)
"""A name of a table within tables, so deep that Python cannot write the value out."""


@pytest.mark.parametrize(
    ("read", "text", "told"),
    [
        (read_machine, f"{SIZES}{DEEP} = 1\n", "a is a table of more levels than can be shown; a machine has no such"),
        (read_machine, f"{SIZES}memory.{DEEP} = 1\n", "memory.a is a table of more levels than can be shown"),
        (read_machine, f"columns = 4\nrows.{DEEP} = 1\n", "rows is a table of more levels than can be shown"),
        (read_sweep, f"{NET}{DEEP} = 1\n", "a is a table of more levels than can be shown; a sweep has no such key"),
        (read_sweep, f"{NET}set.rows.{DEEP} = 1\n", "set.rows is a table of more levels than can be shown"),
        (read_choice, f"dense.{DEEP} = 1\n", "dense is a table of more levels than can be shown"),
        (read_choice, f"pattern.{DEEP} = 1\n", "pattern is a table of more levels than can be shown"),
    ],
    ids=lambda part: part[:30] if isinstance(part, str) else part.__name__,
)
def test_tables_within_tables_without_end_are_one_line(
    tmp_path: Path, read: Callable[[Path], object], text: str, told: str
) -> None:
    path = tmp_path / "a.toml"
    path.write_text(text)
    with pytest.raises(ValueError) as error:
        read(path)
    assert told in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("read", "text"),
    [(read_machine, f"{SIZES}name = 'x'\n"), (read_sweep, NET), (read_choice, "dense = ['stem']\n")],
    ids=lambda part: part[:30] if isinstance(part, str) else part.__name__,
)
def test_the_mark_of_some_editors_is_no_part_of_a_file(
    tmp_path: Path, read: Callable[[Path], object], text: str
) -> None:
    (tmp_path / "a.toml").write_text(text, encoding="utf-8")
    (tmp_path / "b.toml").write_text(text, encoding="utf-8-sig")
    assert read(tmp_path / "b.toml") == read(tmp_path / "a.toml")
