"""Small models and densities the tests share."""

import re
from functools import partial

import torch
from torch import Tensor, nn
from torch.distributions import Independent, MultivariateNormal, Normal

import variata.priors
from conftest import ROOT
from variata.build import flat
from variata.core import VAE, Concat, Decoder, Encoder, Rung
from variata.data.pixels import as_real
from variata.data.source import ImageSource
from variata.likelihoods import Bernoulli
from variata.networks.blocks import Residual
from variata.networks.conv import ConvDecoder, ConvEncoder
from variata.networks.mlp import MLPDecoder, MLPEncoder
from variata.networks.resnet import ResNetDecoder, ResNetEncoder
from variata.posteriors import Gaussian
from variata.priors import Prior, StandardNormal


def small(shape=(1, 4, 4), latent=3, prior=StandardNormal, likelihood=Bernoulli, widths=(8,)) -> VAE:
    encoder, decoder = partial(MLPEncoder, widths=widths), partial(MLPDecoder, widths=widths)
    return flat(shape, latent, encoder, decoder, Gaussian, prior, likelihood)


def conv(shape, latent=4, channels=(4, 6), blocks=(1, 1)) -> VAE:
    options = {"channels": channels, "blocks": blocks}
    return flat(
        shape,
        latent,
        partial(ConvEncoder, **options, hidden=8),
        partial(ConvDecoder, **options, hidden=8),
        Gaussian,
        StandardNormal,
        Bernoulli,
    )


def resnet(shape, latent=4, channels=(4, 6), blocks=(1, 1)) -> VAE:
    options = {"channels": channels, "blocks": blocks}
    encoder, decoder = partial(ResNetEncoder, **options), partial(ResNetDecoder, **options)
    return flat(shape, latent, encoder, decoder, Gaussian, StandardNormal, Bernoulli)


def documented_prior() -> type:
    """The prior that docs/development.md adds to `variata.priors`."""
    text = (ROOT / "docs" / "development.md").read_text()
    (code,) = (block for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "class StudentT" in block)
    names = {**vars(variata.priors)}
    exec(code, names)
    return names["StudentT"]


class Pyramid(Encoder):
    """Two feature maps, the coarser on top."""

    def __init__(self, shape):
        super().__init__()
        self.fine, self.coarse = nn.Conv2d(shape[0], 4, 3, 2, 1), nn.Conv2d(4, 4, 3, 2, 1)

    def forward(self, batch):
        fine = self.fine(batch.x).relu()
        return [self.coarse(fine), fine]


class Conditional(Prior):
    """p(z | state): a Gaussian whose parameters are read from the state by a posterior without features."""

    def __init__(self, state, event, encode=None):
        super().__init__()
        self.head = Gaussian((0, *state[1:]), state, event)

    def forward(self, state):
        return self.head(state[:, :0], state, None)


class Upsample(nn.Module):
    """Adds z to the state and doubles its size."""

    def __init__(self, state, event):
        super().__init__()
        self.z, self.block = nn.Conv2d(event[0], state[0], 1), Residual(state[0])

    def forward(self, state, z):
        return nn.functional.interpolate(self.block(state + self.z(z)), scale_factor=2)


class ToImage(Decoder):
    """A convolution of a map of the image's size."""

    def __init__(self, state, shape):
        super().__init__(state, shape)
        self.conv = nn.Conv2d(state[0], shape[0], 3, padding=1)

    def body(self, state):
        return self.conv(state)


def two_rungs(shape=(1, 8, 8)) -> VAE:
    """A ladder of two feature maps, of a quarter and of half the image's height and width."""
    sizes = [(4, shape[1] // part, shape[2] // part) for part in (4, 2)]
    rungs = [
        Rung(Gaussian(size, size, (3, *size[1:])), prior(size, (3, *size[1:]), None), Upsample(size, (3,)))
        for size, prior in zip(sizes, (StandardNormal, Conditional), strict=True)
    ]
    return VAE(Pyramid(shape), rungs, ToImage((4,), shape), Bernoulli(shape), sizes[0])


class Held(ImageSource):
    """Images in memory, those of training given."""

    def __init__(self, train, draw=as_real, kind="binary", splits=None):
        self.splits = {"train": train, "val": train[:10], "test": train[:10], **(splits or {})}
        self.shape, self.kind, self.protocol, self.pixels = tuple(train.shape[1:]), kind, "held", draw

    def load(self):
        return self.splits

    def draw(self, images, generator=None):
        return self.pixels(images, generator)


class Returns(nn.Module):
    """A module that answers with what a function makes of its first argument."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x, *rest):
        return self.function(x)


class LinearGaussian:
    """x = W z + s e in float64, whose posterior and log p(x) are known."""

    def __init__(self, pixels=5, latent=2, scale=0.3):
        self.w, self.scale = torch.randn(pixels, latent, dtype=torch.float64), scale
        eye = torch.eye(latent, dtype=torch.float64)
        self.covariance = torch.linalg.inv(eye + self.w.T @ self.w / scale**2)
        marginal = self.w @ self.w.T + scale**2 * torch.eye(pixels, dtype=torch.float64)
        self.p = MultivariateNormal(torch.zeros(pixels, dtype=torch.float64), marginal)
        self.latent = latent

    def posterior(self, h: Tensor) -> MultivariateNormal:
        return MultivariateNormal(h @ self.w @ self.covariance / self.scale**2, self.covariance)

    def prior_like(self, h: Tensor) -> Independent:
        zero = torch.zeros(len(h), self.latent, dtype=torch.float64)
        return Independent(Normal(zero, torch.ones_like(zero)), 1)

    def vae(self, posterior) -> VAE:
        rung = Rung(Returns(posterior), Returns(self.prior_like), Concat())
        decoder, likelihood = Returns(lambda z: z @ self.w.T), Returns(lambda y: Independent(Normal(y, self.scale), 1))
        return VAE(Returns(lambda batch: [batch.x]), [rung], decoder, likelihood, (0,))
