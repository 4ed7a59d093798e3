"""Callbacks that end and save training, so that it can be gone on with: early stops, last.ckpt, best.ckpt."""

import time
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint, WeightAveraging
from lightning.pytorch.callbacks.early_stopping import EarlyStoppingReason
from lightning.pytorch.trainer.states import TrainerFn

from variata.errors import Interrupted
from variata.training.module import Training


class EarlyStops(Callback):
    """Has each `EarlyStopping` judge when a validation ends, and training resumed after its verdict keep to it.

    So `best.ckpt` and `last.ckpt`, written after it, know of every validation counted; Lightning would judge after
    them. Its place is before `Last`. The patience is the configuration's, not the checkpoint's.
    """

    def setup(self, trainer: pl.Trainer, pl_module: Training, stage: str) -> None:
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
        self.judges = [callback for callback in callbacks if isinstance(callback, EarlyStopping)]
        self.patience = [judge.patience for judge in self.judges]
        for judge in self.judges:
            judge._check_on_train_epoch_end = False

    def on_fit_start(self, trainer: pl.Trainer, pl_module: Training) -> None:
        for judge, patience in zip(self.judges, self.patience, strict=True):
            judge.patience = patience

    def on_train_start(self, trainer: pl.Trainer, pl_module: Training) -> None:
        loop = trainer.fit_loop
        # after best.ckpt an epoch is left to be ended, without another update, and last.ckpt to be written
        if not (loop.restarted_mid_epoch and loop.epoch_loop.batch_progress.is_last_batch):
            self._keep_to_it(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: Training) -> None:
        self._keep_to_it(trainer)

    def _keep_to_it(self, trainer: pl.Trainer) -> None:
        trainer.should_stop = trainer.should_stop or any(map(_decided, self.judges))


def _decided(judge: EarlyStopping) -> bool:
    """Whether it ended training; of patience that has grown since, it did not."""
    if judge.stopping_reason == EarlyStoppingReason.PATIENCE_EXHAUSTED:
        return judge.wait_count >= judge.patience
    return judge.stopping_reason != EarlyStoppingReason.NOT_STOPPED


class Last(Callback):
    """Writes `last.ckpt` at the start and the end, every few seconds, before compiling, and when asked to stop.

    All devices stop at the same place: after an update, before a batch of validation or after one of the test.
    A validation that was begun is done again, from the checkpoint of before it.

    Args:
        folder: Of the checkpoints.
        every: Seconds between two writes.
    """

    def __init__(self, folder: Path, every: float = 60.0) -> None:
        self.path, self.every = folder / "last.ckpt", every
        self.written = time.monotonic()
        self.signum: int | None = None  # set by the signal handler
        self.agreed = 0  # the signal at which all devices stop

    def on_train_start(self, trainer: pl.Trainer, pl_module: Training) -> None:
        if trainer.ckpt_path is None:  # whatever happens from here on, there is something to go on from
            self.write(trainer)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: Training, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        due = self.due(trainer) or pl_module.compiles_next
        # the last batch of an epoch, or of training, is left to the epoch's end, after its validation
        if due and batch_idx + 1 < trainer.num_training_batches and not trainer.should_stop:
            self.write(trainer)
            self.stop()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: Training) -> None:
        last = trainer.should_stop or pl_module.step >= pl_module.progress.total
        if self.due(trainer) or last or pl_module.compiles_next:
            self.write(trainer)
        self.stop()

    def on_validation_start(self, trainer: pl.Trainer, pl_module: Training) -> None:
        if trainer.state.fn == TrainerFn.FITTING:  # else counted wrong after a validation that is done again
            trainer.fit_loop.epoch_loop.val_loop.batch_progress.reset()

    def on_validation_batch_start(self, trainer: pl.Trainer, pl_module: Training, *args: Any) -> None:
        self.due(trainer)
        if self.agreed and trainer.state.fn == TrainerFn.FITTING:
            for callback in trainer.callbacks:  # type: ignore[attr-defined]
                if isinstance(callback, WeightAveraging):  # back to the weights being trained
                    callback.on_validation_epoch_end(trainer, pl_module)
            # by a first batch that has been started, but not processed, Lightning knows a validation to do again
            progress = trainer.fit_loop.epoch_loop.val_loop.batch_progress
            progress.reset()
            progress.increment_ready()
            progress.increment_started()
            self.write(trainer)
        self.stop()

    def on_test_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
        self.due(trainer)  # after the last batch all devices wait for each other
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
        """Write the checkpoint now; what was logged before it is on the disk before it."""
        for logger in trainer.loggers:
            logger.save()
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
        if (Path(self.dirpath or "") / "best.ckpt").is_file():  # a best score without its weights is of no use
            super().load_state_dict({**state_dict, "dirpath": self.dirpath})  # else it forgets the best score
