"""Numbers of the contract, once more as the pages say them: one that moves changes the machine, and must be meant.

Circuit and simulator read the same constant, so that no comparison of the two sees it move.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import pytest

from nmsat.algorithms.core.ranges import GROUP_SIZES
from nmsat.dataflow.contract import config, isa, limits, ranges
from nmsat.dataflow.contract.codes import RECTANGLE_ROWS
from nmsat.dataflow.contract.isa import QUEUE_OF, ActMode, ErrorCode, Opcode, Queue, Side
from nmsat.dataflow.contract.registers import COUNTERS, REGISTERS, Access, Command, RegionFlag, Status, registers

if TYPE_CHECKING:
    from types import ModuleType

LIMITS: Final = {
    "WATCHDOG_BITS": 32,
    "SEED_GAP": 3,
    "SETTLE": 32,
    "DRAIN_DELAY": 10,
    "SEED_DELAY": 4,
    "ROW_DRAIN": 9,
    "WS_SETTLE": 128,
    "TOKEN_TO_STEP": 3,
    "NO_STEP": 255,
    "COMMANDS_IN_FLIGHT": 8,
    "MULTIPLY_STAGES": 4,
    "ADD_STAGES": 4,
    "ROUND_STAGES": 2,
    "PORT_PLACES": 2,
    "LOAD_BURST": 8,
    "LOAD_PLACES": 64,
    "LOAD_CHUNK": 4,
    "LOAD_SETS": 2,
    "LOAD_AHEAD": 4,
    "LOAD_OWNERS": 32,
    "LOAD_LINK": 2,
    "MAX_BURST": 16,
    "PAGE_BITS": 12,
    "PAGE_BYTES": 4096,
    "PAGE_BEATS": 64,
    "PAGE_BEATS_BITS": 6,
    "RESET_STAGES": 2,
    "FETCH_BEATS": 16,
    "FETCH_BURST": 8,
    "CHECK_CYCLES": 3,
    "QUEUE_DEPTH": 4,
    "STARTED_DEPTH": 16,
    "SIDE_BEATS": 32,
    "WRITE_BEATS": 32,
    "STORE_AHEAD": 4,
    "STORE_GAP": 3,
    "UPDATE_BEATS": 32,
    "UPDATE_BURST": 8,
    "UPDATE_WAITING": 63,
    "READERS": (Queue.STORE, None, Queue.LOAD, Queue.UPDATE),
    "WRITERS": (Queue.STORE, Queue.UPDATE),
    "UPDATE_READS": ("weights", "momenta", "gradient", "mask"),
    "UPDATE_WRITES": ("mask", "bp", "ff", "momenta", "weights"),
}
ISA: Final = {
    "INSTRUCTION_BITS": 512,
    "BEAT_BYTES": 64,
    "LANES": 16,
    "HALVES": 32,
    "REGIONS": 4,
    "SEMAPHORES": 16,
    "SEMAPHORE_MAX": 255,
    "OFFSET_BITS": 34,
    "OFFSET_MASK": 2**34 - 1,
    "SHIFT_BITS": 5,
    "STEP_BITS": 22,
    "SIZE_BITS": 12,
}
CONFIG: Final = {
    "INTERLEAVE": 8,
    "MAX_GROUP": 16,
    "UNDER_WAY": 16,
    "PRODUCT_STAGES": 2,
    "MANY_PORTS": ("2", "4"),
}
RANGES: Final = {"LEAST_PORT_BITS": 64, "MOST_PORT_BITS": 512, "MAX_ADDER_STAGES": 7, "MAX_NAME": 100, "MAX_PORTS": 4}
SETTINGS: Final = {
    "command": 0x00,
    "status": 0x04,
    "interrupt": 0x08,
    "error_code": 0x0C,
    "error_index": 0x10,
    "version": 0x14,
    "rows": 0x18,
    "columns": 0x1C,
    "act_lanes": 0x20,
    "act_depth": 0x24,
    "weight_depth": 0x28,
    "sum_depth": 0x2C,
    "clock_khz": 0x30,
    "program_region": 0x40,
    "program_at": 0x44,
    "program_at_high": 0x48,
    "program_count": 0x4C,
    "watchdog": 0x50,
    **{
        f"region{i}_{name}": 0x80 + 0x20 * i + 4 * place
        for i in range(4)
        for place, name in enumerate(("base", "base_high", "size", "size_high", "flags"))
    },
}
COUNTED: Final = (
    *("cycles", "instructions", "load_busy", "compute_busy", "store_busy", "update_busy"),
    *("load_blocked", "compute_blocked", "store_blocked", "update_blocked"),
    *("read_bursts", "read_beats", "write_bursts", "write_beats"),
    *("wait_operand", "wait_flush", "wait_drain", "wait_weight", "wait_dependency", "wait_tail", "windows", "steps"),
)


@pytest.mark.parametrize(("module", "numbers"), [(limits, LIMITS), (isa, ISA), (config, CONFIG), (ranges, RANGES)])
def test_numbers_are_those_of_the_pages(module: ModuleType, numbers: dict[str, Any]) -> None:
    own = {name for name in vars(module) if name.isupper() and name in module.__annotations__ and name[0] != "_"}
    own -= {"SAT_RANGES", "SAT_PLAIN", "MEMORY_RANGES"}  # tables of fields: test_limits.py holds them
    plain = {name for name in own if isinstance(getattr(module, name), int | tuple)}
    assert {name: getattr(module, name) for name in plain} == numbers


def test_codes_of_fields() -> None:
    assert [mode.name for mode in sorted(ActMode)] == ["OS_ROWS", "OS_COLUMNS", "WS_ROWS"]
    assert [side.name for side in sorted(Side)] == ["NONE", "MASK", "TILE16", "TILE32"]
    codes = ["NONE", "OPCODE", "FIELD", "REGION", "READ", "WRITE", "DEADLOCK", "NO_END", "SEMAPHORE", "TIMEOUT"]
    assert {code.name: int(code) for code in ErrorCode} == {name: number for number, name in enumerate(codes)}
    assert [queue.name for queue in sorted(Queue)] == ["LOAD", "COMPUTE", "STORE", "UPDATE"]
    assert {opcode.name: queue.name for opcode, queue in QUEUE_OF.items()} == {
        **dict.fromkeys(("LOAD_ACT", "LOAD_WGT", "STAGE"), "LOAD"),
        **{name: name for name in ("COMPUTE", "STORE", "UPDATE")},
    }
    assert Opcode.END not in QUEUE_OF
    assert RECTANGLE_ROWS == (1, 2, 4, 8)
    assert GROUP_SIZES == (2, 4, 8, 16)


def test_registers_of_several_masters() -> None:
    for ports, bits in ((2, 1), (4, 2)):
        more = {name: r for name, r in registers(ports).items() if name not in REGISTERS}
        assert {name: r.address for name, r in more.items()} == {
            "ports": 0x34,
            **{f"region{i}_port": 0x94 + 0x20 * i for i in range(4)},
        }
        assert {r.bits for name, r in more.items() if name != "ports"} == {bits}
        assert {r.access for name, r in more.items() if name != "ports"} == {Access.SETTING}
    assert registers(1) == REGISTERS


def test_registers_lie_where_hosts_look_for_them() -> None:
    at = {name: register.address for name, register in REGISTERS.items()}
    counters = {name: 0x100 + 8 * place for place, name in enumerate(COUNTED)}
    assert COUNTERS == COUNTED
    assert at == SETTINGS | counters | {f"{name}_high": address + 4 for name, address in counters.items()}
    for name, register in REGISTERS.items():
        if name not in counters and name.removesuffix("_high") not in counters:
            read = name in ("error_code", "error_index", "version") or 0x18 <= register.address <= 0x30
            special = {"command": Access.COMMAND, "status": Access.STATUS}
            assert register.access is special.get(name, Access.READ if read else Access.SETTING), name
    bits = {"command": 2, "status": 5, "interrupt": 1, "error_code": 4, "program_region": 2, "program_at_high": 2}
    bits |= {
        f"region{i}_{name}": size for i in range(4) for name, size in (("base", 20), ("size_high", 2), ("flags", 2))
    }
    assert {name: register.bits for name, register in REGISTERS.items() if register.bits != 32} == bits
    assert {name: r.low for name, r in REGISTERS.items() if r.low} == {f"region{i}_base": 12 for i in range(4)}
    assert (Command.START, Command.RESET) == (1, 2)
    assert (Status.IDLE, Status.DONE, Status.ERROR, Status.SPECIAL, Status.OVERFLOW) == (1, 2, 4, 8, 16)
    assert (RegionFlag.OPEN, RegionFlag.WRITABLE) == (1, 2)
