"""Machines on the command line: --config takes files, --set changes fields, `nmsat config` tells what they are."""

from __future__ import annotations

import json
import shlex
import tomllib
from typing import TYPE_CHECKING

import pytest

import nmsat
from nmsat.dataflow.contract.config import NAMED, preset
from nmsat.dataflow.contract.machine_file import MACHINE_FIELDS, machine_text
from nmsat.reports.commands.parser import again

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.conftest import Outcome

    Call = Callable[[str], Outcome]


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    path = tmp_path / "mine.toml"
    path.write_text(machine_text(preset("tiny").replace(name="mine", clock_mhz=150.0)))
    return path


@pytest.mark.parametrize("name", NAMED)
def test_show_writes_a_file_that_config_reads_back(call: Call, tmp_path: Path, name: str) -> None:
    path = tmp_path / "other.toml"
    path.write_text(call(f"config show {name}").out)
    assert nmsat.parse(["gemm", "1", "1", "1", "--config", str(path)]).config == preset(name)
    shown = json.loads(call(f"config show {path} --json").out)
    assert shown["config"] == name
    assert shown["toml"] == path.read_text().rstrip("\n") + "\n"


@pytest.mark.parametrize("command", ["gemm 9 8 7 --pattern 2:4", "model mlp --batch 4 --estimate", "program 9 8 7"])
def test_a_file_gives_what_the_same_fields_give(call: Call, mine: Path, command: str) -> None:
    by_file = json.loads(call(f"{command} --config {mine} --json").out)
    by_set = json.loads(call(f"{command} --config tiny --set clock_mhz=150 --set name=mine --json").out)
    assert by_file == by_set | {"command": by_file["command"]} if "command" in by_set else by_set
    assert by_file["config"] == "mine"


@pytest.mark.parametrize(
    "line", ["--config {mine}", "--set rows=2", "--set rows=2 --config small --set clock_mhz=99.5"]
)
def test_the_printed_command_asks_for_the_same_machine(mine: Path, line: str) -> None:
    options = nmsat.parse(shlex.split(f"gemm 9 8 7 {line.format(mine=mine)}"))
    text = again(options)
    assert nmsat.parse(shlex.split(text)[1:]).config == options.config
    assert options.config not in NAMED.values()


def test_a_file_called_as_a_preset_is_taken_with_another_name(call: Call, tmp_path: Path) -> None:
    path = tmp_path / "tiny.toml"
    path.write_text("rows = 8\ncolumns = 8\n")
    told = f"argument --config: {path}: name is 'tiny', that of a preset with other values; choose another name; "
    for more in ("", " --set rows=4"):
        outcome = call(f"gemm 9 8 7 --config {path}{more}")
        assert (outcome.code, outcome.err.count("\n")) == (2, 1)
        assert told in outcome.err and "or give --set name=NAME" in outcome.err
    assert json.loads(call(f"gemm 9 8 7 --config {path} --set name=foo --json").out)["config"] == "foo"
    options = nmsat.parse(shlex.split(f"gemm 9 8 7 --config {path} --set name=foo"))
    assert nmsat.parse(shlex.split(again(options))[1:]).config == options.config


def test_a_file_named_by_gemm_is_named_by_the_machines_command(call: Call, mine: Path) -> None:
    found = json.loads(call(f"gemm 9 8 7 --config {mine} --json").out)
    assert shlex.split(found["machine_command"])[-2:] == ["--config", str(mine)]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("gemm 1 1 1 --set rows", "the value is 'rows'; write FIELD=VALUE such as rows=16"),
        ("gemm 1 1 1 --set row=3", "row is 3; a machine has no such field; did you mean rows?"),
        ("gemm 1 1 1 --set rows=3.5", "rows is 3.5; it must be a whole number from 1 to 256"),
        ("gemm 1 1 1 --set memory.channels=65", "memory.channels is 65; it must be a whole number from 1 to 64"),
        ("gemm 1 1 1 --set name=small", "name is 'small', that of a preset with other values"),
        ("gemm 1 1 1 --config nope.toml", "nope.toml: it cannot be read: No such file or directory"),
        ("gemm 1 1 1 --set rows=2 --set rows=4", "rows is given 2 times; give each field once"),
        ("gemm 1 1 1 --set memory.channels=2 --set memory={channels=1}", "memory.channels is given 2 times"),
        ("workload run moa --set rows=2", "--set is given without --config"),
        ("verify --set rows=3 --jobs 1", "planned and not built: rows is 3"),
        ("program 8 8 8 --set rows=3", "planned and not built: rows is 3"),
        ("program 8 8 8 --set rows=64 --set sum_depth=512", "is planned and not built"),
        ("program 8 8 8 --transposed --config tiny --set columns=3", "planned and not built: columns is 3"),
        ("program --network mlp --set rows=3", "planned and not built: rows is 3"),
        ("workload run sora --scale paper --config tiny --set rows=64", "planned and not built: rows is 64"),
        ("rtl --config tiny --set rows=64 --out build/never", "planned and not built: rows is 64"),
        ("synth --config tiny --set rows=64 --device xck26", "planned and not built: rows is 64"),
        ("verify fuzz --set rows=3", "planned and not built: rows is 3"),
        ("model mlp --estimate --set rows=3", "planned and not built: rows is 3"),
        ("config check nope", "config is 'nope'; known configurations: tiny, small"),
    ],
)
def test_what_cannot_be_used_is_one_line(call: Call, words: str, told: str) -> None:
    outcome = call(words)
    assert outcome.code == 2
    assert told in outcome.err
    assert outcome.err.count("\n") == 1


def test_a_file_with_a_fault_is_told_with_its_line(call: Call, mine: Path) -> None:
    mine.write_text("rows = 4\ncolumns = 4\n[memory]\nlatency_ns = 0\n")
    outcome = call(f"config check {mine}")
    assert outcome.code == 2
    assert f"{mine}, line 4: memory.latency_ns is 0; it must be from 1 to 1" in outcome.err


def test_check_tells_fields_sizes_and_what_is_planned(call: Call) -> None:
    values = json.loads(call("config check tiny --set rows=64 --set sum_depth=512 --device kv260 --json").out)
    assert [field["name"] for field in values["fields"]] == list(MACHINE_FIELDS)
    assert values["derived"]["elements"] == 256
    assert values["planned"] == ["rows is 64; the machine in RTL is built for 1, 2, 4, 8, 16 or 32"]
    assert (values["fits"], values["device"], values["part"]) == (False, "kv260", "xck26")
    text = call("config check tiny --set rows=64 --set sum_depth=512 --device kv260").out
    assert "in RTL        no: configuration 'tiny rows=64 sum_depth=512' is planned and not built" in text


def test_list_tells_all_names(call: Call) -> None:
    values = json.loads(call("config list --json").out)
    assert [record["config"] for record in values["configs"]] == list(NAMED)
    assert all(f"\n{name}" in call("config list").out for name in NAMED)
    assert tomllib.loads(call("config show tiny").out)["name"] == "tiny"
