"""Machines as files: what is written is read back, and what cannot be used is told with file, line, field and limit."""

from __future__ import annotations

import json
import tomllib
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nmsat.algorithms.core.schema import FieldError
from nmsat.dataflow.contract.config import CARDS, NAMED, PRESETS, SatConfig, preset
from nmsat.dataflow.contract.machine_file import (
    MACHINE_FIELDS,
    changed,
    find_machine,
    machine_text,
    make_machine,
    needs_name,
    parse_value,
    read_machine,
    values,
)
from nmsat.dataflow.contract.ranges import MAX_NAME, MEMORY_RANGES, SAT_RANGES, Range
from nmsat.dataflow.cycles.buffers import check_buffers
from nmsat.reports.work.area import machine_area
from nmsat.reports.work.machines import board_of, die_of, machine_record
from tests.source import ROOT

if TYPE_CHECKING:
    from pathlib import Path

AREA = ("lut", "flip_flops", "dsp", "bram36", "uram")
SIZES = "rows = 4\ncolumns = 4\n"
MACHINES = [
    *NAMED.values(),
    preset("vcu1525-2"),
    preset("tiny").replace(name='ü "quoted" % x', row_slices=(1, 3), column_slices=(2,)),
]


@pytest.mark.parametrize("config", MACHINES, ids=lambda config: config.name)
def test_what_is_written_is_read_back(config: object, tmp_path: Path) -> None:
    path = tmp_path / "other.toml"
    path.write_text(machine_text(config), encoding="utf-8")  # type: ignore[arg-type]
    assert read_machine(path) == config
    assert find_machine(str(path)) == config


def test_every_field_has_its_line_with_unit_and_meaning() -> None:
    text = machine_text(preset("tiny"))
    found = tomllib.loads(text)
    assert [*(n for n in found if n != "memory"), *(f"memory.{n}" for n in found["memory"])] == list(MACHINE_FIELDS)
    for field in MACHINE_FIELDS.values():
        unit = f" ({field.unit})" if isinstance(field, Range) else ""
        assert f"# {field.what}{unit}: {field.allowed}\n" in text


def test_fields_left_out_have_their_defaults_and_the_file_gives_the_name(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(SIZES + "clock_mhz = 250\nmemory = { latency_ns = 90 }\n")
    config = read_machine(path)
    assert (config.name, config.rows, config.clock_mhz, config.memory.latency_ns) == ("mine", 4, 250.0, 90.0)
    assert type(config.clock_mhz) is float  # or the same machine would be timed twice
    assert config.memory.channels == 4


@pytest.mark.parametrize(
    ("text", "line", "told"),
    [
        ("rows = 4\n", None, "columns is missing; it must be from 1 to 256"),
        (SIZES + "act_depth = 100\n", 3, "act_depth is 100; it must be a power of two from 64 to 65536"),
        ("# first\n\n" + SIZES + "adder_stages = 9\n", 5, "adder_stages is 9; it must be a whole number from 1 to 7"),
        (SIZES + "row_slices = [\n  1,\n  9,\n]\n", 3, "row_slices is [1, 9]; it must be a list, ascending whole"),
        (SIZES + "[memory]\n\nchannels = 0\n", 5, "memory.channels is 0; it must be a whole number from 1 to 64"),
        (SIZES + "memory.chanels = 1\n", 3, "memory.chanels is 1; a machine has no such field; did you mean memory.ch"),
        (SIZES + "memory = 3\n", 3, "memory is 3; a machine has no such field"),
        ("columns = 4\nsum_depth = 64\nrows = 256\n", 2, "sum_depth is 64; a tile of 256 rows needs 8 rows = 2048"),
        ('"rows" = "4"\ncolumns = 4\n', 1, "rows is '4'; it must be a whole number from 1 to 256"),
        ("rows = true\ncolumns = 4\n", 1, "rows is true; it must be a whole number from 1 to 256"),
        (SIZES + "clock_mhz = nan\n", 3, "clock_mhz is nan; it must be from 1 to 1000"),
        (SIZES + f"clock_mhz = {'9' * 400}\n", 3, "clock_mhz is a number of 1329 bits; it must be from 1 to 1000"),
        (SIZES + 'name = ""\n', 3, "name is ''; it must be one line of 1 to 100 characters"),
        (SIZES + 'name = "small-2"\n', 3, "name is 'small-2', that of a preset with other values; choose another name"),
        (
            SIZES + "rows 4\n",
            None,
            "it is not TOML: Expected '=' after a key in a key/value pair (at line 3, column 6)",
        ),
        (SIZES + f"name = {'9' * 5000}\n", None, "it is not TOML: "),
        (f"x = {'[' * 5000}", None, "it is not TOML"),
        ("#" * 20_000, None, "it has 20000 bytes; at most 16384 are read"),
    ],
)
def test_what_cannot_be_used_is_told_with_its_line(tmp_path: Path, text: str, line: int | None, told: str) -> None:
    path = tmp_path / "a.toml"
    path.write_text(text)
    with pytest.raises(ValueError) as error:
        read_machine(path)
    assert str(error.value).startswith(f"{path}{f', line {line}' if line else ''}: {told}")
    assert "\n" not in str(error.value)


def test_a_file_called_as_a_preset_is_told_where_the_name_is_from(tmp_path: Path) -> None:
    path = tmp_path / "tiny.toml"
    path.write_text(SIZES)
    told = f"{path}: name is 'tiny', that of a preset .*; without a name in it, a file gives its own"
    with pytest.raises(ValueError, match=told):
        read_machine(path)
    kept = read_machine(path, named=False)
    assert (kept.name, needs_name(kept), needs_name(preset("tiny"))) == ("tiny", True, False)
    assert changed(kept, {"name": "foo"}) == kept.replace(name="foo")
    for same in ({"name": "tiny"}, {"rows": 4}, {"rows": 2}):
        with pytest.raises(FieldError, match="that of a preset"):
            changed(kept, same)


def test_files_that_cannot_be_read_are_told(tmp_path: Path) -> None:
    (tmp_path / "b.toml").write_bytes(b"name = '\xff'")
    for name, told in (("a.toml", "No such file"), ("b.toml", "not UTF-8 at byte 8"), ("", "Is a directory")):
        with pytest.raises(ValueError, match=told):
            read_machine(tmp_path / name)
    with pytest.raises(ValueError, match=r"known configurations: tiny.*; or a file, NAME\.toml"):
        find_machine("nope")


@pytest.mark.parametrize("field", [*SAT_RANGES, *MEMORY_RANGES], ids=lambda field: field.name)
def test_a_field_that_is_set_is_as_if_it_had_been_written(field: Range) -> None:
    name = field.name if field in SAT_RANGES else f"memory.{field.name}"
    base = make_machine({**values(preset("tiny")), "name": "base", "sum_depth": 4096, "rows": 1})
    value = field.low if field.name != "sum_depth" else 64
    config = changed(base, {name: parse_value(f"{value:g}")})
    assert values(config)[name] == value
    assert {n for n, v in values(config).items() if v != values(base)[n]} <= {name, "name"}
    with pytest.raises(FieldError, match=f"^{name} is "):
        changed(base, {name: parse_value(f"{field.high * 2:g}")})
    with pytest.raises(FieldError, match=f"^{name} is 'x'; it must be "):
        changed(base, {name: parse_value("x")})


def test_the_name_tells_what_was_set() -> None:
    tiny = preset("tiny")
    assert changed(tiny, {"rows": 4}) is tiny
    assert changed(tiny, {"rows": 8, "memory.latency_ns": 90}).name == "tiny rows=8 memory.latency_ns=90"
    assert changed(tiny, {"row_slices": (1, 3)}).name == "tiny row_slices=[1, 3]"
    assert changed(tiny, {"rows": 8, "name": "mine"}).name == "mine"
    everything = {n: v for n, v in values(preset("zcu102")).items() if n != "name"}
    assert len(changed(tiny, everything).name) == 100


def test_names_that_are_cut_stay_apart() -> None:
    long = preset("tiny").replace(name="long" * 25)
    names = {changed(long, {"memory.latency_ns": latency}).name for latency in range(60, 80)}
    assert len(names) == 20
    assert {(len(name), name[:82]) for name in names} == {(MAX_NAME, long.name[:82])}


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=40))
def test_any_text_is_a_value_or_a_text(text: str) -> None:
    found = parse_value(text)
    if found == text:
        return
    assert repr(tomllib.loads(f"value = {text}")) == repr({"value": found})  # NaN is not equal to itself


@pytest.mark.parametrize("config", NAMED.values(), ids=lambda config: config.name)
def test_named_machines_are_built_and_fit_their_board(config: object) -> None:
    record = machine_record(config, board_of(config, None))  # type: ignore[arg-type]
    assert (record["planned"], record["refused"], record["fits"]) == ([], "", True)


def test_machines_of_boards_are_the_largest_that_fit() -> None:
    """One side more is not built, or more than 80 % of the LUTs, or all of the block RAM."""
    for config in NAMED.values():
        if config.name in PRESETS and config.name != "vcu1525":
            continue
        board = board_of(config, None)
        for side in ("rows", "columns"):
            more = changed(config, {side: 2 * getattr(config, side)})
            record = machine_record(more, board)
            assert record["planned"] or not record["fits"], (config.name, side)


def test_the_area_is_that_of_the_machine_that_was_mapped() -> None:
    mapped = json.loads((ROOT / "reports" / "tables" / "synth_vcu1525.json").read_text(encoding="utf-8"))["total"]
    area = machine_area(preset("vcu1525"))
    assert area.lut == pytest.approx(mapped["luts"], rel=0.03)
    assert area.flip_flops == pytest.approx(mapped["flip_flops"], rel=0.03)
    assert area.dsp == mapped["dsp"]


@pytest.mark.parametrize("config", CARDS.values(), ids=lambda config: config.name)
def test_the_page_of_machines_for_boards(config: SatConfig) -> None:
    """Its table has sizes, lanes, port and the estimate as they are."""
    record = machine_record(config, board_of(config, None))
    uses, has = record["uses"], record["has"]
    shares = [f"{uses[k]:,}{f' ({uses[k] / has[k]:.0%})' if has[k] else ''}" for k in AREA]
    board = f"{record['device']}, {record['part'].upper()}"
    sizes = [f"{config.rows} x {config.columns}", str(config.wuve_lanes), str(config.port_bits)]
    row = [f"`{config.name}`", board, *sizes, f"{config.clock_mhz:g} MHz", *shares]
    assert f"| {' | '.join(row)} |" in (ROOT / "docs" / "sweeps.md").read_text(encoding="utf-8")


def test_what_makes_a_machine_larger() -> None:
    """Each size by itself; fewer lanes of WUVE are cheaper by most of their lanes."""
    tiny = preset("tiny")
    for change in ({"rows": 8}, {"columns": 8}, {"act_lanes": 2}, {"ports": 2}):
        assert machine_area(tiny.replace(**change)).lut > machine_area(tiny).lut
    lanes = [machine_area(tiny.replace(wuve_lanes=lanes)) for lanes in (1, 2, 4, 8, 16)]
    assert all(one.lut < other.lut and one.dsp < other.dsp for one, other in pairwise(lanes))
    assert lanes[-1].dsp - lanes[0].dsp == 15 * 8


@pytest.mark.parametrize(
    ("name", "board"), [("pynq-z2", "pynq-z2"), ("pynq-z2-2", "pynq-z2"), ("kv260 rows=4", "kv260"), ("u2", "vcu1525")]
)
def test_the_board_that_a_machine_is_called_after(name: str, board: str) -> None:
    assert board_of(preset("tiny").replace(name=name), None) == board


def test_a_device_without_ultraram_has_all_in_block_ram() -> None:
    chip = die_of("zcu102")
    assert check_buffers(preset("zcu102"), chip) == {"bram36": 538, "uram": 0}
    with pytest.raises(ValueError, match="more than the XCK26 has"):
        check_buffers(preset("zcu102"), die_of("kv260"))
