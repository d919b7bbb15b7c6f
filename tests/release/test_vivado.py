"""`nmsat vivado read`, on reports that were written after Vivado's layout (tests/data/vivado): not recorded ones."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Final

import pytest

import nmsat
from nmsat.reports.work.vivado import ReportError, fanout, hierarchy, power, read_reports, timing, utilization
from tests.source import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

DATA: Final = ROOT / "tests" / "data" / "vivado"


def text(kind: str) -> str:
    return (DATA / f"route_{kind}.rpt").read_text()


def test_resources_are_those_of_the_tables() -> None:
    found = utilization(text("utilization"))
    assert {name: value["used"] for name, value in found.items()} == {
        "luts": 423456,
        "logic_luts": 341000,
        "memory_luts": 82456,
        "flip_flops": 410200,
        "block_ram_tiles": 1230.5,
        "ultra_rams": 16,
        "dsp": 1157,
    }
    assert found["luts"]["available"] == 1182240
    assert found["luts"]["percent"] == pytest.approx(35.82, abs=0.005)


def test_seven_series_and_older_columns_are_read() -> None:
    """Without `Prohibited`, other names of sites, a star behind one, no UltraRAM."""
    old = """
+-----------------+-------+-------+-----------+-------+
|    Site Type    |  Used | Fixed | Available | Util% |
+-----------------+-------+-------+-----------+-------+
| Slice LUTs*     | 46139 |     0 |     53200 | 86.73 |
|   LUT as Logic  | 45837 |     0 |     53200 | 86.16 |
|   LUT as Memory |   302 |     0 |     17400 |  1.74 |
| Slice Registers | 41000 |     0 |    106400 | 38.53 |
| Block RAM Tile  |   0.5 |     0 |       140 |  0.36 |
| DSPs            |     0 |     0 |       220 |  0.00 |
+-----------------+-------+-------+-----------+-------+
"""
    found = utilization(old)
    assert (found["luts"]["used"], found["luts"]["available"]) == (46139, 53200)
    assert "ultra_rams" not in found


def test_hierarchy_has_depths_and_no_sums_twice() -> None:
    rows = hierarchy(text("hierarchy"))
    assert [(row["instance"], row["depth"]) for row in rows] == [
        ("sat_kernel", 0),
        ("machine", 1),
        ("compute", 2),
        ("stce", 3),
    ]
    assert (rows[3]["module"], rows[3]["luts"], rows[3]["ramb36"], rows[3]["dsp"]) == ("sat_stce", 379000, 768, 1024)


def test_timing_says_what_clock_would_have_held() -> None:
    found = timing(text("timing"))
    assert (found["wns_ns"], found["tns_ns"], found["failing_endpoints"]) == (-1.25, -321.5, 417)
    assert (found["whs_ns"], found["wpws_ns"], found["met"]) == (0.01, 1.958, False)
    assert found["clocks"] == {"ap_clk": {"period_ns": 5.0, "mhz": 200.0, "reached_mhz": 160.0}}
    first, second = found["paths"]
    assert (first["type"], first["levels"], first["delay_ns"]) == ("setup", 14, 6.18)
    assert first["destination"] == "machine/sequencer/bad_reg/D"
    assert (second["type"], second["slack_ns"]) == ("hold", 0.01)


def test_fanout_and_power() -> None:
    assert fanout(text("fanout"))[0] == {"net": "machine/engine_rst", "fanout": 35123, "driver": "LUT2"}
    assert power(text("power")) == {
        "total_w": 21.234,
        "dynamic_w": 18.1,
        "static_w": 3.134,
        "junction_c": 37.5,
        "confidence": "Low",
    }


@pytest.mark.parametrize(
    ("reader", "kind", "before", "after", "message"),
    [
        (utilization, "utilization", "| DSPs", "| DSPx", "no row 'DSPs'"),
        (utilization, "utilization", "423456", "many  ", "a figure is 'many'"),
        (hierarchy, "hierarchy", "Instance", "instance", "no table of instances"),
        (timing, "timing", "WNS(ns)", "wns", "no design timing summary"),
        (timing, "timing", "-1.250     -321.500", "NA NA", "no path is constrained"),
        (timing, "timing", "5.000           200.000", "-", "no clock"),
        (fanout, "fanout", "Fanout", "Loads", "no table of nets"),
        (power, "power", "Confidence Level", "Sure", "no row 'Confidence Level'"),
    ],
)
def test_a_report_that_is_not_one_is_an_error(
    reader: Callable[[str], object], kind: str, before: str, after: str, message: str
) -> None:
    whole = text(kind)
    assert before in whole
    with pytest.raises(ReportError, match=message):
        reader(whole.replace(before, after))


def test_command_reads_a_folder(capsys: pytest.CaptureFixture[str]) -> None:
    assert nmsat.main(["vivado", "read", str(DATA), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert list(found) == ["route"]
    assert (found["route"]["device"], found["route"]["state"]) == ("xcvu9p-fsgd2104-2L-e", "Routed")
    assert nmsat.main(["vivado", "read", str(DATA)]) == 0
    shown = capsys.readouterr().out
    for part in ("timing NOT met at 417 endpoints", "160 MHz", "14 levels", "engine_rst 35123", "power 21.234 W"):
        assert part in shown


def test_missing_reports_are_none_and_missing_folders_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(DATA / "route_utilization.rpt", tmp_path / "synth_utilization.rpt")
    found = read_reports(tmp_path)["synth"]
    assert [found[kind] for kind in ("hierarchy", "timing", "fanout", "power")] == [None] * 4
    assert nmsat.main(["vivado", "read", str(tmp_path / "gone")]) == 2
    assert "holds no synth_utilization.rpt or route_utilization.rpt" in capsys.readouterr().err
    (tmp_path / "synth_timing.rpt").write_text("nothing")
    assert nmsat.main(["vivado", "read", str(tmp_path)]) == 2
    assert "synth_timing.rpt': no design timing summary" in capsys.readouterr().err
