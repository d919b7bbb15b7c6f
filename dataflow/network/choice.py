"""What a user wants of single layers: dense, or a pattern of their own."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nmsat.algorithms.core.schema import toml_value
from nmsat.algorithms.core.tape import Pattern
from nmsat.dataflow.network.layers import ConvLayer, LinearLayer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nmsat.dataflow.network.layers import Layer


@dataclass(frozen=True)
class Choice:
    """Names of layers, or globs of them such as "block.*", with a pattern each, None for dense; the last one counts."""

    wishes: tuple[tuple[str, Pattern | None], ...] = ()

    def of(self, layers: Sequence[Layer]) -> dict[str, Pattern | None]:
        """Return the patterns of the layers that are named. ValueError for a name that no weight layer has."""
        names = [layer.name for layer in layers if isinstance(layer, ConvLayer | LinearLayer)]
        found: dict[str, Pattern | None] = {}
        for wish, pattern in self.wishes:
            meant = [wish] if wish in names else [name for name in names if fnmatchcase(name, wish)]
            if not meant:
                raise ValueError(f"no weight layer is called {wish!r}; layers: {', '.join(names)}")
            found.update(dict.fromkeys(meant, pattern))
        return found


def read_choice(path: str | Path) -> Choice:
    """Return what a TOML file wants:

        dense = ["stem", "head.*"]
        [pattern]
        "block.*.fc1" = "2:16"

    Raises FileNotFoundError; ValueError naming the file for what is not such a file.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no file {str(path)!r}")
    try:
        given = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{path.name}: not a TOML file ({error})") from None
    unknown = sorted(set(given) - {"dense", "pattern"})
    if unknown:
        raise ValueError(f"{path.name}: {unknown[0]!r} is not known; write dense = [...] and a table [pattern]")
    dense, patterns = given.get("dense", []), given.get("pattern", {})
    if not isinstance(dense, list) or not all(isinstance(name, str) for name in dense):
        raise ValueError(f"{path.name}: dense is {toml_value(dense)}; it must be a list of names")
    if not isinstance(patterns, dict):
        raise ValueError(f"{path.name}: pattern is {toml_value(patterns)}; it must be a table of names and patterns")
    wishes = [(name, _pattern(path.name, name, text)) for name, text in patterns.items()]
    return Choice((*((name, None) for name in dense), *wishes))


def _pattern(where: str, name: str, text: Any) -> Pattern | None:
    try:
        if not isinstance(text, str):
            raise ValueError(f'pattern is {toml_value(text)}; write it as text, such as "2:8"')
        return Pattern.parse(text)
    except ValueError as error:
        raise ValueError(f"{where}: layer {name!r}: {error}") from None
