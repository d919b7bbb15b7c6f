"""The version of nmsat: the one place that says it, in a checkout as in an installed package."""

from __future__ import annotations

TYPE_CHECKING = False  # `typing` takes its time, and this comes before the handlers of signals (`reports.start`)
if TYPE_CHECKING:
    from typing import Final

VERSION: Final = "0.2.0"
