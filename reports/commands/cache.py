"""`nmsat cache`: where the caches lie, how large they are, and a way to empty them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nmsat.hw.parts.cache import KEPT, ROOMS, Cleared, cache_root, cache_sizes, clear_caches
from nmsat.reports.commands.base import Answer, Command
from nmsat.reports.work.text import table

if TYPE_CHECKING:
    import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument(
        "--clear",
        action="store_true",
        help=f"remove all but {KEPT!r}, which cannot be made again",
    )


def run(options: argparse.Namespace) -> Answer:
    """Say the sizes, after removing what can be made again if that was asked for."""
    cleared = clear_caches() if options.clear else Cleared()
    values = {
        "folder": str(cache_root()),
        "bytes": cache_sizes(),
        "removed_bytes": cleared.gone,
        "not_removed": list(cleared.kept),
    }
    return Answer(values, _text(values, cleared=options.clear))


def _text(values: dict[str, Any], *, cleared: bool) -> str:
    sizes: dict[str, int] = values["bytes"]
    rows = [(name, f"{size / 1e6:.1f}", ROOMS[name]) for name, size in sizes.items()]
    rows.append(("all", f"{sum(sizes.values()) / 1e6:.1f}", ""))
    parts = [values["folder"], table(("folder", "MB", "holds"), rows)]
    if cleared:
        parts.append(f"{values['removed_bytes'] / 1e6:.1f} MB removed")
    if values["not_removed"]:
        parts.append(f"stays, as nmsat did not write it: {', '.join(values['not_removed'])}")
    return "\n\n".join(parts)


COMMAND = Command(
    summary="Say where compiled models, runs and other caches lie and how large they are; --clear removes them.",
    example="nmsat cache",
    add_arguments=add_arguments,
    run=run,
)
