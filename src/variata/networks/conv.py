"""Convolutional networks. Shapes: N rows, F feature dims, S state dims, [C, H, W] image, [P, H, W] parameters."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from variata.core import Batch, Decoder, Encoder, Size
from variata.networks.blocks import Cut, Expand, Residual, doubled, halved, layers, require_stages


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

    def forward(self, batch: Batch) -> list[Tensor]:
        return [self.net(batch.x.contiguous(memory_format=torch.channels_last))]


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
