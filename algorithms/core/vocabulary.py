"""The names of training methods, networks and backends, once for all commands and libraries. Light to import.

What is true of a name stands here; what builds it is found by the same name: methods in `algorithms.methods`, networks
that train in `algorithms.layers.networks`, networks of the paper's size in `dataflow.network.models`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from nmsat.algorithms.core.ranges import check_number

if TYPE_CHECKING:
    from collections.abc import Iterable

MAX_DECAY: Final = 1000
"""Largest lambda of SR-STE's term that is taken."""

SR_STE_DECAY: Final = 2e-4
"""lambda of SR-STE's term (Zhou et al., ICLR 2021: 0.0002); Bi-Mask uses the same."""


@dataclass(frozen=True, kw_only=True)
class MethodFacts:
    """One training method.

    ff_weights, bp_weights: prunes W in the forward, in the backward product; bp_gradient, wu_gradient: prunes the
    output gradient dY in the backward product, in the weight gradient; decay: its own lambda of the SR-STE term (0:
    off); masks: how weights are chosen: 'magnitude' in each group, or by a mask that serves both directions, named
    after its method; own: it was added by `algorithms.methods.register`; on_host: what of the method no engine of SAT
    does, '' if SAT does all of it.
    """

    ff_weights: bool = False
    bp_weights: bool = False
    bp_gradient: bool = False
    wu_gradient: bool = False
    decay: float = 0.0
    masks: str = "magnitude"
    own: bool = False
    on_host: str = ""

    @property
    def prunes(self) -> bool:
        """Whether any operand is pruned, so that the method needs a pattern."""
        return self.ff_weights or self.bp_weights or self.bp_gradient or self.wu_gradient

    @property
    def host_note(self) -> str:
        """What the cycles of SAT do not hold of this method, for people; '' if they hold all."""
        return f"{self.on_host} is for the host and not in the cycles: no engine of SAT does it" if self.on_host else ""

    @property
    def obstacle(self) -> str:
        """Why a schedule of SAT cannot hold the products of this method; '' if it can."""
        if self.bp_weights and self.bp_gradient:
            return "it prunes both operands of the backward product, and SAT streams one sparse operand"
        return ""


METHODS: Final[dict[str, MethodFacts]] = {
    "dense": MethodFacts(),
    "ste": MethodFacts(ff_weights=True),
    "sr-ste": MethodFacts(ff_weights=True, decay=SR_STE_DECAY),
    "sdgp": MethodFacts(bp_gradient=True, on_host="choosing its gradients and putting them to scale"),
    "sdwp": MethodFacts(bp_weights=True),
    "bdwp": MethodFacts(ff_weights=True, bp_weights=True, decay=SR_STE_DECAY),
    "bi-mask": MethodFacts(
        ff_weights=True,
        bp_weights=True,
        decay=SR_STE_DECAY,
        masks="bi-mask",
        on_host="choosing its backward masks and putting output channels in their order",
    ),
    "transposable": MethodFacts(
        ff_weights=True, bp_weights=True, masks="transposable", on_host="choosing its masks, every 40 updates"
    ),
    "mvue": MethodFacts(wu_gradient=True, on_host="sampling its gradients"),
    "bdwp+mvue": MethodFacts(
        ff_weights=True, bp_weights=True, wu_gradient=True, decay=SR_STE_DECAY, on_host="sampling its gradients"
    ),
}
"""Training methods by name, in the order of the tables."""


@dataclass(frozen=True, kw_only=True)
class NetworkFacts:
    """One network.

    title: what it is; data: the data set that it trains on here, None for a network that is scheduled and not trained;
    small_of: the network of the paper whose small version it is.
    """

    title: str
    data: str | None = None
    small_of: str | None = None


NETWORKS: Final[dict[str, NetworkFacts]] = {
    "resnet9": NetworkFacts(title="ResNet9, CIFAR-10"),
    "vit": NetworkFacts(title="ViT-S/4, CIFAR-100"),
    "vgg19": NetworkFacts(title="VGG19, CIFAR-100"),
    "resnet18": NetworkFacts(title="ResNet18, Tiny ImageNet, 3 x 3 stem"),
    "resnet50": NetworkFacts(title="ResNet50, ImageNet"),
    "resnet18-7x7": NetworkFacts(title="ResNet18, Tiny ImageNet, stem of ImageNet"),
    "resnet9-small": NetworkFacts(title="residual network of eight convolutions", data="digits", small_of="resnet9"),
    "vit-small": NetworkFacts(title="vision transformer of two blocks", data="digits", small_of="vit"),
    "vgg19-small": NetworkFacts(title="VGG of five convolutions", data="digits", small_of="vgg19"),
    "resnet18-small": NetworkFacts(title="three basic residual blocks", data="digits", small_of="resnet18"),
    "resnet50-small": NetworkFacts(title="four bottleneck blocks", data="digits", small_of="resnet50"),
    "gpt": NetworkFacts(title="causal transformer over characters", data="text"),
    "mlp": NetworkFacts(title="three fully connected layers", data="teacher"),
    "digits-cnn": NetworkFacts(title="the network of the demo", data="digits"),
    "digits-sat": NetworkFacts(title="a network that SAT trains by itself", data="digits"),
}
"""Networks by name: the paper's five and a variant, their small versions, and the other networks that train here."""

PAPER_NETWORKS: Final = ("resnet9", "vit", "vgg19", "resnet18", "resnet50")
"""The five networks of the BDWP paper, in its order."""

PAPER_DATA: Final[dict[str, tuple[str, ...]]] = {
    "resnet9": ("cifar10", "cifar100"),
    "vit": ("cifar100", "cifar10"),
    "vgg19": ("cifar100", "cifar10"),
    "resnet18": ("images64",),
    "resnet50": ("images224",),
}
"""Kinds of data that the paper's networks train on (`algorithms.training.named_data`), that of the paper first."""

SCHEDULED_NETWORKS: Final = tuple(name for name, facts in NETWORKS.items() if facts.data is None)
"""Networks at the size of their papers, by the shapes of their layers. The paper's five also train, on `--data`."""

TRAINED_NETWORKS: Final = tuple(name for name, facts in NETWORKS.items() if facts.data is not None)
"""Networks that train here."""

SMALL_NETWORKS: Final = tuple(f"{name}-small" for name in PAPER_NETWORKS)
"""The small versions of the paper's five."""

SIZED_NETWORKS: Final = ("resnet9-small", "vgg19-small", "resnet18-small", "resnet50-small")
"""Networks that end in a mean over the image and so take images of any size."""

NETWORK_FILES: Final = {
    ".onnx": "an ONNX file (.onnx)",
    ".csv": "a SCALE-Sim table (.csv)",
    ".tape": "a tape (.tape)",
}
"""Files that can stand for a network, by the end of their name."""

BACKENDS: Final = ("numpy", "sim", "rtl")
"""What can compute the products of a training run."""

RENAMED: Final = {"srste": "sr-ste", "vgg": "vgg19-small"}
"""Names of older versions that are no longer known -> their new names."""


def method_facts(name: str) -> MethodFacts:
    """Return what is true of a method; ValueError lists the known ones, or says what an old name is called now."""
    if name not in METHODS:
        raise ValueError(_unknown("method", name, METHODS))
    return METHODS[name]


def check_decay(name: str, decay: float | None) -> None:
    """Raise ValueError if a method cannot have this lambda of the SR-STE term; None, its own, it always can."""
    if decay is None:
        return
    check_number("decay", decay, 0, MAX_DECAY)
    if decay and not method_facts(name).ff_weights:
        able = _known(other for other, facts in METHODS.items() if facts.ff_weights)
        raise ValueError(
            f"decay is {decay!r}; method {name!r} prunes no weight in the forward product, so it has no SR-STE term: "
            f"leave decay out ({able} have it)"
        )


def trained_network(name: str) -> NetworkFacts:
    """Return what is true of a network that trains here; ValueError for others names the small version if any."""
    if name in SCHEDULED_NETWORKS:
        small = [other for other, facts in NETWORKS.items() if facts.small_of == name]
        instead = f"its small version, which trains, is {small[0]!r}" if small else f"{_known(TRAINED_NETWORKS)} train"
        own = " or ".join(PAPER_DATA.get(name, ()))
        where = f"trained on {own} of --data alone" if own else "not trained here"
        raise ValueError(f"network is {name!r}, which is scheduled at its full size and {where}; {instead}")
    if name not in NETWORKS:
        raise ValueError(_unknown("network", name, TRAINED_NETWORKS))
    return NETWORKS[name]


def _unknown(what: str, name: str, known: Iterable[str]) -> str:
    if name in RENAMED:
        return f"{what} is {name!r}; it is now called {RENAMED[name]!r}"
    return f"{what} is {name!r}; known {what}s: {_known(known)}"


def _known(names: Iterable[str]) -> str:
    return ", ".join(names)
