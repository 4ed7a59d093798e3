"""From a run directory back to its model and its data."""

from pathlib import Path

from variata import checkpoints
from variata.core import VAE
from variata.data.module import ImageDataModule
from variata.errors import RunError
from variata.runs import Config, read_config
from variata.targets import build, check

DATA_OPTIONS = {"batch_size_per_device": int | None}  # of every data set, besides its own


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


def open_data(run: Path, root: str | None = None) -> ImageDataModule:
    """The data a run was trained on, read, its validation and test images drawn as they were then; on the CPU.

    Args:
        run: The run directory.
        root: Takes the place of `data.root`, where the files have moved; data without files has none.

    Raises:
        UserError: The directory holds no run, or the data is missing.
    """
    config = read_config(run)
    if root is not None and "root" in config["data"]:
        config["data"]["root"] = root
    check(config["data"], "data", extra=DATA_OPTIONS)
    data = data_of(config)
    data.setup()
    return data


def data_of(config: Config) -> ImageDataModule:
    """The data of a checked configuration, before it reads anything."""
    return build({name: value for name, value in config["data"].items() if name not in DATA_OPTIONS}, "data")
