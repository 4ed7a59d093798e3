"""Pictures of what a model knows. Shapes: N images, R rows, T steps, D latent dims, [C, H, W] image.

Codes are the posterior means of all rungs, each given those above. A latent dimension is an entry of a vector; of a map
[C, H, W] it is a channel, moved as a whole.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn.functional import pad

from variata import atomic
from variata.core import VAE, Latent
from variata.distributions import moments
from variata.evaluation.codes import joined, parted

STEPS = 11  # of a traversal or interpolation
DEVIATIONS = 3.0  # a traversal reaches from the mean, both ways
FRAME = 100  # milliseconds a picture of a GIF is shown
HEAD = 12  # pixels of the line of labels above a grid
EDGE = 96  # grey value of the lines between the images of a grid


def pairs(x: Tensor, reconstructed: Tensor) -> Tensor:
    """[N, C, H, W] twice -> [2N, C, H, W]: each image followed by its reconstruction."""
    return torch.stack([x, reconstructed], 1).flatten(0, 1)


def interpolation(vae: VAE, x: Tensor, steps: int = STEPS) -> Tensor:
    """From each image of the first half of x [2R, C, H, W] straight to one of the second, by codes: [R, T, C, H, W]."""
    ends = [z[: len(x) // 2 * 2].chunk(2) for z in vae.codes(x)]
    ways = ([torch.lerp(a, b, t) for a, b in ends] for t in torch.linspace(0, 1, steps).tolist())
    return torch.stack([vae.decode(*z).mean for z in ways], 1)


@dataclass(frozen=True)
class Traversal:
    """One image's code with one dimension at a time given other values.

    Args:
        images: [R, T, C, H, W].
        dimensions: That of each row, the first one carrying most.
        rungs: The rung of each, 0 at the top.
        scores: How much each carries, [R], as `score` says.
        values: What each is set to, [R, T]; the mean over a map.
        score: What dimensions are ranked by.
        around: Whose means and standard deviations the values are, "prior" or "codes".
        several: Whether the model has several rungs.
    """

    images: Tensor
    dimensions: list[int]
    rungs: list[int]
    scores: Tensor
    values: Tensor
    score: str
    around: str
    several: bool = False

    @property
    def names(self) -> list[str]:
        """Of the dimensions, `<rung>.<dimension>` where there are several rungs."""
        both = zip(self.rungs, self.dimensions, strict=True)
        return [f"{rung}.{dimension}" if self.several else str(dimension) for rung, dimension in both]

    @property
    def caption(self) -> str:
        """What the rows and columns are."""
        reach = f"from {-DEVIATIONS:g} to {DEVIATIONS:g} standard deviations of the {self.around} around its mean"
        return f"latent dimensions {', '.join(self.names)}, by {self.score}, each {reach}"


def traversal(vae: VAE, x: Tensor, dimensions: int, steps: int = STEPS) -> Traversal:
    r"""The first image's code moved along the R dimensions of all rungs that carry most over x.

    They are ranked by their KL, averaged over x, where it is known for each dimension, else by the variance of their
    posterior means, \(\mathrm{Var}_x(E[z_j | x])\): the noise of q does not count. Each goes from three standard
    deviations below its mean to three above, the prior's given the code of the rungs above where they are known, else
    those of the codes z ~ q(z | x); the other dimensions, below it too, stay.
    """
    latents, codes = vae.encode(x), vae.codes(x)
    scores, score = carried(latents, codes)
    around, whose = spread(vae, latents, codes)
    flat, sizes = torch.cat(scores), [len(rung) for rung in scores]
    order = flat.argsort(descending=True)[:dimensions]
    places = [place_in(sizes, number) for number in order.tolist()]
    deviations = torch.linspace(-DEVIATIONS, DEVIATIONS, steps, device=flat.device)[:, None]
    values = [mean[channel] + std[channel] * deviations for rung, channel in places for mean, std in [around[rung]]]
    z = [channels(own[:1]).repeat(len(places) * steps, 1, 1) for own in codes]  # [R*T, C, P]
    for row, (rung, channel) in enumerate(places):
        z[rung][row * steps : (row + 1) * steps, channel] = values[row]  # [T, P]
    shown = vae.decode(*(moved.view(-1, *own.shape[1:]) for moved, own in zip(z, codes, strict=True))).mean
    return Traversal(
        images=shown.unflatten(0, (-1, steps)),
        dimensions=[channel for _, channel in places],
        rungs=[rung for rung, _ in places],
        scores=flat[order],
        values=torch.stack([each.mean(1) for each in values]),
        score=score,
        around=whose,
        several=len(codes) > 1,
    )


def channels(z: Tensor) -> Tensor:
    """[N, C, ...] -> [N, C, P]: what is one dimension, and its places, of which a vector's have one each."""
    return z.flatten(2) if z.ndim > 2 else z.unsqueeze(2)


def place_in(sizes: Sequence[int], number: int) -> tuple[int, int]:
    """The part that a number falls into, counted over parts of these sizes, and its place there."""
    part = 0
    while number >= sizes[part]:
        number, part = number - sizes[part], part + 1
    return part, number


def carried(latents: Sequence[Latent], codes: Sequence[Tensor]) -> tuple[list[Tensor], str]:
    """How much each dimension of z says of the images, [C] of each rung, and what that is."""
    known = [kl for latent in latents if (kl := latent.kl_per_dim) is not None]
    if len(known) == len(latents):
        return [channels(kl.mean(0, keepdim=True)).sum((0, 2)) for kl in known], "KL in nats"
    variances = [z.var(0, correction=0, keepdim=True) for z in codes]
    return [channels(variance).sum((0, 2)) for variance in variances], "variance of the posterior means"


def spread(vae: VAE, latents: Sequence[Latent], codes: Sequence[Tensor]) -> tuple[list[tuple[Tensor, Tensor]], str]:
    """Mean and standard deviation of each dimension of z, [C, P] both, of each rung, and whose they are."""
    state, known = vae.root.expand(1, *vae.root.shape), []
    for rung, z in zip(vae.rungs, codes, strict=True):
        latent, state = rung(state, z=z[:1])  # the prior given the first image's code
        if (moment := moments(latent.p)) is not None:
            known.append((channels(moment[0][:1])[0], channels(moment[1][:1])[0]))
    if len(known) == len(codes):
        return known, "prior"
    return [of_codes(latent) for latent in latents], "codes"


def of_codes(latent: Latent) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation, [C, P] both, of z ~ q(z | x) for some x."""
    means = latent.q.mean
    variance = latent.q.variance.mean(0) + means.var(0, correction=0)
    return channels(means.mean(0, keepdim=True))[0], channels(variance.sqrt()[None])[0]


def edits(vae: VAE, x: Tensor, direction: Tensor, strengths: Sequence[float]) -> Tensor:
    """Images x whose codes are moved along a direction [D over all rungs], once per strength: [N, T, C, H, W]."""
    codes = vae.codes(x)
    z, events = joined(codes), [own.shape[1:] for own in codes]
    return torch.stack([vae.decode(*parted(z + s * direction, events)).mean for s in strengths], 1)


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
