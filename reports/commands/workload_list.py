"""`nmsat workload list`: the published sparse methods that run on SAT, and documents about models."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nmsat.reports.commands.base import Answer, Command

if TYPE_CHECKING:
    import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command: none."""
    del parser


def run(options: argparse.Namespace) -> Answer:
    """Return all workloads; with --json their list is under `workloads`."""
    del options
    from nmsat.reports.work.workload import workload_list

    found = workload_list()
    return Answer({"workloads": found}, _text(found))


def _text(values: list[dict[str, Any]]) -> str:
    width = max(len(item["name"]) for item in values)
    blank = " " * (width + 2)
    lines = []
    for item in values:
        lines += [f"{item['name']:<{width}}  {item['title']} ({item['paper']})", f"{blank}kind: {item['kind']}"]
        facts = {"sparse": item["sparse"], **{k: v for k, v in (item["document"] or {}).items() if k != "kind"}}
        lines += [f"{blank}{fact}: {text}" for fact, text in facts.items()]
        lines += [f"{blank}{variant}: {meaning}" for variant, meaning in item["variants"].items()]
    return "\n".join(lines)


COMMAND = Command(
    summary="List the published sparse methods, and the documents, that run on SAT as workloads.",
    example="nmsat workload list --json",
    add_arguments=add_arguments,
    run=run,
)
