"""Head and tail of the array, cycle by cycle: the registers of `hw.array.head` and `hw.array.tail`."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nmsat.dataflow.contract.config import INTERLEAVE
from nmsat.dataflow.contract.limits import COMMANDS_IN_FLIGHT, SEED_DELAY
from nmsat.dataflow.contract.registers import Wait
from nmsat.dataflow.contract.timing import (
    drain_cycles,
    flush_cycles_os,
    flush_cycles_ws,
    load_cycles,
    seed_cycles,
    window_cycles,
)
from nmsat.sim.parts.state import Key, Registers

if TYPE_CHECKING:
    from nmsat.dataflow.contract.config import SatConfig
    from nmsat.dataflow.contract.isa import Compute


@dataclass(frozen=True)
class Token:
    """One window on its way down the row ports; fields as in `dataflow.contract.links.TOKEN`."""

    ws: bool
    n: int
    m: int
    a: int
    compute: bool
    first: bool
    last: bool
    fetch: bool
    rebase: bool
    base: int
    wload: bool
    wflip: bool


@dataclass(frozen=True)
class Begin:
    """A command starts: results per column, and whether they stay."""

    count: int
    keep: bool


_NONE, _OPERAND, _FLUSH, _DRAIN, _WEIGHT, _DEPENDENCY, _TAIL = Wait  # looking up a member takes long


class Head(Registers):
    """Registers of `hw.array.head.Head`. Outputs hold the values visible in the present cycle; `tick` ends the cycle.

    requests: follow the requests for pairs and seeds too; windows do not depend on them.
    """

    REGISTERS = (
        *("token", "begin", "_current", "_shape", "_active", "_left", "_fresh", "_loaded"),
        *("_pace", "_drain", "_weight_busy", "_first_sums", "_last_sums", "_flush"),
    )

    def __init__(self, config: SatConfig, *, requests: bool = True) -> None:
        self._config = config
        self._requests = requests
        self.token: Token | None = None
        self.begin: Begin | None = None
        self.weight: tuple[bool, int] = (False, 0)
        self._current: Compute | None = None
        self._shape: tuple[bool, int, int, int] | None = None
        self._active = False
        self._left = 0
        self._fresh = False
        self._loaded = False
        self._pace = self._drain = self._weight_busy = self._flush = 0
        self._first_sums = self._last_sums = 0  # cycles until the previous command's first (last) sums can be seeds
        self._weights = _WeightSequence(config)
        self._seeds = _SeedSequence(config)

    def key(self) -> Key:
        """Return the state, without requests; what a command that has ended left behind is not part of it."""
        if not self._active:
            self._current, self._left, self._fresh, self._loaded = None, 0, False, False
            self._shape = self._shape if self._flush else None
        return super().key()

    @property
    def idle(self) -> bool:
        """No command in progress at the head."""
        return not self._active

    @property
    def seed(self) -> tuple[bool, int]:
        """Seed request to column 0."""
        return self._seeds.request

    def decide(self, nxt: Compute | None, tail_ready: bool) -> tuple[bool, bool, Wait]:
        """Return (a computing window starts, a loading window starts, why none does) for this cycle."""
        if self._pace:
            return False, False, _NONE
        if self._active:
            wait = self._wait_active(nxt, tail_ready)
            return wait is _NONE, False, wait
        if nxt is None:
            return False, False, _OPERAND
        if nxt.shape != self._shape and self._flush:
            return False, False, _FLUSH
        if nxt.ws and self._weight_busy:
            return False, False, _WEIGHT
        return False, True, _NONE

    def _following(self, nxt: Compute | None) -> bool:
        return nxt is not None and nxt.shape == self._shape

    def _wait_active(self, nxt: Compute | None, tail_ready: bool) -> Wait:
        cur = self._current
        assert cur is not None
        ends = self._left == 1
        if self._fresh and not tail_ready:
            return _TAIL
        if not cur.ws and ends and self._drain:
            return _DRAIN
        if cur.ws and cur.seed and ((self._fresh and self._first_sums) or (ends and self._last_sums)):
            return _DEPENDENCY
        if cur.ws and self._following(nxt) and not self._loaded and ends and self._weight_busy:
            return _WEIGHT
        return _NONE

    def tick(self, nxt: Compute | None, tail_ready: bool) -> tuple[bool, Wait]:
        """End the cycle; return whether `nxt` was taken, and why nothing started."""
        go, prime, wait = self.decide(nxt, tail_ready)
        weight_free = self._weight_busy == 0
        self.skip(1)
        if self._requests:
            self._weights.tick()
            self._seeds.tick()
        taken = False
        if prime:
            assert nxt is not None
            self._start_prime(nxt)
            taken = True
        elif go:
            taken = self._start_window(nxt, weight_free)
        if self._requests:
            self.weight = self._weights.output()
        return taken, wait

    def rest(self, wait: Wait) -> int:
        """Return for how many cycles, from the present one on, no window starts for the reason `wait`.

        wait: what `tick` has just returned; NONE: a window has started, and for its length nothing else does.
        """
        if wait is _DEPENDENCY:
            return max(self._first_sums if self._fresh else 0, self._last_sums if self._left == 1 else 0)
        if wait is _NONE:
            return self._pace
        if wait is _DRAIN:
            return self._drain
        if wait is _WEIGHT:
            return self._weight_busy
        return self._flush if wait is _FLUSH else 0

    def skip(self, cycles: int) -> None:
        """End so many cycles in which nothing starts: those of `rest`, or idle ones without a command."""
        self._pace = max(0, self._pace - cycles)
        self._drain = max(0, self._drain - cycles)
        self._weight_busy = max(0, self._weight_busy - cycles)
        self._first_sums = max(0, self._first_sums - cycles)
        self._last_sums = max(0, self._last_sums - cycles)
        self._flush = max(0, self._flush - cycles)
        self.token = self.begin = None

    @property
    def left(self) -> int:
        """Windows of the command in progress that have not started, 0 without one."""
        return self._left if self._active else 0

    @property
    def window(self) -> int:
        """Cycles of a window of the command in progress."""
        cur = self._current
        return window_cycles(self._config, cur.n, cur.m, cur.a) if self._active and cur is not None else 1

    @property
    def alike(self) -> int:
        """How many windows of the command in progress can only start one behind the other, none of them the last."""
        cur = self._current
        return self._left - 1 if self._active and not self._fresh and cur is not None and not cur.ws else 0

    def repeat(self, windows: int) -> int:
        """End the cycles of so many windows that are alike, from one place in a window to the same place.

        Return N, kept elements of a group.
        """
        assert self._current is not None
        flush, pace = self._flush, self._pace
        self.skip(windows * self.window)
        self._left -= windows
        self._flush, self._pace = flush, pace
        return self._current.n

    def _start_prime(self, nxt: Compute) -> None:
        self.token = self._token(nxt, compute=False, first=False, last=False, base=nxt.act_base, wload=nxt.ws)
        if nxt.ws:
            self._load_weights(nxt)
        self._take(nxt)
        self._active = True

    def _start_window(self, nxt: Compute | None, weight_free: bool) -> bool:
        cur, config = self._current, self._config
        assert cur is not None
        ends, following = self._left == 1, self._following(nxt)
        chain = ends and following
        wload = cur.ws and following and not self._loaded and weight_free
        base = nxt.act_base if chain and nxt else None
        first = self._fresh and (cur.ws or not cur.seed)  # OS: the sums are still in place
        self.token = self._token(cur, compute=True, first=first, last=ends, base=base, wload=wload)
        if self._fresh:
            self.begin = Begin(cur.windows * INTERLEAVE if cur.ws else INTERLEAVE * config.rows, cur.keep)
        self._restart_timers(cur, ends)
        if self._requests and cur.ws:
            self._seeds.start(self._fresh, cur.seed)
        elif self._requests:
            self._weights.start_window(cur, self._fresh)
        if wload and nxt:
            self._load_weights(nxt)
        if chain and nxt:
            self._take(nxt)
        else:
            self._fresh = False
            self._left -= 1
            self._loaded = not ends and (self._loaded or wload)
            self._active = not ends
        return chain

    def _restart_timers(self, cur: Compute, ends: bool) -> None:
        config = self._config
        if cur.ws:
            self._flush = flush_cycles_ws(config, cur.n)
            if self._fresh:
                self._first_sums = seed_cycles(config, cur.n) - 1
            if ends:
                self._last_sums = seed_cycles(config, cur.n) - 1
        else:
            self._flush = flush_cycles_os(config, cur.n)
            if ends:
                self._drain = drain_cycles(config) - 1

    def _load_weights(self, nxt: Compute) -> None:
        if self._requests:
            self._weights.start_load(nxt)
        self._weight_busy = load_cycles(self._config, nxt.n) - 1

    def _take(self, nxt: Compute) -> None:
        self._current, self._shape = nxt, nxt.shape
        self._left, self._fresh, self._loaded = nxt.windows, True, False

    def _token(self, shape: Compute, *, compute: bool, first: bool, last: bool, base: int | None, wload: bool) -> Token:
        self._pace = window_cycles(self._config, shape.n, shape.m, shape.a) - 1
        return Token(
            ws=shape.ws,
            n=shape.n,
            m=shape.m,
            a=shape.a,
            compute=compute,
            first=first,
            last=last,
            fetch=base is not None or not last,
            rebase=base is not None,
            base=base or 0,
            wload=wload,
            wflip=first and shape.ws,
        )


class _WeightSequence:
    """Requests for pairs (`hw.array.head.Head._weight_sequence`)."""

    def __init__(self, config: SatConfig) -> None:
        self._rows = config.rows
        self._mask = config.weight_depth - 1
        self._request = self._delayed = (False, 0)
        self._left = self._hold = 0
        self._a = 1
        self._ws = False

    def tick(self) -> None:
        self._delayed = self._request
        address = self._request[1]
        if self._left:
            self._left -= 1
            if self._hold == 0:
                address = (address + 1) & self._mask
                self._hold = self._a - 1
            else:
                self._hold -= 1
            self._request = (True, address)
        else:
            self._request = (False, address)

    def start_window(self, cur: Compute, fresh: bool) -> None:
        """Begin an OS window; called after `tick` of the same cycle."""
        address = cur.wgt_base if fresh else self._delayed[1] + 1
        self._begin(cur, address, INTERLEAVE * cur.n, ws=False)

    def start_load(self, nxt: Compute) -> None:
        """Begin a WS load of the whole array; called after `tick` of the same cycle."""
        self._begin(nxt, nxt.wgt_base, INTERLEAVE * nxt.n * self._rows, ws=True)

    def _begin(self, command: Compute, address: int, steps: int, *, ws: bool) -> None:
        self._request = (True, address & self._mask)
        self._left, self._a, self._hold, self._ws = steps - 1, command.a, command.a - 1, ws

    def output(self) -> tuple[bool, int]:
        """Request that column 0 sees."""
        return self._delayed if self._ws else self._request


class _SeedSequence:
    """Requests for seeds (`hw.array.head.Head._seed_sequence`)."""

    def __init__(self, config: SatConfig) -> None:
        self._mask = config.sum_depth - 1
        self._delay: deque[tuple[bool, bool] | None] = deque([None] * SEED_DELAY, SEED_DELAY)
        self._address = self._count = 0
        self._running = self._reads = False

    @property
    def request(self) -> tuple[bool, int]:
        return (self._running and self._reads, self._address)

    def start(self, fresh: bool, seed: bool) -> None:
        """A WS window starts in the cycle that `tick` has just ended."""
        self._delay[-1] = (fresh, seed)

    def tick(self) -> None:
        due = self._delay.popleft()
        self._delay.append(None)
        if self._running:
            self._address = (self._address + 1) & self._mask
        if due is not None:
            self._running, self._reads = True, due[1]
            self._count = 0
            if due[0]:
                self._address = 0
        else:
            if self._count == 7:
                self._running = False
            self._count = (self._count + 1) % 8


class Tail:
    """Registers of `hw.array.tail.Tail`."""

    def __init__(self) -> None:
        self._queue: deque[Begin] = deque()
        self._done = 0
        self.control: tuple[bool, int] = (False, 0)
        self.ended = False

    @property
    def ready(self) -> bool:
        """Whether another command may start."""
        return len(self._queue) < COMMANDS_IN_FLIGHT - 1

    def tick(self, begin: Begin | None, arrives: bool) -> None:
        """End the cycle in which column 0 had (or had not) a result at its bottom."""
        if arrives and not self._queue:
            raise RuntimeError("a result reached the bottom of column 0 without a command")
        self.control = (arrives and self._queue[0].keep, self._done)
        self.ended = False
        if arrives:
            self._done += 1
            if self._done == self._queue[0].count:
                self.ended = True
                self._done = 0
                self._queue.popleft()
        if begin is not None:
            self._queue.append(begin)
