"""From stored pixels to what a likelihood sees, on the device. Shapes: B images, [C, H, W] image, g grey value 0..255.

Each takes images uint8 [B, C, H, W] and returns float32 of the same shape; the random ones draw anew at each call.
"""

import numpy as np
import torch
from torch import Generator, Tensor


def as_real(images: Tensor, generator: Generator | None = None) -> Tensor:
    """The stored values as float32: for binary sets and real-valued data."""
    return images.float()


def threshold(images: Tensor, generator: Generator | None = None) -> Tensor:
    """x = 1 where g >= 128."""
    return (images > 127).float()


def binarise(images: Tensor, generator: Generator | None = None) -> Tensor:
    """x ~ Bernoulli(g / 255) (Salakhutdinov & Murray 2008): grey 0 is never on and 255 always."""
    return (uniform_255(images, generator) < images).float()


def dequantise(images: Tensor, generator: Generator | None = None) -> Tensor:
    """x = (g + u) / 256 with u uniform on [0, 1): its density bounds the mass of g (Theis et al. 2016, 1511.01844).

    u is a multiple of 2^-8, so that x = (2^8 g + 2^8 u) / 2^16 is exact in float32: floor(256 x) = g, and x < 1.
    """
    return uniform_bytes(images, generator).float().add_(images, alpha=2**8).mul_(2.0**-16)


def mirror(images: Tensor) -> Tensor:
    """Each image with probability 1/2 flipped left to right."""
    kept = torch.randint(0, 2, (len(images), 1, 1, 1), dtype=torch.uint8, device=images.device).neg_()  # 0 or 255
    # a ^ ((a ^ b) & kept) is a or b; a fifth of the time of torch.where, which goes by the byte
    return images.flip(-1).bitwise_xor_(images).bitwise_and_(kept).bitwise_xor_(images)


def uniform_255(images: Tensor, generator: Generator | None = None) -> Tensor:
    """Integers uniform on 0..254 as uint8, the shape of images, so that `u < g` has probability exactly g / 255.

    On a CPU: random bytes, eight to a draw, and a second draw for the one in 256 that is 255.
    """
    if images.device.type != "cpu":
        return torch.randint(0, 255, images.shape, generator=generator, dtype=torch.uint8, device=images.device)
    words = torch.empty(-(-images.numel() // 8), dtype=torch.int64).random_(-(2**63), None, generator=generator)
    u = words.view(torch.uint8)[: images.numel()]
    (rejected,) = (u == 255).nonzero(as_tuple=True)
    u[rejected] = torch.randint(0, 255, rejected.shape, generator=generator, dtype=torch.uint8)
    return u.view(images.shape)


def uniform_bytes(images: Tensor, generator: Generator | None = None) -> Tensor:
    """Integers uniform on 0..255 as uint8, the shape of images.

    On a CPU: eight to a draw of NumPy's SFC64, seeded by torch's generator and, for many, twice as fast as that one.
    """
    if images.device.type != "cpu":
        return torch.randint(0, 256, images.shape, generator=generator, dtype=torch.uint8, device=images.device)
    seed = int(torch.randint(2**63 - 1, (), generator=generator))
    words = torch.from_numpy(np.random.SFC64(seed).random_raw(-(-images.numel() // 8)))
    return words.view(torch.uint8)[: images.numel()].view(images.shape)
