"""Likelihoods p(x | z). Shapes: N rows, P parameter channels, [C, H, W] image.

Each is a normalised density in nats, constants included, and states the kinds of data it is one for. Eight-bit data is
x in [0, 1); a likelihood over its 256 levels is the density that is constant on each, so that all of them compare.
"""

import math
from abc import ABC, abstractmethod
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from variata.core import Part, Size
from variata.devices import mean_over_devices
from variata.distributions import (
    LEVELS,
    BestScale,
    CategoricalLevels,
    LogisticLevels,
    bernoulli,
    continuous_bernoulli,
    laplace,
    normal,
    tilt,
)

Shared = Literal["image", "channel", "pixel"]
BOUND = 7.0  # nats, of |log scale| where the decoder predicts it: as for the posterior


class Likelihood(Part, ABC):
    """Maps a decoder's output to p(x | z).

    Args:
        shape: Of an image, [C, H, W].

    Attributes:
        parameter_shape: What it asks of the decoder, [P, H, W].
    """

    accepts: ClassVar[frozenset[str]]  # of "binary", "8-bit" (dequantised to [0, 1)), "real"

    def __init__(self, shape: Size) -> None:
        super().__init__()
        self.parameter_shape = tuple(shape)

    @abstractmethod
    def forward(self, parameters: Tensor) -> Distribution:
        """parameters [N, P, H, W] -> p(x | z), batch [N], event [C, H, W]."""

    @abstractmethod
    def initial(self, mean: Tensor) -> Tensor:
        """The parameters [P, H, W] whose distribution has the given mean [C, H, W], about."""


class Bernoulli(Likelihood):
    r"""\(p(x | z) = \prod_i \pi_i^{x_i} (1 - \pi_i)^{1 - x_i}\) for x in {0, 1}, with logits \(\log \pi / (1 - \pi)\).

    On grey values it is no likelihood and its figures mean nothing; so it accepts binary data only.
    """

    accepts = frozenset({"binary"})

    def forward(self, parameters: Tensor) -> Distribution:
        return bernoulli(parameters)

    def initial(self, mean: Tensor) -> Tensor:
        return torch.logit(mean, eps=1e-5)  # a pixel never seen on costs 1e-5 nats, not infinity when it is


class ContinuousBernoulli(Likelihood):
    r"""\(p(x | z) = \prod_i e^{\eta_i x_i} \eta_i / (e^{\eta_i} - 1)\) on [0, 1]: a Bernoulli made a density.

    Loaiza-Ganem & Cunningham 2019, https://arxiv.org/abs/1907.06845
    """

    accepts = frozenset({"8-bit"})

    def forward(self, parameters: Tensor) -> Distribution:
        return continuous_bernoulli(parameters)

    def initial(self, mean: Tensor) -> Tensor:
        return tilt(mean)


class LocationScale(Likelihood):
    """A symmetric density around the decoder's output, with a scale of its own.

    Args:
        scale: In units of x; where learned, where it starts.
        learned: Whether the scale is trained with the rest (Rybkin et al. 2021, https://arxiv.org/abs/2006.13202).
        per: What has one scale: the "image", each "channel", or each "pixel" of each channel.
    """

    accepts = frozenset({"8-bit", "real"})

    def __init__(self, shape: Size, scale: float = 0.25, learned: bool = True, per: Shared = "image") -> None:
        super().__init__(shape)
        shapes: dict[str, Size] = {"image": (), "channel": (shape[0], 1, 1), "pixel": tuple(shape)}
        self.log_scale = nn.Parameter(torch.full(shapes[per], log_of(scale)), requires_grad=learned)

    def forward(self, parameters: Tensor) -> Distribution:
        return self.density(parameters, self.log_scale.exp().expand_as(parameters))

    def initial(self, mean: Tensor) -> Tensor:
        return mean

    @abstractmethod
    def density(self, location: Tensor, scale: Tensor) -> Distribution:
        """location and scale [N, C, H, W] -> batch [N], event [C, H, W]."""


class Gaussian(LocationScale):
    r"""\(p(x | z) = N(x; \mu(z), s^2)\)."""

    def density(self, location: Tensor, scale: Tensor) -> Distribution:
        return normal(location, scale)


class Laplace(LocationScale):
    r"""\(p(x | z) = e^{-|x - \mu(z)| / s} / 2s\): the absolute error as a likelihood."""

    def density(self, location: Tensor, scale: Tensor) -> Distribution:
        return laplace(location, scale)


class HeteroscedasticGaussian(Likelihood):
    r"""\(p(x | z) = N(x; \mu(z), s(z)^2)\): the decoder predicts a scale for each value.

    \(\log s = b \tanh(t / b)\) with b = 7 nats, so that a value known for certain does not end the training.
    Nix & Weigend 1994, https://doi.org/10.1109/ICNN.1994.374138

    Args:
        scale: Where the scales start.
    """

    accepts = frozenset({"8-bit", "real"})

    def __init__(self, shape: Size, scale: float = 0.25) -> None:
        super().__init__(shape)
        self.parameter_shape, self.start = (2 * shape[0], *shape[1:]), unbounded(log_of(scale))

    def forward(self, parameters: Tensor) -> Distribution:
        mean, t = parameters.float().chunk(2, 1)
        return normal(mean, bounded(t).exp())

    def initial(self, mean: Tensor) -> Tensor:
        return torch.cat([mean, torch.full_like(mean, self.start)])


class OptimalGaussian(Likelihood):
    r"""\(p(x | z) = N(x; \mu(z), s^2)\) with the best scale, \(s^2 = \overline{(x - \mu)^2}\), not a learned one.

    Training takes the mean over the batch, on all devices; evaluation the running average of those, a constant.
    Rybkin et al. 2021 (sigma-VAE), https://arxiv.org/abs/2006.13202

    Args:
        momentum: Weight of the newest batch in the running average, once there were 1 / momentum of them.
    """

    accepts = frozenset({"8-bit", "real"})
    variance: Tensor
    batches: Tensor

    def __init__(self, shape: Size, momentum: float = 0.01) -> None:
        super().__init__(shape)
        if not 0 < momentum <= 1:
            raise ValueError(f"likelihood.momentum is more than 0 and at most 1, got {momentum}.")
        self.momentum = momentum
        self.register_buffer("variance", torch.ones(()))
        self.register_buffer("batches", torch.zeros(()))

    def forward(self, parameters: Tensor) -> Distribution:
        if self.training:
            return BestScale(parameters, self._observe)
        return normal(parameters, self.variance.sqrt().expand_as(parameters))

    def initial(self, mean: Tensor) -> Tensor:
        return mean

    def _observe(self, square_error: Tensor) -> Tensor:
        best = mean_over_devices(square_error).clamp(min=math.exp(-2 * BOUND))
        usable = best.isfinite()  # of a batch that is left out, nothing is remembered
        self.batches += usable
        weight = usable * (1 / self.batches.clamp(min=1)).clamp(min=self.momentum)
        self.variance.lerp_(torch.where(usable, best, 1.0), weight)
        return best


class Categorical(Likelihood):
    """Any distribution over the 256 levels of each value: 256 logits for each, so mind the memory."""

    accepts = frozenset({"8-bit"})

    def __init__(self, shape: Size) -> None:
        super().__init__(shape)
        self.parameter_shape = (LEVELS * shape[0], *shape[1:])

    def forward(self, parameters: Tensor) -> Distribution:
        return CategoricalLevels(parameters.unflatten(1, (LEVELS, -1)))

    def initial(self, mean: Tensor) -> Tensor:
        centres = ((torch.arange(LEVELS) + 0.5) / LEVELS).view(-1, 1, 1, 1)
        return (centres * tilt(mean)).flatten(0, 1)


class DiscretizedLogistic(Likelihood):
    r"""\(P(g | z) = \sigma((g^+ - \mu) / s) - \sigma((g^- - \mu) / s)\) between a level's edges, mu and s predicted.

    Kingma et al. 2016, App. A, https://arxiv.org/abs/1606.04934. Levels span [-1, 1].

    Args:
        scale: Where s starts.
    """

    accepts = frozenset({"8-bit"})

    def __init__(self, shape: Size, scale: float = 0.25) -> None:
        super().__init__(shape)
        self.parameter_shape, self.start = (2 * shape[0], *shape[1:]), unbounded(log_of(scale))

    def forward(self, parameters: Tensor) -> Distribution:
        location, t = parameters.float()[:, None].chunk(2, 2)  # [N, 1, C, H, W]
        return LogisticLevels(torch.zeros_like(location[:, :, 0]), location, bounded(t))

    def initial(self, mean: Tensor) -> Tensor:
        return torch.cat([2 * mean - 1, torch.full_like(mean, self.start)])


class DiscretizedLogisticMixture(Likelihood):
    """A mixture of discretised logistics per pixel, in which the channels of a component follow one another.

    Salimans et al. 2017 (PixelCNN++), https://arxiv.org/abs/1701.05517. The coefficients go through tanh.

    Args:
        components: M.
        scale: Where the scales start, on [-1, 1].
    """

    accepts = frozenset({"8-bit"})

    def __init__(self, shape: Size, components: int = 10, scale: float = 0.25) -> None:
        super().__init__(shape)
        if components < 1:
            raise ValueError(f"The likelihood needs at least one component, got components={components}.")
        self.components, self.channels, self.start = components, shape[0], unbounded(log_of(scale))
        self.parts = [1, shape[0], shape[0], shape[0] * (shape[0] - 1) // 2]  # per component
        self.parameter_shape = (components * sum(self.parts), *shape[1:])

    def forward(self, parameters: Tensor) -> Distribution:
        each = parameters.float().unflatten(1, (self.components, -1))  # [N, M, 1 + 2C + C(C-1)/2, H, W]
        logits, location, t, coefficients = each.split(self.parts, 2)
        return LogisticLevels(logits[:, :, 0], location, bounded(t), coefficients.tanh())

    def initial(self, mean: Tensor) -> Tensor:
        offsets = 0.2 * torch.linspace(-1, 1, self.components + 2)[1:-1]  # components that are equal stay equal
        location = 2 * mean - 1 + offsets.view(-1, 1, 1, 1)  # [M, C, H, W]
        zero = torch.zeros_like(location[:, :1])
        parts = [zero, location, torch.full_like(location, self.start), zero.expand(-1, self.parts[3], -1, -1)]
        return torch.cat(parts, 1).flatten(0, 1)


def log_of(scale: float) -> float:
    """The logarithm of a scale.

    Raises:
        ValueError: It is not positive.
    """
    if scale <= 0:
        raise ValueError(f"The likelihood needs a positive scale, got scale={scale}.")
    return math.log(scale)


def bounded(t: Tensor) -> Tensor:
    """A log scale between -7 and 7."""
    return BOUND * torch.tanh(t / BOUND)


def unbounded(log_scale: float) -> float:
    """The inverse of `bounded`."""
    return BOUND * math.atanh(max(-0.99, min(0.99, log_scale / BOUND)))
