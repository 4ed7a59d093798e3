"""Jobs on a SLURM cluster, through submitit: a list of them is one job array, an iterator is asked one by one."""

import os
import subprocess
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import submitit
from submitit.core.utils import FailedJobError, JobPaths
from submitit.helpers import clean_env

from variata import runs
from variata.cli.job import Job
from variata.cli.launch import say
from variata.errors import ConfigError, RunError
from variata.sweeps.jobs import Ended, command, outcome
from variata.sweeps.slurm_task import STOP, Task

PATIENCE = 60.0  # seconds jobs may take to save and end
OVER = {"BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED"}
OVER |= {"REVOKED", "TIMEOUT", "FORGOTTEN"}
LATE = 5.0  # seconds until a file written elsewhere is seen here
TAIL = 5  # lines of a log


@dataclass(frozen=True)
class Needs:
    """What a job asks of the cluster; jobs that ask for the same can be one array.

    Args:
        nodes: Machines.
        devices: Tasks on each.
        gpus: Of each machine; None asks for none.
    """

    nodes: int
    devices: int
    gpus: int | None

    @classmethod
    def of(cls, job: Job) -> "Needs":
        """By trainer.devices and trainer.num_nodes."""
        trainer = job.config["trainer"]
        devices = len(trainer["devices"]) if isinstance(trainer["devices"], list) else trainer["devices"]
        if not isinstance(devices, int) or devices < 1:
            raise ConfigError(f"SLURM has to know how many devices to give; trainer.devices={devices} leaves it open.")
        return cls(trainer["num_nodes"], devices, devices if trainer["accelerator"] in ("gpu", "cuda") else None)


class Slurm:
    """Hands jobs to SLURM and waits for them.

    Args:
        jobs: At a time.
        max_num_timeout: How often a job may go on in another turn after its time was over.
        options: Of sbatch, in submitit's names; None leaves one to the cluster.
    """

    def __init__(self, jobs: int, max_num_timeout: int, options: dict[str, Any]) -> None:
        if jobs < 1:
            raise ConfigError(f"jobs={jobs} is less than 1.")
        self.jobs, self.max_num_timeout = jobs, max_num_timeout
        self.options = {name: value for name, value in options.items() if value is not None}
        self.running: dict[str, Job] = {}  # by the id SLURM gave it
        self.logs = Path()  # of SLURM and submitit
        self._executor(Needs(1, 1, None))  # what it refuses is told before there is a job

    def run(self, jobs: Iterable[Job], ended: Ended) -> None:
        """Run jobs: those of a list that need the same are one array, of which `jobs` at a time.

        Args:
            jobs: A list, or an iterator that decides late and is asked for the next job when there is room.
            ended: Called after each.
        """
        batches = iter(alike(jobs)) if isinstance(jobs, list) else ([job] for job in jobs)
        room = 1 if isinstance(jobs, list) else self.jobs
        try:
            while True:
                while self._batches() < room and (batch := next(batches, None)):
                    self._submit(batch)
                if not self.running:
                    return
                self._wait_for_any(ended)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Cancel what SLURM has of ours, and let it save; a second signal does not wait."""
        if not self.running:
            return
        say(f"Cancelling {', '.join(self.running)} on SLURM, which save first. A second time: without waiting for it.")
        for job in self.running.values():
            (job.folder / STOP).touch()
        try:
            cancel("--state=PENDING", *self.running)
            cancel("--state=RUNNING", "--signal=USR2", *self.running)
            deadline = time.monotonic() + PATIENCE
            while any(state.split()[0] not in OVER for state in self._states().values()):
                if time.monotonic() > deadline:
                    break
                time.sleep(1.0)
        finally:
            cancel(*self.running)
            for job in self.running.values():
                (job.folder / STOP).unlink(missing_ok=True)

    def _batches(self) -> int:
        return len({number.split("_")[0] for number in self.running})

    def _submit(self, jobs: list[Job]) -> None:
        self.logs = jobs[0].folder.parent / ".submitit"
        for job in jobs:  # where a sweep was killed while it cancelled
            (job.folder / STOP).unlink(missing_ok=True)
        try:
            with outside(), redirect_stderr(StringIO()):  # which submitit repeats
                executor = self._executor(Needs.of(jobs[0]))
                with executor.batch():
                    submitted = [executor.submit(Task(command(job), job.folder)) for job in jobs]
        except FailedJobError as error:  # sbatch's own words
            raise RunError(f"SLURM does not take the job: {' '.join(str(error).split())}") from None
        self.running |= {one.job_id: job for one, job in zip(submitted, jobs, strict=True)}
        names = ", ".join(job.folder.name for job in jobs)
        say(f"Job {names} is SLURM's {submitted[0].job_id.split('_')[0]}; what it says is in {self.logs}.")

    def _executor(self, needs: Needs) -> submitit.AutoExecutor:
        """Of jobs that need the same.

        Raises:
            RunError: There is no SLURM.
            ConfigError: An option has no such name.
        """
        cores = self.options.get("cpus_per_task")
        options = {
            "name": "variata",
            "gpus_per_node": needs.gpus,
            **self.options,
            "additional_parameters": {"requeue": True, **self.options.get("additional_parameters", {})},
            "nodes": needs.nodes,
            "tasks_per_node": needs.devices,
            "array_parallelism": self.jobs,
            # the step does not inherit the latter from the job since SLURM 22.05
            "srun_args": ["--kill-on-bad-exit=1", *([f"--cpus-per-task={cores}"] if cores else [])],
        }
        try:
            executor = submitit.AutoExecutor(self.logs, "slurm", slurm_max_num_timeout=self.max_num_timeout)
            executor.update_parameters(**{f"slurm_{name}": value for name, value in options.items()})
        except RuntimeError:
            raise RunError(
                "hydra/launcher=submitit_slurm hands jobs to SLURM, whose srun is not on this machine. "
                "Leave it out to run them here, several at a time with jobs=2."
            ) from None
        except (NameError, ValueError) as error:
            raise ConfigError(f"hydra.launcher: {str(error).splitlines()[0]}") from None
        return executor

    def _wait_for_any(self, ended: Ended) -> None:
        """Wait until some have ended, and tell of each."""
        began = time.monotonic()
        while not (over := {number: state for number, state in self._states().items() if state.split()[0] in OVER}):
            time.sleep(min(10.0, 1.0 + (time.monotonic() - began) / 30))  # SLURM's controller serves everybody
        for number, state in over.items():
            job = self.running.pop(number)
            self._ensure_marked(job, number, state)
            ended(job)

    def _states(self) -> dict[str, str]:
        """What SLURM makes of each job, and why; nothing while it does not answer."""
        arrays = ",".join(sorted({number.split("_")[0] for number in self.running}))
        question = ["squeue", "--noheader", "--array", "--states=all", f"--jobs={arrays}", "--format=%i %T %r"]
        answer = subprocess.run(question, capture_output=True, text=True, check=False)
        if answer.returncode and "Invalid job id" not in answer.stderr:
            return {}
        known = dict(line.split(maxsplit=1) for line in answer.stdout.splitlines())
        # an array cancelled before it began is listed as a whole, and what ended long ago not at all
        return {one: known.get(one) or known.get(one.split("_")[0]) or "FORGOTTEN" for one in self.running}

    def _ensure_marked(self, job: Job, number: str, state: str) -> None:
        """Say in results.json that the job failed and what SLURM says of it, where its process could not."""
        deadline = time.monotonic() + LATE
        while (how := outcome(job.folder)).status == "not begun" and time.monotonic() < deadline:
            time.sleep(1.0)
            list(job.folder.iterdir())  # a shared file system may show what it knew before
        if not how.well and how.status != "failed":
            log = JobPaths(self.logs, number).stderr
            lines = log.read_text().splitlines() if log.is_file() else []
            said = " ".join([line for line in lines if "error" in line.lower()][-TAIL:])
            why = state.removesuffix(" None")
            runs.mark_failed(
                job.folder, job.config, job.overrides, f"SLURM ended {number}: {why}. {said} All it said is in {log}."
            )


def cancel(*words: str) -> None:
    """Tell SLURM to end jobs, or send them a signal; some may have ended meanwhile."""
    subprocess.run(["scancel", "--quiet", *words], check=False)


@contextmanager
def outside() -> Iterator[None]:
    """What this process knows of a job of SLURM's that it may itself be in would mislead another."""
    if "SLURM_JOB_ID" not in os.environ:
        yield
        return
    where = {name: value for name, value in os.environ.items() if name == "SLURM_CONF"}
    with clean_env():
        os.environ.update(where)
        yield


def alike(jobs: list[Job]) -> list[list[Job]]:
    """Jobs by what they need."""
    groups: dict[Needs, list[Job]] = {}
    for job in jobs:
        groups.setdefault(Needs.of(job), []).append(job)
    return list(groups.values())
