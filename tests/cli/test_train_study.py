"""`nmsat study`: runs once, gathers, writes page, data and pictures."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import pytest

from nmsat.algorithms.training.plan import plan
from nmsat.algorithms.training.recipes import RATES, RECIPES, parse_name
from nmsat.algorithms.training.results import write_lines
from nmsat.algorithms.training.study import ABLATIONS, Cell, ablation_cells, cells, rate_cells
from nmsat.algorithms.training.train import Epoch, TrainResult, train
from nmsat.dataflow.contract.config import preset
from nmsat.reports.commands.study import page_files
from nmsat.reports.work.study import gather
from nmsat.reports.work.training import sat_step
from nmsat.sim.results.provenance import Source, told
from tests.training.idx_files import make_folder

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.conftest import Outcome

pytestmark = pytest.mark.usefixtures("estimated")

ACCURACY = {"dense": 0.98, "bdwp": 0.97, "sr-ste": 0.975}


def finish(folder: Path, wanted: list[Cell]) -> list[dict[str, object]]:
    """Leave the files of runs with made-up outcomes, a point better with every seed of ten; return their summaries."""
    out = []
    for cell in wanted:
        config = cell.config
        accuracy = ACCURACY[config.method] + 0.01 * (config.seed % 10) - 0.05 * (config.decay == 0.0)
        sad = 0.0 if config.method == "dense" else 0.01
        numbers = range(1, config.epochs + 1)
        epochs = [Epoch(e, e, 1 / e, 1 / e, accuracy, sad / e, sad / e / 2, 0, 10) for e in numbers]
        result = TrainResult(config, epochs=epochs, macs_dense=100, macs_kept=50, bound=2.0)
        write_lines(folder / f"{cell.name}.jsonl", result, done=True)
        out.append({**result.summary()})
    return out


def test_a_small_study_from_the_command_line(
    call: Callable[[str], Outcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(RECIPES, "mlp", RECIPES["mlp"].replace(epochs=1, batch=700))
    line = f"study --networks mlp --methods dense,bdwp --patterns 2:8 --seeds 0,1 --out {tmp_path} --config tiny"
    outcome = call(f"{line} --json")
    data = json.loads(outcome.out)
    assert outcome.code == 0
    dense, bdwp = data["rows"]
    assert (dense["method"], bdwp["method"], bdwp["run_seeds"]) == ("dense", "bdwp", [0, 1])
    runs = {run["name"]: run for run in data["runs"]}
    name = "mlp-bdwp-2of8-seed1"
    assert runs[name]["command"] == f"nmsat train --cell {name} --config tiny"
    assert runs[name]["accuracy"] == train(parse_name(name)).accuracy
    assert bdwp["sat"] == sat_step(RECIPES["mlp"].replace(method="bdwp"), preset("tiny"))
    assert json.loads((tmp_path / "accuracy.json").read_text()) == {k: v for k, v in data.items() if k != "files"}
    assert "`mlp-bdwp-2of8` | 0-1 |" in (tmp_path / "accuracy.md").read_text()
    assert (data["source"], data["planned"], bdwp["sat"]["source"]) == (Source.MACHINE, [], Source.MACHINE)
    page = (tmp_path / "accuracy.md").read_text()
    assert f"those of the {told(Source.MACHINE)}." in " ".join(page.split())
    assert max(len(line) for line in page.splitlines() if not line.startswith("|")) < 120
    again = call(line)
    assert "4/4" not in again.err  # every run is there
    assert "mlp bdwp 2:8" in again.out
    assert f"SAT cycles: {told(Source.MACHINE)}" in again.out


def test_a_budget_adds_the_patterns_that_it_allows(
    call: Callable[[str], Outcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(RECIPES, "mlp", RECIPES["mlp"].replace(epochs=1, batch=700))
    line = f"study --networks mlp --methods dense,bdwp --patterns 2:8 --seeds 0,1 --budget 0.7 --out {tmp_path}"
    outcome = call(f"{line} --config tiny --json")
    assert outcome.code == 0
    data = json.loads(outcome.out)
    (own,) = data["own"]
    found = {run["name"]: run["accuracy"] for run in data["runs"]}
    named = f"patterns={own['patterns']}"
    gains = [100 * (found[f"mlp-bdwp-2of8-seed{s},{named}"] - found[f"mlp-bdwp-2of8-seed{s}"]) for s in (0, 1)]
    assert own["gain"] == pytest.approx(sum(gains) / 2)
    assert own["half_width"] == pytest.approx(12.7062 * abs(gains[0] - gains[1]) / 2, rel=1e-4)
    uniform = next(row for row in data["rows"] if row["method"] == "bdwp")
    assert own["uniform_cycles"] == uniform["sat"]["cycles"]
    assert own["cycles"] <= 0.7 * uniform["sat"]["dense_cycles"]
    assert own["patterns"] in (tmp_path / "accuracy.md").read_text().partition("## Patterns by layer")[2]
    assert "points over 2 seeds (not resolved); SAT cycles" in call(f"{line} --config tiny").out


def test_gather_compares_with_dense_and_the_paper(tmp_path: Path) -> None:
    compared = ("vit-small", "vgg19-small", "mlp")
    wanted = [*cells(compared, ["dense", "bdwp"], ["2:8"], [0, 1]), *ablation_cells("vgg19-small", seeds=[0])]
    wanted = list({cell.name: cell for cell in wanted}.values())
    data = gather(finish(tmp_path, wanted), tmp_path, preset("tiny"))
    assert [row["network"] for row in data["paper"]] == [
        "vit-small",
        "vgg19-small",
    ]  # the generated set is not the paper's
    assert all(row["loss"] == pytest.approx(1.0) for row in data["paper"])
    assert all(row["error"] == pytest.approx(0.0) for row in data["paper"])
    assert len(data["rows"]) == 2 * len(compared)
    labels = {row["label"]: row for row in data["ablations"]}
    assert labels["as it is"]["loss_points"] == pytest.approx(1.0)
    assert labels["no SR-STE term"]["loss_points"] == pytest.approx(6.0)
    assert (labels["as it is"]["gain"], labels["no SR-STE term"]["gain"]) == (None, pytest.approx(-5.0))
    assert set(ABLATIONS) < set(labels)
    sparse_ends, plain = labels["first layer and classifier sparse"], labels["as it is"]
    assert sparse_ends["sat"]["bound"] > plain["sat"]["bound"]
    assert labels["dense for the first quarter"]["sat"] == plain["sat"]
    masks = next(m for m in data["masks"] if (m["network"], m["variant"]) == ("vit-small", ""))
    assert masks["sad_ff"] == [0.01 / e for e in range(1, RECIPES["vit-small"].epochs + 1)]
    assert data["rates"] == []
    assert sum(run["name"].startswith("vgg19-small") for run in data["runs"]) == 4 + len(ABLATIONS)


def test_the_page_shows_what_was_gathered(tmp_path: Path) -> None:
    rates = rate_cells("vgg19-small")
    table = cells(["vgg19-small"], ["dense", "sr-ste", "bdwp"], ["2:8", "1:8"], seeds=[0])
    wanted = [*table, *ablation_cells("vgg19-small", seeds=[0])]
    finish(tmp_path, rates)
    data = gather(finish(tmp_path, wanted), tmp_path, preset("tiny"))
    assert [item["network"] for item in data["rates"]] == ["vgg19-small"]
    assert data["rates"][0]["best"] == RATES["sgd"][0]  # all equal: the lowest
    files = page_files(data)
    page = files["accuracy.md"]
    told = " ".join(page.split())
    assert "1347 + 450 images: 1.00 points, 1 network; not to be told from the paper's." in told
    assert "Nothing: no method has dense runs beside it with two seeds." in page
    assert re.search(r"`vgg19-small-sr-ste-1of8` \| 0 \| 97.50% \+- 0.00 \| 0.50 \|", page)
    assert "These choices would differ from the recipes: vgg19-small." in page
    assert "| no SR-STE term | recipe | 0 | 92.00%" in page
    for name in re.findall(r"\]\((accuracy\w+\.svg)\)", page):
        assert files[name].startswith("<svg")
    assert "vgg19-small" in files["accuracy_networks.svg"]


def test_a_row_without_all_its_dense_runs_says_so(tmp_path: Path) -> None:
    wanted = [*cells(["vgg19-small"], ["dense"], seeds=[0]), *cells(["vgg19-small"], ["bdwp"], ["2:8"], seeds=[0, 1])]
    page = page_files(gather(finish(tmp_path, wanted), tmp_path, preset("tiny")))["accuracy.md"]
    assert re.search(r"`vgg19-small-bdwp-2of8` \| 0-1 \| [^|]* \| dense run missing \|", page)


def test_a_study_without_time_says_what_is_missing(call: Callable[[str], Outcome], tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "images")
    outcome = call(f"study --data {folder} --hours 0 --out {tmp_path / 'out'}")
    assert outcome.code == 0
    page = (tmp_path / "out" / "accuracy.md").read_text()
    parts = plan("idx14-01234567")
    runs = sum(len(part.cells) for part in parts)
    assert f"**{runs} of the {runs} runs of the plan are not there yet.**" in " ".join(page.split())
    assert all(f"| {part.title} | 0 | {len(part.cells)} |" in page for part in parts)


def test_the_plan_needs_its_images(
    call: Callable[[str], Outcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NMSAT_DATA", str(tmp_path / "none"))
    outcome = call(f"study --out {tmp_path / 'out'}")
    assert (outcome.code, outcome.err.count("\n")) == (2, 1)
    assert "there is no such folder" in outcome.err


@pytest.mark.parametrize("rates", [False, True])
def test_a_damaged_record_is_told_before_any_run(call: Callable[[str], Outcome], tmp_path: Path, rates: bool) -> None:
    """That of a run that is wanted, and that of one that chose the learning rate, which the page reads at its end."""
    cell = (rate_cells("mlp") if rates else cells(["mlp"], ["dense"], seeds=[0]))[0]
    (tmp_path / "runs").mkdir()
    finish(tmp_path / "runs", [cell])
    path = tmp_path / "runs" / f"{cell.name}.jsonl"
    path.write_text(path.read_text().replace('"bound": 2.0', '"bound": 1' + "0" * 400))
    outcome = call(f"study --networks mlp --methods dense --seeds 0 --out {tmp_path} --config tiny")
    assert (outcome.code, outcome.out, outcome.err.count("\n")) == (2, "", 1)
    assert f"{cell.name}.jsonl" in outcome.err
    assert "bound is a number of 1329 bits" in outcome.err
    assert [file.name for file in (tmp_path / "runs").iterdir()] == [path.name]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("--networks lenet", "'lenet'"),
        ("--methods best", "'best'"),
        ("--seeds a", "'a'"),
        ("--processes 0", "'0'"),
        ("--hours -1", "'-1'"),
    ],
)
def test_refusals_are_one_line(call: Callable[[str], Outcome], line: str, words: str) -> None:
    outcome = call(f"study {line}")
    assert (outcome.code, outcome.out) == (2, "")
    assert words in outcome.err.splitlines()[-1]
