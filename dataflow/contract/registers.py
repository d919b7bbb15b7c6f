"""Registers of the host (AXI4-Lite, 32 bits each): one table for circuit, simulator, benches and drivers.

A 64-bit value is a pair of registers, the low half first. Reading the low half of a counter keeps its high half for
the read that follows.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import TYPE_CHECKING, Final

from nmsat.algorithms.core.ranges import check_whole
from nmsat.dataflow.contract.isa import OFFSET_BITS, OFFSET_MASK, REGIONS, Queue
from nmsat.dataflow.contract.limits import PAGE_BITS, PAGE_BYTES, WATCHDOG_BITS
from nmsat.dataflow.contract.ranges import MAX_PORTS

if TYPE_CHECKING:
    from nmsat.dataflow.contract.config import SatConfig

VERSION: Final = 0x4E4D_0100
"""Value of register `version`: "NM", then major and minor number."""

KERNEL: Final = "sat_kernel"
"""The one name of module, IP and Vitis kernel, by which the host finds it on a card."""

REGISTER_BITS: Final = 12
"""Address bits of the register space, 4 KiB."""

WORD_MASK: Final = 0xFFFFFFFF
"""All bits of a register."""


class Access(Enum):
    """How the host may use a register; other accesses are answered with an error (SLVERR) and change nothing.

    So are a start while a run is on, and bits that a command or setting has not (`Register.spare`).
    """

    COMMAND = "write, reads as 0"
    STATUS = "read; writing 1 to `done` clears it"
    SETTING = "read; write while idle"
    READ = "read"


@dataclass(frozen=True)
class Register:
    """One register: its byte address, the bits it holds from bit `low` upwards, what it means."""

    name: str
    address: int
    access: Access
    bits: int
    doc: str
    low: int = 0

    @property
    def spare(self) -> int:
        """Bits of 32 that a write must leave 0; any may stand in a write to `status`, which only looks at `done`."""
        return 0 if self.access is Access.STATUS else WORD_MASK & ~(((1 << self.bits) - 1) << self.low)


class Command:
    """Bits of register `command`."""

    START: Final = 1 << 0
    RESET: Final = 1 << 1


class Status:
    """Bits of register `status`."""

    IDLE: Final = 1 << 0
    DONE: Final = 1 << 1
    ERROR: Final = 1 << 2
    SPECIAL: Final = 1 << 3
    OVERFLOW: Final = 1 << 4


class RegionFlag:
    """Bits of register `region<i>_flags`."""

    OPEN: Final = 1 << 0
    WRITABLE: Final = 1 << 1


QUEUE_NAMES: Final[tuple[str, ...]] = tuple(queue.name.lower() for queue in Queue)
"""Names of the queues, in order of their number."""


class Wait(IntEnum):
    """Why no window of the array started in a cycle in which one could have; the head says it, counters count it."""

    NONE = 0
    OPERAND = 1  # no command
    FLUSH = 2  # the array drains before mode, pattern or rectangle change
    DRAIN = 3  # results of the previous tile still leave
    WEIGHT = 4  # the weight links still carry an earlier load
    DEPENDENCY = 5  # the previous command's sums are not there yet
    TAIL = 6  # too many commands in flight


WAIT_CAUSES: Final[dict[Wait, str]] = {wait: wait.name.lower() for wait in Wait if wait is not Wait.NONE}
"""Names of the causes of waiting, in order of their number."""

COUNTERS: Final[tuple[str, ...]] = (
    "cycles",
    "instructions",
    *(f"{name}_busy" for name in QUEUE_NAMES),
    *(f"{name}_blocked" for name in QUEUE_NAMES),
    "read_bursts",
    "read_beats",
    "write_bursts",
    "write_beats",
    *(f"wait_{cause}" for cause in WAIT_CAUSES.values()),
    "windows",
    "steps",
)
"""Counters of a run, 64 bits each, cleared at its start. cycles: from the first to the last of the run; instructions:
handed to the queues; <queue>_busy: cycles with an instruction in the engine; <queue>_blocked: cycles in which its next
one waits for a semaphore; wait_<cause>: cycles in which the compute engine has an instruction and no window starts;
windows: computing windows; steps: multiply-adds of one element, 8 N in each window."""

COUNTER_BITS: Final = 64

_CONFIGURATION: Final = {
    "rows": "elements of a column, R",
    "columns": "elements of a row, C",
    "act_lanes": "activations a row link carries per cycle",
    "act_depth": "beats of one row's activation buffer",
    "weight_depth": "pairs of one column's weight buffer",
    "sum_depth": "results of one column's capture buffer",
    "clock_khz": "clock of the machine, kHz",
}

_PORTS_AT: Final = 0x034
_SETTINGS_AT: Final = 0x040
_REGIONS_AT: Final = 0x080
_REGION_STEP: Final = 0x20
_REGION_PORT: Final = 0x14
_COUNTERS_AT: Final = 0x100


def _table() -> tuple[Register, ...]:
    high = OFFSET_BITS - 32
    read, setting = Access.READ, Access.SETTING
    registers = [
        Register("command", 0x000, Access.COMMAND, 2, "1: start a run (if idle); 2: end the run and reset"),
        Register("status", 0x004, Access.STATUS, 5, "1 idle, 2 done, 4 error, 8 special, 16 overflow"),
        Register("interrupt", 0x008, Access.SETTING, 1, "1: the interrupt line follows `done`"),
        Register("error_code", 0x00C, read, 4, "why the last run ended, 0 without error"),
        Register("error_index", 0x010, read, 32, "instruction the error belongs to, 0 the first of the program"),
        Register("version", 0x014, read, 32, f"{VERSION:#x}"),
    ]
    for place, (name, doc) in enumerate(_CONFIGURATION.items()):
        registers.append(Register(name, 0x018 + 4 * place, read, 32, doc))
    registers += [
        Register("program_region", _SETTINGS_AT, setting, 2, "region that holds the program"),
        Register("program_at", _SETTINGS_AT + 4, setting, 32, "offset of the first instruction, beats"),
        Register("program_at_high", _SETTINGS_AT + 8, setting, high, "its upper bits"),
        Register("program_count", _SETTINGS_AT + 12, setting, 32, "instructions of the program"),
        Register(
            "watchdog",
            _SETTINGS_AT + 16,
            setting,
            WATCHDOG_BITS,
            "cycles memory may move nothing it owes; 0: any number",
        ),
    ]
    for i in range(REGIONS):
        at = _REGIONS_AT + _REGION_STEP * i
        registers += [
            Register(
                f"region{i}_base",
                at,
                setting,
                32 - PAGE_BITS,
                f"address of the first beat, a multiple of {PAGE_BYTES}",
                PAGE_BITS,
            ),
            Register(f"region{i}_base_high", at + 4, setting, 32, "its upper half"),
            Register(f"region{i}_size", at + 8, setting, 32, "size in beats"),
            Register(f"region{i}_size_high", at + 12, setting, high, "its upper bits"),
            Register(f"region{i}_flags", at + 16, setting, 2, "1: may be read; 2: may be written too"),
        ]
    for place, name in enumerate(COUNTERS):
        at = _COUNTERS_AT + 8 * place
        registers += [
            Register(name, at, read, 32, "low half of the counter"),
            Register(f"{name}_high", at + 4, read, 32, "high half, as it was when the low half was read"),
        ]
    return tuple(registers)


REGISTERS: Final[dict[str, Register]] = {register.name: register for register in _table()}
"""All registers of a machine with one AXI4 master, by name."""


def registers(ports: int) -> dict[str, Register]:
    """Return all registers of a machine with so many AXI4 masters, by name."""
    if ports == 1:
        return REGISTERS
    bits = (ports - 1).bit_length()
    added = [Register("ports", _PORTS_AT, Access.READ, 32, "AXI4 masters, each with a memory of its own")]
    for i in range(REGIONS):
        at = _REGIONS_AT + _REGION_STEP * i + _REGION_PORT
        added.append(Register(f"region{i}_port", at, Access.SETTING, bits, "AXI4 master behind which it lies"))
    return {**REGISTERS, **{register.name: register for register in added}}


def named_bits(name: str) -> dict[str, int]:
    """Return the bits of a register that have names: name -> bit; {} where the register is one number."""
    holder = {"command": Command, "status": Status}.get(name, RegionFlag if name.endswith("_flags") else None)
    masks = {key.lower(): mask for key, mask in vars(holder).items() if key.isupper()} if holder else {}
    return {key: mask.bit_length() - 1 for key, mask in masks.items()}


def configuration(config: SatConfig) -> dict[str, int]:
    """Return name -> value of the registers that tell the host what it talks to."""
    values = {name: int(getattr(config, name)) for name in _CONFIGURATION if name != "clock_khz"}
    values |= {"clock_khz": round(1000 * config.clock_mhz)}
    return {"version": VERSION, **values, **({"ports": config.ports} if config.ports > 1 else {})}


def identity(config: SatConfig) -> dict[str, int]:
    """Return name -> value of the registers that a card must have to run programs for a machine.

    Without the clock: a program is the same at any.
    """
    return {name: value for name, value in configuration(config).items() if name != "clock_khz"}


def port_of(region: int, ports: int) -> int:
    """Return the AXI4 master behind which a region lies, unless the host has a reason of its own.

    With two, programs and first operands, weights and their gradients are behind one, results behind the other, so
    that loads run beside stores; with four, each region has its own.
    """
    return region * ports // REGIONS


@dataclass(frozen=True)
class Region:
    """A part of memory that a run may touch.

    base: address, a multiple of 4096; size: beats of 64 bytes; port: AXI4 master behind which it lies.
    """

    base: int
    size: int
    writable: bool
    port: int = 0

    def __post_init__(self) -> None:
        if self.base % PAGE_BYTES or not 0 <= self.base < 1 << 64:
            raise ValueError(f"base is {self.base!r}; it must be a multiple of {PAGE_BYTES} below 2^64")
        if not 0 <= self.size < 1 << OFFSET_BITS:
            raise ValueError(f"size is {self.size!r}; it must be from 0 to 2^{OFFSET_BITS} - 1 beats")
        check_whole("port", self.port, 0, MAX_PORTS - 1)


def open_regions(ports: int) -> tuple[Region, ...]:
    """Return regions as large as can be, each behind its port (`port_of`): for programs that are only timed."""
    return tuple(Region(0, OFFSET_MASK, True, port_of(i, ports)) for i in range(REGIONS))


@dataclass(frozen=True)
class Launch:
    """What the host sets before a run: up to 4 regions, where the program stands, how long memory is waited for.

    watchdog: cycles in which memory may move nothing of what it owes; 0: any number.
    """

    regions: tuple[Region | None, ...]
    program_region: int
    program_at: int
    program_count: int
    watchdog: int = 0

    def __post_init__(self) -> None:
        if not 1 <= len(self.regions) <= REGIONS:
            raise ValueError(f"regions has {len(self.regions)} entries; there are 1 to {REGIONS}")
        limits = {"program_region": REGIONS, "program_at": 1 << OFFSET_BITS, "program_count": 1 << 32}
        limits |= {"watchdog": 1 << WATCHDOG_BITS}
        for name, limit in limits.items():
            if not 0 <= getattr(self, name) < limit:
                raise ValueError(f"{name} is {getattr(self, name)!r}; it must be from 0 to {limit - 1}")

    def check_ports(self, ports: int) -> None:
        """Raise ValueError unless a machine with so many AXI4 masters reaches all regions."""
        for i, region in enumerate(self.regions):
            if region is not None and region.port >= ports:
                what = f"region {i} lies behind port {region.port!r}"
                raise ValueError(f"{what}; the machine has ports 0 to {ports - 1}")

    def writes(self, ports: int = 1) -> dict[str, int]:
        """Return register name -> value that the host writes before the start of a machine with so many AXI4 masters.

        Raises ValueError as `check_ports` does.
        """
        self.check_ports(ports)
        values = {
            "program_region": self.program_region,
            "program_at": self.program_at & WORD_MASK,
            "program_at_high": self.program_at >> 32,
            "program_count": self.program_count,
            "watchdog": self.watchdog,
        }
        for i in range(REGIONS):
            region = self.regions[i] if i < len(self.regions) else None
            base, size = (region.base, region.size) if region else (0, 0)
            flags = (RegionFlag.OPEN | RegionFlag.WRITABLE * region.writable) if region else 0
            values |= {
                f"region{i}_base": base & WORD_MASK,
                f"region{i}_base_high": base >> 32,
                f"region{i}_size": size & WORD_MASK,
                f"region{i}_size_high": size >> 32,
                f"region{i}_flags": flags,
            }
            if ports > 1:
                values[f"region{i}_port"] = region.port if region else 0
        return values
