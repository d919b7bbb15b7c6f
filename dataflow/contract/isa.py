"""Instructions of SAT: one layout for the assembler, the simulator and the circuit (docs/machine/index.md).

An instruction is four configuration words of 128 bits, one beat of memory. Offsets are counted in beats of 64 bytes
from the start of a region; differences of offsets are signed and wrap (two's complement).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Final

from nmsat.algorithms.core.ranges import MAX_SHIFT
from nmsat.dataflow.contract.codes import codes, group_size, kept, rectangle_rows
from nmsat.dataflow.contract.config import INTERLEAVE
from nmsat.dataflow.contract.fields import Field, WordLayout

if TYPE_CHECKING:
    from nmsat.dataflow.contract.codes import FieldSource

INSTRUCTION_BITS: Final = 512
"""Bits of an instruction: four configuration words of 128 bits."""

BEAT_BYTES: Final = 64
"""Bytes of a beat, of an instruction, and the alignment of all tensors."""

LANES: Final = 16
"""Pairs of a packed beat, weights of an update beat: columns of a block."""

HALVES: Final = 32
"""binary16 numbers of a beat."""

REGIONS: Final = 4
"""Regions of memory that the host opens for a run."""

SEMAPHORES: Final = 16
"""Counters by which instructions of different queues wait for each other."""

SEMAPHORE_MAX: Final = 255
"""Largest value of a semaphore; one signal more is an error."""

OFFSET_BITS: Final = 34
"""Bits of an offset, in beats: 1 TiB of a region."""

OFFSET_MASK: Final = (1 << OFFSET_BITS) - 1
"""Largest offset; sums of offsets wrap behind it."""

SHIFT_BITS: Final = MAX_SHIFT.bit_length()
"""Bits of the exponent of the loss scale."""

STEP_BITS: Final = 22
SIZE_BITS: Final = 12


class Opcode(IntEnum):
    """What an instruction does; 0 is none, so that cleared memory is no program."""

    LOAD_ACT = 1
    LOAD_WGT = 2
    COMPUTE = 3
    STORE = 4
    UPDATE = 5
    STAGE = 6
    END = 15


class Queue(IntEnum):
    """Engines that work side by side, each through its own instructions in order."""

    LOAD = 0
    COMPUTE = 1
    STORE = 2
    UPDATE = 3


QUEUE_OF: Final[dict[Opcode, Queue]] = {
    Opcode.LOAD_ACT: Queue.LOAD,
    Opcode.LOAD_WGT: Queue.LOAD,
    Opcode.STAGE: Queue.LOAD,
    Opcode.COMPUTE: Queue.COMPUTE,
    Opcode.STORE: Queue.STORE,
    Opcode.UPDATE: Queue.UPDATE,
}


class ActMode(IntEnum):
    """How a beat of an activation tensor meets the array (docs/machine/load.md)."""

    OS_ROWS = 0  # a beat holds 32 k of one tile row, output stationary
    OS_COLUMNS = 1  # a beat holds 32 tile rows at one k (transposed operand), output stationary
    WS_ROWS = 2  # a beat holds 32 k of one tile row, weight stationary


class Side(IntEnum):
    """Second operand of a store, row by row beside the results."""

    NONE = 0
    MASK = 1  # binary16: results pass where it is above 0 or NaN (backward ReLU)
    TILE16 = 2  # binary16, added
    TILE32 = 3  # binary32, added (bias: all steps 0)


class ErrorCode(IntEnum):
    """Why a run ended."""

    NONE = 0
    OPCODE = 1  # unknown opcode
    FIELD = 2  # a field, or fields together, out of range
    REGION = 3  # an access outside its region, or without the right to write
    READ = 4  # the memory answered a read with an error
    WRITE = 5  # ... a write
    DEADLOCK = 6  # every queue waits for a semaphore that nobody will signal
    NO_END = 7  # the program's last instruction is not END
    SEMAPHORE = 8  # a semaphore was signalled beyond 255
    TIMEOUT = 9  # memory has moved nothing of what it owes for as many cycles as register `watchdog` says


def _walk(prefix: str, what: str) -> tuple[Field, ...]:
    """Offsets of a walk over pixels: where it starts, and how far it is to the next pixel, line and image."""
    return (
        Field(f"{prefix}region", 2, f"region of {what}"),
        Field(f"{prefix}at", OFFSET_BITS, f"offset of the first row's {what}"),
        Field(f"{prefix}line_at", OFFSET_BITS, "offset at x = 0 of its line"),
        Field(f"{prefix}image_at", OFFSET_BITS, "offset at x = 0, y = 0 of its image"),
        Field(f"{prefix}x_step", STEP_BITS, "beats from pixel to pixel", signed=True),
        Field(f"{prefix}y_step", STEP_BITS, "beats from line to line", signed=True),
        Field(f"{prefix}image_step", STEP_BITS, "beats from image to image", signed=True),
    )


def _size(name: str, doc: str, bits: int = SIZE_BITS) -> Field:
    return Field(name, bits, doc)


_OUTPUT_WALK: Final = (
    _size("width", "pixels of a line of the walk; 0: one endless line"),
    _size("height", "lines of an image of the walk (1 or more; ignored if width is 0)"),
    _size("x0", "pixel of the first row in its line"),
    _size("y0", "line of the first row in its image"),
)


def _instruction(opcode: Opcode, *fields: Field) -> WordLayout:
    head = (
        Field("opcode", 4, f"{int(opcode)}: {opcode.name}"),
        Field("wait", SEMAPHORES, "semaphores that must be above 0 and are lowered by 1 before it starts"),
        Field("signal", SEMAPHORES, "semaphores that are raised by 1 when it is done"),
    )
    spare = INSTRUCTION_BITS - sum(field.bits for field in (*head, *fields))
    return WordLayout(f"{opcode.name} instruction", (*head, *fields, Field("zero", spare, "always 0")))


COMMAND: Final = WordLayout(
    "command of the array",
    (
        Field("ws", 1, "0 output stationary, 1 weight stationary"),
        Field("n_less_1", 4, "kept elements of a group, N - 1"),
        Field("log2_m_less_1", 2, "log2 of the group size M, less 1: M in 2, 4, 8, 16"),
        Field("log2_a", 2, "log2 of the rows a of the interleave rectangle; b = 8 / a"),
        Field("windows", 16, "OS: groups along K; WS: row blocks. At least 1"),
        Field("act_base", 16, "first beat of the tile in the activation buffers"),
        Field("wgt_base", 16, "first pair of the tile in the weight buffers"),
        Field("seed", 1, "chains continue from the sums of the previous command, which has kept them"),
        Field("keep", 1, "sums stay, for the next command, instead of leaving"),
    ),
)
"""What the array takes of a COMPUTE: its fields up to `keep`."""

INSTRUCTIONS: Final[dict[Opcode, WordLayout]] = {
    Opcode.LOAD_ACT: _instruction(
        Opcode.LOAD_ACT,
        Field("mode", 2, "0 OS rows, 1 OS columns, 2 WS rows"),
        Field("log2_m_less_1", 2, "log2 of the group size M, less 1"),
        Field("log2_a", 2, "log2 of the rows a of the interleave rectangle"),
        Field("base", 16, "place of the first window in the activation buffers, beats of a row"),
        Field("rows", 16, "tile rows: OS at most a R, WS at most 65535. At least 1"),
        Field("k", 16, "elements along the reduction. At least 1"),
        Field("staged", 1, "beats come from the staging buffer: offsets count in it, modulo its depth"),
        Field("windowed", 1, "rows (mode 1: the reduction) walk over the pixels of an image; 0: one endless line"),
        *_walk("", "operand"),
        *_OUTPUT_WALK,
        Field("ix0", SIZE_BITS + 1, "input column of the first pixel", signed=True),
        Field("iy0", SIZE_BITS + 1, "input line of the first pixel", signed=True),
        Field("ix_line", SIZE_BITS + 1, "input column at x = 0", signed=True),
        Field("iy_image", SIZE_BITS + 1, "input line at y = 0", signed=True),
        Field("ix_step", 4, "input columns per pixel"),
        Field("iy_step", 4, "input lines per line"),
        _size("in_width", "columns of the input; outside is +0 and not read"),
        _size("in_height", "lines of the input"),
        Field("beside", 1, "staged: it reads nothing that the last STAGE in front brings, and does not wait for it"),
    ),
    Opcode.STAGE: _instruction(
        Opcode.STAGE,
        Field("region", 2, "region of the operand"),
        Field("at", OFFSET_BITS, "offset of the first beat"),
        Field("outer", 16, "runs. At least 1"),
        Field("inner", 16, "beats of a run. At least 1"),
        Field("outer_step", STEP_BITS, "beats from run to run", signed=True),
        Field("base", 16, "place of the first beat in the staging buffer; the others follow, modulo its depth"),
    ),
    Opcode.LOAD_WGT: _instruction(
        Opcode.LOAD_WGT,
        Field("dense", 1, "0: beats of 16 pairs; 1: beats of 32 binary16, row k of the operand"),
        Field("log2_m_less_1", 2, "dense: log2 of the group size M, less 1"),
        Field("log2_a", 2, "log2 of the rows a of the interleave rectangle; b = 8 / a"),
        Field("base", 16, "place of the first pair in the weight buffers"),
        Field("lane", 5, "first lane of the beat in use: 0, or a multiple of b C where b C is less than a beat"),
        Field("blocks", 8, "packed: beats side by side, b C columns, at least 1; dense: 1"),
        Field("outer", 16, "packed: runs of a block; dense: rows. At least 1"),
        Field("inner", 16, "packed: beats of a run; dense: beats of a row, side by side. At least 1"),
        Field("pad", 16, "slot rows of fillers behind the last run of a block, behind the last row"),
        Field("region", 2, "region of the operand"),
        Field("at", OFFSET_BITS, "offset of the first beat"),
        Field("inner_step", STEP_BITS, "beats from beat to beat of a run", signed=True),
        Field("outer_step", STEP_BITS, "beats from run to run", signed=True),
        Field("block_step", STEP_BITS + 6, "beats from block to block", signed=True),
    ),
    Opcode.COMPUTE: _instruction(
        Opcode.COMPUTE,
        *COMMAND.fields,
        Field("capture", 16, "first place of the results in the capture buffers"),
    ),
    Opcode.STORE: _instruction(
        Opcode.STORE,
        Field("ws", 1, "order of the results: 0 output stationary, 1 weight stationary"),
        Field("log2_a", 2, "log2 of the rows a of the interleave rectangle"),
        Field("capture", 16, "first place of the results in the capture buffers"),
        Field("rows", 16, "tile rows. At least 1"),
        Field("columns", 9, "columns of the tile: 1 to b C"),
        Field("lane", 5, "place of the first column in its beat, a multiple of C or 0"),
        Field("to_half", 1, "1: round to binary16; 0: binary32"),
        Field("relu", 1, "negative results become +0"),
        Field("watch", 1, "an infinite or NaN result suppresses the updates that follow"),
        Field("side", 2, "second operand: 0 none, 1 mask, 2 binary16 added, 3 binary32 added"),
        *_walk("", "result"),
        *_walk("side_", "second operand"),
        *_OUTPUT_WALK,
        Field("beside", 1, "no store in front writes the second operand: it is read before those are done"),
    ),
    Opcode.UPDATE: _instruction(
        Opcode.UPDATE,
        Field("k", 16, "rows of the weight matrix. At least 1"),
        Field("n", 16, "columns of the weight matrix. At least 1"),
        Field("shift", SHIFT_BITS, f"the loss scale is 2^shift; at most {MAX_SHIFT}"),
        Field("ff_n_less_1", 4, "kept elements of a group of W_ff, N - 1"),
        Field("ff_log2_m_less_1", 2, "log2 of the group size M of W_ff, less 1"),
        Field("bp_n_less_1", 4, "kept elements of a group of W_bp, N - 1"),
        Field("bp_log2_m_less_1", 2, "log2 of the group size M of W_bp, less 1"),
        Field("use_bp", 1, "W_bp is made"),
        Field("use_mask", 1, "the mask of W_ff is read for the SR-STE term; 0: all weights count as kept"),
        Field("region", 2, "region of all that is read and written"),
        Field("g_step", 10, "beats from row to row of the gradient"),
        Field("w_at", OFFSET_BITS, "offset of the weights; momenta follow behind them"),
        Field("g_at", OFFSET_BITS, "offset of the gradient"),
        Field("mask_at", OFFSET_BITS, "offset of the mask of W_ff, read and written"),
        Field("ff_at", OFFSET_BITS, "offset of W_ff"),
        Field("bp_at", OFFSET_BITS, "offset of W_bp"),
        Field("lr", 32, "learning rate, binary32"),
        Field("mu", 32, "momentum, binary32"),
        Field("wd", 32, "weight decay, binary32"),
        Field("lam", 32, "lambda of the SR-STE term, binary32"),
    ),
    Opcode.END: _instruction(Opcode.END),
}
"""Layout of each instruction, from bit 0 upwards."""


@dataclass(frozen=True)
class Instruction:
    """An instruction with its fields by name; signed fields may be given below 0."""

    opcode: Opcode
    fields: dict[str, int]

    def values(self) -> dict[str, int]:
        """Return all fields, those that were not given as 0; ValueError names one that does not fit."""
        layout = INSTRUCTIONS[self.opcode]
        layout.check(self.fields)
        return {**dict.fromkeys(layout.by_name, 0), **self.fields, "opcode": int(self.opcode)}

    def encode(self) -> int:
        """Return the 512 bits; ValueError names a field that does not fit."""
        return INSTRUCTIONS[self.opcode].pack(**self.values())

    @classmethod
    def decode(cls, word: int) -> Instruction:
        """Return the instruction of 512 bits; ValueError for an unknown opcode."""
        code = word & 15
        if code not in set(Opcode):
            raise ValueError(f"opcode is {code!r}; known opcodes: {', '.join(str(int(o)) for o in Opcode)}")
        fields = INSTRUCTIONS[Opcode(code)].unpack(word)
        del fields["opcode"]
        return cls(Opcode(code), fields)

    def __getitem__(self, name: str) -> int:
        return self.fields.get(name, 0)


@dataclass(frozen=True, kw_only=True)
class Compute:
    """A COMPUTE in the units a reader expects (N, M, a instead of their codes); fields as in `INSTRUCTIONS`."""

    ws: bool
    n: int
    m: int
    a: int
    windows: int
    act_base: int = 0
    wgt_base: int = 0
    seed: bool = False
    keep: bool = False
    capture: int = 0

    @property
    def b(self) -> int:
        """Columns of the interleave rectangle."""
        return INTERLEAVE // self.a

    @property
    def shape(self) -> tuple[bool, int, int, int]:
        """What must be equal for two commands to follow each other without draining the array."""
        return (self.ws, self.n, self.m, self.a)

    @classmethod
    def of(cls, f: FieldSource) -> Compute:
        """Return what the fields of a COMPUTE say."""
        return cls(
            ws=bool(f["ws"]),
            n=kept(f),
            m=group_size(f),
            a=rectangle_rows(f),
            windows=f["windows"],
            act_base=f["act_base"],
            wgt_base=f["wgt_base"],
            seed=bool(f["seed"]),
            keep=bool(f["keep"]),
            capture=f["capture"],
        )

    def fields(self) -> dict[str, int]:
        """Return its fields as an instruction has them."""
        return {
            "ws": int(self.ws),
            **codes(n=self.n, m=self.m, a=self.a),
            "windows": self.windows,
            "act_base": self.act_base,
            "wgt_base": self.wgt_base,
            "seed": int(self.seed),
            "keep": int(self.keep),
            "capture": self.capture,
        }

    def instruction(self) -> Instruction:
        """Return the instruction, waiting for nothing and signalling nobody."""
        return Instruction(Opcode.COMPUTE, self.fields())

    def command(self) -> int:
        """Return the word that the array takes (layout `COMMAND`)."""
        fields = self.fields()
        return COMMAND.pack(**{field.name: fields[field.name] for field in COMMAND.fields})
