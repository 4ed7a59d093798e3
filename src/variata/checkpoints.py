"""Read what a run wrote: tensors and plain values only, never code."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from variata.errors import RunError


def read(path: Path) -> dict[str, Any]:
    """A checkpoint of ours, on the CPU.

    Raises:
        RunError: It is missing, damaged, holds more than tensors and plain values, or is not from this project.
    """
    if not path.is_file():
        raise RunError(f"No checkpoint at {path}.")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged archive fails in many ways: zip, pickle, end of file, unsafe globals
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise RunError(
            f"{path} cannot be read as a checkpoint ({reason}). It is damaged or not one of ours; "
            "resume from another run, or start again without resume."
        ) from error
    if not isinstance(checkpoint, dict) or "variata" not in checkpoint or "state_dict" not in checkpoint:
        raise RunError(f"{path} is a checkpoint of another program. Give a run directory written by variata.")
    return checkpoint


def weights(checkpoint: dict[str, Any]) -> dict[str, Tensor]:
    """The VAE's state in a checkpoint; the moving average, where one was kept."""
    return {
        name.removeprefix("vae."): value for name, value in checkpoint["state_dict"].items() if name.startswith("vae.")
    }
