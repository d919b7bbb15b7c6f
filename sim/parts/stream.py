"""What the stepped models of the stream engines have in common, and how a stream is played through one."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import chain, repeat
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

In = TypeVar("In")
Out = TypeVar("Out")
In_contra = TypeVar("In_contra", contravariant=True)
Out_co = TypeVar("Out_co", covariant=True)


class StreamEngine(Protocol[In_contra, Out_co]):
    """A model with one input and one output stream, between two clock edges."""

    @property
    def output(self) -> Out_co | None:
        """What stands on the output stream in this cycle, None when it is not valid."""
        ...

    @property
    def idle(self) -> bool:
        """Whether nothing is inside."""
        ...

    def ready(self, taken: bool) -> bool:
        """Return the ready signal of the input; taken: that of the output."""
        ...

    def clock(self, beat: In_contra | None, taken: bool) -> None:
        """Pass one clock edge; beat: what the input transfers in this cycle, if anything."""
        ...


@dataclass
class Played(Generic[Out]):
    """What left an engine: the beats, the cycle of each, and the cycle in which each input beat was taken."""

    outputs: list[Out] = field(default_factory=list)
    leaves: list[int] = field(default_factory=list)
    enters: list[int] = field(default_factory=list)

    @property
    def cycles(self) -> int:
        """Cycles from the first beat in to the last beat out, both included."""
        return self.leaves[-1] - self.enters[0] + 1 if self.leaves else 0


def play(
    engine: StreamEngine[In, Out], beats: Sequence[In], offers: Iterable[bool] = (), takes: Iterable[bool] = ()
) -> Played[Out]:
    """Send beats through an engine until it is idle again.

    offers, takes: for each cycle, whether the source has a new beat (an offered beat stays until it is taken) and
    whether the sink is ready; both are true once the traces end.
    """
    played: Played[Out] = Played()
    offer_trace, take_trace = chain(offers, repeat(True)), chain(takes, repeat(True))
    offered, cycle = False, 0
    while len(played.enters) < len(beats) or not engine.idle:
        taken = next(take_trace)
        place = len(played.enters)
        offered = (next(offer_trace) or offered) and place < len(beats)
        enters = offered and engine.ready(taken)
        if engine.output is not None and taken:
            played.outputs.append(engine.output)
            played.leaves.append(cycle)
        engine.clock(beats[place] if enters else None, taken)
        if enters:
            played.enters.append(cycle)
            offered = False
        cycle += 1
    return played
