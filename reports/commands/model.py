"""`nmsat model`: one training step of a network on SAT, by layer, stage and cause, against the dense step."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from nmsat.algorithms.core.vocabulary import METHODS, NETWORKS, TRAINED_NETWORKS
from nmsat.reports.commands.base import (
    MAX_SIZE,
    Answer,
    Command,
    Named,
    add_config,
    method,
    whole,
)
from nmsat.reports.commands.model_advice import slower_layers, slower_note, speedup_bound
from nmsat.reports.commands.model_options import KNOWN, add_file_options, add_layer_options, check_files, pattern_of_all
from nmsat.reports.commands.model_steps import step_pattern, steps, tape_steps, without
from nmsat.reports.work.output import add_force
from nmsat.reports.work.output_files import output_files
from nmsat.reports.work.progress import LOG, task
from nmsat.reports.work.text import InputError, table
from nmsat.sim.results.provenance import Source, told, told_lines

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from nmsat.dataflow.contract.config import SatConfig
    from nmsat.dataflow.network.step import Step
    from nmsat.reports.work.output_files import OutputFiles
    from nmsat.sim.schedule.step import StepResult
    from nmsat.sim.work.ablation import Ablation

OUTPUTS: Final = ("tiles", "timeline", "listing", "program")
"""Options that name a file to write."""

HOST_NOTE: Final = (
    "The figure holds all matrix products, weight update and pruning with their memory stalls. Host operators "
    "(normalisation, activation, softmax, pooling, loss) are counted here and not in it. "
    "nmsat program gives the machine's cycles of one product."
)

NOTHING_PRUNED: Final = (
    "nothing is pruned: first and last weight layer stay dense (--first-last prunes them), and no other layer holds a "
    "full group"
)

TAPE_NOTE: Final = (
    "The figure holds the recorded matrix products, weight update and pruning with their memory stalls. A tape holds "
    "no host operators (normalisation, activation, softmax, pooling, loss)."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument(
        "model",
        type=Named(str, lambda: NETWORKS),
        metavar="NAME_OR_FILE",
        help=KNOWN,
    )
    parser.add_argument(
        "--batch", type=batch, default=None, metavar="B", help="batch size (default: 512, or the file's or recipe's)"
    )
    parser.add_argument(
        "--method", type=method, default=None, metavar="NAME", help=f"{', '.join(METHODS)} (default: bdwp)"
    )
    add_layer_options(parser)
    add_config(parser, "vcu1525")
    add_file_options(parser)
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
    return whole(text, 1, MAX_SIZE)


def run(options: argparse.Namespace) -> Answer:
    """Schedule and simulate the step and the dense step."""
    paths = {f"--{name}": getattr(options, name) for name in OUTPUTS}
    with output_files(paths, "model", force=options.force) as files:
        values, result, rows = _simulate(options)
        try:
            _write(files, options, result)
        except ValueError as error:  # a number that the words of a program do not hold
            raise InputError(f"output cannot be written: {error}") from None
    return Answer(values, _text(values, result, rows))


def _simulate(options: argparse.Namespace) -> tuple[dict[str, Any], StepResult, list[Ablation]]:
    """Return what --json prints, the step as it ran, and the rows of the ablation."""
    from nmsat.algorithms.core.tape import Stage
    from nmsat.dataflow.network.readers.tape import SUFFIX
    from nmsat.dataflow.schedule.memory_plan import check_buffers, memory_plan
    from nmsat.sim.api import simulate
    from nmsat.sim.results.energy import step_energy
    from nmsat.sim.work.ablation import VARIANTS, ablations

    check_files(options)
    taped = Path(options.model).suffix.lower() == SUFFIX
    found = tape_steps(options) if taped else steps(options)
    step, dense, slower = found.step, found.dense, {}
    with task(f"simulating {options.model}", 2 + (2 * len(VARIANTS) if options.ablation else 0), "step") as running:
        try:
            buffers = check_buffers(options.config)
            memory_plan(step, options.config, batch=found.batch)
            running.now("the step")
            result = simulate(step, options.config)
            running.advance()
            running.now("the dense step")
            full = simulate(dense, options.config)
            if found.layers and not options.prune_all:
                slower = dict.fromkeys(slower_layers(found.step, result, full, {*found.own, *found.masks}))
            if slower:
                running.now("the step with slower layers dense")
                step = without(options, found, slower)
                result = simulate(step, options.config)
            plan = memory_plan(step, options.config, batch=found.batch)
        except ValueError as error:
            raise InputError(f"{options.model}: {error}") from None

        def told(what: str) -> None:
            running.advance()
            running.now(what)

        rows = ablations(step, dense, options.config, told) if options.ablation else []
    _warn(options, step, (*found.notes, *slower_note(slower)), taped=taped)
    speedup = full.cycles / result.cycles
    bound, bound_note = speedup_bound(step.bound, speedup, full.utilization)
    values = {
        "model": options.model,
        "method": step.method,
        "pattern": _patterns(step) if taped else str(step_pattern(options) or "dense"),
        "batch": found.batch if found.layers is None or options.batch or _is_file(options) else None,
        "inference": options.inference,
        "forward_macs": sum(p.macs_dense for p in dense.products if p.stage is Stage.FF),
        "parameters": sum(update.elements for update in found.dense.updates) if not options.inference else None,
        "kept_dense": list(slower),
        "notes": list(found.notes),
        "speedup": speedup,
        "macs_ratio": step.bound,
        "bound": bound,
        "bound_note": bound_note,
        "share_of_bound": speedup / bound,
        "dense_cycles": full.cycles,
        "dense_utilization": full.utilization,
        **result.record(),
        "memory_plan_bytes": plan.by_kind(),
        "buffer_blocks": buffers,
        "host_note": METHODS[step.method].host_note if step.method in METHODS else "",
        "masks": {name: {"density": mask.density, "cover": mask.describe()} for name, mask in found.masks.items()},
        "energy": step_energy(result, step.update_elements).record(),
        "dense_energy": step_energy(full, dense.update_elements).record(),
        "layers": result.table(),
        "layer_stages": _layer_stages(result),
        "host_kinds": _host_kinds(step),
        "left_out": [{"name": x.name, "kind": x.kind, "calls": x.calls} for x in step.left_out],
        "ablation": [_ablation_row(row) for row in rows],
    }
    return values, result, rows


def _is_file(options: argparse.Namespace) -> bool:
    return Path(options.model).suffix.lower() == ".onnx"


def _warn(options: argparse.Namespace, step: Step, notes: tuple[str, ...], *, taped: bool) -> None:
    """Tell what was not used and what the figures do not hold, where that is not plain."""
    for note in notes:
        LOG.warning("%s", note)
    if step.method == "dense" and (pattern := pattern_of_all(options)) is not None:
        LOG.warning("method dense prunes nothing; pattern %s is not used", pattern)
    if step.method != "dense" and step.macs_kept == step.macs_dense and not taped:
        LOG.warning(NOTHING_PRUNED)
    if step.method in METHODS and METHODS[step.method].host_note:
        LOG.warning("%s: %s", step.method, METHODS[step.method].host_note)


def _write(files: OutputFiles, options: argparse.Namespace, result: StepResult) -> None:
    """Write the files that were asked for."""
    import json

    from nmsat.reports.pages.tiles import write_tiles
    from nmsat.sim.work.timeline import write_trace

    writers: dict[str, Callable[[Path], object]] = {
        "timeline": lambda path: write_trace(result, path),
        "listing": lambda path: path.write_text(
            f"# program of the {told(result.source)}\n{result.program.listing()}\n", encoding="utf-8"
        ),
        "program": lambda path: path.write_text(
            json.dumps({"source": result.source, **result.program.record()}, indent=1) + "\n", encoding="utf-8"
        ),
        "tiles": lambda path: write_tiles(path, result.rows, result.source),
    }
    for name in OUTPUTS:
        if getattr(options, name):
            with files.writing(f"--{name}") as path:
                writers[name](path)


def _patterns(step: Step) -> str:
    """Return the patterns that a step has, such as '2:8', or 'dense'."""
    return ", ".join(sorted({str(p.pattern) for p in step.products if p.pattern is not None})) or "dense"


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
    head = (
        f"{values['model']}, batch {values['batch'] or _unsaid(values)}, {values['method']} {values['pattern']}, "
        f"configuration {values['config']}"
    )
    parts = [
        "\n".join([head, *told_lines(Source(values["source"]), values["planned"])]),
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
    unit = f"cycles ({values['source']})"
    energy, dense = values["energy"], values["dense_energy"]
    return "\n".join(
        [
            f"step          {values['cycles']} {unit}, {values['seconds']:.4f} s at {machine.clock_mhz:g} MHz",
            f"dense step    {values['dense_cycles']} {unit}, utilization {values['dense_utilization']:.1%}",
            f"speed-up      {values['speedup']:.4f}, bound {values['bound']:.4f}, {values['share_of_bound']:.1%} of it",
            *([f"bound         {values['bound_note']}"] if values["bound_note"] else []),
            f"utilization   {values['utilization']:.1%} of {machine.elements} elements with kept multiply-adds",
            f"memory        {moved} MB moved; {sum(values['memory_plan_bytes'].values()) / 2**30:.2f} GiB used",
            (
                f"host, beside  {values['host_operators']} operators, {values['host_operations']} operations, "
                f"{values['host_bytes'] / 1e6:.1f} MB"
            ),
            *_host_lines(values["host_kinds"]),
            f"energy        {energy['total_joule']:.2f} J, dense {dense['total_joule']:.2f} J (modelled, not measured)",
            TAPE_NOTE if values["method"] == "tape" or values["model"] in TRAINED_NETWORKS else HOST_NOTE,
            *(f"left out      {_left_out(item)}" for item in values["left_out"]),
        ]
    )


def _left_out(item: dict[str, Any]) -> str:
    """Return what a recording left out, for a line of text."""
    calls = f", {item['calls']} calls" if item["calls"] else ""
    return f"{item['name']} ({item['kind']}{calls}): in neither of the two steps"


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
