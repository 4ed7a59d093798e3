"""Pieces shared by encoders, decoders and heads. Shapes: N rows, C channels, [H, W] map."""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from variata.core import Size


def project(inputs: Size, outputs: Size) -> nn.Module:
    """A linear map between feature shapes: `Linear` between vectors, 3x3 `Conv2d` between maps of one size."""
    if len(inputs) == len(outputs) == 1:
        return nn.Linear(inputs[0], outputs[0])
    if tuple(inputs[1:]) == tuple(outputs[1:]):
        return nn.Conv2d(inputs[0], outputs[0], 3, padding=1)
    raise ValueError(f"No projection from features of shape {tuple(inputs)} to {tuple(outputs)}: sizes differ.")


class Residual(nn.Module):
    """x + conv(silu(conv(silu(x)))), both 3x3; the identity at the start (He et al. 2016, arXiv:1603.05027)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.inner = nn.Conv2d(channels, channels, 3, padding=1)
        self.outer = nn.Conv2d(channels, channels, 3, padding=1)
        for parameter in self.outer.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:  # [N, C, H, W] -> [N, C, H, W]
        return x + self.outer(F.silu(self.inner(F.silu(x))))


class PreActivation(nn.Module):
    """A residual block with normalisation: x + conv(silu(norm(conv(silu(norm(x)))))), the identity at the start.

    He et al. 2016, https://arxiv.org/abs/1603.05027, with GroupNorm, which does not tie an image to its batch
    (Wu & He 2018, https://arxiv.org/abs/1803.08494).
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.inner = nn.Sequential(*normed(channels), nn.Conv2d(channels, channels, 3, padding=1))
        self.outer = nn.Sequential(*normed(channels), nn.Conv2d(channels, channels, 3, padding=1))
        for parameter in self.outer[-1].parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:  # [N, C, H, W] -> [N, C, H, W]
        return x + self.outer(self.inner(x))


def normed(channels: int) -> list[nn.Module]:
    """Normalisation over up to eight groups of channels, and SiLU."""
    return [nn.GroupNorm(math.gcd(8, channels), channels), nn.SiLU()]


class Concat(nn.Module):
    """Merges a draw into the state by concatenation; with an empty state, z is the state."""

    def forward(self, state: Tensor, z: Tensor) -> Tensor:  # [N, S], [N, D] -> [N, S + D]
        return torch.cat([state, z], 1)


def layers(widths: list[int]) -> nn.Sequential:
    """Linear maps from one width to the next, each followed by SiLU."""
    return nn.Sequential(*[part for i, o in pairwise(widths) for part in (nn.Linear(i, o), nn.SiLU())])


def require_stages(channels: Sequence[int], blocks: Sequence[int]) -> None:
    """Refuse lists that do not describe the same stages."""
    if not channels or len(channels) != len(blocks) or min(channels) < 1 or min(blocks) < 0:
        raise ValueError(f"channels and blocks have one number per stage each, got {channels=} and {blocks=}.")


def halved(size: Size, times: int) -> list[tuple[int, int]]:
    """[H, W] and its successive halves, rounded up."""
    return [(math.ceil(size[0] / 2**i), math.ceil(size[1] / 2**i)) for i in range(times + 1)]
