"""Pieces shared by encoders, decoders and heads. Shapes: N rows, C channels, [H, W] map."""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from variata.core import Size


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


def doubled(channels: Sequence[int], stage: int, outputs: int) -> nn.Module:
    """From a stage's map to twice its height and width, with the channels of the stage before it.

    The first stage, which leads to the image, is a convolution to four values per pixel, rearranged: nothing is
    computed with many channels at full size (Shi et al. 2016, https://arxiv.org/abs/1609.05158).
    """
    if stage:
        return nn.ConvTranspose2d(channels[stage], channels[stage - 1], 4, stride=2, padding=1)
    return nn.Sequential(nn.Conv2d(channels[0], 4 * outputs, 3, padding=1, bias=False), nn.PixelShuffle(2))


class Expand(nn.Module):
    """A vector to a feature map in the channels-last memory format."""

    def __init__(self, width: int, shape: Size) -> None:
        super().__init__()
        self.shape = tuple(shape)
        self.linear = nn.Linear(width, math.prod(shape))

    def forward(self, state: Tensor) -> Tensor:  # [N, S] -> [N, C, H, W]
        return self.linear(state).unflatten(1, self.shape).contiguous(memory_format=torch.channels_last)


class Cut(nn.Module):
    """The top left part of a map."""

    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__()
        self.size = size

    def forward(self, x: Tensor) -> Tensor:  # [N, C, >=H, >=W] -> [N, C, H, W]
        return x[..., : self.size[0], : self.size[1]]
