"""What a proof is written with: a circuit with free inputs around a component, assumptions, assertions, covers.

A signal that nothing drives is a constant in Amaranth; what the solver may choose is therefore an input of the top:
`Harness` keeps a list of them.
"""

from __future__ import annotations

import traceback
from typing import TYPE_CHECKING, Any

from amaranth.asserts import AnyConst  # pyright: ignore[reportAttributeAccessIssue]
from amaranth.back import rtlil  # pyright: ignore[reportAttributeAccessIssue]
from amaranth.hdl import Assert, Assume, Cover, Module, ResetSignal, Signal, Value
from amaranth.lib import wiring

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from amaranth.hdl import ShapeLike, ValueLike


class Harness:
    """A top module around the hardware under proof.

    texts: place in the source -> what is checked or covered there; reset: the solver may reset everything in any cycle;
    else there is one reset, in front of the first cycle.
    """

    def __init__(self, *, reset: bool = True) -> None:
        self.m = Module()
        self._inputs: list[Signal] = []
        self.texts: dict[str, str] = {}
        if not reset:
            self.assume(~ResetSignal())

    def add(self, component: Any, name: str = "dut", driven: Collection[str] = ()) -> Any:
        """Put a component in; its inputs are free but for the members whose path begins as `driven` says."""
        self.m.submodules[name] = component
        for path, member, value in component.signature.flatten(component):
            full = "__".join(str(part) for part in path)
            if member.flow is wiring.In and not any(full == one or full.startswith(f"{one}__") for one in driven):
                self._inputs.append(_signal(Value.cast(value)))
        return component

    def let(self, component: Any, outputs: Collection[str]) -> None:
        """Let the solver choose these outputs of a component that does not drive them."""
        self._inputs += [_signal(Value.cast(getattr(component, name))) for name in outputs]

    def free(self, name: str, shape: ShapeLike = 1) -> Any:
        """Return a new value that the solver chooses anew in every cycle."""
        made: Any = Signal(shape, name=name)
        self._inputs.append(_signal(Value.cast(made)))
        return made

    def fixed(self, name: str, shape: ShapeLike = 1) -> Any:
        """Return a new value that the solver chooses once."""
        made: Any = Signal(shape, name=name)
        self.m.d.comb += Value.cast(made).eq(AnyConst(len(Value.cast(made))))
        return made

    def before(self, name: str, value: ValueLike) -> Signal:
        """Return what a value was one cycle ago; 0 in the first cycle and after a reset."""
        now = Value.cast(value)
        kept = Signal(len(now), name=name)
        self.m.d.sync += kept.eq(now)
        return kept

    def assume(self, condition: ValueLike) -> None:
        """Look at no cycles but those in which this holds, as in all before."""
        self.m.d.comb += Assume(Value.cast(condition).any(), "")

    def check(self, condition: ValueLike, text: str) -> None:
        """Prove that this always holds."""
        self._told(text)
        self.m.d.comb += Assert(Value.cast(condition).any(), text, src_loc_at=1)

    def cover(self, condition: ValueLike, text: str) -> None:
        """Show that this can happen under the assumptions."""
        self._told(text)
        self.m.d.comb += Cover(Value.cast(condition).any(), text, src_loc_at=1)

    def _told(self, text: str) -> None:
        caller = traceback.extract_stack(limit=3)[0]
        known = self.texts.setdefault(f"{caller.filename}:{caller.lineno}", text)
        if text not in known.split(" or "):
            self.texts[f"{caller.filename}:{caller.lineno}"] = f"{known} or {text}"

    def stable(self, name: str, valid: ValueLike, ready: ValueLike, payload: ValueLike) -> Value:
        """Return whether a stream holds its rule: what is offered stands until it is taken."""
        offered = Value.cast(valid) & ~Value.cast(ready)
        stalled = self.before(f"{name}_stalled", offered)
        was = self.before(f"{name}_was", payload)
        return ~stalled | (Value.cast(valid).any() & (Value.cast(payload) == was))

    def rtlil(self) -> str:
        """Return the circuit as RTLIL, top module `top`."""
        ports: list[Any] = list(self._inputs)
        return rtlil.convert(self.m, name="top", ports=ports)


def opened(component: Any) -> Module:
    """Elaborate a component once and return its module, so that what is inside can be named; its parent takes the same.

    Proofs by induction need to speak of registers that no port shows.
    """
    m = component.elaborate(None)
    component.__dict__["elaborate"] = lambda _platform: m
    component.__dict__["_MustUse__used"] = True
    return m


def loose(component: type[Any]) -> type[Any]:
    """Return a component of the same ports that does nothing: who uses it makes its outputs free inputs."""

    class Loose(component):
        def elaborate(self, platform: object) -> Module:
            del platform
            return Module()

    return Loose


def inside(m: Module, name: str) -> Signal:
    """Return the one signal of this name that a module drives; KeyError unless there is one."""
    found = _distinct(s for statement in _statements(m) for s in statement._lhs_signals() if s.name == name)
    if len(found) != 1:
        raise KeyError(f"name is {name!r}; the module drives {len(found)} signals of this name, not one")
    return found[0]


def source(m: Module, target: Signal, bits: int = 0) -> Signal:
    """Return the one signal from which a module makes `target`; KeyError unless there is one.

    For signals without a name of their own. bits: look at signals of this width only.
    """
    made = [statement for statement in _statements(m) if any(s is target for s in statement._lhs_signals())]
    found = [
        s for s in _distinct(s for one in made for s in one._rhs_signals()) if s is not target and bits in (0, len(s))
    ]
    if len(found) != 1:
        raise KeyError(f"target is {target.name!r}; the module makes it from {len(found)} signals, not from one")
    return found[0]


def _statements(m: Any) -> list[Any]:
    m._flush()
    return [statement for statements in m._statements.values() for statement in statements]


def _distinct(signals: Iterable[Signal]) -> list[Signal]:
    return list({id(signal): signal for signal in signals}.values())


def implies(condition: ValueLike, consequence: ValueLike) -> Value:
    """Return whether the consequence holds if the condition does."""
    return ~Value.cast(condition).any() | Value.cast(consequence).any()


def _signal(value: Value) -> Signal:
    if not isinstance(value, Signal):
        raise TypeError(f"value is {value!r}; an input must be a plain signal")
    return value
