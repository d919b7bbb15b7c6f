"""What functional coverage counts: bins by name, and which of them a run fills.

A bin is filled by an instruction that was carried out, as its word says, or by how a run ended, as the circuit's
registers say; never by what the generator of the program had in mind.
"""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING, Final

import numpy as np

from nmsat.dataflow.contract.codes import group_size, kept, rectangle_rows
from nmsat.dataflow.contract.config import INTERLEAVE
from nmsat.dataflow.contract.isa import HALVES, LANES, ActMode, Compute, ErrorCode, Opcode, Side
from nmsat.dataflow.contract.registers import QUEUE_NAMES, WAIT_CAUSES
from nmsat.sim.values import State, execute

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from numpy.typing import NDArray

    from nmsat.dataflow.contract.config import SatConfig
    from nmsat.dataflow.contract.isa import Instruction
    from nmsat.sim.sat import Report

PATTERNS: Final = ("dense", "1:2", "1:4", "1:8", "1:16", "2:4", "2:8", "2:16", "3:8", "4:8", "5:16", "8:16")
"""Patterns of COMPUTE; dense is every N = M."""

FLOWS: Final = ("os", "ws")
RECTANGLES: Final = (1, 2, 4, 8)
CLASSES: Final = ("zero", "subnormal", "normal", "infinite", "nan")
MEMORIES: Final = ("steady", "pausing")
"""The memory of the simulator, and one that pauses at random on every channel."""

_ILLEGAL: Final = "no machine takes it: a M is at most 16 per lane and N b at most 16, so that N is at most 4"
_UNUSED: Final = "the compiler adds binary16, and masks, to binary16 results only; the bench of the store engine has it"
_TAIL: Final = "the tail takes eight commands in flight, five at most come about; `tests/array/test_edges.py` fills it"

EXCLUDED: Final[dict[str, str]] = {
    "pattern x dataflow: 5:16 ws": _ILLEGAL,
    "pattern x dataflow: 8:16 ws": _ILLEGAL,
    "loads: stage wraps": "no program of `tiny` needs it; the bench of the loader has it",
    "epilogue: mask single": _UNUSED,
    "epilogue: mask single relu": _UNUSED,
    "epilogue: tile16 single": _UNUSED,
    "epilogue: tile16 single relu": _UNUSED,
    "operands: result subnormal": "sums of products of binary16 are multiples of 2^-48, so none but 0 is below 2^-126",
    "stalls: wait_tail steady": _TAIL,
    "stalls: wait_tail pausing": _TAIL,
    "ends: SEMAPHORE": "it takes 256 raises, more than a damaged program has instructions; the bench of the sequencer "
    "has it",
}
"""Bins that the crosses and lists below have, and that are not declared -> why. Every other bin of theirs is."""

_EMPTY_HALF: Final = 0x7D5A
_EMPTY_SINGLE: Final = 0x7FA5A5A5
"""NaN that stand in buffers before a run, and that no program makes."""


def _leftovers() -> Iterator[str]:
    sizes = ("whole", "leftover")
    for flow, what, size in product(FLOWS, ("rows", "columns"), sizes):
        yield f"{flow} {what} {size}"
    for mode, what, size in product(ActMode, ("k of a beat", "k of a group"), sizes):
        yield f"{mode.name.lower()} {what} {size}"
    for what, size in product(("rows", "columns"), sizes):
        yield f"update {what} {size}"


def _loads() -> Iterator[str]:
    for mode in ActMode:
        yield f"act {mode.name.lower()}"
    yield from ("act windowed", "act staged", "act staged beside", "act padding", "stage", "stage wraps")
    yield from ("wgt dense", "wgt packed", "wgt lane", "wgt pad", "wgt several blocks")


def _epilogues() -> Iterator[str]:
    for side, half, relu in product(Side, (0, 1), (0, 1)):
        yield _epilogue(side, half, relu)
    yield from ("watch", "beside", "lane", "walk")


def _stalls() -> Iterator[str]:
    for memory in MEMORIES:
        yield from (f"wait_{cause} {memory}" for cause in WAIT_CAUSES.values())
        yield from (f"{queue}_blocked {memory}" for queue in QUEUE_NAMES)


def _ends() -> Iterator[str]:
    yield from (code.name for code in ErrorCode)
    yield from (f"FIELD {opcode.name}" for opcode in Opcode)
    yield from ("special", "overflow")


def _all() -> dict[str, Iterable[str]]:
    """Return the bins of each group, those that are not declared among them."""
    return {
        "pattern x dataflow": (f"{pattern} {flow}" for pattern, flow in product(PATTERNS, FLOWS)),
        "dataflow x rectangle": (f"{flow} {a}x{INTERLEAVE // a}" for flow, a in product(FLOWS, RECTANGLES)),
        "operand x rectangle": (f"{k} {a}x{INTERLEAVE // a}" for k, a in product(("dense", "sparse"), RECTANGLES)),
        "leftovers": _leftovers(),
        "chains": (f"{flow} {what}" for flow, what in product(FLOWS, ("alone", "keep", "seed", "seed and keep"))),
        "loads": _loads(),
        "epilogue": _epilogues(),
        "update": (
            *("ff dense", "ff sparse", "bp none", "bp dense", "bp sparse"),
            *("mask", "no mask", "scaled", "unscaled"),
        ),
        "operands": (f"{what} {name}" for what, name in product(("activation", "weight", "result"), CLASSES)),
        "stalls": _stalls(),
        "ends": _ends(),
    }


def _epilogue(side: int, half: int, relu: int) -> str:
    return f"{Side(side).name.lower()} {'half' if half else 'single'}{' relu' if relu else ''}"


_ALL: Final = {f"{group}: {name}": group for group, names in _all().items() for name in names}

BINS: Final[dict[str, str]] = {name: group for name, group in _ALL.items() if name not in EXCLUDED}
"""Name of each declared bin -> its group."""

if not EXCLUDED.keys() <= _ALL.keys():
    raise ValueError(f"EXCLUDED has bins of no group: {sorted(EXCLUDED.keys() - _ALL.keys())!r}")

GROUPS: Final = tuple(dict.fromkeys(BINS.values()))
"""The groups, in order."""


class Counted:
    """Fills bins. counts: how many instructions or runs have filled each bin, the declared ones from 0."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = dict.fromkeys(BINS, 0)

    def add(self, group: str, names: Iterable[str]) -> None:
        """Fill the bins of these names, those that are declared; each counts once."""
        for name in set(names):
            key = f"{group}: {name}"
            if key in self.counts:
                self.counts[key] += 1

    def instruction(self, f: Instruction, config: SatConfig, state: State | None) -> None:
        """Count an instruction that has been carried out; state: after it, with values, None without them."""
        count = _OF.get(f.opcode)
        if count is not None:
            count(self, f, config)
        if state is not None and f.opcode in _VALUES:
            what, values = _VALUES[f.opcode](state)
            self.add("operands", (f"{what} {name}" for name in values))

    def end(self, report: Report, memory: str, word: int) -> None:
        """Count how a run ended; memory: of `MEMORIES`; word: the instruction of the error, 0 without."""
        waits = [f"wait_{cause}" for cause in WAIT_CAUSES.values()]
        seen = [name for name in (*waits, *(f"{queue}_blocked" for queue in QUEUE_NAMES)) if report.counters[name]]
        self.add("stalls", (f"{name} {memory}" for name in seen))
        ends = [report.error.name]
        if report.error is ErrorCode.FIELD:
            ends.append(f"FIELD {Opcode(word & 15).name}")
        self.add("ends", [*ends, *(flag for flag in ("special", "overflow") if getattr(report, flag))])


def fresh_state(config: SatConfig, regions: list[NDArray[np.uint8]]) -> State:
    """Return a machine's memory and buffers, where what nothing has written is told from what something has."""
    state = State(config, regions)
    state.act[:], state.value[:] = _EMPTY_HALF, _EMPTY_HALF
    state.capture.view(np.uint32)[:] = _EMPTY_SINGLE
    return state


def carry_out(counted: Counted | None, state: State) -> Callable[[Instruction], None]:
    """Return what carries out an instruction that is done, and counts it."""

    def done(instruction: Instruction) -> None:
        execute(instruction, state)
        if counted is not None:
            counted.instruction(instruction, state.config, state)

    return done


def _size(whole: bool) -> str:
    return "whole" if whole else "leftover"


def _compute(counted: Counted, f: Instruction, _: SatConfig) -> None:
    c = Compute.of(f)
    flow = FLOWS[c.ws]
    dense = c.n == c.m
    counted.add("pattern x dataflow", [f"{'dense' if dense else f'{c.n}:{c.m}'} {flow}"])
    counted.add("dataflow x rectangle", [f"{flow} {c.a}x{c.b}"])
    counted.add("operand x rectangle", [f"{'dense' if dense else 'sparse'} {c.a}x{c.b}"])
    counted.add("chains", [f"{flow} {' and '.join(name for name in ('seed', 'keep') if f[name]) or 'alone'}"])


def _load_act(counted: Counted, f: Instruction, _: SatConfig) -> None:
    mode = ActMode(f["mode"]).name.lower()
    outside = f["windowed"] and (f["ix0"] < 0 or f["iy0"] < 0 or f["ix_line"] < 0 or f["iy_image"] < 0)
    seen = {"windowed": f["windowed"], "staged": f["staged"] and not f["beside"], "padding": outside}
    seen["staged beside"] = f["staged"] and f["beside"]
    counted.add("loads", [f"act {mode}", *(f"act {name}" for name, holds in seen.items() if holds)])
    sizes = {"beat": HALVES, "group": group_size(f)}
    counted.add("leftovers", (f"{mode} k of a {what} {_size(f['k'] % size == 0)}" for what, size in sizes.items()))


def _stage(counted: Counted, f: Instruction, config: SatConfig) -> None:
    wraps = f["base"] + f["outer"] * f["inner"] > config.stage_depth
    counted.add("loads", ["stage", *(["stage wraps"] if wraps else [])])


def _load_wgt(counted: Counted, f: Instruction, _: SatConfig) -> None:
    seen = {"dense": f["dense"], "packed": not f["dense"], "lane": f["lane"], "pad": f["pad"]}
    seen["several blocks"] = f["blocks"] > 1
    counted.add("loads", (f"wgt {name}" for name, holds in seen.items() if holds))


def _store(counted: Counted, f: Instruction, config: SatConfig) -> None:
    a, flow = rectangle_rows(f), FLOWS[f["ws"]]
    counted.add("epilogue", [_epilogue(f["side"], f["to_half"], f["relu"])])
    seen = {name: f[name] for name in ("watch", "beside", "lane")} | {"walk": f["width"]}
    counted.add("epilogue", (name for name, holds in seen.items() if holds))
    rows, columns = f["rows"] % (a * config.rows) == 0, f["columns"] == INTERLEAVE // a * config.columns
    counted.add("leftovers", [f"{flow} rows {_size(rows)}", f"{flow} columns {_size(columns)}"])


def _update(counted: Counted, f: Instruction, _: SatConfig) -> None:
    dense = {prefix: kept(f, f"{prefix}_") == group_size(f, f"{prefix}_") for prefix in ("ff", "bp")}
    names = [f"ff {'dense' if dense['ff'] else 'sparse'}", "mask" if f["use_mask"] else "no mask"]
    names.append(f"bp {('dense' if dense['bp'] else 'sparse') if f['use_bp'] else 'none'}")
    counted.add("update", [*names, "scaled" if f["shift"] else "unscaled"])
    counted.add("leftovers", [f"update rows {_size(f['k'] % group_size(f, 'ff_') == 0)}"])
    counted.add("leftovers", [f"update columns {_size(f['n'] % LANES == 0)}"])


_OF: Final[dict[Opcode, Callable[[Counted, Instruction, SatConfig], None]]] = {
    Opcode.COMPUTE: _compute,
    Opcode.LOAD_ACT: _load_act,
    Opcode.STAGE: _stage,
    Opcode.LOAD_WGT: _load_wgt,
    Opcode.STORE: _store,
    Opcode.UPDATE: _update,
}


def _classes(bits: NDArray[np.unsignedinteger], empty: int, mantissa: int) -> list[str]:
    """Return the classes among numbers that are not `empty`; mantissa: its bits."""
    found = np.unique(bits[bits != empty])
    top = (1 << (found.dtype.itemsize * 8 - 1 - mantissa)) - 1
    exponent, rest = found >> mantissa & top, found & ((1 << mantissa) - 1)
    holds = {
        "zero": (exponent == 0) & (rest == 0),
        "subnormal": (exponent == 0) & (rest != 0),
        "normal": (exponent != 0) & (exponent != top),
        "infinite": (exponent == top) & (rest == 0),
        "nan": (exponent == top) & (rest != 0),
    }
    return [name for name, where in holds.items() if where.any()]


_VALUES: Final[dict[Opcode, Callable[[State], tuple[str, list[str]]]]] = {
    Opcode.LOAD_ACT: lambda state: ("activation", _classes(state.act, _EMPTY_HALF, 10)),
    Opcode.LOAD_WGT: lambda state: ("weight", _classes(state.value[~state.filler], _EMPTY_HALF, 10)),
    Opcode.STORE: lambda state: ("result", _classes(state.capture.view(np.uint32), _EMPTY_SINGLE, 23)),
}
