"""The configuration of a training run, also as a TOML file."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from nmsat.algorithms.core.arithmetic import arithmetic
from nmsat.algorithms.core.ranges import MAX_SHIFT, check_flag, check_number, check_whole
from nmsat.algorithms.core.schema import checked, limits, load_toml, toml_value
from nmsat.algorithms.core.tape import Pattern
from nmsat.algorithms.core.vocabulary import MAX_DECAY, PAPER_NETWORKS, trained_network
from nmsat.algorithms.methods import make_method
from nmsat.algorithms.methods.patterns import parse_patterns
from nmsat.algorithms.training.named_data import check_data

if TYPE_CHECKING:
    from collections.abc import Mapping

    from msgspec import Struct

    from nmsat.algorithms.methods import Method


WHOLE_RANGES: Final = (
    ("seed", 0, (1 << 63) - 1),
    ("epochs", 1, 1 << 24),
    ("batch", 1, 1 << 24),
    ("shift", 0, MAX_SHIFT),
)
"""Name, least and largest value of each whole number of a run."""

NUMBER_RANGES: Final = (
    ("lr", 0, 1000),
    ("warmup", 0, 1 << 24),
    ("momentum", 0, 1),
    ("weight_decay", 0, 1000),
    ("decay", 0, MAX_DECAY),
    ("dense_epochs", 0, 1 << 24),
)
"""The same of the other numbers; `lr` is above its least value, and `decay` may be None."""

TOML_KINDS: Final = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}
"""Types of fields, in the words of TOML."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """One run. Two runs with equal configurations give equal bits on the same machine.

    network: one of `algorithms.core.vocabulary.TRAINED_NETWORKS`, which also names the data set, or of the paper's
    five, which need `data`; method: one of
    `algorithms.core.vocabulary.METHODS`; pattern: 'N:M', ignored by 'dense'; arithmetic: 'contract' or 'fast';
    batch: samples per step, an epoch drops what does not fill one; optimizer: 'sgd' or 'adam'; lr: peak learning rate,
    reached after `warmup` epochs, then falling to 0 along a cosine; momentum: of sgd; decay: lambda of the SR-STE term,
    None for the method's own; shift: the loss scale is 2^shift, lowered and raised during the run if `dynamic_shift`.
    split: 'test' trains on all training samples and evaluates on the test split; 'validation' keeps a fifth of the
    training samples out, evaluates on them and leaves the test split alone (recipes are chosen so).
    dense_epochs: epochs (from the start) trained dense before the method takes over; prune_from: 'copy' compares the
    binary16 copies of the weights, 'master' the binary32 masters (outside SAT's contract); sparse_ends: prune the first
    layer and the classifier too; patterns: N:M of single layers, and of FF and BP (`algorithms.methods.patterns`; for
    the methods that prune weights by magnitude alone), '' for that of the run everywhere; data: '' for the network's
    own, or a name that says what else it learns from (`algorithms.training.named_data`).
    Raises TypeError or ValueError for a value of the wrong kind or out of range (docs/limits.md).
    """

    network: str = "digits-cnn"
    method: str = "bdwp"
    pattern: str = "2:8"
    arithmetic: str = "contract"
    seed: int = 0
    epochs: int = 8
    batch: int = 32
    optimizer: str = "sgd"
    lr: float = 0.05
    warmup: float = 1.0
    momentum: float = 0.9
    weight_decay: float = 5e-4
    decay: float | None = None
    shift: int = 10
    dynamic_shift: bool = False
    dense_epochs: float = 0.0
    prune_from: str = "copy"
    sparse_ends: bool = False
    split: str = "test"
    patterns: str = ""
    data: str = ""

    def __post_init__(self) -> None:
        for name, low, high in WHOLE_RANGES:
            check_whole(name, getattr(self, name), low, high)
        for name, low, high in NUMBER_RANGES:
            if name != "decay" or self.decay is not None:
                check_number(name, getattr(self, name), low, high, above=name == "lr")
        for name in ("dynamic_shift", "sparse_ends"):
            check_flag(name, getattr(self, name))
        choices = {"optimizer": ("sgd", "adam"), "prune_from": ("copy", "master"), "split": ("test", "validation")}
        if not self.data or self.network not in PAPER_NETWORKS:
            trained_network(self.network)
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise ValueError(f"{name} is {getattr(self, name)!r}; it must be one of {', '.join(known)}")
        if self.data:
            check_data(self.data, self.network)
        arithmetic(self.arithmetic)
        self.make_method()

    def make_method(self) -> Method:
        """Return a fresh method object; ValueError if the method or its pattern is unknown."""
        pattern = None if self.method == "dense" else Pattern.parse(self.pattern)
        own = parse_patterns(self.patterns)
        return make_method(self.method, pattern, self.decay, from_master=self.prune_from == "master", own=own)

    def replace(self, **changes: object) -> TrainConfig:
        """Return a copy with the given fields changed, checked again."""
        return dataclasses.replace(self, **changes)  # type: ignore[arg-type] # fields differ in type, the copy checks

    def as_dict(self) -> dict[str, object]:
        """Return all fields, as JSON can hold them."""
        return dataclasses.asdict(self)


DEMO: Final = TrainConfig(epochs=10, lr=0.04, warmup=2.0)
"""The runs of `nmsat demo`: digits in contract arithmetic; the dense one is DEMO.replace(method='dense')."""


def parse_fields(text: str, where: object = "configuration") -> dict[str, object]:
    """Read a TOML document of `TrainConfig` fields, held to their schema; what fits together is for `TrainConfig`.

    where: what the text is, a file for example. Raises ValueError for malformed TOML, FieldError, which is one, for
    unknown keys and values out of range, FieldKindError, which is a TypeError too, for values of the wrong kind.
    """
    values = load_toml(text, where)
    made = checked(values, run_schema(), _refused)
    return {name: getattr(made, name) for name in values}


def parse_config(found: Mapping[str, Any]) -> TrainConfig:
    """Return the configuration that `TrainConfig.as_dict` gave, read from JSON; fields of later versions may lack.

    FieldError, or ValueError where fields do not fit together, for what no run can have been made with.
    """
    given = {name: value for name, value in found.items() if name != "decay" or value is not None}
    made = checked(given, run_schema(), _refused)
    try:
        return TrainConfig(**{name: getattr(made, name) for name in given})
    except TypeError as error:
        raise ValueError(str(error)) from None


@cache
def run_schema() -> type[Struct]:
    """Return what a file of a run may hold: kinds of `TrainConfig`, limits of `WHOLE_RANGES` and `NUMBER_RANGES`."""
    from msgspec import defstruct

    kinds: dict[str, Any] = {name: limits(low, high, whole=True) for name, low, high in WHOLE_RANGES}
    kinds |= {name: limits(low, high, whole=False, above=name == "lr") for name, low, high in NUMBER_RANGES}
    names = [field.name for field in dataclasses.fields(TrainConfig)]
    # Every field may be left out: None is never asked for.
    fields = [(name, kinds.get(name, field_kind(name)), None) for name in names]
    return defstruct("Run", fields, kw_only=True, forbid_unknown_fields=True)


def _refused(name: str, value: object) -> str:
    """Return in one line why a value of a file is refused: out of range, as `TrainConfig` words it, or no value."""
    try:
        kind = field_kind(name)
        if type(value) is kind or (kind is float and type(value) is int):
            DEMO.replace(**{name: value})
    except ValueError as error:
        return str(error)
    return f"{name} is {toml_value(value)}; it must be {TOML_KINDS[kind]}"


@cache
def field_kind(key: str) -> type:
    """Return the type of a field's values; ValueError if there is no such field."""
    kinds = {field.name: type(getattr(DEMO, field.name)) for field in dataclasses.fields(TrainConfig)}
    kinds["decay"] = float
    if key not in kinds:
        raise ValueError(f"configuration key is {key!r}; known keys: {', '.join(kinds)}")
    return kinds[key]
