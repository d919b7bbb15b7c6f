"""Records that a report shows and does not make: accuracy of trainings, resources, workloads; nmsat comes with some."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from nmsat.reports.work.commandline import spell
from nmsat.reports.work.text import InputError

if TYPE_CHECKING:
    from nmsat.dataflow.contract.config import SatConfig

TABLES: Final = Path(__file__).resolve().parent.parent / "tables"
"""The records that nmsat comes with."""

CYCLES_PAGE: Final = "workloads.md"
"""Densities, cycles, shares of all workloads, those without a run by the estimate: written in seconds."""

_SHOWN: Final = Path("reports/tables")
"""The same folder in a command that is shown."""

_KEYS: Final = {
    "accuracy.json": ("rows", "data", "machine", "source", "paper_loss", "recipes"),
    "synth": ("config", "device", "mark", "engines", "total", "versions"),
}
"""What a record has at least."""


@dataclass(frozen=True)
class Record:
    """A record. values: as its command wrote it; command: that makes it again."""

    values: dict[str, Any]
    command: str


@dataclass(frozen=True)
class Records:
    """The records of a folder; None for one that is not there, and then a line in `missing` that says why.

    workloads_page: text of `CYCLES_PAGE`, which has the workloads whose programs did not run; '' if it is not there.
    """

    accuracy: Record | None = None
    synth: Record | None = None
    workloads: Record | None = None
    workloads_page: str = ""
    missing: tuple[str, ...] = field(default=())


def read_records(config: SatConfig, folder: Path | None = None) -> Records:
    """Return the records of a folder, of nmsat's own unless one is given; InputError for one that is damaged.

    Resources must be those of this very configuration.
    """
    place, shown = folder or TABLES, folder or _SHOWN
    if not place.is_dir():
        raise InputError(f"--records is {str(folder)!r}; it must be a folder with records of nmsat")
    missing: list[str] = []
    accuracy = _read(place / "accuracy.json", _KEYS["accuracy.json"])
    if accuracy is None:
        missing.append(f"accuracy: {shown} has no accuracy.json; nmsat study --tables DIR writes one")
    synth = _read(place / f"synth_{config.name}.json", _KEYS["synth"])
    again = spell("synth", [], {"--config": config, "--out": folder or Path("DIR")})
    if synth is None:
        missing.append(f"resources: {shown} has no record of configuration {config.name}; {again} writes one")
    elif synth["config"] != json.loads(json.dumps(asdict(config))):
        missing.append(f"resources: the record of {config.name} is of other fields than these; {again} writes one")
        synth = None
    workloads = _read(place / "workloads.json", ())
    if not workloads:
        missing.append(f"workloads: {shown} has none whose programs ran; nmsat workload table --exact NAME,... does")
    page = place / CYCLES_PAGE
    return Records(
        None if accuracy is None else Record(accuracy, spell("study", [], {"--tables": shown})),
        None if synth is None else Record(synth, _synth_command(config, synth, shown)),
        Record(workloads, _workloads_command(workloads, shown)) if workloads else None,
        page.read_text(encoding="utf-8") if page.is_file() else "",
        tuple(missing),
    )


def _read(path: Path, keys: tuple[str, ...]) -> dict[str, Any] | None:
    """Return a record, None if there is no such file."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise InputError(f"record {str(path)!r} cannot be read ({error}); delete it or make it again") from None
    lacking = [key for key in keys if not isinstance(found, dict) or key not in found]
    if lacking or not isinstance(found, dict):
        raise InputError(f"record {str(path)!r} has no {', '.join(lacking) or 'keys'}; delete it or make it again")
    return found


def _synth_command(config: SatConfig, record: dict[str, Any], shown: Path) -> str:
    return spell("synth", [], {"--config": config, "--device": record["device"]["name"], "--out": shown})


def _workloads_command(record: dict[str, Any], shown: Path) -> str:
    names = list(dict.fromkeys(name.rpartition(" ")[0] for name in record))
    return spell("workload table", [], {"--out": shown, "--exact": names})
