"""Sentences with possible idioms whose spans are known, and what is measured on them.

Words are numbers: fillers, words of idioms, inserts, and one word that says that the candidate is meant literally. A
sentence has one candidate. Where it is literal (12 %, as among the formal idioms of the corpus) no word is tagged;
where it is formal (12.5 %) an insert stands inside of it. The word that says so may stand anywhere, so that only the
context tells.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias

import numpy as np

from nmsat.algorithms.workloads.methods.epie_crf import BEGIN, INSIDE, OUTSIDE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Idiom: TypeAlias = tuple[int, ...]
    Span: TypeAlias = tuple[int, int, int]

FILLERS: Final = range(30)
LITERALLY: Final = 30
INSERTS: Final = range(31, 35)
PARTS: Final = range(35, 95)
"""Words of idioms; each is in several of them and also stands alone."""

VOCABULARY: Final = 96
LITERAL, FORMAL, ALONE = 0.12, 0.125, 0.05
"""Shares of literal candidates, of candidates with an insert, of idiom words among the fillers."""


@dataclass(frozen=True, eq=False)
class Sentences:
    """words, tags: int64[sentences, tokens]."""

    words: NDArray[np.int64]
    tags: NDArray[np.int64]


def lexicon(seed: int = 0, count: int = 60) -> list[Idiom]:
    """Return `count` idioms of two to five words."""
    rng = np.random.default_rng(seed)
    found: set[Idiom] = set()
    while len(found) < count:
        found.add(tuple(int(w) for w in rng.choice(PARTS, rng.integers(2, 6), replace=False)))
    return sorted(found)


def sentences(seed: int, count: int, tokens: int, idioms: Sequence[Idiom]) -> Sentences:
    """Return sentences of `tokens` words with one candidate of `idioms` each; ValueError below eight tokens."""
    if tokens < 8:
        raise ValueError(f"tokens is {tokens!r}; a sentence with an idiom, an insert and a context needs 8")
    rng = np.random.default_rng(seed)
    words = rng.choice(FILLERS, (count, tokens))
    words = np.where(rng.random(words.shape) < ALONE, rng.choice(PARTS, words.shape), words)
    tags = np.full(words.shape, OUTSIDE)
    for row in range(count):
        candidate = list(idioms[int(rng.integers(len(idioms)))])
        if rng.random() < FORMAL:
            candidate.insert(int(rng.integers(1, len(candidate))), int(rng.choice(INSERTS)))
        start = int(rng.integers(0, tokens - len(candidate) + 1))
        stop = start + len(candidate)
        words[row, start:stop] = candidate
        if rng.random() < LITERAL:
            free = [t for t in range(tokens) if not start <= t < stop]
            words[row, rng.choice(free)] = LITERALLY
        else:
            tags[row, start:stop] = INSIDE
            tags[row, start] = BEGIN
    return Sentences(words, tags)


def spans(tags: NDArray[np.integer]) -> set[Span]:
    """Return (row, start, stop) of all spans of tags[rows, tokens]; an I behind O begins one, as in conlleval."""
    found = set()
    for row, line in enumerate(tags):
        start = None
        for t, tag in enumerate([*line, OUTSIDE]):
            if start is not None and tag != INSIDE:
                found.add((row, start, t))
                start = None
            if start is None and tag != OUTSIDE:
                start = t
    return found


def scores(gold: NDArray[np.integer], found: NDArray[np.integer]) -> tuple[float, float, float]:
    """Return precision, recall and F1 of exact spans; 0 where there is nothing to divide by."""
    wanted, given = spans(gold), spans(found)
    hits = len(wanted & given)
    precision, recall = hits / max(1, len(given)), hits / max(1, len(wanted))
    return precision, recall, 2 * precision * recall / max(precision + recall, 1e-30)


def dictionary(words: NDArray[np.integer], idioms: Sequence[Idiom]) -> NDArray[np.int64]:
    """Tag every place where an idiom stands word for word, the longest first."""
    tags = np.full(words.shape, OUTSIDE)
    for row, line in enumerate(words.tolist()):
        for idiom in sorted(idioms, key=len, reverse=True):
            for start in range(len(line) - len(idiom) + 1):
                stop = start + len(idiom)
                if tuple(line[start:stop]) == idiom and not tags[row, start:stop].any():
                    tags[row, start:stop] = INSIDE
                    tags[row, start] = BEGIN
    return tags
