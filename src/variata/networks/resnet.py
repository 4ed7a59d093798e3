"""Residual networks. Shapes: N rows, F feature dims, S state dims, [C, H, W] image, [P, H, W] parameters."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from variata.core import Batch, Decoder, Encoder, Size
from variata.networks.blocks import Cut, Expand, PreActivation, doubled, halved, normed, require_stages


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

    def forward(self, batch: Batch) -> list[Tensor]:
        return [self.net(batch.x.contiguous(memory_format=torch.channels_last))]


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
