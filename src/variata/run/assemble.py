"""The parts of a run, put together: what does not fit is refused before training begins."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback, EarlyStopping

from variata.config.plain import Config
from variata.config.schema import OURS
from variata.config.targets import build, constructing
from variata.core import VAE
from variata.data.module import ImageDataModule
from variata.errors import ConfigError
from variata.run import judge, secrets
from variata.training import checkpoints
from variata.training.callbacks import EMA
from variata.training.module import Training

if TYPE_CHECKING:
    from variata.run.pruning import Pruning

REMEDY = {"binary": "bernoulli", "8-bit": "gaussian or likelihood=discretized_logistic", "real": "gaussian"}


def assemble(config: Config, data: ImageDataModule) -> tuple[Training, VAE]:
    """The model and what trains it, of parts that fit together."""
    if (shape := config["model"].get("shape", list(data.shape))) != list(data.shape):
        raise ConfigError(f"model.shape={shape} is not that of the images, {list(data.shape)}. Leave it out.")
    parts = {part: build(config[part], part) for part in ("model", "objective", "beta", "optimizer", "scheduler")}
    vae = parts.pop("model")
    if data.kind not in vae.likelihood.accepts:
        raise ConfigError(
            f"The likelihood {type(vae.likelihood).__name__} is no density of {data.kind} data, "
            f"which {data.protocol} is; it accepts {', '.join(sorted(vae.likelihood.accepts))} data. "
            f"Use likelihood={REMEDY[data.kind]}{', or another data.binarize' if 'binarize' in config['data'] else ''}."
        )
    trainer = config["trainer"]
    training = Training(
        vae,
        **parts,
        log_every=config["log_every"],
        gradient_clip_val=trainer["gradient_clip_val"],
        on_nan=trainer["on_nan"],
        compile=config["compile"],
        config=secrets.public(config),
    )
    with constructing("optimizer"):  # a wrong learning rate is told now, not when training starts
        training.configure_optimizers()
    return training, vae


def callbacks(config: Config, pruning: "Pruning | None") -> list[Callback]:
    """Those a configuration asks for, and what prunes."""
    chosen = [build(node, f"callbacks.{name}") for name, node in config["callbacks"].items() if node]
    chosen += [pruning] if pruning else []
    return sorted(chosen, key=lambda callback: isinstance(callback, EMA))  # pictures before raw weights are back


def trainer_of(config: Config, folder: Path, callbacks: list[Callback]) -> pl.Trainer:
    """Lightning's trainer of a run directory."""
    ours = (*OURS["trainer"], "gradient_clip_val")
    options = {name: value for name, value in config["trainer"].items() if name not in ours}
    trainer: pl.Trainer = build(
        options,
        "trainer",
        logger=False,
        callbacks=callbacks,
        plugins=checkpoints.Files(),
        default_root_dir=folder,
        num_sanity_val_steps=0,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    # Lightning's handler of SIGTERM talks to the other devices from wherever it interrupts this one
    trainer._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]
    return trainer


def pruning(trial: dict[str, Any] | None) -> "Pruning | None":
    """What asks a study whether to go on, for a trial of a search that prunes."""
    if trial is None:
        return None
    from variata.run.pruning import Pruning

    return Pruning(**trial)


def require_ahead(options: dict[str, Any], earlier: dict[str, Any]) -> None:
    """Refuse to go on to an end that has been passed."""
    for name, done in (("max_epochs", earlier["epoch"]), ("max_steps", earlier["step"])):
        if options[name] is not None and 0 <= options[name] < done:
            raise ConfigError(
                f"trainer.{name}={options[name]} is less than the run has done, {done}. Give {done} or more, or begin "
                "another run."
            )


def require_batches(options: dict[str, Any], data: ImageDataModule) -> None:
    """Refuse fractions of the data that are less than a batch, before training finds out."""
    batches = {"train": len(data.train_dataloader()), **{split: data.batches(split) for split in ("val", "test")}}
    for split, number in batches.items():
        limit = options[f"limit_{split}_batches"]
        if isinstance(limit, float) and 0 < limit * number < 1:
            raise ConfigError(f"trainer.limit_{split}_batches={limit} of {number} batches is less than one.")


def require_validation(options: dict[str, Any], chosen: list[Callback]) -> None:
    """Refuse early stopping that would never judge."""
    if not options["limit_val_batches"] and any(isinstance(callback, EarlyStopping) for callback in chosen):
        raise ConfigError(
            f"Early stopping judges validations, of which trainer.limit_val_batches={options['limit_val_batches']} "
            "leaves none. Leave one of the two out."
        )


def share_limits(trainer: pl.Trainer, data: ImageDataModule) -> None:
    """Translate limits for Lightning, which counts calls of one device, where the user counts updates and batches."""
    if isinstance(limit := trainer.limit_train_batches, int):
        data.updates_per_call = math.gcd(data.updates_per_call, limit)
        trainer.limit_train_batches = limit // data.updates_per_call
    for split in ("val", "test"):
        limit = getattr(trainer, f"limit_{split}_batches")
        data.limits[split] = judge.batches(limit, data, split)
        setattr(trainer, f"limit_{split}_batches", 1.0 if limit else 0)
