"""What `nmsat report` shows: all figures in their order, and the numbers at the head of the page."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from nmsat.reports.pages.energy_figures import energy_figure, peer_figures
from nmsat.reports.pages.page_tables import percent
from nmsat.reports.pages.record_figures import accuracy_figure, workload_figure, workloads_figure
from nmsat.reports.pages.report_page import Report
from nmsat.reports.pages.step_figures import step_figures
from nmsat.reports.pages.use_figures import resources_figure, roofline_figure
from nmsat.reports.work.paper import PAPER, mean
from nmsat.reports.work.standing import RECORDED, Basis, machine_words
from nmsat.reports.work.step_runs import METHOD, shown

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from nmsat.dataflow.contract.config import SatConfig
    from nmsat.reports.pages.figure import Figure
    from nmsat.reports.work.committed import Records
    from nmsat.reports.work.step_runs import NetworkRuns

FIGURES: Final = (
    *("speedup", "stages", "ablation", "causes", "roofline", "resources"),
    *("energy", "throughput", "efficiency", "accuracy", "workloads"),
)
"""Names of all figures that a report may have, in their order."""

WORKLOADS_ON: Final = "vcu1525, sizes of the papers"
"""What the cycles of workloads are of."""


def full_report(found: Sequence[NetworkRuns], records: Records, batch: int, command: str) -> Report:
    """Return the report of steps that ran and of records; command: that makes it again."""
    config = found[0].dense.result.config
    pattern = shown([run.pattern for run in found[0].sparse])
    basis = Basis(command, machine_words(config, f"batch {batch}"))
    figures = [
        *step_figures(found, basis, pattern),
        roofline_figure(found, basis, pattern),
        *_recorded(records, machine_words(config)),
        energy_figure(found, basis, pattern),
        *peer_figures(found, basis, pattern),
    ]
    order = {name: place for place, name in enumerate(FIGURES)}
    names = [runs.network for runs in found]
    lead = (
        f"One training step of {_listed(names)} with {METHOD.upper()}, first layer and classifier dense, batch "
        f"{batch}, on {machine_words(config)}: weights pruned to "
        f"{_listed([run.pattern for run in found[0].sparse])} against dense training on the same machine. What the "
        "host does (normalisation, pooling, softmax, loss) is in no figure."
    )
    missing = list(records.missing)
    if not any(runs.ablated for runs in found):
        missing.append("ablation: not asked for, or none of its networks is here")
    return Report(
        f"nmsat: what {config.name} does",
        lead,
        sorted(figures, key=lambda figure: order[figure.name]),
        command,
        _key(found, records, pattern),
        missing,
    )


def steps_report(found: Sequence[NetworkRuns], more: str, command: str, title: str, no_ablation: str) -> Report:
    """Return the report of training steps alone.

    more: what else to say of how they ran, such as the batch; no_ablation: why there is no ablation, if there is none.
    """
    config = found[0].dense.result.config
    pattern = shown([run.pattern for run in found[0].sparse])
    basis = Basis(command, machine_words(config, more))
    figures = [
        *step_figures(found, basis, pattern),
        roofline_figure(found, basis, pattern),
        energy_figure(found, basis, pattern),
    ]
    lead = (
        f"Training steps of {_listed([runs.network for runs in found])}, {more}, on {machine_words(config)}: "
        f"{_listed([run.pattern for run in found[0].sparse])} against dense training on the same machine. What the "
        "host does is in no figure."
    )
    missing = () if any(runs.ablated for runs in found) else (f"ablation: {no_ablation}",)
    return Report(title, lead, figures, command, (), missing)


def study_report(record: Mapping[str, Any], command: str) -> Report:
    """Return the report of a study; record: what it writes as accuracy.json."""
    machine = f"{record['machine']}, networks and batches of the study"
    figure = accuracy_figure(record, Basis(command, machine))
    lead = f"{len(record['runs'])} trainings of {len(record['data'])} networks beside the cycles of their steps on SAT."
    return Report("nmsat: accuracy of the training methods", lead, [figure], command)


def workload_report(values: Mapping[str, Any], config: SatConfig, command: str) -> Report:
    """Return the report of a workload; values: what `nmsat workload run` found."""
    basis = Basis(command, machine_words(config, f"scale {values['scale']}"))
    figure = workload_figure(values, basis)
    lead = f"{values['title']} ({values['paper']}), {values['variant']}: {values['meaning']}."
    return Report(f"nmsat: {values['name']}", lead, [figure], command)


def workloads_report(record: Mapping[str, Any], page: str, command: str) -> Report:
    """Return the report of all workloads. record, page: as of `workloads_figure`."""
    figure = workloads_figure(record, page, Basis(command, WORKLOADS_ON))
    lead = "Published sparse methods on SAT, at the sizes of their papers, against the same work with nothing left out."
    return Report("nmsat: sparse methods as workloads", lead, [figure], command)


def _recorded(records: Records, config: str) -> list[Figure]:
    """Return the figures of the records that are there."""
    figures = []
    if records.synth:
        figures.append(resources_figure(records.synth.values, Basis(records.synth.command, config, RECORDED)))
    if records.accuracy:
        machine = f"{records.accuracy.values['machine']}, networks and batches of the study"
        basis = Basis(records.accuracy.command, machine, RECORDED)
        figures.append(accuracy_figure(records.accuracy.values, basis))
    if records.workloads:
        basis = Basis(records.workloads.command, WORKLOADS_ON, RECORDED)
        figures.append(workloads_figure(records.workloads.values, records.workloads_page, basis))
    return figures


def _key(found: Sequence[NetworkRuns], records: Records, pattern: str) -> list[tuple[str, str]]:
    """Return the numbers of the head."""
    speedup = mean([runs.speedup(runs.at(pattern)) for runs in found])
    bound = mean([runs.at(pattern).bound for runs in found])
    beside = f"; the paper reports {PAPER}× on average" if pattern == "2:8" else ""
    over = f"mean of {len(found)} networks" if len(found) > 1 else found[0].network
    dense_use = mean([runs.dense.result.utilization for runs in found])
    use = mean([runs.at(pattern).result.utilization for runs in found])
    key = [
        (f"{speedup:.2f}×", f"as fast as dense at {pattern}, {over}; exact; the bound is {bound:.2f}×{beside}"),
        (percent(dense_use), f"of the array in use in the dense step, {percent(use)} at {pattern}; exact"),
    ]
    if records.synth:
        values = records.synth.values
        share = values["total"]["luts"] / values["device"]["luts"]
        key.append((percent(share), f"of the LUTs of {values['device']['name']}; {values['mark']}, modelled"))
    return key


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
