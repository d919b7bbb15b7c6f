"""`nmsat train` on the command line, on the network that trains in a second."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from nmsat.algorithms.training.recipes import RECIPES, parse_name
from nmsat.algorithms.training.results import read_lines
from nmsat.algorithms.training.train import train
from nmsat.dataflow.contract.config import preset
from nmsat.reports.work.training import BACKENDS, Job, sat_step, train_run

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from nmsat.algorithms.training.train import Progress, TrainResult
    from tests.conftest import Outcome

pytestmark = pytest.mark.usefixtures("estimated")

CELL = "mlp-bdwp-2of8-seed1,epochs=2,batch=700"


def test_a_cell_and_its_options_are_one_run(call: Callable[[str], Outcome], tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text('network = "mlp"\nepochs = 7\nseed = 1\nbatch = 700\n')
    lines = [
        f"--cell {CELL}",
        "--cell mlp-dense-seed0,batch=700 --method bdwp --pattern 2:8 --seed 1 --epochs 2",
        f"--config-file {tmp_path / 'run.toml'} --epochs 2",
    ]
    found = [json.loads(call(f"train {line} --json").out) for line in lines]
    want = train(parse_name(CELL))
    for values in found:
        assert values["name"] == CELL
        assert values["command"] == f"nmsat train --cell {CELL}"
        assert [epoch["accuracy"] for epoch in values["epochs"]] == want.accuracies
        assert values["complete"]
        assert values["bound"] == want.bound


def test_a_stopped_run_goes_on_and_a_complete_one_is_read(call: Callable[[str], Outcome], tmp_path: Path) -> None:
    line = f"train --cell {CELL} --steps 25 --out {tmp_path} --json"
    first, second, third = (call(line) for _ in range(3))
    stopped, complete = json.loads(first.out), json.loads(second.out)
    assert (stopped["complete"], stopped["step"], len(stopped["epochs"])) == (False, 25, 1)
    assert (complete["complete"], complete["step"]) == (True, 40)
    assert json.loads(third.out) == complete
    assert "nothing was run" in third.err
    assert complete["accuracy"] == train(parse_name(CELL)).accuracy
    assert [line["event"] for line in read_lines(tmp_path / f"{CELL}.jsonl")] == ["run", "epoch", "epoch", "end"]
    assert not (tmp_path / f"{CELL}.npz").exists()


def test_text_tells_how_to_do_it_again(call: Callable[[str], Outcome]) -> None:
    outcome = call("train --network mlp --method dense --pattern 2:4 --epochs 1 --config tiny")
    assert outcome.code == 0
    assert "nmsat train --cell mlp-dense-seed0,epochs=1 --config tiny\n" in outcome.out
    assert "1.00x, bound 1.00x" in outcome.out
    early = call("train --network mlp --steps 3")
    assert "stopped       after 3 steps; without --out it cannot be continued" in early.out
    assert "accuracy " not in early.out


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("--backend best", "'best'"),
        ("--network lenet", "'lenet'"),
        ("--cell vgg19-small", "write NETWORK-METHOD-NofM-seedS"),
        (f"--cell {CELL} --network vgg19-small", "leave out --network"),
        ("--pattern 2:7", "2:7"),
        ("--network mlp --pattern dense", "give N:M"),
        ("--epochs 0", "'0'"),
        ("--config-file nowhere.toml", "nowhere.toml"),
        ("--network mlp --epochs 1 --out README.md", "README.md"),
    ],
)
def test_refusals_are_one_line(call: Callable[[str], Outcome], line: str, words: str) -> None:
    outcome = call(f"train {line}")
    assert (outcome.code, outcome.out) == (2, "")
    message = outcome.err.splitlines()[-1]
    assert message.startswith("nmsat: error: ")
    assert words in message


def test_a_configuration_file_is_checked(call: Callable[[str], Outcome], tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_bytes(b"\xff")
    assert f"configuration file is {str(file)!r}; it is not UTF-8" in call(f"train --config-file {file}").err
    for text, words in (("epochs = 1.5", "epochs is 1.5"), ("speed = 1", "'speed'"), ('network = "x"', "'x'")):
        file.write_text(text)
        outcome = call(f"train --config-file {file}")
        assert outcome.code == 2
        assert words in outcome.err


def test_backends_are_known_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    config = RECIPES["mlp"].replace(epochs=1)
    seen: list[Job] = []

    def other(job: Job, progress: Callable[[Progress], None]) -> TrainResult:
        seen.append(job)
        return BACKENDS["numpy"](job, progress)

    monkeypatch.setitem(BACKENDS, "other", other)
    job = Job(config, preset("tiny"))
    values = train_run(job, "other")
    assert (values["backend"], seen) == ("other", [job])
    with pytest.raises(ValueError, match=r"known backends: numpy.*, other"):
        train_run(job, "third")


def test_a_step_on_sat_is_that_of_the_method() -> None:
    config = RECIPES["mlp"].replace(method="bdwp", pattern="2:8", dense_epochs=1.0)
    found = sat_step(config, preset("small"))
    assert found["speedup"] == found["dense_cycles"] / found["cycles"]
    assert 1 < found["speedup"] < found["bound"]
    assert found["bound"] == train(config.replace(dense_epochs=0.0, epochs=1, batch=14000)).bound


def test_a_method_that_the_machine_has_no_program_for_is_said_so(call: Callable[[str], Outcome]) -> None:
    """MVUE packs dY along the rows: the other operand then lies transposed, in tiles of whole beats."""
    line = "train --network mlp --method bdwp+mvue --steps 1 --config small"
    found = json.loads(call(f"{line} --json").out)["sat"]
    assert (found["cycles"], found["speedup"]) == (None, None)
    assert "does not run on 'small'" in found["refused"]
    assert f"SAT           no program on small: {found['refused']}" in call(line).out


@pytest.mark.parametrize(
    ("line", "options", "says"),
    [
        ("epoch = 3", "", "FILE, line 2: configuration key is 'epoch'; known keys: "),
        ('epochs = "many"', "", "FILE, line 2: epochs is 'many'; it must be a whole number"),
        ("epochs = 0", "", "FILE, line 2: epochs is 0; it must be "),
        ('pattern = "2:8"', "--pattern 3:7", "nmsat: error: pattern is '3:7'; M must be "),
        ("batch = 0", "--epochs 2", "FILE, line 2: batch is 0; it must be "),
    ],
)
def test_a_wrong_field_of_a_file_is_named_with_its_line(
    call: Callable[[str], Outcome], tmp_path: Path, line: str, options: str, says: str
) -> None:
    file = tmp_path / "run.toml"
    file.write_text(f'network = "mlp"\n{line}\n', encoding="utf-8")
    outcome = call(f"train --config-file {file} {options}".rstrip())
    assert outcome.code == 2
    assert says.replace("FILE", str(file)) in outcome.err
