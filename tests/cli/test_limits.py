"""The command line at its limits: one line, before any work."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.conftest import Outcome

LINES = [
    ("gemm 0 1 1", "argument M: the value is '0'; it must be a whole number from 1 to 16777216"),
    ("gemm 1 -1 1 --memory", "argument K: the value is '-1'"),
    ("gemm 1 1 16777217", "argument N: the value is '16777217'"),
    ("program 0 1 1", "argument M: the value is '0'"),
    ("program 1 1 -3", "argument N: the value is '-3'"),
    ("program 4096 4096 4096", "M x K x N is 68719476736; the limit is 1073741824"),
    ("program 1 1 16777216", "the tensors of the program take 8388672 beats of 64 bytes; the limit is 1048576"),
    ("program 16777216 1 1 --transposed", "beats of 64 bytes; the limit is 1048576"),
    ("program 900000 1 1", "the tensors of the program take"),
    ("program 2048 512 1000", "the program takes about 6.6e+07 cycles; the limit is 16777216"),
    ("program 128 128 128 --conv 4095,4095,4095,4095,3,1,1", "M x K x N is 323942629767120000; the limit is"),
    ("program 1 9 9 --conv 1,1,1,0,3,1,1", "the value is '0'; it must be a whole number from 1 to 4095"),
    ("model resnet9 --batch 0", "argument --batch: the value is '0'"),
    ("model resnet9 --batch 16777217", "it must be a whole number from 1 to 16777216"),
    ("model resnet9 --batch 16777216", "memory plan does not fit"),
    ("verify gemm 1 1 0", "argument N: the value is '0'"),
    ("verify gemm 16777216 16777216 16777216", "cycles; the RTL runs at most 2000000 here"),
    ("verify gemm 1 1 1 --operands odd", "argument --operands: invalid choice: 'odd'"),
    *(
        (f"{command} --config tiny --set rows={rows}", f"has rows {rows}; to transpose")
        for command in ("card validate --backend sim", "verify --jobs 20 --seed 777", "verify fuzz --programs 2")
        for rows in (1, 2)
    ),
    ("train --epochs 0", "argument --epochs: the value is '0'"),
    ("train --steps -1", "argument --steps: the value is '-1'"),
    ("train --seed 9223372036854775808", "it must be a whole number from 0 to 9223372036854775807"),
    ("train --cell mlp-bdwp-2of8-seed0,lr=inf", "lr is inf; it must be above 0 and at most 1000"),
    ("train --cell mlp-bdwp-2of8-seed0,dense_epochs=nan", "dense_epochs is nan; it must be from 0 to"),
    ("train --cell mlp-bdwp-2of8-seed0,batch=0", "batch is 0; it must be a whole number from 1 to"),
]


@pytest.mark.parametrize(("line", "words"), LINES, ids=[line for line, _ in LINES])
def test_the_command_line_refuses_in_one_line_before_it_works(
    call: Callable[[str], Outcome], line: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nmsat.tb.run.runner.check_tools", lambda: None)
    outcome = call(line)
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err.count("\n") == 1
    assert words in outcome.err
