"""The program of a training step: what the scheduler decided, as instructions, as 128-bit words, as text and as JSON.

One instruction per product; the loops over tiles are part of it. Layouts stand in `dataflow.schedule.words`. The
simulator runs `Program` and needs nothing else, so a program that was written out and read back takes the same cycles.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from nmsat.algorithms.core.tape import Stage
from nmsat.dataflow.contract.codes import codes, group_size, kept, rectangle_rows
from nmsat.dataflow.cycles.memory import TensorStream
from nmsat.dataflow.mapping.tiling import Mapping, Tiling
from nmsat.dataflow.schedule.pipeline import Piped
from nmsat.dataflow.schedule.traffic import Order, Traffic
from nmsat.dataflow.schedule.words import OPCODES, WORD_BITS, WORDS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from nmsat.dataflow.contract.config import SatConfig

STAGES: Final = (Stage.FF, Stage.BP, Stage.WU, Stage.OTHER)
OPERANDS: Final = ("a", "w", "y")


@dataclass(frozen=True, kw_only=True)
class ProductRun:
    """Run a product. Fields: see the words `product`, `shape`, `operand`."""

    name: str
    stage: Stage
    mapping: Mapping
    m: int
    k: int
    n: int
    count: int
    order: Order
    slots: int
    a: TensorStream
    w: TensorStream
    y: TensorStream
    depends: bool = False
    prune_first: bool = False
    weights: bool = False

    def piped(self, config: SatConfig) -> Piped:
        """Return the product as the closed forms take it."""
        tiling = Tiling(config, self.mapping, self.m, self.k, self.n, self.count)
        return Piped(tiling, self.order, Traffic(self.a, self.w, self.y, 1), self.slots)


@dataclass(frozen=True, kw_only=True)
class UpdateRun:
    """Update a tensor and make its packed copies, beside the array."""

    name: str
    beats: int
    bytes: int


@dataclass(frozen=True, kw_only=True)
class PruneRun:
    """Prune an operand, beside the array, before the next product with `prune_first`."""

    name: str
    beats: int
    bytes: int


Instruction: TypeAlias = ProductRun | UpdateRun | PruneRun


@dataclass(frozen=True)
class Program:
    """The instructions of one step for one configuration, in order."""

    config: SatConfig
    instructions: tuple[Instruction, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The table of names: each once, in order of first use."""
        return tuple(dict.fromkeys(instruction.name for instruction in self.instructions))

    def assemble(self) -> list[int]:
        """Return the words; ValueError if a value does not fit its field."""
        labels = {name: i for i, name in enumerate(self.names)}
        words = [word for instruction in self.instructions for word in _encode(instruction, labels[instruction.name])]
        return [*words, _pack("end")]

    def listing(self) -> str:
        """Return the program as text: words and what they say, one instruction a line."""
        labels = {name: i for i, name in enumerate(self.names)}
        lines, at = [], 0
        for instruction in self.instructions:
            words = _encode(instruction, labels[instruction.name])
            lines.append(f"{at:06x}  {words[0]:032x}  {_text(instruction)}")
            lines += [f"{at + i:06x}  {word:032x}" for i, word in enumerate(words) if i]
            at += len(words)
        return "\n".join([*lines, f"{at:06x}  {_pack('end'):032x}  end"])

    def record(self) -> dict[str, Any]:
        """Return the program as plain values, for JSON."""
        return {
            "config": self.config.name,
            "names": list(self.names),
            "words": [f"{word:032x}" for word in self.assemble()],
        }


def disassemble(config: SatConfig, words: Sequence[int], names: Sequence[str]) -> Program:
    """Return the program of words; ValueError names the word that cannot be one and its place."""
    out: list[Instruction] = []
    reader = _Reader(words, names)
    while True:
        name, fields = reader.word()
        if name == "end":
            break
        if name == "product":
            out.append(reader.product(fields))
        elif name == "update":
            out.append(UpdateRun(name=reader.label(fields), beats=fields["beats"], bytes=fields["bytes"]))
        elif name == "prune":
            out.append(PruneRun(name=reader.label(fields), beats=fields["beats"], bytes=fields["bytes"]))
        else:
            raise ValueError(f"word {reader.at - 1} is a {name} word outside a product")
    if reader.at != len(words):
        raise ValueError(f"program has {len(words) - reader.at} words after its end word {reader.at - 1}")
    return Program(config, tuple(out))


def load_record(config: SatConfig, record: dict[str, Any]) -> Program:
    """Return the program of `Program.record`; ValueError if it was made for another configuration."""
    if record["config"] != config.name:
        raise ValueError(f"program is for configuration {record['config']!r}; this is {config.name!r}")
    return disassemble(config, [int(word, 16) for word in record["words"]], record["names"])


class _Reader:
    """Words one by one."""

    def __init__(self, words: Sequence[int], names: Sequence[str]) -> None:
        self._words = words
        self._names = names
        self.at = 0

    def word(self, expected: str | None = None) -> tuple[str, dict[str, int]]:
        if self.at == len(self._words):
            raise ValueError(f"program stops after word {self.at - 1} without an end word")
        word = self._words[self.at]
        if not 0 <= word < 1 << WORD_BITS:
            raise ValueError(f"word {self.at} is {word!r}; it must have {WORD_BITS} bits")
        known = {code: name for name, code in OPCODES.items()}
        if word & 15 not in known:
            raise ValueError(f"word {self.at} has opcode {word & 15!r}; known: {known!r}")
        name = known[word & 15]
        if expected not in (None, name):
            raise ValueError(f"word {self.at} is a {name} word; a product needs a {expected} word there")
        fields = WORDS[name].unpack(word)
        if fields.get("zero"):
            raise ValueError(f"word {self.at} ({name}) sets bits that must be 0: {fields['zero']:#x}")
        self.at += 1
        return name, fields

    def label(self, fields: dict[str, int]) -> str:
        if fields["label"] >= len(self._names):
            raise ValueError(f"word {self.at - 1} names label {fields['label']}; the table has {len(self._names)}")
        return self._names[fields["label"]]

    def product(self, f: dict[str, int]) -> ProductRun:
        _, shape = self.word("shape")
        streams = {}
        for i, which in enumerate(OPERANDS):
            _, operand = self.word("operand")
            if operand["which"] != i:
                raise ValueError(f"word {self.at - 1} is operand {operand['which']}; {i} ({which}) comes here")
            streams[which] = TensorStream(operand["bytes"], operand["run"])
        return ProductRun(
            name=self.label(f),
            stage=STAGES[f["stage"]],
            mapping=Mapping(bool(f["ws"]), rectangle_rows(f), kept(f), group_size(f), f["parts_less_1"] + 1),
            m=shape["m"],
            k=shape["k"],
            n=shape["n"],
            count=f["count"],
            order=Order.ROWS if f["rows_outer"] else Order.COLUMNS,
            slots=f["slots"],
            **streams,
            depends=bool(f["depends"]),
            prune_first=bool(f["prune_first"]),
            weights=bool(f["weights"]),
        )


def _pack(name: str, **fields: int) -> int:
    layout = WORDS[name]
    zero = {"zero": 0} if "zero" in layout.widths() else {}
    return layout.pack(opcode=OPCODES[name], **fields, **zero)


def _encode(instruction: Instruction, label: int) -> list[int]:
    match instruction:
        case UpdateRun():
            return [_pack("update", label=label, beats=instruction.beats, bytes=instruction.bytes)]
        case PruneRun():
            return [_pack("prune", label=label, beats=instruction.beats, bytes=instruction.bytes)]
    return list(_encode_product(instruction, label))


def _encode_product(run: ProductRun, label: int) -> Iterator[int]:
    mapping = run.mapping
    yield _pack(
        "product",
        label=label,
        stage=STAGES.index(run.stage),
        ws=mapping.ws,
        **codes(n=mapping.n, m=mapping.m, a=mapping.a),
        parts_less_1=mapping.parts - 1,
        rows_outer=run.order is Order.ROWS,
        depends=run.depends,
        prune_first=run.prune_first,
        weights=run.weights,
        slots=run.slots,
        count=run.count,
    )
    yield _pack("shape", m=run.m, k=run.k, n=run.n)
    for i, stream in enumerate((run.a, run.w, run.y)):
        yield _pack("operand", which=i, bytes=stream.bytes, run=stream.run)


def _text(instruction: Instruction) -> str:
    match instruction:
        case UpdateRun():
            return f"update  {instruction.name}: {instruction.beats} beats, {instruction.bytes} bytes"
        case PruneRun():
            return f"prune   {instruction.name}: {instruction.beats} beats, {instruction.bytes} bytes"
    run = instruction
    times = f"{run.count} x " if run.count > 1 else ""
    notes = [word for word, on in (("after previous", run.depends), ("after prune", run.prune_first)) if on]
    return (
        f"product {run.stage} {run.name}: {times}{run.m} x {run.k} x {run.n}, {run.mapping.name} "
        f"{run.mapping.a}x{run.mapping.b} {run.mapping.n}:{run.mapping.m}, {run.order} outer, {run.slots} pieces, "
        f"A {run.a.bytes} W {run.w.bytes} Y {run.y.bytes} bytes{''.join(f', {note}' for note in notes)}"
    )
