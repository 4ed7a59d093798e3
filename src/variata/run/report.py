"""What a run says about itself: the plan at its start, the results at its end."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from variata.core import VAE, judging
from variata.data.module import ImageDataModule
from variata.evaluation.findings import Evaluation
from variata.evaluation.findings import Table as Words
from variata.training.clock import total_updates

MIB = 2**20


def plan(
    folder: Path, data: ImageDataModule, vae: VAE, trainer: pl.Trainer, seed: int, evaluations: Mapping[str, Evaluation]
) -> None:
    """Print what is about to happen."""
    sizes = " / ".join(f"{len(data.images[split]):,}" for split in ("train", "val", "test"))
    parts: dict[str, Any] = {
        "encoder": vae.encoder,
        "rungs": vae.rungs,
        "decoder": vae.decoder,
        "likelihood": vae.likelihood,
    }
    counts = ", ".join(f"{name} {parameters(part):,}" for name, part in parts.items())
    latents = ", ".join(str(list(rung)) for rung in latent_shapes(vae, data))
    stored = sum(images.nbytes for images in data.images.values())
    updates = data.updates_per_epoch
    total = total_updates(trainer, updates)
    rows = {
        "data": f"{data.protocol}, {data.kind}",
        "images": f"{sizes} (train / val / test) of {list(data.shape)}, {stored / MIB:.0f} MiB",
        "model": f"{parameters(vae):,} parameters ({counts}), latent {latents}",
        "memory": f"{16 * parameters(vae) / MIB:.0f} MiB for weights, gradients and optimizer, beside activations",
        "training": f"{total:,} updates of {data.batch_size} images, {updates:,} per epoch, seed {seed}",
        "device": f"{trainer.world_size} x {trainer.strategy.root_device.type}, precision {trainer.precision}",
        "test": ", ".join(["ELBO", *map(str, evaluations.values())]),
    }
    show("plan", rows, [folder])


def results_table(folder: Path, results: dict[str, Any], said: Mapping[str, str], tables: Sequence[Words] = ()) -> None:
    """Print how the run ended, its figures, and where its pictures are.

    Args:
        said: By evaluations, by heading.
        tables: Theirs.
    """
    rows = {"status": results["status"]}
    if "test/elbo" in results:
        rows |= {
            "test ELBO": f"{results['test/elbo']:.2f} ± {results['test/elbo_stderr']:.2f} = -(rate "
            f"{results['test/rate']:.2f} + distortion {results['test/distortion']:.2f})",
            "active units": str(results["test/active_units"]),
        }
    trained = (
        f"{results['train/steps']:,} updates in {results['train/seconds']:.0f} s, "
        f"{results['train/images_per_second']:,.0f} images/s"
    )
    pictures = [folder, *sorted((folder / "images").glob("*.png"))]
    show("results", {**rows, **said, "training": trained}, pictures, tables)


def show(title: str, rows: Mapping[str, str], paths: Sequence[Path], tables: Sequence[Words] = ()) -> None:
    """Names and values, then tables, then paths, each on a line of its own to be copied whole."""
    console = Console()
    if rows:
        table = Table(title=title, show_header=False, title_justify="left")
        table.add_column(no_wrap=True)
        table.add_column(overflow="fold")
        for name, value in rows.items():
            table.add_row(name, value)
        console.print(table)
    for words in tables:
        console.print(drawn(words))
    for path in paths:
        console.print(str(path), soft_wrap=True, highlight=False)


def drawn(words: Words) -> Table:
    """A table of an evaluation's, for the terminal."""
    table = Table(*words.headings, title=words.title, caption=words.caption or None, title_justify="left")
    for row in words.rows:
        table.add_row(*row)
    return table


def parameters(module: nn.Module) -> int:
    """Trainable parameters."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def latent_shapes(vae: VAE, data: ImageDataModule) -> list[tuple[int, ...]]:
    """Shape of each rung's z, top first."""
    with torch.no_grad(), torch.random.fork_rng(devices=[]), judging(vae):
        return [tuple(latent.z.shape[1:]) for latent in vae.encode(data.blank(vae.device))]
