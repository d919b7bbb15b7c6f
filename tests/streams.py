"""How a stream is played through the model of an engine."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import chain, repeat
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from nmsat.sim.parts.stream import StreamEngine

In = TypeVar("In")
Out = TypeVar("Out")


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
