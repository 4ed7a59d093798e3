"""Wire factories by shape into one VAE.

A factory is a class with its options bound and its shapes left open: an encoder is called with the image's shape, a
posterior with `(features, state, event)`, a prior with `(state, event, encode)`, a decoder with `(state, parameters)`.
"""

from collections.abc import Callable
from functools import partial

from torch import Tensor, nn
from torch.distributions import Distribution

from variata.core import VAE, Batch, Concat, Encoder, Rung, Size
from variata.likelihoods import Likelihood

Factory = Callable[..., nn.Module]


def flat(
    shape: Size,
    latent: int,
    encoder: Callable[..., Encoder],
    decoder: Factory,
    posterior: Factory,
    prior: Factory,
    likelihood: Callable[..., Likelihood],
) -> VAE:
    """A VAE with one latent vector: a ladder of one rung whose incoming state is empty.

    Args:
        shape: Of an image, [C, H, W].
        latent: D, dimensions of z.
    """
    if latent < 1:
        raise ValueError(f"A model needs at least one latent dimension, got latent={latent}.")
    shape = tuple(shape)
    empty, event = (0,), (latent,)
    network, density = encoder(shape=shape), likelihood(shape=shape)
    q = posterior(features=network.features[0], state=empty, event=event)
    # partial, not a lambda: a copy of the model must hold a copy of the encoder, not the original
    p = prior(state=empty, event=event, encode=partial(_encode, network, q))
    return VAE(network, [Rung(q, p, Concat())], decoder(state=event, shape=density.parameter_shape), density, empty)


def _encode(encoder: nn.Module, posterior: nn.Module, x: Tensor) -> Distribution:
    (h,) = encoder(Batch(x))
    return posterior(h, h[:, :0], None)
