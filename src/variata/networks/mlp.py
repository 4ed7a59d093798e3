"""Fully connected networks. Shapes: N rows, F feature dims, S state dims, [C, H, W] image, [P, H, W] parameters."""

import math
from collections.abc import Sequence

from torch import Tensor, nn

from variata.core import Batch, Decoder, Encoder, Size
from variata.networks.blocks import layers


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

    def forward(self, batch: Batch) -> list[Tensor]:
        return [self.net(batch.x)]


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
