"""How pictures look: FID and KID of reconstructions and samples, MS-SSIM and PSNR of reconstructions.

All figures are of 8-bit pictures. What a model shows is the mean of p(x | z), as everywhere else; where the data is
binary, that is smoother than the images it is compared with. Shapes: N images, [C, H, W] image, F features.
"""

import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import Metric, MetricCollection
from torchmetrics.image import MultiScaleStructuralSimilarityIndexMeasure, PeakSignalNoiseRatio
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance
from tqdm import tqdm

from variata.core import VAE
from variata.data.module import ImageDataModule
from variata.errors import ConfigError
from variata.evaluation.inception import inception
from variata.evaluation.pictures import noise
from variata.evaluation.samplers import MixtureSampler, PriorSampler, Sampler, training_codes
from variata.messages import say

Figures = dict[str, Any]

SUBSETS, SUBSET = 100, 1000  # of KID: how many, and of how many images each (Bińkowski et al. 2018, arXiv:1801.01401)
BETAS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # of the scales of MS-SSIM (Wang et al. 2003)
WINDOW = 11  # of SSIM, pixels
ALONE: dict[str, Any] = {"sync_on_compute": False}  # of several devices the first one judges


def measure(
    vae: VAE,
    data: ImageDataModule,
    root: Path,
    samplers: tuple[str, ...] = ("prior", "gmm"),
    temperature: float = 1.0,
    split: str = "test",
    images: int = 10_000,
    seed: int = 0,
) -> Figures:
    """`image_quality` with Inception where its weights can be had, and how it was taken.

    Args:
        root: Where the weights are looked for beside torch.hub's folder.
        samplers: Of "prior" and "gmm".
        temperature: Of the samples.
    """
    extractor, protocol = inception(root)
    chosen: dict[str, Sampler] = {}
    with noise(seed):
        if extractor is not None and "prior" in samplers:
            chosen["samples"] = PriorSampler(vae, temperature)
        if extractor is not None and "gmm" in samplers:
            chosen["samples_gmm"] = MixtureSampler(training_codes(vae, data), temperature=temperature, seed=seed)
        figures = image_quality(vae, data, chosen, extractor, split, images, temperature)
    return {**figures, **protocol, "quality/temperature": temperature, "quality/seed": seed}


@torch.no_grad()
def image_quality(
    vae: VAE,
    data: ImageDataModule,
    samplers: Mapping[str, Sampler],
    extractor: nn.Module | None,
    split: str = "test",
    images: int = 10_000,
    temperature: float = 1.0,
) -> Figures:
    """`quality/psnr`, `quality/ms_ssim`, and `quality/{fid,kid,kid_std}_<set>` of reconstructions and of each sampler.

    All sets have as many pictures as there are real images, and are compared with the same ones.

    Args:
        samplers: By the name of the set they make, such as "samples".
        extractor: uint8 [N, 3, H, W] -> features [N, F]; without one there is neither FID nor KID.
        split: Of the real images.
        images: Real images, evenly spread over the split; all where it has fewer.
        temperature: Of the rungs below the samplers'.
    """
    real, reconstructed = reconstructions(vae, data, split, images)
    figures: Figures = {
        "quality/images": len(real),
        "quality/split": split,
        "quality/pictures": "mean of p(x | z); of reconstructions z ~ q(z | x)",
        **similarity(real, reconstructed),
    }
    if extractor is None:
        return figures
    seen = features(extractor, real, "real")
    n, batch = len(real), data.eval_batch_size
    sets = {name: samples(vae, sampler, n, batch, temperature) for name, sampler in samplers.items()}
    for name, pictures in {"reconstructions": reconstructed, **sets}.items():
        for figure, value in distances(seen, features(extractor, pictures, name)).items():
            figures[f"quality/{figure}_{name}"] = value
    return {**figures, "quality/kid_subset": min(SUBSET, len(real))}


def reconstructions(vae: VAE, data: ImageDataModule, split: str, images: int) -> tuple[Tensor, Tensor]:
    """Images of a split, not mirrored, and their reconstructions, both uint8 [N, C, H, W]."""
    stored = data.images[split]
    n = min(images, len(stored))
    real, shown = [], []
    for batch in stored[torch.arange(n, device=stored.device) * len(stored) // n].split(data.eval_batch_size):
        batch = batch.to(vae.device)
        x = data.draw(batch, None) if split == "train" else data.prepare(batch, split)
        real.append(as_bytes(x))
        shown.append(as_bytes(vae.reconstruct(x).mean))
    return torch.cat(real), torch.cat(shown)


def samples(vae: VAE, sampler: Sampler, n: int, batch: int, temperature: float = 1.0) -> Tensor:
    """n pictures of a sampler's z, `batch` at a time, uint8 [n, C, H, W]; the rungs below are at the temperature."""
    drawn = (sampler(min(batch, n - done)) for done in range(0, n, batch))
    return torch.cat([as_bytes(vae.decode(z, temperature=temperature).mean) for z in drawn])


def as_bytes(x: Tensor) -> Tensor:
    """floor(256 x) as uint8: the grey value that was dequantised, and 0 or 255 of a binary pixel."""
    return (256 * x).floor().clamp(0, 255).to(torch.uint8)


# --- with each its original -------------------------------------------------------------------------------------------


def similarity(real: Tensor, shown: Tensor) -> Figures:
    """PSNR and MS-SSIM of pictures uint8 [N, C, H, W] beside their originals, scaled to [0, 1].

    PSNR is of the squared error averaged over all images, so that a single perfect picture does not make it infinite.
    MS-SSIM has as many of its five scales as fit, two at 28 and 32 pixels and three at 64, their weights renormalised
    to sum to one; pictures smaller than its window have none.
    """
    betas = BETAS[: scales(min(real.shape[-2:]))]
    metrics: dict[str, Metric | MetricCollection] = {"psnr": PeakSignalNoiseRatio(data_range=1.0, **ALONE)}
    if betas:
        weights = tuple(beta / sum(betas) for beta in betas)
        metrics["ms_ssim"] = MultiScaleStructuralSimilarityIndexMeasure(data_range=1.0, betas=weights, **ALONE)
    both = MetricCollection(metrics).to(real.device)
    for x, y in zip(real.split(200), shown.split(200), strict=True):
        both.update(y / 255, x / 255)
    figures = {f"quality/{name}": value.item() for name, value in both.compute().items()}
    return {**figures, "quality/psnr_error": "mean over all images", "quality/ms_ssim_scales": len(betas)}


def scales(size: int) -> int:
    """Scales of MS-SSIM for pictures of a size: the coarsest holds the window, and torchmetrics accepts them."""
    return max((s for s in range(1, 6) if size // max(2 ** (s - 1), (s - 1) ** 2) >= WINDOW), default=0)


# --- as sets ----------------------------------------------------------------------------------------------------------


class Given(nn.Module):
    """Stands where torchmetrics wants a network: the features are there already, taken once for all figures.

    Args:
        num_features: F, by the name torchmetrics reads.
    """

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, features: Tensor) -> Tensor:
        return features


def features(extractor: nn.Module, pictures: Tensor, name: str) -> Tensor:
    """Pictures uint8 [N, C, H, W] -> [N, F], grey ones as three equal channels; a terminal shows how far it is."""
    extractor = extractor.to(pictures.device)
    batches = tqdm(pictures.split(50), f"features of {name}", leave=False, disable=None)
    return torch.cat([extractor(batch.expand(-1, 3, -1, -1)) for batch in batches])


def distances(real: Tensor, shown: Tensor) -> dict[str, float]:
    """FID and KID between features [N, F] of two sets: `fid`, and `kid` with `kid_std` over random subsets."""
    network = Given(real.shape[1])
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*will save all extracted features")
        kid = KernelInceptionDistance(network, subsets=SUBSETS, subset_size=min(SUBSET, len(real), len(shown)), **ALONE)
    fid = FrechetInceptionDistance(network, **ALONE).to(real.device)
    for metric in (fid, kid):
        metric.update(real, real=True)
        metric.update(shown, real=False)
    mean, std = kid.compute()
    return {"fid": fid.compute().item(), "kid": mean.item(), "kid_std": std.item()}


def judge(
    vae: VAE, data: ImageDataModule, config: dict[str, Any], root: str | None = None, **options: Any
) -> dict[str, Any]:
    """`metrics.quality.measure`, the weights looked for where the data is; says on stderr why there is no FID."""
    root = root or config["data"].get("root") or os.environ.get("VARIATA_DATA", "data")
    figures = measure(vae, data, Path(root), **options)
    if (extractor := figures["quality/extractor"]).startswith("none: "):
        say(extractor.removeprefix("none: "))
    return figures


def require_pictures(data: ImageDataModule) -> None:
    """Refuse data that cannot be looked at."""
    if data.kind == "real":
        raise ConfigError(f"Only values in [0, 1] can be shown and judged as pictures; {data.protocol} is real-valued.")
