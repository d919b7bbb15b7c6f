"""The tape: patterns, counts, files."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path  # noqa: TC003 # pytest reads the annotation of tmp_path

import numpy as np
import pytest

from nmsat.algorithms.core.sparsity import Unstructured
from nmsat.algorithms.core.tape import ConvShape, Learnt, LeftOut, Pattern, Product, Stage, Tape
from nmsat.algorithms.core.tape_file import UNSAID, read_tape, write_tape


@pytest.mark.parametrize("text", ["1:2", "4:4", "2:8", "16:16"])
def test_patterns_read_and_print(text: str) -> None:
    assert str(Pattern.parse(text)) == text


def test_dense_is_no_pattern() -> None:
    assert Pattern.parse("dense") is None


@pytest.mark.parametrize("text", ["9:8", "0:4", "2:5", "2", "2:", ":8", "-1:8", "2:8:4", "a:b", "",
                                  "02:8", "2:08", "２:8", "2:8\n", " 2:8", f"{'9' * 5000}:8"])  # fmt: skip
def test_bad_patterns_are_named(text: str) -> None:
    with pytest.raises(ValueError, match="pattern is"):
        Pattern.parse(text)


@pytest.mark.parametrize(
    ("k", "pattern", "kept"),
    [(16, (2, 8), 4), (17, (2, 8), 5), (19, (2, 8), 6), (7, (2, 8), 2), (5, (4, 4), 5), (1, (1, 16), 1)],
)
def test_kept_multiply_adds_count_the_tail(k: int, pattern: tuple[int, int], kept: int) -> None:
    product = Product("p", Stage.FF, 3, k, 5, Pattern(*pattern), count=2)
    assert product.macs_dense == 3 * k * 5 * 2
    assert product.macs_kept == 3 * kept * 5 * 2


def test_a_tape_without_values_drops_them() -> None:
    product = Product("p", Stage.FF, 1, 1, 1, a=np.zeros((1, 1)), w=np.zeros((1, 1)), y=np.zeros((1, 1)))
    bare, full = Tape(), Tape(values=True)
    bare.record(product)
    full.record(product)
    assert bare.products[0].a is bare.products[0].w is bare.products[0].y is None
    assert full.products[0].a is product.a
    assert bare.products[0].facts() == product.facts()


@pytest.mark.parametrize("field", ["m", "k", "n", "count"])
def test_empty_products_are_refused(field: str) -> None:
    with pytest.raises(ValueError, match=f"{field} of product 'p' is 0"):
        dataclasses.replace(Product("p", Stage.FF, 1, 1, 1), **{field: 0})


def some_tape() -> Tape:
    tape = Tape()
    conv = ConvShape(2, 7, 8, 3, 16, (3, 2), (2, 1), (1, 0), (1, 2))
    tape.record(Product("c", Stage.FF, 56, 18, 16, Pattern(2, 8), conv=conv, weight="c.weight"))
    tape.record(Product("l", Stage.WU, 5, 6, 7, count=4))
    tape.learnt.append(Learnt("c.bias", 16))
    tape.left_out.append(LeftOut("attn", "mylib::fused", 3))
    return tape


def test_a_tape_shows_itself_in_a_line() -> None:
    tape = Tape()
    assert repr(tape) == "<Tape: 0 products>"
    for index in range(300):
        tape.record(Product(f"p{index}", Stage.FF if index % 3 else Stage.WU, 1, 1, 1))
    tape.learnt.append(Learnt("bias", 3))
    tape.left_out.append(LeftOut("block", "custom", 2))
    assert repr(tape) == "<Tape: 300 products (ff 200, wu 100); learnt 1; left out block>"


def test_files_round_trip(tmp_path: Path) -> None:
    tape, file = some_tape(), tmp_path / "step.tape"
    write_tape(file, tape)
    back = read_tape(file)
    assert [p.facts() for p in back.products] == [p.facts() for p in tape.products]
    assert back.macs_kept == tape.macs_kept
    assert [p.weight for p in back.products] == ["c.weight", ""]
    assert (back.learnt, back.left_out) == (tape.learnt, tape.left_out)


def test_a_file_of_the_first_form_does_not_say_what_it_leaves_out(tmp_path: Path) -> None:
    tape, file = some_tape(), tmp_path / "step.tape"
    tape.left_out.clear()
    write_tape(file, tape)
    assert read_tape(file).left_out == []
    lines = file.read_text().splitlines()[1:3]
    file.write_text(re.sub(', "weight": "[^"]*"', "", "\n".join(lines)))
    assert [p.name for p in read_tape(file).products] == ["c", "l"]
    assert read_tape(file).left_out == [UNSAID]


@pytest.mark.parametrize(
    ("line", "old", "new"),
    [
        (3, '"m": 56', '"m": 0'),
        (3, '"m": 56', '"m": 5.5'),
        (3, '"stage": "ff"', '"stage": "up"'),
        (3, '"2:8"', '"9:8"'),
        (3, '"2:8"', "2"),
        (3, '"k": 18, ', ""),
        (3, '"batch": 2', '"batches": 2'),
        (3, '"height": 7', '"height": [7]'),
        (3, '"kernel": [3, 2]', '"kernel": 3'),
        (3, '"conv": {', '"conv": "x", "was": {'),
        (2, '"calls": 3', '"calls": "often"'),
        (5, '"elements": 16', '"elements": 0'),
        (1, "2", "3"),
        (1, "{", "["),
    ],
)
def test_broken_files_name_the_line(line: int, old: str, new: str, tmp_path: Path) -> None:
    file = tmp_path / "step.tape"
    write_tape(file, some_tape())
    file.write_text(file.read_text().replace(old, new, 1))
    with pytest.raises(ValueError, match=rf"step\.tape' line {line} is not a product"):
        read_tape(file)


def test_other_sparsity_has_no_file_form(tmp_path: Path) -> None:
    tape = Tape()
    tape.record(Product("p", Stage.FF, 4, 4, 4, sparsity=Unstructured("w", 7)))
    with pytest.raises(ValueError, match="'p'"):
        write_tape(tmp_path / "x", tape)
