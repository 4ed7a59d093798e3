"""From a composed configuration to a resolved one in which every name and type is known good."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, get_type_hints

from variata.config.plain import Config
from variata.config.targets import check, check_values
from variata.errors import ConfigError


@dataclass
class Settings:
    """Options of the run as a whole.

    Args:
        seed: Fixes weights, data order and noise.
        log_every: Updates between two records of training.
        updates_per_call: Updates taken per call of Lightning's hook, on one device.
        checkpoint_every: Seconds between two writes of last.ckpt.
        compile: Whether to compile the training step; "auto" does for long training.
        resume: Run directory to go on with.
        outputs: Folder of run directories.
        debug: Whether errors show a traceback.
    """

    seed: int
    log_every: int
    updates_per_call: int
    checkpoint_every: float
    compile: bool | str
    resume: str | None
    outputs: str
    debug: bool


BUILT = ("data", "model", "objective", "beta", "optimizer", "scheduler", "trainer")
OPTIONAL = ("logger", "callbacks", "evaluate")  # may be empty
DATA_OPTIONS = {"batch_size_per_device": int | None}  # of every data set, besides its own
GROUPS = ("callbacks", "evaluate")  # of several, each by a name
OURS: dict[str, dict[str, Any]] = {  # options besides the constructors' own
    "trainer": {"on_nan": str, "crowded": bool},
    "data": DATA_OPTIONS,
}
READ = {  # options that are read here, and so have to be there
    "trainer": (
        *("accelerator", "devices", "num_nodes", "precision", "max_epochs", "max_steps", "on_nan", "gradient_clip_val"),
        *("limit_train_batches", "limit_val_batches", "limit_test_batches"),
    ),
}
MOST = 2**31 - 1  # of what libraries count in 32 bits
RANGES: dict[str, tuple[float, float]] = {  # of numbers, where a constructor does not know them: least and most
    "seed": (0, 2**32 - 1),
    **dict.fromkeys(("log_every", "updates_per_call", "data.batch_size_per_device"), (1, MOST)),
    "checkpoint_every": (0, MOST),
    **dict.fromkeys(("trainer.check_val_every_n_epoch", "trainer.num_nodes"), (1, MOST)),
    "trainer.max_epochs": (-1, MOST),
    "trainer.max_steps": (-1, 2**53),
    "trainer.gradient_clip_val": (1e-6, 1e30),
    **dict.fromkeys(("beta.value", "beta.start"), (0, 1e30)),  # weights of a float32 loss
    **dict.fromkeys(("scheduler.value", "scheduler.start", "scheduler.final"), (0, 1e30)),
}
DEVICES = 4096  # more than any machine has


def checked(config: Config) -> Config:
    """The configuration, if every name and type in it is known good; empty groups are there too."""
    config = {**{name: {} for name in OPTIONAL}, **config}
    hints = get_type_hints(Settings)
    for name in (*BUILT, *hints):
        if name not in config or (name in BUILT and isinstance(part := config[name], dict) and "_target_" not in part):
            raise ConfigError(f"The configuration has no {name}: give it a value, or leave out ~{name}.")
    for name in OPTIONAL:
        if not isinstance(config[name], dict):
            raise ConfigError(f"{name}={config[name]} is no group of options. Change single ones: {name}.<option>=...")
    settings = {name: value for name, value in config.items() if name not in (*BUILT, *OPTIONAL)}
    # groups of somebody's own values, which others refer to, are checked below
    ours = {name: value for name, value in settings.items() if name in hints or not isinstance(value, dict)}
    check_values(ours, hints, "", "a run")
    for key, part in parts(config):
        check(part, key, extra=OURS.get(key))
    for part, names in READ.items():
        for name in names:
            if name not in config[part]:
                raise ConfigError(
                    f"The configuration has no {part}.{name}: give it a value, or leave out ~{part}.{name}."
                )
    if config["logger"] and "_target_" not in config["logger"]:
        raise ConfigError("logger has options and no _target_ to take them: use logger=wandb or logger=none.")
    for name, bounds in RANGES.items():
        in_range(name, value_at(config, name), *bounds)
    if all(config["trainer"][limit] in (None, -1) for limit in ("max_epochs", "max_steps")):
        raise ConfigError("Training needs an end: set trainer.max_epochs or trainer.max_steps.")
    one_of("trainer.on_nan", config["trainer"]["on_nan"], ("stop", "skip"))
    one_of("trainer.precision", config["trainer"]["precision"], ("32-true", "32", 32, "bf16-mixed"))
    if isinstance(devices := config["trainer"]["devices"], int):
        in_range("trainer.devices", devices, -1, DEVICES)
    one_of("compile", config["compile"], (True, False, "auto"))
    return config


def parts(config: Config) -> Iterator[tuple[str, Any]]:
    """All that stands in a configuration by its place, each of several by its own, but optional parts left empty."""
    own = {f"{group}.{name}": node for group in GROUPS for name, node in config[group].items()}
    for key, part in {**config, **own}.items():
        if key not in GROUPS and (part or key in BUILT):
            yield key, part


def value_at(config: Config, key: str) -> Any:
    """The value of a dotted key; None where there is none."""
    node: Any = config
    for name in key.split("."):
        node = node.get(name) if isinstance(node, dict) else None
    return node


def in_range(key: str, value: Any, least: float, most: float) -> None:
    """Refuse a number out of its range; null is for those that may be left out."""
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ConfigError(f"{key}={value!r} is no number.")
    if not least <= value <= most:
        limit = f"less than {least:,}" if value < least else f"more than {most:,}"
        raise ConfigError(f"{key}={value} is {limit}.")


def one_of(key: str, value: Any, allowed: tuple) -> None:
    """Refuse a value that is none of the allowed ones."""
    if value not in allowed:
        raise ConfigError(f"{key}={value} is unknown. Use one of {', '.join(str(a).lower() for a in allowed)}.")
