"""What a trained model can do, as pictures: reconstruct, sample, interpolate, traverse."""

from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from variata.core import VAE
from variata.data.module import ImageDataModule
from variata.errors import ConfigError
from variata.evaluation import pictures
from variata.evaluation.noise import noise
from variata.evaluation.pictures import grid, save, save_moving
from variata.evaluation.quality import require_pictures
from variata.evaluation.samplers import MixtureSampler, PriorSampler, Sampler, training_codes
from variata.run import directory, loading
from variata.run.loading import device


def execute(command: str, arguments: Namespace) -> None:
    """Load the run, draw, and say where the pictures are."""
    if arguments.out is None:
        directory.require_own(arguments.run, ["images"])
    vae = loading.load(arguments.run).to(device(arguments.device))
    with torch.no_grad(), noise(arguments.seed):
        paths = COMMANDS[command](vae, arguments)
    for path in paths:
        Console().print(str(path), soft_wrap=True, highlight=False)


def reconstruct(vae: VAE, arguments: Namespace) -> list[Path]:
    """Images of a split, each followed by its reconstruction."""
    x = images(vae, opened(arguments), arguments, arguments.images)
    shown = vae.reconstruct(x).mean
    both = shown if arguments.alone else pictures.pairs(x, shown)
    return [save(grid(both, columns=16), folder(arguments) / f"reconstruct_{arguments.split}.png")]


def sample(vae: VAE, arguments: Namespace) -> list[Path]:
    """Means of p(x | z) for z of the prior, or of a mixture of Gaussians fitted to the training images' codes."""
    if arguments.sampler == "prior":
        sampler: Sampler = PriorSampler(vae, arguments.temperature)
    else:
        codes = training_codes(vae, opened(arguments))
        sampler = MixtureSampler(codes, temperature=arguments.temperature, seed=arguments.seed)
    drawn = vae.decode(*sampler(arguments.images), temperature=arguments.temperature).mean
    return [save(grid(drawn, columns=8), folder(arguments) / f"sample_{arguments.sampler}.png")]


def interpolate(vae: VAE, arguments: Namespace) -> list[Path]:
    """From one image to another, a row for each pair."""
    x = images(vae, opened(arguments), arguments, 2 * arguments.images)
    if len(x) < 2:
        raise ConfigError(f"The {arguments.split} split has {len(x)} image; an interpolation needs two.")
    return save_moving(
        pictures.interpolation(vae, x, arguments.steps), folder(arguments) / f"interpolate_{arguments.split}"
    )


def traverse(vae: VAE, arguments: Namespace) -> list[Path]:
    """One image's code moved along the dimensions of all rungs that carry most, a row for each.

    Dimensions are ranked by KL where it is known for each, else by the variance of their posterior means. Each goes
    from -3 to 3 standard deviations of the prior around its mean, or of the codes where the prior's are not known.
    """
    x = images(vae, opened(arguments), arguments, 200)
    if not 0 <= arguments.index < len(x):
        raise ConfigError(f"--index is a number from 0 to {len(x) - 1}, got {arguments.index}.")
    x = torch.cat([x[arguments.index :], x[: arguments.index]])
    moved = pictures.traversal(vae, x, arguments.dimensions, arguments.steps)
    show(moved)
    return save_moving(moved.images, folder(arguments) / f"traverse_{arguments.split}")


def show(moved: pictures.Traversal) -> None:
    """A table of the rows of a traversal."""
    table = Table(caption=f"{pictures.DEVIATIONS:g} standard deviations of the {moved.around} either way")
    for heading in ("row", "dimension", moved.score, "from", "to"):
        table.add_column(heading)
    for row, name in enumerate(moved.names):
        first, last = moved.values[row, [0, -1]].tolist()
        table.add_row(str(row + 1), name, f"{moved.scores[row]:.4g}", f"{first:.2f}", f"{last:.2f}")
    Console().print(table)


def opened(arguments: Namespace) -> ImageDataModule:
    """The data of the run."""
    data = loading.open_data(arguments.run, arguments.data_root, arguments.data_cache)
    require_pictures(data)
    return data


def images(vae: VAE, data: ImageDataModule, arguments: Namespace, n: int) -> Tensor:
    """The first n images of the split asked for, as the model sees them, [n, C, H, W]; fewer where it has no more."""
    return data.prepare(data.images[arguments.split][:n], arguments.split).to(vae.device)


def folder(arguments: Namespace) -> Path:
    """Where the pictures go."""
    return arguments.out or arguments.run / "images"


COMMANDS: dict[str, Callable[[VAE, Namespace], list[Path]]] = {
    "reconstruct": reconstruct,
    "sample": sample,
    "interpolate": interpolate,
    "traverse": traverse,
}
