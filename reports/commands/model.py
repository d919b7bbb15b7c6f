"""`nmsat model`: one training step of a network on SAT, by layer, stage and cause, against the dense step."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from nmsat.algorithms.core.tape import LeftOut
from nmsat.algorithms.core.vocabulary import METHODS, NETWORKS, TRAINED_NETWORKS
from nmsat.reports.commands.base import (
    MAX_SIZE,
    Answer,
    Command,
    Named,
    add_config,
    add_processes,
    method,
    whole,
)
from nmsat.reports.commands.model_advice import slower_layers, slower_note
from nmsat.reports.commands.model_options import KNOWN, add_file_options, add_layer_options, check_files, pattern_of_all
from nmsat.reports.commands.model_report import model_report
from nmsat.reports.commands.model_steps import step_pattern, steps, tape_steps, without
from nmsat.reports.commands.report_option import STEP_FIGURES, add_report, reporting
from nmsat.reports.work.bounds import speedup_bound
from nmsat.reports.work.output import add_force
from nmsat.reports.work.output_files import output_files
from nmsat.reports.work.progress import LOG, task
from nmsat.reports.work.text import InputError, table
from nmsat.sim.results.provenance import Source, told_lines

if TYPE_CHECKING:
    import argparse

    from nmsat.dataflow.contract.config import SatConfig
    from nmsat.dataflow.network.step import Step
    from nmsat.dataflow.program.jobs import Job
    from nmsat.reports.work.timings import Wanted
    from nmsat.sim.results.machine import MachineResult
    from nmsat.sim.work.ablation import Ablation

    Ran = tuple[Step, MachineResult]

HOST_NOTE: Final = (
    "The figure holds the programs of all matrix products and of the weight updates, one behind the other, with their "
    "memory. Host operators (normalisation, activation, softmax, pooling, loss) are counted here and not in it."
)

NOTHING_PRUNED: Final = (
    "nothing is pruned: first and last weight layer stay dense (--first-last prunes them), and no other layer holds a "
    "full group"
)

TAPE_NOTE: Final = (
    "The figure holds the programs of the recorded matrix products and of the weight updates, one behind the other, "
    "with their memory. A tape holds no host operators (normalisation, activation, softmax, pooling, loss)."
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
    parser.add_argument("--timeline", type=Path, default=None, metavar="FILE", help="write a Chrome trace (Perfetto)")
    parser.add_argument(
        "--estimate",
        action="store_true",
        help="cycles of a closed form, in seconds, instead of those of programs that run; says by how much it errs",
    )
    add_processes(parser)
    add_report(parser)
    add_force(parser)


def batch(text: str) -> int:
    """Read a batch size."""
    return whole(text, 1, MAX_SIZE)


def run(options: argparse.Namespace) -> Answer:
    """Compile and run the step and the dense step."""
    if options.estimate and options.timeline:
        raise InputError("--timeline draws where cycles go, which --estimate does not know; leave out one of them")
    if options.estimate and options.report:
        raise InputError("--report shows where cycles go, which --estimate does not know; leave out one of them")
    with (
        reporting(options, "model", STEP_FIGURES) as write,
        output_files({"--timeline": options.timeline}, "model", force=options.force) as files,
    ):
        values, sparse, dense, rows = _simulate(options)
        result = sparse[1]
        write(lambda: model_report(options, values, sparse, dense))
        if options.timeline:
            from nmsat.sim.work.timeline import write_trace

            with files.writing("--timeline") as path:
                write_trace(result, path)
    return Answer(values, _text(values, result, rows))


def _simulate(options: argparse.Namespace) -> tuple[dict[str, Any], Ran, Ran, list[Ablation]]:
    """Return what --json prints, the step and the dense one as they ran, and the rows of the ablation."""
    from nmsat.algorithms.core.tape import Stage
    from nmsat.dataflow.cycles.buffers import check_buffers
    from nmsat.dataflow.network.readers.tape import SUFFIX
    from nmsat.dataflow.program.memory_plan import Batches, memory_plan
    from nmsat.reports.work.timings import Wanted
    from nmsat.sim.results.energy import step_energy
    from nmsat.sim.work.ablation import VARIANTS, ablation

    check_files(options)
    taped = Path(options.model).suffix.lower() == SUFFIX
    found = tape_steps(options) if taped else steps(options)
    step, dense, slower, rows = found.step, found.dense, {}, []
    try:
        buffers = check_buffers(options.config)
        memory_plan(step, options.config, batches=found.batches or Batches(found.batch))
        result, full = _timed(options, [Wanted(step), Wanted(dense)], options.model)
        if found.layers and not options.prune_all:
            slower = dict.fromkeys(slower_layers(found.step, result, full, {*found.own, *found.masks}))
        if slower:
            step = without(options, found, slower)
            (result,) = _timed(options, [Wanted(step)], f"{options.model}, slower layers dense")
        plan = memory_plan(step, options.config, batches=found.batches or Batches(found.batch))
        if options.ablation:
            both = [Wanted(one, left) for left in VARIANTS.values() for one in (step, dense)]
            timed = iter(_timed(options, both, f"{options.model}, ablation"))
            rows = [ablation(name, next(timed), next(timed)) for name in VARIANTS]
    except ValueError as error:
        raise InputError(f"{options.model}: {error}") from None
    _warn(options, step, (*found.notes, *slower_note(slower)), taped=taped)
    speedup = full.cycles / result.cycles
    bound, bound_note = speedup_bound(step, result, full)
    values = {
        "model": options.model,
        "method": step.method,
        "pattern": step.patterns if taped or options.layer_patterns else str(step_pattern(options) or "dense"),
        "batch": found.batch,
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
        "memory_plan_bytes": plan,
        "buffer_blocks": buffers,
        "host_note": METHODS[step.method].host_note if step.method in METHODS else "",
        "masks": {name: {"density": mask.density, "cover": mask.describe()} for name, mask in found.masks.items()},
        "energy": None if options.estimate else step_energy(result, step.update_elements).record(),
        "dense_energy": None if options.estimate else step_energy(full, dense.update_elements).record(),
        "layers": result.table(),
        "layer_stages": _layer_stages(result),
        "host_kinds": _host_kinds(step),
        "left_out": [{"name": x.name, "kind": x.kind, "calls": x.calls} for x in step.left_out],
        "ablation": [_ablation_row(row) for row in rows],
    }
    return values, (step, result), (found.dense, full), rows


def _timed(options: argparse.Namespace, wanted: list[Wanted], label: str) -> list[MachineResult]:
    """Return what steps take, with a bar of their distinct programs."""
    from nmsat.reports.work.timings import distinct, time_all

    with task(label, distinct(options.config, wanted), "program") as running:

        def told(job: Job) -> None:
            running.now(f"{job.name} {job.stage}")
            running.advance()

        return time_all(options.config, wanted, told, options.processes, estimate=options.estimate)


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


def _layer_stages(result: MachineResult) -> dict[str, dict[str, int]]:
    """Return cycles by layer and stage; they add up to the step."""
    from nmsat.dataflow.network.step import layer_of

    out: dict[str, dict[str, int]] = {}
    for row in result.rows:
        stages = out.setdefault(layer_of(row.name), {})
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


def _ablation_row(row: Ablation) -> dict[str, object]:
    return {"name": row.name, "cycles": row.cycles, "speedup": row.speedup, "exceptions": row.exceptions}


def _text(values: dict[str, Any], result: MachineResult, rows: list[Ablation]) -> str:
    head = (
        f"{values['model']}, batch {values['batch'] or 'as recorded'}, {values['method']} {values['pattern']}, "
        f"configuration {values['config']}"
    )
    parts = [
        "\n".join([head, *told_lines(Source(values["source"]), values["planned"])]),
        _layers(result),
        *([_causes(result)] if result.causes else []),
        _totals(values, result.config),
    ]
    if values["masks"]:
        parts.append("\n".join(mask["cover"] for mask in values["masks"].values()))
    if rows:
        parts.append(_ablation(rows))
    return "\n\n".join(parts)


def _layers(result: MachineResult) -> str:
    header = ("product", "stage", "schedule", "tile", "cycles", "use", "waits most for", "MB", "MAC/B", "roofline")
    rows = []
    for row in result.table():
        values: dict[str, Any] = row
        waits = sorted(result.stalls, key=lambda cause: -values[cause])[:2]
        worst = [f"{cause} {values[cause] / values['cycles']:.1%}" for cause in waits if values[cause]]
        known = "macs_per_byte" in values
        size = f"{(values['bytes_read'] + values['bytes_written']) / 1e6:.1f}" if "bytes_read" in values else ""
        rows.append(
            (
                values["name"],
                values["stage"],
                f"{values['dataflow']} {values['rectangle']} {values['group']}" if "dataflow" in values else "",
                f"{values['tile_rows']}x{values['tile_columns']}" if "dataflow" in values else "",
                str(values["cycles"]),
                f"{values['utilization']:.1%}" if "utilization" in values else "",
                ", ".join(worst),
                size,
                f"{values['macs_per_byte']:.0f}" if known else "",
                values["limit"] if known else "",
            )
        )
    return table(header, rows)


def _causes(result: MachineResult) -> str:
    stages = list(result.by("stage"))
    rows = []
    for cause in result.causes:
        cells = [sum(row.causes[cause] for row in result.rows if row.stage == stage) for stage in stages]
        rows.append((cause, *(str(c) for c in cells), str(sum(cells)), f"{sum(cells) / result.cycles:.3%}"))
    totals = result.by("stage")
    rows.append(("all", *(str(totals[s]) for s in stages), str(result.cycles), "100.000%"))
    return table(("cycles", *stages, "all", "share"), rows)


def _totals(values: dict[str, Any], machine: SatConfig) -> str:
    moved = ", ".join(f"{name} {count / 1e6:.1f}" for name, count in values.get("bytes", {}).items())
    used = f"{sum(values['memory_plan_bytes'].values()) / 2**30:.2f} GiB used"
    unit = f"cycles ({values['source']})"
    energy, dense = values["energy"], values["dense_energy"]
    return "\n".join(
        [
            f"step          {values['cycles']} {unit}, {values['seconds']:.4f} s at {machine.clock_mhz:g} MHz",
            f"dense step    {values['dense_cycles']} {unit}, utilization {values['dense_utilization']:.1%}",
            f"speed-up      {values['speedup']:.4f}, bound {values['bound']:.4f}, {values['share_of_bound']:.1%} of it",
            *([f"bound         {values['bound_note']}"] if values["bound_note"] else []),
            f"utilization   {values['utilization']:.1%} of {machine.elements} elements with kept multiply-adds",
            f"memory        {moved} MB moved; {used}" if moved else f"memory        {used}",
            (
                f"host, beside  {values['host_operators']} operators, {values['host_operations']} operations, "
                f"{values['host_bytes'] / 1e6:.1f} MB"
            ),
            *_host_lines(values["host_kinds"]),
            *([_energy_line(energy, dense)] if energy else []),
            TAPE_NOTE if values["method"] == "tape" or values["model"] in TRAINED_NETWORKS else HOST_NOTE,
            *(f"left out      {LeftOut(**item).text}" for item in values["left_out"]),
        ]
    )


def _energy_line(energy: dict[str, Any], dense: dict[str, Any]) -> str:
    both = f"{energy['total_joule']:.2f} J, dense {dense['total_joule']:.2f} J"
    return f"energy        {both} (modelled, not measured)"


def _host_lines(kinds: dict[str, dict[str, int]]) -> list[str]:
    """Return what the host does, by kind, a few to a line."""
    cells = [f"{kind} {found['operations']} ({found['operators']})" for kind, found in kinds.items()]
    return [f"{'':14}{', '.join(cells[i : i + 4])}" for i in range(0, len(cells), 4)]


def _ablation(rows: list[Ablation]) -> str:
    built = rows[0].cycles
    cells = [
        (
            row.name + (f" ({row.exceptions} products keep their own)" if row.exceptions else ""),
            str(row.cycles),
            f"{row.cycles / built:.4f}",
            f"{row.speedup:.4f}",
            f"{rows[0].dense / row.cycles:.4f}",
        )
        for row in rows
    ]
    return table(("ablation", "cycles", "times as built", "over its dense", "over dense as built"), cells)


COMMAND = Command(
    summary="One training step of a network as programs of SAT: cycles by layer, stage and cause, speed-up.",
    example="nmsat model resnet18 --batch 512 --method bdwp --pattern 2:8 --config vcu1525 --processes 2",
    add_arguments=add_arguments,
    run=run,
)
