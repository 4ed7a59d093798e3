"""Small models and densities the tests share."""

import re
from functools import partial

import torch
from torch import Tensor, nn
from torch.distributions import Independent, MultivariateNormal, Normal

import variata.priors
from conftest import ROOT
from variata.build import flat
from variata.core import VAE, Concat, Rung
from variata.likelihoods import Bernoulli
from variata.networks.conv import ConvDecoder, ConvEncoder
from variata.networks.mlp import MLPDecoder, MLPEncoder
from variata.networks.resnet import ResNetDecoder, ResNetEncoder
from variata.posteriors import Gaussian
from variata.priors import StandardNormal


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
        return VAE(Returns(lambda x: [x]), [rung], decoder, likelihood, (0,))
