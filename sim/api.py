"""The simulator from a notebook: one function for a product, a tape, a training step or a program.

from nmsat.sim.api import gemm, simulate, training_step

result = simulate(gemm(256, 1152, 128, "2:8"), "vcu1525")
result.cycles, result.utilization, result.stalls

step = simulate(training_step("resnet18", "bdwp", "2:8", batch=64), "vcu1525")
step.by("stage"), pandas.DataFrame(step.table())
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, overload

import numpy as np

from nmsat.algorithms.core.nm import prune
from nmsat.algorithms.core.numeric import to_half
from nmsat.algorithms.core.ranges import check_flag
from nmsat.algorithms.core.tape import Pattern, Product, Stage, Tape
from nmsat.algorithms.core.vocabulary import TRAINED_NETWORKS
from nmsat.dataflow.contract.config import SatConfig, preset
from nmsat.dataflow.network.models import load_model
from nmsat.dataflow.network.step import Step, StepHostOp, training_products
from nmsat.dataflow.schedule.plan import ALL_ON, Switches
from nmsat.dataflow.schedule.program import Program
from nmsat.sim.results.result import HostTotals, Result
from nmsat.sim.schedule.step import StepResult, simulate_program, simulate_step
from nmsat.sim.work.tape import product_values, run_lowered, run_products, run_tape

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from nmsat.algorithms.core.tape import HostWork

__all__ = ["Result", "StepResult", "Switches", "gemm", "matmul", "simulate", "training_step"]


@overload
def simulate(
    program: Step | Program, config: SatConfig | str = "vcu1525", *, switches: Switches = ALL_ON
) -> StepResult: ...


@overload
def simulate(
    program: Product | Iterable[Product] | Tape | Step | Program,
    config: SatConfig | str = "vcu1525",
    *,
    values: bool = False,
    memory: bool | None = None,
    switches: Switches = ALL_ON,
) -> Result: ...


def simulate(
    program: Product | Iterable[Product] | Tape | Step | Program,
    config: SatConfig | str = "vcu1525",
    *,
    values: bool = False,
    memory: bool | None = None,
    switches: Switches = ALL_ON,
) -> Result:
    """Schedule a program for a machine and return what it takes there, cycle for cycle.

    program: a product (`gemm`, `matmul`), products in order, a tape, a training step (`training_step`), or a program
    of configuration words that was read back. config: a configuration or the name of a preset.
    values: compute Y of every product, bit for bit as the array does; the products must hold operands.
    memory: True runs the machine with external memory: prefetch, stalls, bytes. False runs the array with its operands
    on chip, without update and pruning. A tape's products take the quickest way either way: native, cover, gather ...
    By default steps and programs run with memory, products and tapes without.
    switches: what scheduler and machine may use; without memory only `dataflow` counts, and a tape with
    memory takes none.

    Raises ValueError for an unknown preset, an empty program, values of products without operands, switches that do not
    apply, a product that no mapping can take; TypeError for something that is no program, configuration, flag or
    switches.
    """
    machine = preset(config) if isinstance(config, str) else config
    _check_call(machine, values, memory, switches)
    if isinstance(program, Program):
        return _run_program(program, machine, values, memory, switches)
    products, host = _parts(program)
    totals = HostTotals(len(host), sum(work.operations for work in host), sum(work.bytes for work in host))
    if memory is False or (memory is None and not isinstance(program, Step)):
        _check_on_chip(switches)
        if isinstance(program, Tape) and switches.dataflow is None:
            result: Result = run_tape(program, machine, totals)
        else:
            result = run_products(products, machine, switches.dataflow, totals)
    elif isinstance(program, Step):
        result = simulate_step(program, machine, switches)
    elif isinstance(program, Tape) or any(product.sparsity for product in products):
        _check_lowered(switches)
        result = run_lowered(products, machine, totals)
    else:
        result = simulate_step(_as_step(products), machine, switches)
    if not values:
        return result
    return replace(result, values=tuple(product_values(product, machine) for product in products))


def gemm(
    m: int, k: int, n: int, pattern: Pattern | str | None = None, *, name: str = "gemm", stage: Stage | str = Stage.FF
) -> Product:
    """Return the product Y[m, n] = A[m, k] @ W[k, n] by its shape; pattern: N:M of W along k ("2:8"), None for dense.

    stage: a `Stage` or its value ("ff"). Raises ValueError for a size out of range (docs/limits.md), an illegal pattern
    or an unknown stage, TypeError for a size that is no whole number.
    """
    if stage not in tuple(Stage):
        raise ValueError(f"stage is {stage!r}; it must be one of {', '.join(Stage)}")
    return Product(name, Stage(stage), m, k, n, _pattern(pattern))


def matmul(
    a: NDArray[np.floating], w: NDArray[np.floating], pattern: Pattern | str | None = None, *, name: str = "matmul"
) -> Product:
    """Return the product a @ w with its operands: a[m, k], w[k, n], float16 or float32, rounded to binary16 once.

    w is pruned to the pattern along k. Raises ValueError for shapes that do not match, TypeError for another dtype.
    """
    for which, operand in (("a", a), ("w", w)):
        if not isinstance(operand, np.ndarray):
            raise TypeError(f"{which} is {type(operand).__name__}; it must be an array of float16 or float32")
    if a.ndim != 2 or w.ndim != 2 or a.shape[1] != w.shape[0]:
        raise ValueError(f"a has shape {a.shape!r} and w {w.shape!r}; they must be (m, k) and (k, n)")
    kept = _pattern(pattern)
    half = to_half(w)
    if kept is not None:
        half = prune(half, kept.n, kept.m, axis=0).astype(np.float16, copy=False)
    return Product(name, Stage.FF, a.shape[0], a.shape[1], w.shape[1], kept, a=to_half(a), w=half)


def training_step(
    model: str | Path,
    method: str = "bdwp",
    pattern: Pattern | str | None = "2:8",
    *,
    batch: int | None = None,
    first_and_last_dense: bool = True,
) -> Step:
    """Return one training step of a network: a name (`algorithms.core.vocabulary`), an ONNX file or a SCALE-Sim table.

    method: one of `algorithms.core.vocabulary.METHODS`; pattern: N:M of what it prunes; batch: None for 512, or that of
    the file, or of the recipe of a network that trains here, whose step is recorded, without biases and host work.
    Raises ValueError for what is unknown or does not fit, FileNotFoundError for a missing file.
    """
    if model in TRAINED_NETWORKS:
        from nmsat.dataflow.network.readers.recorded import recorded_step  # brings the trainer along

        name = str(model)
        return recorded_step(name, method, _pattern(pattern), batch, first_and_last_dense=first_and_last_dense)
    return training_products(load_model(model, batch), method, _pattern(pattern), first_and_last_dense)


def _check_call(config: object, values: object, memory: object, switches: object) -> None:
    if not isinstance(config, SatConfig):
        raise TypeError(f"config is {config!r}; it must be a SatConfig or the name of a preset")
    if not isinstance(switches, Switches):
        raise TypeError(f"switches is {switches!r}; it must be Switches")
    check_flag("values", values)
    if memory is not None:
        check_flag("memory", memory)


def _pattern(pattern: Pattern | str | None) -> Pattern | None:
    return Pattern.parse(pattern) if isinstance(pattern, str) else pattern


def _run_program(program: Program, machine: SatConfig, values: bool, memory: bool | None, switches: Switches) -> Result:
    if program.config != machine:
        raise ValueError(f"program is for configuration {program.config.name!r}; config is {machine.name!r}")
    if values or memory is False:
        raise ValueError(
            f"values is {values!r} and memory {memory!r}; a program of words knows shapes and runs with memory: "
            "simulate the products that it was made of"
        )
    return simulate_program(program, switches)


def _parts(
    program: Product | Iterable[Product] | Tape | Step,
) -> tuple[Sequence[Product], Sequence[StepHostOp | HostWork]]:
    """Return the products of a program and the work of the host beside them."""
    host: Sequence[StepHostOp | HostWork] = ()
    match program:
        case Product():
            products: Sequence[Product] = (program,)
        case Tape():
            products, host = program.products, program.host
        case Step():
            products, host = program.products, program.host_ops
        case _ if isinstance(program, Iterable) and not isinstance(program, str | bytes):
            products = tuple(program)
        case _:
            what = "a product, products in order, a tape, a step or a program"
            raise TypeError(f"program is {program!r}; it must be {what}")
    for product in products:
        if not isinstance(product, Product):
            raise TypeError(f"program holds {product!r}; it must hold products (gemm, matmul, or those of a tape)")
    if not products:
        raise ValueError("program holds no products; there is nothing to run")
    return products, host


def _as_step(products: Sequence[Product]) -> Step:
    """Return products as a step without update, so that the machine with its memory can run them."""
    return Step("products", tuple(products), (), (), (), sum(product.macs_full for product in products))


def _check_lowered(switches: Switches) -> None:
    if switches.search != ALL_ON or not switches.pregenerate:
        raise ValueError(f"switches are {switches!r}; a tape with memory runs as it is scheduled: leave them out")


def _check_on_chip(switches: Switches) -> None:
    if replace(switches, dataflow=None) != ALL_ON:
        raise ValueError(f"switches are {switches!r}; with operands on chip only dataflow applies: use memory=True")
