"""The compute engine, cycle by cycle: control of `hw.array.compute` without data (docs/machine/array.md, "Compute")."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

from nmsat.dataflow.contract import isa
from nmsat.dataflow.contract.config import INTERLEAVE
from nmsat.dataflow.contract.limits import COMMANDS_IN_FLIGHT
from nmsat.dataflow.contract.registers import Wait
from nmsat.dataflow.contract.timing import last_column, last_result_os, last_result_ws
from nmsat.sim.array.head import Head
from nmsat.sim.parts.state import Key, Registers

if TYPE_CHECKING:
    from nmsat.dataflow.contract.config import SatConfig
    from nmsat.sim.array.head import Begin, Token


_NONE, _OPERAND = Wait.NONE, Wait.OPERAND  # looking up a member takes long

NEVER: Final = 1 << 62
"""Cycles until something that does not happen."""


class ComputeEngine(Registers):
    """Registers of `hw.array.compute.ComputeEngine`. Properties describe the present cycle; `tick` ends it."""

    REGISTERS = ("_head", "_command", "_token", "_begin", "_rest", "_reason", "_due", "_inside")

    def __init__(self, config: SatConfig) -> None:
        self._config = config
        self._last_column = last_column(config)
        self._head = Head(config, requests=False)
        self._command: isa.Compute | None = None
        self._token: Token | None = None
        self._begin: Begin | None = None
        self._now = 0
        self._rest = 0  # cycles in which no window can start ...
        self._reason = _NONE  # ... and why
        self._owed = 0  # cycles that the head has not been told of
        self._due: deque[int] = deque()  # results per column of commands that have started, as in `hw.array.tail`
        self._arrivals: deque[tuple[int, int]] = deque()  # last cycle and number of results at the bottom of column 0
        self._done: deque[int] = deque()  # cycles in which done is shown
        self._inside = 0
        self._wakes = 0  # until this cycle only timers move

    @property
    def ready(self) -> bool:
        """Whether an instruction can start."""
        return self._command is None

    @property
    def busy(self) -> bool:
        """Whether an instruction is inside; until the cycle of its done."""
        return self._inside > 0

    @property
    def done(self) -> bool:
        """Whether the oldest instruction is done."""
        return bool(self._done) and self._done[0] == self._now

    @property
    def cause(self) -> Wait:
        """Why no window starts in this cycle."""
        if self._rest:
            return self._reason
        if self._command is None and self._head.idle:
            return _OPERAND
        self._tell()
        return self._head.decide(self._command, self._tail_ready)[2]

    @property
    def token(self) -> Token | None:
        """The window that starts in this cycle."""
        return self._token

    @property
    def steps(self) -> int:
        """Multiply-adds of each element in the window that starts in this cycle."""
        return INTERLEAVE * self._token.n if self._token is not None and self._token.compute else 0

    def tick(self, start: isa.Instruction | None) -> None:
        """End the cycle; start: the instruction taken in it."""
        if self._now < self._wakes and start is None:
            self._rest -= 1
            self._owed += 1
            self._now += 1
            return
        if self._done and self._done[0] == self._now:
            self._done.popleft()
            self._inside -= 1
        tail_ready = self._tail_ready
        if self._begin is not None:
            self._due.append(self._begin.count)
        if self._arrivals and self._arrivals[0][0] == self._now:
            self._count(self._arrivals.popleft()[1])
        if self._tick_head(tail_ready):
            self._command = None
        if start is not None:
            self._command = isa.Compute.of(start)
            self._inside += 1
        self._now += 1
        quiet = self._rest and self._token is None and self._begin is None
        self._wakes = self._now + min(self._rest, self._undisturbed) if quiet else 0

    @property
    def _tail_ready(self) -> bool:
        return len(self._due) < COMMANDS_IN_FLIGHT - 1

    def _count(self, results: int) -> None:
        """Results have reached the bottom of column 0, the last of them in the present cycle."""
        self._due[0] -= results
        if not self._due[0]:
            self._due.popleft()
            self._done.append(self._now + self._last_column + 2)

    def _tick_head(self, tail_ready: bool) -> bool:
        """Return whether the head took the command."""
        self._token = self._begin = None
        if self._rest:
            self._rest -= 1
            self._owed += 1
            return False
        head = self._head
        if self._command is None and head.idle:
            self._owed += 1
            return False
        self._tell()
        taken, self._reason = head.tick(self._command, tail_ready)
        self._rest, self._token, self._begin = head.rest(self._reason), head.token, head.begin
        token = head.token
        if token is not None and token.compute and (token.ws or token.last):
            self._expect(token)
        return taken

    def _expect(self, token: Token) -> None:
        """Note when the results of the window that starts in the next cycle reach the bottom of column 0."""
        config = self._config
        leaves = last_result_ws(config, token.n) if token.ws else last_result_os(config, token.n)
        count = INTERLEAVE if token.ws else INTERLEAVE * config.rows
        self._arrivals.append((self._now + leaves - self._last_column, count))

    @property
    def horizon(self) -> int:
        """Cycles, from the present one on, in which surely no command is taken or done if none is offered."""
        now, head = self._now, self._head
        found = self._done[0] - now if self._done else NEVER
        left = self._due[0] if self._due else 0
        for cycle, results in self._arrivals:
            left -= results
            if left <= 0:
                found = min(found, cycle - now + self._last_column + 2)
                break
        if head.left:
            return min(found, self._rest + (head.left - 1) * head.window)
        return found if self._command is None else 0

    @property
    def _quiet(self) -> int:
        """Cycles, from the present one on, in which only timers move."""
        if self._token is not None or self._begin is not None:
            return 0
        idle = self._command is None and self._head.idle
        return min(self._rest or (NEVER if idle else 0), self._undisturbed)

    @property
    def _undisturbed(self) -> int:
        """Cycles, from the present one on, before results arrive or a command is done."""
        now = self._now
        arrival = self._arrivals[0][0] - now if self._arrivals else NEVER
        return min(arrival, self._done[0] - now if self._done else NEVER)

    def advance(self, cycles: int, causes: list[int]) -> tuple[int, int]:
        """End so many cycles without a start; count their causes; return the windows and steps that began in them."""
        windows = steps = self._wakes = 0
        while cycles:
            quiet = min(self._quiet, cycles)
            if not quiet:
                causes[self.cause] += 1
                windows += self.steps > 0
                steps += self.steps
                self.tick(None)
                cycles -= 1
                continue
            window = self._head.window
            alike = min(self._head.alike, min(cycles, self._undisturbed) // window) if self._rest else 0
            if alike > 0:
                self._tell()
                current = self._head.repeat(alike)
                quiet = alike * window
                windows += alike
                steps += alike * INTERLEAVE * current
                causes[_NONE] += quiet
            else:
                causes[self.cause] += quiet
                self._rest -= min(self._rest, quiet)
                self._owed += quiet
            self._now += quiet
            cycles -= quiet
        return windows, steps

    def key(self) -> Key:
        """Return the state; results and ends count from the present cycle."""
        self._tell()
        self._reason = self._reason if self._rest else _NONE
        arrivals = tuple([(cycle - self._now, results) for cycle, results in self._arrivals])
        return (*super().key(), arrivals, tuple([cycle - self._now for cycle in self._done]))

    def restore(self, key: Key) -> None:
        """Return to a state that `key` gave."""
        super().restore(key[:-2])
        self._owed = self._now = self._wakes = 0
        self._arrivals, self._done = deque(key[-2]), deque(key[-1])

    def _tell(self) -> None:
        """Let the timers of the head catch up."""
        if self._owed:
            self._head.skip(self._owed)
            self._owed = 0
