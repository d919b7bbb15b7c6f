"""Four-option questions in eleven languages whose answers are known, and the accuracies over them.

A question is an addition of two numbers of two digits, written in the digits of the language's script, so that
languages differ in tokens only: a byte tokenizer spends one or three on a digit. Options have one to three digits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

LANGUAGES: Final = {
    "Hindi": (0x0966, 14837),
    "English": (0x0030, 13536),
    "Telugu": (0x0C66, 7304),
    "Marathi": (0x0966, 6924),
    "Bengali": (0x09E6, 6638),
    "Tamil": (0x0BE6, 6372),
    "Kannada": (0x0CE6, 6234),
    "Gujarati": (0x0AE6, 4827),
    "Odia": (0x0B66, 4525),
    "Malayalam": (0x0D66, 4321),
    "Punjabi": (0x0A66, 4099),
}
"""Digit zero of the script, and questions of the benchmark's test split."""

LETTERS: Final = "ABCD"


@dataclass(frozen=True)
class Item:
    """A question. options: four texts; answer: index of the right one."""

    language: str
    question: str
    options: tuple[str, str, str, str]
    answer: int


def written(number: int, language: str) -> str:
    """Return a number in the digits of a language."""
    return "".join(chr(LANGUAGES[language][0] + int(digit)) for digit in str(number))


def items(seed: int, language: str, count: int, *, equal: bool = False) -> list[Item]:
    """Return `count` additions with the right sum among four options, none of which begins with another one.

    equal: all options of a question have as many digits.
    """
    rng = np.random.default_rng([seed, *language.encode()])
    found = []
    for _ in range(count):
        a, b = (int(v) for v in rng.integers(10, 100, 2))
        digits = [len(str(a + b))] * 3 if equal else [1, 2, 3]
        values = [a + b]
        while len(values) < 4:
            length = digits[len(values) - 1]
            wrong = int(rng.integers(10 ** (length - 1), 10**length))
            if not any(str(wrong).startswith(str(v)) or str(v).startswith(str(wrong)) for v in values):
                values.append(wrong)
        order = [int(i) for i in rng.permutation(4)]
        w, x, y, z = (written(values[i], language) for i in order)
        question = f"{written(a, language)} + {written(b, language)}"
        found.append(Item(language, question, (w, x, y, z), order.index(0)))
    return found


def prompt(item: Item, shots: Sequence[Item] = ()) -> str:
    """Return the context of a question as the benchmark's code writes it; shots: solved questions in front."""
    solved = [f"{prompt(shot)} {shot.options[shot.answer]}\n\n" for shot in shots]
    choices = "".join(f"{letter}. {option}\n" for letter, option in zip(LETTERS, item.options, strict=True))
    return f"{''.join(solved)}Question: {item.question}\nChoices:\n{choices}Answer:"


def tokens(text: str) -> NDArray[np.int64]:
    """Return the bytes of a text as numbers below 256."""
    return np.frombuffer(text.encode(), np.uint8).astype(np.int64)


def continuations(item: Item) -> list[NDArray[np.int64]]:
    """Return what is scored: a blank and the text of each option, not its letter."""
    return [tokens(f" {option}") for option in item.options]


def answers(
    questions: Sequence[Item], score: Callable[[NDArray[np.int64], list[NDArray[np.int64]]], Sequence[float]]
) -> NDArray[np.int64]:
    """Return the option of the largest score of each question, the first of equal ones.

    score(context, continuations): summed log probabilities, not divided by lengths.
    """
    return np.array([int(np.argmax(score(tokens(prompt(item)), continuations(item)))) for item in questions])


def accuracies(questions: Sequence[Item], chosen: NDArray[np.integer]) -> dict[str, float]:
    """Return the accuracy of each language that has a question."""
    right: dict[str, list[bool]] = {}
    for item, option in zip(questions, chosen, strict=True):
        right.setdefault(item.language, []).append(int(option) == item.answer)
    return {language: float(np.mean(found)) for language, found in right.items()}


def weighted(by_language: Mapping[str, float], sizes: Mapping[str, int]) -> float:
    """Return the mean over languages weighted by their numbers of questions."""
    return sum(by_language[name] * sizes[name] for name in by_language) / sum(sizes[name] for name in by_language)
