"""Boards that the Xilinx package knows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Device:
    """A board. part: of AMD; board: its board files, without version; slrs: dies.

    kind: 'card' (PCIe), 'zynq' (Zynq UltraScale+) or 'zynq7' (Zynq-7000).
    """

    name: str
    part: str
    board: str
    kind: str
    slrs: int = 1


DEVICES: Final[dict[str, Device]] = {
    device.name: device
    for device in (
        Device("vcu1525", "xcvu9p-fsgd2104-2L-e", "xilinx.com:vcu1525:part0", "card", 3),
        Device("u200", "xcu200-fsgd2104-2-e", "xilinx.com:au200:part0", "card", 3),
        Device("u250", "xcu250-figd2104-2L-e", "xilinx.com:au250:part0", "card", 4),
        Device("zcu102", "xczu9eg-ffvb1156-2-e", "xilinx.com:zcu102:part0", "zynq"),
        Device("kv260", "xck26-sfvc784-2LV-c", "xilinx.com:kv260_som:part0", "zynq"),
        Device("pynq-z2", "xc7z020clg400-1", "tul.com.tw:pynq-z2:part0", "zynq7"),
    )
}
"""Boards that the package knows, by name."""


def device(name: str) -> Device:
    """Return the board called `name`; ValueError lists the known ones."""
    try:
        return DEVICES[name]
    except KeyError:
        raise ValueError(f"device is {name!r}; known devices: {', '.join(DEVICES)}") from None
