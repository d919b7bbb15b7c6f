"""The simulator from a notebook: one function for a product, a tape or a training step.

from nmsat.sim.api import gemm, simulate, training_step

result = simulate(gemm(256, 1152, 128, "2:8"), "vcu1525")
result.cycles, result.utilization, result.stalls

step = simulate(training_step("resnet18", "bdwp", "2:8", batch=64), "vcu1525")
step.by("stage"), pandas.DataFrame(step.table())
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Literal, overload

import numpy as np

from nmsat.algorithms.core.nm import prune
from nmsat.algorithms.core.numeric import to_half
from nmsat.algorithms.core.ranges import check_flag
from nmsat.algorithms.core.tape import Pattern, Product, Stage, Tape
from nmsat.algorithms.core.vocabulary import TRAINED_NETWORKS
from nmsat.dataflow.contract.config import SatConfig, preset
from nmsat.dataflow.network.models import load_model
from nmsat.dataflow.network.step import Step, StepHostOp, training_products
from nmsat.dataflow.program.jobs import ALL_ON, Switches, step_jobs
from nmsat.dataflow.program.pieces import LearntWeights, given_jobs, piece_jobs
from nmsat.dataflow.program.ways import lower
from nmsat.sim.results.machine import MachineResult
from nmsat.sim.results.rows import ArrayResult
from nmsat.sim.work.machine import host_totals, machine_run
from nmsat.sim.work.tape import product_values, run_products, run_tape
from nmsat.sim.work.timed import Timer

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from nmsat.algorithms.core.tape import HostWork
    from nmsat.dataflow.program.jobs import Job

__all__ = ["ArrayResult", "MachineResult", "Switches", "gemm", "matmul", "simulate", "training_step"]

TIMERS: int = 8
"""Configurations whose timers are kept, with all that they have walked."""


@overload
def simulate(
    program: Step, config: SatConfig | str = "vcu1525", *, switches: Switches = ALL_ON, timer: Timer | None = None
) -> MachineResult: ...


@overload
def simulate(
    program: Product | Iterable[Product] | Tape | Step,
    config: SatConfig | str = "vcu1525",
    *,
    values: bool = False,
    memory: Literal[True],
    switches: Switches = ALL_ON,
    timer: Timer | None = None,
) -> MachineResult: ...


@overload
def simulate(
    program: Product | Iterable[Product] | Tape | Step,
    config: SatConfig | str = "vcu1525",
    *,
    values: bool = False,
    memory: bool | None = None,
    switches: Switches = ALL_ON,
    timer: Timer | None = None,
) -> ArrayResult | MachineResult: ...


def simulate(
    program: Product | Iterable[Product] | Tape | Step,
    config: SatConfig | str = "vcu1525",
    *,
    values: bool = False,
    memory: bool | None = None,
    switches: Switches = ALL_ON,
    timer: Timer | None = None,
) -> ArrayResult | MachineResult:
    """Compile a program for a machine and return what it takes there, cycle for cycle.

    program: a product (`gemm`, `matmul`), products in order, a tape, or a training step (`training_step`).
    config: a configuration or the name of a preset.
    values: compute Y of every product, bit for bit as the array does; the products must hold operands.
    memory: True runs the instructions of the machine, with loads, stores and external memory, in its quick gear. False
    runs the array with its operands on chip, without update. A tape's products take the quickest way either way:
    native, cover, gather ... By default steps run with memory, products and tapes without.
    switches: what the programs may use; without memory only `dataflow` counts. timer: of the same configuration, which
    knows what it has timed before (`sim.work.timed`); by default one that lasts as long as the process.

    Raises ValueError for an unknown preset, an empty program, values of products without operands, switches that do not
    apply, a product that no mapping can take or the machine has no program for; TypeError for something that is no
    program, configuration, flag, timer or switches.
    """
    machine = preset(config) if isinstance(config, str) else config
    _check_call(machine, values, memory, switches)
    _check_timer(timer, machine)
    products, host = _parts(program)
    totals = host_totals(host)
    result: ArrayResult | MachineResult
    if memory is False or (memory is None and not isinstance(program, Step)):
        _check_on_chip(switches)
        if isinstance(program, Tape) and switches.dataflow is None:
            result = run_tape(program, machine, totals)
        else:
            result = run_products(products, machine, switches.dataflow, totals)
    else:
        jobs, full = _jobs(program, products, machine, switches)
        result = machine_run(jobs, timer or _timer(machine), full, totals)
    if not values:
        return result
    return replace(result, values=tuple(product_values(product, machine) for product in products))


@lru_cache(maxsize=TIMERS)
def _timer(config: SatConfig) -> Timer:
    return Timer(config)


def _jobs(
    program: object, products: Sequence[Product], config: SatConfig, switches: Switches
) -> tuple[Sequence[Job], int]:
    """Return a program as programs of the machine, and its multiply-adds with nothing left out."""
    if isinstance(program, Step):
        return step_jobs(program, switches), program.macs_dense
    full = sum(product.macs_full for product in products)
    if isinstance(program, Tape) or any(product.sparsity for product in products):
        stored = LearntWeights({product.name for product in products if product.pattern is not None})
        return piece_jobs([lower(product, config) for product in products], stored, switches=switches), full
    return given_jobs(products, switches), full


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


def _check_timer(timer: object, machine: SatConfig) -> None:
    if timer is not None and not isinstance(timer, Timer):
        raise TypeError(f"timer is {timer!r}; it must be a Timer")
    if timer is not None and timer.config != machine:
        raise ValueError(f"timer is of configuration {timer.config.name!r}; config is {machine.name!r}")


def _pattern(pattern: Pattern | str | None) -> Pattern | None:
    return Pattern.parse(pattern) if isinstance(pattern, str) else pattern


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
            what = "a product, products in order, a tape or a step"
            raise TypeError(f"program is {program!r}; it must be {what}")
    for product in products:
        if not isinstance(product, Product):
            raise TypeError(f"program holds {product!r}; it must hold products (gemm, matmul, or those of a tape)")
    if not products:
        raise ValueError("program holds no products; there is nothing to run")
    return products, host


def _check_on_chip(switches: Switches) -> None:
    if replace(switches, dataflow=None) != ALL_ON:
        raise ValueError(f"switches are {switches!r}; with operands on chip only dataflow applies: use memory=True")
