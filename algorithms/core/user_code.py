"""Code of a user's own file, run inside a command: what it prints and raises is kept from the command's output."""

from __future__ import annotations

import sys
from contextlib import contextmanager, redirect_stdout
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def guarded(what: str) -> Iterator[None]:
    """Run a block that calls a user's code: what it prints goes to stderr, and ValueError, one line, if it ends badly.

    what: whose code it is; the text is "WHAT cannot be run: REASON". An exit counts as an error, whatever its code.
    """
    try:
        with redirect_stdout(sys.stderr):  # a command's output is its own, JSON perhaps
            yield
    except SystemExit as error:
        raise ValueError(f"{what} cannot be run: it exits with {error.code!r}") from error
    except Exception as error:  # whatever is wrong with it, it is the user's
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{what} cannot be run: {reason}") from error
