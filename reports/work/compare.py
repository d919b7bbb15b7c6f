"""The work behind `nmsat compare`: the same layers through several models, and where their cycles differ.

Every cycle of a model is one of `compare_names.COMPONENTS`, told from its counters, so that the difference of two
models is the sum of the differences of their components.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from nmsat.dataflow.contract.memories import buffers
from nmsat.dataflow.cycles.memory import memory_timing
from nmsat.reports.work import compare_gears, peer_scalesim, peer_zigzag
from nmsat.reports.work.compare_names import COMPONENTS, GEARS, PACKAGES, REFERENCE, SMALL
from nmsat.reports.work.peer_env import DRIVER, SETUP, last_words
from nmsat.reports.work.peer_scalesim import Array, ReportError
from nmsat.sim.results.causes import machine_causes

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from nmsat.dataflow.contract.config import SatConfig
    from nmsat.reports.work.compare_layers import Gemm, Layer
    from nmsat.reports.work.peer_env import Peers

_CAUSES: Final = {
    "feed": ("link", "weight"),
    "fill and drain": ("flush", "drain", "dependency", "tail"),
    "memory": ("operand", "idle"),
    "update": ("update",),
}
"""Component -> causes of the machine (`sim.results.causes`); `steps` are multiply and edges."""

NOT_SET_UP: Final = f"not set up: {SETUP}"

_PATIENCE: Final = 3600
"""Seconds after which a foreign simulator is given up."""


@dataclass(frozen=True)
class Found:
    """What a model says of a layer. components: cycles by `COMPONENTS`, which add up to cycles; seconds: of processor
    time, the start of the process and imports apart; peak_bytes: most memory of the process; read, written: bytes
    between memory and chip, None if it does not tell; counters: of the machine; shown: dataflow and cut."""

    cycles: int
    components: dict[str, int]
    seconds: float
    peak_bytes: int
    read: int | None = None
    written: int | None = None
    counters: dict[str, int] = field(default_factory=dict)
    schedule: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class LeftOut:
    """Why a model says nothing of a layer."""

    why: str


@dataclass(frozen=True)
class Compared:
    """A layer and what each model says of it. dataflow: 'os', 'ws', or '' for an update."""

    layer: Layer
    dataflow: str
    results: dict[str, Found | LeftOut]

    def found(self, model: str) -> Found | None:
        """Return what a model says, None if it says nothing."""
        found = self.results.get(model)
        return found if isinstance(found, Found) else None

    @property
    def unequal(self) -> list[str]:
        """Return the gears whose counters are not those of the quick gear: none, or a fault of ours."""
        known = self.found(REFERENCE)
        others = [(gear, found) for gear in GEARS if (found := self.found(gear)) is not None]
        return [gear for gear, found in others if known is not None and found.counters != known.counters]


@dataclass(frozen=True)
class Asked:
    """What is to be done. models: of `compare_names.MODELS`, in that order; limits: as `LIMITS` there; forced: models
    whose failure is an error; peers: their environment, None if there is none."""

    config: SatConfig
    models: tuple[str, ...]
    limits: Mapping[str, int]
    peers: Peers | None = None
    forced: frozenset[str] = frozenset()


class PeerError(RuntimeError):
    """A foreign simulator failed; the text is one line."""


def compare_layer(asked: Asked, layer: Layer) -> Compared:
    """Run one layer through all models that were asked for.

    Raises PeerError for a failure of a model that was named; ValueError for a product without a program.
    """
    first = _gear(asked, layer, REFERENCE)
    dataflow = str(first.schedule.get("dataflow", ""))
    results: dict[str, Found | LeftOut] = {REFERENCE: first}
    for model in asked.models:
        if model == REFERENCE:
            continue
        if why := reason(asked, layer, model, first.cycles, dataflow):
            results[model] = LeftOut(why)
        elif model in GEARS:
            results[model] = _gear(asked, layer, model)
        else:
            try:
                results[model] = _peer(asked, layer, model, dataflow)
            except (PeerError, ReportError) as error:
                if model in asked.forced:
                    raise PeerError(f"{PACKAGES[model]}, {layer.label}: {error}") from None
                results[model] = LeftOut(str(error))
    return Compared(layer, dataflow, results)


def reason(asked: Asked, layer: Layer, model: str, cycles: int, dataflow: str) -> str:
    """Return why a layer is not given to a model, '' if it is. cycles: of the quick gear."""
    limit = asked.limits[model]
    if model in PACKAGES:
        if asked.peers is None:
            return NOT_SET_UP
        if not layer.gemms:
            return "has no weight update"
        array = array_of(asked.config, dataflow)
        cycles = sum(peer_scalesim.formula(array, gemm) for gemm in layer.gemms) if model == peer_scalesim.NAME else 0
    if model == "rtl" and not limit:
        return f"not asked for (--limit rtl=N); an array of more than {SMALL} elements takes long to compile"
    if cycles > limit:
        return f"longer than the limit, {limit} cycles (--limit {model}=N)"
    # Last, as it chooses a cut.
    several = model == "rtl" and compare_gears.one_program(asked.config, layer.job) is None
    return "more than one program" if several else ""


def array_of(config: SatConfig, dataflow: str) -> Array:
    """Return a machine as foreign simulators can have it."""
    held = buffers(config)
    acts, weights, sums = (held[name].memories * held[name].entries for name in ("activations", "weights", "sums"))
    words = max(1, port_bytes(config) // 2)
    return Array(config.rows, config.columns, dataflow, words, (acts * config.act_lanes, weights, sums))


def port_bytes(config: SatConfig) -> int:
    """Return the whole bytes that all ports of a machine move in a cycle, a channel of memory behind each."""
    timing = memory_timing(config)
    return int(timing.bytes_per_cycle / timing.channels * config.ports)


def machine_components(counters: Mapping[str, int], macs: int, elements: int, *, update: bool) -> dict[str, int]:
    """Return cycles by `COMPONENTS` from the machine's counters; they add up to its cycles."""
    causes = machine_causes(counters, update=update)
    multiply = macs // elements
    out = {"multiply": multiply, "edges": causes["steps"] - multiply}
    return out | {name: sum(causes[cause] for cause in which) for name, which in _CAUSES.items()}


def differences(row: Compared, model: str) -> dict[str, int] | None:
    """Return cycles of a model less those of the machine, by component; None where one of them says nothing."""
    ours, theirs = row.found(REFERENCE), row.found(model)
    if ours is None or theirs is None:
        return None
    return {name: theirs.components[name] - ours.components[name] for name in COMPONENTS}


def total(rows: Iterable[Compared], model: str) -> dict[str, int]:
    """Return cycles by component of all rows of which a model says something, each as often as the step has it."""
    out: Counter[str] = Counter(dict.fromkeys(COMPONENTS, 0))
    for row in rows:
        if (found := row.found(model)) is not None:
            out.update({name: row.layer.times * cycles for name, cycles in found.components.items()})
    return dict(out)


def _gear(asked: Asked, layer: Layer, model: str) -> Found:
    config = asked.config
    found = compare_gears.measure(model, config, layer.job)
    parts = machine_components(found.counters, layer.macs, config.elements, update=not layer.gemms)
    read, written = (64 * found.counters[f"{way}_beats"] for way in ("read", "write"))
    return Found(
        found.counters["cycles"],
        parts,
        found.seconds,
        found.peak_bytes,
        read,
        written,
        found.counters,
        found.schedule,
    )


def _peer(asked: Asked, layer: Layer, model: str, dataflow: str) -> Found:
    """Run all products of a layer in a foreign simulator, equal ones once."""
    if asked.peers is None:
        raise PeerError(NOT_SET_UP)
    array, one = array_of(asked.config, dataflow), _scalesim if model == peer_scalesim.NAME else _zigzag
    parts: Counter[str] = Counter()
    moved = [0, 0]
    seconds, peak = 0.0, 0
    for gemm in layer.gemms:
        found = one(asked, array, gemm)
        parts.update({name: gemm.count * cycles for name, cycles in found.components.items()})
        moved = [have + gemm.count * (more or 0) for have, more in zip(moved, (found.read, found.written), strict=True)]
        seconds, peak = seconds + found.seconds, max(peak, found.peak_bytes)
    read, written = moved if model == peer_scalesim.NAME else (None, None)
    components = {name: parts[name] for name in COMPONENTS}
    return Found(sum(parts.values()), components, seconds, peak, read, written)


def _scalesim(asked: Asked, array: Array, gemm: Gemm) -> Found:
    answer = _drive(asked, peer_scalesim.job(array, gemm))
    found = peer_scalesim.read_reports(answer["reports"])
    peer_scalesim.check(array, gemm, found)
    read, written = (peer_scalesim.moved(found, columns) for columns in (peer_scalesim.READS, peer_scalesim.WRITES))
    parts = peer_scalesim.components(array, gemm, found)
    return Found(found[peer_scalesim.OVERALL], parts, answer["seconds"], answer["peak_bytes"], read, written)


def _zigzag(asked: Asked, array: Array, gemm: Gemm) -> Found:
    answer = _drive(asked, peer_zigzag.job(array, gemm, 8 * port_bytes(asked.config)))
    parts = peer_zigzag.components(array, gemm, peer_zigzag.read_found(answer))
    return Found(sum(parts.values()), parts, answer["seconds"], answer["peak_bytes"])


def _drive(asked: Asked, job: dict[str, Any]) -> dict[str, Any]:
    """Return what the driver answers; PeerError in one line for whatever goes wrong there."""
    assert asked.peers is not None
    command: Sequence[str] = [str(asked.peers.python), "-I", str(DRIVER)]
    again = f"{SETUP} looks whether it works"
    with tempfile.TemporaryFile("w+", errors="replace") as said, tempfile.TemporaryFile("w+") as answer:
        try:
            done = subprocess.run(
                command, input=json.dumps(job), stdout=answer, stderr=said, text=True, check=False, timeout=_PATIENCE
            )
        except subprocess.TimeoutExpired:
            raise PeerError(f"no answer after {_PATIENCE} s") from None
        except OSError as error:
            raise PeerError(f"it cannot be started: {error.strerror or error}; {again}") from None
        said.seek(0)
        answer.seek(0)
        try:
            found = json.loads(answer.read()) if done.returncode == 0 else None
        except ValueError:
            found = None
        if not isinstance(found, dict) or not {"seconds", "peak_bytes"} <= found.keys():
            raise PeerError(f"it failed: {last_words(said.read()) or f'exit code {done.returncode}'}; {again}")
        return found
