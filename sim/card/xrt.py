"""A link to a card with XRT, through the library that `host/sat_host.cpp` of a package becomes.

XRT gives the registers of a user-managed kernel to C++ alone (`xrt::ip`), hence a library of our own:

    g++ -std=c++17 -shared -fPIC -DSAT_LIBRARY -I../registers -I$XILINX_XRT/include sat_host.cpp
        -o libsat_host.so -L$XILINX_XRT/lib -lxrt_coreutil -luuid
"""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Final

from nmsat.dataflow.contract.registers import KERNEL

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

_POINTER, _WORD, _LONG, _TEXT = ctypes.c_void_p, ctypes.c_uint32, ctypes.c_uint64, ctypes.c_char_p

_FUNCTIONS: Final = {
    "sat_open": (_POINTER, [_TEXT, _TEXT, ctypes.c_uint]),
    "sat_close": (None, [_POINTER]),
    "sat_read": (ctypes.c_int, [_POINTER, _WORD, ctypes.POINTER(_WORD)]),
    "sat_write": (ctypes.c_int, [_POINTER, _WORD, _WORD]),
    "sat_buffer": (_POINTER, [_POINTER, _LONG, _WORD]),
    "sat_address": (_LONG, [_POINTER]),
    "sat_upload": (ctypes.c_int, [_POINTER, _POINTER, _LONG]),
    "sat_download": (ctypes.c_int, [_POINTER, _POINTER, _LONG]),
    "sat_free": (None, [_POINTER]),
    "sat_error": (_TEXT, []),
}
"""Function of the library -> what it returns, what it takes."""


class XrtBuffer:
    """A buffer object of XRT."""

    def __init__(self, library: ctypes.CDLL, handle: int) -> None:
        self._library = library
        self._handle = handle
        self.address: int = library.sat_address(handle)

    def upload(self, data: NDArray[np.uint8]) -> None:
        """Copy bytes to the card."""
        _check(self._library, self._library.sat_upload(self._handle, data.ctypes.data, data.size))

    def download(self, data: NDArray[np.uint8]) -> None:
        """Copy bytes from the card."""
        _check(self._library, self._library.sat_download(self._handle, data.ctypes.data, data.size))

    def close(self) -> None:
        """Give the buffer object back."""
        self._library.sat_free(self._handle)


class Xrt:
    """A link to a card. library: libsat_host.so; image: the xclbin; device: number of the card."""

    def __init__(self, library: Path, image: Path, device: int = 0) -> None:
        self._library = ctypes.CDLL(str(library))
        for name, (result, arguments) in _FUNCTIONS.items():
            function = getattr(self._library, name)
            function.restype, function.argtypes = result, arguments
        self._handle = self._library.sat_open(str(image).encode(), KERNEL.encode(), device)
        if not self._handle:
            raise OSError(f"card {device} with {str(image)!r}: {_error(self._library)}")

    def read(self, offset: int) -> int:
        """Return a register."""
        value = _WORD()
        _check(self._library, self._library.sat_read(self._handle, offset, ctypes.byref(value)))
        return value.value

    def write(self, offset: int, value: int) -> None:
        """Write a register."""
        _check(self._library, self._library.sat_write(self._handle, offset, value))

    def buffer(self, size: int, port: int) -> XrtBuffer:
        """Return a buffer object in the memory behind a port, the used ones of the image in their order."""
        handle = self._library.sat_buffer(self._handle, size, port)
        if not handle:
            raise MemoryError(f"{size} bytes of the card: {_error(self._library)}")
        return XrtBuffer(self._library, handle)

    def close(self) -> None:
        """Leave the card; buffers come first."""
        self._library.sat_close(self._handle)


def _error(library: ctypes.CDLL) -> str:
    return library.sat_error().decode(errors="replace")


def _check(library: ctypes.CDLL, code: int) -> None:
    if code:
        raise OSError(f"XRT: {_error(library)}")
