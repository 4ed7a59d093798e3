r"""Distributions over whole images and latents: float32, one batch dimension [N], no argument validation.

Validation costs more than the arithmetic at these sizes; inputs are checked once, when a run is composed.

Eight-bit images are seen as x in [0, 1), level g of 0..255 being the interval [g, g + 1) / 256, so that densities and
masses compare: a mass P is the density \(256^d P(\lfloor 256 x \rfloor)\), constant on each level.
Shapes: N rows, M components, [C, H, W] image of d = C*H*W values.
"""

import math
from abc import abstractmethod
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor
from torch.distributions import (
    Bernoulli,
    Categorical,
    Distribution,
    Independent,
    Laplace,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
    StudentT,
)
from torch.nn.functional import logsigmoid, softplus

from variata.errors import ConfigError

LEVELS = 256
NODES = 4  # of Gauss and Legendre's quadrature between the ends of a channel that others follow


def normal(mean: Tensor, std: Tensor) -> Independent:
    """Diagonal N(mean, std^2): parameters [N, *event], batch [N], event the rest."""
    return _joint(Normal(mean.float(), std.float(), validate_args=False))


def laplace(location: Tensor, scale: Tensor) -> Independent:
    """Independent Laplace variables, exp(-|x - location| / scale) / (2 scale): parameters [N, *event]."""
    return _joint(Laplace(location.float(), scale.float(), validate_args=False))


def bernoulli(logits: Tensor) -> Independent:
    """Independent Bernoulli variables with the given logits [N, *event]."""
    return _joint(Bernoulli(logits=logits.float(), validate_args=False))


def continuous_bernoulli(logits: Tensor) -> Independent:
    """Independent continuous Bernoulli variables with the given logits [N, *event]."""
    return _joint(ContinuousBernoulli(logits.float()))


def mixture(logits: Tensor, components: Distribution, n: int) -> MixtureSameFamily:
    """sum_m softmax(logits)_m components_m for n rows: logits [M], components with batch [M]."""
    weights = Categorical(logits=logits.float(), validate_args=False)
    return MixtureSameFamily(weights, components, validate_args=False).expand((n,))


def _joint(elements: Distribution) -> Independent:
    return Independent(elements, len(elements.batch_shape) - 1, validate_args=False)


def moments(p: Distribution) -> tuple[Tensor, Tensor] | None:
    """Mean and standard deviation of each element, [N, *event]; None where they have no formula or are infinite."""
    try:
        mean, std = p.mean, p.stddev
    except NotImplementedError:
        return None
    return (mean, std) if mean.isfinite().all() and std.isfinite().all() else None


def tempered(p: Distribution, t: float) -> Distribution:
    r"""p at temperature t: its scale times t around the same location, \(N(\mu, t^2 \Sigma)\) of a Gaussian.

    Of a mixture it is each component's, \(\sum_m \pi_m N(\mu_m, t^2 \Sigma_m)\): the weights stay, and a draw nears the
    mean of its component, not the mean of all, which may lie where the mixture has no density. t = 1 is p itself; at
    t = 0 the draws are locations, and there is no density to ask for.

    Raises:
        ConfigError: p is of a family with no location and scale known here.
        ValueError: t is negative.
    """
    if not t >= 0:
        raise ValueError(f"A temperature is a number from 0, got {t}.")
    if t == 1:
        return p
    match p:
        case Independent():
            return Independent(tempered(p.base_dist, t), p.reinterpreted_batch_ndims, validate_args=False)
        case MixtureSameFamily():
            components = tempered(p.component_distribution, t)
            return MixtureSameFamily(p.mixture_distribution, components, validate_args=False)
        case Normal() | Laplace():
            return type(p)(p.loc, t * p.scale, validate_args=False)
        case StudentT():
            return StudentT(p.df, p.loc, t * p.scale, validate_args=False)
        case MultivariateNormal():
            return MultivariateNormal(p.loc, scale_tril=t * p.scale_tril, validate_args=False)
    raise ConfigError(
        f"A temperature scales what has a location and a scale (Gaussian, Laplace, Student t, mixtures of them); "
        f"{type(p).__name__} has none that is known here. Leave the temperature at 1."
    )


class ContinuousBernoulli(Distribution):
    r"""\(p(x) = e^{\eta x} \, \eta / (e^\eta - 1)\) on [0, 1], with \(\eta = \log \lambda / (1 - \lambda)\).

    Loaiza-Ganem & Cunningham 2019, https://arxiv.org/abs/1907.06845. Written in the logit: by way of lambda the
    normaliser is wrong in float32 from eta = 16 on, where the mean is only 0.94.

    Args:
        logits: eta, of any shape.
    """

    has_rsample = True

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits
        super().__init__(logits.shape, validate_args=False)

    @property
    def mean(self) -> Tensor:
        """1 / (1 - exp(-eta)) - 1 / eta."""
        eta, small = self._away_from_zero()
        near_zero = 0.5 + self.logits / 12 - self.logits**3 / 720
        return torch.where(small, near_zero, 1 / -torch.expm1(-eta) - 1 / eta)

    def log_prob(self, value: Tensor) -> Tensor:
        eta, small = self._away_from_zero()
        square = torch.where(small, self.logits, 0).square()
        near_zero = square / 24 - square**2 / 2880 + square**3 / 181440
        size = eta.abs()
        log_sinhc = size / 2 + torch.log1p(-torch.exp(-size)) - size.log()  # log(sinh(eta / 2) / (eta / 2))
        return self.logits * (value - 0.5) - torch.where(small, near_zero, log_sinhc)

    def rsample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        u = torch.rand((*sample_shape, *self.logits.shape), device=self.logits.device)
        size = self.logits.abs().clamp(min=1e-3)  # below it is uniform to float32's rounding
        decaying = -torch.log1p(u * torch.expm1(-size)) / size  # the inverse of its distribution function
        return torch.where(self.logits > 0, 1 - decaying, decaying)

    def _away_from_zero(self) -> tuple[Tensor, Tensor]:
        small = self.logits.abs() < 0.5
        return torch.where(small, 1.0, self.logits), small


def tilt(mean: Tensor) -> Tensor:
    """The eta for which exp(eta x) on [0, 1] has the given mean, by bisection, for means from 0.001 to 0.999."""
    low, high = torch.full_like(mean, -1000, dtype=torch.float64), torch.full_like(mean, 1000, dtype=torch.float64)
    for _ in range(50):
        middle = (low + high) / 2
        above = ContinuousBernoulli(middle).mean > mean
        low, high = torch.where(above, low, middle), torch.where(above, middle, high)
    return ((low + high) / 2).float()


class BestScale(Distribution):
    """N(mean, s^2) with the one s^2 under which the values it is asked about are most likely: their mean square error.

    The derivative of the likelihood by s vanishes there, so s is treated as a constant.

    Args:
        mean: [N, *event].
        observe: Told the mean square error; returns the one to use.
    """

    def __init__(self, mean: Tensor, observe: Callable[[Tensor], Tensor]) -> None:
        self.location, self.observe = mean.float(), observe
        super().__init__(mean.shape[:1], mean.shape[1:], validate_args=False)

    @property
    def mean(self) -> Tensor:
        """[N, *event]."""
        return self.location

    def log_prob(self, value: Tensor) -> Tensor:
        square_error = (value - self.location).square().mean()
        return normal(self.location, self.observe(square_error).sqrt().expand_as(self.location)).log_prob(value)


class Levels(Distribution):
    """A density on [0, 1)^d that is constant on each of 256 levels per value: batch [N], event [C, H, W]."""

    def __init__(self, n: int, image: tuple[int, ...]) -> None:
        super().__init__(torch.Size((n,)), torch.Size(image), validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        level = (value * LEVELS).floor().clamp(0, LEVELS - 1)
        return self.log_mass(level).flatten(1).sum(1) + math.prod(self.event_shape) * math.log(LEVELS)

    def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        if sample_shape:
            raise NotImplementedError("One draw per row: repeat the parameters for more.")
        level = self.sample_level()
        return (level + torch.rand_like(level)) / LEVELS

    @abstractmethod
    def log_mass(self, level: Tensor) -> Tensor:
        """level [N, C, H, W] of 0..255 -> log P of each factor, [N, ...], whose sum over all but N is the image's."""

    @abstractmethod
    def sample_level(self) -> Tensor:
        """One draw of every row, [N, C, H, W]."""


class CategoricalLevels(Levels):
    """Any distribution over the levels, for each value.

    Args:
        logits: [N, 256, C, H, W].
    """

    def __init__(self, logits: Tensor) -> None:
        self.log_p = logits.float().log_softmax(1)
        super().__init__(logits.shape[0], logits.shape[2:])

    @property
    def mean(self) -> Tensor:
        """[N, C, H, W], of the levels' centres."""
        centres = (torch.arange(LEVELS, device=self.log_p.device) + 0.5) / LEVELS
        return torch.einsum("nlchw,l->nchw", self.log_p.exp(), centres)

    def log_mass(self, level: Tensor) -> Tensor:
        return self.log_p.gather(1, level.long()[:, None])

    def sample_level(self) -> Tensor:
        return Categorical(logits=self.log_p.movedim(1, -1), validate_args=False).sample().float()


class LogisticLevels(Levels):
    r"""A mixture of M logistics per pixel, integrated over each level; the outer two levels hold the tails.

    With values \(y = 2x - 1\) in [-1, 1], component m of channel c has the location
    \(\mu_{mc} + \sum_{j<c} a_{mcj} y_j\): channels follow one another, within a component.
    Salimans et al. 2017 (PixelCNN++), https://arxiv.org/abs/1701.05517

    Args:
        logits: Of the components, [N, M, H, W].
        location: mu, [N, M, C, H, W].
        log_scale: [N, M, C, H, W].
        coefficients: a, the lower triangle row by row, [N, M, C(C-1)/2, H, W]; none for independent channels.
    """

    def __init__(self, logits: Tensor, location: Tensor, log_scale: Tensor, coefficients: Tensor | None = None) -> None:
        self.log_weight, self.location = logits.float().log_softmax(1), location.float()
        self.log_scale, self.coefficients = log_scale.float(), coefficients
        super().__init__(logits.shape[0], location.shape[2:])

    @property
    def mean(self) -> Tensor:
        """E[x | z], [N, C, H, W], of the levels' centres.

        Where channels are independent, and for the first one, to 0.01 levels. A channel that follows others is averaged
        over all they may be, by quadrature: over random parameters to 0.2 levels on average and to 2 at worst. Given
        their means alone it would be up to 50 levels off. Three channels cost some 15 times what `log_prob` does.
        """
        if self.coefficients is None:
            y = _mean(self.location, self.log_scale.exp())
        else:
            y = torch.zeros_like(self.location)
            self._add_means(y, [], torch.ones_like(self.log_weight))
        return ((y * self.log_weight.exp()[:, :, None]).sum(1) + 1) / 2

    def log_mass(self, level: Tensor) -> Tensor:
        y = list(_centre(level)[:, None].unbind(2))  # C of [N, 1, H, W]
        total = self.log_weight
        for c in range(len(y)):
            total = total + _log_mass(level[:, None, c], self._location(c, y[:c]), self.log_scale[:, :, c])
        return total.logsumexp(1)  # [N, H, W]

    def sample_level(self) -> Tensor:
        weights = Categorical(logits=self.log_weight.movedim(1, -1), validate_args=False)
        component = weights.sample()[:, None]  # [N, 1, H, W]
        levels: list[Tensor] = []
        for c in range(self.location.shape[2]):
            location = self._location(c, [_centre(level) for level in levels]).gather(1, component)
            scale = self.log_scale[:, :, c].gather(1, component).exp()
            y = location + scale * torch.logit(torch.rand_like(location), eps=1e-6)
            levels.append(((y + 1) / 2 * LEVELS).floor().clamp(0, LEVELS - 1))
        return torch.cat(levels, 1)

    def _add_means(self, total: Tensor, before: list[Tensor], weight: Tensor) -> None:
        """Add each component's mean of the channels that follow those given, times a weight, to [N, M, C, H, W]."""
        c = len(before)
        location, scale = self._location(c, before), self.log_scale[:, :, c].exp()
        total[:, :, c] += weight * (_clipped_mean(location, scale) if before else _mean(location, scale))
        if c + 1 < total.shape[2]:
            for node, share in _nodes(location, scale):
                self._add_means(total, [*before, node], weight * share)

    def _location(self, c: int, before: list[Tensor]) -> Tensor:
        """Locations of channel c, [N, M, H, W], given the channels before it."""
        location, start = self.location[:, :, c], c * (c - 1) // 2
        if self.coefficients is not None:
            for j, y in enumerate(before):
                location = location + self.coefficients[:, :, start + j] * y
        return location


def _centre(level: Tensor) -> Tensor:
    """Of a level of 0..255 on [-1, 1]."""
    return (2 * level + 1) / LEVELS - 1


def _clipped_mean(location: Tensor, scale: Tensor) -> Tensor:
    """Of a logistic cut to [-1, 1]: the discretised one's to half a level, to 0.03 from scales of half a level on."""
    return 1 - scale * (softplus((1 - location) / scale) - softplus((-1 - location) / scale))


def _mean(location: Tensor, scale: Tensor) -> Tensor:
    r"""Of a discretised logistic, on [-1, 1].

    The level's is \(\sum_{g=1}^{255} \sigma((m - g) / t)\), with location m and scale t in levels. Where t > 1/2
    the sum is its integral and the first correction of Euler and Maclaurin, to 0.002 levels; else all but the nearest
    nine of its terms are 0 or 1.
    """
    m, t = (location + 1) * (LEVELS / 2), scale * (LEVELS / 2)
    low, high = (m - 0.5) / t, (m - LEVELS + 0.5) / t
    slope = torch.sigmoid(low) * torch.sigmoid(-low) - torch.sigmoid(high) * torch.sigmoid(-high)
    wide = t * (softplus(low) - softplus(high)) - slope / (24 * t)
    nearest = m.round().clamp(-5, LEVELS + 5)
    narrow = (nearest - 5).clamp(0, LEVELS - 1)
    for offset in range(-4, 5):
        edge = nearest + offset
        narrow = narrow + torch.where((edge > 0) & (edge < LEVELS), torch.sigmoid((m - edge) / t), 0)
    return _centre(torch.where(t > 0.5, wide, narrow))


def _nodes(location: Tensor, scale: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Values in [-1, 1] and their weights, which stand for a discretised logistic.

    Both ends, with all that lies beyond them, and Gauss and Legendre's nodes in the distribution function between them,
    where the logistic is smooth. Each is moved to its level's centre.
    """
    below, above = torch.sigmoid((-1 - location) / scale), torch.sigmoid((location - 1) / scale)
    inside = (1 - below - above).clamp(min=0)
    for x, share in zip(*np.polynomial.legendre.leggauss(NODES), strict=True):  # on [-1, 1], with shares of 2
        u = float(1 + x) / 2
        y = location + scale * ((below + inside * u).log() - (above + inside * (1 - u)).log())
        yield _centre(((y + 1) * (LEVELS / 2)).floor().clamp(0, LEVELS - 1)), inside * float(share) / 2
    yield _centre(torch.zeros_like(location)), below
    yield _centre(torch.full_like(location, LEVELS - 1)), above


def _log_mass(level: Tensor, location: Tensor, log_scale: Tensor) -> Tensor:
    r"""\(\log(\sigma(b) - \sigma(a)) = \log\sigma(b) + \log\sigma(-a) + \log(1 - e^{a - b})\), which never cancels."""
    inverse = torch.exp(-log_scale)
    middle = (_centre(level) - location) * inverse
    below, above = logsigmoid(middle + inverse / LEVELS), logsigmoid(inverse / LEVELS - middle)
    inside = below + above + torch.log(-torch.expm1(-2 / LEVELS * inverse))
    return torch.where(level == 0, below, torch.where(level == LEVELS - 1, above, inside))
