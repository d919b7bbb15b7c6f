"""Where a figure comes from, in the words in which it is printed; every text and every JSON takes them from here."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence


class Source(StrEnum):
    """What gave a number of cycles."""

    ARRAY = "array alone"
    MACHINE = "machine's exact simulator"
    RTL = "machine's RTL"
    ARRAY_RTL = "array's RTL"
    ESTIMATE = "estimate"


MEANING: Final[dict[Source, str]] = {
    Source.ARRAY: "operands on chip; equal to the array's RTL, without the machine's instructions, loads and stores",
    Source.MACHINE: "with instructions, loads and stores; equal to the machine's RTL in every cycle and counter",
    Source.RTL: "counted on the Verilog of the machine",
    Source.ARRAY_RTL: "counted on the Verilog of the array, operands on chip",
    Source.ESTIMATE: "a closed form, nothing runs; at `vcu1525` 95 of 100 products err by at most 2 %",
}
"""What is to be known of a figure of each source."""


def told(source: Source) -> str:
    """Return source and meaning in one line."""
    return f"{source}: {MEANING[source]}"


def planned_text(planned: Sequence[str]) -> str:
    """Return in one line what of a machine is planned and not built; '' if all is built."""
    return f"planned, not built: {'; '.join(planned)}" if planned else ""


def told_lines(source: Source, planned: Sequence[str]) -> list[str]:
    """Return `told`, and `planned_text` if there is one, for the foot of a text."""
    return [told(source), *([planned_text(planned)] if planned else [])]
