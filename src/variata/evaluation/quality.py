"""How pictures look: FID and KID of reconstructions and samples, MS-SSIM and PSNR of reconstructions.

All figures are of 8-bit pictures. What a model shows is the mean of p(x | z), as everywhere else; where the data is
binary, that is smoother than the images it is compared with. Shapes: N images, [C, H, W] image, F features.
"""

import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

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
from variata.evaluation.findings import PICTURES, Evaluation, Findings
from variata.evaluation.inception import inception
from variata.evaluation.noise import noise
from variata.evaluation.samplers import MixtureSampler, PriorSampler, Sampler, training_codes
from variata.messages import did_you_mean, say

Figures = dict[str, Any]
Split = Literal["train", "val", "test"]

SAMPLERS = ("prior", "gmm")
HOTTEST, SEEDS = 100, 2**32

SUBSETS, SUBSET = 100, 1000  # of KID: how many, and of how many images each (Bińkowski et al. 2018, arXiv:1801.01401)
BETAS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # of the scales of MS-SSIM (Wang et al. 2003)
WINDOW = 11  # of SSIM, pixels
ALONE: dict[str, Any] = {"sync_on_compute": False}  # of several devices the first one judges


class Quality(Evaluation):
    """`image_quality` with Inception where its weights can be had, and how it was taken.

    Args:
        images: Real images, and pictures of each set, at most.
        split: Of the real images.
        samplers: Of "prior" and "gmm", a mixture of Gaussians fitted to codes.
        temperature: Of the samples: a factor of the standard deviations of the prior or of a mixture's components.
        seed: Of everything drawn.
        root: Where Inception's weights are looked for beside torch.hub's folder; VARIATA_DATA, else data.
    """

    accepts = PICTURES

    def __init__(
        self,
        images: int = 10_000,
        split: Split = "test",
        samplers: Sequence[str] = SAMPLERS,
        temperature: float = 1.0,
        seed: int = 0,
        root: str | None = None,
    ) -> None:
        if images < 2 or not 0 <= temperature <= HOTTEST or not 0 <= seed < SEEDS:
            raise ValueError(
                f"images is at least 2, temperature a number from 0 to {HOTTEST} and seed one from 0 to 2^32 - 1, got "
                f"{images}, {temperature} and {seed}."
            )
        if unknown := [name for name in samplers if name not in SAMPLERS]:
            raise ValueError(f"There is no sampler {unknown[0]}. {did_you_mean(unknown[0], SAMPLERS)}")
        self.images, self.split, self.samplers, self.temperature, self.seed = images, split, samplers, temperature, seed
        self.root = Path(root or os.environ.get("VARIATA_DATA", "data"))

    def __str__(self) -> str:
        return f"quality of {self.images:,} pictures"

    def __call__(self, vae: VAE, data: ImageDataModule) -> Findings:
        """Says on stderr why there is no FID, where there is none."""
        extractor, protocol = inception(self.root)
        with noise(self.seed):
            chosen = self._samplers(vae, data) if extractor is not None else {}
            figures = image_quality(vae, data, chosen, extractor, self.split, self.images, self.temperature)
        if (name := protocol["quality/extractor"]).startswith("none: "):
            say(name.removeprefix("none: "))
        figures |= {**protocol, "quality/temperature": self.temperature, "quality/seed": self.seed}
        return Findings(figures, rows(figures))

    def _samplers(self, vae: VAE, data: ImageDataModule) -> dict[str, Sampler]:
        chosen: dict[str, Sampler] = {}
        if "prior" in self.samplers:
            chosen["samples"] = PriorSampler(vae, self.temperature)
        if "gmm" in self.samplers:
            codes = training_codes(vae, data)
            chosen["samples_gmm"] = MixtureSampler(codes, temperature=self.temperature, seed=self.seed)
        return chosen


def rows(figures: Figures) -> dict[str, str]:
    """The figures in words."""
    said = {"pictures": f"{figures['quality/images']:,} of the {figures['quality/split']} split"}
    for name in ("reconstructions", "samples", "samples_gmm"):
        if f"quality/fid_{name}" in figures:
            fid, kid, std = (figures[f"quality/{figure}_{name}"] for figure in ("fid", "kid", "kid_std"))
            said[name] = f"FID {fid:.2f}, KID {kid:.4f} ± {std:.4f}"
    said["PSNR"] = f"{figures['quality/psnr']:.2f} dB"
    if "quality/ms_ssim" in figures:
        said["MS-SSIM"] = f"{figures['quality/ms_ssim']:.4f} ({figures['quality/ms_ssim_scales']} scales)"
    return said


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
        temperature: Of the rungs below those a sampler answers for.
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
    return torch.cat([as_bytes(vae.decode(*z, temperature=temperature).mean) for z in drawn])


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


def require_pictures(data: ImageDataModule) -> None:
    """Refuse data that cannot be looked at."""
    if data.kind not in PICTURES:
        raise ConfigError(f"Only values in [0, 1] can be shown and judged as pictures; {data.protocol} is real-valued.")
