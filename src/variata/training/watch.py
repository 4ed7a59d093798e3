"""What watches the step: whether its losses are finite, and when it is worth compiling."""

import importlib.util
import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor

from variata.core import Batch, Terms
from variata.errors import Diverged
from variata.training import checkpoints

EAGER_UPDATES = 100  # run before compiling: mistakes show at once, and the first figures do not wait for a compiler
LONG = 3000  # updates from which compile="auto" compiles: about where the minute it may take is won back
SKIPPED = 100  # updates in a row that on_nan="skip" leaves out before it gives up


class Finite:
    """Stops training, or leaves an update out, where the loss is NaN or infinite.

    Args:
        on_nan: "stop" or "skip".

    Attributes:
        skipped: Updates left out in a row.
    """

    def __init__(self, on_nan: str) -> None:
        self.on_nan, self.skipped = on_nan, 0

    def each(self, device: torch.device) -> bool:
        """Whether to look at each update, not at several at once, because looking waits for a GPU."""
        return device.type == "cpu" or self.on_nan == "skip"

    def passes(self, trainer: pl.Trainer, step: int, loss: Tensor, terms: Terms, batch: Batch) -> bool:
        """Whether the losses are finite; if not, the update is to be left out.

        Raises:
            Diverged: They are not, and no update is left out, or too many were; terms and batch are in a file.
        """
        finite = math.isfinite(loss.sum().item())
        if trainer.world_size > 1:  # all devices leave the update out, or none
            finite = trainer.strategy.reduce_boolean_decision(finite, all=True)
        self.skipped = 0 if finite else self.skipped + 1
        if not finite and not (self.on_nan == "skip" and self.skipped < SKIPPED):
            raise self._diverged(trainer, step, {name: float(value) for name, value in terms.items()}, batch)
        return finite

    def _diverged(self, trainer: pl.Trainer, step: int, terms: dict[str, float], batch: Batch) -> Diverged:
        name = f"diverged-{trainer.global_rank}.pt" if trainer.global_rank else "diverged.pt"
        path, kept = Path(trainer.default_root_dir) / name, batch.to(torch.device("cpu"))
        checkpoints.write({"step": step, "terms": terms, "batch": kept.x, "index": kept.index}, path)
        shown = ", ".join(f"{name} {value:.4g}" for name, value in terms.items()) or "terms not kept"
        return Diverged(
            f"The loss is not finite at update {step} ({shown}). The batch and the terms are in {path}. "
            "A smaller optimizer.lr, trainer.gradient_clip_val=1 or a longer warm-up (scheduler.warmup, beta.over) "
            "usually helps; trainer.on_nan=skip leaves such updates out."
        )


class Compiled:
    """A function that is compiled after the first updates, where that is worth it.

    Args:
        function: Of tensors.
        compile: Whether to; "auto" does for long training where a compiler is found.
    """

    def __init__(self, function: Callable[..., Any], compile: bool | str) -> None:
        self.function, self.compile, self.worth = function, compile, False
        self.compiled: Callable[..., Any] | None = None

    def decide(self, total: int, device: torch.device) -> None:
        """Decide for a training of so many updates on a device."""
        self.worth = self.compile is True or (self.compile == "auto" and total >= LONG and has_compiler(device))

    def within(self, step: int) -> bool:
        """Whether it is compiled before an update, which takes long and hears no signal."""
        return self.worth and self.compiled is None and step > EAGER_UPDATES

    def __call__(self, step: int, *arguments: Any) -> Any:
        """The function's result at an update."""
        if not self.worth or step < EAGER_UPDATES:
            return self.function(*arguments)
        if self.compiled is None:
            self.compiled = torch.compile(self.function)
        return self.compiled(*arguments)


def has_compiler(device: torch.device) -> bool:
    """Whether torch.compile can work here: it calls a C++ compiler for a CPU and Triton for a GPU."""
    if device.type == "cpu":
        return shutil.which(os.environ.get("CXX", "g++")) is not None
    return importlib.util.find_spec("triton") is not None
