"""What a run says about itself: the plan at its start, the results at its end."""

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from variata.core import VAE, judging
from variata.data.module import ImageDataModule
from variata.run import directory
from variata.training.clock import total_updates

MIB = 2**20


def plan(folder: Path, data: ImageDataModule, vae: VAE, trainer: pl.Trainer, config: dict[str, Any]) -> None:
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
        "training": f"{total:,} updates of {data.batch_size} images, {updates:,} per epoch, seed {config['seed']}",
        "device": f"{trainer.world_size} x {trainer.strategy.root_device.type}, precision {trainer.precision}",
        "test": f"NLL with {config['evaluate']['samples']:,} samples per image",
    }
    show("plan", rows, [folder])


def results_table(folder: Path, results: dict[str, Any]) -> None:
    """Print how the run ended, its figures, and where its pictures are."""
    rows = {"status": results["status"]}
    if "test/nll" in results:
        rows |= {
            "test NLL": f"at most {results['test/nll']:.2f} ± {results['test/nll_stderr']:.2f} nats per image "
            f"({results['test/nll_samples']:,} samples, {results['test/images']:,} images)",
            "effective samples": effective(results),
            "test ELBO": f"{results['test/elbo']:.2f} ± {results['test/elbo_stderr']:.2f} = -(rate "
            f"{results['test/rate']:.2f} + distortion {results['test/distortion']:.2f})",
            "bits per dim": f"at most {results['test/bits_per_dim']:.4f}",
            "active units": str(results["test/active_units"]),
        }
    if "quality/psnr" in results:
        rows |= quality_rows(results)
    rows["training"] = (
        f"{results['train/steps']:,} updates in {results['train/seconds']:.0f} s, "
        f"{results['train/images_per_second']:,.0f} images/s"
    )
    show("results", rows, [folder, *sorted((folder / "images").glob("*.png"))])


def effective(results: dict[str, Any]) -> str:
    """How many samples the NLL rests on, and what to do where they are few."""
    median, low = results["test/nll_ess"], results["test/nll_ess_5"]
    words = f"{median:.1f} of {results['test/nll_samples']:,} in the median image, {low:.2f} or fewer in 5%"
    few = (
        "; so few that the NLL is well above the true one: raise evaluate.samples" if median < directory.LOW_ESS else ""
    )
    return words + few


def quality_rows(results: dict[str, Any]) -> dict[str, str]:
    """Figures of pictures in words."""
    rows = {"pictures": f"{results['quality/images']:,} of the {results['quality/split']} split"}
    for name in ("reconstructions", "samples", "samples_gmm"):
        if f"quality/fid_{name}" in results:
            fid, kid, std = (results[f"quality/{figure}_{name}"] for figure in ("fid", "kid", "kid_std"))
            rows[name] = f"FID {fid:.2f}, KID {kid:.4f} ± {std:.4f}"
    rows["PSNR"] = f"{results['quality/psnr']:.2f} dB"
    if "quality/ms_ssim" in results:
        rows["MS-SSIM"] = f"{results['quality/ms_ssim']:.4f} ({results['quality/ms_ssim_scales']} scales)"
    return rows


def show(title: str, rows: dict[str, str], paths: list[Path]) -> None:
    """A table of names and values, and below it paths, each on a line of its own to be copied whole."""
    table = Table(title=title, show_header=False, title_justify="left")
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows.items():
        table.add_row(name, value)
    console = Console()
    console.print(table)
    for path in paths:
        console.print(str(path), soft_wrap=True, highlight=False)


def parameters(module: nn.Module) -> int:
    """Trainable parameters."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def latent_shapes(vae: VAE, data: ImageDataModule) -> list[tuple[int, ...]]:
    """Shape of each rung's z, top first."""
    with torch.no_grad(), torch.random.fork_rng(devices=[]), judging(vae):
        return [tuple(latent.z.shape[1:]) for latent in vae.encode(data.blank(vae.device))]
