"""Decoders state -> parameters of the likelihood. Shapes: N rows, S state dims, [P, H, W] parameters."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from variata.blocks import PreActivation, Residual, halved, layers, normed, require_stages
from variata.core import Size


class Decoder(nn.Module, ABC):
    """Maps the state below the last rung to the likelihood's parameters.

    Every decoder adds a bias of its own to each parameter, so that training can start at the mean image.

    Args:
        state: Shape of the state, [S, ...].
        shape: Of the parameters, [P, H, W].
    """

    def __init__(self, state: Size, shape: Size) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(shape))  # [P, H, W]

    def forward(self, state: Tensor) -> Tensor:
        """state [N, S, ...] -> parameters [N, P, H, W]."""
        return self.body(state) + self.bias

    @abstractmethod
    def body(self, state: Tensor) -> Tensor:
        """The same without the bias."""


class MLPDecoder(Decoder):
    """Fully connected layers with SiLU.

    Args:
        widths: Hidden widths in the encoder's order, from the image inwards.
    """

    def __init__(self, state: Size, shape: Size, widths: Sequence[int] = (400, 400)) -> None:
        super().__init__(state, shape)
        sizes = [math.prod(state), *reversed(widths)]
        last = nn.Linear(sizes[-1], math.prod(shape), bias=False)
        self.net = nn.Sequential(nn.Flatten(), *layers(sizes), last, nn.Unflatten(1, tuple(shape)))

    def body(self, state: Tensor) -> Tensor:
        return self.net(state)


class ConvDecoder(Decoder):
    """The mirror of `ConvEncoder`: a hidden layer, then residual blocks and upsampling by two per stage.

    Images of odd size are cut from the next even one.

    Args:
        channels: Of each stage in the encoder's order, from the image inwards.
        blocks: Residual blocks of each stage.
        hidden: Width of the fully connected layer that sees the whole state.
    """

    def __init__(
        self,
        state: Size,
        shape: Size,
        channels: Sequence[int] = (24, 48),
        blocks: Sequence[int] = (0, 1),
        hidden: int = 256,
    ) -> None:
        super().__init__(state, shape)
        require_stages(channels, blocks)
        sizes = halved(shape[1:], len(channels))
        stages: list[nn.Module] = [nn.Flatten(), *layers([math.prod(state), hidden])]
        stages += [Expand(hidden, (channels[-1], *sizes[-1]))]
        for i in reversed(range(len(channels))):
            stages += [Residual(channels[i]) for _ in range(blocks[i])] + [nn.SiLU()]
            stages += [doubled(channels, i, shape[0]), Cut(sizes[i])]
        self.net = nn.Sequential(*stages).to(memory_format=torch.channels_last)

    def body(self, state: Tensor) -> Tensor:
        return self.net(state)


class ResNetDecoder(Decoder):
    """The mirror of `ResNetEncoder`: a linear map, then residual blocks and upsampling by two per stage.

    Args:
        channels: Of each stage in the encoder's order, from the image inwards.
        blocks: Residual blocks of each stage.
    """

    def __init__(
        self,
        state: Size,
        shape: Size,
        channels: Sequence[int] = (16, 32, 64, 128),
        blocks: Sequence[int] = (1, 2, 2, 1),
    ) -> None:
        super().__init__(state, shape)
        require_stages(channels, blocks)
        sizes = halved(shape[1:], len(channels))
        stages: list[nn.Module] = [nn.Flatten(), Expand(math.prod(state), (channels[-1], *sizes[-1]))]
        for i in reversed(range(len(channels))):
            stages += [PreActivation(channels[i]) for _ in range(blocks[i])]
            stages += [*([] if i else normed(channels[0])), doubled(channels, i, shape[0]), Cut(sizes[i])]
        self.net = nn.Sequential(*stages).to(memory_format=torch.channels_last)

    def body(self, state: Tensor) -> Tensor:
        return self.net(state)


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
