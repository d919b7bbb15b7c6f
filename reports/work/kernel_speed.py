"""How fast the contract's products and a training step in them are, as ratios measured side by side on one thread.

Seconds are of processor time, medians of some turns. What is compared runs in turns, so that what else the machine does
meets all of them alike; a ratio is the median of the ratios of the turns.
"""

from __future__ import annotations

import importlib
import importlib.util
import statistics
import time
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from threadpoolctl import threadpool_limits

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

PRODUCTS: Final = ((2048, 576, 64), (512, 576, 64), (1024, 1024, 1024))
"""m, k, n: two convolutions of `resnet9-small` as matrix products, and a large square."""

NETWORK: Final = "resnet9-small"

STEPS: Final = ((8, 32), (14, 64))
"""Side of the images and batch of the steps: those of its own data, and images on which products outweigh the rest."""


def kernel_speed(repeats: int = 7) -> dict[str, Any]:
    """Return GMAC/s of the products, and seconds and ratios of a training step; `kernel` is false if there is none."""
    from nmsat.algorithms.core import kernel

    with threadpool_limits(1):
        return {
            "kernel": kernel.load() is not None,
            "products": [_product(sizes, repeats) for sizes in PRODUCTS],
            "steps": [_step(2 * repeats, *sizes) for sizes in STEPS],
        }


def _product(sizes: tuple[int, int, int], repeats: int) -> dict[str, Any]:
    from nmsat.algorithms.core import chains
    from nmsat.algorithms.core.nm import pack
    from nmsat.algorithms.core.numeric import ordered_dot, ordered_dot_packed

    m, k, n = sizes
    rng = np.random.default_rng(1)
    a, w = rng.standard_normal((m, k)).astype(np.float16), rng.standard_normal((k, n)).astype(np.float16)
    wide, weights, packed = a.astype(np.float32), w.astype(np.float32), pack(w, 2, 8)
    rows = m // 16  # the loop in NumPy is slow: a part of the rows says as much
    turns = _turns(
        {
            "contract": lambda: ordered_dot(a, w),
            "contract_2of8": lambda: ordered_dot_packed(a, packed),
            "blas": lambda: wide @ weights,
            "numpy": lambda: chains.dense(a[:rows], w, np.zeros((rows, n), np.float32)),
        },
        repeats,
    )
    turns["numpy"] = [seconds * m / rows for seconds in turns["numpy"]]
    rate = {name: m * k * n / statistics.median(seconds) / 1e9 for name, seconds in turns.items()}
    pairs = {
        "to_blas": ratio(turns["blas"], turns["contract"]),
        "to_numpy": ratio(turns["numpy"], turns["contract"]),
        "sparse_to_dense": ratio(turns["contract"], turns["contract_2of8"]),
    }
    times = {name: pair["times"] for name, pair in pairs.items()}
    return {"m": m, "k": k, "n": n, "gmacs_per_second": rate, **times, "pairs": pairs}


def _step(repeats: int, side: int, batch: int) -> dict[str, Any]:
    """Return seconds of one training step: contract dense and BDWP 2:8, binary32 in NumPy, and PyTorch if installed.

    Images are noise of side x side pixels, a batch in an epoch of so many steps that none of the turns evaluates.
    """
    from nmsat.algorithms.training.data import Dataset
    from nmsat.algorithms.training.recipes import recipe
    from nmsat.algorithms.training.train import Trainer

    rng = np.random.default_rng(2)
    images = rng.standard_normal((64 * batch, side, side, 1)).astype(np.float32)
    labels = rng.integers(0, 10, len(images))
    data = Dataset(images, labels, images[:batch], labels[:batch], classes=10, source="noise")
    base = recipe(NETWORK).replace(batch=batch)
    trainers = {
        "contract": Trainer(base.replace(method="dense"), data),
        "contract_bdwp_2of8": Trainer(base.replace(method="bdwp", pattern="2:8"), data),
        "fast": Trainer(base.replace(method="dense", arithmetic="fast"), data),
    }
    work: dict[str, Callable[[], object]] = {name: trainer.run_step for name, trainer in trainers.items()}
    torch_step = _torch_step(batch, side)
    if torch_step is not None:
        work["pytorch"] = torch_step
    for call in work.values():
        call()
    turns = _turns(work, repeats)
    seconds = {name: statistics.median(samples) for name, samples in turns.items()}
    found: dict[str, Any] = {"network": NETWORK, "side": side, "batch": batch, "seconds": seconds, "pairs": {}}
    for other in ("fast", "pytorch"):
        if other in turns:
            for name, ours in ((f"to_{other}", "contract"), (f"bdwp_to_{other}", "contract_bdwp_2of8")):
                found["pairs"][name] = ratio(turns[ours], turns[other])
                found[name] = found["pairs"][name]["times"]
    return found


def ratio(slower: Sequence[float], quicker: Sequence[float]) -> dict[str, Any]:
    """Return how many times as long one work takes as another that ran in turns with it: median, spread, rounds.

    spread: the least and the largest apart, as a share of the median; None of a single turn.
    """
    times = [long / short for long, short in zip(slower, quicker, strict=True)]
    middle = statistics.median(times)
    return {
        "times": middle,
        "spread": (max(times) - min(times)) / middle if len(times) > 1 else None,
        "rounds": len(times),
    }


def _turns(work: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Return the seconds of each turn of each work."""
    found: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(repeats):
        for name, call in work.items():
            start = time.process_time()
            call()
            found[name].append(time.process_time() - start)
    return found


def _torch_step(batch: int, side: int) -> Callable[[], object] | None:
    """Return a step of the same network in PyTorch, binary32, one thread, channels last; None without PyTorch."""
    if importlib.util.find_spec("torch") is None:
        return None
    torch = importlib.import_module("torch")  # not among the packages that the type checker sees
    nn = torch.nn
    torch.set_num_threads(1)

    def block(channels_in: int, channels_out: int) -> Any:
        conv = nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False)
        return nn.Sequential(conv, nn.BatchNorm2d(channels_out), nn.ReLU())

    class Residual(nn.Module):
        """x + body(x)."""

        def __init__(self, *layers: Any) -> None:
            super().__init__()
            self.body = nn.Sequential(*layers)

        def forward(self, x: Any) -> Any:
            return x + self.body(x)

    ends = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10))
    model = nn.Sequential(
        *(block(1, 16), block(16, 32), Residual(block(32, 32), block(32, 32)), block(32, 64), nn.MaxPool2d(2)),
        *(Residual(block(64, 64), block(64, 64)), block(64, 32), *ends),
    ).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
    x, y = torch.randn(batch, 1, side, side).to(memory_format=torch.channels_last), torch.randint(0, 10, (batch,))

    def step() -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()

    return step
