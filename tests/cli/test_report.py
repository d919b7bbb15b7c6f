"""`nmsat report`: its numbers against those of other commands and of raw records, refusals, what is left out."""

from __future__ import annotations

import json
import re
from html import unescape
from typing import TYPE_CHECKING, Any, Final

import pytest

from nmsat.reports.pages.record_figures import workloads_figure
from nmsat.reports.work.peers import PEERS, Precision
from nmsat.reports.work.standing import Basis, Standing
from nmsat.reports.work.text import InputError
from tests.source import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.conftest import Outcome

    Call = Callable[[str], Outcome]

TABLES: Final = ROOT / "reports" / "tables"


def report(call: Call, tmp_path: Path, words: str) -> dict[str, Any]:
    outcome = call(f"report --out {tmp_path / 'out'} {words} --json")
    assert outcome.code == 0, outcome.err
    return json.loads(outcome.out)


def rows(values: dict[str, Any], figure: str, /, **only: str) -> list[dict[str, Any]]:
    found = values["figures"][figure]["rows"]
    return [row for row in found if all(row[key] == value for key, value in only.items())]


def shown(folder: Path, name: str) -> str:
    """Return the text of a figure's section, with the cells of its table apart."""
    page = (folder / "report.html").read_text(encoding="utf-8")
    (found,) = re.findall(rf'<section class="figure" id="{name}".*?</section>', page, re.DOTALL)
    return unescape(re.sub(r"<[^>]+>", "|", found)).replace("\N{NARROW NO-BREAK SPACE}", "")


def test_numbers_are_those_of_paper_and_model(call: Call, tmp_path: Path) -> None:
    """Recomputed from raw cycles of other commands, by other code, and found on the page as they are written."""
    values = report(call, tmp_path, "--networks resnet9,vgg19 --patterns 2:8,2:16 --batch 2")
    paper = json.loads(call("paper --networks resnet9,vgg19 --batch 2 --ablation --json").out)
    text = shown(tmp_path / "out", "speedup")
    speedups: dict[str, list[float]] = {"2:8": [], "2:16": []}
    for raw in paper["rows"]:
        for pattern, found in speedups.items():
            expected = raw["dense_cycles"] / raw[pattern]["cycles"]
            (row,) = rows(values, "speedup", network=raw["model"], pattern=pattern)
            assert (row["cycles"], row["cycles_dense"]) == (raw[pattern]["cycles"], raw["dense_cycles"])
            assert row["speedup"] == pytest.approx(expected, rel=1e-12)
            assert row["bound"] == raw[pattern]["bound"] >= row["speedup"]
            assert f"|{expected:.2f}×|" in text and f"|{raw[pattern]['cycles']}|" in text
            found.append(expected)
            for name, key in (("stages", "stages"), ("causes", "causes")):
                parts = {
                    part[key[:-1]]: part["cycles"] for part in rows(values, name, network=raw["model"], pattern=pattern)
                }
                assert parts == raw[pattern][key]
                assert sum(parts.values()) == raw[pattern]["cycles"]
        named = rows(values, "ablation", network=raw["model"])
        at = [item["model"] for item in paper["rows"]].index(raw["model"])
        assert [row["speedup"] for row in named] == pytest.approx([found[at] for found in paper["ablation"].values()])
    (mean,) = rows(values, "speedup", network="average", pattern="2:8")
    assert mean["speedup"] == pytest.approx(sum(speedups["2:8"]) / 2)
    assert [row["speedup"] for row in rows(values, "speedup", standing="quoted")] == [1.75]
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert f"<b>{mean['speedup']:.2f}×</b>" in page


def test_energy_and_throughput_are_those_of_model(call: Call, tmp_path: Path) -> None:
    values = report(call, tmp_path, "--networks vgg19 --patterns 2:8 --batch 2 --config small --no-ablation")
    model = json.loads(call("model vgg19 --batch 2 --config small --prune-all --json").out)
    for pattern, cycles, energy in (
        ("2:8", model["cycles"], model["energy"]),
        ("dense", model["dense_cycles"], model["dense_energy"]),
    ):
        (row,) = rows(values, "energy", pattern=pattern)
        parts = ("macs_joule", "update_joule", "memory_joule", "rest_joule", "total_joule")
        assert {part: row[part] for part in parts} == {part: energy[part] for part in parts}
        seconds = cycles / (model["seconds"] and model["cycles"] / model["seconds"])
        assert row["seconds"] == pytest.approx(seconds)
        assert f"|{energy['total_joule']:.2f}|" in shown(tmp_path / "out", "energy")
        (speed,) = rows(values, "throughput", name=f"nmsat, vgg19 {pattern}")
        full = model["macs"] + model["macs_skipped"]
        macs = model["macs"] if pattern == "2:8" else full
        assert speed["throughput_done"] == pytest.approx(2e-9 * macs / seconds, rel=0.01)
        assert speed["throughput"] == pytest.approx(2e-9 * full / seconds, rel=0.01)
        assert speed["efficiency"] == pytest.approx(speed["throughput"] * seconds / energy["total_joule"])
    assert any(line.startswith("resources: ") and "small" in line for line in values["missing"])
    assert "resources" not in values["figures"] and "ablation" not in values["figures"]


def test_records_are_shown_as_they_are(call: Call, tmp_path: Path) -> None:
    values = report(call, tmp_path, "--networks vgg19 --patterns 2:8 --batch 2 --no-ablation")
    synth = json.loads((TABLES / "synth_vcu1525.json").read_text(encoding="utf-8"))
    found = rows(values, "resources")
    for kind in ("luts", "flip_flops", "dsp", "bram36", "uram"):
        *engines, total = (row[kind] for row in found)
        assert engines == [engine[kind] for engine in synth["engines"]]
        assert total == synth["total"][kind]
        assert found[-1][f"{kind}_share"] == pytest.approx(synth["share"][kind])
    accuracy = json.loads((TABLES / "accuracy.json").read_text(encoding="utf-8"))
    plain = [row for row in accuracy["rows"] if not row["variant"]]
    assert [row["accuracy"] for row in rows(values, "accuracy")] == [row["accuracy"] for row in plain]
    assert [row["cycles"] for row in rows(values, "accuracy")] == [row["sat"]["cycles"] for row in plain]
    workloads = json.loads((TABLES / "workloads.json").read_text(encoding="utf-8"))
    all_rows = {f"{row['workload']} {row['variant']}": row for row in rows(values, "workloads")}
    speeds = {key: row["speedup"] for key, row in all_rows.items() if row["standing"] == "exact"}
    assert speeds == pytest.approx({key: raw["cycles_dense"] / raw["cycles"] for key, raw in workloads.items()})
    page = (TABLES / "workloads.md").read_text(encoding="utf-8").partition("\n## ")[2].partition("\n## ")[0]
    lines = [line for line in page.splitlines() if line.startswith("| ")][2:]
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    told = {f"{row[0]} {row[1]}": (int(row[9].replace(" ", "")), row[11] == "programs") for row in cells}
    shown = {key: (row["cycles"], row["standing"] == "exact") for key, row in all_rows.items()}
    assert shown == told
    assert len(told) > len(workloads) > 0


def test_workloads_without_a_page_are_those_that_ran_and_it_is_said() -> None:
    record = {"a nm": {"cycles": 2, "cycles_dense": 5, "estimate": 2, "estimate_dense": 5}}
    figure = workloads_figure(record, "", Basis("nmsat x", "tiny"))
    assert [row["workload"] for row in figure.rows] == ["a"]
    assert figure.notes[0].startswith("Only the 1 whose programs have run are here: workloads.md")
    with pytest.raises(InputError, match=r"workloads\.md is no page of workloads"):
        workloads_figure(record, "| a | b |\n", Basis("nmsat x", "tiny"))


def test_a_standing_that_is_told_twice_is_kept_twice() -> None:
    told = ((Standing.EXACT, "cycles"), (Standing.EXACT, "bounds"), (Standing.QUOTED, "1.75"))
    assert Basis("nmsat x", "tiny").origin(*told).record()["standing"] == {"exact": "cycles; bounds", "quoted": "1.75"}


def test_classes_of_precision_are_not_mixed(call: Call, tmp_path: Path) -> None:
    values = report(call, tmp_path, "--networks vgg19 --patterns 2:8 --batch 2 --no-ablation")
    for name in ("throughput", "efficiency"):
        found = rows(values, name)
        classes = [row["precision"] for row in found]
        order = list(dict.fromkeys(classes))
        assert classes == sorted(classes, key=order.index)
        assert order == list(Precision)
        quoted = [row for row in found if row["standing"] == "quoted"]
        order_of_classes = [peer.name for kind in Precision for peer in PEERS if peer.precision is kind]
        assert [row["name"] for row in quoted] == order_of_classes
        assert all(row["source"] and (row[name] is None) == (row[f"{name}_mark"] is None) for row in quoted)
        assert all(row["device"] is None and row["standing"] == "modelled" for row in found if row not in quoted)
        assert not [key for key in found[0] if "ratio" in key or "times" in key]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("--networks vgg19,nope", "the network is 'nope'; it must be one of"),
        ("--patterns 2:8,dense", "pattern is 'dense'; write N:M"),
        ("--records {}/none", "--records is "),
        ("--records {}/bad", "accuracy.json' has no data, machine, source, paper_loss, recipes; delete it"),
        ("--records {}/torn", "synth_vcu1525.json' cannot be read"),
    ],
)
def test_what_cannot_be_used_is_one_line_before_the_work(call: Call, tmp_path: Path, words: str, told: str) -> None:
    for name, file, text in (("bad", "accuracy.json", '{"rows": []}'), ("torn", "synth_vcu1525.json", "{")):
        (tmp_path / name).mkdir()
        (tmp_path / name / file).write_text(text)
    outcome = call(f"report --out {tmp_path / 'out'} {words.format(tmp_path)}")
    assert outcome.code == 2
    (line,) = outcome.err.splitlines()
    assert line.startswith("nmsat: error: ") and told in line
    assert not (tmp_path / "out").exists()


def test_records_of_other_fields_are_not_shown(call: Call, tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.mkdir()
    synth = json.loads((TABLES / "synth_vcu1525.json").read_text(encoding="utf-8"))
    synth["config"]["rows"] = 16
    (own / "synth_vcu1525.json").write_text(json.dumps(synth))
    values = report(call, tmp_path, f"--networks vgg19 --patterns 2:8 --batch 2 --no-ablation --records {own}")
    assert {"resources", "accuracy", "workloads"} & set(values["figures"]) == set()
    assert [line.partition(":")[0] for line in values["missing"]] == ["accuracy", "resources", "workloads", "ablation"]
    assert "of other fields than these" in values["missing"][1]


def test_the_bar_counts_to_the_end(call: Call, tmp_path: Path, advances: list[tuple[int, int | None]]) -> None:
    report(call, tmp_path, "--networks vgg19 --patterns 2:8 --batch 2")
    assert advances[-1] == (len(advances), len(advances))


@pytest.mark.parametrize(
    ("line", "figures"),
    [
        ("paper --networks vgg19 --batch 2", {"speedup", "stages", "causes", "roofline", "energy"}),
        ("model vgg19 --batch 2 --config tiny", {"speedup", "stages", "causes", "roofline", "energy"}),
        ("workload run sora --scale paper --estimate", {"workload"}),
        ("study --redraw --tables {tables}", {"accuracy"}),
        ("workload table --only random-search --out {tables}", {"workloads"}),
    ],
)
def test_other_commands_write_the_same_parts(call: Call, tmp_path: Path, line: str, figures: set[str]) -> None:
    tables = tmp_path / "tables"
    tables.mkdir()
    for name in ("accuracy.json", "workloads.json", "workloads.md"):
        (tables / name).write_bytes((TABLES / name).read_bytes())
    out = tmp_path / "report"
    outcome = call(f"{line.format(tables=tables)} --report {out} --json --force")
    assert outcome.code == 0, outcome.err
    assert {path.stem for path in out.glob("*.svg")} == figures
    page = (out / "report.html").read_text(encoding="utf-8")
    assert set(re.findall(r'<section class="figure" id="(\w+)"', page)) == figures
    if line.startswith("model"):
        values = json.loads(outcome.out)
        (row,) = json.loads((out / "speedup.json").read_text())["rows"][:1]
        assert row["speedup"] == values["speedup"] and row["bound"] == values["bound"]


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("study --networks mlp --out {out}", "--out; both hold accuracy.json"),
        ("study --networks mlp --out {out}/runs --tables {out}", "--tables; both hold accuracy.json"),
        ("study --redraw --tables {out}", "--tables; both hold accuracy.json"),
        ("workload table --out {out}", "--out; both hold workloads.json"),
    ],
)
def test_a_report_in_the_folder_of_the_command_is_refused_with_the_reason(
    call: Call, tmp_path: Path, line: str, told: str
) -> None:
    outcome = call(f"{line.format(out=tmp_path / 'a')} --report {tmp_path / 'b' / '..' / 'a'}")
    assert outcome.code == 2
    assert f"and so is the folder of {told}; choose another folder for one of them" in outcome.err
    assert outcome.err.count("\n") == 1
    assert not (tmp_path / "a").exists()


def test_an_estimate_has_no_report(call: Call, tmp_path: Path) -> None:
    outcome = call(f"model vgg19 --batch 2 --estimate --report {tmp_path / 'out'}")
    assert outcome.code == 2 and "--report shows where cycles go, which --estimate does not know" in outcome.err
