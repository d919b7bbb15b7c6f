"""All files of a configuration for a user of Xilinx tools: Verilog with its lists, register map, scripts, host."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from nmsat.dataflow.contract.registers import KERNEL
from nmsat.hw.release.kernel import kernel_verilog
from nmsat.hw.release.register_map import register_files
from nmsat.hw.release.waves import wave_files
from nmsat.hw.release.xilinx import FOLDER, xilinx_files

if TYPE_CHECKING:
    from collections.abc import Mapping

    from nmsat.dataflow.contract.config import SatConfig
    from nmsat.hw.release.devices import Device

FILE_LIST: Final = "files.f"
"""List of the Verilog files in the order in which tools read them."""

NAME_MAP: Final = "names.json"
"""Which module is in which file and which instances it holds: paths for constraints, probes and waves."""

REGISTER_FOLDER: Final = "registers"
"""Folder of the register map."""

HOST_FOLDER: Final = "host"
"""Folder of the host program."""

WAVES: Final = "waves"
"""Folder of what shows traces."""

HOST_SOURCES: Final = Path(__file__).with_name("host")
"""Where the host program stands in this project."""

OUTPUTS: Final = (
    "sat*.v",
    FILE_LIST,
    NAME_MAP,
    f"{REGISTER_FOLDER}/*",
    f"{FOLDER}/*",
    f"{HOST_FOLDER}/*",
    f"{WAVES}/*",
)
"""Names of the files of a package; which leaves there are is known once the circuit has been elaborated."""

_MODULE: Final = re.compile(r"^module (\\?\S+?) ?\((.*?)^endmodule$", re.MULTILINE | re.DOTALL)
_INSTANCE: Final = re.compile(r"^  (\\?[\w.$]+) +(\\?[\w.$\[\]]+) +\($", re.MULTILINE)


def package_files(config: SatConfig, board: Device, verilog: Mapping[str, str]) -> dict[str, str]:
    """Return file name -> content of a package. verilog: of `rtl_files`; the kernel around `sat` is added to it."""
    modules = {**verilog, f"{KERNEL}.v": kernel_verilog(config)}
    host = {path.name: path.read_text(encoding="utf-8") for path in sorted(HOST_SOURCES.glob("*.cpp"))}
    return {
        **modules,
        FILE_LIST: file_list(tuple(modules)),
        NAME_MAP: json.dumps(name_map(modules), indent=1) + "\n",
        **{f"{REGISTER_FOLDER}/{name}": text for name, text in register_files(config.ports).items()},
        **{f"{FOLDER}/{name}": text for name, text in xilinx_files(config, board, tuple(modules)).items()},
        **{f"{HOST_FOLDER}/{name}": text for name, text in host.items()},
        **{f"{WAVES}/{name}": text for name, text in wave_files(verilog).items()},
    }


def file_list(names: tuple[str, ...]) -> str:
    """Return `files.f`, which Verilator, Icarus and slang read with -f; its first line names the top."""
    return "".join([f"// top module: {KERNEL}\n", *(f"{name}\n" for name in names)])


def name_map(modules: Mapping[str, str]) -> dict[str, Any]:
    """Return the top, and for each module its file and instances (instance -> module), from the Verilog itself."""
    found = {
        name: {"file": file, "instances": instances}
        for file, text in modules.items()
        for name, (_, instances) in module_bodies(text).items()
    }
    return {"top": KERNEL, "modules": found}


def module_bodies(text: str) -> dict[str, tuple[str, dict[str, str]]]:
    """Return module -> its body and its instances (instance -> module), in the order of the text."""
    return {
        _plain(name): (body, {_plain(instance): _plain(module) for module, instance in _INSTANCE.findall(body)})
        for name, body in _MODULE.findall(text)
    }


def _plain(name: str) -> str:
    return name.removeprefix("\\")
