"""Single jobs of a sweep: composed here, done by a process of their own, judged by what they leave behind."""

import math
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig, open_dict, read_write

from variata import runs
from variata.cli.job import Job, composed_job, resolved
from variata.errors import ConfigError

Ended = Callable[[Job], None]
STATUSES = ("finished", "pruned", "failed", "interrupted")
BUSY = 75  # exit code of a process that found another at its job


@dataclass(frozen=True)
class Outcome:
    """How a job ended.

    Args:
        status: "finished", "pruned", "failed", "interrupted", or "not begun".
        results: What results.json holds.
    """

    status: str
    results: dict[str, Any] = field(default_factory=dict)

    def values(self, names: Sequence[str]) -> list[float]:
        """Some figures; none of them if one is missing or not finite."""
        values = [self.results.get(name) for name in names]
        known = [float(value) for value in values if isinstance(value, int | float) and math.isfinite(value)]
        return known if len(known) == len(values) else []

    @property
    def well(self) -> bool:
        """Whether there is nothing left to do."""
        return self.status in ("finished", "pruned")


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


def outcome(folder: Path) -> Outcome:
    """How the job of a run directory ended, by its results.json."""
    results = runs.earlier_results(folder / "results.json")
    return Outcome(results["status"], results) if results.get("status") in STATUSES else Outcome("not begun")


def mark_refused(folder: Path, why: str) -> None:
    """Say in results.json that a job failed because its configuration cannot be composed."""
    folder.mkdir(parents=True, exist_ok=True)
    runs.write_results(folder, {"status": "failed", "error": why})


def command(job: Job) -> list[str]:
    """What does a job: a process that reads it from a file beside the sweep's run directories.

    Whoever starts it adds its own process id, for the job is to end with it.
    """
    file = beside(job, "json")
    file.parent.mkdir(parents=True, exist_ok=True)
    job.folder.mkdir(parents=True, exist_ok=True)
    runs.write(file, job.dumps(), secret=True)
    return [sys.executable, "-P", "-m", "variata.cli.worker", str(file)]


def beside(job: Job, kind: str) -> Path:
    """A file of a job's, beside the sweep's run directories: itself ("json"), or its number on a cluster ("slurm")."""
    return job.folder.parent / ".jobs" / f"{job.folder.name}.{kind}"


def ensure_marked(job: Job, code: int) -> None:
    """Say in results.json that the job failed, where its process no longer could."""
    if outcome(job.folder).status == "not begun" and code != BUSY:
        how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
        runs.mark_failed(
            job.folder, job.config, job.overrides, f"The process of the job {how}. Look into {job.folder}/train.log."
        )


def cores() -> list[int]:
    """The cores this process may use."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))
