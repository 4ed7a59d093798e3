"""Jobs on a SLURM cluster, through submitit: a list of them is one job array, an iterator is asked one by one."""

import os
import shlex
import sys
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

from variata import atomic
from variata.errors import Busy, ConfigError, RunError
from variata.messages import say
from variata.run import directory
from variata.run.directory import Outcome, outcome
from variata.run.job import Job
from variata.run.lock import alone
from variata.statuses import Status
from variata.sweeps.jobs import Ended, beside, command
from variata.sweeps.launchers import controller, slurm_listen
from variata.sweeps.launchers.slurm_task import STOP, Task

DELAY = 90.0  # seconds jobs may take to save and end, where signal_delay_s does not say
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
        jobs: At a time; None sets no limit.
        max_num_timeout: How often a job may go on in another turn after its time was over.
        options: Of sbatch, in submitit's names; None leaves one to the cluster.
    """

    def __init__(self, jobs: int | None, max_num_timeout: int, options: dict[str, Any]) -> None:
        if jobs is not None and jobs < 1:
            raise ConfigError(f"jobs={jobs} is less than 1.")
        self.jobs, self.max_num_timeout = sys.maxsize if jobs is None else jobs, max_num_timeout
        self.options = {name: value for name, value in options.items() if value is not None}
        self.delay = float(self.options.get("signal_delay_s", DELAY))
        self.arrays: list[list[Job]] = []  # to be handed over
        self.running: dict[str, Job] = {}  # by the id SLURM gave it
        self.found: set[str] = set()  # ids of those that a sweep before this one handed over
        self.logs = Path()  # of SLURM and submitit
        self._executor(Needs(1, 1, None))  # what it refuses is told before there is a job

    def run(self, jobs: Iterable[Job], ended: Ended) -> None:
        """Run jobs: those of a list that need the same are one array, of which `jobs` at a time.

        A job that SLURM still has, of a sweep that was killed, is waited for; it is handed over again where it ends
        without results.

        Args:
            jobs: A list, or an iterator that decides late and is asked for the next job when there is room.
            ended: Called after each.
        """
        self.arrays = arrays(jobs) if isinstance(jobs, list) else []
        others = iter(()) if isinstance(jobs, list) else iter(jobs)
        try:
            while True:
                while self.arrays and self._room(len(self.arrays[0])):
                    self._submit(self.arrays.pop(0))
                while self._room(1) and (job := next(others, None)):
                    self._submit([job])
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
            controller.cancel("--state=PENDING", *self.running)
            controller.cancel("--state=RUNNING", "--signal=USR2", *self.running)
            self._let_save()
        finally:
            if not controller.cancel(*self.running):
                say("SLURM does not answer: jobs may go on. Resumed, the sweep waits for them.")
            for job in self.running.values():
                (job.folder / STOP).unlink(missing_ok=True)

    def _let_save(self) -> None:
        """Wait until all have ended, or their time to save is over; that SLURM does not answer is no end."""
        deadline = time.monotonic() + self.delay
        while time.monotonic() < deadline:
            states = controller.states(self.running)
            if states is not None and all(state.split()[0] in controller.OVER for state in states.values()):
                return
            time.sleep(1.0)

    def _room(self, jobs: int) -> bool:
        """Whether there is room for some more; an array of more than `jobs` has it to itself."""
        return not self.running or len(self.running) + jobs <= self.jobs

    def _submit(self, jobs: list[Job]) -> None:
        self.logs = jobs[0].folder.parent / ".submitit"
        for job in jobs:  # where a sweep was killed while it cancelled
            (job.folder / STOP).unlink(missing_ok=True)
        if not (jobs := self._not_found(jobs)):
            return
        numbers = self._handed_over(jobs)
        self.running |= dict(zip(numbers, jobs, strict=True))
        for number, job in zip(numbers, jobs, strict=True):
            atomic.write(beside(job, "slurm"), number)
        names = ", ".join(job.folder.name for job in jobs)
        say(f"Job {names} is SLURM's {numbers[0].split('_')[0]}; what it says is in {self.logs}.")

    def _handed_over(self, jobs: list[Job]) -> list[str]:
        """Hand jobs over as one array, for the ids SLURM gives them. A controller that is busy is asked again."""
        pauses = iter(controller.PAUSES)
        while True:
            try:
                with outside(), redirect_stderr(StringIO()):  # which submitit repeats
                    executor = self._executor(Needs.of(jobs[0]))
                    with executor.batch():
                        given = [executor.submit(Task(command(job), job.folder, self.delay)) for job in jobs]
                return [one.job_id for one in given]
            except FailedJobError as error:  # sbatch's own words
                pause = next(pauses, None)
                if pause is None or not controller.busy(str(error)):
                    raise RunError(f"SLURM does not take the job: {' '.join(str(error).split())}") from None
            time.sleep(pause)

    def _not_found(self, jobs: list[Job]) -> list[Job]:
        """Those that SLURM does not have already; the others are waited for."""
        given = {file.read_text(): job for job in jobs if (file := beside(job, "slurm")).is_file()}
        asked = given.keys() - self.running.keys()
        alive = controller.alive(asked, self.logs) if asked else set()
        found = {number: job for number, job in given.items() if number in alive}
        if found:
            names = ", ".join(f"{job.folder.name} ({number})" for number, job in found.items())
            say(f"SLURM still has jobs of this sweep, which are waited for, not begun again: {names}.")
        self.running |= found
        self.found |= alive
        return [job for job in jobs if job not in found.values()]

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
        listening = shlex.join([sys.executable, "-u", "-P", str(Path(slurm_listen.__file__))])
        try:
            executor = submitit.AutoExecutor(
                self.logs, "slurm", slurm_max_num_timeout=self.max_num_timeout, slurm_python=listening
            )
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
        pause = 1.0  # grows, for SLURM's controller serves everybody, and faster where it does not answer
        while not (over := self._over()):
            time.sleep(pause)
            pause = min(10.0, 1.03 * pause) if over is not None else min(60.0, 2 * pause)
        for number, state in over.items():
            job = self.running.pop(number)
            if number in self.found and not outcome_seen(job).status.final:
                self.arrays.append([job])
                continue
            self._ensure_marked(job, number, state)
            ended(job)

    def _over(self) -> dict[str, str] | None:
        """Those that have ended, and how; None where SLURM does not say."""
        states = controller.states(self.running)
        if states is None:
            return None
        return {number: state for number, state in states.items() if state.split()[0] in controller.OVER}

    def _ensure_marked(self, job: Job, number: str, state: str) -> None:
        """Say in results.json that the job failed and what SLURM says of it, where its process could not."""
        if outcome_seen(job).status.final:
            return
        log = JobPaths(self.logs, number).stderr
        lines = log.read_text().splitlines() if log.is_file() else []
        said = " ".join([line for line in lines if "error" in line.lower()][-TAIL:])
        why = f"SLURM ended {number}: {state.removesuffix(' None')}. {said} All it said is in {log}."
        try:
            with alone(job.folder, LATE):
                directory.mark_failed(job.folder, job.config, job.overrides, why)
        except Busy:
            say(f"Another process is still at the job {job.folder}, for which {number} waited in vain: it goes on.")


def outcome_seen(job: Job) -> Outcome:
    """How a job that SLURM ended did; a shared file system may show what it knew before."""
    deadline = time.monotonic() + LATE
    while (how := outcome(job.folder)).status == Status.NOT_BEGUN and time.monotonic() < deadline:
        time.sleep(1.0)
        list(job.folder.iterdir())
    return how


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


def arrays(jobs: list[Job]) -> list[list[Job]]:
    """Jobs in parts that can each be one array: they need the same, and are no more than the site takes."""
    most = controller.largest_array() if jobs else 1
    return [group[i : i + most] for group in alike(jobs) for i in range(0, len(group), most)]


def alike(jobs: list[Job]) -> list[list[Job]]:
    """Jobs by what they need."""
    groups: dict[Needs, list[Job]] = {}
    for job in jobs:
        groups.setdefault(Needs.of(job), []).append(job)
    return list(groups.values())
