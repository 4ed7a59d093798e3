"""Pictures of what a model knows. Shapes: N images, R rows, T steps, D latent dims, [C, H, W] image.

Codes are posterior means of the top rung; rungs below it are drawn from their priors.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn.functional import pad

from variata import atomic
from variata.core import VAE, Latent
from variata.distributions import moments

STEPS = 11  # of a traversal or interpolation
DEVIATIONS = 3.0  # a traversal reaches from the mean, both ways
FRAME = 100  # milliseconds a picture of a GIF is shown
HEAD = 12  # pixels of the line of labels above a grid
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


@dataclass(frozen=True)
class Traversal:
    """One image's code with one dimension at a time given other values.

    Args:
        images: [R, T, C, H, W].
        dimensions: That of each row, the first one carrying most.
        scores: How much each carries, [R], as `score` says.
        values: What each is set to, [R, T].
        score: What dimensions are ranked by.
        around: Whose means and standard deviations the values are, "prior" or "codes".
    """

    images: Tensor
    dimensions: list[int]
    scores: Tensor
    values: Tensor
    score: str
    around: str

    @property
    def caption(self) -> str:
        """What the rows and columns are."""
        names = ", ".join(str(dimension) for dimension in self.dimensions)
        reach = f"from {-DEVIATIONS:g} to {DEVIATIONS:g} standard deviations of the {self.around} around its mean"
        return f"latent dimensions {names}, by {self.score}, each {reach}"


def traversal(vae: VAE, x: Tensor, dimensions: int, steps: int = STEPS) -> Traversal:
    r"""The first image's code moved along the R dimensions of the top rung that carry most over x.

    They are ranked by their KL, averaged over x, where it is known for each dimension, else by the variance of their
    posterior means, \(\mathrm{Var}_x(E[z_j | x])\): the noise of q does not count. Each goes from three standard
    deviations below its mean to three above, the prior's where they are known, else those of the codes z ~ q(z | x).
    """
    top = vae.encode(x)[0]
    scores, score = carried(top)
    mean, std, around = spread(top)
    order = scores.argsort(descending=True)[:dimensions]
    deviations = torch.linspace(-DEVIATIONS, DEVIATIONS, steps, device=scores.device)
    values = mean[order, None] + std[order, None] * deviations  # [R, T]
    z = top.q.mean[:1].flatten(1).repeat(len(order), steps, 1)  # [R, T, D]
    for row, dimension in enumerate(order):
        z[row, :, dimension] = values[row]
    images = vae.decode(z.view(-1, *top.z.shape[1:])).mean.unflatten(0, (-1, steps))
    return Traversal(images, order.tolist(), scores[order], values, score, around)


def carried(latent: Latent) -> tuple[Tensor, str]:
    """How much each dimension of z says of the images, [D], and what that is."""
    if (kl := latent.kl_per_dim) is not None:
        return kl.mean(0).flatten(), "KL in nats"
    return latent.q.mean.var(0, correction=0).flatten(), "variance of the posterior means"


def spread(latent: Latent) -> tuple[Tensor, Tensor, str]:
    """Mean and standard deviation of each dimension of z, [D] both, and whose they are."""
    if (known := moments(latent.p)) is not None:
        return known[0][0].flatten(), known[1][0].flatten(), "prior"
    means = latent.q.mean.flatten(1)
    variance = latent.q.variance.flatten(1).mean(0) + means.var(0, correction=0)  # of z ~ q(z | x) for some x
    return means.mean(0), variance.sqrt(), "codes"


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


def headed(picture: Tensor, labels: Sequence[str]) -> Tensor:
    """A grid [H, W, C] below a line with a label over each of its columns; one wider than its column is left out."""
    font, width = ImageFont.load_default_imagefont(), picture.shape[1] / len(labels)
    line = Image.new("L", (picture.shape[1], HEAD))
    for column, label in enumerate(labels):
        if (length := font.getlength(label)) <= width:
            ImageDraw.Draw(line).text(((column + 0.5) * width - length / 2, 0), label, 255, font)
    above = torch.frombuffer(bytearray(line.tobytes()), dtype=torch.uint8).view(HEAD, -1, 1)
    return torch.cat([above.expand(-1, -1, picture.shape[2]), picture])


def save(picture: Tensor, path: Path) -> Path:
    """A picture [H, W, C] as PNG."""
    return _write(path, [picture])


def save_moving(images: Tensor, path: Path, labels: Sequence[str] = ()) -> list[Path]:
    """Images [R, T, C, H, W] as a PNG with a row for each, and a GIF in which all move at once, there and back.

    Args:
        labels: Of the T steps, written above them; none for no line above.
    """
    columns = math.ceil(math.sqrt(len(images)))
    frames = [grid(images[:, step], columns) for step in range(images.shape[1])]
    picture = grid(images.flatten(0, 1), images.shape[1])
    if labels:
        frames = [headed(frame, [label]) for frame, label in zip(frames, labels, strict=True)]
        picture = headed(picture, labels)
    still = save(picture, path.with_suffix(".png"))
    return [still, _write(path.with_suffix(".gif"), frames + frames[-2:0:-1])]


def _write(path: Path, frames: list[Tensor]) -> Path:
    arrays = [frame.squeeze(2).numpy() if frame.shape[2] == 1 else frame.numpy() for frame in frames]
    first, *rest = [Image.fromarray(array) for array in arrays]
    path.parent.mkdir(parents=True, exist_ok=True)
    moving = {"save_all": True, "append_images": rest, "duration": FRAME, "loop": 0} if rest else {}
    with atomic.replacing(path) as file:
        first.save(file, path.suffix[1:], **moving)
    return path


@contextmanager
def noise(seed: int) -> Iterator[None]:
    """Draw with a seed of its own; the generators are afterwards where they were."""
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        yield
