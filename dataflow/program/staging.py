"""What stands in the staging buffer, so that rows which the next tile needs again are not staged again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nmsat.dataflow.contract.isa import Opcode

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from nmsat.dataflow.program.sources import Fields, Load


def stages_once(loads: Sequence[Load]) -> bool:
    """Whether these are a STAGE and what is read from the staging buffer behind it."""
    first, *rest = (opcode is Opcode.STAGE for opcode, _ in loads)
    return first and not any(rest)


class Staging:
    """The runs of the last STAGE that are still in place (`held`); `depth`: beats of the buffer.

    Sources place runs by where they lie in memory (modulo the depth), so those of neighbouring tiles follow each other.
    """

    def __init__(self, depth: int) -> None:
        self._depth = depth
        self.held: Fields | None = None

    def clear(self) -> None:
        """Forget what is there: memory may change."""
        self.held = None

    def loads(self, wanted: Iterable[Load]) -> Iterator[Load]:
        """Yield the loads of a tile, a STAGE only of the runs that are missing."""
        for load in wanted:
            left = self.taken(load)
            if left is not None:
                yield left

    def taken(self, load: Load) -> Load | None:
        """Return a load of a tile, a STAGE with the runs that are missing only; None if none is."""
        opcode, fields = load
        if opcode is not Opcode.STAGE:
            return load
        missing = self._missing(fields)
        return None if missing is None else (opcode, missing)

    def ahead(self, wanted: Fields) -> Fields | None:
        """Return the STAGE of what a later tile wants and is not there, if it overwrites nothing of what is wanted now.

        None where it would, and where nothing is missing.
        """
        now = self.held
        missing = self._missing(wanted)
        if missing is None or now is None:
            return missing
        used, new = (fields["outer"] * fields["inner"] for fields in (now, missing))
        behind = (missing["base"] - now["base"]) % self._depth
        if behind >= used and behind + new <= self._depth:
            return missing
        self.held = now
        return None

    def _missing(self, wanted: Fields) -> Fields | None:
        """Return the STAGE of the runs that are not there, None if all are; they are there from now on."""
        ahead = self._ahead(wanted)
        held = self.held
        self.held = wanted
        if ahead is None or held is None:
            return wanted
        common = held["outer"] - ahead
        if common >= wanted["outer"]:
            self.held = {**wanted, "outer": common}
            return None
        at = wanted["at"] + common * wanted["outer_step"]
        base = (wanted["base"] + common * wanted["inner"]) % self._depth
        return {**wanted, "at": at, "base": base, "outer": wanted["outer"] - common}

    def _ahead(self, wanted: Fields) -> int | None:
        """Return by how many runs `wanted` begins behind what is held; None if they have no run in common."""
        held = self.held
        if held is None or any(held[name] != wanted[name] for name in ("region", "inner", "outer_step")):
            return None
        runs, odd = divmod(wanted["at"] - held["at"], wanted["outer_step"])
        moved = (wanted["base"] - held["base"] - runs * wanted["inner"]) % self._depth
        return runs if not odd and not moved and 0 <= runs < held["outer"] else None
