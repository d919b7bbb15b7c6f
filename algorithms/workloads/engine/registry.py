"""Which methods exist: each module of this package that calls `register` is a workload."""

from __future__ import annotations

import pkgutil
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

from threadpoolctl import threadpool_limits

from nmsat.algorithms.workloads.engine.entry import entry
from nmsat.algorithms.workloads.engine.program import Program

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from nmsat.algorithms.workloads.engine.parameters import Parameter

Scale: TypeAlias = Literal["small", "paper"]
Variant: TypeAlias = Literal["faithful", "nm"]

SCALES: Final[tuple[Scale, ...]] = ("small", "paper")
VARIANTS: Final[tuple[Variant, ...]] = ("faithful", "nm")


@dataclass(frozen=True)
class Study:
    """What a method did on a small real problem.

    claim: what the paper claims, in kind, or of a document which known answers its protocol must find; holds: whether
    it did here; measured: the numbers behind that; store: the parameters at the end, with which the program is then
    recorded.
    """

    claim: str
    holds: bool
    measured: dict[str, float | int | str]
    store: dict[str, Parameter] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # Comparisons of NumPy's numbers give its own bool, which is neither True nor JSON.
        object.__setattr__(self, "holds", bool(self.holds))


@dataclass(frozen=True, kw_only=True)
class Document:
    """A survey, benchmark or data set: it says what is computed and measured, and makes nothing sparse.

    protocol: what is run, in which order; models: whose shapes it takes; metrics: what is measured.
    """

    kind: Literal["survey", "benchmark", "data set"]
    protocol: str
    models: str
    metrics: str


@dataclass(frozen=True, kw_only=True)
class Workload:
    """One published method, or a document whose models run dense and in an N:M form of ours.

    name, title, source: short name, full name, citation; sparse: what is sparse; variants: what 'faithful' and 'nm'
    (ours) mean; quoted: headline figure of the paper, as a reference and not as ours; sizes: by scale; run: the
    program, run(program, size, variant); study: the small experiment; document: what is said of a document instead of
    a claim, None for a method; sat_share: bounds of the share of the multiply-adds at paper scale that runs on SAT
    (above the first, at most the second): a solver whose work stays with the host says so here; about: the docstring of
    its module, whose labels `engine.entry` reads (None where Python was told to drop docstrings). Raises ValueError for
    bounds that are not 0 <= low < high <= 1.
    """

    name: str
    title: str
    source: str
    sparse: str
    variants: Mapping[Variant, str]
    quoted: str
    sizes: Mapping[Scale, Any]
    run: Callable[[Program, Any, Variant], None]
    study: Callable[[Variant], Study]
    about: str | None
    document: Document | None = None
    sat_share: tuple[float, float] = (0.5, 1.0)

    def __post_init__(self) -> None:
        low, high = self.sat_share
        if not 0 <= low < high <= 1:
            raise ValueError(f"sat_share of {self.name!r} is {self.sat_share!r}; it must be 0 <= low < high <= 1")

    @property
    def kind(self) -> str:
        """'method', or what kind of document."""
        return "method" if self.document is None else self.document.kind

    def solved(self, variant: Variant) -> Study:
        """Run the study on one thread: its sums then do not depend on the cores of the machine."""
        with threadpool_limits(1):
            return self.study(variant)


_KNOWN: dict[str, Workload] = {}


def register(workload: Workload) -> Workload:
    """Add a workload; ValueError if the name is taken, a document's N:M form is not said to be ours, or its docstring
    lacks a label."""
    if workload.name in _KNOWN:
        raise ValueError(f"workload {workload.name!r} is registered twice; names must differ")
    meaning = workload.variants["nm"]
    if workload.document is not None and not meaning.startswith("ours"):
        raise ValueError(f"variant nm of {workload.name!r} means {meaning!r}; a document has none, begin with 'ours'")
    if workload.about is not None:
        entry(workload.name, workload.about)
    _KNOWN[workload.name] = workload
    return workload


def workloads() -> dict[str, Workload]:
    """Return all workloads by name, in the order of their names.

    Raises ImportError, which names the file and what is wrong, for a module that cannot be read or whose workload is
    refused (a docstring that lacks a label, a name that is taken); nothing of such a module stays registered.
    """
    package = import_module("nmsat.algorithms.workloads.methods")
    for module in pkgutil.iter_modules(package.__path__):
        name, before = f"{package.__name__}.{module.name}", dict(_KNOWN)
        try:
            import_module(name)
        except Exception as error:  # whatever is wrong with it, it is the file's
            _KNOWN.clear()
            _KNOWN.update(before)
            spec = find_spec(name)
            path = module.name if spec is None else str(spec.origin)
            what = f"{path} is no workload: {type(error).__name__}: {error}"
            raise ImportError(" ".join(what.split()), name=name, path=path) from error
    return dict(sorted(_KNOWN.items()))


def workload(name: str) -> Workload:
    """Return the workload called `name`; ValueError lists the known ones."""
    known = workloads()
    if name not in known:
        raise ValueError(f"workload is {name!r}; known workloads: {', '.join(known)}")
    return known[name]


def check_request(scale: str, variant: str) -> None:
    """Raise ValueError for an unknown scale or variant."""
    for what, value, known in (("scale", scale, SCALES), ("variant", variant, VARIANTS)):
        if value not in known:
            raise ValueError(f"{what} is {value!r}; it must be one of {', '.join(known)}")


def record(
    name: str,
    scale: Scale,
    variant: Variant,
    *,
    values: bool | None = None,
    store: dict[str, Parameter] | None = None,
    profile: dict[str, object] | None = None,
) -> Program:
    """Run the program of a workload once and return it; its tape holds what it did.

    values: with values under the contract, recorded on the tape, or with shapes alone (by default: with values at the
    scale 'small'); store: parameters to begin with; profile: statistics for a run of shapes. Raises ValueError for an
    unknown name, scale or variant, or values at the scale 'paper'.
    """
    found = workload(name)
    check_request(scale, variant)
    values = scale == "small" if values is None else values
    if values and scale == "paper":
        raise ValueError("values is True at scale 'paper'; the tensors of the paper are not allocated, use 'small'")
    program = Program(values=values, exact=values, store={} if store is None else store, profile=profile or {})
    program.tape.values = values
    found.run(program, found.sizes[scale], variant)
    return program
