"""The codes of all rungs as one vector, and back. Shapes: N images, D latent dims."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from variata.core import VAE, Size


def joined(codes: Sequence[Tensor]) -> Tensor:
    """[N, *D] of each rung -> [N, D over all rungs]."""
    return torch.cat([z.flatten(1) for z in codes], 1)


def parted(flat: Tensor, events: Sequence[Size]) -> tuple[Tensor, ...]:
    """[N, D over all rungs] -> [N, *D] of each rung.

    Args:
        events: Shape of z of each rung, top first.
    """
    parts = flat.split([math.prod(event) for event in events], 1)
    return tuple(part.unflatten(1, event) for part, event in zip(parts, events, strict=True))


def code(vae: VAE, x: Tensor) -> Tensor:
    """Posterior means of all rungs, each given those above, as one vector: [N, D over all rungs]."""
    return joined(vae.codes(x))
