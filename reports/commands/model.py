"""`nmsat model`: one training step of a network on SAT, by layer, stage and cause, against the dense step."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from nmsat.reports.commands.base import MAX_SIZE, Answer, Command, InputError, config, pattern, table
from nmsat.reports.work.output import add_force
from nmsat.reports.work.output_files import output_files

if TYPE_CHECKING:
    from collections.abc import Callable

    from nmsat.dataflow.contract.config import SatConfig
    from nmsat.dataflow.network.readers.masks import LayerMask
    from nmsat.dataflow.network.step import Step
    from nmsat.reports.work.output_files import OutputFiles
    from nmsat.sim.schedule.step import StepResult
    from nmsat.sim.work.ablation import Ablation

METHODS: Final = ("dense", "srste", "sdgp", "sdwp", "bdwp", "bdwp+mvue")

OUTPUTS: Final = ("tiles", "timeline", "listing", "program")
"""Options that name a file to write."""

HOST_NOTE: Final = (
    "The figure holds all matrix products, weight update and pruning with their memory stalls. Host operators "
    "(normalisation, activation, softmax, pooling, loss) are counted here and not in it. Cycles of the array are those "
    "of the RTL; loader and external memory are a model, which the machine in RTL does not reach on narrow layers "
    "(docs/predicted.md)."
)

NOTHING_PRUNED: Final = (
    "nmsat: note: nothing is pruned: first and last weight layer stay dense (--first-last prunes them), and no other "
    "layer holds a full group"
)

TAPE_NOTE: Final = (
    "The figure holds the recorded matrix products, the update of their weights and pruning with their memory stalls. "
    "A tape holds no biases, no normalisation and no host operators."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    from nmsat.dataflow.contract.config import preset

    parser.add_argument(
        "model",
        metavar="NAME_OR_FILE",
        help="resnet9, vit, vgg19, resnet18, resnet50, resnet18-7x7, an ONNX file, a SCALE-Sim table, or a tape",
    )
    parser.add_argument(
        "--batch", type=batch, default=None, metavar="B", help="batch size (default: 512, or the file's)"
    )
    parser.add_argument("--method", choices=METHODS, default=None, help="training method (default: bdwp)")
    parser.add_argument("--pattern", type=pattern, default=None, metavar="N:M", help="sparsity (default: 2:8)")
    parser.add_argument(
        "--config", type=config, default=preset("vcu1525"), metavar="NAME", help="tiny, small or vcu1525 (default)"
    )
    parser.add_argument("--first-last", action="store_true", help="prune the first layer and the classifier too")
    parser.add_argument(
        "--ablation", action="store_true", help="the same step with one optimisation switched off at a time"
    )
    parser.add_argument(
        "--masks", type=Path, default=None, metavar="FILE", help="weights that exist: .npz, a mask or weights per layer"
    )
    parser.add_argument(
        "--mask-layout",
        choices=["oi", "kn"],
        default="oi",
        help="axes of the masks: oi as in PyTorch, kn as the matrix K x N (default: oi)",
    )
    parser.add_argument("--tiles", type=Path, default=None, metavar="FILE", help="write the cycles of each tile as CSV")
    parser.add_argument("--timeline", type=Path, default=None, metavar="FILE", help="write a Chrome trace (Perfetto)")
    parser.add_argument(
        "--listing", type=Path, default=None, metavar="FILE", help="write the program that ran, as text"
    )
    parser.add_argument("--program", type=Path, default=None, metavar="FILE", help="write that program as JSON")
    add_force(parser)


def batch(text: str) -> int:
    """Read a batch size."""
    if not text.isdecimal() or not 1 <= int(text) <= MAX_SIZE:
        raise argparse.ArgumentTypeError(f"the value is {text!r}; it must be a whole number from 1 to {MAX_SIZE}")
    return int(text)


def run(options: argparse.Namespace) -> Answer:
    """Schedule and simulate the step and the dense step."""
    paths = {f"--{name}": getattr(options, name) for name in OUTPUTS}
    with output_files(paths, "model", force=options.force) as files:
        values, result, rows = _simulate(options)
        _write(files, options, result)
    return Answer(values, _text(values, result, rows))


def _simulate(options: argparse.Namespace) -> tuple[dict[str, Any], StepResult, list[Ablation]]:
    """Return what --json prints, the step as it ran, and the rows of the ablation."""
    from nmsat.dataflow.network.readers.tape import SUFFIX
    from nmsat.dataflow.schedule.memory_plan import check_buffers, memory_plan
    from nmsat.sim.api import simulate
    from nmsat.sim.results.energy import step_energy
    from nmsat.sim.work.ablation import ablations

    taped = Path(options.model).suffix == SUFFIX
    step, dense, masks = _tape_steps(options) if taped else _steps(options)
    try:
        plan, buffers = memory_plan(step, options.config), check_buffers(options.config)
        result, full = simulate(step, options.config), simulate(dense, options.config)
    except ValueError as error:
        raise InputError(f"{options.model}: {error}") from None
    if step.method != "dense" and step.macs_kept == step.macs_dense and not taped:
        print(NOTHING_PRUNED, file=sys.stderr)
    rows = ablations(step, dense, options.config) if options.ablation else []
    values = {
        "model": options.model,
        "method": step.method,
        "pattern": _patterns(step) if taped else str(step_pattern(options) or "dense"),
        "batch": options.batch,
        "speedup": full.cycles / result.cycles,
        "bound": step.bound,
        "share_of_bound": full.cycles / result.cycles / step.bound,
        "dense_cycles": full.cycles,
        "dense_utilization": full.utilization,
        **result.record(),
        "memory_plan_bytes": plan.by_kind(),
        "buffer_blocks": buffers,
        "masks": {name: {"density": mask.density, "cover": mask.describe()} for name, mask in masks.items()},
        "energy": step_energy(result, step.update_elements).record(),
        "dense_energy": step_energy(full, dense.update_elements).record(),
        "layers": result.table(),
        "layer_stages": _layer_stages(result),
        "host_kinds": _host_kinds(step),
        "ablation": [_ablation_row(row) for row in rows],
    }
    return values, result, rows


def _write(files: OutputFiles, options: argparse.Namespace, result: StepResult) -> None:
    """Write the files that were asked for."""
    import json

    from nmsat.reports.pages.tiles import write_tiles
    from nmsat.sim.work.timeline import write_trace

    writers: dict[str, Callable[[Path], object]] = {
        "timeline": lambda path: write_trace(result, path),
        "listing": lambda path: path.write_text(result.program.listing() + "\n", encoding="utf-8"),
        "program": lambda path: path.write_text(json.dumps(result.program.record(), indent=1) + "\n", encoding="utf-8"),
        "tiles": lambda path: write_tiles(path, result.rows),
    }
    for name in OUTPUTS:
        if getattr(options, name):
            with files.writing(f"--{name}") as path:
                writers[name](path)


def step_pattern(options: argparse.Namespace) -> Any:
    """Return the pattern that the method uses: 2:8 unless given, none for dense training."""
    from nmsat.algorithms.core.tape import Pattern

    return None if options.method == "dense" else options.pattern or Pattern(2, 8)


def _tape_steps(options: argparse.Namespace) -> tuple[Step, Step, dict[str, LayerMask]]:
    """Return the step of a tape and the same step without its patterns; its run decided what is sparse: no masks."""
    from nmsat.dataflow.network.readers.tape import read_step

    given = {
        "--batch": options.batch,
        "--method": options.method,
        "--pattern": options.pattern,
        "--masks": options.masks,
    }
    asked = [name for name, value in given.items() if value is not None]
    if options.first_last:
        asked.append("--first-last")
    if asked:
        raise InputError(f"{options.model} is a tape, which holds batch, method and patterns; leave out {asked[0]}")
    try:
        return read_step(options.model), read_step(options.model, dense=True), {}
    except (ValueError, OSError) as error:
        raise InputError(str(error)) from None


def _patterns(step: Step) -> str:
    """Return the patterns that a step has, such as '2:8', or 'dense'."""
    return ", ".join(sorted({str(p.pattern) for p in step.products if p.pattern is not None})) or "dense"


def _steps(options: argparse.Namespace) -> tuple[Step, Step, dict[str, LayerMask]]:
    """Return the step of a network, its dense step, and the masks of its layers."""
    from nmsat.dataflow.network.models import load_model
    from nmsat.dataflow.network.readers.masks import read_masks
    from nmsat.dataflow.network.step import METHODS as HOW
    from nmsat.dataflow.network.step import training_products

    method = options.method or "bdwp"
    if options.masks and not (HOW[method].ff_weights or HOW[method].bp_weights):
        raise InputError(f"method {method!r} prunes no weights, so --masks has nothing to do; use srste, sdwp or bdwp")
    try:
        layers = load_model(options.model, options.batch)
        masks = read_masks(options.masks, layers, options.mask_layout) if options.masks else {}
        edges = not options.first_last
        step = training_products(layers, method, step_pattern(options), first_and_last_dense=edges, masks=masks)
        return step, training_products(layers, "dense"), masks
    except (ValueError, OSError) as error:
        raise InputError(str(error)) from None


def _layer_stages(result: StepResult) -> dict[str, dict[str, int]]:
    """Return cycles by layer and stage; they add up to the step."""
    from nmsat.sim.results.result import layer_of_row

    out: dict[str, dict[str, int]] = {}
    for row in result.rows:
        stages = out.setdefault(layer_of_row(row), {})
        stages[row.stage] = stages.get(row.stage, 0) + row.cycles
    return out


def _host_kinds(step: Step) -> dict[str, dict[str, int]]:
    """Return operators, operations and bytes of the host by kind, the most operations first."""
    out: dict[str, dict[str, int]] = {}
    for op in step.host_ops:
        kind = out.setdefault(op.kind, {"operators": 0, "operations": 0, "bytes": 0})
        kind["operators"] += 1
        kind["operations"] += op.operations
        kind["bytes"] += op.bytes
    return dict(sorted(out.items(), key=lambda item: -item[1]["operations"]))


def _unsaid(values: dict[str, Any]) -> str:
    """Return what to say of a batch that was not asked for."""
    return "as recorded" if values["method"] == "tape" else "default"


def _ablation_row(row: Ablation) -> dict[str, object]:
    return {"name": row.name, "cycles": row.cycles, "speedup": row.speedup, "exceptions": row.exceptions}


def _text(values: dict[str, Any], result: StepResult, rows: list[Ablation]) -> str:
    parts = [
        (
            f"{values['model']}, batch {values['batch'] or _unsaid(values)}, {values['method']} {values['pattern']}, "
            f"configuration {values['config']}"
        ),
        _layers(result),
        _causes(result),
        _totals(values, result.config),
    ]
    if values["masks"]:
        parts.append("\n".join(mask["cover"] for mask in values["masks"].values()))
    if rows:
        parts.append(_ablation(rows))
    return "\n\n".join(parts)


def _layers(result: StepResult) -> str:
    header = ("product", "stage", "schedule", "tile", "cycles", "use", "waits most for", "MB", "MAC/B", "roofline")
    rows = []
    for row in result.table():
        if "dataflow" not in row:
            rows.append((str(row["name"]), str(row["stage"]), "", "", str(row["cycles"]), "", "", "", "", ""))
            continue
        values: dict[str, Any] = row
        waits = sorted(result.stalls, key=lambda cause: -values[cause])[:2]
        worst = [f"{cause} {values[cause] / values['cycles']:.1%}" for cause in waits if values[cause]]
        size = values["bytes_a"] + values["bytes_w"] + values["bytes_y"]
        rows.append(
            (
                values["name"],
                values["stage"],
                f"{values['dataflow']} {values['rectangle']} {values['group']} {values['loop']}",
                f"{values['tile_rows']}x{values['tile_columns']}",
                str(values["cycles"]),
                f"{values['utilization']:.1%}",
                ", ".join(worst),
                f"{size / 1e6:.1f}",
                f"{values['macs_per_byte']:.0f}",
                values["limit"],
            )
        )
    return table(header, rows)


def _causes(result: StepResult) -> str:
    stages = list(result.by("stage"))
    rows = []
    for cause in result.causes:
        cells = [sum(s.causes[cause] for s in result.run.spans if s.stage == stage) for stage in stages]
        rows.append((cause, *(str(c) for c in cells), str(sum(cells)), f"{sum(cells) / result.cycles:.3%}"))
    totals = result.by("stage")
    rows.append(("all", *(str(totals[s]) for s in stages), str(result.cycles), "100.000%"))
    return table(("cycles", *stages, "all", "share"), rows)


def _totals(values: dict[str, Any], machine: SatConfig) -> str:
    size = values["bytes"]
    moved = ", ".join(f"{name} {count / 1e6:.1f}" for name, count in size.items())
    energy, dense = values["energy"], values["dense_energy"]
    return "\n".join(
        [
            f"step          {values['cycles']} cycles, {values['seconds']:.4f} s at {machine.clock_mhz:g} MHz",
            f"dense step    {values['dense_cycles']} cycles, utilization {values['dense_utilization']:.1%}",
            f"speed-up      {values['speedup']:.4f}, bound {values['bound']:.4f}, {values['share_of_bound']:.1%} of it",
            f"utilization   {values['utilization']:.1%} of {machine.elements} elements with kept multiply-adds",
            f"memory        {moved} MB moved; {sum(values['memory_plan_bytes'].values()) / 2**30:.2f} GiB used",
            (
                f"host, beside  {values['host_operators']} operators, {values['host_operations']} operations, "
                f"{values['host_bytes'] / 1e6:.1f} MB"
            ),
            *_host_lines(values["host_kinds"]),
            f"energy        {energy['total_joule']:.2f} J, dense {dense['total_joule']:.2f} J (modelled, not measured)",
            TAPE_NOTE if values["method"] == "tape" else HOST_NOTE,
        ]
    )


def _host_lines(kinds: dict[str, dict[str, int]]) -> list[str]:
    """Return what the host does, by kind, a few to a line."""
    cells = [f"{kind} {found['operations']} ({found['operators']})" for kind, found in kinds.items()]
    return [f"{'':14}{', '.join(cells[i : i + 4])}" for i in range(0, len(cells), 4)]


def _ablation(rows: list[Ablation]) -> str:
    built = rows[0].cycles
    cells = [
        (
            row.name + (f" ({row.exceptions} products the other way)" if row.exceptions else ""),
            str(row.cycles),
            f"{row.cycles / built:.4f}",
            f"{row.speedup:.4f}",
            f"{rows[0].dense / row.cycles:.4f}",
        )
        for row in rows
    ]
    return table(("ablation", "cycles", "times as built", "over its dense", "over dense as built"), cells) + (
        "\nno interleave: a closed form, operands on chip; that machine was not built"
    )


COMMAND = Command(
    summary="Schedule and simulate one training step of a network on SAT: cycles by layer, stage and cause, speed-up.",
    example="nmsat model resnet18 --batch 512 --method bdwp --pattern 2:8 --config vcu1525 --ablation",
    add_arguments=add_arguments,
    run=run,
)
