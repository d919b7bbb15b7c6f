"""Training recipes of the networks, and the names of runs: one name, one configuration."""

from __future__ import annotations

import re
from typing import Any, Final

from nmsat.algorithms.core.vocabulary import (
    METHODS,
    NETWORKS,
    PAPER_NETWORKS,
    RENAMED,
    SCHEDULED_NETWORKS,
    trained_network,
)
from nmsat.algorithms.training.config import DEMO, TrainConfig, field_kind, parse_fields
from nmsat.algorithms.training.named_data import COLOUR, sample_of

RECIPES: Final[dict[str, TrainConfig]] = {
    "resnet9-small": TrainConfig(network="resnet9-small", epochs=6),
    "vit-small": TrainConfig(network="vit-small", epochs=20, optimizer="adam", lr=4e-3, warmup=2.0),
    "vgg19-small": TrainConfig(network="vgg19-small", epochs=6),
    "resnet18-small": TrainConfig(network="resnet18-small", epochs=6, lr=0.2),
    "resnet50-small": TrainConfig(network="resnet50-small", epochs=8, lr=0.1),
    "gpt": TrainConfig(network="gpt", epochs=4, optimizer="adam", lr=8e-3, warmup=0.5),
    "mlp": TrainConfig(network="mlp", epochs=12, batch=128, lr=0.2, weight_decay=3e-3),
    "digits-cnn": DEMO,
    "digits-sat": TrainConfig(network="digits-sat", epochs=2, batch=16, warmup=0.5),
}
"""Training recipe of each network, the same for every method and pattern.

The learning rates are the outcome of `best_rate` over the validation runs, but for the demo's (docs/training.md).
"""

IMAGE_CHANGES: Final[dict[str, dict[str, float | int]]] = {
    "resnet9-small": {"epochs": 1, "lr": 0.1, "warmup": 0.1},
    "vgg19-small": {"epochs": 1, "lr": 0.1, "warmup": 0.1},
    "resnet18-small": {"epochs": 1, "lr": 0.1, "warmup": 0.1},
    "resnet50-small": {"epochs": 1, "lr": 0.1, "warmup": 0.1},
}
"""What the recipes change on the images of a folder, of which there are tens of thousands (`--data`)."""

COLOUR_CHANGES: Final[dict[str, dict[str, float | int]]] = {
    **{network: {"epochs": 3, "lr": 0.1, "warmup": 0.3, "batch": 64} for network in IMAGE_CHANGES},
    "vit-small": {"epochs": 6, "lr": 2e-3, "warmup": 0.5, "batch": 64},
}
"""The same on the colour images made here."""

PHOTO_CHANGES: Final[dict[str, dict[str, float | int]]] = {
    **{network: {"epochs": 10, "lr": 0.1} for network in IMAGE_CHANGES},
    "vit-small": {"epochs": 20, "lr": 2e-3},
}
"""The same on CIFAR and on images in folders; a guess that no validation run has looked at."""

_SR_STE: Final = {"epochs": 120, "batch": 256, "lr": 0.1, "warmup": 5.0, "weight_decay": 5e-5}

PAPER_RECIPES: Final[dict[str, dict[str, Any]]] = {
    "resnet9": {"epochs": 150, "batch": 512, "lr": 0.5, "warmup": 5.0},
    "vit": {"epochs": 200, "batch": 128, "optimizer": "adam", "lr": 1e-3, "warmup": 10.0},
    "vgg19": {"epochs": 150, "batch": 128, "lr": 0.1, "warmup": 5.0},
    "resnet18": _SR_STE,
    "resnet50": _SR_STE,
}
"""Fields of the recipes of the paper's networks. Its own settings are not in what we could read: ResNet9 has those of
SDGP's code, the two ResNets those of SR-STE's, the others are a guess. None has been run to its end here."""

RATES: Final = {"sgd": (0.025, 0.05, 0.1, 0.2), "adam": (1e-3, 2e-3, 4e-3, 8e-3)}
"""Learning rates that a recipe is chosen from, by optimizer."""

_FREE: Final = ("method", "pattern", "seed")
_OF_METHODS: Final = ("decay", "prune_from", "dense_epochs", "sparse_ends", "patterns")


def recipe(network: str, data: str = "") -> TrainConfig:
    """Return the recipe of a network on its own data or on named ones; ValueError lists the known ones.

    data: as in `TrainConfig`.
    """
    if network in PAPER_NETWORKS and data:
        return TrainConfig(network=network, data=data, **PAPER_RECIPES[network])
    trained_network(network)
    return RECIPES[network].replace(data=data, **_image_changes(network, data)) if data else RECIPES[network]


def _image_changes(network: str, data: str) -> dict[str, float | int]:
    """Return what the recipe of a network changes on named data; that of the user's own file is the network's."""
    sample = sample_of(data)
    if sample is None:
        return {}
    if sample.shape[2] == 1:
        return IMAGE_CHANGES.get(network, {})
    return (COLOUR_CHANGES if data == COLOUR else PHOTO_CHANGES).get(network, {})


def order_of(network: str) -> int:
    """Return the place of a network in tables: the paper's at their own size, then the others as their recipes."""
    return [*PAPER_NETWORKS, *RECIPES].index(network)


def variant(config: TrainConfig) -> dict[str, object]:
    """Return what a run's name says beside network, method, pattern and seed: `changes`, and the data if any."""
    return {**changes(config), **({"data": config.data} if config.data else {})}


def changes(config: TrainConfig) -> dict[str, object]:
    """Return what a configuration changes in the recipe of its network and data beside method, pattern and seed."""
    own, now = recipe(config.network, config.data).as_dict(), config.as_dict()
    return {key: now[key] for key in own if key not in _FREE and own[key] != now[key]}


def dense_changes(config: TrainConfig) -> dict[str, object]:
    """Return `changes` of the dense run that a run is compared with: without what only changes the method."""
    return {key: value for key, value in changes(config).items() if key not in _OF_METHODS}


def task(config: TrainConfig) -> str:
    """Return what a run learns, as tables name it: the network, and the kind of its images if they are of a folder."""
    return f"{config.network}/{config.data.partition('-')[0]}" if config.data else config.network


def run_name(config: TrainConfig) -> str:
    """Return the name of a run, such as 'resnet9-small-bdwp-2of8-seed1' or 'mlp-dense-seed0,epochs=2'.

    What differs from the network's recipe is in the name, so that different runs have different names.
    """
    pattern = "" if config.method == "dense" else f"-{config.pattern.replace(':', 'of')}"
    changes = "".join(f",{key}={_shown(value)}" for key, value in variant(config).items())
    return f"{config.network}-{config.method}{pattern}-seed{config.seed}{changes}"


def parse_name(name: str) -> TrainConfig:
    """Return the configuration of a run's name; ValueError if it is none or its values do not fit."""
    match = _pattern().fullmatch(name)
    if match is None or (match["n"] is None) != (match["method"] == "dense"):
        raise ValueError(
            f"cell is {name!r}; write NETWORK-METHOD-NofM-seedS such as resnet9-small-bdwp-2of8-seed1, or "
            "NETWORK-dense-seedS"
        )
    if match["network"] not in PAPER_NETWORKS or ",data=" not in match["changes"]:
        _refuse_old(name, match)
    fields: dict[str, object] = {"method": match["method"], "seed": int(match["seed"])}
    if match["n"] is not None:
        fields["pattern"] = f"{match['n']}:{match['m']}"
    pairs = [change.split("=") for change in match["changes"].split(",")[1:]]
    lines = [f'{key} = "{value}"' if field_kind(key) is str else f"{key} = {value}" for key, value in pairs]
    fields |= parse_fields("\n".join(lines))
    return recipe(match["network"], str(fields.get("data", ""))).replace(**fields)


def _pattern() -> re.Pattern[str]:
    """Return what names of runs look like; methods may have been registered since the last call."""
    longest = [sorted((*names, *RENAMED), key=len, reverse=True) for names in (NETWORKS, METHODS)]
    network, method = ("|".join(map(re.escape, names)) for names in longest)
    return re.compile(
        rf"(?P<network>{network})-(?P<method>{method})"
        r"(?P<rest>(-(?P<n>\d+)of(?P<m>\d+))?-seed(?P<seed>\d+)(?P<changes>(,\w+=[^,=]+)*))"
    )


def _refuse_old(name: str, match: re.Match[str]) -> None:
    """Raise ValueError with the name that a run of an older version has now."""
    small = {facts.small_of: other for other, facts in NETWORKS.items() if facts.small_of}
    now = {**RENAMED, **{old: small[old] for old in SCHEDULED_NETWORKS if old in small}}
    network, method = (now.get(match[part], match[part]) for part in ("network", "method"))
    if (network, method) != (match["network"], match["method"]):
        raise ValueError(f"cell is {name!r}; write {network}-{method}{match['rest']}: names of networks have changed")


def _shown(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
