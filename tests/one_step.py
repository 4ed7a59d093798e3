"""One update of several models, by as many processes as torchrun starts: what it computed goes into a file.

Usage: [torchrun --standalone --nproc-per-node 2] one_step.py FILE
"""

import os
import sys
from functools import partial
from itertools import product
from pathlib import Path

import lightning.pytorch as pl
import torch
from torch.distributions import normal

from models import conv, small
from variata.data.digits import digits
from variata.likelihoods import OptimalGaussian
from variata.objectives import ELBO, IWAE
from variata.schedules import Constant
from variata.training.module import Training
from variata.training.saving import Last

DEVICES = int(os.environ.get("WORLD_SIZE", 1))
MODELS = {
    "mlp": lambda: small((1, 28, 28), latent=4, widths=(16,)),
    "conv": lambda: conv((1, 28, 28)),
    "optimal scale": lambda: small((1, 28, 28), latent=4, likelihood=OptimalGaussian, widths=(16,)),
}
OBJECTIVES = ("elbo", "free bits above", "free bits below", "iwae")
SEED, BATCH, SAMPLES = 5, 64, 3


def standard_normal(shape, dtype, device):
    """A function of sample and dimension alone in place of a draw, so that no image's noise depends on its place."""
    k = shape[0] // (BATCH // DEVICES) if shape[0] >= BATCH // DEVICES else 1
    noise = torch.sin(1.7 * torch.arange(k)[:, None, None] + torch.arange(shape[1]))
    return noise.expand(k, shape[0] // k, shape[1]).reshape(shape).to(device, dtype)


def objective(name, vae, data):
    """Free bits lie between the mean KL of the batch and that of one of two devices, above or below it."""
    order = torch.randperm(1397, generator=torch.Generator().manual_seed(SEED * 1_000_003))[:BATCH]
    with torch.no_grad():
        a, b = sorted(vae(data.images["train"][order[i::2]].gt(127).float()).kl.mean().item() for i in range(2))
    bits = {"free bits above": a + 0.75 * (b - a), "free bits below": a + 0.25 * (b - a)}
    return IWAE(SAMPLES) if name == "iwae" else ELBO(free_bits=bits.get(name, 0.0))


class Gradient(pl.Callback):
    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        self.value = torch.cat([p.grad.flatten() for p in pl_module.parameters() if p.grad is not None])


class Noise(pl.Callback):
    """What each device would draw next."""

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.drawn = trainer.strategy.all_gather(torch.rand(1)).flatten().tolist()


def run(model, name, folder, callback, updates=1, ckpt=None):
    pl.seed_everything(SEED, verbose=False)
    data, vae = digits(binarize="threshold", batch_size=BATCH), MODELS[model]()
    data.seed = SEED
    data.setup()
    training = Training(
        vae,
        objective(name, vae, data),
        Constant(0.7),
        partial(torch.optim.SGD, lr=1e-2),
        Constant(),
        log_every=1,
        compile=False,
    )
    trainer = pl.Trainer(
        max_steps=updates,
        devices=DEVICES,
        accelerator="cpu",
        callbacks=[callback, Last(folder)],
        default_root_dir=folder,
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    data.trainer = trainer
    trainer.fit(training, datamodule=data, ckpt_path=ckpt, weights_only=True)
    return training, trainer


def main(path):
    results, drawn, folder = {}, normal._standard_normal, path.parent / path.stem
    normal._standard_normal = standard_normal
    for model, name in product(MODELS, OBJECTIVES):
        training, trainer = run(model, name, folder, gradient := Gradient())
        weights = torch.cat([p.detach().flatten() for p in training.vae.parameters()])
        results[f"{model}, {name}"] = (torch.tensor(training.latest["loss"]), gradient.value, weights)
    normal._standard_normal = drawn
    _, trainer = run("mlp", "elbo", folder, new := Noise())
    run("mlp", "elbo", folder, resumed := Noise(), updates=2, ckpt=folder / "last.ckpt")
    if trainer.is_global_zero:
        torch.save({"steps": results, "noise": {"new": new.drawn, "resumed": resumed.drawn}}, path)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
