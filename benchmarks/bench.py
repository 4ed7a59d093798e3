"""How fast training is beside hand-written loops of the same mathematics, how soon it starts, how much memory it takes.

All three loops train a 784-400-20 VAE on dynamically binarised MNIST, batch 128, in one process and in turns, so that
whatever else the machine does meets all of them.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hydra
import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional as F

from variata import atomic
from variata.config.compose import CONF
from variata.config.plain import plain
from variata.data.celeba import present
from variata.data.module import ImageDataModule
from variata.errors import RunError
from variata.run import directory, loading
from variata.run.assemble import assemble
from variata.run.csv import CSV
from variata.run.guard import guarded
from variata.run.launch import quiet
from variata.training.callbacks import Progress
from variata.training.module import Training

BATCH, ROUNDS = 128, 9
MODEL = ["model=mlp_vae", "model.latent=20", "model.encoder.widths=[400]", "logger=none"]


def main() -> int:
    """`make bench`: prints a table and writes outputs/bench.json."""
    return guarded(bench)


def bench() -> None:
    """Measure everything."""
    quiet()
    results = {**speed(), **celeba(), **startup(), **memory()}
    path = Path("outputs/bench.json")
    path.parent.mkdir(exist_ok=True)
    atomic.write(path, json.dumps(results, indent=2) + "\n")
    table = Table(title="bench", show_header=False, title_justify="left")
    for name, value in results.items():
        table.add_row(name, f"{value:,}" if isinstance(value, int | float) else str(value))
    Console().print(table, f"Written to {path}.")


# --- speed ------------------------------------------------------------------------------------------------------------


class Turns(Callback):
    """Lets the hand-written loops run between blocks of Lightning's training, and times all.

    Args:
        others: Loops by name; each takes the updates of one epoch.
    """

    def __init__(self, others: dict[str, Callable[[], None]]) -> None:
        self.others = others
        self.seconds: dict[str, list[float]] = {name: [] for name in ("variata", *others)}

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.begun = time.perf_counter()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.seconds["variata"].append(time.perf_counter() - self.begun)
        for name, loop in self.others.items():
            begun = time.perf_counter()
            loop()
            self.seconds[name].append(time.perf_counter() - begun)


def speed() -> dict[str, Any]:
    """Images per second of the three loops, medians over rounds; the first two rounds warm up."""
    overrides = [*MODEL, "beta=constant", "scheduler=none", "compile=true", f"trainer.max_epochs={ROUNDS + 2}"]
    config = composed(overrides)
    pl.seed_everything(1, verbose=False)
    data = loading.data_of(config)
    training, _ = assemble(config, data)
    data.updates_per_call = config["updates_per_call"]
    data.setup()
    grey = data.images["train"].flatten(1)
    turns = Turns({"plain": plain_loop(grey), "tuned": tuned_loop(grey)})
    with tempfile.TemporaryDirectory() as folder:
        trainer = pl.Trainer(
            max_epochs=ROUNDS + 2,
            accelerator="cpu",
            logger=CSV(Path(folder) / "metrics.csv"),
            callbacks=[Progress(), turns],
            limit_val_batches=0,
            enable_checkpointing=False,
            enable_model_summary=False,
            default_root_dir=folder,
        )
        trainer.fit(training, datamodule=data)
    images = data.updates_per_epoch * BATCH
    rates = {name: [images / s for s in seconds[2:]] for name, seconds in turns.seconds.items()}
    return {
        "images_per_second": {name: round(statistics.median(rate)) for name, rate in rates.items()},
        "vs_plain": round(statistics.median(a / b for a, b in zip(rates["variata"], rates["plain"], strict=True)), 3),
        "vs_tuned": round(statistics.median(a / b for a, b in zip(rates["variata"], rates["tuned"], strict=True)), 3),
        "updates": {"rounds": ROUNDS, "per_round": data.updates_per_epoch},
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def composed(overrides: list[str]) -> directory.Config:
    """The configuration of a command."""
    with hydra.initialize_config_dir(str(CONF.resolve()), version_base="1.3"):
        return plain(hydra.compose("config", overrides))


class Plain(nn.Module):
    """The VAE everyone writes first."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(784, 400), nn.SiLU(), nn.Linear(400, 40))
        self.decoder = nn.Sequential(nn.Linear(20, 400), nn.SiLU(), nn.Linear(400, 784))

    def forward(self, x: Tensor) -> Tensor:
        """The loss of x [B, 784]."""
        mean, log_std = self.encoder(x).chunk(2, 1)
        z = mean + log_std.exp() * torch.randn_like(mean)
        distortion = F.binary_cross_entropy_with_logits(self.decoder(z), x, reduction="none").sum(1)
        rate = 0.5 * (mean**2 + (2 * log_std).exp() - 2 * log_std - 1).sum(1)
        return (distortion + rate).mean()


def plain_loop(grey: Tensor) -> Callable[[], None]:
    """`torch.bernoulli`, `torch.optim.Adam`, eager."""
    model, order = Plain(), Order(len(grey))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=False)

    def loop() -> None:
        for indices in order():
            loss = model(torch.bernoulli(grey[indices].float() / 255))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return loop


def tuned_loop(grey: Tensor) -> Callable[[], None]:
    """Random bytes compared with grey values (p/256 for p/255), fused Adam, `torch.compile`."""
    model, order = Plain(), Order(len(grey))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
    compiled = torch.compile(model)

    def loop() -> None:
        for indices in order():
            words = torch.empty(BATCH * 98, dtype=torch.int64).random_(-(2**63), None)
            x = (words.view(torch.uint8).view(BATCH, 784) < grey[indices]).float()
            loss = compiled(x)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return loop


class Order:
    """Batches of indices, a new order each time."""

    def __init__(self, n: int) -> None:
        self.n = n

    def __call__(self) -> list[Tensor]:
        return [batch for batch in torch.randperm(self.n).split(BATCH) if len(batch) == BATCH]


# --- what photographs cost --------------------------------------------------------------------------------------------


def celeba() -> dict[str, float]:
    """What packing the faces takes, and the share of input in an update of conv_vae; nothing where there are none."""
    with tempfile.TemporaryDirectory() as folder:
        config = composed(["data=celeba", "logger=none", f"data.cache={folder}"])
        if not present(Path(config["data"]["root"])):
            return {}
        pl.seed_everything(1, verbose=False)
        data = loading.data_of(config)
        begun = time.perf_counter()
        images = sum(map(len, data.source.load().values()))
        packing = images / (time.perf_counter() - begun)
        data.setup()
        data.updates_per_call = config["updates_per_call"]
        inputs, rest = update_seconds(data, assemble(config, data)[0])
    return {
        "celeba_input_ms": round(1e3 * inputs, 3),
        "celeba_step_ms": round(1e3 * (inputs + rest), 3),
        "celeba_input_share": round(inputs / (inputs + rest), 4),
        "celeba_packing_images_per_second": round(packing),
    }


def update_seconds(data: ImageDataModule, training: Training) -> tuple[float, float]:
    """Seconds of an update, compiled: for its images, and for all else; medians over an epoch, after one to warm up."""
    step, optimizer, beta = torch.compile(training._terms), training.configure_optimizers(), torch.ones(())
    for _ in range(2):
        inputs, rest = [], []
        begun = time.perf_counter()
        for several in data.train_dataloader():
            loaded = (time.perf_counter() - begun) / data.updates_per_call
            for images in several.split(data.batch_size):
                begun = time.perf_counter()
                batch = data.prepared(images, "train")
                ready = time.perf_counter()
                step(batch, beta)[0].backward()
                optimizer.step()
                optimizer.zero_grad()
                inputs.append(loaded + ready - begun)
                rest.append(time.perf_counter() - ready)
            begun = time.perf_counter()
    return statistics.median(inputs), statistics.median(rest)


# --- start-up and memory, of whole processes --------------------------------------------------------------------------


def startup() -> dict[str, float]:
    """Seconds from the command to the answer to a typing error, and to the first training update; medians of three."""
    typo = [timed(["model=typo"], until=None) for _ in range(3)]
    first = [timed(["log_every=1", "logger=wandb", "logger.mode=offline"], until="metrics.csv") for _ in range(3)]
    return {"typo_seconds": statistics.median(typo), "first_update_seconds": statistics.median(first)}


def memory() -> dict[str, Any]:
    """Peak resident MiB of the default run, and of its NLL with 10, 100 and 1,000 samples per image."""
    short = ["trainer.max_epochs=1", "logger.mode=offline"]
    few = [*short, "trainer.limit_train_batches=1", "trainer.limit_test_batches=5"]
    return {
        "peak_mib_default_run": peak([*short, "compile=true", "evaluate.nll.samples=5"]),
        "peak_mib_nll_samples": {str(k): peak([*few, f"evaluate.nll.samples={k}"]) for k in (10, 100, 1000)},
    }


def command(overrides: list[str], folder: str) -> list[str]:
    """`variata train` writing below folder."""
    code = "import sys; from variata.commands.train import main; sys.exit(main())"
    return [sys.executable, "-c", code, f"outputs={folder}", *overrides]


def timed(overrides: list[str], until: str | None) -> float:
    """Seconds until the command ends, or a file of the given name appears."""
    with tempfile.TemporaryDirectory() as folder:
        begun = time.perf_counter()
        process = subprocess.Popen(command(overrides, folder), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while process.poll() is None and not (until and list(Path(folder).rglob(until))):
            time.sleep(0.01)
        seconds = time.perf_counter() - begun
        if until and process.poll() is not None:
            raise RunError("The run to be timed ended early; try it without bench to see why.")
        process.kill()
        process.wait()
        return round(seconds, 2)


def peak(overrides: list[str]) -> int:
    """Peak resident memory of a whole run, MiB."""
    with tempfile.TemporaryDirectory() as folder:
        process = subprocess.Popen(command(overrides, folder), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        if status:
            raise RunError("The run to be measured failed; try it without bench to see why.")
        return usage.ru_maxrss // 1024


if __name__ == "__main__":
    sys.exit(main())
