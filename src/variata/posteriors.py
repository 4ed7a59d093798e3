"""Posteriors q(z | h, state, p). Shapes: N rows, F feature dims, S state dims, D latent dims."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from variata.core import Part, Size
from variata.distributions import normal


class Posterior(Part, ABC):
    """Maps an encoder's features, the state from above and the prior to q(z | x).

    Args:
        features: Shape of h, [F, ...].
        state: Shape of the state, [S, ...]; its first dimension may be 0.
        event: Shape of z, [D, ...].
    """

    @abstractmethod
    def forward(self, h: Tensor, state: Tensor, p: Distribution) -> Distribution:
        """h [N, F, ...], state [N, S, ...], prior p with batch [N] -> q, batch [N], reparameterised."""


class Gaussian(Posterior):
    r"""The diagonal Gaussian, \(q(z | x) = N(z; \mu(h), \sigma^2(h))\).

    \(\log\sigma = b \tanh(s / b)\) is bounded by b, so that neither the density nor its gradient overflows.

    Kingma & Welling, 2013, https://arxiv.org/abs/1312.6114

    Args:
        bound: b, in nats.
    """

    def __init__(self, features: Size, state: Size, event: Size, bound: float = 7.0) -> None:
        super().__init__()
        if bound <= 0:
            raise ValueError(f"posterior=gaussian needs a positive bound on log std, got bound={bound}.")
        self.bound = bound
        self.head = project((features[0] + state[0], *features[1:]), (2 * event[0], *event[1:]))

    def forward(self, h: Tensor, state: Tensor, p: Distribution) -> Distribution:
        mean, s = self.head(torch.cat([h, state], 1)).float().chunk(2, 1)
        return normal(mean, (self.bound * torch.tanh(s / self.bound)).exp())


def project(inputs: Size, outputs: Size) -> nn.Module:
    """A linear map between feature shapes: `Linear` between vectors, 3x3 `Conv2d` between maps of one size."""
    if len(inputs) == len(outputs) == 1:
        return nn.Linear(inputs[0], outputs[0])
    if tuple(inputs[1:]) == tuple(outputs[1:]):
        return nn.Conv2d(inputs[0], outputs[0], 3, padding=1)
    raise ValueError(f"No projection from features of shape {tuple(inputs)} to {tuple(outputs)}: sizes differ.")
