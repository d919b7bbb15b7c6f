"""What a training run tells: its progress, its epochs, its result."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from nmsat.algorithms.core.tape import Tape
    from nmsat.algorithms.training.config import TrainConfig


@dataclass(frozen=True)
class Progress:
    """What a run reports after every step; accuracy is that of the last evaluation (NaN before the first)."""

    step: int
    steps: int
    epoch: int
    loss: float
    accuracy: float
    seconds: float


@dataclass(frozen=True)
class Epoch:
    """Outcome of one epoch.

    step: steps done; loss: mean training loss, nats; test_loss, accuracy (0..1): on the configured split; sad_ff,
    sad_bp: mean share of mask elements that changed per update; skipped: updates suppressed so far; shift: exponent of
    the loss scale.
    """

    epoch: int
    step: int
    loss: float
    test_loss: float
    accuracy: float
    sad_ff: float
    sad_bp: float
    skipped: int
    shift: int


@dataclass
class TrainResult:
    """Outcome of a run.

    losses: mean cross entropy of every step; epochs: one record each; skipped: steps whose update was suppressed; tape:
    products of the recorded step; macs_dense, macs_kept: multiply-adds of the whole run without and with its sparsity;
    bound: dense over kept multiply-adds of a step of the method; seconds: wall time; weights_sha256: of the masters as
    they stand, so that two runs can be compared to the bit; cycles: of each step done now, where a machine did it;
    method_sha256: of the file that registered the method (`algorithms.methods.files`), '' for those of nmsat.
    """

    config: TrainConfig
    losses: list[float] = field(default_factory=list)
    epochs: list[Epoch] = field(default_factory=list)
    skipped: int = 0
    tape: Tape | None = None
    macs_dense: int = 0
    macs_kept: int = 0
    bound: float = 1.0
    seconds: float = 0.0
    weights_sha256: str = ""
    cycles: list[int] = field(default_factory=list)
    method_sha256: str = ""

    @property
    def losses_sha256(self) -> str:
        """SHA-256 of the losses of all steps, as binary64."""
        return hashlib.sha256(np.array(self.losses, np.float64).tobytes()).hexdigest()

    @property
    def accuracies(self) -> list[float]:
        """Accuracy on the configuration's split after every epoch, 0..1."""
        return [epoch.accuracy for epoch in self.epochs]

    @property
    def accuracy(self) -> float:
        """Accuracy on the configuration's split after the last epoch, 0..1."""
        return self.epochs[-1].accuracy

    def summary(self) -> dict[str, object]:
        """Return what one line of results holds: the last epoch, with mask changes as means over the run."""
        last = asdict(self.epochs[-1])
        for key in ("sad_ff", "sad_bp"):
            last[key] = float(np.mean([getattr(epoch, key) for epoch in self.epochs]))
        digests = {"weights_sha256": self.weights_sha256, "losses_sha256": self.losses_sha256}
        run = {"macs_dense": self.macs_dense, "macs_kept": self.macs_kept, "bound": self.bound, "seconds": self.seconds}
        own = {"method_sha256": self.method_sha256} if self.method_sha256 else {}
        return {"config": self.config.as_dict(), **last, **run, **digests, **own}
