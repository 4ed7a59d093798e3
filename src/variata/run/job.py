"""What a run starts from. Light: a sweep composes a hundred of them without importing torch."""

import json
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException

from variata.config.plain import Config, plain
from variata.config.renamed import said
from variata.errors import ConfigError, RunError
from variata.run import directory, secrets

PLACES = ("data.root", "data.cache", "data.download")  # of the same data, on another machine
SWEEP = ("hydra", "jobs", "sweep")  # what a configuration says of many runs, and a run need not know


@dataclass(frozen=True)
class Job:
    """A run as plain data, so that the processes of all devices start from the same, without composing it again.

    Args:
        config: Resolved; checked by the process that does the job.
        folder: The run directory.
        overrides: What the command line asked for.
        title: Data and model, by the names of their options.
        group: Of the jobs of a multirun, in W&B.
        logging: Configuration of Python's logging.
        trial: Where the job may learn that it falls behind, see `sweeps.pruning`.
    """

    config: Config
    folder: Path
    overrides: list[str]
    title: str
    group: str | None
    logging: dict[str, Any]
    trial: dict[str, Any] | None = None

    @property
    def last(self) -> Path | None:
        """The run directory, if there is a checkpoint in it to go on from."""
        return self.folder if (self.folder / "checkpoints" / "last.ckpt").is_file() else None

    def continued(self) -> "Job":
        """The same job, going on from its last checkpoint where it has one."""
        return replace(self, config={**self.config, "resume": str(self.folder)}) if self.last else self

    def dumps(self) -> str:
        """The job as JSON."""
        return json.dumps({**asdict(self), "folder": str(self.folder)})

    @classmethod
    def loads(cls, text: str) -> "Job":
        """The job that `dumps` wrote."""
        values = json.loads(text)
        return cls(**{**values, "folder": Path(values["folder"])})


def composed_job(config: Config, folder: Path | None = None) -> Job:
    """The job Hydra is at, with its resolved configuration; in the directory Hydra says, or in another."""
    hydra = HydraConfig.get()
    multirun = hydra.mode == RunMode.MULTIRUN
    return Job(
        config=config,
        folder=folder or Path(hydra.runtime.output_dir),
        overrides=cast(list[str], OmegaConf.to_container(hydra.overrides.task, resolve=False)),  # ${seed} stays
        title="-".join(str(hydra.runtime.choices[group]) for group in ("data", "model")),
        group=Path(hydra.sweep.dir).name if multirun else None,
        logging=plain(cast(DictConfig, hydra.job_logging)),
    )


def resolved(composed: DictConfig) -> Config:
    """The configuration of one run, without what is said of many."""
    composed = deepcopy(composed)
    with read_write(composed), open_dict(composed):
        for name in SWEEP:
            composed.pop(name, None)
    return plain(composed)


def configuration(composed: DictConfig) -> Config:
    """The resolved configuration of what was composed, or of the run to go on with, all of it checked."""
    if composed.resume is not None:
        overrides = [o for o in HydraConfig.get().overrides.task if not o.startswith("resume=")]
        config = resumed(Path(composed.resume), overrides)
    else:
        config = resolved(composed)
    from variata.config.schema import checked  # imports torch

    return checked(config)


def resumed(run: Path, overrides: list[str]) -> Config:
    """The configuration of an earlier run, single values of it changed by overrides like `trainer.max_epochs=200`.

    Raises:
        UserError: There is no checkpoint to go on from, or nothing of that name to change.
    """
    saved = directory.read_config(run)
    directory.require_last(run)
    saved["data"] = directory.at_home(saved["data"])
    config = OmegaConf.create(saved)
    OmegaConf.set_struct(config, True)
    for override in overrides:
        name = override.partition("=")[0]
        if known := said(name):
            raise ConfigError(known)
        fixed = name.split(".")[0] in ("data", "model", "posterior", "prior", "likelihood") and name not in PLACES
        fixed = fixed and not secrets.secret(name)  # which config.yaml does not keep
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
    return plain(config)
