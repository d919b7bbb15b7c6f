"""The version of nmsat: the one place that says it, in a checkout as in an installed package."""

from __future__ import annotations

from typing import Final

VERSION: Final = "0.2.0"
