"""What a figure of a report rests on: how each of its numbers was found, and by which command of which version."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

from nmsat.reports.version import VERSION
from nmsat.reports.work.commandline import asked_for, word
from nmsat.sim.results.provenance import Source, planned_text, told

if TYPE_CHECKING:
    from nmsat.dataflow.contract.config import SatConfig


class Standing(StrEnum):
    """How a number was found."""

    EXACT = "exact"
    MEASURED = "measured"
    MODELLED = "modelled"
    QUOTED = "quoted"


STANDINGS: Final[dict[Standing, str]] = {
    Standing.EXACT: "counted: cycles and bytes by the simulator that equals the RTL, multiply-adds from shapes",
    Standing.MEASURED: "observed in runs that happened, such as the accuracy of trainings, with their spread",
    Standing.MODELLED: "computed from assumptions that no measurement here confirms, such as clock and energy",
    Standing.QUOTED: "taken from a publication, not from this machine",
}
"""What each means, for the head of a page."""

_OF_SOURCES: Final = {
    Source.ARRAY: Standing.EXACT,
    Source.MACHINE: Standing.EXACT,
    Source.RTL: Standing.EXACT,
    Source.ARRAY_RTL: Standing.EXACT,
    Source.ESTIMATE: Standing.MODELLED,
}


def standing_of(source: Source) -> Standing:
    """Return the standing of cycles of a source."""
    return _OF_SOURCES[source]


@dataclass(frozen=True)
class Origin:
    """Where the numbers of a figure come from.

    command: that gives them again; config: the machine, in words; standing: each with what of the figure it is said of,
    in the order in which they matter.
    """

    command: str
    config: str
    standing: tuple[tuple[Standing, str], ...]
    version: str = f"nmsat {VERSION}"

    def record(self) -> dict[str, Any]:
        """Return it as plain values."""
        return {
            "command": self.command,
            "config": self.config,
            "version": self.version,
            "standing": {str(standing): what for standing, what in self.standing},
        }

    def line(self) -> str:
        """Return it in one line, for pictures that stand alone."""
        kinds = "; ".join(f"{standing}: {what}" for standing, what in self.standing)
        return f"{kinds}. {self.config}, {self.version}, {self.command}"


@dataclass(frozen=True)
class Basis:
    """What several figures share: the command that gives them again, the machine in words, the version."""

    command: str
    config: str
    version: str = f"nmsat {VERSION}"

    def origin(self, *standing: tuple[Standing, str]) -> Origin:
        """Return the origin of a figure."""
        return Origin(self.command, self.config, standing, self.version)


RECORDED: Final = f"a record that names none, shown by nmsat {VERSION}"
"""Version of numbers that come from a record."""


def machine_words(config: SatConfig, *more: str) -> str:
    """Return a machine in words: its name, what was changed of it, its size; more: other words behind it."""
    name, settings = asked_for(config)
    changed = f" with {', '.join(word(setting) for setting in settings)}" if settings else ""
    size = f"{config.rows} × {config.columns} elements at {config.clock_mhz:g} MHz"
    return ", ".join([f"{name}{changed}", size, *more])


def cycles_words(source: Source, config: SatConfig) -> str:
    """Return what is to be known of the cycles of a machine."""
    return "; ".join(filter(None, (told(source), planned_text(config.planned))))
