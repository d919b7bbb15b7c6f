"""Printed commands: each is made from the parsed options, can be pasted into a shell, and repeats its run."""

from __future__ import annotations

import dataclasses
import html
import json
import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

import nmsat
from nmsat.algorithms.core.tape import Pattern
from nmsat.algorithms.training.recipes import RECIPES, parse_name
from nmsat.algorithms.training.train import DEMO
from nmsat.dataflow.contract.config import preset
from nmsat.reports.commands.parser import GLOBAL, Subcommands, again
from nmsat.reports.work.commandline import spell, word
from tests.pages.records import made_up

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Callable

    from nmsat.reports.work.records import DemoRecord
    from tests.conftest import Outcome

    Call = Callable[[str], Outcome]

# Each command with every option that takes a value, none at its default.
EVERYTHING: Final = {
    "bench": "--rtl-config small --set columns=2 --rounds 2 --builds 3 --against f.json",
    "cache": "",
    "card validate": "--backend xrt --config small --set columns=2 --image i --library l --device 1"
    " --programs 2 --steps 3 --seed 4",
    "compare": "vit --models quick,zigzag --stages bp,wu --only 'a*' --only b --batch 3 --method sdgp --pattern 4:8"
    " --pattern head=1:4 --dense 'conv*' --dataflow ws --limit rtl=4 --limit exact=5 --config tiny --set columns=2"
    " --size seq=4 --size x:1=3 --batch-dim 1 --csv o.csv",
    "completion": "zsh",
    "config check": "tiny --set rows=2 --set 'name=my own' --device u250",
    "config list": "",
    "config show": "small --set 'row_slices=[1, 2]' --set memory.latency_ns=90 --device u250",
    "demo": "--config small --set columns=2 --pattern 1:4 --seed 5 --out 'my out/demo'",
    "engines": "--scale 2 --seed 1",
    "gemm": "9 8 7 --pattern 2:4 --config small --set columns=2 --dataflow ws --seed 4 --stage bp --tiles=-t.csv"
    ' --vcd "it\'s.vcd"',
    "model": "vit --batch 3 --method sdgp --pattern 4:8 --config tiny --set columns=2 --masks m.npz"
    " --size seq=4 --size x:1=3 --batch-dim 1 --dense 'conv*' --pattern head=1:4 --layers f.toml"
    " --mask-layout kn --timeline l --processes 2 --layer-patterns conv2@2:4~2:8 --report r",
    "patterns": "vit --budget 0.5 --method sr-ste --choices 2:4,2:8 --batch 3 --epochs 2 --weights w.npz --layout kn"
    " --data d --side 28 --out p.txt --config tiny --set columns=2 --processes 2",
    "paper": "--batch 2 --config tiny --set columns=2 --networks vit,vgg19 --ablation --estimate --processes 2"
    " --report r",
    "program": "9 8 7 --pattern 2:4 --config small --set columns=2 --dataflow os --seed 4 --conv 4,8,8,32,3,2,1 --out d"
    " --network mlp --batch 3 --method ste --host-gbs 2 --host-gops 3",
    "report": "--batch 2 --config tiny --set columns=2 --networks vit,vgg19 --patterns 2:8,1:4 --records t --out d"
    " --processes 2",
    "rtl": "--config small --set columns=2 --device u250 --out d",
    "synth": "--config small --set columns=2 --device xcu250 --out d",
    "study": "--out a --hours 3 --tables b --networks mlp,gpt --methods ste,bdwp+mvue --patterns 2:8,1:8 --seeds 3,4"
    " --processes 2 --config tiny --set columns=2 --data d --side 28 --layer-patterns fc2@2:4 --budget 0.6 --report r",
    "study paper": "--data d --networks vit,vgg19 --methods ste --patterns 2:4,2:16 --seeds 3,4 --epochs 2 --out a"
    " --tables b --hours 3 --processes 2 --config tiny --set columns=2",
    "sweep": "f.toml --out d --processes 2 --accuracy a.json --scheduler tcp://h:1",
    "train": "--cell mlp-bdwp-2of8-seed1 --config-file f.toml --network mlp --method ste --pattern 2:4"
    " --arithmetic fast --epochs 2 --steps 3 --seed 4 --split validation --data d --side 28 --out d --backend sim"
    " --config tiny --set columns=2 --layer-patterns fc2@2:4",
    "verify": "--jobs 4 --seed 2 --config small --set columns=2",
    "verify fuzz": "--programs 4 --seed 2 --config small --set columns=2",
    "verify gemm": "9 8 7 --pattern 2:4 --config small --set columns=2 --dataflow ws --seed 4 --operands all",
    "verify workload": "moa --variant nm --config small --set columns=2 --products 3",
    "vivado read": "d",
    "workload list": "",
    "workload run": "moa --scale paper --variant nm --config small --set columns=2 --processes 2"
    " --report r",
    "workload table": "--out d --processes 2 --exact sora,moa --only granet,moa --report r",
}


def values(options: Namespace) -> dict[str, Any]:
    """Return what a command sees, without how it was parsed."""
    return {name: value for name, value in vars(options).items() if name not in ("command", "parser", "whole", *GLOBAL)}


@pytest.mark.parametrize("name", nmsat.COMMANDS)
def test_every_option_is_repeated(name: str) -> None:
    plain = nmsat.parse([*name.split(), *shlex.split(EVERYTHING[name])]).parser
    flags = [a.option_strings[-1] for a in plain._get_optional_actions() if a.nargs == 0 and a.dest not in GLOBAL]
    options = nmsat.parse([*name.split(), *flags, *shlex.split(EVERYTHING[name]), "--json", "--quiet"])
    actions = [a for a in options.parser._get_optional_actions() if a.dest not in GLOBAL]
    at_default = [a.dest for a in actions if getattr(options, a.dest) == a.default]
    assert at_default == []  # or this test would not try them
    text = again(options)
    assert values(nmsat.parse(shlex.split(text)[1:])) == values(options)
    assert "--json" not in text
    assert "--quiet" not in text


@pytest.mark.parametrize("name", nmsat.COMMANDS)
def test_defaults_are_left_out(name: str) -> None:
    command = nmsat.parse([*name.split(), *shlex.split(EVERYTHING[name])]).parser
    positional = [action.dest for action in command._get_positional_actions() if not isinstance(action, Subcommands)]
    needed = shlex.split(EVERYTHING[name])[: len(positional)]
    asked = {"rtl": ["--out", "d"], "patterns": ["--budget", "0.5"], "study paper": ["--data", "d"]}
    needed = [*asked.get(name, []), *needed]
    options = nmsat.parse([*name.split(), *needed])
    assert again(options) == f"nmsat {shlex.join([*name.split(), *needed])}"
    # A default that is written out is still the default.
    if any(action.option_strings[-1:] == ["--config"] and action.default for action in command._actions):
        default = next(action.default for action in command._actions if action.dest == "config")
        assert again(nmsat.parse([*name.split(), *needed, "--config", default])) == again(options)


def test_values_have_their_text() -> None:
    shown = (preset("tiny"), Pattern(2, 8), None, [1, 2], ("a", "b"), Path("x y"), 3, "t")
    assert [word(value) for value in shown] == ["tiny", "2:8", "dense", "1,2", "a,b", "x y", "3", "t"]
    with pytest.raises(TypeError, match=re.escape("value is {}; it has no form")):
        word({})


def test_commands_are_quoted_for_a_shell() -> None:
    line = spell("rtl", ["-odd.onnx"], {"--out": Path("a b/$HOME"), "--x": "-1", "--flag": True})
    assert line == "nmsat rtl --out 'a b/$HOME' --x=-1 --flag -- -odd.onnx"
    assert shlex.split(line) == ["nmsat", "rtl", "--out", "a b/$HOME", "--x=-1", "--flag", "--", "-odd.onnx"]


def without_time(found: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in found.items() if key != "seconds"}


def repeat(call: Call, command: str) -> dict[str, Any]:
    program, *words = shlex.split(command)
    assert program == "nmsat"
    outcome = call(" ".join([*words, "--json"]))
    assert outcome.code == 0
    return json.loads(outcome.out)


@pytest.mark.parametrize(
    "line",
    [
        "--network mlp --method ste --pattern 2:4 --seed 3 --epochs 1 --config tiny --split validation",
        "--cell mlp-bdwp-2of8-seed1 --steps 3",
        "--network mlp --method dense --steps 2 --seed 9",
        "--network digits-sat --backend sim --steps 1 --config tiny",
    ],
)
def test_the_line_of_a_training_run_repeats_it(call: Call, line: str) -> None:
    first = json.loads(call(f"train {line} --json").out)
    assert f"again         {first['command']}\n" in call(f"train {line}").out
    second = repeat(call, first["command"])
    assert without_time(second) == without_time(first)
    assert second["losses_sha256"]


def test_the_line_of_a_kept_run_goes_on_where_it_lies(call: Call, tmp_path: Path) -> None:
    folder = tmp_path / "two words"
    words = ["train", "--network", "mlp", "--epochs", "1", "--steps", "40", "--out", str(folder), "--json"]
    first, second = (json.loads(run_words(call, words)) for _ in range(2))
    assert shlex.split(first["command"])[1:] == [
        *("train", "--cell", "mlp-bdwp-2of8-seed0,epochs=1", "--steps", "40", "--out", str(folder))
    ]
    third = json.loads(run_words(call, [*shlex.split(first["command"])[1:], "--json"]))
    assert (first["step"], second["step"], third["step"]) == (40, 80, 109)


def run_words(call: Call, words: list[str]) -> str:
    class Line(str):
        __slots__ = ()

        def split(self, *_: object) -> list[str]:  # type: ignore[override] # words with blanks stay whole
            return words

    return call(Line()).out


def test_the_lines_of_a_study_repeat_its_runs(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RECIPES, "mlp", RECIPES["mlp"].replace(epochs=1, batch=700))
    line = f"study --networks mlp --methods dense,bdwp --patterns 2:8 --seeds 1 --out {tmp_path} --config tiny --json"
    data = json.loads(call(line).out)
    cycles = {row["method"]: row["sat"]["cycles"] for row in data["rows"]}
    assert len(data["runs"]) == 2
    for run in data["runs"]:
        found = repeat(call, run["command"])
        assert (found["name"], found["accuracy"], found["bound"]) == (run["name"], run["accuracy"], run["bound"])
        assert found["sat"]["cycles"] == cycles[parse_name(run["name"]).method]


def command_on(page: Path) -> str:
    (command,) = (html.unescape(text) for text in re.findall(r"<code>(nmsat .*?)</code>", page.read_text("utf-8")))
    return command


def test_the_line_on_the_page_asks_for_the_same_demo(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nmsat.reports.work import demo

    asked = []

    def run_demo(*given: object, command: str) -> DemoRecord:
        asked.append(given)
        return dataclasses.replace(made_up(), command=command)

    monkeypatch.setattr("nmsat.tb.run.runner.check_tools", lambda: None)
    monkeypatch.setattr(demo, "run_demo", run_demo)
    folder = tmp_path / "a & b"
    words = ["demo", "--config", "small", "--pattern", "1:4", "--seed", "9", "--out", str(folder)]
    run_words(call, words)
    command = command_on(folder / "report.html")
    assert shlex.split(command)[1:] == words
    run_words(call, shlex.split(command)[1:])
    assert asked == [(preset("small"), Pattern(1, 4), 9)] * 2


@pytest.mark.long
@pytest.mark.rtl
def test_the_line_on_the_page_repeats_the_demo(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from nmsat.reports.work import demo

    honest = demo.run_demo
    short = DEMO.replace(epochs=1, batch=64)
    monkeypatch.setattr(demo, "CUT_CYCLES", 500)
    monkeypatch.setattr(demo, "run_demo", lambda a, b, c, *, command: honest(a, b, c, short, command=command))
    first = json.loads(call(f"demo --pattern 2:4 --seed 3 --out {tmp_path / 'demo'} --json").out)
    command = command_on(tmp_path / "demo" / "report.html")
    assert command == f"nmsat demo --pattern 2:4 --seed 3 --out {tmp_path / 'demo'}" == first["command"]
    second = repeat(call, command)
    for found in (first, second):
        for run in found["training"]:
            del run["seconds"]
    assert without_time(second) == without_time(first)
