"""From a run directory back to its model and its data."""

from pathlib import Path

import torch

from variata.config.plain import Config
from variata.config.schema import DATA_OPTIONS
from variata.config.targets import build, check
from variata.core import VAE
from variata.data.module import ImageDataModule
from variata.errors import ConfigError, RunError
from variata.run.directory import at_home, read_config, require_whole
from variata.training import checkpoints


def load(run: str | Path) -> VAE:
    """The trained model of a run directory, ready to `encode`, `decode`, `sample` and `reconstruct`.

    It has the weights of the best validation ELBO (the newest ones, if there was no validation yet), is on the CPU and
    in evaluation mode.

    Raises:
        RunError: The directory holds no run, or a damaged one.
    """
    require_whole(Path(run))
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
    require_whole(run)
    config = read_config(run)
    config["data"] = at_home(config["data"], root, cache)
    check(config["data"], "data", extra=DATA_OPTIONS)
    data = data_of(config)
    data.setup()
    return data


def data_of(config: Config) -> ImageDataModule:
    """The data of a checked configuration, before it reads anything."""
    return build({name: value for name, value in config["data"].items() if name not in DATA_OPTIONS}, "data")


def device(name: str | None) -> str:
    """The device asked for, or the best there is.

    Raises:
        ConfigError: There is none of that name.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("--device=cuda needs a GPU that PyTorch can use, and there is none. Use --device=cpu.")
    return name or ("cuda" if torch.cuda.is_available() else "cpu")
