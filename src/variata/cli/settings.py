"""From a composed configuration to a resolved one in which every name and type is known good."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_type_hints

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from variata import loading, runs
from variata.cli.job import resolved
from variata.errors import ConfigError, RunError
from variata.runs import Config
from variata.targets import check, check_values


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


@dataclass
class Evaluate:
    """How the test set is judged.

    Args:
        samples: K of the importance-weighted NLL.
        rows: Images times samples decoded at once.
        quality: Whether to judge pictures too, as `variata quality` does.
    """

    samples: int
    rows: int
    quality: bool


BUILT = ("data", "model", "objective", "beta", "optimizer", "scheduler", "trainer")
OPTIONAL = ("logger", "callbacks")  # may be empty
OURS: dict[str, dict[str, Any]] = {  # options besides the constructors' own
    "trainer": {"on_nan": str},
    "data": loading.DATA_OPTIONS,
}
PLACES = ("data.root", "data.cache", "data.download")  # of the same data, on another machine
POSITIVE = (
    *("log_every", "updates_per_call", "evaluate.samples", "evaluate.rows"),
    *("trainer.check_val_every_n_epoch", "trainer.num_nodes", "data.batch_size_per_device"),
)


def settled(composed: DictConfig) -> Config:
    """The resolved configuration, every name and type in it checked."""
    if composed.resume:
        overrides = [o for o in HydraConfig.get().overrides.task if not o.startswith("resume=")]
        config = resumed(Path(composed.resume), overrides)
    else:
        config = resolved(composed)
    return checked(config)


def checked(config: Config) -> Config:
    """The configuration, if every name and type in it is known good; empty groups are there too."""
    config = {"logger": {}, "callbacks": {}, **config}
    hints = get_type_hints(Settings)
    for name in (*BUILT, "evaluate", *hints):
        if name not in config or (name in BUILT and isinstance(part := config[name], dict) and "_target_" not in part):
            raise ConfigError(f"The configuration has no {name}: give it a value, or leave out ~{name}.")
    for name in ("evaluate", "callbacks"):
        if not isinstance(config[name], dict):
            raise ConfigError(f"{name}={config[name]} is no group of options. Change single ones: {name}.<option>=...")
    settings = {name: value for name, value in config.items() if name in hints or not isinstance(value, dict)}
    check_values(
        {name: value for name, value in settings.items() if name not in (*BUILT, *OPTIONAL)}, hints, "", "a run"
    )
    check_values(config["evaluate"], get_type_hints(Evaluate), "evaluate", "evaluate")
    for key, part in parts(config):
        check(part, key, extra=OURS.get(key))
    for name in POSITIVE:
        if (value := OmegaConf.select(OmegaConf.create(config), name)) is not None and value < 1:
            raise ConfigError(f"{name}={value} is less than 1.")
    if all(config["trainer"][limit] in (None, -1) for limit in ("max_epochs", "max_steps")):
        raise ConfigError("Training needs an end: set trainer.max_epochs or trainer.max_steps.")
    one_of("trainer.on_nan", config["trainer"]["on_nan"], ("stop", "skip"))
    one_of("trainer.precision", config["trainer"]["precision"], ("32-true", "32", 32, "bf16-mixed"))
    if not 0 <= config["seed"] < 2**32:
        raise ConfigError(f"seed={config['seed']} is not between 0 and 2^32 - 1.")
    one_of("compile", config["compile"], (True, False, "auto"))
    return config


def parts(config: Config) -> Iterator[tuple[str, Any]]:
    """All that stands in a configuration by its place, each callback by its own; without optional parts left empty."""
    callbacks = {f"callbacks.{name}": node for name, node in config["callbacks"].items()}
    for key, part in {**config, **callbacks}.items():
        if key != "callbacks" and (part or key in BUILT):
            yield key, part


def resumed(run: Path, overrides: list[str]) -> Config:
    """The configuration of an earlier run, single values of it changed by overrides like `trainer.max_epochs=200`.

    Raises:
        UserError: There is no checkpoint to go on from, or nothing of that name to change.
    """
    saved = runs.read_config(run)
    runs.require_last(run)
    saved["data"] = loading.at_home(saved["data"])
    config = OmegaConf.create(saved)
    OmegaConf.set_struct(config, True)
    for override in overrides:
        name = override.partition("=")[0]
        fixed = name.split(".")[0] in ("data", "model", "posterior", "prior", "likelihood") and name not in PLACES
        fixed = fixed and not runs.secret(name)  # which config.yaml does not keep
        if fixed or isinstance(OmegaConf.select(config, name), DictConfig):
            raise RunError(
                f"{override} cannot change a resumed run: its model and data stay; other single values may change, "
                "like trainer.max_epochs=200."
            )
        try:
            config.merge_with_dotlist([override])
        except OmegaConfBaseException as error:
            raise ConfigError(f"{name} is not in the configuration of {run}.") from error
    config.resume = str(run)
    return runs.plain(config)


def one_of(key: str, value: Any, allowed: tuple) -> None:
    """Refuse a value that is none of the allowed ones."""
    if value not in allowed:
        raise ConfigError(f"{key}={value} is unknown. Use one of {', '.join(str(a).lower() for a in allowed)}.")
