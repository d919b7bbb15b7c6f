"""Verilog out of Amaranth: every hard leaf is a module of its own, with plain and stable port names.

Amaranth writes one module per instance and names the ports of inner modules after what they are wired to; only the
ports of the module handed to the back end keep their names. A leaf (element, floating-point unit) is therefore emitted
once as a top of its own, and its parent holds a black-box `Instance` of it:

    class Array(wiring.Component):
        def elaborate(self, platform):
            m.submodules += place(uspe, "sat_uspe", platform, parameters=config)

    files = emit(Array(...), "sat_stce")     # {"sat_stce.v": ..., "sat_uspe.v": ...}

`place` gives the component itself to Amaranth's own simulator and the `Instance` to the Verilog writer, so both see
one description.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, cast

from amaranth.back import rtlil  # pyright: ignore[reportAttributeAccessIssue] # the stubs lack it
from amaranth.hdl import ClockSignal, Instance, ResetSignal, Value
from amaranth.lib import wiring

from nmsat.dataflow.contract.dies import DEFAULT_DIE
from nmsat.hw.parts.writer import Writer, writing

if TYPE_CHECKING:
    from collections.abc import Hashable
    from concurrent.futures import Future

    from amaranth_types.types import HasElaborate

    from nmsat.dataflow.contract.dies import Die

CLOCK: Final = "clk"
"""Name of the clock port of domain `sync`."""

RESET: Final = "rst"
"""Name of the synchronous reset port of domain `sync`."""

_IDENTIFIER: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_ZERO_INIT: Final = re.compile(
    r"^  initial begin\n    (?P<name>\S+)\[0\] = (?P<zero>\d+'[dh]0+);\n(?:    (?P=name)\[\d+\] = (?P=zero);\n)*"
    r"    (?P=name)\[(?P<last>\d+)\] = (?P=zero);\n  end$",
    re.MULTILINE,
)
_DESCRIBED: Final = re.compile(r"^  wire (?:width (\d+) )?(input|output) \d+ +(?:signed )?\\(\S+)$", re.MULTILINE)
_PORT: Final = re.compile(r"^  (input|output) (?:signed )?(?:\[(\d+):0\] )?(\S+) ?;$", re.MULTILINE)


@dataclass(frozen=True)
class Port:
    """One port of an emitted module: its name, width in bits, and whether it is an input."""

    name: str
    width: int
    is_input: bool

    def __str__(self) -> str:
        return f"{'input' if self.is_input else 'output'} {self.name}[{self.width}]"


@dataclass(frozen=True)
class Leaf:
    """An emitted module: its name, its Verilog text and its ports as they stand in that text.

    `clk` and `rst` are among the ports only if the module has registers.
    """

    name: str
    text: str
    ports: tuple[Port, ...]

    def instance(self, component: wiring.Component) -> Instance:
        """Return the black-box twin of `component`: this module, wired to the members of `component`.

        Raises ValueError when the members of `component` differ from the ports of the module in name, width or
        direction.
        """
        members = _members(component)
        wanted = {port for port in self.ports if port.name not in (CLOCK, RESET)}
        found = {port for port, _ in members}
        if wanted != found:
            raise ValueError(
                f"{type(component).__name__} does not fit module {self.name!r}: "
                f"the module has {_list(wanted - found)}, the component has {_list(found - wanted)}"
            )
        wires: dict[str, Any] = {("i_" if port.is_input else "o_") + port.name: wire for port, wire in members}
        names = {port.name for port in self.ports}
        if CLOCK in names:
            wires[f"i_{CLOCK}"] = ClockSignal()
        if RESET in names:
            wires[f"i_{RESET}"] = ResetSignal()
        _mark_used(component)
        return Instance(self.name, **wires)


class VerilogPlatform:
    """The platform that `elaborate` receives while Verilog is written; it collects the leaves placed on the way.

    die: part that the Verilog is for, which decides what buffers are made of (`dataflow.contract.memories`).
    Amaranth describes a leaf here; that a thread lets Yosys write its Verilog beside is waited for in `leaves`.
    """

    def __init__(self, die: Die = DEFAULT_DIE) -> None:
        self.die = die
        self._written: dict[str, Written] = {}
        self._origin: dict[str, tuple[type, Hashable]] = {}
        self.writer: Writer | None = None

    @property
    def leaves(self) -> dict[str, Leaf]:
        """The leaves placed so far, in the order in which they were begun to be needed."""
        return {name: written.leaf() for name, written in self._written.items()}

    def place(self, component: wiring.Component, name: str, parameters: Hashable) -> Instance:
        """Return the twin of `component` from module `name`, which is emitted at its first use."""
        origin = (type(component), parameters)
        if self._origin.setdefault(name, origin) != origin:
            raise ValueError(
                f"module {name!r} is placed as {self._origin[name]!r} and as {origin!r}; names must differ"
            )
        if name not in self._written:
            self._written[name] = _convert(component, name, self)
        return Leaf(name, "", self._written[name].ports).instance(component)


@dataclass(frozen=True)
class Written:
    """A module whose Verilog is being written; ports: as Amaranth describes them, in no order that matters."""

    name: str
    ports: tuple[Port, ...]
    text: Future[str]

    def leaf(self) -> Leaf:
        """Return the module once its Verilog is there."""
        text = _ZERO_INIT.sub(_zero_loop, self.text.result())
        return Leaf(self.name, text, read_ports(text, self.name))


def place(component: wiring.Component, name: str, platform: object, *, parameters: Hashable = ()) -> HasElaborate:
    """Return what a parent adds as submodule: `component`, or its black-box twin while Verilog is written.

    name: module name of the leaf; it must say everything in which two leaves of one design differ.
    parameters: what the component was built from (its configuration). Two placements under one name must agree in it
    and in the class, else ValueError.
    """
    if isinstance(platform, VerilogPlatform):
        return cast("HasElaborate", platform.place(component, name, parameters))
    return cast("HasElaborate", component)


def emit(component: wiring.Component, name: str, known: VerilogPlatform | None = None) -> dict[str, str]:
    """Return file name -> Verilog text of `component` as module `name` and of every leaf placed inside it.

    known: takes the leaves; those that it has are not written again, and are among the files all the same.
    """
    platform = known or VerilogPlatform()
    with writing() as platform.writer:
        top = _convert(component, name, platform).leaf()
        leaves = platform.leaves
    if name in leaves:
        raise ValueError(f"module {name!r} is both the top and a leaf; names must differ")
    return {f"{key}.v": leaf.text for key, leaf in {name: top, **leaves}.items()}


def read_ports(text: str, module: str) -> tuple[Port, ...]:
    """Return the ports of `module` as declared in Verilog that `emit` wrote, in the order of their declarations."""
    body = re.search(rf"^module {re.escape(module)}\(.*?^endmodule$", text, re.MULTILINE | re.DOTALL)
    if body is None:
        raise ValueError(f"module is {module!r}; the text does not define it")
    declared = _PORT.findall(body[0])
    return tuple(Port(name, int(high) + 1 if high else 1, way == "input") for way, high, name in declared)


def component_ports(component: wiring.Component) -> tuple[Port, ...]:
    """Return the ports that the module of `component` has beside `CLOCK` and `RESET`; it need not be elaborated."""
    _mark_used(component)
    return tuple(port for port, _ in _members(component))


def _convert(component: wiring.Component, name: str, platform: VerilogPlatform) -> Written:
    if not _IDENTIFIER.fullmatch(name):
        raise ValueError(f"name is {name!r}; it must be a plain Verilog identifier")
    if platform.writer is None:
        raise ValueError(f"module {name!r} is placed on a platform that `emit` does not use")
    text = rtlil.convert(component, name=name, platform=platform, emit_src=False)
    return Written(name, _described_ports(text, name), platform.writer.write(text))


def _described_ports(text: str, module: str) -> tuple[Port, ...]:
    """Return the ports of a module in what Amaranth hands to Yosys."""
    body = re.search(rf"^module \\{re.escape(module)}$.*?^end$", text, re.MULTILINE | re.DOTALL)
    declared = _DESCRIBED.findall(body[0] if body else "")
    return tuple(Port(name, int(width or 1), way == "input") for width, way, name in declared)


def _zero_loop(block: re.Match[str]) -> str:
    """Clear a memory in a loop: Yosys writes one line per entry, which for deep buffers is most of the text."""
    index = f"{block['name'].strip(chr(92)).replace('.', '_')}_entry"
    return (
        f"  integer {index};\n  initial\n    for ({index} = 0; {index} <= {block['last']}; {index} = {index} + 1)\n"
        f"      {block['name']}[{index}] = {block['zero']};"
    )


def _members(component: wiring.Component) -> list[tuple[Port, Value]]:
    """Return the ports of `component` and their values, named as Amaranth names them on the top module."""
    result: list[tuple[Port, Value]] = []
    for path, member, value in component.signature.flatten(component):
        wire = Value.cast(cast("Value", value))
        name = "__".join(str(part) for part in path)
        result.append((Port(name, len(wire), member.flow is wiring.In), wire))
    return result


def _mark_used(component: wiring.Component) -> None:
    """Keep Amaranth from warning of a component that was never elaborated: twins of a leaf are such, by design."""
    component.__dict__["_MustUse__used"] = True


def _list(ports: set[Port]) -> str:
    return ", ".join(sorted(str(port) for port in ports)) or "no other port"
