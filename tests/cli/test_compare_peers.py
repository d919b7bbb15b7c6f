"""SCALE-Sim and ZigZag themselves beside nmsat (`make test-peers`, which makes their environment first)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from nmsat.algorithms.core.tape import ConvShape, Pattern
from nmsat.dataflow.contract.config import preset
from nmsat.reports.work import compare, peer_env, peer_scalesim, peer_zigzag
from nmsat.reports.work.compare_layers import Gemm
from nmsat.reports.work.compare_names import COMPONENTS, PACKAGES
from nmsat.reports.work.peer_scalesim import OVERALL, STALL, TOTAL

if TYPE_CHECKING:
    from collections.abc import Callable

    from nmsat.reports.work.peer_env import Peers
    from tests.conftest import Outcome

    Call = Callable[[str], Outcome]

DATA = Path(__file__).parents[1] / "data" / "peers"
TINY = preset("tiny")
SPARSE = Pattern(2, 8)

pytestmark = [pytest.mark.long, pytest.mark.exact]


@pytest.fixture(scope="module")
def peers() -> Peers:
    found = peer_env.find_peers()
    if found is None:
        pytest.skip("the other simulators are not set up: nmsat compare --setup")
    return found


@pytest.mark.parametrize(
    ("flow", "gemm", "by_hand"),
    [
        ("os", Gemm(8, 16, 4), 2 * (16 + 4 + 4 - 2)),
        ("ws", Gemm(9, 20, 5), 5 * 2 * (9 + 2 * 4 + 4 - 2)),
        ("os", Gemm(9, 20, 5, pattern=SPARSE), 3 * 2 * (6 + 4 + 4 - 2)),
        ("ws", Gemm(9, 20, 5, pattern=SPARSE), 2 * 2 * (9 + 2 * 4 + 4 - 2)),
        # 3 x 3 windows with 2 pixels between them on 7 x 7, padding among them: 9 results, K = 9 x 4.
        ("os", Gemm(9, 36, 8, conv=ConvShape(1, 5, 5, 4, 8, (3, 3), (2, 2), (1, 1))), 3 * 2 * (36 + 4 + 4 - 2)),
        ("os", Gemm(9, 72, 4, pattern=SPARSE, conv=ConvShape(1, 5, 5, 8, 4, (3, 3), (2, 2), (1, 1))), 3 * (18 + 6)),
    ],
)
def test_scalesim_takes_what_its_formula_says(peers: Peers, flow: str, gemm: Gemm, by_hand: int) -> None:
    array = compare.array_of(TINY, flow)
    answer = compare._drive(compare.Asked(TINY, (), {}, peers), peer_scalesim.job(array, gemm))
    found = peer_scalesim.read_reports(answer["reports"])
    assert found[TOTAL] - found[STALL] + 1 == by_hand == peer_scalesim.formula(array, gemm)
    assert sum(peer_scalesim.components(array, gemm, found).values()) == found[OVERALL] >= found[TOTAL]


@pytest.mark.parametrize("name", sorted(path.stem for path in DATA.glob("*.json")))
def test_what_was_recorded_is_what_they_say(peers: Peers, name: str) -> None:
    simulator, kind, flow = name.split("_")
    gemms = {"dense_os": Gemm(8, 16, 4), "dense_ws": Gemm(9, 20, 5), "sparse_os": Gemm(9, 20, 5, pattern=SPARSE)}
    array, gemm = compare.array_of(TINY, flow), gemms[f"{kind}_{flow}"]
    job = peer_scalesim.job(array, gemm) if simulator == "scalesim" else peer_zigzag.job(array, gemm, 512)
    before = json.loads((DATA / f"{name}.json").read_text(encoding="utf-8"))
    now = compare._drive(compare.Asked(TINY, (), {}, peers), job)
    assert {key: now[key] for key in before if key not in ("seconds", "peak_bytes")} == {
        key: value for key, value in before.items() if key not in ("seconds", "peak_bytes")
    }


@pytest.mark.usefixtures("peers")
@pytest.mark.rtl
def test_all_models_in_one_run(call: Call, tmp_path: Path) -> None:
    path = tmp_path / "two.csv"
    path.write_text("Layer, M, N, K, Sparsity,\ndense,8,4,16,1:1,\nsparse,24,16,64,2:8,\n", encoding="utf-8")
    for flow in ("os", "ws"):
        line = f"compare {path} --config tiny --dataflow {flow} --models rtl,exact,scalesim,zigzag --json"
        values = json.loads(call(line).out)
        assert values["unequal"] == []
        for layer in values["layers"]:
            assert layer["dataflow"] == flow
            for model in ("quick", "exact", "rtl", *PACKAGES):
                found = layer["results"][model]
                assert sum(found["components"].values()) == found["cycles"] > 0
                assert found["peak_bytes"] > 1 << 20 < found["peak_bytes"]
                assert found["components"]["multiply"] <= layer["macs"] // 16
            assert set(layer["results"]["scalesim"]["difference"]) == set(COMPONENTS)
