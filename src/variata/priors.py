"""Priors p(z | state). Shapes: N rows, D latent dims, S state dims, M mixture components."""

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from variata.core import Size
from variata.distributions import mixture, normal

Encode = Callable[[Tensor], Distribution]


class Prior(nn.Module, ABC):
    """Maps the state from above to p(z | state); an unconditional prior uses only the number of its rows,
    which is state.shape[0]: len(state) would be fixed in an exported model.

    Args:
        state: Shape of the state, [S, ...]; `(0,)` on the top rung of a flat model.
        event: Shape of z, [D, ...].
        encode: `x -> q(z | x)` of the same rung, for priors built from the posterior.
    """

    @abstractmethod
    def forward(self, state: Tensor) -> Distribution:
        """state [N, S, ...] -> p, batch [N], event [D, ...]."""


class StandardNormal(Prior):
    r"""\(p(z) = N(z; 0, I)\)."""

    def __init__(self, state: Size, event: Size, encode: Encode) -> None:
        super().__init__()
        self.event = tuple(event)

    def forward(self, state: Tensor) -> Distribution:
        zero = torch.zeros((state.shape[0], *self.event), device=state.device)
        return normal(zero, torch.ones_like(zero))


class Mixture(Prior):
    r"""A learned mixture of M diagonal Gaussians, \(p(z) = \sum_m \pi_m N(z; \mu_m, \sigma_m^2)\).

    Its KL from a Gaussian has no closed form; objectives use the one-sample estimate.

    Dilokthanakul et al., 2016, https://arxiv.org/abs/1611.02648

    Args:
        components: M.
    """

    def __init__(self, state: Size, event: Size, encode: Encode, components: int = 50) -> None:
        super().__init__()
        if components < 1:
            raise ValueError(f"prior=mixture needs at least one component, got components={components}.")
        self.logits = nn.Parameter(torch.zeros(components))  # [M]
        self.mean = nn.Parameter(torch.randn(components, *event))  # [M, D]
        self.log_std = nn.Parameter(torch.zeros(components, *event))  # [M, D]

    def forward(self, state: Tensor) -> Distribution:
        return mixture(self.logits, normal(self.mean, self.log_std.exp()), state.shape[0])
