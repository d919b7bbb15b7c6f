"""Every component of hw names its ports in its docstring, a line each, as its signature has them.

A line is `name : In(width), meaning.` or `name : Out(width) each, meaning.` for an array of ports; what does not fit
goes on below, further in. Widths are expressions over the arguments of the component, the fields of its configuration,
R, C, the names of its module and those below `hw`: a number of bits, a shape, a signature, or `stream of` a shape.
"""

from __future__ import annotations

import gc
import inspect
import pkgutil
import re
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

import pytest
from amaranth._unused import MustUse
from amaranth.hdl import Shape
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

import nmsat.hw
from nmsat.dataflow.contract.config import SatConfig, preset
from nmsat.hw.load.ask import beat_layout
from nmsat.hw.parts.clients import burst_layout

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

CONFIGS: Final = ("tiny", "vcu1525")
"""Unlike in rows, columns, lanes and all depths, so that no width is right by accident."""

ARGUMENTS: Final[dict[str, Any]] = {
    "beat": beat_layout(),
    "burst": burst_layout(),
    "clients": 3,
    "columns": 5,
    "count": 3,
    "depth": 4,
    "fields": {},
    "lanes": 4,
    "masters": 2,
    "parts": 2,
    "latency": 5,
    "ports": {},
    "room": 12,
    "shape": 23,
    "stages": 4,
    "width": 2,
    "write": True,
}
"""Arguments without which a component cannot be made, by name; `config` is that of the test."""

_WIDTH: Final = r"(?:[^()]|\((?:[^()]|\([^()]*\))*\))*"  # with parentheses two deep
_LINE: Final = re.compile(rf"(?P<name>\w+) : (?P<flow>In|Out)\((?P<width>{_WIDTH})\)(?P<each> each)?, \S.+")
_SECTION: Final = re.compile(r"^Members\b[^\n]*:\n\n(?P<lines>.+?)(?:\n\n|\Z)", re.MULTILINE | re.DOTALL)
_SAME: Final = re.compile(r"^Members: those of `hw\.([\w.]+)\.(\w+)`", re.MULTILINE)


@dataclass(frozen=True)
class Line:
    """What a docstring says of a port; value: of its width, None where a class further down chooses it."""

    flow: str
    width: str
    each: bool
    value: Any


def documented(kind: type) -> list[type]:
    """Return the class and those above it that are of this project."""
    return [found for found in reversed(kind.__mro__) if found.__module__.startswith((nmsat.hw.__name__, __name__))]


def components() -> list[type[wiring.Component | wiring.Signature]]:
    """Return every component and every signature that hw defines."""
    found = []
    for info in pkgutil.walk_packages(nmsat.hw.__path__, f"{nmsat.hw.__name__}."):
        kinds = vars(import_module(info.name)).values()
        found += [kind for kind in kinds if isinstance(kind, type) and kind.__module__ == info.name]
    return [kind for kind in found if issubclass(kind, (wiring.Component, wiring.Signature))]


def arguments(kind: type, config: SatConfig) -> dict[str, Any]:
    """Return the arguments to make a component with, those that it sets itself among them."""
    values = {"config": config, **ARGUMENTS}
    parameters = inspect.signature(kind).parameters.values()
    return {p.name: values[p.name] if p.default is p.empty else p.default for p in parameters}


def lines_of(kind: type, config: SatConfig) -> dict[str, Line]:
    """Return name -> line of the docstrings of a class and of those above it."""
    found: dict[str, Line] = {}
    for part in documented(kind):
        text = inspect.cleandoc(part.__doc__ or "")
        if same := _SAME.search(text):
            found |= lines_of(getattr(import_module(f"nmsat.hw.{same[1]}"), same[2]), config)
            continue
        section = _SECTION.search(text)
        if section is None:
            raise AssertionError(f"{part.__name__} has no section Members")
        own = arguments(part, config)
        sizes = {**vars(config), "R": config.rows, "C": config.columns}
        names = {"hw": nmsat.hw, **vars(import_module(part.__module__)), **sizes, **own}
        for entry in re.sub(r"\n +", " ", section["lines"]).splitlines():
            line = _LINE.fullmatch(entry)
            if line is None or line["name"] in found:
                raise AssertionError(f"{part.__name__}: {entry!r} is not a new port with direction, width and meaning")
            chosen_below = part is not kind and bool(own.keys() & set(re.findall(r"\w+", line["width"])))
            value = None if chosen_below else width_of(line["width"], names)
            found[line["name"]] = Line(line["flow"], line["width"], line["each"] is not None, value)
    return found


def width_of(text: str, names: Mapping[str, Any]) -> Any:
    """Return the value of a width; a layout without arguments stands for what it gives."""
    value = eval(text.replace("`", "").removeprefix("stream of "), dict(names))
    return value() if inspect.isfunction(value) else value


def fits(member: wiring.Member, line: Line) -> bool:
    """Return whether a port has the direction and the width that its line gives."""
    if member.flow.name != line.flow or bool(member.dimensions) != line.each:
        return False
    if line.value is None:
        return True
    if isinstance(line.value, type):
        return member.is_signature and type(_seen_from_out(member)) is line.value
    if line.width.startswith("stream of "):
        signature = _seen_from_out(member) if member.is_signature else None
        return isinstance(signature, stream.Signature) and _bits(signature.members["payload"].shape) == _bits(
            line.value
        )
    return member.is_port and _bits(member.shape) == _bits(line.value)


def _seen_from_out(member: wiring.Member) -> Any:
    """Return the signature as it was written: that of an In is kept the other way round."""
    return member.signature if member.flow is Out else member.signature.flip()


def _bits(shape: Any) -> int:
    return Shape.cast(shape).width


def problems(kind: type, config: SatConfig) -> list[str]:
    """Return what the docstring of a class says wrongly, or not at all, of its ports."""
    lines = lines_of(kind, config)
    made = kind(**arguments(kind, config))
    members: Mapping[str, wiring.Member] = (made if isinstance(made, wiring.Signature) else made.signature).members
    found = [f"{name} has no line" for name in members if name not in lines]
    found += [f"{name} is no port" for name in lines if name not in members]
    wrong = [name for name, member in members.items() if name in lines and not fits(member, lines[name])]
    return found + [f"{name} is {members[name]!r}, not {lines[name].flow}({lines[name].width})" for name in wrong]


@pytest.fixture(autouse=True, scope="module")
def unused() -> Iterator[None]:
    """Let components be made and not elaborated; Amaranth tells of them when they are removed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MustUse, "_MustUse__silence", True)
        yield
        gc.collect()


@pytest.mark.parametrize("kind", components())
def test_every_port_has_its_line(kind: type) -> None:
    assert [problems(kind, preset(config)) for config in CONFIGS] == [[], []]


@pytest.mark.parametrize("kind", [kind for kind in components() if issubclass(kind, wiring.Component)])
def test_every_component_says_when(kind: type) -> None:
    assert any("Timing:" in (part.__doc__ or "") for part in documented(kind))


class Right(wiring.Component):
    """Members:

    a : In(1), begin; whoever asks
        may ask again.
    b : Out(2 * lanes), answers.
    c : In(stream of `burst_layout`), bursts.
    """

    def __init__(self, lanes: int) -> None:
        super().__init__({"a": In(1), "b": Out(2 * lanes), "c": In(stream.Signature(burst_layout()))})


@pytest.mark.parametrize(
    ("before", "after", "wrong"),
    [
        ("a : In(1)", "a : In(1)", []),
        ("a : In(1)", "a : Out(1)", ["a is In(1), not Out(1)"]),
        ("a : In(1)", "a : In(2)", ["a is In(1), not In(2)"]),
        ("a : In(1)", "a : In(1) each", ["a is In(1), not In(1)"]),
        ("a : In(1)", "z : In(1)", ["a has no line", "z is no port"]),
        ("2 * lanes", "lanes", ["b is Out(8), not Out(lanes)"]),
        ("`burst_layout`", "12", ["c is"]),
        ("stream of ", "", ["c is"]),
    ],
)
def test_a_wrong_line_is_found(before: str, after: str, wrong: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Right, "__doc__", (Right.__doc__ or "").replace(before, after))
    found = problems(Right, preset("tiny"))
    assert [text.startswith(expected) for text, expected in zip(found, wrong, strict=True)] == [True] * len(wrong)
