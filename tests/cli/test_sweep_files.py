"""Sweeps of networks that are files (tapes, ONNX) over slices, and of records that were altered: all is found again."""

from __future__ import annotations

import json
import re
import shutil
from typing import TYPE_CHECKING, Any

import pytest
from onnx import helper

from nmsat.algorithms.core.tape_file import UNSAID
from nmsat.dataflow.contract.config import preset
from nmsat.dataflow.contract.machine_file import machine_text
from nmsat.reports.pages.sweep_plots import _heat, work_of
from nmsat.reports.work import sweep
from nmsat.reports.work.progress import LOG
from nmsat.reports.work.spread import Where
from nmsat.reports.work.standing import Basis
from nmsat.reports.work.sweep_journal import JOURNAL, Journal
from nmsat.reports.work.sweep_plan import read_sweep
from nmsat.reports.work.sweep_table import parquet_bytes
from tests.cli.sweeps import rough, rows_of, write
from tests.network.onnx_files import save, weight
from tests.source import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from nmsat.reports.work.sweep_plan import Plan
    from tests.conftest import Outcome

    Call = Callable[[str], Outcome]

TAPE = ROOT / "tests" / "data" / "pytorch.tape"


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """Return a tape that PyTorch recorded, and three layers in an ONNX file whose batch is open."""
    sizes = {"x": ["n", 16], "y": ["n", 16]}
    names = ["x", "a", "b", "y"]
    nodes = [helper.make_node("MatMul", [names[i], f"w{i}"], [names[i + 1]], name=f"fc{i}") for i in range(3)]
    model = save(
        tmp_path / "net.onnx", nodes, {"x": sizes["x"]}, {"y": sizes["y"]}, [weight(f"w{i}", 16, 16) for i in range(3)]
    )
    shutil.copy(TAPE, tmp_path / "step.tape")
    return {"tape": tmp_path / "step.tape", "onnx": model}


def run(plan: Plan, folder: Path) -> bytes:
    """Return the table of a sweep's estimates, without its pictures."""
    folder.mkdir(exist_ok=True)
    journal = Journal(folder, plan.digest, "v")
    try:
        return parquet_bytes(sweep.run_sweep(plan, journal, Where(), exact=False), {})
    finally:
        journal.close()


@pytest.mark.exact
def test_tapes_and_onnx_files_are_swept_over_slices_as_model_runs_them(
    call: Call, files: dict[str, Path], tmp_path: Path
) -> None:
    text = f'config = "zcu102"\nnetwork = ["{files["tape"]}", "{files["onnx"]}"]\nbatch = 8\n'
    text += 'method = ["dense", "bdwp"]\n'
    plan = read_sweep(write(tmp_path / "s.toml", f"{text}[set]\nrow_slices = [[], [1, 3]]\ncolumn_slices = [2]\n"))
    rows = rows_of(run(plan, tmp_path / "out"))
    taped = {"batch": None, "method": "tape", "pattern": "2:8"}
    works = [taped, taped, *({"batch": 8, "method": m, "pattern": p} for m, p in (("dense", "dense"), ("bdwp", "2:8"))
                             for _ in range(2))]  # fmt: skip
    assert [{name: row[name] for name in taped} for row in rows] == works
    assert plan.doubled == 2  # a tape has no method but its own
    assert plan.notes == (f"{files['tape']}: left out {UNSAID.name} ({UNSAID.kind}): in neither of the two steps",)
    assert [row["row_slices"] for row in rows] == ["[]", "[1, 3]"] * 3
    assert {row["column_slices"] for row in rows} == {"[2]"}
    names = ["zcu102 column_slices=[2]", "zcu102 row_slices=[1, 3] column_slices=[2]"]
    assert [row["machine"] for row in rows[:2]] == names
    for row in rows[1::2]:
        words = "" if row["batch"] is None else f"--batch 8 --method {row['method']} --prune-all "
        line = f"model {row['network']} {words}--config zcu102 --set row_slices=[1,3] --set column_slices=[2]"
        found = json.loads(call(f"{line} --estimate --json").out)
        shared = ("cycles", "dense_cycles", "speedup", "utilization", "method", "pattern")
        assert {name: row[name] for name in shared} == {name: found[name] for name in shared}
    assert rows[1]["cycles"] > rows[0]["cycles"]  # links are longer
    assert work_of(rows[0]) == f"{files['tape']}, batch as recorded, tape 2:8"


@pytest.mark.exact
def test_altered_and_lost_records_are_found_again(
    files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = f'config = "zcu102"\nnetwork = ["{files["tape"]}", "{files["onnx"]}"]\nbatch = 8\n[set]\n'
    plan = read_sweep(write(tmp_path / "s.toml", text + "row_slices = [[], [1], [2]]\n"))
    whole = run(plan, tmp_path / "whole")
    lines = (tmp_path / "whole" / JOURNAL).read_bytes().splitlines(keepends=True)
    assert len(lines) == 7
    told: list[str] = []
    done: list[int] = []
    inner = sweep.estimate_group

    def counted(points: Any) -> Any:
        done.append(points[0].index)
        return inner(points)

    monkeypatch.setattr(sweep, "estimate_group", counted)
    monkeypatch.setattr(LOG, "warning", lambda form, *values: told.append(form % values))
    record = json.loads(lines[2])
    other = next(iter(record["value"].values()))
    swapped = json.dumps(record | {"key": json.loads(lines[3])["key"]}).encode() + b"\n"
    changed = lines[2].replace(b'"cycles": %d' % other["cycles"], b'"cycles": 5')
    assert changed != lines[2]
    cases = {
        "lost": (lines[:2] + lines[3:-1] + [lines[-1][:9]], [], [1, 5]),
        "value": ([*lines[:2], changed, *lines[3:]], ["line 3 is"], [1]),
        "key": ([*lines[:2], swapped, *lines[3:]], ["line 3 is"], [1]),
        "none": ([*lines[:2], b"[" * 100_000 + b"\n", b"x\n", *lines[4:]], ["2 lines, the first 3, are"], [1, 2]),
    }
    for name, (kept, said, again) in cases.items():
        folder = tmp_path / name
        folder.mkdir()
        (folder / JOURNAL).write_bytes(b"".join(kept))
        told.clear()
        done.clear()
        assert run(plan, folder) == whole, name
        assert done == again, name
        assert told == [f"{folder / JOURNAL}: {words} not as the sweep wrote it; what was there is done again"
                        for words in said]  # fmt: skip
        assert sorted((folder / JOURNAL).read_bytes().splitlines(keepends=True)) == sorted(lines), name


@pytest.mark.parametrize(
    ("text", "line", "told"),
    [
        ("batch = 64\n", 2, "batch is 64; network 'TAPE' is a tape, and a tape holds batch, method and pattern itself"),
        ('method = ["dense"]\n', 2, "method is ['dense']; network 'TAPE' is a tape"),
        ("set.row_slices = [2, [1]]\n", 2, "set.row_slices is [2, [1]]; it must be a list such as [8, 16], or a list"),
        ("set.row_slices = [[1], [3, 2]]\n", 2, "set.row_slices is [3, 2]; it must be a list such as"),
        ("set.row_slices = [[1], [0]]\n", 2, "set.row_slices[1][0] is 0; it must be a list such as"),
        ("set.row_slices = 1\n", 2, "set.row_slices is 1; it must be a list such as [8, 16], or a list of such lists"),
        ("set.row_slices = {from = 1, to = 3, step = 1}\n", 2, "set.row_slices is { from = 1, to = 3, step = 1 }; it"),
    ],
)  # fmt: skip
def test_what_cannot_be_swept_is_refused(tmp_path: Path, text: str, line: int, told: str) -> None:
    path = write(tmp_path / "s.toml", f'network = "{TAPE}"\n{text}')
    with pytest.raises(ValueError) as error:
        read_sweep(path)
    assert str(error.value).startswith(f"{path}, line {line}: {told.replace('TAPE', str(TAPE))}")
    assert "\n" not in str(error.value)


def test_a_tape_that_is_none_is_refused(tmp_path: Path) -> None:
    tape = tmp_path / "x.tape"
    tape.write_text("{}\n")
    with pytest.raises(ValueError, match=r"s\.toml, line 1: network is '.*x\.tape'; '.*x\.tape' line 1 is not a"):
        read_sweep(write(tmp_path / "s.toml", f'network = "{tape}"\n'))


def test_a_list_of_places_is_one_value_and_places_beyond_the_array_are_a_row(tmp_path: Path) -> None:
    plan = read_sweep(write(tmp_path / "s.toml", 'network = "vit"\n[set]\nrows = [8, 32]\nrow_slices = [11, 22]\n'))
    small, large = plan.points
    assert (large.machine.row_slices if large.machine else None, plan.axes) == ((11, 22), ("set.rows",))
    assert small.machine is None
    assert small.error == "row_slices is [11, 22]; it must be a list, ascending whole numbers from 1 to 7"
    row = sweep._row(small)
    assert (row["status"], row["row_slices"], row["rows"]) == ("error", "[11, 22]", 8)
    none = read_sweep(write(tmp_path / "s.toml", 'network = "vit"\nset.row_slices = []\n'))
    assert [point.machine.row_slices for point in none.points if point.machine] == [()]


def test_machines_of_one_name_and_other_values_are_refused(tmp_path: Path) -> None:
    for folder, rows in (("a", 8), ("b", 16), ("c", 8)):
        (tmp_path / folder).mkdir()
        machine = preset("tiny").replace(name="my", rows=rows, sum_depth=256)
        (tmp_path / folder / "my.toml").write_text(machine_text(machine))
    form = f'config = ["{tmp_path}/a/my.toml", "{tmp_path}/%s/my.toml"]\nnetwork = "vit"\n'
    same, other = form % "c", form % "b"
    assert len(read_sweep(write(tmp_path / "s.toml", same)).points) == 2
    with pytest.raises(ValueError) as error:
        read_sweep(write(tmp_path / "s.toml", other + "set.columns = 4\n"))
    a, b = (f"'{tmp_path}/{folder}/my.toml'" for folder in "ab")
    told = f"line 1: config is {b}; the machine of {b} with columns = 4 has the name of that of {a} with columns = 4, "
    assert f"{told}'my" in str(error.value)


def test_slices_are_drawn_in_the_order_of_their_places() -> None:
    rows = [rough(i, 1, 100 + i, 0) | {"row_slices": text, "columns": 4, "machine": "m"}
            for i, text in enumerate(("[16]", "[]", "[8, 16]", "[8]"))]  # fmt: skip
    heat = _heat(rows, "row_slices", "columns", 1, Basis("c", "m"), "")
    drawn = re.findall(r"<!-- (\[.*?\]) -->", heat.picture.svg)  # what the letters say that follow
    assert drawn == ["[]", "[8]", "[8, 16]", "[16]"]
