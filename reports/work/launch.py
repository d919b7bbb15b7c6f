"""What a host needs to run programs: regions before the run and how to set them; what must come out lies apart."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any, Final

from nmsat.dataflow.contract.isa import BEAT_BYTES, REGIONS
from nmsat.dataflow.contract.registers import identity, registers
from nmsat.sim.sat import launch

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from nmsat.dataflow.contract.config import SatConfig
    from nmsat.dataflow.program.tensors import Place

DESCRIPTION: Final = "launch.json"
"""The machine by its registers, regions with sizes and rights, and the programs in order: place and instructions."""

PLAIN: Final = "launch.txt"
"""The same of a single program, for `sat_host.cpp`."""

EXPECTED: Final = "expected"
"""Folder of the regions as the simulator leaves them."""

LAUNCH_FILES: Final = (
    DESCRIPTION,
    PLAIN,
    *(f"region{number}.bin" for number in range(REGIONS)),
    *(f"{EXPECTED}/region{number}.bin" for number in range(REGIONS)),
)
"""Names of the files that may be written."""


def launch_files(
    before: Sequence[NDArray[np.uint8]],
    after: Sequence[NDArray[np.uint8]] | None,
    programs: Sequence[Place],
    config: SatConfig,
) -> dict[str, str | bytes]:
    """Return file name -> content. before, after: the regions around the run (after None: not written).

    The programs lie in one region, which the machine may not write. Regions that the run may write and leaves as they
    are have no file in the folder of results. config: of the machine that the programs are for, by whose registers a
    host knows it; where it has several AXI4 masters, a region says its own.
    """
    ports = config.ports
    settings = launch(before, programs[0], ports=ports)
    regions: list[dict[str, Any]] = []
    files: dict[str, str | bytes] = {}
    for number, (data, region) in enumerate(zip(before, settings.regions, strict=True)):
        name = f"region{number}.bin"
        content = data.tobytes()
        writable = region is not None and region.writable
        files[name] = content
        entry: dict[str, Any] = {
            "region": number,
            "file": name,
            "bytes": len(content),
            "beats": len(content) // BEAT_BYTES,
            "writable": writable,
            "sha256": hashlib.sha256(content).hexdigest(),
        }
        if ports > 1 and region is not None:
            entry["port"] = region.port
        if after is not None and writable and (result := after[number].tobytes()) != content:
            files[f"{EXPECTED}/{name}"] = result
            entry["expected"] = f"{EXPECTED}/{name}"
        regions.append(entry)
    listed = [{"name": p.name, "region": p.region, "at": p.at, "count": p.beats} for p in programs]
    described = {"machine": identity(config), "regions": regions, "programs": listed}
    files[DESCRIPTION] = json.dumps(described, indent=1) + "\n"
    if len(programs) == 1:
        files[PLAIN] = _plain(config, regions, programs[0])
    return files


def _plain(config: SatConfig, regions: Sequence[dict[str, Any]], program: Place) -> str:
    port = " [PORT]" if any("port" in r for r in regions) else ""
    lines = [
        "# machine REGISTER OFFSET VALUE, as the card must have it",
        f"# region NUMBER read|write FILE{port}; program REGION AT COUNT (beats of 64 bytes, instructions)",
    ]
    places = registers(config.ports)
    lines += [f"machine {name} {places[name].address} {value}" for name, value in identity(config).items()]
    for r in regions:
        words = ["region", r["region"], "write" if r["writable"] else "read", r["file"], *([r["port"]] if port else [])]
        lines.append(" ".join(map(str, words)))
    return "\n".join([*lines, f"program {program.region} {program.at} {program.beats}", ""])
