"""`nmsat vivado read`, on reports that were written after Vivado's layout (tests/data/vivado): not recorded ones."""

from __future__ import annotations

import json
import random
import re
import shutil
import time
from typing import TYPE_CHECKING, Final

import pytest

import nmsat
from nmsat.reports.work.vivado import fanout, hierarchy, power, read_reports, utilization
from nmsat.reports.work.vivado_text import ReportError
from nmsat.reports.work.vivado_timing import timing
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
        "warnings": [],
    }


HOT: Final = text("power").replace("21.234       |", "37.456 (Junction temp exceeded!) |")


def test_power_above_the_limit_of_temperature_is_read_and_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As Vivado prints it: the warning stands in brackets behind the figure."""
    warning = "Total On-Chip Power (W): Junction temp exceeded!"
    assert power(HOT) == power(text("power")) | {"total_w": 37.456, "warnings": [warning]}
    shutil.copy(DATA / "route_utilization.rpt", tmp_path)
    (tmp_path / "route_power.rpt").write_text(HOT)
    assert nmsat.main(["vivado", "read", str(tmp_path)]) == 0
    assert "power 37.456 W" in (shown := capsys.readouterr().out)
    assert f"WARNING of Vivado: {warning}" in shown
    assert nmsat.main(["vivado", "read", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["route"]["power"]["warnings"] == [warning]


@pytest.mark.parametrize(
    ("reader", "kind", "before", "after", "message"),
    [
        (utilization, "utilization", "| DSPs", "| DSPx", "no row 'DSPs'"),
        (utilization, "utilization", "423456", "many  ", "a figure is 'many'"),
        (hierarchy, "hierarchy", "Instance", "instance", "no table of instances"),
        (timing, "timing", "WNS(ns)", "wns", "no design timing summary"),
        (timing, "timing", "-1.250     -321.500", "NA NA", "no path is constrained"),
        (timing, "timing", "5.000           200.000", "-", "no clock"),
        (timing, "timing", "-1.250     -321.500", "5.000 0.000", "WNS of clock 'ap_clk' is 5 ns; it has to be below"),
        (timing, "timing", "-1.250     -321.500", "7.000 0.000", "WNS of clock 'ap_clk' is 7 ns; it has to be below"),
        (timing, "timing", "-1.250     -321.500", "nan 0.000", "a figure is 'nan'"),
        (timing, "timing", "-1.250     -321.500", "-inf 0.000", "a figure is '-inf'"),
        (timing, "timing", "-1.250     -321.500", f"{'9' * 400} 0.000", "a figure is '9999"),
        (timing, "timing", " 417 ", " 4.5 ", "a count is '4.5'"),
        (timing, "timing", " 417 ", " -1 ", "an amount is '-1'"),
        (timing, "timing", "14  (CARRY8", "(CARRY8", "a figure is '.CARRY8"),
        (timing, "timing", "  Source:                 machine/sequencer", "  Start: machine", "has no Source"),
        (timing, "timing", "  Logic Levels:           14", "  Levels:", "has no Logic Levels"),
        (timing, "timing", "Slack (MET) :", "Slip :", "stands twice in one"),
        (timing, "timing", "Path Group:", "Group:", "has no Path Group"),
        (timing, "timing", "ap_clk             -1", "ap_clx             -1", "'ap_clk' has no row in an Intra"),
        (timing, "timing", ":        -1.250ns", ":        -1.240ns", "no setup path of -1.25 ns, its worst slack"),
        (timing, "timing", ":             0.010ns", ":             0.020ns", "no hold path of 0.01 ns, its worst"),
        (timing, "timing", "Clock Name:         ap_clk", "Clock Name:         ap", "no 'Pulse Width Checks' behind"),
        (power, "power", "21.234 ", "21.234 hot", "a figure is '21.234 hot'"),
        (power, "power", "21.234 ", "21.234 (hot", "a figure is '21.234 .hot'"),
        (utilization, "utilization", "     0 |          0 |   1182240 | 35.82 |", "|", "a row is '. CLB LUTs"),
        (utilization, "utilization", "1182240 | 35.82 |", "1182240 | 35.82", "a row is '. CLB LUTs"),
        (hierarchy, "hierarchy", "|  FFs   |", "|  FF    |", "no column 'FFs'"),
        (hierarchy, "hierarchy", "|   16 |       1157 |", "|   16 |", "a row is '. sat_kernel"),
        (hierarchy, "hierarchy", "|   16 |       1157 |", "|   16 |       1157 |  1 |", "a row is '. sat_kernel"),
        (hierarchy, "hierarchy", "|    Instance    |", "Instance x |", "no table of instances"),
        (fanout, "fanout", "Fanout", "Loads", "no table of nets"),
        (fanout, "fanout", "Net Name", "Net     ", "no column 'Net Name'"),
        (fanout, "fanout", "| 35123  | LUT2        |", "| 35123  |", "a row is '. machine/engine_rst"),
        (power, "power", "21.234", "inf", "a figure is 'inf'"),
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


CLOCKS: Final = """\
slow                3.000   0.0  0  9  0.010  0.000  0  9  1.958  0.000  0  4
idle                                                       1.958  0.000  0  4
"""


def section(clock: str, setup: str) -> str:
    """Return the paths and pulse widths of a clock, as those of ap_clk with another setup slack."""
    whole = text("timing")
    return whole[whole.index("Max Delay Paths") :].replace("ap_clk", clock).replace("-1.250ns", setup)


def test_each_of_several_clocks_has_its_own_slack() -> None:
    row = "ap_clk  {0.000 2.500}      5.000           200.000"
    whole = text("timing")
    several = whole.replace(
        row, row + "\n  slow  {0.000 5.000}     10.000           100.000\n  idle  {0.000 1.0}  2.0  500.0"
    )
    assert several != whole
    with pytest.raises(ReportError, match="clock 'slow' has no row in an Intra Clock Table"):
        timing(several)
    lines = several.splitlines()
    at = next(number for number, line in enumerate(lines) if line.startswith("ap_clk") and "-321" in line) + 1
    several = "\n".join([*lines[:at], *CLOCKS.splitlines(), *lines[at:], ""])
    with pytest.raises(ReportError, match="clock 'slow' has no setup path of 3 ns"):
        timing(several)
    several += section("slow", "3.000ns")
    with pytest.raises(ReportError, match="clock 'idle' has no 'Pulse Width Checks'"):
        timing(several)
    several += "\nPulse Width Checks\n------\nClock Name:         idle\n"
    clocks = timing(several)["clocks"]
    assert {name: clock["reached_mhz"] for name, clock in clocks.items()} == {
        "ap_clk": pytest.approx(1000 / 6.25),
        "slow": pytest.approx(1000 / 7),
        "idle": None,
    }


def test_a_timing_report_that_breaks_off_is_refused_wherever_it_does() -> None:
    """Cut behind any character, it is refused, or all that is read of it is there."""
    whole = text("timing")
    wanted, read = timing(whole), []
    for end in range(len(whole)):
        try:
            found = timing(whole[:end])
        except ReportError:
            continue
        assert found == wanted, whole[:end][-80:]
        read.append(end)
    last = "Clock Name:         ap_clk"
    assert read == list(range(whole.index(last) + len(last), len(whole)))


def test_a_column_that_is_not_known_is_kept() -> None:
    assert hierarchy(text("hierarchy").replace("| URAM |", "| XRAM |"))[0]["XRAM"] == 16


def test_unconstrained_paths_have_no_figures() -> None:
    lone = "Slack:                    inf\n  Source:   a/C\n  Destination:   b/D\n"
    assert timing(text("timing") + lone)["paths"] == timing(text("timing"))["paths"]


READERS: Final = {
    "utilization": utilization,
    "hierarchy": hierarchy,
    "timing": timing,
    "fanout": fanout,
    "power": power,
}
WORDS: Final = ("nan", "inf", "-inf", "NA", "many", "", "-1", "1e400", "9" * 400, "0", "5.000", "1.2.3", "\u0663")


def damaged(whole: str, draw: random.Random) -> str:
    """Return a report with one to three kinds of damage."""
    lines = whole.splitlines()
    for _ in range(draw.randint(1, 3)):
        at = draw.randrange(len(lines))
        line = lines[at]
        match draw.randrange(6):
            case 0:
                del lines[at : at + draw.choice((1, 1, 3))]
            case 1:
                lines[at:at] = lines[at : at + draw.choice((1, 4))] * draw.choice((1, 20))
            case 2:
                cells = line.split("|")
                del cells[draw.randrange(len(cells))]
                lines[at] = "|".join(cells)
            case 3:
                lines[at] = line[: draw.randrange(len(line) + 1)]
            case 4:
                figures = list(re.finditer(r"-?[0-9][0-9.]*", line))
                if figures:
                    found = draw.choice(figures)
                    lines[at] = line[: found.start()] + draw.choice(WORDS) + line[found.end() :]
            case _:
                lines[at] = draw.choice((line.replace(" ", "", 1), f"{line} |", f"{line}x", line + "|" * 9))
        if not lines:
            return ""
    return "\n".join(lines)


@pytest.mark.parametrize("kind", READERS)
def test_damaged_reports_are_read_or_refused(kind: str) -> None:
    """Nothing but ReportError, no figure that JSON cannot hold, no rate that is not above 0."""
    draw, refused, whole = random.Random(kind), 0, text(kind)
    for _ in range(1500):
        report = damaged(whole, draw)
        try:
            values = READERS[kind](report)
        except ReportError as error:
            refused += 1
            assert "\n" not in str(error)
            continue
        json.dumps(values, allow_nan=False)
        if isinstance(values, dict) and "clocks" in values:
            assert all(clock["reached_mhz"] > 0 for clock in values["clocks"].values())
    assert 100 < refused < 1500


def test_command_refuses_damaged_reports_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    draw, codes = random.Random(7), set[int]()
    for _ in range(25):
        for kind in READERS:
            whole = text(kind)
            (tmp_path / f"route_{kind}.rpt").write_text(damaged(whole, draw) if draw.random() < 0.3 else whole)
        codes.add(code := nmsat.main(["vivado", "read", str(tmp_path)]))
        said = capsys.readouterr()
        assert (code, said.err.count("\n"), bool(said.out)) in ((0, 0, True), (2, 1, False)), said.err
    assert codes == {0, 2}


@pytest.mark.parametrize(
    "line",
    [
        "Slack (MET) :\n",
        "Slack (MET) :  1.0ns\n",
        "Slack:   inf\n  Source: a\n",
        "Slack" + " " * 40,
        "ap_clk {0.0} ",
        "|" + " " * 30,
        "| Design : " + " " * 30,
        "+-+",
        "+----+\n| a |\n",
    ],
)
def test_long_reports_take_time_in_proportion(line: str) -> None:
    for kind, reader in READERS.items():
        start = time.process_time()
        for report in (line * 30_000, text(kind) + line * 30_000):
            try:
                reader(report)
            except ReportError:
                continue
        assert time.process_time() - start < 5, (kind, line)


def test_command_reads_a_folder(capsys: pytest.CaptureFixture[str]) -> None:
    assert nmsat.main(["vivado", "read", str(DATA), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert list(found) == ["route"]
    assert (found["route"]["device"], found["route"]["state"]) == ("xcvu9p-fsgd2104-2L-e", "Routed")
    assert nmsat.main(["vivado", "read", str(DATA)]) == 0
    shown = capsys.readouterr().out
    assert "1,182,240" in shown
    assert "1,230.5" in shown
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
