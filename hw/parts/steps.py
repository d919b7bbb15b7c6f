"""Building blocks of the floating-point data paths: cuts between steps, leading zeros, shifts, fields of binary32."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Final

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from amaranth.hdl import ValueLike


class Cuts:
    """The places of a data path that can hold registers, and those of them that do.

    Every value that crosses a place becomes a named signal, registered or not, so the back end never writes a sum or a
    product twice.
    """

    def __init__(self, m: Module, registered: Collection[str]) -> None:
        self._m = m
        self._registered = registered

    def __call__(self, place: str, **values: ValueLike) -> SimpleNamespace:
        """Return the values behind place `place`, under the same names."""
        held = place in self._registered
        result = {}
        for name, value in values.items():
            driven = Value.cast(value)
            signal = Signal(driven.shape(), name=f"{place}_{name}", reset_less=held)
            (self._m.d.sync if held else self._m.d.comb).__iadd__(signal.eq(driven))
            result[name] = signal
        return SimpleNamespace(**result)


def chosen_cuts(unit: str, table: Mapping[int, tuple[str, ...]], stages: int) -> tuple[str, ...]:
    """Return the places that hold registers for a number of stages; ValueError if the unit has no such form."""
    if stages not in table:
        raise ValueError(f"stages of {unit} is {stages!r}; it must be from {min(table)} to {max(table)}")
    return table[stages]


COPIED: Final = {"max_fanout": 1000}
"""Attribute of a register that drives many pins: Vivado makes a copy for each so many."""


def named(m: Module, name: str, value: ValueLike) -> Signal:
    """Return a combinational signal of the given name that holds the value."""
    driven = Value.cast(value)
    signal = Signal(driven.shape(), name=name)
    m.d.comb += signal.eq(driven)
    return signal


def sticky(m: Module, flag: Signal, rises: Value, clear: Value) -> None:
    """Let a flag rise and stay; `clear` lowers it unless it rises in this cycle."""
    with m.If(rises):
        m.d.sync += flag.eq(1)
    with m.Elif(clear):
        m.d.sync += flag.eq(0)


def leading_zeros(m: Module, name: str, value: Value) -> Signal:
    """Return the number of zeros above the highest one; for 0 some number not below the width of the value less 1."""
    width = 1 << (len(value) - 1).bit_length()
    padded = Cat(Const(0, width - len(value)), value) if width > len(value) else value
    # zero[i] and count[i] describe the i-th block from the top; blocks double until one is left.
    zero: list[Value] = [~bit for bit in reversed(padded)]
    count: list[Value] = []
    step = 0
    while len(zero) > 1:
        step += 1
        upper = range(0, len(zero), 2)
        within = [Mux(zero[i], count[i + 1], count[i]) if count else Cat() for i in upper]
        count = [named(m, f"{name}_{step}_{i // 2}", Cat(within[i // 2], zero[i])) for i in upper]
        zero = [named(m, f"{name}_z{step}_{i // 2}", zero[i] & zero[i + 1]) for i in upper]
    return named(m, name, count[0])


def shift_left(m: Module, name: str, value: Value, amount: Value) -> Signal:
    """Return `value << amount` in the width of the value."""
    for k in range(len(amount)):
        moved = Cat(Const(0, min(1 << k, len(value))), value)[: len(value)]
        value = named(m, f"{name}_{k}", Mux(amount[k], moved, value))
    return named(m, name, value)


def shift_right_sticky(
    m: Module, name: str, value: Value, amount: Value, sticky: ValueLike = 0
) -> tuple[Signal, Signal]:
    """Return `value >> amount` in the width of the value, and whether a one was shifted out (or `sticky`)."""
    lost: Value = Value.cast(sticky)
    for k in reversed(range(len(amount))):
        step = min(1 << k, len(value))
        lost = named(m, f"{name}_lost{k}", lost | (amount[k] & value[:step].any()))
        value = named(m, f"{name}_{k}", Mux(amount[k], value[step:], value))
    return named(m, name, value), named(m, f"{name}_sticky", lost)


def delayed(m: Module, name: str, value: ValueLike, cycles: int) -> Value:
    """Return the value some cycles later; without reset, so that it becomes shift-register memory."""
    driven = Value.cast(value)
    if cycles == 0:
        return driven
    width = len(driven)
    line = Signal(width * cycles, name=name, reset_less=True)
    m.d.sync += line.eq(Cat(driven, line[: width * (cycles - 1)]))
    return line[width * (cycles - 1) :]
