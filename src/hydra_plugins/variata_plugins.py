"""What Hydra finds of us: it imports whatever is in this package at every start, so nothing heavy is here."""

import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

if TYPE_CHECKING:
    from variata.run.job import Job
    from variata.sweeps.jobs import Ended
    from variata.sweeps.launchers.local import Local
    from variata.sweeps.launchers.slurm import Slurm


class Sweep(Sweeper):
    """`-m`: grids, and searches with Optuna."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.context, self.task, self.settings = hydra_context, task_function, config

    def sweep(self, arguments: list[str]) -> Any:
        from variata.sweeps.sweeper import sweep

        return sweep(self.context, self.task, self.settings, arguments)


class ProcessLauncher(Launcher):
    """Runs jobs in processes of their own, which are handed a resolved configuration and never compose one."""

    runner: "Local | Slurm"  # made in setup
    together = 0  # jobs it takes at once where all are known beforehand; 0: as there is room

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.context, self.settings = hydra_context, config

    def run(self, jobs: "Iterable[Job]", ended: "Ended") -> None:
        """Run jobs as they come, some at a time, and tell of each when it has ended."""
        self.runner.run(jobs, ended)

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """As Hydra's own sweepers call it."""
        from variata.sweeps.jobs import compose

        numbered = enumerate(job_overrides, initial_job_idx)
        jobs = [compose(self.context, self.settings, list(words), number) for number, words in numbered]
        self.run(jobs, lambda job: None)
        return [JobReturn(overrides=job.overrides, working_dir=str(job.folder)) for job in jobs]


class Joblib(ProcessLauncher):
    """Processes on this machine, each with its share of the cores or GPUs.

    Args:
        jobs: At a time; None is one.
    """

    def __init__(self, jobs: int | None = None) -> None:
        self.jobs = 1 if jobs is None else jobs

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        from variata.sweeps.launchers.local import Local

        super().setup(hydra_context=hydra_context, task_function=task_function, config=config)
        self.runner = Local(self.jobs, gpus=config.trainer.accelerator != "cpu")


class SubmititSlurm(ProcessLauncher):
    """Jobs of a SLURM cluster, through submitit: a grid in parts, or whole where no number at a time is set.

    Args:
        jobs: At a time; None sets no limit.
        max_num_timeout: How often a job may go on in another turn after its time was over.
        options: Of sbatch, in submitit's names.
    """

    def __init__(self, jobs: int | None = None, max_num_timeout: int = 20, **options: Any) -> None:
        self.jobs, self.max_num_timeout, self.options = jobs, max_num_timeout, options
        # a part waits for the last job of the one before
        self.together = min(20 * max(5, jobs or sys.maxsize), sys.maxsize)

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        from variata import extras

        extras.require("submitit", "hydra/launcher=submitit_slurm")
        from variata.sweeps.launchers.slurm import Slurm

        super().setup(hydra_context=hydra_context, task_function=task_function, config=config)
        self.runner = Slurm(self.jobs, self.max_num_timeout, self.options)
