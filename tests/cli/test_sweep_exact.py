"""Sweeps whose points run exactly, with kills between rounds; networks that are files."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from nmsat.reports.pages.sweep_page import PAGE
from nmsat.reports.work import sweep
from nmsat.reports.work.spread import Where
from nmsat.reports.work.sweep_front import front_of
from nmsat.reports.work.sweep_journal import JOURNAL, Journal
from nmsat.reports.work.sweep_plan import read_sweep
from nmsat.reports.work.sweep_table import TOTALS, parquet_bytes
from nmsat.reports.work.text import InputError
from tests.cli.sweeps import SMALL, rows_of, write

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.conftest import Outcome

    Call = Callable[[str], Outcome]


@pytest.mark.exact
def test_a_machine_that_the_estimate_puts_behind_is_found(call: Call, tmp_path: Path) -> None:
    net = tmp_path / "net.csv"
    net.write_text("Layer,M,N,K\na,4,64,32\nb,4,64,64\nc,4,10,64\n")  # the smallest of those tried that shows it
    fields = "rows = [4, 8]\nact_depth = 256\nmemory.latency_ns = 60\n"
    path = write(tmp_path / "s.toml", f'config = "tiny"\nnetwork = "{net}"\nbatch = 1\n[set]\n{fields}')
    outcome = call(f"sweep {path} --out {tmp_path / 'out'} --json")
    assert outcome.code == 0, outcome.err
    small, large = rows_of((tmp_path / "out" / "points.parquet").read_bytes())
    assert small["lut"] < large["lut"]
    assert small["cycles"] < large["cycles"]  # by the estimate nothing speaks for the larger one
    assert large["exact_cycles"] < small["exact_cycles"]
    assert small["front"] and large["front"]
    assert json.loads(outcome.out)["near"] == {"ran": 1, "left": 0}
    page = (tmp_path / "out" / PAGE).read_text()
    assert "1 points near the fronts of the estimate ran, too" in page


def test_rounds_of_exact_points_are_the_same_after_a_kill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = SMALL.replace("[2, 3, 4]", "[2, 4, 8]").replace('"2:4", ', "") + "memory.latency_ns = [60, 61]\n"
    plan = read_sweep(write(tmp_path / "s.toml", text))
    totals, ran = sweep.estimate_group, []

    def exact(point: Any, _: int = 1) -> dict[str, Any]:
        ran.append(point.index)
        found = totals([point])[str(point.index)]
        cycles = found["cycles"] - 40 * (point.index % 5)
        exact = {f"exact_{name}": found[name] for name in TOTALS} | {"exact_cycles": cycles, "status": "exact"}
        return exact | {"exact_macs": 1, "exact_bytes_read": 1, "exact_bytes_written": 1, "exact_roofline": 1.0,
                        "modelled_joule": 1.0}  # fmt: skip

    monkeypatch.setattr(sweep, "exact_point", exact)

    def run(folder: Path) -> bytes:
        journal = Journal(folder, plan.digest, "v")
        rows = sweep.run_sweep(plan, journal, Where(), exact=True)
        journal.close()
        return parquet_bytes(rows, {})

    whole = run(tmp_path)
    journal = (tmp_path / JOURNAL).read_bytes().splitlines(keepends=True)
    first = front_of(rows_of(whole))
    assert len(ran) > len(first)
    places = [place for place, line in enumerate(journal) if b'"exact"' in line]
    assert len(places) == len(ran) == len(set(ran))
    for place in places:
        folder = tmp_path / f"cut{place}"
        folder.mkdir()
        (folder / JOURNAL).write_bytes(b"".join(journal[:place]) + journal[place][:9])
        ran.clear()
        assert run(folder) == whole
        assert len(ran) == len(journal) - place


TABLE = "Layer,M,N,K\nfirst,16,32,64\nlast,16,32,32\n"


@pytest.mark.exact
def test_a_table_of_layers_is_swept_as_model_runs_it_and_a_changed_one_is_another_sweep(
    call: Call, tmp_path: Path
) -> None:
    net = tmp_path / "net.csv"
    net.write_text(TABLE)
    text = SMALL.replace('"mlp"', f'"{net}"').replace("16", "2").replace("[2, 3, 4]", "4").replace('"2:4", ', "")
    path, out = write(tmp_path / "s.toml", text), tmp_path / "out"
    outcome = call(f"sweep {path} --out {out} --json")
    assert outcome.code == 0, outcome.err
    cycles = {row["method"]: row["exact_cycles"] for row in json.loads(outcome.out)["front"]}
    for method in ("dense", "bdwp"):
        line = f"model {net} --batch 2 --method {method} --config tiny --set sum_depth=64 --prune-all --json"
        assert json.loads(call(line).out)["cycles"] == cycles[method]
    net.write_text(TABLE.replace("16,32,64", "16,32,128"))
    assert "holds results of another sweep" in call(f"sweep {path} --out {out}").err
    point = read_sweep(path).points[0]
    net.write_text(TABLE)
    with pytest.raises(InputError, match="the file changed since the sweep began"):
        sweep.estimate_group([point])
    net.write_text("Layer,M,N,K\nfirst,16,32\n")
    outcome = call(f"sweep {path} --out {out}")
    assert (outcome.code, outcome.err.count("\n")) == (2, 1)
    assert f"{path}, line 2: network is '{net}'; it does not run with batch 2: " in outcome.err
