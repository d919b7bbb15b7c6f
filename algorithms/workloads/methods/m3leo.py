"""M3LEO: radar, interferometry and optics of the Earth with several labels; steps of its U-Net and its autoencoder.

Source: M. Allen et al., "M3LEO: A Multi-Modal, Multi-Label Earth Observation Dataset Integrating Interferometric SAR
and Multispectral Data", NeurIPS 2024, arXiv 2406.04230, and the code of its authors. A data set: nothing in it is
sparse; one of its baselines, the masked autoencoder, leaves out 75 % of the patches.
Known: tiles, labels and both networks from that code; the paper's result tables were not verified.

    tiles    448 x 448 pixels of 10 m; here radar (VV, VH, VV - VH in four seasons), 12 channels
    labels   land cover (11 classes, mean IoU) and surfaces to regress (biomass, built surface, ...; RMSE), one network
             each
    U-Net    32-64-128-256-512 channels, batches of 8; MAE: ViT-B/16, 12 layers, decoder of one layer of 512

Faithful: both networks, dense, a training step each (`m3leo_models`).
On SAT: all products. The rows that the autoencoder leaves out are gathered: dense products of what is kept; its
attention counts kept pairs. Norms, up-sampling and metrics are the host's.
Assumed: the autoencoder's batch of 8, one dimension of positions instead of two, pixels not normalised patch by patch.
Ours (`nm`): all matrices but the U-Net's last 2:4 along k, and along n in the input gradient.
Study: U-Nets against the mean, the commonest class and the likeliest class of each pixel by itself, whose rule knows
the densities of its region; mean IoU of cover and RMSE of biomass at home and in another region; one seed. At home the
U-Net must beat all of them, in the other region it must lose cover, so much that the rule is better. Tiles are
generated (`m3leo_tiles`) in two regions; the data set is not part of this project.
Found here: all of that: yes. The U-Net reaches 0.86 at home, where the rule has 0.80, and 0.77 in the other region. The
autoencoder is trained on one batch beside it: it comes to know that batch, and on new tiles is no better than the mean
of each channel (measured, not part of the answer).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import numpy as np

from nmsat.algorithms.core.tape import Pattern
from nmsat.algorithms.workloads.engine import ops
from nmsat.algorithms.workloads.engine.program import Program
from nmsat.algorithms.workloads.engine.registry import Document, Study, Variant, Workload, register
from nmsat.algorithms.workloads.engine.training import LOSS_SCALE, adam, clear
from nmsat.algorithms.workloads.methods import m3leo_models as models
from nmsat.algorithms.workloads.methods import m3leo_tiles as earth

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from nmsat.algorithms.workloads.engine.parameters import Parameter
    from nmsat.algorithms.workloads.engine.program import Tensor

PATTERN: Final = Pattern(2, 4)


@dataclass(frozen=True, kw_only=True)
class Size:
    """Both networks."""

    unet: models.UNetSize
    mae: models.MaeSize


def run(p: Program, size: Size, variant: Variant) -> None:
    """Record one training step of the U-Net on land cover and one of the autoencoder."""
    pattern = PATTERN if variant == "nm" else None
    data = earth.tiles(0, size.unet.batch, size.unet.side, "home") if p.values else None
    shape = (size.unet.batch, size.unet.side, size.unet.side, size.unet.channels)
    logits = models.unet(p, "unet", size.unet, p.input(shape, None if data is None else data.images), pattern)
    cover = ops.cross_entropy(logits, None if data is None else data.cover)
    images = None if data is None else data.images[: size.mae.batch]
    chosen = models.choose(np.random.default_rng(0), size.mae) if p.values else (None, None)
    p.backward(ops.add(cover, pixels(p, size.mae, images, *chosen, variant)), LOSS_SCALE)
    learnt = sum(w.size for w in p.store.values() if not w.frozen)
    p.host("update", "Adam", 13 * learnt, 32 * learnt)


def pixels(
    p: Program,
    size: models.MaeSize,
    images: NDArray | None,
    kept: NDArray[np.integer] | None,
    lost: NDArray[np.integer] | None,
    variant: Variant,
) -> Tensor:
    """Return the autoencoder's error on the patches `lost`, having read those `kept`."""
    pattern = PATTERN if variant == "nm" else None
    shape = (size.batch, size.patches, size.pixels)
    cut = p.input(shape, None if images is None else models.patches(images, size.patch))
    found = models.restore(p, size, models.encode(p, size, cut, kept, pattern), kept, pattern)
    return models.error(size, found, cut, lost)


def train(
    size: models.UNetSize, data: earth.Tiles, label: str, variant: Variant, steps: int, rate: float = 3e-3
) -> dict[str, Parameter]:
    """Train a U-Net on one label, 'cover' or 'biomass'."""
    store: dict[str, Parameter] = {}
    rng = np.random.default_rng(1)
    for step in range(1, steps + 1):
        pick, p = rng.integers(0, len(data.images), size.batch), Program(store=store)
        y = models.unet(
            p, label, size, p.input((size.batch, *data.images.shape[1:]), data.images[pick]), _form(variant)
        )
        if label == "cover":
            loss = ops.cross_entropy(y, data.cover[pick])
        else:
            loss = ops.squared_error(y, p.input(y.shape, data.biomass[pick][..., None]))
        p.backward(loss)
        adam(store.values(), rate * min(1.0, 2 * (1 - step / steps)), step)
        clear(store.values())
    return store


def predict(
    size: models.UNetSize, store: dict[str, Parameter], images: NDArray, label: str, variant: Variant
) -> NDArray:
    """Return the outputs of a trained U-Net; batch norm uses the statistics of these images."""
    p, size = Program(store=store), replace(size, batch=len(images))
    return models.unet(p, label, size, p.input(images.shape, images), _form(variant)).array


def reconstruct(size: models.MaeSize, data: earth.Tiles, variant: Variant, steps: int) -> tuple[float, float, float]:
    """Train the autoencoder on one batch with its patches drawn once.

    Returns its error there and on new tiles, and on these the error of the mean of each channel.
    """
    store: dict[str, Parameter] = {}
    few, chosen = data.images[: size.batch], models.choose(np.random.default_rng(2), size)
    error = 0.0
    for step in range(1, steps + 1):
        p = Program(store=store)
        loss = pixels(p, size, few, *chosen, variant)
        p.backward(loss)
        adam(store.values(), 3e-3 * min(1.0, 2 * (1 - step / steps)), step)
        clear(store.values())
        error = float(loss.array)
    test = earth.tiles(7, 32, size.side, "home").images
    size = replace(size, batch=len(test))
    kept, lost = models.choose(np.random.default_rng(3), size)
    unseen = float(pixels(Program(store=store), size, test, kept, lost, variant).array)
    cut = models.patches(test - data.images.mean(axis=(0, 1, 2)), size.patch)
    return error, unseen, float(np.mean(np.take_along_axis(cut, lost[..., None], 1) ** 2))


def study(variant: Variant) -> Study:
    """Two labels, two regions: networks beside the mean, the commonest class and the best rule for single pixels.

    That rule knows the densities of its region, and nothing of the pixels around.
    """
    side = SMALL.unet.side
    data = earth.tiles(3, 64, side, "home")
    tests = {region: earth.tiles(8, 32, side, region) for region in earth.REGIONS}
    store = train(SMALL.unet, data, "cover", variant, STEPS)
    small = replace(SMALL.unet, outputs=1)
    mass = train(small, data, "biomass", variant, STEPS)
    measured: dict[str, float | int | str] = {}
    for region, test in tests.items():
        found = predict(SMALL.unet, store, test.images, "cover", variant).argmax(axis=3)
        commonest = np.full_like(test.cover, np.bincount(test.cover.ravel()).argmax())
        rule = earth.bayes(test.images, region)
        for name, value in (("unet", found), ("commonest", commonest), ("pixel_rule", rule)):
            measured[f"miou_{name}_{region}"] = earth.mean_iou(test.cover, value, earth.CLASSES)
        said = predict(small, mass, test.images, "biomass", variant)[..., 0]
        measured[f"rmse_unet_{region}"] = earth.rmse(test.biomass, said)
        measured[f"rmse_mean_{region}"] = earth.rmse(test.biomass, float(test.biomass.mean()))
    error, unseen, mean = reconstruct(SMALL.mae, data, variant, 150)
    measured |= {"mae_error_learnt_batch": error, "mae_error_new_tiles": unseen, "mae_error_of_mean": mean}
    of = {key: float(value) for key, value in measured.items()}
    holds = (
        of["miou_unet_home"] > max(of["miou_pixel_rule_home"], of["miou_commonest_home"])
        and of["miou_unet_away"] < min(of["miou_unet_home"], of["miou_pixel_rule_away"])
        and of["rmse_unet_home"] < of["rmse_mean_home"]
    )
    claim = "known answers: at home U-Nets beat the mean, the commonest class and the best rule for single pixels"
    return Study(f"{claim}, which in another region beats them", holds, measured, {})


def _form(variant: Variant) -> Pattern | None:
    return PATTERN if variant == "nm" else None


STEPS: Final = 250
"""Of each U-Net of the study."""

SMALL: Final = Size(
    unet=models.UNetSize(batch=8, side=16, channels=earth.CHANNELS, widths=(8, 16), outputs=earth.CLASSES),
    mae=models.MaeSize(
        batch=8,
        side=16,
        channels=earth.CHANNELS,
        patch=4,
        kept=0.25,
        layers=1,
        width=32,
        heads=2,
        hidden=64,
        decoder=32,
        decoder_heads=2,
    ),
)
PAPER: Final = Size(
    unet=models.UNetSize(batch=8, side=448, channels=12, widths=(32, 64, 128, 256, 512), outputs=11),
    mae=models.MaeSize(
        batch=8,
        side=448,
        channels=12,
        patch=16,
        kept=0.25,
        layers=12,
        width=768,
        heads=12,
        hidden=3072,
        decoder=512,
        decoder_heads=16,
    ),
)

register(
    Workload(
        name="m3leo",
        title="M3LEO",
        source="Allen et al., NeurIPS 2024, arXiv 2406.04230",
        sparse="nothing of its own; its autoencoder leaves out 75 % of the patches",
        variants={
            "faithful": "dense baseline: a training step of U-Net and masked autoencoder, kept patches gathered",
            "nm": "ours: all matrices but the U-Net's last 2:4 along k and along n",
        },
        quoted="about 10 million tiles; result tables not verified",
        sizes={"small": SMALL, "paper": PAPER},
        run=run,
        study=study,
        about=__doc__,
        document=Document(
            kind="data set",
            protocol="one network per label; tested in its own region and in another; pixels of patches left out",
            models="U-Net (32 to 512 channels), masked autoencoder (ViT-B/16)",
            metrics="mean IoU of land cover, RMSE of surfaces, error of pixels",
        ),
    )
)
