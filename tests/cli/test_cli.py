"""The command line: answers, JSON, exit codes, and one clear line for every bad input."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import nmsat
from nmsat.reports.commands import parser
from nmsat.reports.commands.base import Answer, Command
from nmsat.reports.version import VERSION
from nmsat.reports.work.text import table

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.conftest import Outcome

    Call = Callable[[str], Outcome]

SCRIPT = Path(sys.executable).with_name("nmsat")

BAD_INPUT = [
    ("", 0, "usage: nmsat"),
    ("gemm 0 1 1", 2, "argument M: the value is '0'; it must be a whole number from 1"),
    ("gemm 1 -5 1", 2, "argument K: the value is '-5'; it must be a whole number from 1"),
    ("gemm 1 1 2.5", 2, "argument N: the value is '2.5'; it must be a whole number from 1"),
    ("gemm 1 1 99999999999", 2, "argument N: the value is '99999999999'; it must be a whole number from 1 to 16777216"),
    ("gemm 1 1", 2, "the following arguments are required: N"),
    ("gemm 1 1 1 1", 2, "unrecognized arguments: 1"),
    ("gemm 1 1 1 --pattern 9:8", 2, "pattern is '9:8'; N must be from 1 to M = 8"),
    ("gemm 1 1 1 --pattern 0:4", 2, "pattern is '0:4'; N must be from 1 to M = 4"),
    ("gemm 1 1 1 --pattern 2:5", 2, "pattern is '2:5'; M must be 2, 4, 8 or 16"),
    ("gemm 1 1 1 --pattern 2-8", 2, "pattern is '2-8'; write N:M such as 2:8, or dense"),
    ("gemm 1 1 1 --config huge", 2, "config is 'huge'; known configurations: tiny, small, vcu1525"),
    ("gemm 1 1 1 --stage fp", 2, "argument --stage: invalid choice: 'fp' (choose from 'ff', 'bp', 'wu')"),
    ("gemm 1 1 1 --dataflow is", 2, "argument --dataflow: invalid choice: 'is' (choose from 'os', 'ws')"),
    ("gemm 1 1 1 --seed -1", 2, "argument --seed: the value is '-1'; it must be a whole number from 0"),
    ("gemm 1 1 1 --jsn", 2, "unrecognized arguments: --jsn"),
    ("verify gemm 1 0 1", 2, "argument K: the value is '0'"),
    ("verify gemm 4096 4096 4096", 2, "the RTL runs at most 2000000 here; choose a smaller M, K or N"),
    (
        "verify frob",
        2,
        "command is 'verify frob'; known commands: verify fuzz, verify gemm, verify workload (see",
    ),
    ("verify --jobs 5 frob", 2, "command is 'verify frob'; known commands: verify fuzz"),
    (
        "verify --seed 3 gemm 1 1 1",
        2,
        "--seed stands before 'gemm', which has its own options; write nmsat verify",
    ),
    (
        "workload frob",
        2,
        "command is 'workload frob'; known commands: workload list, workload run, workload table",
    ),
    ("frobnicate", 2, "command is 'frobnicate'; known commands: bench, cache, card, compare"),
    ("gemm 8 8 8 --quiet --verbose", 2, "--quiet and --verbose are both given"),
    ("--quiet gemm 8 8 8 --verbose", 2, "--quiet and --verbose are both given"),
    ("--jsn gemm 8 8 8", 2, "unrecognized arguments: --jsn (see nmsat --help)"),
    ("completion tcsh", 2, "invalid choice: 'tcsh' (choose from 'bash', 'zsh', 'fish')"),
    ("model resnet9 --pattern dense", 2, "pattern is 'dense'; write N:M such as 2:8 (dense is a method)"),
    ("demo --pattern dense", 2, "pattern is 'dense'; the demo compares with dense, choose N below M"),
    ("demo --out /dev/null/x", 2, "output folder is '/dev/null/x'; it cannot be written"),
]


@pytest.mark.parametrize(("line", "code", "message"), BAD_INPUT)
def test_bad_input_is_one_line_that_says_what_is_allowed(call: Call, line: str, code: int, message: str) -> None:
    outcome = call(line)
    assert outcome.code == code
    if code == 0:
        assert message in outcome.out
        return
    assert outcome.out == ""
    (text,) = outcome.err.splitlines()
    assert text.startswith("nmsat: error: ")
    assert message in text


def test_gemm_counts_add_up(call: Call) -> None:
    outcome = call("gemm 17 37 9 --pattern 2:8 --config tiny --json")
    values = json.loads(outcome.out)
    assert outcome.code == 0
    assert (values["m"], values["k"], values["n"], values["pattern"]) == (17, 37, 9, "2:8")
    assert values["cycles"] == values["steps"] + sum(values["stalls"].values())
    assert values["macs"] == 17 * 9 * (4 * 2 + 2)
    assert values["utilization"] == pytest.approx(values["macs"] / (values["cycles"] * 16))
    assert values["ideal_cycles"] == -(-values["macs"] // 16)


def test_bits_do_not_depend_on_the_schedule(call: Call) -> None:
    digests = {
        json.loads(call(f"gemm 33 64 65 --pattern 1:16 --seed 3 --json --config {config} --dataflow {flow}").out)[
            "y_sha256"
        ]
        for config in ("tiny", "small", "vcu1525")
        for flow in ("os", "ws")
    }
    assert len(digests) == 1
    other = json.loads(call("gemm 33 64 65 --pattern 1:16 --seed 4 --json").out)
    assert other["y_sha256"] not in digests


def test_weight_gradients_stay_dense(call: Call) -> None:
    sparse = call("gemm 64 64 64 --pattern 2:8 --stage wu --json")
    dense = json.loads(call("gemm 64 64 64 --stage wu --json").out)
    without = ["--pattern 2:8 (stage wu is dense)"]
    assert json.loads(sparse.out) == {**dense, "machine_command_without": without}
    assert "stage wu is dense in BDWP; pattern 2:8 is not used" in sparse.err


def test_text_and_json_say_the_same(call: Call) -> None:
    values = json.loads(call("gemm 100 100 100 --pattern 2:4 --json").out)
    text = call("gemm 100 100 100 --pattern 2:4").out
    assert f"cycles{values['cycles']:>26}" in text
    assert f"{values['utilization']:.1%}" in text
    for cause, cycles in values["stalls"].items():
        assert f"stall: {cause}".ljust(20) + f"{cycles:>12}" in text


@pytest.mark.parametrize("line", ["--help", *(f"{name} --help" for name in nmsat.COMMANDS)])
def test_help_shows_an_example_that_can_be_parsed(call: Call, line: str) -> None:
    outcome = call(line)
    assert outcome.code == 0
    example = outcome.out.rstrip().rpartition("example:")[2].split()
    assert example[0] == "nmsat"
    assert nmsat.parse(example[1:]).parser is not None  # with --help behind it, nothing would be refused


@pytest.mark.parametrize("group", ["", "verify", "workload"])
def test_help_lists_the_commands_below(call: Call, group: str) -> None:
    text = call(f"{group} --help").out
    below = {name.removeprefix(group).split()[0] for name in nmsat.COMMANDS if name.removeprefix(group).strip()}
    below = below if group else {name.split()[0] for name in nmsat.COMMANDS}
    below = {name for name in below if not group or f"{group} {name}" in nmsat.COMMANDS}
    listed = re.findall(r"^    (\w+)\b", text.split("\n  COMMAND\n")[1].split("\n\n")[0], re.MULTILINE)
    assert set(listed) == below
    if group != "verify":  # which does something by itself
        assert call(group).out == text
        assert call(group).code == 0


def test_version_needs_neither_git_nor_metadata(call: Call, tmp_path: Path) -> None:
    outcome = call("--version")
    assert (outcome.code, outcome.out) == (0, f"nmsat {VERSION}\n")
    assert json.loads(call("--version --json").out) == {"version": VERSION}
    # A copy of the sources alone, with the metadata of another version beside it.
    (root,) = map(Path, nmsat.__path__)
    for name in ("nmsat.py", "reports", "algorithms", "dataflow", "tb"):
        (tmp_path / name).symlink_to(root / name)
    stale = tmp_path / "nmsat-9.9.9.dist-info"
    stale.mkdir()
    (stale / "METADATA").write_text("Metadata-Version: 2.1\nName: nmsat\nVersion: 9.9.9\n")
    run = subprocess.run(
        [sys.executable, tmp_path / "nmsat.py", "--version"],
        cwd=tmp_path,
        env={"PATH": str(tmp_path), "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (run.returncode, run.stdout, run.stderr) == (0, f"nmsat {VERSION}\n", "")


def test_installed_metadata_say_the_same_version() -> None:
    assert metadata.version("nmsat") == VERSION


def test_help_is_quick_because_nothing_heavy_is_imported() -> None:
    heavy = ["numpy", "matplotlib", "amaranth", "cocotb", "sklearn", "onnx", "jinja2", "tqdm", "shtab", "msgspec"]
    code = "\n".join(
        [
            "import contextlib, io, sys, nmsat",
            "with contextlib.redirect_stdout(io.StringIO()):",
            "    for words in [['--help'], *([*name.split(), '--help'] for name in nmsat.COMMANDS)]:",
            "        assert nmsat.main(words) == 0",
            f"sys.exit(' '.join(name for name in {heavy} if name in sys.modules) or 0)",
        ]
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (run.returncode, run.stderr) == (0, "")


@pytest.mark.parametrize("line", ["workload list", "gemm 8 8 8", "completion bash", "program 8 8 8", "--version"])
def test_json_is_one_object(call: Call, line: str) -> None:
    assert isinstance(json.loads(call(f"{line} --json").out), dict)
    assert call(f"--json {line}").out == call(f"{line} --json").out


def test_json_alone_is_on_stdout(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    def chatty(_: object) -> Answer:
        print("progress")
        return Answer({"ok": False}, "text", ok=False)

    command = Command("Chat.", "nmsat chat", lambda parser: None, chatty)
    monkeypatch.setattr(nmsat, "COMMANDS", {"chat": "chat"})
    monkeypatch.setattr(parser, "load", lambda module: command)
    outcome = call("chat --json")
    assert (outcome.code, json.loads(outcome.out), outcome.err) == (1, {"ok": False}, "progress\n")
    assert call("chat").out == "text\n"


def test_interrupt_has_its_own_exit_code(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_: str) -> Command:
        raise KeyboardInterrupt

    monkeypatch.setattr(parser, "load", interrupted)
    outcome = call("gemm 1 1 1")
    assert (outcome.code, outcome.out, outcome.err) == (130, "", "nmsat: interrupted\n")


@pytest.mark.parametrize("line", ["verify gemm 1 1 1", "demo --out {}"])
def test_missing_compiler_is_bad_input_and_leaves_nothing(
    call: Call, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    outcome = call(line.format(tmp_path / "out"))
    assert outcome.code == 2
    (text,) = outcome.err.splitlines()
    assert text.startswith("nmsat: error: no C++ compiler found (looked for g++, c++, clang++ in PATH); install g++")
    assert list(tmp_path.iterdir()) == []


def test_table_lines_up() -> None:
    assert table(("a", "bb"), [("long", "1"), ("x", "22222")]) == ("a        bb\n-----------\nlong      1\nx     22222")


@pytest.mark.rtl
@pytest.mark.parametrize("line", ["17 37 9 --pattern 2:8", "1 1 1", "33 64 65 --pattern 1:16 --dataflow ws"])
def test_verify_gemm_matches(call: Call, line: str) -> None:
    outcome = call(f"verify gemm {line} --config tiny --seed 1 --json")
    values = json.loads(outcome.out)
    assert outcome.code == 0
    assert values["match"] is True
    assert values["cycles_rtl"] == values["cycles_sim"]
    assert values["first_difference"] is None


@pytest.mark.rtl
def test_verify_gemm_fails_on_a_difference(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    from nmsat.tb.array import products as stce

    honest = stce.run_products

    def off_by_a_bit(*arguments: object) -> list[stce.RtlRun]:
        (run,) = honest(*arguments)  # type: ignore[arg-type] # the arguments are passed on as they came
        run.y.view("uint32")[2, 1] ^= 1
        return [run]

    monkeypatch.setattr(stce, "run_products", off_by_a_bit)
    outcome = call("verify gemm 5 8 3 --seed 1")
    assert outcome.code == 1
    assert "MISMATCH: 1 of 15 values of the RTL differ from the simulator; first at row 2, column 1" in outcome.out


def test_closed_pipe_is_silent() -> None:
    run = subprocess.Popen([SCRIPT, "--help"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert run.stdout is not None
    run.stdout.close()
    assert run.stderr is not None
    assert run.stderr.read() == b""
    assert run.wait() == 141


def test_installed_command_runs_from_anywhere(tmp_path: Path) -> None:
    env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    run = subprocess.run(
        [SCRIPT, "gemm", "4", "4", "4", "--json"], cwd=tmp_path, env=env, capture_output=True, check=True
    )
    assert json.loads(run.stdout)["cycles"] > 0
    assert run.stderr == b""
    assert list(tmp_path.iterdir()) == []
