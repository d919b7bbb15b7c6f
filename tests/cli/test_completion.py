"""`nmsat completion`: the scripts are run by the shells themselves."""

from __future__ import annotations

import json
import shutil
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

import nmsat
from nmsat.algorithms.core.vocabulary import METHODS, NETWORKS, PAPER_NETWORKS, TRAINED_NETWORKS
from nmsat.algorithms.workloads.engine.registry import workloads

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.conftest import Outcome

TOP = {name.split()[0] for name in nmsat.COMMANDS}
GLOBAL = {"-h", "--help", "--json", "--quiet", "--verbose"}


@pytest.fixture
def script(call: Callable[[str], Outcome], tmp_path: Path) -> Callable[[str], Path]:
    """Return a function that writes the script of a shell into an empty folder."""

    def write(shell: str) -> Path:
        outcome = call(f"completion {shell}")
        assert (outcome.code, outcome.err) == (0, "")
        path = tmp_path / f"nmsat.{shell}"
        path.write_text(outcome.out, encoding="utf-8")
        return path

    return write


CASES: list[tuple[str, set[str]]] = [
    ("", TOP),
    ("ver", {"verify"}),
    ("verify ", {"fuzz", "gemm", "workload"}),
    ("workload ", {"list", "run", "table"}),
    ("workload list --", GLOBAL - {"-h"}),
    ("verify fuzz --p", {"--programs"}),
    ("train --m", {"--method"}),
    ("train --method ", set(METHODS)),
    ("train --method b", {"bdwp", "bi-mask", "bdwp+mvue"}),
    ("train --network ", {*TRAINED_NETWORKS, *PAPER_NETWORKS}),
    ("study --networks g", {"gpt"}),
    ("gemm 8 8 8 --config ", {"tiny", "small", "vcu1525", "zcu102", "thesis.onnx", "folder"}),
    ("gemm --dataflow ", {"os", "ws"}),
    ("workload run moa --scale ", {"small", "paper"}),
    ("workload run ", set(workloads())),
    ("completion ", {"bash", "zsh", "fish"}),
    ("model resnet18", {name for name in NETWORKS if name.startswith("resnet18")}),
    ("model th", {"thesis.onnx"}),
    ("rtl --out fol", {"folder"}),
    ("model vit --timeline th", {"thesis.onnx"}),
]


def complete_in_bash(path: Path, line: str) -> set[str]:
    """Return what bash offers at the end of `nmsat LINE`."""
    words = ["nmsat", *line.split(" ")]
    code = "\n".join(
        [
            f"source {path}",
            "COMP_WORDS=(" + " ".join(f"'{word}'" for word in words) + ")",
            f"COMP_CWORD={len(words) - 1}",
            f"COMP_LINE='nmsat {line}'",
            f"COMP_POINT={len(line) + 6}",
            'function=$(complete -p nmsat | sed "s/.*-F \\([^ ]*\\) .*/\\1/")',
            f"$function nmsat '{words[-1]}' '{words[-2]}'",
            'printf "%s\\n" "${COMPREPLY[@]}"',
        ]
    )
    run = in_shell(["bash", "--norc", "-c", code], path.parent)
    assert run.stderr == ""
    return set(run.stdout.split())


def in_shell(words: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    env = {"PATH": "/usr/bin:/bin", "HOME": str(folder)}
    return subprocess.run(words, cwd=folder, capture_output=True, text=True, check=True, env=env)


@pytest.mark.parametrize(("line", "offered"), CASES)
def test_bash_completes(script: Callable[[str], Path], line: str, offered: set[str]) -> None:
    path = script("bash")
    (path.parent / "thesis.onnx").touch()
    (path.parent / "folder").mkdir()
    found = complete_in_bash(path, line)
    assert offered <= found
    if not offered & {"thesis.onnx", "folder"}:
        assert found <= offered | GLOBAL


def test_bash_offers_every_option(script: Callable[[str], Path]) -> None:
    path = script("bash")
    for name in nmsat.COMMANDS:
        parser = nmsat.command_line()
        for word in name.split():
            parser.fill()
            (below,) = (action for action in parser._get_positional_actions() if isinstance(action.choices, dict))
            parser = below.choices[word]  # type: ignore[index] # a dict, as just seen
        parser.fill()
        options = {text for action in parser._get_optional_actions() for text in action.option_strings}
        assert {text for text in options if text.startswith("--")} <= complete_in_bash(path, f"{name} --"), name


@pytest.mark.skipif(shutil.which("fish") is None, reason="fish is not installed")
def test_fish_completes(script: Callable[[str], Path]) -> None:
    path = script("fish")

    def offered(line: str) -> set[str]:
        code = f"source {path}; complete --do-complete 'nmsat {line}'"
        run = in_shell(["fish", "--no-config", "-c", code], path.parent)
        return {text.split("\t")[0] for text in run.stdout.splitlines()}

    assert offered("") >= TOP
    assert offered("verify ") >= {"fuzz", "gemm", "workload"}
    assert "--programs" in offered("verify fuzz --")
    assert offered("train --method ") >= set(METHODS)
    assert offered("gemm --dataflow ") >= {"os", "ws"}


@pytest.mark.skipif(shutil.which("zsh") is None, reason="zsh is not installed")
def test_zsh_reads_its_script(script: Callable[[str], Path]) -> None:
    path = script("zsh")
    in_shell(["zsh", "-n", str(path)], path.parent)
    load = f"autoload -U compinit; compinit -D -u; source {path}; whence -w _shtab_nmsat"
    run = in_shell(["zsh", "-f", "-c", load], path.parent)
    assert run.stdout == "_shtab_nmsat: function\n"


def test_json_holds_the_script(call: Callable[[str], Outcome]) -> None:
    found: dict[str, Any] = json.loads(call("completion fish --json").out)
    assert found["shell"] == "fish"
    assert found["script"].rstrip() == call("completion fish").out.rstrip()
