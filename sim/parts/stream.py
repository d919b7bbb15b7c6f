"""What the stepped models of the stream engines have in common."""

from __future__ import annotations

from typing import Protocol, TypeVar

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
