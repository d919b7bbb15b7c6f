"""Files of sweeps: values that ranges stand for, names without end, the folder of a file's name."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from nmsat.dataflow.contract.config import preset
from nmsat.reports.work.sweep_plan import make_plan, read_sweep
from tests.cli.sweeps import SMALL, write

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.conftest import Outcome

    Call = Callable[[str], Outcome]


@pytest.mark.parametrize(
    ("span", "values"),
    [
        ({"from": 0.1, "to": 0.3, "step": 0.1}, [0.1, 0.2, 0.3]),
        ({"from": 0.1, "to": 1, "step": 0.1}, [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]),
        ({"from": 0.1, "to": 0.35, "step": 0.1}, [0.1, 0.2, 0.3]),
        ({"from": 0.01, "to": 0.27, "times": 3}, [0.01, 0.03, 0.09, 0.27]),
        ({"from": 0.7, "to": 0.7, "step": 1e-9}, [0.7]),
    ],
)
def test_a_range_ends_where_its_decimals_say(span: dict[str, float], values: list[float]) -> None:
    plan = make_plan({"network": "vit", "set": {"memory": {"efficiency": span}}})
    assert [dict(point.settings)["memory.efficiency"] for point in plan.points] == values


def test_whole_numbers_of_a_range_may_be_written_with_a_point() -> None:
    work = {"network": "vit", "batch": {"from": 1.0, "to": 2, "step": 1.0}}
    plan = make_plan({**work, "set": {"rows": {"from": 4, "to": 8.0, "times": 2.0}}})
    found = [(point.batch, dict(point.settings)["rows"]) for point in plan.points]
    assert found == [(1, 4), (1, 8), (2, 4), (2, 8)]
    assert {type(value) for pair in found for value in pair} == {int}


@pytest.mark.parametrize("table", ["", "[set]\n", "[set.memory]\n"])
def test_an_endless_name_is_cut(tmp_path: Path, table: str) -> None:
    path = write(tmp_path / "s.toml", f'network = "vit"\n{table}{"k" * 60000} = 1\n')
    with pytest.raises(ValueError, match="kkk \\.\\.\\. is 1; ") as error:
        read_sweep(path)
    assert len(str(error.value)) < 1000


@pytest.mark.parametrize(("name", "folder"), [("a.b.toml", "a.b"), ("...toml", "...toml"), ("..toml", "..toml")])
def test_the_folder_of_a_sweep_has_a_name(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, folder: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / name, SMALL.replace("[2, 3, 4]", "3"))
    assert call(f"sweep {name} --estimate").code == 0
    assert (tmp_path / "out" / "sweep" / folder / "points.parquet").exists()


def test_presets_are_in_reach() -> None:
    plan = make_plan({"config": ["tiny", "kv260"], "network": "vit"})
    assert [point.machine for point in plan.points] == [preset("tiny"), preset("kv260")]
