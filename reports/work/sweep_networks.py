"""Networks of a sweep that are files: SCALE-Sim tables, ONNX files, and tapes, which are steps already."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from nmsat.algorithms.core.schema import FieldError
from nmsat.algorithms.core.tape import Pattern
from nmsat.algorithms.core.vocabulary import NETWORK_FILES, TRAINED_NETWORKS
from nmsat.dataflow.network.models import find_model, load_model
from nmsat.dataflow.network.readers.tape import SUFFIX, read_step
from nmsat.reports.work.text import InputError

if TYPE_CHECKING:
    from nmsat.dataflow.network.step import Step


def is_file(network: str) -> bool:
    """Tell whether a network is a file."""
    return Path(network).suffix.lower() in NETWORK_FILES


def is_tape(network: str) -> bool:
    """Tell whether a network is a tape, which holds batch, method and patterns."""
    return Path(network).suffix.lower() == SUFFIX


def file_digest(network: str) -> str:
    """Return the SHA-256 of a network's file; FieldError if it cannot be read."""
    try:
        if Path(network).exists() and not Path(network).is_file():
            raise FieldError("network", f"network is {network!r}; it is no regular file")
        return hashlib.sha256(Path(network).read_bytes()).hexdigest()
    except (OSError, ValueError) as error:  # the latter for a NUL in its name
        why = error.strerror if isinstance(error, OSError) else None
        text = f"network is {network!r}; it cannot be read: {why or error}"
        raise FieldError("network", text) from None


def file_notes(network: str, batches: list[int]) -> list[str]:
    """Return what reading a network's file decided; FieldError if it is no network, or none of these batches."""
    notes: dict[str, None] = {}
    for batch in batches:
        try:
            notes |= dict.fromkeys(find_model(network, batch).notes)
        except ValueError as error:
            text = f"network is {network!r}; it does not run with batch {batch}: {error}"
            raise FieldError("network", text) from None
    return list(notes)


def taped_step(network: str) -> Step:
    """Return the step of a tape; FieldError if it is none."""
    try:
        return read_step(network)
    except (ValueError, OSError) as error:
        raise FieldError("network", f"network is {network!r}; {error}") from None


@cache
def work_step(network: str, batch: int | None, method: str, pattern: str, content: str = "") -> Step:
    """Return a training step, kept as long as the process is; method 'dense' of a tape: its step without patterns.

    Raises InputError if a network's file is not of `content`.
    """
    from nmsat.dataflow.network.readers.recorded import recorded_step
    from nmsat.dataflow.network.step import training_products

    if content:
        _check_content(network, content)
    if is_tape(network):
        return read_step(network, dense=method == "dense")
    chosen = None if pattern == "dense" else Pattern.parse(pattern)
    if network in TRAINED_NETWORKS:
        return recorded_step(network, method, chosen, batch)
    return training_products(load_model(network, batch), method, chosen)


def _check_content(network: str, content: str) -> None:
    """Raise InputError if a file is not the one of the sweep: no point may be lost to that as one that does not run."""
    try:
        same = file_digest(network) == content
    except ValueError as error:
        raise InputError(str(error)) from None
    if not same:
        raise InputError(f"network is {network!r}; the file changed since the sweep began, or is another on a worker")
