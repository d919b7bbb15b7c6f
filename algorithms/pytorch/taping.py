"""Recording of a training step as a tape."""

# pyright: reportMissingImports=false
# PyTorch is an optional extra: the type checker runs without it.

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from nmsat.algorithms.core.tape_file import write_tape
from nmsat.algorithms.pytorch.naming import Names
from nmsat.algorithms.pytorch.record import Recorder, recording
from nmsat.algorithms.pytorch.watch import Watch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from nmsat.algorithms.core.tape import Tape


def record_step(step: Callable[[], object], path: Path | None = None) -> Tape:
    """Run step() (forward and backward of a model) and return the tape of its products; write it to path if given.

    All matrix products are recorded: those of converted layers with their patterns, all others dense, products of
    activations and of recurrent layers included. For that attention and recurrent layers run as single products while
    recording, and compiled models uncompiled. Operators that may hide products and cannot be taken apart are in
    `tape.left_out`. Raises ValueError if the step has no product at all.
    """
    names = Names()
    recorder = Recorder(names)
    watch = Watch(recorder, names)
    with _apart(), names.following(), recording(recorder), watch:
        step()
    tape = recorder.tape
    if not tape.products:
        raise ValueError("the step ran no matrix product; give a function that runs forward and backward of a model")
    tape.products[:] = watch.over_all_steps(tape.products)
    tape.learnt.extend(names.learnt())
    tape.left_out.extend(watch.left_out)
    if path is not None:
        write_tape(path, tape)
    return tape


@contextmanager
def _apart() -> Iterator[None]:
    """Let fused operators run as the single products that they are made of."""
    fused, onednn = torch.backends.mha.get_fastpath_enabled(), torch._C._get_mkldnn_enabled()
    with ExitStack() as stack:
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        stack.enter_context(torch.backends.cudnn.flags(enabled=False))
        stack.enter_context(torch.compiler.set_stance("force_eager"))
        torch.backends.mha.set_fastpath_enabled(False)
        torch._C._set_mkldnn_enabled(False)
        try:
            yield
        finally:
            torch.backends.mha.set_fastpath_enabled(fused)
            torch._C._set_mkldnn_enabled(onednn)
