"""Callbacks: progress, pictures, the last checkpoint, moving averages of the weights."""

import math
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, TQDMProgressBar, WeightAveraging
from lightning.pytorch.loggers import WandbLogger
from torch import Tensor

from variata.core import VAE
from variata.errors import Interrupted
from variata.training import Training

Params = list[Tensor]


class Progress(TQDMProgressBar):
    """One bar over all updates of training, with the bound of the last recorded ones and how fast they went.

    It is drawn four times a second on a terminal and every ten seconds into a file, however short a step is.
    """

    def __init__(self) -> None:
        super().__init__()
        self.interval, self.drawn = (0.25 if sys.stderr.isatty() else 10.0), 0.0

    def _should_update(self, current: int, total: int) -> bool:
        due = current == total or time.monotonic() - self.drawn > self.interval
        if due:
            self.drawn = time.monotonic()
        return due

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: Training) -> None:
        bar, progress = self.train_progress_bar, pl_module.progress
        if bar.total is None:
            bar.total, bar.initial, bar.n = progress.total, pl_module.step, pl_module.step
        epochs = math.ceil(progress.total / progress.per_epoch)
        bar.set_description(f"Epoch {trainer.current_epoch + 1}/{epochs}", refresh=False)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Training, *args: Any) -> None:
        super().on_train_batch_end(trainer, pl_module, None, None, pl_module.step - 1)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: Training) -> None:
        """Nothing ends with an epoch."""

    def get_metrics(self, trainer: pl.Trainer, pl_module: Training) -> dict[str, Any]:
        shown = {
            name: f"{value:.4g}" for name, value in pl_module.latest.items() if name in ("rate", "distortion", "beta")
        }
        if pl_module.latest:
            shown = {"elbo": f"{pl_module.latest['elbo']:.2f}", **shown}
            shown["images/s"] = f"{pl_module.latest['images_per_second']:.0f}"
        if (best := trainer.callback_metrics.get("val/elbo")) is not None:
            shown["val/elbo"] = f"{best:.2f}"
        return shown


class Last(Callback):
    """Writes `last.ckpt` every few seconds, at the end of training, and when asked to stop; then stops.

    Args:
        folder: Of the checkpoints.
        every: Seconds between two writes.
    """

    def __init__(self, folder: Path, every: float = 60.0) -> None:
        self.path, self.every = folder / "last.ckpt", every
        self.written = time.monotonic()
        self.signum: int | None = None  # set by the signal handler
        self.agreed = 0  # the signal at which all devices stop

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: Training, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        due = self.due(trainer)
        # the last batch of an epoch is left to the epoch's end, after its validation
        if due and batch_idx + 1 < trainer.num_training_batches:
            self.write(trainer)
            self.stop()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: Training) -> None:
        last = trainer.should_stop or pl_module.step >= pl_module.progress.total
        if self.due(trainer) or last:
            self.write(trainer)
        self.stop()

    def on_test_batch_end(self, *args: Any) -> None:
        self.agreed = self.signum or 0  # nothing is written, so there is nothing to agree on
        self.stop()

    def due(self, trainer: pl.Trainer) -> bool:
        """Whether it is time to write or to stop: all devices agree, because all take part."""
        late, signum = time.monotonic() - self.written > self.every, self.signum or 0
        if trainer.world_size > 1:
            asked = torch.tensor([late, signum], dtype=torch.int32, device=trainer.strategy.root_device)
            late, signum = trainer.strategy.reduce(asked, reduce_op="max").tolist()
        self.agreed = signum
        return bool(late or signum)

    def write(self, trainer: pl.Trainer) -> None:
        """Write the checkpoint now: to a temporary file, then renamed."""
        trainer.save_checkpoint(self.path)
        self.written = time.monotonic()

    def stop(self) -> None:
        """Raise if a signal came, to this device or to another."""
        if self.agreed:
            raise Interrupted(self.agreed)


class Best(ModelCheckpoint):
    """Keeps the weights of the highest `val/elbo` in `best.ckpt`, also when the run directory has moved meanwhile.

    Args:
        folder: Of the checkpoints.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(
            folder,
            "best",
            "val/elbo",
            mode="max",
            enable_version_counter=False,
            save_on_train_epoch_end=False,  # with the validation, so that last.ckpt, written after it, knows of it
        )

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict({**state_dict, "dirpath": self.dirpath})  # else it forgets the best score


class EMA(WeightAveraging):
    r"""Exponential moving average of the weights, \(a \leftarrow d^n a + (1 - d^n) w\) after n updates.

    Validation, checkpoints and everything after training see the average (Yazici et al. 2019, arXiv:1806.04498).

    Args:
        decay: d, per optimizer update.
    """

    def __init__(self, decay: float = 0.999) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"callbacks.ema.decay is at least 0 and less than 1, got {decay}.")
        super().__init__(use_buffers=True, multi_avg_fn=self._average)
        self.decay, self.updates = decay, 1

    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any, **kwargs: Any) -> None:
        self.updates = trainer.global_step - max(0, self._latest_update_step)  # one call may hold several updates
        super().on_train_batch_end(trainer, *args, **kwargs)

    def _average(self, averages: Params, weights: Params, count: Tensor | int) -> None:
        torch._foreach_lerp_(averages, weights, 1 - self.decay**self.updates)


class Pictures(Callback):
    """Reconstructions, samples and a latent traversal, as PNG files and in W&B.

    Args:
        every: Validations between two sets of pictures; the last is always drawn.
        images: Pictures in the grids of reconstructions and samples.
        dimensions: Latent dimensions traversed, those of highest KL.
    """

    def __init__(self, every: int = 10, images: int = 64, dimensions: int = 8) -> None:
        if min(every, images, dimensions) < 1:
            raise ValueError(f"callbacks.pictures takes numbers from 1, got {every=}, {images=}, {dimensions=}.")
        self.every, self.images, self.dimensions = every, images, dimensions
        self.validations = 0

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: Training) -> None:
        self.validations += 1
        if self.validations % self.every == 1 % self.every:
            self.draw(trainer, pl_module)

    def draw(self, trainer: pl.Trainer, training: Training) -> None:
        """Draw all pictures now; real-valued data has none."""
        data = training.data
        if not trainer.is_global_zero or data.kind == "real":
            return
        x = data.images["val"][: self.images].to(training.device).float()
        with torch.no_grad(), noise(seed=0):
            pictures = {
                "reconstructions": grid(pairs(x, training.vae.reconstruct(x).mean), columns=16),
                "samples": grid(training.vae.sample(self.images).mean, columns=8),
                "traversal": grid(traversal(training.vae, x, self.dimensions), columns=STEPS),
            }
        folder = Path(trainer.default_root_dir) / "images"
        folder.mkdir(exist_ok=True)
        for name, picture in pictures.items():
            self._save(picture, folder / f"{name}.png")
            for logger in trainer.loggers:
                if isinstance(logger, WandbLogger):
                    logger.log_image(f"images/{name}", [picture.numpy()], step=training.step)

    def _save(self, picture: Tensor, path: Path) -> None:
        from PIL import Image

        array = picture.numpy()
        temporary = path.with_suffix(".tmp")
        Image.fromarray(array.squeeze(2) if array.shape[2] == 1 else array).save(temporary, format="PNG")
        temporary.replace(path)


STEPS = 11  # of a traversal, from -3 to 3 standard deviations of the prior


def pairs(x: Tensor, reconstructed: Tensor) -> Tensor:
    """[N, C, H, W] twice -> [2N, C, H, W]: each image followed by its reconstruction."""
    return torch.stack([x, reconstructed], 1).flatten(0, 1)


def traversal(vae: VAE, x: Tensor, dimensions: int) -> Tensor:
    """The first image's top code moved along the dimensions of highest KL over x, [dimensions * STEPS, C, H, W]."""
    top = vae.encode(x)[0]
    if (kl := top.kl_per_dim) is None:
        kl = (top.z - top.z.mean(0)).square()
    code = top.z[:1].flatten(1)  # [1, D]
    order = kl.mean(0).flatten().argsort(descending=True)[:dimensions]
    z = code.repeat(len(order), STEPS, 1)  # [dimensions, STEPS, D]
    for row, dimension in enumerate(order):
        z[row, :, dimension] = torch.linspace(-3, 3, STEPS, device=z.device)
    return vae.decode(z.view(-1, *top.z.shape[1:])).mean


def grid(images: Tensor, columns: int) -> Tensor:
    """Images [N, C, H, W] with values in [0, 1] as one uint8 picture [H', W', C], a light line between them."""
    images = images.float().clamp(0, 1).mul(255).round().byte().cpu()  # W&B shows float images black
    images = torch.nn.functional.pad(images, (1, 1, 1, 1), value=96)
    missing = -len(images) % columns
    images = torch.cat([images, images.new_full((missing, *images.shape[1:]), 96)])
    rows = images.unflatten(0, (-1, columns))  # [R, columns, C, H, W]
    return rows.permute(0, 3, 1, 4, 2).flatten(0, 1).flatten(1, 2)  # [R*H, columns*W, C]


@contextmanager
def noise(seed: int) -> Iterator[None]:
    """Draw with a seed of its own; the generators are afterwards where they were."""
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        yield
