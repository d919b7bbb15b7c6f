"""How a page of HTML is made of a template: style and pictures inside, nothing is loaded from elsewhere."""

from __future__ import annotations

from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from nmsat.reports.pages.style import PAGE_MARGIN, WIDTH


def render_page(template: str, **values: Any) -> str:
    """Return a page of `reports/pages/templates`; a value that it names and does not get is an error."""
    environment = Environment(
        loader=PackageLoader("nmsat.reports.pages"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(**values, margin=PAGE_MARGIN, picture=WIDTH)
