"""Encoders x -> features, one per rung, top first. Shapes: N rows, F feature dims, [C, H, W] image."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from variata.blocks import PreActivation, Residual, halved, layers, normed, require_stages
from variata.core import Size


class Encoder(nn.Module, ABC):
    """Deterministic features of an image.

    Args:
        shape: Of an image, [C, H, W].

    Attributes:
        features: Shape of each element returned, top rung first.
    """

    features: list[Size]

    @abstractmethod
    def forward(self, x: Tensor) -> list[Tensor]:
        """x [N, C, H, W] -> features [N, F, ...], one per rung, top first; a flat model returns one."""


class MLPEncoder(Encoder):
    """Fully connected layers with SiLU.

    Args:
        widths: Hidden widths, from the image inwards; none makes the features the image itself.
    """

    def __init__(self, shape: Size, widths: Sequence[int] = (400, 400)) -> None:
        super().__init__()
        sizes = [math.prod(shape), *widths]
        if min(sizes) < 1:
            raise ValueError(f"Layers have at least one unit, got widths={list(widths)}.")
        self.net = nn.Sequential(nn.Flatten(), *layers(sizes))
        self.features = [(sizes[-1],)]

    def forward(self, x: Tensor) -> list[Tensor]:
        return [self.net(x)]


class ConvEncoder(Encoder):
    """Strided convolutions with residual blocks, each stage halving the image (rounding up), then a hidden layer.

    Works in the channels-last memory format: 2.5 times as fast on a CPU.

    Args:
        channels: Of each stage, from the image inwards.
        blocks: Residual blocks of each stage.
        hidden: Width of the fully connected layer that sees the whole image.
    """

    def __init__(
        self, shape: Size, channels: Sequence[int] = (24, 48), blocks: Sequence[int] = (0, 1), hidden: int = 256
    ) -> None:
        super().__init__()
        require_stages(channels, blocks)
        stages = []
        for c_in, c_out, n in zip([shape[0], *channels[:-1]], channels, blocks, strict=True):
            stages += [nn.Conv2d(c_in, c_out, 3, stride=2, padding=1), *[Residual(c_out) for _ in range(n)], nn.SiLU()]
        pixels = math.prod(halved(shape[1:], len(channels))[-1])
        top = [nn.Flatten(), *layers([channels[-1] * pixels, hidden])]
        self.net = nn.Sequential(*stages, *top).to(memory_format=torch.channels_last)
        self.features = [(hidden,)]

    def forward(self, x: Tensor) -> list[Tensor]:
        return [self.net(x.contiguous(memory_format=torch.channels_last))]


class ResNetEncoder(Encoder):
    """Stages of pre-activation residual blocks, each entered by a strided convolution that halves the image.

    He et al. 2016, https://arxiv.org/abs/1603.05027. The features are the last stage's whole map, normalised.

    Args:
        channels: Of each stage, from the image inwards.
        blocks: Residual blocks of each stage.
    """

    def __init__(
        self, shape: Size, channels: Sequence[int] = (16, 32, 64, 128), blocks: Sequence[int] = (1, 2, 2, 1)
    ) -> None:
        super().__init__()
        require_stages(channels, blocks)
        stages: list[nn.Module] = []
        for c_in, c_out, n in zip([shape[0], *channels[:-1]], channels, blocks, strict=True):
            stages += [nn.Conv2d(c_in, c_out, 3, stride=2, padding=1), *[PreActivation(c_out) for _ in range(n)]]
        stages += [*normed(channels[-1]), nn.Flatten()]
        self.net = nn.Sequential(*stages).to(memory_format=torch.channels_last)
        self.features = [(channels[-1] * math.prod(halved(shape[1:], len(channels))[-1]),)]

    def forward(self, x: Tensor) -> list[Tensor]:
        return [self.net(x.contiguous(memory_format=torch.channels_last))]
