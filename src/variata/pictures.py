"""Pictures of what a model knows. Shapes: N images, R rows, T steps, D latent dims, [C, H, W] image.

Codes are posterior means of the top rung; rungs below it are drawn from their priors.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import pad

from variata.core import VAE

STEPS = 11  # of a traversal or interpolation
FRAME = 100  # milliseconds a picture of a GIF is shown
EDGE = 96  # grey value of the lines between the images of a grid


def code(vae: VAE, x: Tensor) -> Tensor:
    """E[z | x] of the top rung, [N, *D]."""
    return vae.encode(x)[0].q.mean


def pairs(x: Tensor, reconstructed: Tensor) -> Tensor:
    """[N, C, H, W] twice -> [2N, C, H, W]: each image followed by its reconstruction."""
    return torch.stack([x, reconstructed], 1).flatten(0, 1)


def interpolation(vae: VAE, x: Tensor, steps: int = STEPS) -> Tensor:
    """From each image of the first half of x [2R, C, H, W] straight to one of the second, by codes: [R, T, C, H, W]."""
    a, b = code(vae, x)[: len(x) // 2 * 2].chunk(2)
    return torch.stack([vae.decode(torch.lerp(a, b, t)).mean for t in torch.linspace(0, 1, steps).tolist()], 1)


def traversal(vae: VAE, x: Tensor, dimensions: int, steps: int = STEPS) -> Tensor:
    """The first image's code moved from -3 to 3 along the R dimensions of highest KL over x, [R, T, C, H, W]."""
    top = vae.encode(x)[0]
    if (kl := top.kl_per_dim) is None:
        kl = (top.z - top.z.mean(0)).square()
    order = kl.mean(0).flatten().argsort(descending=True)[:dimensions]
    z = top.q.mean[:1].flatten(1).repeat(len(order), steps, 1)  # [R, T, D]
    for row, dimension in enumerate(order):
        z[row, :, dimension] = torch.linspace(-3, 3, steps, device=z.device)
    return vae.decode(z.view(-1, *top.z.shape[1:])).mean.unflatten(0, (-1, steps))


def edits(vae: VAE, x: Tensor, direction: Tensor, strengths: list[float]) -> Tensor:
    """Images x whose codes are moved along a direction [*D], once per strength: [N, T, C, H, W]."""
    z = code(vae, x)
    return torch.stack([vae.decode(z + strength * direction).mean for strength in strengths], 1)


def grid(images: Tensor, columns: int) -> Tensor:
    """Images [N, C, H, W] with values in [0, 1] as one uint8 picture [H', W', C], a line between them."""
    images = images.float().clamp(0, 1).mul(255).round().byte().cpu()  # W&B shows float images black
    images = pad(images, (1, 1, 1, 1), value=EDGE)
    missing = -len(images) % columns
    images = torch.cat([images, images.new_full((missing, *images.shape[1:]), EDGE)])
    rows = images.unflatten(0, (-1, columns))  # [R, columns, C, H, W]
    return rows.permute(0, 3, 1, 4, 2).flatten(0, 1).flatten(1, 2)  # [R*H, columns*W, C]


def save(picture: Tensor, path: Path) -> Path:
    """A picture [H, W, C] as PNG."""
    return _write(path, [picture])


def save_moving(images: Tensor, path: Path) -> list[Path]:
    """Images [R, T, C, H, W] as a PNG with a row for each, and a GIF in which all move at once, there and back."""
    columns = math.ceil(math.sqrt(len(images)))
    frames = [grid(images[:, step], columns) for step in range(images.shape[1])]
    still = save(grid(images.flatten(0, 1), images.shape[1]), path.with_suffix(".png"))
    return [still, _write(path.with_suffix(".gif"), frames + frames[-2:0:-1])]


def _write(path: Path, frames: list[Tensor]) -> Path:
    arrays = [frame.squeeze(2).numpy() if frame.shape[2] == 1 else frame.numpy() for frame in frames]
    first, *rest = [Image.fromarray(array) for array in arrays]
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    moving = {"save_all": True, "append_images": rest, "duration": FRAME, "loop": 0} if rest else {}
    first.save(temporary, path.suffix[1:], **moving)
    temporary.replace(path)
    return path


@contextmanager
def noise(seed: int) -> Iterator[None]:
    """Draw with a seed of its own; the generators are afterwards where they were."""
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        yield
