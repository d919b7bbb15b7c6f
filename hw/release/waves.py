"""Waves of the machine for GTKWave and Surfer: signals in groups; in GTKWave causes and instructions in words.

    cd out/rtl/waves; chmod +x sat_decode.py; gtkwave dump.fst sat.gtkw
    surfer --command-file sat.sucl dump.fst

`sat.gtkw` and `sat.sucl` are for traces whose top is `sat`, as `verify` and `program --rtl` write them with WAVES=1;
`sat_kernel.gtkw` and `sat_kernel.sucl` for those of `card validate --backend rtl`, in which the kernel is around it.
`sat_decode.py` is the filter that GTKWave calls for instruction words; it needs nothing of nmsat.
"""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING, Final

from vcd.gtkw import GTKWSave

from nmsat.dataflow.contract.isa import INSTRUCTIONS, QUEUE_OF, SEMAPHORES, Queue
from nmsat.dataflow.contract.ranges import MAX_PORTS
from nmsat.dataflow.contract.registers import KERNEL, WAIT_CAUSES, Wait
from nmsat.hw.memory.axi import master
from nmsat.hw.parts.verilog import Port, read_ports

if TYPE_CHECKING:
    from collections.abc import Mapping

TRACES: Final = {"sat": "sat", KERNEL: f"{KERNEL}.machine"}
"""Top of a trace, which the views are named after -> where the machine is in it."""

DECODER: Final = "sat_decode.py"
WAVE_CAUSES: Final = "sat_causes.txt"

_CHANNELS: Final = {"read": ("ar", "r"), "write": ("aw", "w", "b")}
"""Groups of the memory -> channels."""


def wave_files(verilog: Mapping[str, str]) -> dict[str, str]:
    """Return file name -> content. verilog: of `rtl_files`, with `sat.v` and the leaves that it holds."""
    views = {"gtkw": save_file, "sucl": command_file}
    return {
        **{f"{top}.{end}": view(verilog, machine) for top, machine in TRACES.items() for end, view in views.items()},
        DECODER: decoder(),
        WAVE_CAUSES: causes(),
    }


def save_file(verilog: Mapping[str, str], machine: str) -> str:
    """Return the save file of GTKWave. machine: path of the machine in the trace."""
    text = io.StringIO()
    save = GTKWSave(text)
    for title, signals in _groups(verilog, machine).items():
        with save.group(title):
            for path, port in signals:
                name = f"{path}[{port.width - 1}:0]" if port.width > 1 else path
                if port.width > 256 and "start__payload" in path:
                    save.trace(name, alias="instruction", translate_filter_proc=DECODER)
                elif path.endswith(".cause"):
                    save.trace(name, alias="cause", datafmt="dec", translate_filter_file=WAVE_CAUSES)
                else:
                    save.trace(name, datafmt="hex" if port.width > 1 else "bin")
    return text.getvalue()


def command_file(verilog: Mapping[str, str], machine: str) -> str:
    """Return the commands of Surfer: a divider for each group, then its signals. A divider has a name of one word.

    machine: path of the machine in the trace.
    """
    lines: list[str] = []
    for title, signals in _groups(verilog, machine).items():
        lines.append(f"divider_add {title.replace(', ', ',').replace(' ', '_')}")
        lines += [f"variable_add {path}" for path, _ in signals]
    return "".join(f"{line}\n" for line in [*lines, "zoom_fit"])


def decoder() -> str:
    """Return the filter: a line of hexadecimal digits in, the instruction as `dataflow.program.listing` has it out."""
    layouts = {
        int(opcode): (opcode.name.lower(), [(field.name, field.bits, int(field.signed)) for field in layout.fields])
        for opcode, layout in INSTRUCTIONS.items()
    }
    rows = "\n".join(f"    {code}: {layout!r}," for code, layout in layouts.items())
    return _DECODER.format(rows=rows, semaphores=SEMAPHORES)


def causes() -> str:
    """Return the translation of the causes of waiting: number and word, a line each."""
    names = {**dict.fromkeys((Wait.NONE,), "-"), **WAIT_CAUSES}
    return "".join(f"{int(wait)} {name}\n" for wait, name in names.items())


def _groups(verilog: Mapping[str, str], machine: str) -> dict[str, list[tuple[str, Port]]]:
    """Return title -> (path of a signal in the trace, port) in the order in which they are shown."""
    top = _ports(verilog, "sat")
    work, compute = _ports(verilog, "sat_sequencer"), _ports(verilog, "sat_compute")
    groups = {"host": [(f"{machine}.{name}", port) for name, port in top.items() if _of(name, "s_axi_control_")]}
    groups["host"] += [(f"{machine}.interrupt", top["interrupt"])]
    buses = [bus for bus in map(master, range(MAX_PORTS)) if f"{bus}_araddr" in top]
    for title, channels in _CHANNELS.items():
        for port, bus in enumerate(buses):
            wanted = [f"{bus}_{channel}{end}" for channel in channels for end in ("valid", "ready", "addr", "len")]
            data = [f"{bus}_{channel}{end}" for channel in channels for end in ("data", "last", "resp")]
            told = f"{title}, port {port}" if len(buses) > 1 else title
            groups[told] = [(f"{machine}.{name}", top[name]) for name in (*wanted, *data) if name in top]
    run = ("run", "finished", "failure", "busy", "blocked")
    groups["run"] = [(f"{machine}.sequencer.{name}", work[name]) for name in run]
    for queue in Queue:
        names = [f"work__{int(queue)}__{end}" for end in ("start__valid", "start__ready", "start__payload", "done")]
        told = ", ".join(opcode.name for opcode, of in QUEUE_OF.items() if of is queue)
        groups[f"{queue.name.lower()}: {told}"] = [(f"{machine}.sequencer.{name}", work[name]) for name in names]
    groups["array"] = [
        (f"{machine}.compute.{name}", compute[name]) for name in ("token_valid", "token_compute", "steps", "cause")
    ]
    return groups


def _ports(verilog: Mapping[str, str], module: str) -> dict[str, Port]:
    return {port.name: port for port in read_ports(verilog[f"{module}.v"], module)}


def _of(name: str, prefix: str) -> bool:
    return (
        re.fullmatch(rf"{prefix}(?:aw|ar)(?:valid|ready|addr)|{prefix}[wrb](?:valid|ready|data|resp)", name) is not None
    )


_DECODER: Final = '''\
#!/usr/bin/env python3
"""Filter of GTKWave for instruction words of the SAT machine; written by nmsat. Hexadecimal lines in, text out."""

import sys

# Opcode: name, fields from bit 0 on (name, bits, signed).
LAYOUTS = {{
{rows}
}}


def listed(mask):
    """Return the semaphores of a mask."""
    return ",".join(str(i) for i in range({semaphores}) if mask >> i & 1)


def decode(text):
    """Return an instruction in words; what is none, or not known, as it came."""
    try:
        word = int(text, 16)
    except ValueError:
        return text
    if word & 15 not in LAYOUTS:
        return "-" if word == 0 else text
    name, fields = LAYOUTS[word & 15]
    shown = []
    for field, bits, signed in fields:
        value, word = word & ((1 << bits) - 1), word >> bits
        if value == 0 or field in ("opcode", "zero"):
            continue
        if field in ("wait", "signal"):
            shown.append(f"{{field}}=[{{listed(value)}}]")
        else:
            shown.append(f"{{field}}={{value - (1 << bits) if signed and value >> (bits - 1) else value}}")
    return " ".join([name, *shown])


if __name__ == "__main__":
    for line in sys.stdin:
        print(decode(line.strip()), flush=True)
'''
