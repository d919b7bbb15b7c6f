"""The left edge of one row, cycle by cycle: the registers of `hw.array.row_port`."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from nmsat.dataflow.contract.config import INTERLEAVE
from nmsat.dataflow.contract.limits import DRAIN_DELAY, NO_STEP

if TYPE_CHECKING:
    from nmsat.dataflow.contract.config import SatConfig
    from nmsat.sim.array.head import Token


class RowControl(NamedTuple):
    """Control of one row for one cycle; fields as in `dataflow.contract.links.control`, in that order."""

    t4: int = 0
    awe: int = 0
    arb: int = 0
    v: int = 0
    first: int = 0
    last: int = 0
    ibits: int = 0
    ws: int = 0
    wwe: int = 0
    wrb: int = 0
    wra: int = 0
    dre: int = 0
    dra: int = 0


class RowPort:
    """Registers of `hw.array.row_port.RowPort`. Attributes without underscore are its outputs in the present cycle."""

    def __init__(self, config: SatConfig) -> None:
        self._lanes = config.act_lanes
        self._depth = config.act_depth
        self.buffer = np.zeros((config.act_depth, config.act_lanes), np.float16)
        self.token: Token | None = None
        self.drain = False
        self.event = False
        self.act = np.zeros(config.act_lanes, np.float32)
        self.ctl = RowControl()
        self._early = RowControl()
        self._read = np.zeros(config.act_lanes, np.float16)
        self._window: Token | None = None
        self._step = NO_STEP
        self._bank = self._weight_bank = self._toggle = 0
        self._address = 0
        self._history: deque[bool] = deque([False] * (DRAIN_DELAY - 1), DRAIN_DELAY - 1)
        self._running = False
        self._count = 0

    def tick(self, token: Token | None, drain: bool) -> None:
        """End the cycle in which `token` and `drain` stood at the inputs."""
        control = self._control()
        window, step = self._window, self._step
        self._tick_drain(window, control, drain)
        self._hand_on(token, window, step)
        self.act = self._read.astype(np.float32)
        self._read = self.buffer[self._address]
        self.ctl, self._early = self._early, control
        self._toggle ^= 1
        if token is not None:
            self._window, self._step = token, 0
            self._bank ^= 1
            self._weight_bank ^= token.wflip
        elif step != NO_STEP:
            self._step += 1
        if token is not None and token.rebase:
            self._address = token.base & (self._depth - 1)
        elif control.awe:
            self._address = (self._address + 1) & (self._depth - 1)

    def _control(self) -> RowControl:
        window, step = self._window, self._step
        dre, dra = int(self._running), self._count
        if window is None:  # after reset: an OS row without a window, which still writes and reads weight entry 0
            return RowControl(t4=step & 15, arb=self._bank, wwe=1, wrb=self._toggle, dre=dre, dra=dra)
        stepping = step < INTERLEAVE * window.n
        beats = window.a * window.m // self._lanes
        return RowControl(
            t4=step & 15,
            awe=int(window.fetch and step < beats),
            arb=self._bank,
            v=int(window.compute and stepping),
            first=int(step < INTERLEAVE and (window.ws or window.first)),
            last=int(step // INTERLEAVE == window.n - 1 and (window.ws or window.last)),
            ibits=(step % window.a) * window.m & (16 * self._lanes - 1),
            ws=int(window.ws),
            wwe=int(not window.ws or (window.wload and stepping)),
            wrb=self._weight_bank if window.ws else self._toggle,
            wra=(step // window.a) & 15 if window.ws else 0,
            dre=dre,
            dra=dra,
        )

    def _tick_drain(self, window: Token | None, control: RowControl, drain: bool) -> None:
        start = self.event if window is not None and window.ws else drain
        ended = bool(control.v and control.last and self._step % INTERLEAVE == 0)
        self.drain = self._running and self._count == INTERLEAVE - 1
        if start:
            self._running, self._count = True, 0
        else:
            if self._count == INTERLEAVE - 1:
                self._running = False
            self._count = (self._count + 1) % INTERLEAVE
        self._history.append(ended)
        self.event = self._history[0]

    def _hand_on(self, token: Token | None, window: Token | None, step: int) -> None:
        if token is not None and not token.ws:
            self.token = token
        elif window is not None and window.ws and step == INTERLEAVE * window.n - 1:
            self.token = window
        else:
            self.token = None
