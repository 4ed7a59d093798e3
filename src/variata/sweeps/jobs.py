"""Single jobs of a sweep: composed here, done by a process of their own, judged by what they leave behind."""

import sys
from collections.abc import Callable
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig, open_dict, read_write

from variata import atomic
from variata.errors import ConfigError
from variata.run import directory
from variata.run.directory import BUSY, outcome
from variata.run.job import Job, composed_job, resolved
from variata.statuses import Status

Ended = Callable[[Job], None]


def compose(context: HydraContext, config: DictConfig, overrides: list[str], number: int) -> Job:
    """The job of some overrides, below the directory of the sweep."""
    composed = context.config_loader.load_sweep_config(config, overrides)
    with read_write(composed.hydra), open_dict(composed.hydra):
        composed.hydra.mode = RunMode.MULTIRUN
        composed.hydra.job.id = composed.hydra.job.num = number
    HydraConfig.instance().set_config(composed)  # its resolver answers for this job now
    folder = Path(composed.hydra.sweep.dir, str(composed.hydra.sweep.subdir)).absolute()
    if folder.name != str(number):
        raise ConfigError(
            f"hydra.sweep.subdir={composed.hydra.sweep.subdir}: a job's directory is its number. Leave it out."
        )
    if folder.parent != Path(config.hydra.sweep.dir).absolute():
        raise ConfigError(
            f"A sweep has one directory, {config.hydra.sweep.dir}; job {number} would be in {folder.parent}. "
            "Give outputs and hydra.sweep.dir one value."
        )
    with read_write(composed.hydra), open_dict(composed.hydra):
        composed.hydra.runtime.output_dir = str(folder)
    HydraConfig.instance().set_config(composed)
    return composed_job(resolved(composed))


def command(job: Job) -> list[str]:
    """What does a job: a process that reads it from a file beside the sweep's run directories.

    Whoever starts it adds its own process id, for the job is to end with it.
    """
    file = beside(job, "json")
    file.parent.mkdir(parents=True, exist_ok=True)
    job.folder.mkdir(parents=True, exist_ok=True)
    atomic.write(file, job.dumps(), secret=True)
    return [sys.executable, "-P", "-m", "variata.run", str(file)]


def beside(job: Job, kind: str) -> Path:
    """A file of a job's, beside the sweep's run directories: itself ("json"), or its number on a cluster ("slurm")."""
    return job.folder.parent / ".jobs" / f"{job.folder.name}.{kind}"


def ensure_marked(job: Job, code: int) -> None:
    """Say in results.json that the job failed, where its process no longer could."""
    if outcome(job.folder).status == Status.NOT_BEGUN and code != BUSY:
        how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
        directory.mark_failed(
            job.folder, job.config, job.overrides, f"The process of the job {how}. Look into {job.folder}/train.log."
        )
