r"""Data whose log-likelihood is known. Shapes: d = C*H*W pixels, q latents."""

import math

import torch
from torch import Generator, Tensor
from torch.distributions import MultivariateNormal

from variata.core import Size
from variata.data.module import ImageDataModule
from variata.data.pixels import as_real
from variata.data.source import ImageSource
from variata.errors import ConfigError

PIXELS, FACTORS, IMAGES = 4096, 4096, 1_000_000  # at most: the covariance has d^2 numbers
NOISE = 1e-6  # at least: sigma^2 is not lost beside W W^T in float64, so that the covariance stays positive definite


def linear_gaussian(
    shape: Size = (1, 2, 4),
    factors: int = 3,
    noise: float = 0.5,
    images: int = 2000,
    batch_size: int = 200,
    eval_batch_size: int = 200,
    eval_seed: int = 777,
) -> ImageDataModule:
    r"""\(x = W z + \mu + \sigma \epsilon\) with z and epsilon standard normal: log p(x) is a Gaussian's.

    Args:
        shape: Of an image, [C, H, W].
        factors: q, dimensions of z.
        noise: sigma.
        images: Of each split.
        eval_seed: Of the parameters and of all images.
    """
    source = LinearGaussian(tuple(shape), factors, noise, images, eval_seed)
    return ImageDataModule(source, batch_size, eval_batch_size, eval_seed)


class LinearGaussian(ImageSource):
    """Draws of a linear-Gaussian model, as `linear_gaussian` says."""

    kind = "real"
    draw = staticmethod(as_real)

    def __init__(self, shape: Size, factors: int, noise: float, images: int, eval_seed: int) -> None:
        if len(shape) != 3 or min(shape) < 1 or math.prod(shape) > PIXELS:
            raise ConfigError(f"data.shape is [C, H, W] of at most {PIXELS} pixels, got data.shape={list(shape)}.")
        if not 1 <= factors <= FACTORS or not NOISE <= noise <= 1 / NOISE:
            raise ConfigError(
                f"data=linear_gaussian takes 1 to {FACTORS} factors and noise from {NOISE:g} to {1 / NOISE:g}, got "
                f"data.factors={factors} and data.noise={noise}."
            )
        if not 1 <= images <= IMAGES:
            raise ConfigError(f"data=linear_gaussian takes 1 to {IMAGES:,} images, got data.images={images}.")
        self.shape, self.options = shape, (shape, factors, noise, images, eval_seed)
        self.protocol = f"linear_gaussian shape={list(shape)} factors={factors} noise={noise} seed={eval_seed}"

    def load(self) -> dict[str, Tensor]:
        return load_linear_gaussian(*self.options)


def density(shape: Size, factors: int, noise: float, seed: int) -> MultivariateNormal:
    r"""The true p(x) = N(mu, W W^T + sigma^2 I) over flattened images, float64."""
    d, generator = math.prod(shape), Generator().manual_seed(seed)
    w = torch.randn(d, factors, generator=generator, dtype=torch.float64)
    mean = torch.randn(d, generator=generator, dtype=torch.float64)
    return MultivariateNormal(mean, w @ w.T + noise**2 * torch.eye(d, dtype=torch.float64))


def load_linear_gaussian(shape: Size, factors: int, noise: float, images: int, seed: int) -> dict[str, Tensor]:
    """Three independent splits, float32 [images, C, H, W]."""
    p, generator = density(shape, factors, noise, seed), Generator().manual_seed(seed + 1)
    draws = torch.randn(3 * images, math.prod(shape), generator=generator, dtype=torch.float64)
    x = (p.mean + draws @ p.scale_tril.T).float().view(-1, *shape)
    return dict(zip(("train", "val", "test"), x.split(images), strict=True))
