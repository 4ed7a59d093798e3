"""Likelihoods p(x | z). Shapes: N rows, P parameters per pixel and channel, [C, H, W] image.

Each is a normalised density or mass in nats, constants included, and states the kinds of data it is one for.
"""

import math
from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from variata.core import Size
from variata.distributions import bernoulli, normal


class Likelihood(nn.Module, ABC):
    """Maps a decoder's output to p(x | z).

    Args:
        shape: Of an image, [C, H, W].
    """

    parameters_per_pixel: ClassVar[int]
    accepts: ClassVar[frozenset[str]]  # of "binary", "8-bit" (dequantised to [0, 1)), "real"

    @abstractmethod
    def forward(self, parameters: Tensor) -> Distribution:
        """parameters [N, P*C, H, W] -> p(x | z), batch [N], event [C, H, W]."""

    @abstractmethod
    def initial(self, mean: Tensor) -> Tensor:
        """The parameters [P*C, H, W] whose distribution has the given mean [C, H, W]."""


class Bernoulli(Likelihood):
    r"""\(p(x | z) = \prod_i \pi_i^{x_i} (1 - \pi_i)^{1 - x_i}\) for x in {0, 1}, with logits \(\log \pi / (1 - \pi)\).

    On grey values it is no likelihood and its figures mean nothing; so it accepts binary data only.
    """

    parameters_per_pixel = 1
    accepts = frozenset({"binary"})

    def __init__(self, shape: Size) -> None:
        super().__init__()

    def forward(self, parameters: Tensor) -> Distribution:
        return bernoulli(parameters)

    def initial(self, mean: Tensor) -> Tensor:
        return torch.logit(mean, eps=1e-5)  # a pixel never seen on costs 1e-5 nats, not infinity when it is


class Gaussian(Likelihood):
    r"""\(p(x | z) = N(x; \mu(z), s^2)\) with one scale s for all pixels.

    Args:
        scale: s, in units of x; where learned, where it starts.
        learned: Whether s is trained with the rest (Rybkin et al., 2021, https://arxiv.org/abs/2006.13202).
    """

    parameters_per_pixel = 1
    accepts = frozenset({"8-bit", "real"})

    def __init__(self, shape: Size, scale: float = 1.0, learned: bool = True) -> None:
        super().__init__()
        if scale <= 0:
            raise ValueError(f"likelihood=gaussian needs a positive scale, got scale={scale}.")
        self.log_scale = nn.Parameter(torch.tensor(math.log(scale)), requires_grad=learned)

    def forward(self, parameters: Tensor) -> Distribution:
        return normal(parameters, self.log_scale.exp().expand_as(parameters))

    def initial(self, mean: Tensor) -> Tensor:
        return mean
