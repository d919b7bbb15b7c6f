"""Accelerators for training on FPGAs that others built: what they report, and how sure we are of each number.

Numbers are quoted, never computed with: another device, another network, another batch. Classes of precision are not
comparable with each other, so they are never in one row, one axis or one ratio. A number that could not be looked up
in its source says so.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Precision(StrEnum):
    """A class of arithmetic, of which only one is compared within."""

    FLOAT = "floating point of 16 bits or more"
    FIXED = "16-bit fixed point"
    BYTE = "8 bits"


class Mark(StrEnum):
    """How sure a quoted number is."""

    READ = "read"
    SECOND = "second-hand"
    MEMORY = "from memory"


MARKS: Final[dict[Mark, str]] = {
    Mark.READ: "read in the abstract of the source",
    Mark.SECOND: "read in a third party's notes on the source",
    Mark.MEMORY: "remembered, not confirmed by anything that could be opened",
}
"""What each mark means."""


@dataclass(frozen=True)
class Quoted:
    """A number as it is quoted, and how sure it is."""

    value: float
    mark: Mark


@dataclass(frozen=True)
class Peer:
    """An accelerator.

    arithmetic: what it computes in, in words, with a mark where it is not read; throughput: GOPS or GFLOPS, a
    multiply-add counted as two as far as its source says; efficiency: those per watt; None where none is known.
    """

    name: str
    source: str
    device: str
    precision: Precision
    arithmetic: str
    network: str
    throughput: Quoted | None
    efficiency: Quoted | None = None


OURS: Final = (Precision.FLOAT, "binary16 products, binary32 sums")
"""Class and arithmetic of this machine."""

PEERS: Final = (
    Peer(
        "Liu et al. 2017",
        "FPT 2017",
        "ZU19EG",
        Precision.FLOAT,
        "binary32",
        "LeNet-10",
        Quoted(86.12, Mark.MEMORY),
        Quoted(6.05, Mark.MEMORY),
    ),
    Peer(
        "EF-Train 2022",
        "ACM TODAES 2022, arXiv 2202.10935",
        "ZCU102",
        Precision.FLOAT,
        "binary32 (second-hand)",
        "CIFAR-10, AlexNet, VGG-16",
        Quoted(46.99, Mark.READ),
        Quoted(6.09, Mark.READ),
    ),
    Peer(
        "BFLOAT MLP 2019",
        "ReConFig 2019",
        "mid-range Intel FPGA",
        Precision.FLOAT,
        "bfloat16 and 14 bits",
        "MLP",
        Quoted(5000.0, Mark.READ),
    ),
    Peer(
        "RTL compiler 2019",
        "FPL 2019, arXiv 1908.06724",
        "Stratix 10 GX",
        Precision.FIXED,
        "16-bit fixed",
        "CIFAR-10 CNN 4X",
        Quoted(479.0, Mark.READ),
        Quoted(9.5, Mark.MEMORY),
    ),
    Peer(
        "RepVGG-like 2024",
        "IEEE TCAD 2024",
        "ZCU102",
        Precision.FIXED,
        "16-bit fixed",
        "RepVGG-like",
        Quoted(150.0, Mark.SECOND),
    ),
    Peer(
        "DarkFPGA 2019",
        "FCCM 2019",
        "Maxeler MAX5",
        Precision.BYTE,
        "INT8",
        "VGG-like",
        Quoted(1417.0, Mark.MEMORY),
        Quoted(105.0, Mark.MEMORY),
    ),
    Peer(
        "ETA 2022",
        "IEEE TNNLS 2022",
        "VC709",
        Precision.BYTE,
        "8 bits",
        "VGG-16, CIFAR-10",
        Quoted(610.98, Mark.MEMORY),
    ),
    Peer(
        "block minifloat 2023",
        "FPGA 2023",
        "ZCU102",
        Precision.BYTE,
        "bm(2,5), 8 bits",
        "ResNet-20 with BN",
        Quoted(144.64, Mark.READ),
    ),
    Peer(
        "BOOST 2023",
        "ICCAD 2023",
        "Zynq UltraScale+ (from memory)",
        Precision.BYTE,
        "bm(2,5), 8 bits",
        "ResNet-20",
        Quoted(131.0, Mark.READ),
    ),
)
"""By class of precision, the older ones first."""

PAPER_CLAIMS: Final = (
    "The paper says of its own SAT, without naming the others in what could be read of it: 2.97 to 25.22 times the "
    "throughput and 1.36 to 3.58 times the energy efficiency of earlier FPGA training accelerators."
)
"""What the paper claims of the same comparison; quoted from its abstract."""
