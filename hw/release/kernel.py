"""The machine as Xilinx tools want it: module `sat_kernel` around `sat`, a low reset, attributes for interfaces.

Vitis fixes the names of clock, reset and interrupt (`ap_clk`, `ap_rst_n`, `interrupt`); a block design reads them from
the attributes. The machine inside stays as it is, so its benches speak for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from nmsat.dataflow.contract.config import UNDER_WAY
from nmsat.dataflow.contract.limits import MAX_BURST
from nmsat.dataflow.contract.ranges import MAX_PORTS
from nmsat.dataflow.contract.registers import KERNEL, REGISTER_BITS
from nmsat.hw.memory.axi import ADDRESS_BITS, master
from nmsat.hw.parts.verilog import CLOCK, RESET, Port, component_ports
from nmsat.hw.sat import Sat

if TYPE_CHECKING:
    from nmsat.dataflow.contract.config import SatConfig

CONTROL: Final = "s_axi_control"
"""The AXI4-Lite slave, inside and outside."""

MEMORY: Final = "m00_axi"
"""The first AXI4 master outside; Vitis numbers masters."""

INNER_MEMORY: Final = "m_axi"
"""The first AXI4 master of `sat`."""

AP_RESET_STAGES: Final = 3
"""Clock edges from `ap_rst_n` to the reset of the machine."""

_MASKED: Final = ("valid", "ready")
"""Ends of the names of signals that stay low while the machine is in reset."""


def kernel_verilog(config: SatConfig) -> str:
    """Return the Verilog of `sat_kernel`; ValueError unless `config` can be a machine.

    `ap_rst_n` passes two registers for synchronisation and one for the machine. While that one is set, nothing is
    accepted and nothing asked for: a master may begin with the first edge after `ap_rst_n` has risen, when the machine
    is still in reset and would take an access without answering it.
    """
    ports = component_ports(Sat(config))
    buses = ":".join([CONTROL, *memories(config.ports)])
    declared = [_declaration(port, config) for port in ports]
    lines = [_HEAD, ",\n".join([_clocks(buses), *declared]), ");", _RESET]
    inner = [f"    .{CLOCK}(ap_clk)", f"    .{RESET}(reset)", *(f"    .{port.name}({_inside(port)})" for port in ports)]
    outer = [line for port in ports for line in _mask(port)]
    return "\n".join([*lines, *outer, "", "  sat machine (", ",\n".join(inner), "  );", "endmodule", ""])


def kernel_ports(config: SatConfig) -> tuple[Port, ...]:
    """Return the ports of `sat_kernel`."""
    return (
        Port("ap_clk", 1, True),
        Port("ap_rst_n", 1, True),
        *(Port(outside(port.name), port.width, port.is_input) for port in component_ports(Sat(config))),
    )


def memories(ports: int) -> tuple[str, ...]:
    """Return the AXI4 masters outside, in order of their numbers."""
    return tuple(f"m{port:02}_axi" for port in range(ports))


def outside(name: str) -> str:
    """Return the name at `sat_kernel` of a port of `sat`."""
    for port, bus in enumerate(memories(MAX_PORTS)):
        inner = master(port)
        if name.startswith(f"{inner}_"):
            return bus + name.removeprefix(inner)
    return name


def _declaration(port: Port, config: SatConfig) -> str:
    name = outside(port.name)
    bus, _, signal = name.rpartition("_")
    kind = f"interface:aximm:1.0 {bus} {signal.upper()}" if bus else f"signal:interrupt:1.0 {name} INTERRUPT"
    lines = [f'(* X_INTERFACE_INFO = "xilinx.com:{kind}" *)']
    known = _PARAMETERS.get(name)
    if known is None and name.endswith("_axi_araddr"):
        known = f"{bus}, {_master(config)}"
    if known is not None:
        lines.append(f'(* X_INTERFACE_PARAMETER = "XIL_INTERFACENAME {known}" *)')
    way = "input " if port.is_input else "output"
    width = f"[{port.width - 1}:0] " if port.width > 1 else ""
    return "\n".join([*(f"  {line}" for line in lines), f"  {way} wire {width}{name}"])


def _inside(port: Port) -> str:
    """Return what a port of `sat` is wired to."""
    if not _masked(port):
        return outside(port.name)
    return f"{outside(port.name)} & ~reset" if port.is_input else f"machine_{port.name}"


def _mask(port: Port) -> list[str]:
    if port.is_input or not _masked(port):
        return []
    return [f"  wire machine_{port.name};", f"  assign {outside(port.name)} = machine_{port.name} & ~reset;"]


def _masked(port: Port) -> bool:
    return port.name.endswith(_MASKED) or port.name == "interrupt"


_PARAMETERS: Final = {
    "interrupt": "interrupt, SENSITIVITY LEVEL_HIGH",
    f"{CONTROL}_awaddr": f"{CONTROL}, PROTOCOL AXI4LITE, ADDR_WIDTH {REGISTER_BITS}, DATA_WIDTH 32",
}
"""Port -> parameters of its interface: once an interface, at one of its ports. The clock's frequency is not among them:
a block design and Vitis set it."""

_HEAD: Final = f"""\
// The machine with the clock, reset and interrupt of a Vitis kernel; written by nmsat.
module {KERNEL} ("""


def _master(config: SatConfig) -> str:
    """Return the parameters of each AXI4 master."""
    return (
        f"PROTOCOL AXI4, ADDR_WIDTH {ADDRESS_BITS}, DATA_WIDTH {config.port_bits}, ID_WIDTH 1, "
        f"READ_WRITE_MODE READ_WRITE, SUPPORTS_NARROW_BURST 0, MAX_BURST_LENGTH {MAX_BURST * config.parts}, "
        f"NUM_READ_OUTSTANDING {UNDER_WAY}, NUM_WRITE_OUTSTANDING {UNDER_WAY}"
    )


def _clocks(buses: str) -> str:
    """Return the declarations of clock and reset. buses: all interfaces, with colons between them."""
    return f"""\
  (* X_INTERFACE_INFO = "xilinx.com:signal:clock:1.0 ap_clk CLK" *)
  (* X_INTERFACE_PARAMETER = "XIL_INTERFACENAME ap_clk, ASSOCIATED_BUSIF {buses}, \
ASSOCIATED_RESET ap_rst_n" *)
  input  wire ap_clk,
  (* X_INTERFACE_INFO = "xilinx.com:signal:reset:1.0 ap_rst_n RST" *)
  (* X_INTERFACE_PARAMETER = "XIL_INTERFACENAME ap_rst_n, POLARITY ACTIVE_LOW" *)
  input  wire ap_rst_n"""


_RESET: Final = """\
  (* ASYNC_REG = "TRUE" *) reg [1:0] reset_sync = 2'b11;
  reg reset = 1'b1;
  always @(posedge ap_clk) begin
    reset_sync <= {reset_sync[0], ~ap_rst_n};
    reset <= reset_sync[1];
  end
"""
