"""Wrong and hostile programs: what a valid program becomes when its words are changed, cut, mixed or made up."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

import numpy as np

from nmsat.dataflow.contract.isa import INSTRUCTION_BITS, INSTRUCTIONS, Opcode
from nmsat.dataflow.program.tensors import Place
from nmsat.tb.machine.jobs import MachineJob, random_job

if TYPE_CHECKING:
    from nmsat.dataflow.contract.config import SatConfig

_BYTES: Final = INSTRUCTION_BITS // 8
_EXTREMES: Final = (0, 1, -1)  # -1: all ones


def fuzzed_job(config: SatConfig, seed: int) -> MachineJob:
    """Return the job of a seed: a random job whose program has been damaged. `code` is what it was before."""
    job = random_job(config, seed)
    rng = np.random.default_rng([666, seed])
    start = job.place.at * _BYTES
    words = job.image.regions[job.place.region][start : start + job.place.beats * _BYTES].reshape(-1, _BYTES).copy()
    kinds = (_flip_bits, _set_fields, _set_fields, _set_fields, _random_words, _opcodes, _masks, _shuffle, _no_end)
    kind = kinds[int(rng.integers(len(kinds)))]
    words = kind(words, rng)
    job.image.regions[job.place.region][start : start + words.size] = words.ravel()
    place = Place("program", job.place.region, job.place.at, _length(job, len(words), rng))
    return replace(job, what=f"{kind.__name__.strip('_')}: {job.what}", place=place)


def _length(job: MachineJob, instructions: int, rng: np.random.Generator) -> int:
    """Return the length that the host announces: now and then 0, or beyond the region."""
    draw = rng.random()
    if draw < 0.02:
        return 0
    if draw < 0.04:
        return job.image.regions[job.place.region].size // _BYTES + 7
    return instructions


def _flip_bits(words: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    for _ in range(int(rng.integers(1, 6))):
        words[rng.integers(len(words)), rng.integers(_BYTES)] ^= np.uint8(1 << rng.integers(8))
    return words


def _set_fields(words: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Set fields of instructions to extremes or to anything."""
    for _ in range(int(rng.integers(1, 4))):
        at = int(rng.integers(len(words)))
        word = int.from_bytes(words[at].tobytes(), "little")
        code = word & 15
        if code not in set(Opcode):
            continue
        fields = INSTRUCTIONS[Opcode(code)].fields
        chosen = int(rng.integers(1, len(fields)))
        low, bits = sum(field.bits for field in fields[:chosen]), fields[chosen].bits
        mask = (1 << bits) - 1
        value = int(rng.choice(_EXTREMES)) if rng.random() < 0.5 else int.from_bytes(rng.bytes(_BYTES), "little")
        word = word & ~(mask << low) | (value & mask) << low
        words[at] = np.frombuffer(word.to_bytes(_BYTES, "little"), np.uint8)
    return words


def _random_words(words: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Replace instructions by noise with a known opcode."""
    for at in rng.integers(len(words), size=int(rng.integers(1, 4))):
        words[at] = np.frombuffer(rng.bytes(_BYTES), np.uint8)
        words[at, 0] = words[at, 0] & 0xF0 | int(rng.integers(1, 7))
    return words


def _opcodes(words: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    at = int(rng.integers(len(words)))
    words[at, 0] = words[at, 0] & 0xF0 | int(rng.integers(16))
    return words


def _masks(words: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Change what instructions wait for and signal: deadlocks, semaphores that overflow, lost order."""
    for at in rng.integers(len(words), size=int(rng.integers(1, 5))):
        word = int.from_bytes(words[at].tobytes(), "little")
        word ^= int(rng.integers(1, 1 << 16)) << (4 if rng.random() < 0.5 else 20)
        words[at] = np.frombuffer(word.to_bytes(_BYTES, "little"), np.uint8)
    return words


def _shuffle(words: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return words[rng.permutation(len(words))]


def _no_end(words: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return words[: max(1, int(rng.integers(len(words))))]
