"""Sweeps: what a file may hold, that the best points are found, and that nothing is lost or done twice after a kill."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import pytest

from nmsat.reports.pages.sweep_page import PAGE
from nmsat.reports.pages.sweep_plots import MOST_LINES, sweep_figures
from nmsat.reports.version import VERSION
from nmsat.reports.work import sweep
from nmsat.reports.work.standing import Basis
from nmsat.reports.work.sweep_front import front_of
from nmsat.reports.work.sweep_journal import JOURNAL
from nmsat.reports.work.sweep_plan import Plan, make_plan, read_sweep
from nmsat.reports.work.sweep_table import COLUMNS
from tests.cli.sweeps import SMALL, rows_of, write
from tests.pages.browser import WIDTHS, look_at
from tests.pages.html import Reader
from tests.source import ROOT

pq = import_module("pyarrow.parquet")  # without types of its own

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.conftest import Outcome

    Call = Callable[[str], Outcome]

def test_the_grid_is_all_combinations_and_dense_has_no_pattern() -> None:
    fields = {"rows": {"from": 8, "to": 32, "times": 2}, "memory": {"latency_ns": [60, 90.5]}}
    work = {"network": ["resnet9", "vit"], "batch": [1, 2], "method": ["dense", "bdwp"], "pattern": ["2:4", "2:8"]}
    plan = make_plan({**work, "set": fields})
    assert len(plan.points) == 2 * 2 * 3 * 3 * 2
    assert plan.doubled == 2 * 2 * 3 * 2
    assert [point.index for point in plan.points] == list(range(len(plan.points)))
    assert {point.pattern for point in plan.points if point.method == "dense"} == {"dense"}
    machines = {(point.machine.rows, point.machine.memory.latency_ns) for point in plan.points if point.machine}
    assert machines == {(rows, latency) for rows in (8, 16, 32) for latency in (60.0, 90.5)}
    assert plan.axes == ("network", "batch", "method", "pattern", "set.rows", "set.memory.latency_ns")


def test_random_points_are_distinct_and_those_of_the_seed() -> None:
    fields = {
        "adder_stages": {"from": 1, "to": 7, "step": 1},
        "memory": {"outstanding": {"from": 2, "to": 64, "step": 2}},
    }

    def drawn(seed: int) -> Plan:
        return make_plan({"network": "vit", "set": fields, "random": {"points": 40, "seed": seed}})

    assert drawn(1).digest == drawn(1).digest != drawn(2).digest
    machines = [point.machine for point in drawn(1).points if point.machine]
    assert len({(machine.adder_stages, machine.memory.outstanding) for machine in machines}) == 40


def test_random_points_of_more_combinations_than_a_range_holds() -> None:
    fields = {
        "adder_stages": {"from": 1, "to": 7, "step": 1},
        "clock_mhz": {"from": 1, "to": 1000, "step": 1},
        "memory": {
            "bytes_per_second": {"from": 1e9, "to": 1e9 + 4000, "step": 1},
            "latency_ns": {"from": 1, "to": 4000, "step": 1},
            "outstanding": {"from": 2, "to": 64, "step": 1},
            "efficiency": [count / 1000 for count in range(500, 1000)],
        },
    }
    found = {"network": "vit", "batch": list(range(1, 4000)), "set": fields, "random": {"points": 9, "seed": 1}}
    points = make_plan(found).points  # of 3,999 * 7 * 1,000 * 4,001 * 4,000 * 63 * 500 combinations, over 2^63
    assert len(points) == len({(point.batch, point.settings) for point in points}) == 9
    assert make_plan(found).points == points


@pytest.mark.parametrize(
    ("text", "line", "told"),
    [
        ("batch = 1\n", None, "network is missing; it must be one of"),
        ('network = "vit"\nbatch = [1, 0]\n', 2, "batch is 0; it must be a whole number from 1 to"),
        ('network = "vit"\npattern = "2:3"\n', 2, "pattern is '2:3'"),
        ('network = "vit"\nmethod = "nope"\n', 2, "method is 'nope'"),
        ('network = ["vit",\n "nope"]\n', 1, "network is 'nope'; it must be one of"),
        ('network = "vit"\nconfig = "nope"\n', 2, "config is 'nope'; known configurations"),
        ('network = "vit"\nconfg = "tiny"\n', 2, "confg is 'tiny'; a sweep has no such key"),
        ('network = "vit"\n[set]\nrow = 1\n', 3, "set.row is 1; fields that a sweep changes: rows"),
        ('network = "vit"\n[set]\n\nrows = [8, 300]\n', 4, "set.rows is 300; it must be a whole number from 1 to 256"),
        ('network = "vit"\n[set]\nmemory.latency_ns = [0]\n', 3, "set.memory.latency_ns is 0; it must be from 1 to"),
        ('network = "vit"\n[set]\nrows = { from = 1, to = 4 }\n', 3, "set.rows is { from = 1, to = 4 }; a range has"),
        ('network = "vit"\n[set]\nrows = { from = 4, to = 1, step = 1 }\n', 3, "set.rows is { from = 4,"),
        ('network = "vit"\n[set]\nrows = { from = 1, to = 9e8, step = 1 }\n', 3, "set.rows is { from = 1, to = 9"),
        ('network = "vit"\n[set]\nrows = []\n', 3, "set.rows is []; it must hold a value"),
        ('network = "vit"\n[random]\npoints = 2\n', 3, "random.points is 2; it must be a whole number from 1 to 1"),
        ('network = "no.csv"\n', 1, "network is 'no.csv'; it cannot be read: No such file"),
        ('network = "no.tape"\n', 1, "network is 'no.tape'; it cannot be read: No such file"),
        ('network = "no.txt"\n', 1, "network is 'no.txt'; it must be one of"),
        ('network = "vit"\nset = 3\n', 2, "set is 3; it must be a table"),
        ('network = "vit', None, "it is not TOML"),
        ('network = "a\\u0000.tape"\n', 1, r"network is 'a\x00.tape'; it cannot be read"),
        ('network = "vit"\nconfig = "a\\u0000.toml"\n', 2, r"config is 'a\x00.toml'; no file has a NUL"),
        ('network = "vit"\npattern = ["2:8", "02:8"]\n', 2, "pattern is '02:8'; write N:M such as 2:8"),
        ('network = "vit"\n[set]\nrows = {from = 4, to = 16, times = 1.5}\n', 3,
         "set.rows.times is 1.5; set.rows takes whole numbers, and the range has 13.5"),
        ('network = "vit"\nbatch = {from = 1.5, to = 9, step = 1}\n', 2, "batch.from is 1.5; batch takes whole"),
    ],
)  # fmt: skip
def test_what_cannot_be_swept_is_one_line_before_the_work(
    call: Call, tmp_path: Path, text: str, line: int | None, told: str
) -> None:
    path = write(tmp_path / "s.toml", text)
    outcome = call(f"sweep {path} --out {tmp_path / 'out'}")
    assert outcome.code == 2
    assert outcome.err.startswith(f"nmsat: error: {path}{f', line {line}' if line else ''}: {told}")
    assert outcome.err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_every_point_has_its_row_also_planned_and_impossible_ones(call: Call, tmp_path: Path) -> None:
    text = SMALL.replace("[2, 3, 4]", "[3, 4]") + "rows = [4, 16]\n"
    path = write(tmp_path / "s.toml", text)
    outcome = call(f"sweep {path} --out {tmp_path / 'out'} --estimate --json")
    assert outcome.code == 0, outcome.err
    rows = rows_of((tmp_path / "out" / "points.parquet").read_bytes())
    assert [row["index"] for row in rows] == list(range(12))
    assert list(rows[0]) == list(COLUMNS)
    for row in rows:
        if row["rows"] == 16:
            assert (row["status"], row["cycles"]) == ("error", None)
            assert row["error"] == "sum_depth is 64; a tile of 16 rows needs 8 rows = 128"
        elif row["columns"] == 3:
            assert (row["status"], row["cycles"]) == ("planned", None)
            assert row["planned"] == "columns is 3; the machine in RTL is built for 1, 2, 4, 8, 16 or 32"
        else:
            assert (row["status"], row["elements"], row["source"]) == ("estimated", 16, "estimate")
            assert (row["dsp"], row["lut"]) == (149, 84415)  # of the whole machine: test_machine_file.py
            assert row["speedup"] == row["dense_cycles"] / row["cycles"]
    assert json.loads(outcome.out)["states"] == {"planned": 3, "error": 6, "estimated": 3}
    page = (tmp_path / "out" / PAGE).read_text()
    assert all(text in page for text in ("sum_depth is 64; a tile", "columns is 3; the machine", "none ran"))
    assert all(text in page for text in ("LUTs of the machine", "DSPs of the machine"))
    text = call(f"sweep {path} --out {tmp_path / 'out'} --estimate").out
    assert "6 did not run: sum_depth is 64; a tile" in text and "3 did not run: columns is 3" in text


def test_wide_sweeps_have_pictures_of_a_size_that_opens() -> None:
    work = {"network": "vit", "batch": 1, "method": "bdwp", "pattern": "2:8", "accuracy": None, "machine": "m"}
    rows = [
        {**work, "rows": 1 + i % 60, "columns": 1 + i // 60, **dict.fromkeys(("lut", "dsp", "ram_kbit"), 386 * (i + 1))}
        | {"cycles": 9**9 // (i % 60 + 1)}
        for i in range(6000)
    ]
    figures = sweep_figures(rows, ["set.rows", "set.columns"], Basis("nmsat sweep x.toml", "6000 machines"))
    assert [figure.name for figure in figures] == ["pareto_lut", "pareto_dsp", "pareto_ram_kbit", "heat_1"]
    assert max(len(figure.picture.svg) for figure in figures) < 400_000
    heat = figures[-1]
    assert (len(heat.rows), len(heat.table.rows)) == (6000, MOST_LINES)
    assert heat.notes == ("The table has 24 of 6000 rows; all are in heat_1.csv and heat_1.json.",)


ROW: dict[str, Any] = {"network": "a", "method": "a", "pattern": "a", "accuracy": 5, "variant": ""}
"""A row of a table of accuracies."""


def test_a_table_of_accuracies_that_is_none_is_refused(call: Call, tmp_path: Path) -> None:
    path = write(tmp_path / "s.toml")
    for text, told in (
        ("[]", "is no table of `nmsat study`"),
        ("[" * 100_000, "is no table of `nmsat study`"),
        (f'{{"rows": {[ROW]}}}'.replace("'", '"').replace("5", "9" * 400), "is no table of `nmsat study`"),
        (None, "cannot be read: No such file"),
    ):
        table = tmp_path / "a.json"
        if text is not None:
            table.write_text(text)
        outcome = call(f"sweep {path} --accuracy {table} --out {tmp_path / 'out'}")
        assert (outcome.code, outcome.err.count("\n")) == (2, 1)
        assert told in outcome.err
        table.unlink(missing_ok=True)
    table.symlink_to("/dev/zero")
    outcome = call(f"sweep {path} --accuracy {table} --out {tmp_path / 'out'}")
    told = f"nmsat: error: file {table}: it is no regular file, but a device or a pipe\n"
    assert (outcome.code, outcome.err) == (2, told)


def test_a_point_is_what_model_estimates(call: Call, tmp_path: Path) -> None:
    path = write(tmp_path / "s.toml", 'config = "tiny"\nnetwork = "mlp"\nbatch = 16\nset.memory.latency_ns = 90\n')
    assert call(f"sweep {path} --out {tmp_path / 'out'} --estimate").code == 0
    (row,) = rows_of((tmp_path / "out" / "points.parquet").read_bytes())
    line = "model mlp --batch 16 --config tiny --set memory.latency_ns=90 --estimate --prune-all --json"
    found = json.loads(call(line.replace(" --prune-all", "")).out)
    shared = ("cycles", "dense_cycles", "speedup", "utilization", "seconds")
    assert {name: row[name] for name in shared} == {name: found[name] for name in shared}


def test_the_front_is_what_no_other_point_beats() -> None:
    work = {"network": "vit", "batch": 1, "method": "bdwp", "pattern": "2:8"}
    costs = [
        (16, 50, 100),
        (16, 50, 100),
        (16, 50, 90),
        (32, 50, 90),
        (32, 60, 50),
        (64, 40, 95),
        (8, 10, None),
        (64, 80, 50),
    ]
    rows = [
        {"index": i, "dsp": e, "lut": 400 * e, "ram_kbit": r, "cycles": c, **work} for i, (e, r, c) in enumerate(costs)
    ]
    assert front_of(rows) == [2, 4, 5]
    assert front_of([*rows, {**rows[0], "index": 8, "batch": 2}]) == [2, 4, 5, 8]
    assert front_of([*rows, {**rows[0], "index": 8, "lut": 390}]) == [2, 4, 5, 8]


def test_a_sweep_goes_on_from_wherever_it_was_cut_off(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "s.toml")
    assert call(f"sweep {path} --out {tmp_path / 'whole'} --estimate").code == 0
    whole = (tmp_path / "whole" / "points.parquet").read_bytes()
    journal = (tmp_path / "whole" / JOURNAL).read_bytes()
    groups = journal.count(b"\n") - 1
    assert groups == 2
    done: list[int] = []
    inner = sweep.estimate_group

    def counted(points: Any) -> Any:
        done.append(len(points))
        return inner(points)

    monkeypatch.setattr(sweep, "estimate_group", counted)
    ends = [at for at, byte in enumerate(journal) if byte == ord("\n")]
    for cut in (5, ends[0], ends[0] + 9, ends[1] + 1, ends[2] - 1, len(journal)):
        folder = tmp_path / f"cut{cut}"
        folder.mkdir()
        (folder / JOURNAL).write_bytes(journal[:cut])
        done.clear()
        assert call(f"sweep {path} --out {folder} --estimate").code == 0
        assert len(done) == groups - max(0, journal[:cut].count(b"\n") - 1)
        assert (folder / "points.parquet").read_bytes() == whole


def test_another_sweep_or_other_code_or_a_file_of_others_is_refused(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = write(tmp_path / "a.toml", SMALL.replace("[2, 3, 4]", "3"))
    other = write(tmp_path / "b.toml", SMALL.replace("[2, 3, 4]", "5"))
    out = tmp_path / "out"
    assert call(f"sweep {one} --out {out}").code == 0
    before = (out / "points.parquet").read_bytes()
    assert "holds results of another sweep" in call(f"sweep {other} --out {out}").err
    monkeypatch.setattr("nmsat.reports.work.sweep.sweep_version", lambda: "0" * 64)
    assert "holds results of another version of nmsat" in call(f"sweep {one} --out {out}").err
    assert (out / "points.parquet").read_bytes() == before
    for text in ("mine\n", "[" * 100_000 + "\n"):
        (out / JOURNAL).write_text(text)
        outcome = call(f"sweep {one} --out {out}")
        assert (outcome.code, outcome.err.count("\n")) == (2, 1)
        assert "is no journal of a sweep" in outcome.err
    (out / JOURNAL).unlink()
    (out / JOURNAL).mkdir()
    outcome = call(f"sweep {one} --out {out}")
    assert (outcome.code, outcome.err.count("\n")) == (2, 1)
    assert f"file {out / JOURNAL}: it cannot be read: Is a directory; choose another folder" in outcome.err


def _holds(folder: Path, pictures: set[str]) -> None:
    """Check that a sweep's page is well-formed, holds its pictures with title and description, and needs nothing."""
    text = (folder / PAGE).read_text()
    reader = Reader()
    reader.feed(text)
    reader.close()
    assert reader.open == []
    assert reader.counts["script"] == 0
    links = set(re.findall(r'(?:src|href)="(?!#|data:)([^"]*)"', text))
    assert links == {f"{name}.{kind}" for name in pictures for kind in ("svg", "png", "csv", "json")}
    assert all((folder / link).stat().st_size for link in links)
    machines = set()
    for name in pictures:  # each figure has its origin, on the page and in its files
        record = json.loads((folder / f"{name}.json").read_text())
        assert set(record["standing"]) <= {"exact", "measured", "modelled"}
        assert {row["standing"] for row in record["rows"]} <= set(record["standing"])
        assert record["version"] == f"nmsat {VERSION}"
        assert record["command"].startswith("nmsat sweep ")
        section = text.partition(f'<section class="figure" id="{name}"')[2].partition("</section>")[0]
        assert all(f'class="standing {standing}"' in section for standing in record["standing"])
        assert record["config"] in section
        assert all(word in section for word in record["command"].split())
        machines.add(record["config"])
    assert machines == {"4 machines made of tiny; they differ in columns, memory.latency_ns"}
    assert reader.counts["svg"] == reader.counts["figcaption"] == len(pictures)
    assert {path.stem for path in folder.glob("*.svg")} == pictures
    for path in folder.glob("*.svg"):
        root = ElementTree.parse(path).getroot()
        found = [child.text for child in root if child.tag.rpartition("}")[2] in ("title", "desc")]
        assert len(found) == 2
        assert all(found), path


@pytest.mark.exact
def test_the_example_of_the_page_runs_and_its_front_is_exact(call: Call, tmp_path: Path) -> None:
    table = ROOT / "reports" / "tables" / "accuracy.json"
    outcome = call(f"sweep {ROOT / 'docs' / 'sweep.toml'} --accuracy {table} --out {tmp_path} --json")
    assert outcome.code == 0, outcome.err
    found = json.loads(outcome.out)
    assert {row["status"] for row in found["front"]} == {"exact"}
    row = next(row for row in found["front"] if row["method"] == "bdwp" and row["columns"] == 8)
    line = "model mlp --batch 16 --config tiny --set columns=8 --set memory.latency_ns=60 --json"
    exact = json.loads(call(line).out)
    assert (row["exact_cycles"], row["exact_speedup"]) == (exact["cycles"], exact["speedup"])
    assert row["exact_bytes_read"] == exact["bytes"]["read"]
    causes = [row[name] for name in COLUMNS if name.startswith("exact_cause_")]
    assert causes == list(exact["causes"].values())
    assert sum(causes) == row["exact_cycles"]
    assert row["modelled_joule"] == exact["energy"]["total_joule"]
    assert row["exact_roofline"] >= row["exact_utilization"]
    pictures = {"pareto_lut", "pareto_dsp", "pareto_ram_kbit", "heat_1", "roofline", "accuracy"}
    _holds(tmp_path, pictures)
    off = found["estimate_off"]
    assert off["points"] == 6
    assert -0.2 < off["least"] <= off["most"] < 0.2
    before = (tmp_path / "points.parquet").read_bytes()
    refused = call(f"sweep {ROOT / 'docs' / 'sweep.toml'} --accuracy {table} --out {tmp_path} --estimate")
    assert refused.code == 2 and "exact results stand in it, which --estimate would replace" in refused.err
    assert (tmp_path / "points.parquet").read_bytes() == before
    # At the end, since it skips where there is no Chromium.
    seen = look_at(tmp_path / PAGE, tmp_path)
    assert seen.console == []
    for name, width in WIDTHS.items():
        assert (seen.at[name]["page"] <= width, seen.at[name]["wide"]) == (True, []), name
        assert {item["name"] for item in seen.at[name]["pictures"]} == pictures
        assert min(item["smallest"] for item in seen.at[name]["pictures"]) >= (9.5 if name == "print" else 11)


@pytest.mark.long
def test_a_killed_sweep_and_a_killed_worker_give_the_same_table(tmp_path: Path) -> None:
    path = write(tmp_path / "s.toml", SMALL.replace("[2, 3, 4]", "[2, 4, 8, 16]").replace("64\n", "[64, 128, 256]\n"))
    assert len(read_sweep(path).points) == 36

    def start(out: Path) -> subprocess.Popen[bytes]:
        words = ["-c", "import nmsat; raise SystemExit(nmsat.main())", "sweep", str(path), "--out", str(out)]
        options = [*words, "--estimate", "--processes", "2"]
        return subprocess.Popen([sys.executable, *options], start_new_session=True, stderr=subprocess.DEVNULL)

    def results(out: Path) -> list[bytes]:
        file = out / JOURNAL
        return file.read_bytes().splitlines()[1:] if file.exists() else []

    def wait_for(count: int, out: Path) -> None:
        end = time.monotonic() + 120
        while len(results(out)) < count:
            assert time.monotonic() < end
            time.sleep(0.05)

    straight = start(tmp_path / "straight")
    assert straight.wait() == 0
    out = tmp_path / "killed"
    first = start(out)
    wait_for(3, out)
    first.kill()
    first.wait()
    end = time.monotonic() + 30
    with suppress(ProcessLookupError):
        while time.monotonic() < end:
            os.killpg(first.pid, 0)  # workers of a killed sweep end, too
            time.sleep(0.1)
        pytest.fail("workers are left")
    kept = results(out)
    second = start(out)
    wait_for(len(kept) + 2, out)
    children = Path(f"/proc/{second.pid}/task/{second.pid}/children").read_text().split()
    workers = [int(c) for c in children if b"spawn_main" in Path(f"/proc/{c}/cmdline").read_bytes()]
    os.kill(workers[0], signal.SIGKILL)
    assert second.wait() == 0
    assert results(out)[: len(kept)] == kept
    keys = [json.loads(line)["key"] for line in results(out)]
    assert len(keys) == len(set(keys)) == 12
    assert (out / "points.parquet").read_bytes() == (tmp_path / "straight" / "points.parquet").read_bytes()


def test_the_wide_example_has_the_points_that_the_page_tells() -> None:
    plan = read_sweep(ROOT / "docs" / "sweep_resnet50.toml")
    machines = {point.settings for point in plan.points}
    assert len(machines) == 1296
    assert {point.batch for point in plan.points} == {16, 64}
    assert len(plan.points) == 10368
    assert all(point.machine is not None for point in plan.points)
    assert "10,368 points of ResNet-50 (1296 machines" in (ROOT / "docs" / "sweeps.md").read_text().replace("\n", " ")
