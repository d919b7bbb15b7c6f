"""Machine programs as text and as plain values, and back (docs/machine/control.md).

A line of a listing is an opcode and its fields that are not 0, by their names in `dataflow.contract.isa`; `;` starts a
comment:

    load_wgt wait=[3] signal=[0] log2_a=1 base=0 blocks=2 ...  ; conv2.ff

`wait` and `signal` list semaphores.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nmsat.dataflow.contract.isa import INSTRUCTION_BITS, INSTRUCTIONS, SEMAPHORES, Instruction, Opcode
from nmsat.dataflow.program.assembler import Code
from nmsat.dataflow.program.order import semaphores

if TYPE_CHECKING:
    from collections.abc import Sequence

_BYTES = INSTRUCTION_BITS // 8
_HIDDEN = ("opcode", "wait", "signal", "zero")


def disassemble(program: bytes) -> tuple[Instruction, ...]:
    """Return the instructions of a program as it lies in memory.

    Raises ValueError for a size that is not whole instructions, for an unknown opcode and for bits that must be 0.
    """
    if len(program) % _BYTES:
        raise ValueError(f"program has {len(program)} bytes; it must be a multiple of {_BYTES}")
    out = []
    for at in range(0, len(program), _BYTES):
        instruction = Instruction.decode(int.from_bytes(program[at : at + _BYTES], "little"))
        if instruction["zero"]:
            raise ValueError(f"instruction {at // _BYTES} has bits set that must be 0")
        out.append(instruction)
    return tuple(out)


def listing(instructions: Sequence[Instruction], labels: Sequence[str] = ()) -> str:
    """Return one line per instruction; labels: what each belongs to, as a comment."""
    lines = []
    for number, instruction in enumerate(instructions):
        words = [instruction.opcode.name.lower()]
        for name in ("wait", "signal"):
            if instruction[name]:
                words.append(f"{name}=[{','.join(str(i) for i in semaphores(instruction[name]))}]")
        words += [f"{name}={value}" for name, value in _shown(instruction).items()]
        comment = f"  ; {labels[number]}" if labels else ""
        lines.append(" ".join(words) + comment)
    return "\n".join(lines) + "\n"


def read_listing(text: str) -> Code:
    """Return the program of a listing; ValueError names the line that cannot be read."""
    instructions, labels = [], []
    for number, line in enumerate(text.splitlines(), 1):
        body, _, comment = line.partition(";")
        if not body.strip():
            continue
        try:
            instructions.append(_instruction(body.split()))
        except (ValueError, KeyError) as error:
            raise ValueError(f"line {number} is {line.strip()!r}: {error}") from None
        labels.append(comment.strip())
    return Code(tuple(instructions), tuple(labels))


def records(code: Code) -> list[dict[str, Any]]:
    """Return the program as plain values, for JSON."""
    return [
        {
            "opcode": instruction.opcode.name.lower(),
            "wait": semaphores(instruction["wait"]),
            "signal": semaphores(instruction["signal"]),
            "fields": _shown(instruction),
            "label": label,
        }
        for instruction, label in zip(code.instructions, code.labels, strict=True)
    ]


def _shown(instruction: Instruction) -> dict[str, int]:
    """Return the fields of a line, in the order of the layout."""
    names = (field.name for field in INSTRUCTIONS[instruction.opcode].fields if field.name not in _HIDDEN)
    return {name: instruction[name] for name in names if instruction[name]}


def _instruction(words: list[str]) -> Instruction:
    name = words[0].upper()
    if name not in Opcode.__members__:
        raise ValueError(f"opcode is {words[0]!r}; known opcodes: {', '.join(o.name.lower() for o in Opcode)}")
    fields: dict[str, int] = {}
    for word in words[1:]:
        key, _, value = word.partition("=")
        if key in ("wait", "signal"):
            places = [int(part) for part in value.strip("[]").split(",")]
            if not all(0 <= place < SEMAPHORES for place in places):
                raise ValueError(f"{key} is {value}; semaphores are 0 to {SEMAPHORES - 1}")
            fields[key] = sum(1 << place for place in set(places))
        else:
            fields[key] = int(value, 0)
    instruction = Instruction(Opcode[name], fields)
    instruction.encode()
    return instruction
