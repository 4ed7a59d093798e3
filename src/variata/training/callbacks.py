"""Callbacks: progress, pictures, moving averages of the weights."""

import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback, TQDMProgressBar, WeightAveraging
from lightning.pytorch.loggers import WandbLogger
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from variata.core import VAE
from variata.data.module import ImageDataModule
from variata.evaluation.attributes import STRENGTHS, column, labelled_codes, mean_difference
from variata.evaluation.noise import noise
from variata.evaluation.pictures import edits, grid, headed, interpolation, pairs, save, traversal
from variata.training.module import Training

ROWS = 8  # of a picture of interpolations or edits
MOST = 1024  # pictures in one grid
CODES = 2000  # training images an attribute's vector is computed from during training

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
        self._name_epoch(trainer, pl_module)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Training, *args: Any) -> None:
        if self.train_progress_bar.total is None:  # resumed in the middle of an epoch, which then has no start
            self._name_epoch(trainer, pl_module)
        super().on_train_batch_end(trainer, pl_module, None, None, pl_module.step - 1)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: Training) -> None:
        """Nothing ends with an epoch."""

    def _name_epoch(self, trainer: pl.Trainer, pl_module: Training) -> None:
        bar, progress = self.train_progress_bar, pl_module.progress
        if bar.total is None:
            bar.total, bar.initial, bar.n = progress.total, pl_module.step, pl_module.step
        epochs = math.ceil(progress.total / progress.per_epoch)
        bar.set_description(f"Epoch {trainer.current_epoch + 1}/{epochs}", refresh=False)

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


class EMA(WeightAveraging):
    r"""Exponential moving average of the weights, \(a \leftarrow d a + (1 - d) w\) after each update.

    Validation, checkpoints and everything after training see the average (Yazici et al. 2019, arXiv:1806.04498). It
    begins with the weights after the first update, and follows the optimizer, not Lightning's hook, a call of which
    may take several updates.

    Args:
        decay: d, per optimizer update.
    """

    def __init__(self, decay: float = 0.999) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"callbacks.ema.decay is at least 0 and less than 1, got {decay}.")
        super().__init__(use_buffers=True, multi_avg_fn=self._average)
        self.decay = decay

    def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
        return False  # when Lightning asks

    def on_train_start(self, trainer: pl.Trainer, pl_module: Training) -> None:
        average = cast(AveragedModel, self._average_model)
        (optimizer,) = trainer.optimizers
        self.following = optimizer.register_step_post_hook(lambda *_: average.update_parameters(pl_module))

    def on_train_end(self, trainer: pl.Trainer, pl_module: Training) -> None:
        self.following.remove()
        super().on_train_end(trainer, pl_module)

    def _average(self, averages: Params, weights: Params, count: Tensor | int) -> None:
        if averages[0].is_floating_point():
            torch._foreach_lerp_(averages, weights, 1 - self.decay)
        else:
            torch._foreach_copy_(averages, weights)  # counters of buffers


class Pictures(Callback):
    """Reconstructions, samples, interpolations, a traversal and edits of attributes, as PNG files and in W&B.

    Args:
        every: Validations between two sets of pictures; the last is always drawn.
        images: Pictures in the grids of reconstructions and samples.
        dimensions: Latent dimensions traversed, of all rungs those that carry most (`evaluation.pictures.traversal`).
        attributes: Names of those applied to validation images, of data that has any.
    """

    def __init__(self, every: int = 10, images: int = 64, dimensions: int = 8, attributes: Sequence[str] = ()) -> None:
        if min(every, images, dimensions) < 1 or max(images, dimensions) > MOST:
            raise ValueError(
                f"callbacks.pictures takes numbers from 1, images and dimensions up to {MOST}, drawn at once; "
                f"got {every=}, {images=}, {dimensions=}."
            )
        self.every, self.images, self.dimensions, self.attributes = every, images, dimensions, attributes
        self.validations = 0

    def require(self, data: ImageDataModule) -> None:
        """Refuse names of attributes the data has not, before training begins."""
        for name in self.attributes:
            column(data, name)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: Training) -> None:
        self.validations += 1
        if self.validations % self.every == 1 % self.every:
            self.draw(trainer, pl_module)

    def draw(self, trainer: pl.Trainer, training: Training) -> None:
        """Draw all pictures now; real-valued data has none."""
        if not trainer.is_global_zero or training.data.kind == "real":
            return
        with torch.no_grad(), noise(seed=0):
            pictures = self._pictures(training.vae, training.data)
        for name, (picture, caption) in pictures.items():
            save(picture, Path(trainer.default_root_dir) / "images" / f"{name}.png")
            for logger in trainer.loggers:
                if isinstance(logger, WandbLogger):
                    logger.log_image(f"images/{name}", [picture.numpy()], step=training.step, caption=[caption])

    def _pictures(self, vae: VAE, data: ImageDataModule) -> dict[str, tuple[Tensor, str]]:
        """Pictures [H, W, C] and their captions, by name."""
        x = data.prepare(data.images["val"][: self.images].to(vae.device), "val")
        along = traversal(vae, x, self.dimensions)
        drawn = {"traversal": (_rows(along.images), along.caption)}
        if len(x) > 1:
            between = interpolation(vae, x[: 2 * ROWS])
            vae.encode(x[: 2 * ROWS])  # earlier versions drew here: the noise of what follows is still theirs
            drawn["interpolation"] = _rows(between), "codes on the straight line between two images'"
        if self.attributes:
            codes, values = labelled_codes(vae, data, CODES)
            for name in self.attributes:
                vector = mean_difference(codes, values[:, column(data, name)])
                edited = headed(_rows(edits(vae, x[:ROWS], vector, STRENGTHS)), [f"{s:+g}" for s in STRENGTHS])
                drawn[f"attribute_{name}"] = edited, f"codes and so many times the vector of {name}"
        shown = grid(pairs(x, vae.reconstruct(x).mean), columns=16)
        return {
            "reconstructions": (shown, "each image followed by its reconstruction"),
            "samples": (grid(vae.sample(self.images).mean, columns=8), "mean of p(x | z) for z of the prior"),
            **drawn,
        }


def _rows(images: Tensor) -> Tensor:
    """[R, T, C, H, W] -> a picture with a row for each of R."""
    return grid(images.flatten(0, 1), images.shape[1])
