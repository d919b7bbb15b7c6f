"""Methods of the user's own files, for the command line."""

from __future__ import annotations

from nmsat.algorithms.methods.files import read_method_files
from nmsat.reports.work.text import InputError


def read_methods() -> None:
    """Add the methods of the user's files, before any name of a method is looked up; InputError says what is wrong."""
    try:
        read_method_files()
    except ValueError as error:
        raise InputError(str(error)) from None
