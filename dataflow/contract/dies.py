"""What the dies of the boards hold: lookup tables, flip-flops, multipliers, memories (AMD's product tables)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Die:
    """A part.

    luts, flip_flops: of the fabric; dsp: DSP48E2 or DSP48E1; bram36: blocks of 36 kbit; uram: blocks of 288 kbit;
    family: as Yosys names it, 'xcup' (UltraScale+) or 'xc7' (7 series).
    """

    name: str
    luts: int
    flip_flops: int
    dsp: int
    bram36: int
    uram: int
    family: str = "xcup"

    @property
    def blocks(self) -> dict[str, int]:
        """Blocks of memory by kind."""
        return {"bram36": self.bram36, "uram": self.uram}


DIES: Final[dict[str, Die]] = {
    die.name: die
    for die in (
        Die("xcvu9p", 1_182_240, 2_364_480, 6840, 2160, 960),
        Die("xcu200", 1_182_240, 2_364_480, 6840, 2160, 960),
        Die("xcu250", 1_728_000, 3_456_000, 12_288, 2688, 1280),
        Die("xczu9eg", 274_080, 548_160, 2520, 912, 0),
        Die("xck26", 117_120, 234_240, 1248, 144, 64),
        Die("xc7z020", 53_200, 106_400, 220, 140, 0, "xc7"),
    )
}
"""Parts of the boards that the package knows, by name, and XC7Z020, the part of small Zynq boards."""

DEFAULT_DIE: Final = DIES["xcvu9p"]
"""The part that Verilog and counts are for where none is named: that of the card that `vcu1525` is for."""


def die(name: str) -> Die:
    """Return the part called `name`; ValueError lists the known ones."""
    try:
        return DIES[name]
    except KeyError:
        raise ValueError(f"device is {name!r}; known devices: {', '.join(DIES)}") from None
