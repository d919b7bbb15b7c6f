"""`sat_kernel` under the names of the ports of `sat`, so that the drivers of the machine drive it too."""

from __future__ import annotations

from typing import Any

from nmsat.hw.release.kernel import outside


class _Low:
    """A low reset under the name of a high one."""

    def __init__(self, handle: Any) -> None:
        self._handle = handle

    @property
    def value(self) -> int:
        """What a high reset would be."""
        return 1 - int(self._handle.value)

    @value.setter
    def value(self, level: int) -> None:
        self._handle.value = 1 - level


class Kernel:
    """The kernel as the machine inside it. dut: a model of `sat_kernel`."""

    def __init__(self, dut: Any) -> None:
        self._dut = dut
        self.clk = dut.ap_clk
        self.rst = _Low(dut.ap_rst_n)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._dut, outside(name))
