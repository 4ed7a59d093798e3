"""The clock of training: how long it is, and the noise that belongs to each place in it."""

import lightning.pytorch as pl
import torch
from torch import Tensor

from variata.evaluation.noise import stream


def total_updates(trainer: pl.Trainer, per_epoch: int) -> int:
    """Updates after which training ends: max_epochs or max_steps, whichever comes first."""
    epochs, steps = trainer.max_epochs, trainer.max_steps
    limits = [] if epochs is None or epochs == -1 else [epochs * per_epoch]
    return min(limits + ([] if steps is None or steps == -1 else [steps]))


def place(step: int, per_epoch: int, batch_size: int) -> dict[str, int]:
    """The epoch in which an update is the next, and how many images of that epoch, over all devices, were used."""
    epoch, update = divmod(step, per_epoch)
    return {"epoch": epoch, "position": update * batch_size}


def seed(value: int, number: int) -> None:
    """Seed torch's generators for one of many streams of noise that belong to a seed."""
    torch.manual_seed(stream(value, number))


def rng_state() -> dict[str, Tensor]:
    """The states of torch's generators."""
    state = {"cpu": torch.get_rng_state()}
    return state | ({"cuda": torch.cuda.get_rng_state()} if torch.cuda.is_available() else {})


def set_rng_state(state: dict[str, Tensor]) -> None:
    """Back to where `rng_state` found torch's generators."""
    torch.set_rng_state(state["cpu"].cpu())
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"].cpu())
