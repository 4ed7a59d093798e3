"""From a run directory back to its model and its data."""

import os
from pathlib import Path
from typing import Any

from variata import checkpoints
from variata.core import VAE
from variata.data.module import ImageDataModule
from variata.errors import RunError
from variata.runs import Config, read_config
from variata.targets import build, check

DATA_OPTIONS = {"batch_size_per_device": int | None}  # of every data set, besides its own
CACHE = "~/.cache/variata"  # of packed images, where VARIATA_CACHE names none


def load(run: str | Path) -> VAE:
    """The trained model of a run directory, ready to `encode`, `decode`, `sample` and `reconstruct`.

    It has the weights of the best validation ELBO (the newest ones, if there was no validation yet), is on the CPU and
    in evaluation mode.

    Raises:
        RunError: The directory holds no run, or a damaged one.
    """
    config = read_config(Path(run))
    check(config["model"], "model")
    vae = build(config["model"], "model")
    best, last = (Path(run) / "checkpoints" / f"{name}.ckpt" for name in ("best", "last"))
    path = best if best.is_file() else last
    try:
        vae.load_state_dict(checkpoints.weights(checkpoints.read(path)))
    except RuntimeError as error:
        raise RunError(f"{path} holds another model than {run}/config.yaml: one of them was changed.") from error
    return vae.eval()


def open_data(run: Path, root: str | None = None, cache: str | None = None) -> ImageDataModule:
    """The data a run was trained on, read, its validation and test images drawn as they were then; on the CPU.

    Args:
        run: The run directory.
        root: Takes the place of `data.root`, where the files have moved; data without files has none.
        cache: Folder of packed images; `VARIATA_CACHE` if not given.

    Raises:
        UserError: The directory holds no run, or the data is missing.
    """
    config = read_config(run)
    config["data"] = at_home(config["data"], root, cache)
    check(config["data"], "data", extra=DATA_OPTIONS)
    data = data_of(config)
    data.setup()
    return data


def at_home(node: Any, root: str | None = None, cache: str | None = None) -> Any:
    """The data of somebody's run, as it is read here: nothing is written where the run's configuration says.

    Its files are read from `data.root`, but downloaded only to a root named here, and packed into the cache of whoever
    reads, not into that of the run.
    """
    if not isinstance(node, dict):
        return node
    places: dict[str, Any] = {"cache": cache or os.environ.get("VARIATA_CACHE", CACHE)}
    places |= {"download": False} if root is None else {"root": root}
    return {name: places.get(name, value) for name, value in node.items()}


def data_of(config: Config) -> ImageDataModule:
    """The data of a checked configuration, before it reads anything."""
    return build({name: value for name, value in config["data"].items() if name not in DATA_OPTIONS}, "data")
