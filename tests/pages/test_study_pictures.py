"""Losses with their intervals, and the pictures of the accuracy table: few marks, every error bar named."""

from __future__ import annotations

import json
import re
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pytest

from nmsat.algorithms.core.tape import Stage
from nmsat.algorithms.methods import METHODS
from nmsat.reports.commands.study import own_lines, page_files
from nmsat.reports.pages.study_page import study_page
from nmsat.reports.pages.study_parts import INTERVAL
from nmsat.reports.pages.study_plots import draw
from nmsat.reports.work.losses import Loss, average, beside, ladder, paired_losses, products_pruned, resolved
from tests.pages.picture import named, pixels_on_phone, size_of, texts, words

if TYPE_CHECKING:
    from collections.abc import Callable

    from nmsat.reports.pages.study_parts import Picture
    from tests.conftest import Outcome

TABLES: Final = Path(__file__).resolve().parent.parent.parent / "reports" / "tables"
DATA: Final[dict[str, Any]] = json.loads((TABLES / "accuracy.json").read_text(encoding="utf-8"))
NAMES: Final = ("networks", "methods", "patterns", "speed", "masks")
MOST_MARKS: Final = 12
"""Marks that a panel may hold; a heap hides what it shows."""


@pytest.fixture(scope="module")
def pictures() -> dict[str, Picture]:
    return draw(DATA)


def runs(**by_name: float) -> list[dict[str, Any]]:
    return [{"name": name.replace("_", "-"), "accuracy": accuracy} for name, accuracy in by_name.items()]


def test_losses_are_paired_by_seed() -> None:
    found = paired_losses(
        runs(
            mlp_dense_seed0=0.9,
            mlp_dense_seed1=0.8,
            mlp_dense_seed2=0.7,
            mlp_bdwp_2of8_seed0=0.89,
            mlp_bdwp_2of8_seed1=0.77,
            mlp_bdwp_2of8_seed3=0.1,
            mlp_ste_2of4_seed3=0.1,
        )
    )
    assert [(loss.network, loss.method, loss.pattern) for loss in found] == [("mlp", "bdwp", "2:8")]
    assert found[0].by_seed == pytest.approx((1.0, 3.0))


def test_pairs_are_of_one_arithmetic() -> None:
    fast = [
        {"name": f"mlp-{run}-seed0,arithmetic=fast", "accuracy": value}
        for run, value in (("dense", 0.9), ("bdwp-2of8", 0.8))
    ]
    assert [loss.by_seed for loss in paired_losses(fast)] == [pytest.approx((10.0,))]
    both = [*fast, *runs(mlp_dense_seed0=0.9, mlp_bdwp_2of8_seed0=0.89)]
    assert [loss.by_seed for loss in paired_losses(both)] == [pytest.approx((1.0,))]


def test_the_page_says_which_arithmetic() -> None:
    assert "All runs compute in the machine's own arithmetic" in study_page(DATA, {})
    fast = {name: {**recipe, "arithmetic": "fast"} for name, recipe in DATA["recipes"].items()}
    assert "All runs computed in plain binary32 (`fast`), not in the machine's" in study_page(
        {**DATA, "recipes": fast}, {}
    )
    mixed = study_page({**DATA, "recipes": {**DATA["recipes"], "mlp": fast["mlp"]}}, {})
    assert "**The runs of mlp computed in plain binary32" in mixed


def test_runs_that_change_the_recipe_are_left_out() -> None:
    changed = [{"name": "mlp-bdwp-2of8-seed0,epochs=2", "accuracy": 0.1}]
    assert paired_losses([*runs(mlp_dense_seed0=0.9), *changed]) == []


@pytest.mark.parametrize(
    ("losses", "half"),
    [
        ((1.0, 3.0), 12.7062),
        ((0.0, 1.0, 2.0), 4.30265 / 3**0.5),
        ((5.0, 5.0, 5.0), None),
        ((5.0, 5.0 + 1e-13), None),
        ((1.0,), None),
    ],
)
def test_interval_is_that_of_students_t(losses: tuple[float, ...], half: float | None) -> None:
    found = Loss("n", "m", "2:8", losses).half_width
    assert found == (None if half is None else pytest.approx(half, rel=1e-4))


def test_what_the_runs_tell_apart() -> None:
    seeds = (0, 1, 2)
    losses = [
        Loss("n", "bdwp", "2:8", (1.0, 1.1, 1.2), seeds),
        Loss("n", "ste", "2:8", (0.1, 0.25, 0.3), seeds),  # its interval holds 0; seed by seed below bdwp by 0.9
        Loss("n", "mvue", "2:8", (-1.0, -1.1, -1.2), seeds),
        Loss("n", "alone", "2:8", (9.0,), (0,)),  # tells nothing
    ]
    (found,) = resolved(losses)
    assert (found.worse, found.better, found.open) == (("bdwp",), ("mvue",), ("ste",))
    assert set(found.pairs) == {("ste", "bdwp"), ("mvue", "bdwp"), ("mvue", "ste")}
    assert (found.compared, found.seeds) == (3, 3)
    assert found.half == pytest.approx(4.30265 * 0.1 / 3**0.5, rel=1e-4)
    wide = [Loss("n", "bdwp", "2:8", (0.0, 3.0, 0.2), seeds), Loss("n", "ste", "2:8", (1.0, 0.0, 0.1), seeds)]
    assert resolved(wide)[0].pairs == ()


def test_equal_losses_are_no_certainty() -> None:
    """Two seeds that lose the same would have an interval of no width: a loss for sure, better than any other."""
    seeds = (0, 1)
    same = Loss("n", "bdwp", "2:8", (0.5, 0.5), seeds)
    (found,) = resolved([same])
    assert (found.worse, found.better, found.open, found.half) == ((), (), ("bdwp",), None)
    (both,) = resolved([same, Loss("n", "ste", "2:8", (0.7, 0.7), seeds), Loss("n", "mvue", "2:8", (0.1, 0.2), seeds)])
    assert (both.open, both.pairs, both.seeds) == (("bdwp", "ste", "mvue"), (), 2)
    assert both.half == pytest.approx(12.7062 * 0.1 / 2, rel=1e-4)  # of the one that has an interval
    assert (average([same])[1], beside([same], 9.0)) == (None, "open")


def test_the_page_counts_equal_losses_as_open() -> None:
    named = {"mlp-dense-seed0": 0.9, "mlp-dense-seed1": 0.8, "mlp-bdwp-2of8-seed0": 0.85, "mlp-bdwp-2of8-seed1": 0.75}
    runs = [{**DATA["runs"][0], "name": name, "accuracy": accuracy} for name, accuracy in named.items()]
    made = {"source": "generated", "test": 2000, "best": None}
    page = study_page({**DATA, "rows": [], "ablations": [], "runs": runs, "data": {**DATA["data"], "mlp": made}}, {})
    assert "| mlp | 2:8 | 2 |  | 0.05 | none | none | bdwp | 0 of 0 |" in page
    assert "A method whose seeds all lose the same counts as open" in " ".join(page.split())


@pytest.mark.parametrize("half", [None, 0.0, 7.053360526851179e-14])
def test_equal_gains_are_no_certainty_either(half: float | None) -> None:
    """Data of earlier versions hold the width 0 that equal gains had, or what rounding made of it."""
    row = {**DATA["ablations"][0], "label": "changed", "gain": 0.5333, "half_width": half}
    assert "| +0.53 | " in study_page({**DATA, "ablations": [row]}, {})
    own = {"network": "mlp", "method": "bdwp", "pattern": "2:8", "patterns": "fc2@2:4", "seeds": 2}
    (_, told) = own_lines({**row, **own, "cycles": 1, "uniform_cycles": 2})
    assert "+0.53 points over 2 seeds (not resolved)" in told


def test_the_average_of_networks_lies_beside_the_papers() -> None:
    one = [Loss("a", "bdwp", "2:8", (1.0, 1.1, 1.2))]
    assert [beside(one, value) for value in (0.56, 1.1, 1.9)] == ["more", "open", "less"]
    mean, half = average(one)
    assert (mean, half) == (pytest.approx(1.1), pytest.approx(one[0].half_width))
    # within each seed first: seeds that are good for both networks widen the interval, others cancel
    mean, half = average([*one, Loss("b", "bdwp", "2:8", (2.0, 2.1, 2.2))])
    assert (mean, half) == (pytest.approx(1.6), pytest.approx(4.30265 * 0.1 / 3**0.5, rel=1e-4))
    mean, half = average([*one, Loss("b", "bdwp", "2:8", (2.2, 2.1, 2.3))])
    assert (mean, half) == (pytest.approx(1.65), pytest.approx(4.30265 * 0.0866025 / 3**0.5, rel=1e-4))
    mean, half = average([Loss("a", "bdwp", "2:8", (1, 2), (3, 4)), Loss("b", "bdwp", "2:8", (5, 9), (4, 5))])
    assert (mean, half) == (4.25, None)  # one seed in common
    assert average([Loss("a", "bdwp", "2:8", (1.0,))])[1] is None


def test_the_page_says_what_is_missing() -> None:
    plan = [{"title": "first", "runs": 3, "missing": ["x", "y"]}, {"title": "second", "runs": 2, "missing": []}]
    page = study_page({**DATA, "plan": plan}, {})
    assert "**2 of the 5 runs of the plan are not there yet.**" in page
    assert "| first | 1 | 3 |" in page
    done = [{**part, "missing": []} for part in plan]
    assert "Nothing: all 5 runs of the plan are there." in study_page({**DATA, "plan": done}, {})


def test_interval_holds_the_mean_as_often_as_it_says() -> None:
    rng = np.random.default_rng(3)
    hits = 0
    for values in rng.normal(1.5, 2.0, (2000, 3)):
        loss = Loss("n", "m", "2:8", tuple(values))
        assert loss.half_width is not None
        hits += abs(loss.mean - 1.5) <= loss.half_width
    assert hits / 2000 == pytest.approx(0.95, abs=0.015)


def test_losses_are_those_of_the_table() -> None:
    table = {(row["network"], row["method"], row["pattern"]): row["loss_points"] for row in DATA["rows"]}
    found = {(loss.network, loss.method, loss.pattern): loss.mean for loss in paired_losses(DATA["runs"])}
    assert found == {key: pytest.approx(loss, abs=1e-9) for key, loss in table.items() if key[1] != "dense"}


def test_the_ladder_prunes_one_product_more_at_each_step() -> None:
    products = [set(products_pruned(method)) for method in ladder(list(METHODS))]
    assert products == [{Stage.FF}, {Stage.FF, Stage.BP}, {Stage.FF, Stage.BP, Stage.WU}]
    assert products_pruned("dense") == ()


def test_all_pictures_are_drawn_from_the_table(pictures: dict[str, Picture]) -> None:
    assert tuple(pictures) == NAMES
    assert [picture.file for picture in pictures.values()] == [f"accuracy_{name}.svg" for name in NAMES]


@pytest.mark.parametrize("name", NAMES)
def test_pictures_can_be_read_on_a_phone(pictures: dict[str, Picture], name: str) -> None:
    svg = pictures[name].svg
    width, height = size_of(svg)
    assert width == 360
    assert pixels_on_phone(svg) >= 11
    shown = texts(svg)
    assert [text for text in shown if text.box[0] < 0 or text.box[1] < 0] == []
    assert [text for text in shown if text.box[2] > width or text.box[3] > height] == []
    assert [(one.text, other.text) for one, other in combinations(shown, 2) if one.meets(other)] == []


@pytest.mark.parametrize("name", NAMES)
def test_pictures_say_what_they_show(pictures: dict[str, Picture], name: str) -> None:
    title, description = words(pictures[name].svg)
    assert title == pictures[name].title
    assert pictures[name].caption
    numbers = re.findall(r"\d+\.\d+", description)
    assert len(numbers) >= len(named(pictures[name].svg, "mark")) / 6


@pytest.mark.parametrize("name", NAMES)
def test_panels_hold_few_marks(pictures: dict[str, Picture], name: str) -> None:
    marks = named(pictures[name].svg, "mark")
    assert marks
    for network in dict.fromkeys(row["network"] for row in DATA["rows"]):
        assert sum(mark.startswith(f"mark-{network}-") for mark in marks) <= MOST_MARKS
    assert len(marks) == sum(
        mark.startswith(f"mark-{network}-") for mark in marks for network in {row["network"] for row in DATA["rows"]}
    )


@pytest.mark.parametrize("name", ["networks", "methods", "patterns"])
def test_every_dot_of_a_row_has_its_interval(pictures: dict[str, Picture], name: str) -> None:
    """All but those whose seeds lose the same."""
    svg = pictures[name].svg
    losses = [loss for loss in paired_losses(DATA["runs"]) if max(loss.by_seed) - min(loss.by_seed) < 1e-9]
    bare = {f"-{loss.network}-{loss.method}-{loss.pattern}" for loss in losses}
    assert {mark.removeprefix("mark") for mark in named(svg, "mark")} - bare == {
        interval.removeprefix("interval") for interval in named(svg, "interval")
    }


@pytest.mark.parametrize("name", NAMES)
def test_every_error_bar_is_named(pictures: dict[str, Picture], name: str) -> None:
    svg = pictures[name].svg
    says = any(INTERVAL in text.text for text in texts(svg))
    assert says == bool(named(svg, "interval"))
    assert INTERVAL == "95 % confidence interval"


def test_dots_and_intervals_lie_where_the_losses_are(pictures: dict[str, Picture]) -> None:
    svg = pictures["networks"].svg
    losses = [loss for loss in paired_losses(DATA["runs"]) if (loss.method, loss.pattern) == ("bdwp", "2:8")]
    expected, found = [], []
    for loss in losses:
        name = f"{loss.network}-{loss.method}-{loss.pattern}"
        half = loss.half_width
        assert half is not None
        ends = re.search(rf'id="networks-interval-{name}">\s*<path d="M ([\d.]+) [\d.]+\s*L ([\d.]+)', svg)
        mark = re.search(rf'id="networks-mark-{name}">.*?<use [^>]*x="([\d.]+)"', svg, re.DOTALL)
        assert ends is not None
        assert mark is not None
        expected += [loss.mean - half, loss.mean + half, loss.mean]
        found += [float(ends[1]), float(ends[2]), float(mark[1])]
    slope, start = np.polyfit(expected, found, 1)
    assert slope > 0
    assert np.allclose(np.polyval((slope, start), expected), found, atol=0.05)


def test_speed_names_its_lines_and_dense(pictures: dict[str, Picture]) -> None:
    shown = [text.text for text in texts(pictures["speed"].svg)]
    panels = len(named(pictures["speed"].svg, "interval"))
    for name in (*ladder(list(METHODS)), "dense"):
        assert shown.count(name) == panels


def test_one_seed_has_a_hollow_mark_and_no_interval() -> None:
    kept = [run for run in DATA["runs"] if run["name"].partition(",")[0].endswith("-seed0")]
    networks = draw({**DATA, "runs": kept})["networks"].svg
    assert named(networks, "interval") == set()
    assert any(text.text == "one seed" for text in texts(networks))
    assert not any(INTERVAL in text.text for text in texts(networks))


def test_equal_losses_have_a_hollow_mark_and_no_interval() -> None:
    seeds = (0, 1)
    kept = [{**DATA["runs"][0], "name": f"mlp-dense-seed{seed}", "accuracy": 0.9} for seed in seeds]
    kept += [{**DATA["runs"][0], "name": f"mlp-bdwp-2of8-seed{seed}", "accuracy": 0.8} for seed in seeds]
    row = {**DATA["rows"][0], "network": "mlp", "method": "bdwp", "pattern": "2:8"}
    networks = draw({**DATA, "runs": kept, "rows": [row]})["networks"].svg
    assert named(networks, "interval") == set()
    assert [text.text for text in texts(networks) if "seed" in text.text] == ["all seeds lose the same"]


def test_what_is_missing_is_not_drawn() -> None:
    few = [row for row in DATA["rows"] if row["method"] == "dense"]
    runs = [run for run in DATA["runs"] if "-dense-" in run["name"]]
    assert draw({**DATA, "rows": few, "runs": runs, "masks": [], "ablations": []}) == {}


def test_committed_files_are_drawn_from_the_committed_data() -> None:
    made = page_files(DATA)
    committed = {path.name: path.read_text(encoding="utf-8") for path in TABLES.glob("accuracy*")}
    assert made.keys() == committed.keys()
    for name, text in made.items():
        same = same_picture(text, committed[name]) if name.endswith(".svg") else text == committed[name]
        assert same, f"{name} is old: nmsat study --redraw --tables reports/tables --force"


def test_a_changed_picture_is_noticed() -> None:
    svg = (TABLES / "accuracy_networks.svg").read_text(encoding="utf-8")
    assert same_picture(svg, svg)
    assert not same_picture(svg, svg.replace("95 % confidence", "99 % confidence"))
    for moved, same in ((0.4, True), (2.0, False)):
        other = re.sub(r'(<use [^>]*)x="([\d.]+)"', lambda m, by=moved: f'{m[1]}x="{float(m[2]) + by:g}"', svg)
        assert other != svg
        assert same_picture(svg, other) == same


def same_picture(first: str, second: str) -> bool:
    """Whether two pictures differ in nothing but numbers, and in those by no more than versions of the library do."""
    number = re.compile(r"-?\d+(?:\.\d+)?")
    # Ids of shared paths are hashes of what they draw.
    one, two = (re.sub(r'(id|xlink:href|clip-path)="[^"]*"', "", text) for text in (first, second))
    if number.sub("0", one) != number.sub("0", two):
        return False
    pairs = zip(number.findall(one), number.findall(two), strict=True)
    return all(abs(float(one) - float(other)) <= 1.0 for one, other in pairs)


def test_redraw_needs_no_run(call: Callable[[str], Outcome], tmp_path: Path) -> None:
    (tmp_path / "accuracy.json").write_text(json.dumps(DATA), encoding="utf-8")
    outcome = call(f"study --redraw --tables {tmp_path} --json")
    assert outcome.code == 0
    assert {path.name for path in tmp_path.glob("accuracy*")} == {path.name for path in TABLES.glob("accuracy*")}
    assert (tmp_path / "accuracy.json").read_text(encoding="utf-8") == json.dumps(DATA)  # the data stay as they are
    page = (tmp_path / "accuracy.md").read_text(encoding="utf-8")
    assert page == (TABLES / "accuracy.md").read_text(encoding="utf-8")
    links = re.findall(r"!\[([^]]+)\]\(([^)]+)\)", page)
    assert {file for _, file in links} == {f"accuracy_{name}.svg" for name in NAMES}


@pytest.mark.parametrize(
    ("line", "data", "says"),
    [
        ("", None, "No such file or directory"),
        ("", "{}", "is not the data of a study"),
        ("", "[1", "is not the data of a study"),
        ("", "[" * 100_000, "is not the data of a study"),
        ("", json.dumps({**DATA, "rows": [{**DATA["rows"][0], "accuracy": 10**400}]}), "is not the data of a study"),
        ("", json.dumps({**DATA, "rows": 3}), "is not the data of a study"),
        ("--seeds 0", "{}", "leave out --seeds"),
    ],
)
def test_redraw_refuses_in_one_line(
    call: Callable[[str], Outcome], tmp_path: Path, line: str, data: str | None, says: str
) -> None:
    if data is not None:
        (tmp_path / "accuracy.json").write_text(data, encoding="utf-8")
    outcome = call(f"study --redraw --tables {tmp_path} {line}")
    assert (outcome.code, outcome.out) == (2, "")
    assert says in outcome.err
    assert len(outcome.err.splitlines()) == 1
    assert {path.name for path in tmp_path.iterdir()} <= {"accuracy.json"}


@pytest.mark.parametrize("kind", ["file", "link"])
def test_redraw_leaves_what_is_not_its_own(call: Callable[[str], Outcome], tmp_path: Path, kind: str) -> None:
    folder, other = tmp_path / "page", tmp_path / "other.md"
    folder.mkdir()
    (folder / "accuracy.json").write_text(json.dumps(DATA), encoding="utf-8")
    page = folder / "accuracy.md"
    other.write_text("mine", encoding="utf-8")
    if kind == "link":
        page.symlink_to(other)
    else:
        page.write_text("mine", encoding="utf-8")
    outcome = call(f"study --redraw --tables {folder}")
    assert (outcome.code, outcome.out, outcome.err.count("\n")) == (2, "", 1)
    assert "'accuracy.md' in it: not written by nmsat" in outcome.err
    assert page.read_text(encoding="utf-8") == "mine"
    assert call(f"study --redraw --tables {folder} --force").code == 0
    assert (page.is_symlink(), other.read_text(encoding="utf-8")) == (False, "mine")
    assert page.read_text(encoding="utf-8").startswith("# Accuracy")
