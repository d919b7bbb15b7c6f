"""Records of complete runs: what a run writes is read, and whatever else stands there is refused in one line."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from nmsat.algorithms.training.config import TrainConfig
from nmsat.algorithms.training.outcome import Epoch, TrainResult
from nmsat.algorithms.training.recipes import recipe, run_name
from nmsat.algorithms.training.records import read_record
from nmsat.algorithms.training.results import file_stem, lock_file, write_lines
from nmsat.algorithms.training.study import make_cell, run_cells

if TYPE_CHECKING:
    from collections.abc import Callable

KEPT = Path(__file__).resolve().parent.parent.parent / "reports" / "tables" / "runs"
EPOCHS = [Epoch(1, 10, 1.5, 1.2, 0.5, 0.02, 0.04, 0, 10), Epoch(2, 20, math.nan, 1.1, 0.75, 0.01, 0.0, 1, 9)]


@pytest.fixture
def lines(tmp_path: Path) -> list[dict[str, Any]]:
    config = TrainConfig(network="mlp", epochs=2, patterns="fc2@2:4", decay=0.5, lr=1)
    result = TrainResult(config, epochs=EPOCHS, macs_dense=100, macs_kept=50, bound=2.0, seconds=1.5)
    write_lines(tmp_path / "run.jsonl", result, done=True)
    return [json.loads(line) for line in (tmp_path / "run.jsonl").read_text().splitlines()]


def read(folder: Path, lines: list[Any]) -> Any:
    path = folder / "run.jsonl"
    path.write_text("".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines))
    return read_record(path)


def test_what_a_run_writes_is_read(tmp_path: Path, lines: list[dict[str, Any]]) -> None:
    found = read(tmp_path, lines)
    assert (found.config.patterns, found.config.decay, found.config.lr) == ("fc2@2:4", 0.5, 1.0)
    assert [epoch["accuracy"] for epoch in found.epochs] == [0.5, 0.75]
    assert found.summary["sad_ff"] == pytest.approx(0.015)
    assert read(tmp_path, lines[:-1]) is None  # it goes on
    assert read_record(tmp_path / "none.jsonl") is None


def test_all_kept_records_are_read() -> None:
    paths = list(KEPT.glob("*.jsonl"))
    assert paths
    assert [path.name for path in paths if read_record(path) is None] == []


CHANGES: dict[str, tuple[Callable[[list[Any]], object], str]] = {
    "field of the configuration that nobody knows": (lambda x: x[-1]["config"].update(speed=3), "key is 'speed'"),
    "kind of the configuration": (lambda x: x[-1]["config"].update(pattern=28), "pattern is 28"),
    "configuration that is none": (lambda x: x[-1].update(config=3), "config is 3"),
    "another configuration": (lambda x: x[0]["config"].update(seed=9), "another than that of line 1"),
    "no accuracy": (lambda x: x[-1].pop("accuracy"), "line 4: accuracy is missing"),
    "no shares": (lambda x: x[-1].pop("sad_ff"), "sad_ff is missing"),
    "no shares of an epoch": (lambda x: x[1].pop("sad_ff"), "line 2: sad_ff is missing"),
    "no epochs": (lambda x: x.__delitem__(slice(1, 3)), "file has lines of 0"),
    "an epoch twice": (lambda x: x.insert(2, x[1]), "line 3: epoch is 1; it must be 2"),
    "no first line": (lambda x: x.pop(0), "line 1: event is 'epoch'"),
    "no text": (lambda x: x[-1].update(accuracy="abc"), "accuracy is 'abc'; it must be a number from 0 to 1"),
    "more than all": (lambda x: x[-1].update(accuracy=2.5), "accuracy is 2.5"),
    "no number": (lambda x: x[-1].update(accuracy=math.nan), "accuracy is nan"),
    "no number of an epoch": (lambda x: x[2].update(accuracy=math.nan), "line 3: accuracy is nan"),
    "bound without end": (lambda x: x[-1].update(bound=math.inf), "bound is inf"),
    "a number of 400 digits": (lambda x: x[-1].update(accuracy=10**400), "accuracy is a number of 1329 bits"),
    "a loss of 400 digits": (lambda x: x[1].update(loss=10**400), "loss is a number of 1329 bits"),
    "not that of the epochs": (lambda x: x[-1].update(accuracy=0.1), "accuracy is 0.1; the last epoch has 0.75"),
    "not the mean": (lambda x: x[-1].update(sad_ff=0.9), "sad_ff is 0.9; the mean of the epochs has 0.015"),
    "unknown field": (lambda x: x[-1].update(speed=3), "speed is 3; there is no such field"),
    "list without end": (lambda x: x.insert(0, '{"event": ' + "[" * 100_000), "line 1 is not JSON"),
    "digits without end": (lambda x: x.insert(0, '{"event": ' + "9" * 10_000 + "}"), "line 1 is not JSON"),
    "event that is none": (lambda x: x[1].update(event=[]), "event is []"),
}


@pytest.mark.parametrize("case", CHANGES)
def test_what_no_run_has_written_is_refused_in_one_line(
    case: str, tmp_path: Path, lines: list[dict[str, Any]]
) -> None:
    change, words = CHANGES[case]
    change(lines)
    with pytest.raises(ValueError, match=r"run\.jsonl") as caught:
        read(tmp_path, lines)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [None, "x", [1], {"a": 1}, True, -1, 10**400, math.inf])
def test_no_field_takes_any_value(value: Any, tmp_path: Path, lines: list[dict[str, Any]]) -> None:
    for number, line in enumerate(lines):
        for name in line:
            if name in ("weights_sha256", "losses_sha256") and isinstance(value, str):
                continue
            if name == "event" and line is lines[-1]:
                continue  # a file without an end is that of a run that goes on
            if name in ("loss", "test_loss") and value in (-1, math.inf) and number != len(lines) - 1:
                continue  # of a run that diverged
            changed = [dict(one) for one in lines]
            changed[number][name] = value
            with pytest.raises(ValueError, match=r"run\.jsonl"):
                read(tmp_path, changed)


def test_a_name_that_is_too_long_for_a_file_is_shortened(tmp_path: Path) -> None:
    fits, long = "a" * 249, "a" * 250
    assert file_stem(fits) == fits
    assert len(lock_file(tmp_path, fits).name) == len(lock_file(tmp_path, long).name) == 255
    stems = {file_stem(name) for name in (fits, long, long + "b", "\N{SNOWMAN}" * 100)}
    assert len(stems) == 4
    assert all(len(f".{stem}.lock".encode()) <= 255 for stem in stems)


def test_a_run_of_many_patterns_leaves_its_record_and_is_found_again(tmp_path: Path) -> None:
    config = recipe("mlp").replace(
        method="bdwp", seed=2**62, epochs=1, batch=7000, lr=0.0123456789012345,
        warmup=0.123456789012345, momentum=0.123456789012345, weight_decay=0.000123456789012345,
        decay=0.000123456789012345, dense_epochs=0.123456789012345, patterns="fc2@2:4~2:8+rest@2:8~2:4",
    )
    cell = make_cell(config)
    assert len(run_name(config)) > 249
    (first,) = run_cells([cell], tmp_path, processes=1)
    assert [path.name for path in tmp_path.iterdir()] == [f"{file_stem(cell.name)}.jsonl"]
    seen: list[Any] = []
    assert run_cells([cell], tmp_path, processes=1, progress=lambda *one: seen.append(one)) == [first]
    assert seen == []
