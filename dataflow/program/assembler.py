"""Puts instructions in order and makes them wait for each other where they share buffers or memory.

Every queue finishes its instructions in order, so waiting for one is waiting for all before it. Between two queues
there is one semaphore: the instruction waited for signals it, the one that waits lowers it.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import defaultdict
from dataclasses import dataclass, field
from itertools import permutations
from operator import attrgetter
from typing import TYPE_CHECKING, Final, NamedTuple

from nmsat.dataflow.contract.isa import INSTRUCTION_BITS, QUEUE_OF, Instruction, Opcode, Queue
from nmsat.dataflow.contract.legal import check
from nmsat.dataflow.program.staging import Staging

if TYPE_CHECKING:
    from collections.abc import Iterable

    from nmsat.dataflow.contract.config import SatConfig
    from nmsat.dataflow.program.tensors import Place

LINKS: Final[dict[tuple[Queue, Queue], int]] = {pair: i for i, pair in enumerate(permutations(Queue, 2))}
"""(queue that signals, queue that waits) -> semaphore."""


@dataclass(eq=False, slots=True)
class Node:
    """An instruction in the making: its place in its queue and its masks."""

    opcode: Opcode
    fields: dict[str, int]
    number: int
    label: str
    wait: int = 0
    signal: int = 0

    @property
    def queue(self) -> Queue:
        """The queue that runs it."""
        return QUEUE_OF[self.opcode]

    def instruction(self) -> Instruction:
        """Return it with its masks."""
        return Instruction(self.opcode, {**self.fields, "wait": self.wait, "signal": self.signal})


@dataclass
class _Use:
    """Who wrote a tensor last, and of each queue who has read it last since."""

    writer: Node | None = None
    readers: dict[Queue, Node] = field(default_factory=dict)


@dataclass(frozen=True)
class Code:
    """A program: its instructions, END last, and what each belongs to."""

    instructions: tuple[Instruction, ...]
    labels: tuple[str, ...]

    def encode(self) -> bytes:
        """Return the bytes of the program as they lie in memory."""
        size = INSTRUCTION_BITS // 8
        return b"".join(instruction.encode().to_bytes(size, "little") for instruction in self.instructions)


class Assembler:
    """Collects the instructions of one program, in an order in which they could run one by one."""

    def __init__(self, config: SatConfig) -> None:
        self.config = config
        self.nodes: list[Node] = []
        self.products: set[str] = set()
        # instructions of each queue so far; of each link the last one waited for
        self.counts: dict[Queue, int] = dict.fromkeys(Queue, 0)
        self.waited: dict[tuple[Queue, Queue], int] = dict.fromkeys(LINKS, -1)
        self._uses: dict[tuple[int, int], _Use] = defaultdict(_Use)
        self.act = Ring(config.act_depth)
        self.weight = Ring(config.weight_depth)
        self.capture = Ring(config.sum_depth)
        self.staging = Staging(config.stage_depth)

    def emit(
        self,
        opcode: Opcode,
        fields: dict[str, int],
        label: str,
        *,
        after: Iterable[Node] = (),
        reads: Iterable[Place] = (),
        writes: Iterable[Place] = (),
    ) -> Node:
        """Append an instruction; it waits for `after`, for who wrote what it reads, and for who used what it writes.

        Raises ValueError if it is not legal (`dataflow.contract.legal.check`).
        """
        try:
            check(Instruction(opcode, fields), self.config)
        except ValueError as error:
            raise ValueError(f"{label}, instruction {len(self.nodes)}: {error}") from None
        node = Node(opcode, fields, self.counts[QUEUE_OF[opcode]], label)
        self.counts[node.queue] += 1
        needs = [*after]
        for place in reads:
            use = self._uses[place.key]
            needs += [use.writer] if use.writer else []
        for place in writes:
            use = self._uses[place.key]
            needs += [*use.readers.values(), *([use.writer] if use.writer else [])]
        self._wait(node, needs)
        for place in reads:
            self._uses[place.key].readers[node.queue] = node
        for place in writes:
            self._uses[place.key] = _Use(node)
        self.nodes.append(node)
        return node

    def stored(self, place: Place) -> bool:
        """Whether a store of this program writes a tensor, so far."""
        writer = self._uses[place.key].writer
        return writer is not None and writer.queue is Queue.STORE

    def finish(self) -> Code:
        """Return the program with END behind it."""
        instructions = [node.instruction() for node in self.nodes]
        return Code((*instructions, Instruction(Opcode.END, {})), (*(node.label for node in self.nodes), "end"))

    def _wait(self, node: Node, needs: list[Node]) -> None:
        last: dict[Queue, Node] = {}
        for need in needs:
            if need.queue is not node.queue and (need.queue not in last or need.number > last[need.queue].number):
                last[need.queue] = need
        for queue, need in last.items():
            link = (queue, node.queue)
            if need.number > self.waited[link]:
                self.waited[link] = need.number
                need.signal |= 1 << LINKS[link]
                node.wait |= 1 << LINKS[link]


@dataclass(eq=False, slots=True)
class Block:
    """Part of a buffer: [first, end), who filled it last, who used it last."""

    key: object
    first: int
    end: int
    filled: Node | None = None
    used: Node | None = None


class Room(NamedTuple):
    """A block for a command. fresh: it has to be filled first, and before that `after` must be done."""

    block: Block
    fresh: bool
    after: list[Node]


BLOCKS: Final = 64
"""Most blocks that stand in a buffer. The engine in front may be as many commands ahead, and a semaphore counts them:
those of two buffers together stay below `SEMAPHORE_MAX`."""


class Ring:
    """A buffer whose places are dealt out in turn; remembers what still stands where.

    A block takes at least 1 / `BLOCKS` of the buffer.
    """

    def __init__(self, depth: int) -> None:
        self.depth = depth
        self._next = 0
        self._standing: list[Block] = []  # by their places, which do not overlap
        self._torn: list[Block] = []  # overwritten in part
        self._by_key: dict[object, Block] = {}

    def find(self, key: object) -> Room | None:
        """Return the block of this key if it still stands in the buffer."""
        found = self._by_key.get(key)
        return None if found is None else Room(found, False, [])

    def take(self, key: object, size: int) -> Room:
        """Return a new block of `size` places. Raises ValueError if the buffer is too small."""
        if size > self.depth:
            raise ValueError(f"a block needs {size!r} places; the buffer has {self.depth}")
        size = max(size, -(-self.depth // BLOCKS))
        first = self._next if self._next + size <= self.depth else 0
        end = self._next = first + size
        low, high = self._met(first, end)
        met = self._standing[low:high]
        for block in met:
            if self._by_key.get(block.key) is block:
                del self._by_key[block.key]
        after = _nodes(met)
        if self._torn:
            after += _nodes(block for block in self._torn if block.first < end and first < block.end)
        # of what is wholly covered whoever comes later waits for the new block
        self._torn = [block for block in (*self._torn, *met) if not (block.first >= first and block.end <= end)]
        block = self._by_key[key] = Block(key, first, end)
        self._standing[low:high] = [block]
        return Room(block, True, after)

    def _met(self, first: int, end: int) -> tuple[int, int]:
        """Return the range of the standing blocks that share places with [first, end)."""
        standing = self._standing
        low = bisect_right(standing, first, key=_end)
        return low, bisect_left(standing, end, lo=low, key=_first)


_first, _end = attrgetter("first"), attrgetter("end")


def _nodes(blocks: Iterable[Block]) -> list[Node]:
    """Return who filled and who used the blocks last."""
    return [node for block in blocks for node in (block.filled, block.used) if node is not None]
