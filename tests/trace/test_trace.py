"""Register traces of the stepped gear: read back they are what the gear did, and what the Verilog does."""

from __future__ import annotations

import dataclasses
import re
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from vcd.reader import ScalarChange, VarDecl, VectorChange, tokenize

from nmsat.algorithms.core.nm import pack, prune
from nmsat.algorithms.core.tape import Pattern
from nmsat.dataflow.contract.config import SatConfig, preset
from nmsat.dataflow.contract.links import TOKEN, control
from nmsat.dataflow.mapping.choose import best_tiling
from nmsat.sim.array.fast import simulate_product
from nmsat.sim.array.head import Token
from nmsat.sim.array.row_port import RowControl
from nmsat.sim.array.stce import Stce
from nmsat.sim.array.stepped import run_stepped
from nmsat.sim.trace.signals import signals, widened
from nmsat.sim.trace.vcd import TOP, check_size, write_vcd
from tests.cases import operands
from tests.vcd_values import read_waves

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from nmsat.algorithms.core.packed import Packed
    from nmsat.dataflow.mapping.tiling import Tiling
    from nmsat.sim.array.stce import Trace
    from tests.conftest import Outcome

CONFIG = SatConfig(
    name="t", rows=2, columns=3, act_lanes=2, act_depth=256, weight_depth=256, sum_depth=64, column_slices=(2,)
)


def case(
    config: SatConfig, dataflow: str, shape: tuple[int, int, int] = (9, 20, 7)
) -> tuple[np.ndarray, Packed, Tiling]:
    """Return operands and tiling of a product at 2:8, with specials among the values."""
    m, k, n = shape
    tiling = best_tiling(config, m, k, n, Pattern(2, 8), dataflow)
    rng = np.random.default_rng(8)
    a, w = operands(rng, (m, k), 0.02), prune(operands(rng, (k, n), 0.02), 2, 8)
    return a, pack(w, tiling.mapping.n, tiling.mapping.m), tiling


class Watched(Stce):
    """Keeps the links of every cycle as numbers, read from the registers in another way than the trace does."""

    def __init__(self, config: SatConfig) -> None:
        super().__init__(config)
        self.acts: list[np.ndarray] = []
        self.totals: list[np.ndarray] = []
        self.controls: list[list[RowControl]] = []

    def _observe(self, trace: Trace) -> None:
        super()._observe(trace)
        out = self.elements.outputs()
        self.acts.append(out.act.copy())
        self.totals.append(out.total.copy())
        self.controls.append([row.ctl for row in self.rows])


@pytest.mark.parametrize("dataflow", ["os", "ws"])
def test_a_trace_read_back_is_what_the_stepped_gear_did(dataflow: str, tmp_path: Path) -> None:
    a, packed, tiling = case(CONFIG, dataflow)
    watched = Watched(CONFIG)
    y, trace = run_stepped(a, packed, tiling, engine=watched)
    traced, _ = write_vcd(tmp_path / "trace.vcd", a, packed, tiling)
    assert np.array_equal(y.view(np.uint32), traced.view(np.uint32))
    waves = read_waves(tmp_path / "trace.vcd", TOP)
    cycles = len(waves["clk"])
    assert cycles == max(column[-1] for column in trace.out_cycle) + 1
    for c in range(CONFIG.columns):
        found = [(t, v & 0xFFFFFFFF) for t, v in enumerate(waves[f"column_{c}.out"]) if v >> 32]
        assert found == list(zip(trace.out_cycle[c], trace.out_value[c], strict=True))
        assert [t for t, v in enumerate(waves["out_valid"]) if v >> c & 1] == trace.out_cycle[c]
    starts = [(t, bool(waves["token_compute"][t])) for t in range(cycles) if waves["token_valid"][t]]
    assert starts == trace.starts
    names = control(CONFIG).by_name
    for t in range(cycles):
        for r, row in enumerate(watched.controls[t]):
            assert [waves[f"row_{r}.port.ctl.{name}"][t] for name in names] == list(row)
            for c in range(CONFIG.columns):
                place = f"row_{r}.element_{c}"
                lanes = [int(x) for x in widened(watched.acts[t][r, c])]
                assert waves[f"{place}.act_o"][t] == lanes[0] | lanes[1] << 17
                assert waves[f"{place}.sum_o"][t] & 0xFFFFFFFF == int(watched.totals[t][r, c])


def test_pyvcd_reads_the_same(tmp_path: Path) -> None:
    path = tmp_path / "trace.vcd"
    write_vcd(path, *case(CONFIG, "os"))
    with path.open("rb") as file:
        tokens = list(tokenize(file))
    changes = [t.data for t in tokens if isinstance(t.data, ScalarChange | VectorChange)]
    declared = [t.data for t in tokens if isinstance(t.data, VarDecl)]
    waves = read_waves(path, TOP)
    assert len(declared) == len(waves)
    last = {change.id_code: change.value for change in changes}
    by_code = {var.id_code: var for var in declared}
    token = next(code for code, var in by_code.items() if var.reference == "out_valid")
    assert int(last[token]) == waves["out_valid"][-1]
    assert sum(change.id_code == token for change in changes) > 10


def test_widened_numbers_decode_to_what_they_were() -> None:
    every = np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float32)
    for weight, offset, special, width in ((False, 25, 63, 6), (True, 102, 127, 7)):
        word = widened(every, weight=weight)
        frac, code, sign = word & 1023, word >> 10 & (1 << width) - 1, word >> (10 + width)
        number = np.where(code == 0, 0.0, (1 + frac / 1024) * 2.0 ** (code - offset)) * np.where(sign, -1.0, 1.0)
        finite = np.isfinite(every)
        assert np.array_equal(number[finite], every[finite])
        assert set(code[~finite]) == {special}
        assert np.array_equal(frac[~finite] == 0, np.isinf(every[~finite]))


@pytest.mark.parametrize("config", [CONFIG, preset("tiny"), preset("small")], ids=lambda config: config.name)
def test_every_traced_signal_is_one_of_the_circuit_and_as_wide(config: SatConfig) -> None:
    from amaranth.hdl import Value

    from nmsat.hw.array.column_port import ColumnPort
    from nmsat.hw.array.head import Head
    from nmsat.hw.array.row_port import RowPort
    from nmsat.hw.array.stce import Stce as Circuit
    from nmsat.hw.array.uspe import Uspe

    row = RowPort(config)
    parts: dict[str, Any] = {"": Circuit(config), "head": Head(config), "row.port": row, "row.port.ctl": row.ctl}
    parts |= {"column": ColumnPort(config), "row.element": Uspe(config)}
    seen = {(re.sub(r"_\d+", "", scope), s.name): s.size for s in signals(config) for scope in s.scopes}
    assert seen == {(part, name): len(Value.cast(getattr(parts[part], name))) for part, name in seen}
    assert {part for part, _ in seen} == parts.keys()


def test_registers_of_the_model_have_the_fields_of_the_links() -> None:
    """The trace puts them into words by these names, and the controls of elements by this order."""
    assert RowControl._fields == tuple(control(CONFIG).by_name)
    decoded = {"valid": None, "n_less_1": "n", "log2_m_less_1": "m", "log2_a": "a"}
    names = [decoded.get(name, name) for name in TOKEN.by_name]
    assert [field.name for field in dataclasses.fields(Token)] == [name for name in names if name is not None]


def test_large_products_are_refused_in_words(call: Callable[[str], Outcome], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"register trace of .* at most 1048576; choose a smaller product"):
        check_size(best_tiling(preset("vcu1525"), 512, 512, 512, None))
    path = tmp_path / "t.vcd"
    outcome = call(f"gemm 512 512 512 --config vcu1525 --vcd {path}")
    assert (outcome.code, outcome.out, path.exists()) == (2, "", False)
    assert call(f"gemm 5 8 5 --vcd {path} --json").code == 0
    assert read_waves(path, TOP)["token_valid"].count(1) >= 2
    assert "it is a folder; name a file" in call(f"gemm 5 8 5 --vcd {tmp_path}").err


def window(word: int) -> int:
    """Return the bits of a window that mean something: none unless valid, no `base` unless it is taken."""
    at, places = 0, {}
    for name, width in TOKEN.widths().items():
        places[name] = ((1 << width) - 1) << at
        at += width
    if not word & places["valid"]:
        return 0
    return word if word & places["rebase"] else word & ~places["base"]


@pytest.mark.rtl
@pytest.mark.long
@pytest.mark.parametrize("dataflow", ["os", "ws"])
def test_every_traced_signal_is_that_of_the_verilog(dataflow: str, tmp_path: Path) -> None:
    from nmsat.hw.array.stce import Stce as Circuit
    from nmsat.hw.parts.verilog import emit
    from nmsat.tb.array.products import Job, _pack_job
    from nmsat.tb.run.runner import build, run

    a, packed, tiling = case(CONFIG, dataflow)
    write_vcd(tmp_path / "trace.vcd", a, packed, tiling)
    ours = read_waves(tmp_path / "trace.vcd", TOP)
    built = build(emit(Circuit(CONFIG), TOP), TOP, waves=True)
    job: dict[str, Any] = {f"{name}_0": value for name, value in _pack_job(Job(a, packed, tiling)).items()}
    run(built, "nmsat.tb.array.bench_stce", ["products"], job={"count": 1, **job}, directory=tmp_path / "rtl").check()
    theirs = read_waves(tmp_path / "rtl" / "dump.vcd", TOP, set(ours))
    assert simulate_product(tiling).cycles <= len(ours["clk"])
    shift = theirs["token_valid"].index(1) - ours["token_valid"].index(1)
    # Until what the links held before the first window has left the array, the two differ in what they hold.
    settled = CONFIG.rows + CONFIG.columns + len(CONFIG.column_slices) + 2
    for name, values in ours.items():
        if name in ("clk", "offered", "taken"):  # not of the circuit, or the clock itself
            continue
        seen = theirs[name][shift : shift + len(values)]
        assert len(seen) == len(values)
        if name == "token_compute":  # a window that is not there may look as it likes
            seen = [word & valid for word, valid in zip(seen, theirs["token_valid"][shift:], strict=False)]
        elif name.endswith(("token", "token_o")):
            seen = [window(word) for word in seen]
        differ = [t for t, (x, y) in enumerate(zip(values, seen, strict=True)) if t >= settled and x != y]
        assert differ == [], f"{name} first differs in cycle {differ[0]} of {len(values)}"
